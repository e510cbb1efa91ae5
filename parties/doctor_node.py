"""One node, by its file: configuration, identity, certificates, state, store, clock, table, ports and peers."""

import errno
import os
import socket
import ssl
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from lianxin.federation.errors import LianxinError
from lianxin.federation.listening import bind
from lianxin.parties.boundary_clock import TOLERANCE_S, newest_time, seconds_between
from lianxin.parties.clock import SystemClock
from lianxin.parties.config import KEY_FILE, NodeConfig, load_node
from lianxin.parties.control import ask
from lianxin.parties.doctor import FAIL, OK, WARN, Line, each_once, guarded
from lianxin.parties.doctor_table import look_at_table
from lianxin.parties.identity import Identity
from lianxin.parties.identity_of import identity_of
from lianxin.parties.keys import load_protection
from lianxin.parties.subject_key import SUBJECT_KEY_FILE, read_subject_key
from lianxin.parties.watch_health import SOON_DAYS, certificates_of, disk_of, is_short

if TYPE_CHECKING:
    from lianxin.parties.store import Store

REACH_S = 3.0
MOST_LEAVES = 200_000
_AGAIN = "see that its files can be read by this user"


def look_at_node(path: Path) -> list[Line]:
    """Return a line for each thing of the node whose configuration is `path`; a broken one has a line for each mistake."""
    try:
        config = load_node(path)
    except LianxinError as fault:
        lines = getattr(fault, "lines", [str(fault)])
        return [Line("configuration", FAIL, one) for one in (lines[1:] if len(lines) > 1 else lines)]
    found = [Line("configuration", OK, f"{path} is a {config.role}'s, {config.profile}")]
    is_up = is_running(config)
    looks = (
        ("identity", lambda: _identity(config)), ("keys", lambda: _keys(config)),
        ("certificates", lambda: _certificates(config)), ("state", lambda: _state(config, is_up)),
        ("disk", lambda: _disk(config)), ("store", lambda: _store(config)), ("table", lambda: look_at_table(config)),
        ("port", lambda: _ports(config, is_up)), ("peers", lambda: _peers(config)),
    )  # fmt: skip
    found += (line for what, look in looks for line in guarded(what, look, _AGAIN))
    return each_once(found)


def is_running(config: NodeConfig) -> bool:
    """Return whether a node answers on the control socket of this configuration."""
    try:
        ask(config.state, {"do": "status", "from": 2**53}, REACH_S)
    except LianxinError:
        return False
    return True


def _identity(config: NodeConfig) -> Iterator[Line]:
    identity = identity_of(config)
    loose = [path.name for path in sorted(config.identity.glob("*.key")) if path.stat().st_mode & 0o077]
    others = [path.name for path in sorted(config.identity.glob("*.key")) if path.stat().st_uid != os.getuid()]
    if identity.role != config.role:
        yield Line(
            "identity", FAIL, f"these are the keys of a {identity.role}", "name the identity folder of this party"
        )
    elif loose:
        yield Line("identity", FAIL, f"{', '.join(loose)} can be read by others", "set the mode of each to 600")
    elif others and os.getuid():
        yield Line(
            "identity", WARN, f"{', '.join(others)} belong to another user", "run the node as the owner of its keys"
        )
    else:
        yield Line("identity", OK, f"{identity.party}, {len(identity.peers)} pinned peers")
    mode = stat.S_IMODE(config.identity.stat().st_mode)
    if mode & 0o077:
        yield Line("identity", WARN, f"others may look into {config.identity}", "set its mode to 700")


def _keys(config: NodeConfig) -> Iterator[Line]:
    read_subject_key(config.identity / SUBJECT_KEY_FILE)
    place = config.identity / KEY_FILE
    if config.keys is None and not place.exists() and config.profile == "trial":
        yield Line("keys", OK, f"{place} is made at the first start")
        return
    load_protection(config)
    yield Line("keys", OK, "saved keys can be opened and sealed")


def _certificates(config: NodeConfig) -> Iterator[Line]:
    now = datetime.now(UTC)
    for one in certificates_of(identity_of(config)):
        days, name = one.days_left(now), f"the {one.use} certificate" + (f" of {one.party}" if one.party else "")
        if now < one.not_before:
            yield Line(
                "certificates", FAIL, f"{name} begins on {one.not_before:%Y-%m-%d}", "set the machine's clock right"
            )
        elif days < 0:
            yield Line(
                "certificates", FAIL, f"{name} ended on {one.not_after:%Y-%m-%d}", "make a new one (docs/keys.md)"
            )
        elif days <= SOON_DAYS:
            yield Line(
                "certificates", WARN, f"{name} ends in {days} days", "make and announce the next one (docs/keys.md)"
            )
        elif one.use == "own":
            yield Line("certificates", OK, f"{name} has {days} days left")


def _state(config: NodeConfig, is_up: bool) -> Iterator[Line]:
    if not config.state.exists():
        yield Line("state", OK, f"{config.state} is made at the first start")
        return
    loose = stat.S_IMODE(config.state.stat().st_mode) & 0o077
    if not os.access(config.state, os.W_OK | os.X_OK):
        yield Line("state", FAIL, f"{config.state} cannot be written", "give it to the user who runs the node")
    elif loose:
        yield Line("state", WARN, f"others may look into {config.state}", "set its mode to 700")
    else:
        yield Line("state", OK, f"{config.state}; the node {'is running' if is_up else 'is not running'}")


