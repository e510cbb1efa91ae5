"""Every key that an identity folder names, in force or not: none of them is taken as a party's new one.

Who stole a TLS key can show the new certificate that was made around it, so that keys are compared, not certificates alone.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from lianxin.crypto import canonical
from lianxin.crypto.errors import CryptoError, SignatureRejected
from lianxin.federation.errors import InputFault
from lianxin.parties.identity_chain import ACCEPTED, EARLIER, ROTATIONS, fingerprint_of, read_certificate, tls_key_of
from lianxin.parties.identity_secrets import read_bytes


class Known(NamedTuple):
    """What a folder names: node keys and certificates' SHA-256 in hex, and the certificates' public keys in DER."""

    node_keys: frozenset[str]
    certificates: frozenset[str]
    tls_keys: frozenset[bytes]


def known_of(folder: Path) -> Known:
    """Return what a folder names of any party, also what was replaced. Raises InputFault where it cannot be read."""
    pems = [read_bytes(path) for path in (folder / "tls.crt", *sorted((folder / "pinned").glob("*.crt")))]
    named: set[str] = set()
    for record in _records(folder):
        pems += [record["certificate"].encode()] if record.get("certificate") else []
        named |= {record[name] for name in ("node_key", "certificate_sha256") if name in record}
        named |= {record["old"], record["new"]} if "old" in record else set()
    shown = [_both(pem) for pem in pems]
    everything = frozenset(named | {one for one, _ in shown})
    return Known(everything, everything, frozenset(key for _, key in shown))


def _both(pem: bytes) -> tuple[str, bytes]:
    try:
        return fingerprint_of(pem), tls_key_of(read_certificate(pem))
    except SignatureRejected as fault:
        raise InputFault(f"a certificate in the identity folder: {fault}; restore the folder from a copy") from None


def _records(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the peers, the statements and the introductions of a folder, also those of chains that ended."""
    yield from canonical.decode(read_bytes(folder / "peers.json"))["peers"]
    places = (folder / ROTATIONS, folder / ACCEPTED, folder / ACCEPTED / EARLIER)
    for path in (path for place in places for path in sorted(place.glob("*.json"))):
        try:
            yield canonical.decode_fragment(read_bytes(path))["record"]
        except (CryptoError, KeyError, TypeError):
            raise InputFault(f"{path} is no signed statement; restore the folder from a copy") from None


__all__ = ["Known", "known_of"]
