"""What expires at a node, told thirty days ahead: certificates of its own, its peers and the authority, and contracts.

`warnings` is a pure look; `warn` says what it found once a day, for the log, the metrics and `doctor`; `refuse_expired` keeps
a node from serving under a certificate that no peer would take.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509

from lianxin.crypto.errors import CryptoError
from lianxin.crypto.rotation import TLS
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import InputFault
from lianxin.parties.clock import FORMAT
from lianxin.parties.config import NodeConfig
from lianxin.parties.identity import Identity
from lianxin.parties.identity_chain import read_certificate

if TYPE_CHECKING:
    from lianxin.parties.node import Node

AHEAD_DAYS = 30
OWN, PEER, AUTHORITY, CONTRACT = "own certificate", "peer certificate", "authority", "contract"


@dataclass(frozen=True)
class Warning:
    """What expires: `days_left` are whole days, negative once it is over; `remedy` says what to do about it."""

    what: str
    party: str
    not_after: str
    days_left: int
    remedy: str

    def line(self) -> str:
        """Return the one line that a person reads."""
        end = "expired" if self.days_left < 0 else f"expires in {self.days_left} days"
        return f"{self.what} of {self.party} {end} ({self.not_after}): {self.remedy}"


def warnings(config: NodeConfig, identity: Identity, now: str, contracts: Iterable[RunContract] = ()) -> list[Warning]:
    """Return what has expired or does within AHEAD_DAYS days of `now`, the nearest first."""
    found = [one for one in _all(config, identity, now, contracts) if one.days_left < AHEAD_DAYS]
    return sorted(found, key=lambda one: (one.not_after, one.what, one.party))


def _all(config: NodeConfig, identity: Identity, now: str, contracts: Iterable[RunContract]) -> Iterator[Warning]:
    role, party = identity.role, identity.party
    renew = f"rotate it with `lianxin {role} rotate tls FILE` and hand the statement to every peer"
    yield _warning(OWN, party, _end_of(own_certificate(identity)), now, renew)
    for name in sorted(identity.peers):
        certificate = peer_certificate(identity, name)
        ask = f"ask {name} for its rotation and take it with `lianxin {role} accept-rotation`"
        if certificate is not None:
            yield _warning(PEER, name, _end_of(certificate), now, ask)
    authority = _read(identity.authority)
    if authority is not None and not _is_left_behind(identity, now):
        say = "certificates under it end with it: rotate this node's own and take those of the peers"
        yield _warning(AUTHORITY, party, _end_of(authority), now, say)
    for contract in contracts:
        again = "agree on a new one before it ends" if contract.is_standing else "the run ends with it; launch it anew"
        yield _warning(CONTRACT, contract.run, contract.expires_at, now, again)


def _is_left_behind(identity: Identity, now: str) -> bool:
    """Return whether every party has gone over to a certificate of its own, so that the authority matters no more."""
    return all(chain.in_force(TLS, now) != chain.values(TLS)[0] for chain in identity.chains.values())


def _warning(what: str, party: str, not_after: str, now: str, remedy: str) -> Warning:
    left = datetime.strptime(not_after, FORMAT) - datetime.strptime(now, FORMAT)
    return Warning(what, party, not_after, left.days, remedy)


def own_certificate(identity: Identity) -> x509.Certificate:
    """Return the certificate that this node shows. Raises InputFault for a file that is none."""
    certificate = _read_pem(identity.server_tls().pems().certificate)
    if certificate is None:
        raise InputFault(f"{identity.tls_certificate} is no PEM certificate: restore the party's folder.")
    return certificate


def peer_certificate(identity: Identity, party: str) -> x509.Certificate | None:
    """Return the certificate in force of a peer, None where its file is none."""
    fingerprint = identity.peers[party].certificate_sha256
    for step in identity.chains[party].steps if party in identity.chains else ():
        if step.what == TLS and step.new == fingerprint:
            return _read_pem(step.certificate.encode())
    held = identity.pems.get(party)
    if held is not None:
        return _read_pem(held.trusted)
    return _read(identity.pinned / f"{party}.crt")


def _read(path: Path) -> x509.Certificate | None:
    try:
        return _read_pem(path.read_bytes())
    except OSError:
        return None


def _read_pem(pem: bytes) -> x509.Certificate | None:
    try:
        return read_certificate(pem)
    except CryptoError:
        return None


def _end_of(certificate: x509.Certificate) -> str:
    return certificate.not_valid_after_utc.strftime(FORMAT)


def refuse_expired(identity: Identity, now: str) -> None:
    """Raise InputFault where this node's own certificate is not valid at `now`: every peer would turn it away."""
    end = _end_of(own_certificate(identity))
    if now >= end:
        raise InputFault(
            f"the certificate of {identity.party} expired at {end}: rotate it with `lianxin {identity.role} rotate tls FILE`, "
            "hand the statement to every peer, and start the node again"
        )


def warn(node: "Node") -> list[Warning]:
    """Say what expires soon at an open node, and count it under `expiry/…`; return it."""
    from lianxin.parties.key_rotation import contracts_under_way

    found = warnings(node.config, node.identity, node.clock.now(), contracts_under_way(node))
    for name in (OWN, PEER, AUTHORITY, CONTRACT):
        node.counts[f"expiry/{name.replace(' ', '-')}"] = sum(one.what == name for one in found)
    for one in found:
        node.say(one.line(), level="warning")
    return found
