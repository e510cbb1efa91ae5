"""What came after `peers.json`: the rotations of a node's own keys and of its peers', and peers that were introduced anew.

    identity/rotations/<party>.<number>.json    a signed statement (crypto/rotation.py), the node's own or a peer's
    identity/rotations/<party>.<number>.key     the node's own new key, in clear or sealed, and of TLS `.crt` its certificate
    identity/accepted/<party>.json              who a peer is since it was introduced anew, signed by its node key
    identity/accepted/earlier/<party>.<hash>.json    who it was introduced as before that
    identity/rotations/<party>.<hash>.<number>.json  a statement that follows the introduction of that hash

`peers.json` is never rewritten: what is in force is computed from it and the statements, each verified when it is read, so
that a half-finished rotation is none and a folder of before 0.7 is read as it is. Statements that follow an introduction
bear its hash in their names, so that those of the keys before it are never read as of the new ones.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from lianxin.crypto import canonical, rotation, signing
from lianxin.crypto.errors import CryptoError, SignatureRejected
from lianxin.crypto.rotation import GENESIS, Chain
from lianxin.federation.errors import InputFault
from lianxin.parties.identity_secrets import read_bytes

ROTATIONS, ACCEPTED, EARLIER = "rotations", "accepted", "earlier"
MOST_STATEMENTS = 1000
NAMED_BY = 32  # as many digits of an introduction's hash
_HEX_64 = re.compile(r"[0-9a-f]{64}")
_INTRODUCED = {
    "type": str, "version": int, "party": str, "role": str, "uri": str, "node_key": str, "certificate": str, "number": int,
    "last": str,
}  # fmt: skip


class Introduced(NamedTuple):
    """Who a peer says it is, signed by its node key alone: to be compared with a fingerprint from elsewhere."""

    party: str
    role: str
    uri: str
    node_key: str
    certificate: str
    number: int
    last: str

    @property
    def certificate_sha256(self) -> str:
        """The SHA-256 of the certificate's DER bytes."""
        return fingerprint_of(self.certificate.encode())

    @property
    def hash(self) -> str:
        """The hash of the record, which is also its fingerprint."""
        return canonical.record_hash(self.record())

    def record(self) -> dict[str, Any]:
        """Return the record that is signed."""
        return {"type": "peer-identity", "version": 1, **self._asdict()}


def statement_path(folder: Path, party: str, number: int, ending: str = "json", root: str = "") -> Path:
    """Return where statement `number` of `party`'s chain from `root` on lies, or the key that came with it."""
    chain = f"{party}.{root[:NAMED_BY]}" if root else party
    return folder / ROTATIONS / f"{chain}.{number:04d}.{ending}"


def read_chain(folder: Path, party: str, first: Chain) -> tuple[Chain, list[dict[str, Any]]]:
    """Return a party's chain of keys from `first` on, with its signed statements. Raises InputFault for a broken one."""
    signed: list[dict[str, Any]] = []
    chain = first
    while (path := statement_path(folder, party, chain.number + 1, root=first.root)).exists():
        if len(signed) == MOST_STATEMENTS:
            break
        try:
            one = canonical.decode_fragment(read_bytes(path))
            chain = chain.followed_by(one)
        except CryptoError as fault:
            raise InputFault(f"{path}: {fault}; restore the folder from a copy.") from None
        signed.append(one)
    return chain, signed


def read_introduced(folder: Path) -> Iterator[tuple[Path, Introduced]]:
    """Yield the peers that were introduced anew, each with its file. Raises InputFault for a file that is none."""
    for path in sorted((folder / ACCEPTED).glob("*.json")):
        try:
            yield path, verify_introduced(canonical.decode_fragment(read_bytes(path)))
        except CryptoError as fault:
            raise InputFault(f"{path}: {fault}; restore the folder from a copy.") from None


def verify_introduced(signed: Mapping[str, Any]) -> Introduced:
    """Return who a signed introduction says that its signer is. Raises SignatureRejected for anything else."""
    record = signed.get("record")
    if not isinstance(record, dict) or set(record) != set(_INTRODUCED):
        raise SignatureRejected("what was given is no peer's identity of this version")
    if any(type(record[name]) is not kind for name, kind in _INTRODUCED.items()) or record["type"] != "peer-identity":
        raise SignatureRejected("what was given is no peer's identity of this version")
    if not 0 <= record["number"] < 2**31 or not _HEX_64.fullmatch(record["last"]):
        raise SignatureRejected("what was given is no peer's identity of this version")
    signing.verify_signed(signed, {record["party"]: record["node_key"]})
    return Introduced(**{name: record[name] for name in Introduced._fields})


def first_chain(party: str, certificate_sha256: str, node_key: str, anew: Introduced | None) -> Chain:
    """Return the beginning of a party's chain: as `peers.json` has it, or as it was introduced since."""
    if anew is None:
        return Chain(party, certificate_sha256, node_key, (), 0, GENESIS)
    return Chain(party, anew.certificate_sha256, anew.node_key, (), anew.number, anew.last, anew.hash)


def certificates_of(chain: Chain, first: bytes) -> dict[str, bytes]:
    """Return every certificate of a party in PEM, by its SHA-256; `first` is the one that the chain begins with.

    What a statement brought is written anew from what was read of it: its text may hold more than the one certificate.
    """
    found = {chain.certificate_sha256: first}
    found |= {step.new: pem_of(step.certificate.encode()) for step in chain.steps if step.what == rotation.TLS}
    return found


def pem_of(pem: bytes) -> bytes:
    """Return the first certificate in `pem`, and nothing else. Raises SignatureRejected for what is none."""
    return read_certificate(pem).public_bytes(Encoding.PEM)


def tls_key_of(certificate: x509.Certificate) -> bytes:
    """Return the public key of a certificate as DER bytes (RFC 5280, SubjectPublicKeyInfo).

    Raises SignatureRejected for a key of a kind that is not known here.
    """
    try:
        return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm):
        raise SignatureRejected("a certificate has a public key of a kind that is not known here") from None


def fingerprint_of(pem: bytes) -> str:
    """Return the SHA-256 of a PEM certificate's DER bytes, in hex. Raises SignatureRejected for what is none."""
    return read_certificate(pem).fingerprint(SHA256()).hex()


def read_certificate(pem: bytes) -> x509.Certificate:
    """Return the certificate in `pem`. Raises SignatureRejected for what is none."""
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError:
        raise SignatureRejected("what should be a certificate is none in PEM") from None
