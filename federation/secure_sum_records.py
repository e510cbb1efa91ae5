"""The signed records of a secure sum: keys, shares, sets and openings, each bound to (run, contract, label, party).

Each is canonical JSON under the bank's node key (docs/records.md). A record's own entries are listed in `ENTRIES`; one
with others, or of another sum, is refused with the rule of its stage.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from lianxin.crypto import canonical
from lianxin.crypto.errors import CryptoError
from lianxin.crypto.signing import SigningKey, sign_record, verify_signed
from lianxin.federation.secure_sum_terms import SumCheated, SumTerms

KEY, SHARE, SET, OPENING = "secure-sum-key", "secure-sum-share", "secure-sum-set", "secure-sum-opening"
RULES = {KEY: "SS02", SHARE: "SS03", SET: "SS07", OPENING: "SS09"}
ENTRIES: Mapping[str, Mapping[str, type]] = {
    KEY: {"key": str},
    SHARE: {"recipient": str, "keys": str, "self": str, "share": str, "pair": str},
    SET: {"view": str, "included": list},
    OPENING: {"included": list, "self": dict, "pairs": dict, "backups": dict},
}
_HEX = re.compile(r"[0-9a-f]{64}")
_LENGTH_BYTES = 4


def sign_as(terms: SumTerms, kind: str, party: str, signing_key: SigningKey, /, **entries: Any) -> str:
    """Return the text of a signed record of this sum."""
    record = {**_head(terms, kind, party), **entries}
    return canonical.encode(sign_record(record, [(party, signing_key)])).decode()


def _head(terms: SumTerms, kind: str, party: str) -> dict[str, Any]:
    return {
        "type": kind, "version": 1, "run": terms.run, "contract": terms.contract_hash, "label": terms.label,
        "party": party,
    }  # fmt: skip


def read_as(terms: SumTerms, kind: str, text: object, party: str) -> dict[str, Any]:
    """Return the record that `party` signed. Raises SumCheated with the stage's rule for anything else."""
    try:
        signed = canonical.decode_fragment(str(text).encode())
        record = verify_signed(signed, {party: terms.node_keys[party]})
    except (CryptoError, KeyError, UnicodeError):
        raise SumCheated(RULES[kind], "sent a record that its node key did not sign as it is", party) from None
    _check(terms, kind, record, party)
    return record


def _check(terms: SumTerms, kind: str, record: Mapping[str, Any], party: str) -> None:
    head, entries = _head(terms, kind, party), ENTRIES[kind]
    if any(record.get(name) != value for name, value in head.items()):
        raise SumCheated(RULES[kind], "sent a record of another sum, stage or party", party)
    if set(record) != {*head, *entries} or any(type(record[name]) is not kept for name, kept in entries.items()):
        raise SumCheated(RULES[kind], "sent a record with other entries than its kind has", party)


def signer_of(terms: SumTerms, kind: str, text: object) -> str:
    """Return which bank of this sum a record says that it is of; its signature is not yet checked."""
    try:
        party = canonical.decode_fragment(str(text).encode())["record"]["party"]
    except (CryptoError, KeyError, TypeError, UnicodeError):
        party = None
    if not isinstance(party, str) or party not in terms.banks:
        raise SumCheated(RULES[kind], "passed on a record of no bank of this sum")
    return party


def read_all(terms: SumTerms, kind: str, texts: Iterable[object]) -> dict[str, dict[str, Any]]:
    """Return the records of different banks by bank. Raises SumCheated where one is wrong or a bank comes twice."""
    records: dict[str, dict[str, Any]] = {}
    for text in texts:
        party = signer_of(terms, kind, text)
        if party in records:
            raise SumCheated(RULES[kind], f"passed on two records of {party}")
        records[party] = read_as(terms, kind, text, party)
    return records


def secret_of(said: object, rule: str, party: str) -> bytes:
    """Return the 32 bytes that a record holds as hex. Raises SumCheated where it is none."""
    if not isinstance(said, str) or not _HEX.fullmatch(said):
        raise SumCheated(rule, "sent a secret that is not 32 bytes", party)
    return bytes.fromhex(said)


def join_box(record: str, sealed: bytes) -> bytes:
    """Return what goes to one recipient: the signed share record and the sealed shares."""
    data = record.encode()
    return len(data).to_bytes(_LENGTH_BYTES, "big") + data + sealed


def part_box(box: object, party: str) -> tuple[str, bytes]:
    """Return (record, sealed shares) of a box. Raises SumCheated (SS03) where it is none."""
    data = bytes(box) if isinstance(box, bytes | bytearray | memoryview) else b""
    end = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "big")
    try:
        if not _LENGTH_BYTES < end < len(data):
            raise ValueError
        return data[_LENGTH_BYTES:end].decode(), data[end:]
    except ValueError:
        raise SumCheated("SS03", "sent a box that is none", party) from None


def check_names(terms: SumTerms, names: object, among: Iterable[str], rule: str, party: str = "") -> tuple[str, ...]:
    """Return `names` as they are: distinct, sorted, within `among` and at least the threshold.

    Raises SumCheated with `rule` otherwise.
    """
    listed = tuple(names) if isinstance(names, list | tuple) else ()
    if not all(isinstance(name, str) for name in listed) or list(listed) != sorted(set(listed)):
        raise SumCheated(rule, "sent a set of banks that is not sorted and distinct", party)
    if not set(listed) <= set(among):
        raise SumCheated(rule, "sent a set with a bank that did not come through the stage before", party)
    if len(listed) < terms.threshold:
        raise SumCheated(rule, f"sent a set of {len(listed)} banks where {terms.threshold} are needed", party)
    return listed
