"""Signatures over records: Ed25519 (RFC 8032) over `b"lianxin/" + domain + b"\\x00" + bytes` (docs/records.md).

The domain is the record's type, so that a signature on a consent is never one on a contract. A signed record is
`{"record": {...}, "signatures": [{"key", "signer", "signature"}, ...]}`; signatures cover the record's canonical bytes.

Who may sign what is not decided here: a verifier passes the public keys that it pinned. Keys of small order, under
which one signature fits many messages, and non-canonical key encodings are refused (RFC 8032, section 5.1.3; Chalkias
et al., Taming the Many EdDSAs, SSR 2020).
"""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, NoReturn, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from lianxin.crypto import canonical
from lianxin.crypto.errors import SignatureRejected

SEED_BYTES = 32
KEY_HEX = 64
SIGNATURE_HEX = 128
_DOMAIN = re.compile(r"[a-z0-9-]{1,64}")
_HEX = re.compile(r"[0-9a-f]*")
_FIELD_PRIME = 2**255 - 19
_ORDER_8_Y = 0x5FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_SMALL_ORDER_Y = {y % _FIELD_PRIME for y in (0, 1, -1, _ORDER_8_Y, -_ORDER_8_Y)}


class Signer(Protocol):
    """What a module that keeps an Ed25519 key must give (PKCS#11: a token with CKM_EDDSA); the key itself stays there."""

    @property
    def public_hex(self) -> str:
        """Return the public key, 64 lower-case hex digits."""

    def sign(self, data: bytes) -> bytes:
        """Return the 64-byte Ed25519 signature on exactly these bytes (RFC 8032, section 5.1.6, not pre-hashed)."""


class SigningKey:
    """An Ed25519 secret key. It has no text, pickle or JSON form; only its public half can be read."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._sign: Callable[[bytes], bytes] = key.sign
        self.public_hex: str = key.public_key().public_bytes_raw().hex()

    @classmethod
    def from_signer(cls, signer: Signer) -> "SigningKey":
        """Return the key that a module keeps; every signature is verified before it is used.

        Raises SignatureRejected, here for a public key that is none, at a use for a signature that does not verify.
        """
        made = cls.__new__(cls)
        made.public_hex, public = signer.public_hex, _public_key(signer.public_hex)

        def sign(data: bytes) -> bytes:
            signature = bytes(signer.sign(data))
            try:
                public.verify(signature, data)
            except (InvalidSignature, ValueError):
                raise SignatureRejected(
                    "the module that keeps this node's key gave a signature that does not verify; see its log"
                ) from None
            return signature

        made._sign = sign
        return made

    @classmethod
    def from_seed(cls, seed: bytes) -> "SigningKey":
        """Return the key of a 32-byte seed (RFC 8032, section 5.1.5). Raises ValueError for another length."""
        if len(seed) != SEED_BYTES:
            raise ValueError(f"a signing key's seed has {SEED_BYTES} bytes, this one {len(seed)}")
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    def __repr__(self) -> str:
        return f"SigningKey(public_hex={self.public_hex!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a SigningKey is not pickled; keep its seed in the party's key file")

    def sign(self, domain: str, data: bytes) -> bytes:
        """Return the 64-byte signature on `data` under `domain`. Raises ValueError for a malformed domain."""
        return self._sign(_tagged(domain, data))

    def sign_note(self, text: bytes) -> bytes:
        """Return the 64-byte signature on a note's text as it is, without a domain (C2SP signed-note, `crypto/notes.py`).

        Raises ValueError for a text with another control character than a line feed: every domain's bytes hold a zero
        byte, so that no signature on a note is one on a record.
        """
        return self._sign(_note_text(text))

    def sign_record(self, record: Mapping[str, Any], signer: str) -> dict[str, str]:
        """Return this key's entry for the record's signature list; `signer` is the id that the verifier looks up."""
        data = _record_bytes(record)
        return {"key": self.public_hex, "signer": signer, "signature": self.sign(record["type"], data).hex()}


def verify(public_hex: str, domain: str, data: bytes, signature: bytes) -> None:
    """Raise SignatureRejected unless `signature` is `public_hex`'s on `data` under `domain`."""
    key = _public_key(public_hex)
    try:
        key.verify(bytes(signature), _tagged(domain, data))
    except (InvalidSignature, ValueError):
        raise SignatureRejected("the signature does not verify under this key and domain") from None


def verify_note(public_hex: str, text: bytes, signature: bytes) -> None:
    """Raise SignatureRejected unless `signature` is `public_hex`'s on a note's text."""
    key = _public_key(public_hex)
    try:
        key.verify(bytes(signature), _note_text(text))
    except (InvalidSignature, ValueError):
        raise SignatureRejected("the signature on a note does not verify under this key") from None


