"""Whether records of a registry are signed as they have to be, keeping only the registered keys that they need."""

from collections.abc import Iterable, Mapping

from lianxin.crypto.errors import CryptoError
from lianxin.parties import decision
from lianxin.parties.auditor_evidence import Evidence, Record, fits
from lianxin.parties.decision_signers import grantors_of, signers_of

UNFIT = (CryptoError, KeyError, TypeError, ValueError, AttributeError)
_FIRM_KEY = {"subject_key": str, "key": str}


def keys_for(own: Evidence, records: Iterable[Record]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the registered keys of all signers and grantors of these signed records, and what kind of subject each is."""
    needed = {subject for signed in records for subject in _subjects(signed)}
    keys: dict[str, str] = {}
    kinds: dict[str, str] = {}
    for line in own.records["firm_keys"]:
        if fits(line, _FIRM_KEY) and line["subject_key"] in needed:
            keys[line["subject_key"]] = line["key"]
            if isinstance(line.get("kind"), str):
                kinds[line["subject_key"]] = line["kind"]
    return keys, kinds


def _subjects(signed: Record) -> set[str]:
    try:
        record = signed["record"]
        return {one.subject for one in signers_of(record)} | {one.subject for one in grantors_of(record)}
    except UNFIT:
        return set()


def is_signed(signed: Record, keys: Mapping[str, str], kinds: Mapping[str, str]) -> bool:
    """Return whether a record carries the signatures of those whom it names, by the keys that are registered for them."""
    try:
        decision.verify_record(signed, keys, kinds)
    except UNFIT:
        return False
    return True
