"""What a firm does at its own desk: keep a key, read a request in plain words, sign it, withdraw, pause, refuse.

A firm's key is an Ed25519 seed of 32 bytes, in hex in a file of mode 600 that the firm alone can read. Signing is the
firm's own act (R36, R37): what would be given is said first, and nothing is ticked beforehand. A consent of several
grantors goes from one to the next, each adding its signature; it is whole when all have signed.
"""

import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lianxin.crypto import canonical
from lianxin.crypto.errors import CryptoError
from lianxin.crypto.randomness import SEED_BYTES
from lianxin.crypto.signing import SigningKey, verify_signed
from lianxin.federation.errors import InputFault
from lianxin.parties.consent_records import answer_request, make_grantor, make_pause, make_refusal, make_revocation
from lianxin.parties.consent_schema import check_any_record, check_consent_record
from lianxin.parties.decision import PURPOSES
from lianxin.parties.identity import Identity

MODES_IN_WORDS = {
    "COMPUTE_ONLY": "used encrypted in joint computations; no value of it is shown to the recipient",
    "SCORE_ONLY": "used encrypted, and a score made of it is given to the recipient",
    "DESENSITISED": "given to the recipient in a coarsened form",
    "PLAINTEXT": "given to the recipient as it is",
}
_MOST_BYTES = 1 << 20


def make_firm_key(path: Path, seed: bytes) -> str:
    """Write a firm's secret key, readable by its owner alone, and return the public key in hex.

    Raises InputFault when the file is there already.
    """
    key = SigningKey.from_seed(seed)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError:
        raise InputFault(f"{path} exists already or cannot be written; a key is never written over") from None
    with os.fdopen(handle, "w") as file:
        file.write(seed.hex() + "\n")
        file.flush()
        os.fsync(file.fileno())
    return key.public_hex


def load_firm_key(path: Path) -> SigningKey:
    """Return the key in a firm's key file. Raises InputFault when it is missing, open to others or malformed."""
    try:
        mode, text = path.stat().st_mode, path.read_bytes()[:_MOST_BYTES].decode("ascii", "replace").strip()
    except OSError:
        raise InputFault(f"{path} cannot be read; `lianxin consent key --out FILE` makes a key") from None
    if stat.S_IMODE(mode) & 0o077:
        raise InputFault(f"{path} can be read by others; set its mode to 600")
    try:
        return SigningKey.from_seed(bytes.fromhex(text) if len(text) == 2 * SEED_BYTES else b"")
    except ValueError:
        raise InputFault(f"{path} does not hold {SEED_BYTES} bytes in hex; restore it") from None


def read_signed(path: Path) -> dict[str, Any]:
    """Return the one signed record in a file. Raises InputFault when it is none of docs/records.md."""
    found = read_all_signed(path)
    if len(found) > 1:
        raise InputFault(f"{path} holds {len(found)} records; name a file with one")
    return found[0]


def read_all_signed(path: Path) -> list[dict[str, Any]]:
    """Return the signed records in a file, a line each and at least one. Raises InputFault for anything else."""
    try:
        with path.open("rb") as file:
            lines = file.read(_MOST_BYTES).rstrip(b"\n").split(b"\n")
        return [_checked_line(line) for line in lines]
    except OSError:
        raise InputFault(f"{path} cannot be read; check the path") from None
    except (CryptoError, KeyError, TypeError) as fault:
        why = str(fault).rstrip(".") if isinstance(fault, CryptoError) else "it is no signed record"
        raise InputFault(f"{path}: {why}; ask whoever made the file for a new one") from None


def _checked_line(line: bytes) -> dict[str, Any]:
    signed = canonical.decode_fragment(line)
    check_any_record(signed["record"])
    if set(signed) != {"record", "signatures"} or not isinstance(signed["signatures"], list):
        raise KeyError
    return signed


def write_signed(path: Path, *signed: Mapping[str, Any]) -> None:
    """Write signed records, a line each, whole or not at all. Raises InputFault when the file cannot be written."""
    draft = path.with_name(path.name + ".new")
    try:
        draft.write_bytes(b"".join(canonical.encode(dict(one)) + b"\n" for one in signed))
        draft.replace(path)
    except OSError:
        raise InputFault(f"{path} cannot be written; check the folder") from None