def sign_record(record: Mapping[str, Any], signers: Iterable[tuple[str, SigningKey]]) -> dict[str, Any]:
    """Return the signed record: `record` with one signature for each (signer id, key)."""
    return {"record": dict(record), "signatures": [key.sign_record(record, signer) for signer, key in signers]}


def verify_signed(signed: Mapping[str, Any], keys: Mapping[str, str]) -> dict[str, Any]:
    """Return the record of `signed` when exactly the signers of `keys` (id to public hex) have signed it, each once.

    Raises SignatureRejected when a signature is missing, extra, under another key or wrong.
    """
    record, entries, data = _parts(signed)
    signers = [entry["signer"] for entry in entries]
    if len(signers) != len(set(signers)) or set(signers) != set(keys) or not keys:
        raise SignatureRejected("the signers of a record are not the ones expected; collect one signature of each")
    for entry in entries:
        _verify_entry(record, data, entry, keys[entry["signer"]])
    return record


def verify_by(signed: Mapping[str, Any], public_hex: str) -> dict[str, Any]:
    """Return the record of `signed` when it carries one signature, by `public_hex`; the signer's name is not judged.

    Raises SignatureRejected otherwise.
    """
    record, entries, data = _parts(signed)
    if len(entries) != 1:
        raise SignatureRejected(f"a record that one key signs carries one signature, this one {len(entries)}")
    _verify_entry(record, data, entries[0], public_hex)
    return record


def _verify_entry(record: dict[str, Any], data: bytes, entry: Mapping[str, str], public_hex: str) -> None:
    if entry["key"] != public_hex:
        raise SignatureRejected("a record is signed under another key than the one expected of this signer")
    if len(entry["signature"]) != SIGNATURE_HEX or not _HEX.fullmatch(entry["signature"]):
        raise SignatureRejected(f"a signature is {SIGNATURE_HEX} lower-case hex digits")
    verify(public_hex, record["type"], data, bytes.fromhex(entry["signature"]))


def _parts(signed: Mapping[str, Any]) -> tuple[dict[str, Any], list[dict[str, str]], bytes]:
    if not isinstance(signed, Mapping) or set(signed) != {"record", "signatures"}:
        raise SignatureRejected("a signed record holds `record` and `signatures` and nothing else")
    record, entries = signed["record"], signed["signatures"]
    if not isinstance(record, dict) or not isinstance(entries, list):
        raise SignatureRejected("a signed record holds an object and a list of signatures")
    if not all(_is_entry(entry) for entry in entries):
        raise SignatureRejected("a signature entry holds the texts `key`, `signer` and `signature` and nothing else")
    return record, entries, _record_bytes(record)


def _is_entry(entry: object) -> bool:
    if not isinstance(entry, dict) or set(entry) != {"key", "signer", "signature"}:
        return False
    return all(isinstance(value, str) for value in entry.values())


def _record_bytes(record: Mapping[str, Any]) -> bytes:
    try:
        canonical.check_record(dict(record))
        _check_domain(record["type"])
        return canonical.encode(dict(record))
    except (canonical.EncodingRejected, ValueError):
        raise SignatureRejected("only a canonical record with a type and a version is signed") from None


@lru_cache(maxsize=256)  # a node verifies under the same few keys all the time
def _public_key(public_hex: str) -> Ed25519PublicKey:
    if not isinstance(public_hex, str) or len(public_hex) != KEY_HEX or not _HEX.fullmatch(public_hex):
        raise SignatureRejected(f"a public key is {KEY_HEX} lower-case hex digits")
    raw = bytes.fromhex(public_hex)
    y = int.from_bytes(raw, "little") & (2**255 - 1)
    if y >= _FIELD_PRIME or y in _SMALL_ORDER_Y:
        raise SignatureRejected("a public key is non-canonical or of small order; have its owner make a new one")
    try:
        return Ed25519PublicKey.from_public_bytes(raw)
    except ValueError:
        raise SignatureRejected("a public key is no point of the curve") from None


def _tagged(domain: str, data: bytes) -> bytes:
    _check_domain(domain)
    return b"lianxin/" + domain.encode() + b"\x00" + data


def _note_text(text: bytes) -> bytes:
    if any(byte < 0x20 and byte != 0x0A for byte in text):
        raise ValueError("a note holds no control characters but line feeds")
    return text


def _check_domain(domain: str) -> None:
    if not _DOMAIN.fullmatch(domain):
        raise ValueError("a signature's domain matches [a-z0-9-]{1,64}")