def _disk(config: NodeConfig) -> Iterator[Line]:
    place = next(one for one in (config.state, *config.state.parents) if one.exists())
    free, whole = disk_of(place)
    unit, size = ("GiB", 1 << 30) if whole >= 10 << 30 else ("MiB", 1 << 20)
    found = f"{free / size:.1f} of {whole / size:.1f} {unit} free"
    if is_short(free, whole):
        yield Line("disk", FAIL, found, "make room, or move the state folder: runs are refused")
    elif free < 5 << 30:
        yield Line("disk", WARN, found, "make room before the next long run")
    else:
        yield Line("disk", OK, found)


def _store(config: NodeConfig) -> Iterator[Line]:
    from lianxin.parties.consent_high_water import FILE, read_mark
    from lianxin.parties.store_open import open_store, store_file

    if not config.store.url and not store_file(config).exists():
        yield Line("store", OK, "it is made at the first start")
        return
    store = open_store(config, read_only=True)
    try:
        count = store.next_position()
        mark = read_mark(config.state / FILE)
        if mark is not None and (mark.ledger_size > count or mark.epoch > store.registry_epoch()):
            said = f"it has {count} leaves and the mark beside it says {mark.ledger_size}: an older copy was put back"
            yield Line("store", FAIL, said, "restore the newest copy")
        else:
            yield from _head(config, store, count)
        yield _clock(config, store)
    finally:
        store.close()


def _head(config: NodeConfig, store: "Store", count: int) -> Iterator[Line]:
    """Hold the ledger against its last signed head; a long one by its size alone."""
    from lianxin.crypto import canonical
    from lianxin.crypto.frontier import Frontier

    identity, data = identity_of(config), store.last_checkpoint()
    if data is None:
        yield Line("store", OK if not count else WARN, f"{count} leaves and no signed head yet")
        return
    keys = identity.ledger_keys()  # a head stands under the keys before, too
    head = keys.head_of(canonical.decode_fragment(data), identity.party)
    said = f"{count} leaves, the head over {head.size} signed"
    if head.size > count:
        yield Line("store", FAIL, said, "leaves were lost; restore the newest copy")
    elif head.size > MOST_LEAVES:
        yield Line("store", OK, f"{said}; its root is compared when the node starts")
    else:
        frontier = Frontier()
        for leaf in store.leaves(0, head.size):
            frontier.append(leaf)
        same = frontier.root() == head.root
        yield Line("store", OK if same else FAIL, said + (" and its root holds" if same else ", whose root is another"),
                   "" if same else "leaves were changed; restore the newest copy")  # fmt: skip


def _clock(config: NodeConfig, store: "Store") -> Line:
    newest, now = newest_time(store), SystemClock().now()
    behind = seconds_between(now, newest) if newest else 0
    if config.simulation is not None:
        return Line("clock", OK, "a trial's clock stands still")
    if behind > TOLERANCE_S:
        return Line(
            "clock", FAIL, f"it is {behind} s behind the ledger", "set it right; the gate decides nothing (rule T01)"
        )
    return Line("clock", OK, f"{now}, not behind the ledger")


def _ports(config: NodeConfig, is_up: bool) -> Iterator[Line]:
    for key, address in (("listen", config.listen), ("metrics", config.watch.metrics)):
        if not address or (key == "listen" and config.role != "platform"):
            continue
        host, _, port = address.rpartition(":")
        fault = _refused(host.strip("[]"), int(port))
        if fault is None:
            yield Line("port", OK, f"{address} ({key}) is free")
        elif is_up:
            yield Line("port", OK, f"{address} ({key}) is in use while this node runs")
        elif fault.errno != errno.EADDRINUSE:
            said = f"{address} ({key}) cannot be listened on ({fault.strerror})"
            yield Line("port", FAIL, said, f"give {key} an address and a port of this machine")
        else:
            yield Line(
                "port", FAIL, f"{address} ({key}) is taken by another program", f"stop it, or choose another {key}"
            )


def _refused(host: str, port: int) -> OSError | None:
    """Return why nothing can listen there, None where something can."""
    try:
        bind(host, port)
    except OSError as fault:
        return fault
    return None


def _peers(config: NodeConfig) -> Iterator[Line]:
    if config.role == "platform":
        yield Line("peers", OK, "banks dial this node; `lianxin platform watch` shows who is connected")
        return
    identity = identity_of(config)
    (name,) = [peer.party for peer in identity.peers.values() if peer.role == "platform"]
    yield reached(identity, name, config.platform_address or "")


def reached(identity: Identity, name: str, address: str) -> Line:
    """Return whether `name` answers at `address` within 3 seconds, by TLS 1.3, with the certificate that is pinned."""
    host, _, port = address.rpartition(":")
    tls = identity.client_tls(name)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(tls.pinned)
    context.set_alpn_protocols(["h2"])
    try:
        road = socket.create_connection((host.strip("[]"), int(port)), REACH_S)
        with road, context.wrap_socket(road, server_hostname=tls.server_name):
            return Line("peers", OK, f"{name} answers at {address} with its pinned certificate")
    except ssl.SSLCertVerificationError:
        said = f"who answers at {address} shows another certificate than the pinned one of {name}"
        return Line("peers", FAIL, said, "compare fingerprints with its operator")
    except ssl.SSLError:
        return Line("peers", FAIL, f"who answers at {address} speaks no TLS 1.3", "check platform_address")
    except OSError:
        remedy = "check the address and the firewall; the bank dials until it answers"
        return Line("peers", WARN, f"{name} does not answer at {address}", remedy)