def in_words(record: Mapping[str, Any]) -> list[str]:
    """Return what a request asks for, or a consent gives, in plain sentences for the person who signs."""
    limit = f"at most {record['max_uses']} times" if "max_uses" in record else "any number of times"
    paced = f"{record.get('frequency', '')}: one use for each such period that has begun, unused ones add up"
    often = "once" if record["fetch"] == "ONETIME" else paced
    lines = [
        f"{record['recipient']} would receive from {record['provider']}: {', '.join(record['fields'])}",
        f"  how: {MODES_IN_WORDS[record['mode']]}",
        f"  what for: {PURPOSES[record['purpose']].title} ({record['purpose']}), and nothing else",
        f"  when: from {record['not_before']} to {record['expires_at']}, {often}, {limit}",
        f"  kept by the recipient for {record['data_life_days']} days; never passed on",
    ]
    told = {"necessity_text": "why it is needed", "impact_text": "what it means for you"}
    lines += [f"  {words}: {record[name]}" for name, words in told.items() if name in record]
    notice = record.get("notice", {})
    return [*lines, *(f"  notice, {part}: {notice[part]}" for part in ("who", "method", "kinds", "rights") if notice)]


def checked_request(signed: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request whose requester signed it with the key that it names. Raises InputFault for anything else."""
    record = signed["record"]
    if record["type"] != "consent-request":
        raise InputFault("the file holds no consent request; name the file that the provider gave you")
    try:
        return verify_signed(signed, {record["requester"]: record["key"]})
    except CryptoError:
        raise InputFault(
            "the request is not signed by the party that it names; ask the provider for it again"
        ) from None


def give(
    request: Mapping[str, Any], key: SigningKey, now: str, *, is_separate: bool, is_written: bool
) -> dict[str, Any]:
    """Return the consent that gives what `request` asks for, signed by the firm's `key`; persons it names sign after."""
    first = make_grantor(request["subject_key"], request["subject_type"], key.public_hex)
    persons = [make_grantor(one["subject_key"], "NP", one["key"], one["role"]) for one in request.get("persons", ())]
    record = answer_request(request, [first, *persons], now, separate_consent=is_separate, written=is_written)
    return add_signature({"record": record, "signatures": []}, key)


def add_signature(signed: Mapping[str, Any], key: SigningKey) -> dict[str, Any]:
    """Return the consent with this grantor's signature too, in the grantors' order. Raises InputFault for no grantor."""
    record = signed["record"]
    check_consent_record(record)
    if record["version"] == 1:
        raise InputFault("a consent of version 1 has one signer and is signed already")
    subjects = {one["key"]: one["subject_key"] for one in record["grantors"]}
    if key.public_hex not in subjects:
        raise InputFault(
            "the key is of none of this consent's grantors; use the key that is registered at the provider"
        )
    entries = {entry["key"]: entry for entry in signed["signatures"]}
    entries[key.public_hex] = key.sign_record(record, subjects[key.public_hex])
    return {"record": record, "signatures": [entries[name] for name in subjects if name in entries]}


def missing_signatures(signed: Mapping[str, Any]) -> int:
    """Return how many grantors have still to sign."""
    return len(signed["record"].get("grantors", [0])) - len(signed["signatures"])


def attest(
    request: Mapping[str, Any], identity: Identity, evidence: bytes, method: str, now: str, *,
    is_separate: bool, is_written: bool,
) -> dict[str, Any]:  # fmt: skip
    """Return the consent that an institution attests: it has verified the firm's electronic signature elsewhere.

    `evidence` is what it keeps of that; the record has its SHA-256. The institution answers for it (R37).
    """
    if identity.party == request["recipient"]:
        raise InputFault(
            "an institution attests no consent of which it is the recipient (R37); have another one attest it"
        )
    key, digest = identity.signing_key, hashlib.sha256(evidence).hexdigest()
    proof = {"method": method, "verifier": identity.party, "result": "passed", "time": now, "evidence_digest": digest}
    named = {"institution": identity.party, "key": key.public_hex, "method": method, "time": now}
    first = make_grantor(request["subject_key"], request["subject_type"], key.public_hex, identity_proof=proof)
    record = answer_request(
        request, [first], now, separate_consent=is_separate, written=is_written,
        attestation=named | {"evidence_digest": digest},
    )  # fmt: skip
    return {"record": record, "signatures": [key.sign_record(record, identity.party)]}


def act(what: str, record: Mapping[str, Any], key: SigningKey, now: str) -> dict[str, Any]:
    """Return the signed revocation, pause, resume or refusal of what a consent or request file names, by this key."""
    grantors = record.get("grantors", ())
    subject = next((one["subject_key"] for one in grantors if one["key"] == key.public_hex), record["subject_key"])
    named = {"consent_id": record["consent_id"], "subject_key": subject, "signer_key": key.public_hex}
    if what == "revocation":
        made = make_revocation(revoked_at=now, **named)
    elif what == "refusal":
        made = make_refusal(at=now, recipient=record["recipient"], purpose=record["purpose"], **named)
    else:
        made = make_pause(is_pause=what == "pause", at=now, **named)
    return {"record": made, "signatures": [key.sign_record(made, subject)]}
