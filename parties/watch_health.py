"""Whether a node may be relied on just now, and why not: its store, its clock, its disk, its certificates.

The gRPC health service, `/healthz` beside the metrics, the watchdog of systemd and `watch` all answer by this one judgement.
"""

import hashlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy.exc import SQLAlchemyError

from lianxin.federation.admission import PinnedPeer
from lianxin.federation.errors import LianxinError
from lianxin.parties.clock import FORMAT
from lianxin.parties.key_expiry import peer_certificate

if TYPE_CHECKING:
    from lianxin.parties.identity import Identity
    from lianxin.parties.node import Node

LEAST_FREE_BYTES, LEAST_FREE_PERMILLE = 1 << 30, 50
SOON_DAYS = 30


class Ailment(NamedTuple):
    """What keeps a node from being relied on, and what to do."""

    what: str
    sentence: str


class Certificate(NamedTuple):
    """A certificate that a node uses: whose it is, for what (`own`, `peer`, `authority`), and when it ends (UTC)."""

    party: str
    use: str
    not_before: datetime
    not_after: datetime

    def days_left(self, now: datetime) -> int:
        """Return the whole days until it ends, negative after."""
        return (self.not_after - now).days


def ailments(node: "Node") -> list[Ailment]:
    """Return everything that keeps the node from serving; none when it is well."""
    return [*_store(node), *_clock(node), *_disk(node.config.state), *_certificates(node)]


def _store(node: "Node") -> Iterator[Ailment]:
    try:
        if node.store.next_position() < node.ledger.size:
            yield Ailment(
                "store", "the store has lost leaves that this node wrote; stop it and restore the newest copy"
            )
    except (LianxinError, SQLAlchemyError, OSError):
        yield Ailment(
            "store", "the store cannot be read; see that its disk or database works, then start the node again"
        )


def _clock(node: "Node") -> Iterator[Ailment]:
    if skew := node.clock.fault_s():
        yield Ailment("clock", f"the machine's clock is {skew} s off (rule T01); set it right and start the node again")


def disk_of(folder: Path) -> tuple[int, int]:
    """Return the bytes that are free for this process where `folder` lies, and the bytes of the whole."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize


def is_short(free: int, whole: int) -> bool:
    """Return whether so little is free that no run should begin: under 1 GiB and under 5 %."""
    return free < LEAST_FREE_BYTES and free * 1000 < LEAST_FREE_PERMILLE * whole


def _disk(state: Path) -> Iterator[Ailment]:
    free, whole = disk_of(state)
    if is_short(free, whole):
        yield Ailment("disk", f"{free >> 20} MiB are free for the state folder; make room, then go on")


def certificates_of(identity: "Identity") -> list[Certificate]:
    """Return the certificates in an identity folder that can be read: its own, its authority's, its peers'."""
    files = [(identity.party, "own", identity.tls_certificate), ("", "authority", identity.authority)]
    found = [one for party, use, path in files if (one := _read(party, use, path)) is not None]
    peers = [(peer, peer_certificate(identity, peer)) for peer in sorted(identity.peers)]
    return found + [Certificate(name, "peer", x.not_valid_before_utc, x.not_valid_after_utc) for name, x in peers if x]


def _read(party: str, use: str, path: Path) -> Certificate | None:
    try:
        found = x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError):
        return None
    return Certificate(party, use, found.not_valid_before_utc, found.not_valid_after_utc)


def own_pin(identity: "Identity") -> dict[str, PinnedPeer]:
    """Return the party's own certificate as a pin by its URI: its operator's probe shows it to the health service."""
    try:
        found = x509.load_pem_x509_certificate(identity.tls_certificate.read_bytes())
    except (OSError, ValueError):
        return {}
    digest = hashlib.sha256(found.public_bytes(Encoding.DER)).hexdigest()
    return {identity.uri: PinnedPeer(identity.party, digest)}


def _certificates(node: "Node") -> Iterator[Ailment]:
    now = datetime.strptime(node.clock.now(), FORMAT).replace(tzinfo=UTC)
    if node.config.simulation is not None:
        return  # its clock stands still; its certificates are of the day when it was laid out
    for one in certificates_of(node.identity):
        if one.use == "own" and not one.not_before <= now < one.not_after:
            yield Ailment(
                "certificate",
                "this node's certificate is not valid now; make a new one (docs/keys.md)",
            )
