"""The figures by which a node is watched: one list for the metrics page, the control socket and the screen.

Labels are names that this program or the network gave: party ids, rules, states, kinds. No firm, no run's name, no value.
"""

import logging
import os
import platform as machine
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa

from lianxin.crypto import canonical, notes
from lianxin.parties import store_schema as schema
from lianxin.parties.boundary_clock import seconds_between
from lianxin.parties.clock import after
from lianxin.parties.decision import Registry
from lianxin.parties.ledger_witness import TIME, cosigners, note_of
from lianxin.parties.watch_health import ailments, certificates_of, disk_of

if TYPE_CHECKING:
    from lianxin.parties.node import Node
    from lianxin.parties.watch_tail import Tail

COUNTER, GAUGE = "counter", "gauge"
_SOME_CHECKPOINTS, _MINUTE = 64, len("2026-01-01T00:00")
_QUOTAS = {"quota": "queries", "field-quota": "field_queries", "split-quota": "split_bits", "score-quota": "scores"}
Labels = tuple[tuple[str, str], ...]


class Figure(NamedTuple):
    """One metric: its name with the unit in it, what it says, and its samples by labels. A counter's name ends in _total."""

    name: str
    help: str
    samples: Mapping[Labels, float | int]

    @property
    def kind(self) -> str:
        """Whether it only grows or goes up and down."""
        return COUNTER if self.name.endswith("_total") else GAUGE


class Watched(NamedTuple):
    """What figures are taken of: the served node, its counts, and when it was started (seconds since 1970)."""

    served: Any
    tail: "Tail"
    started: float
    conversations: Callable[[], int]


def figures(watched: Watched) -> list[Figure]:
    """Return every figure of now. What cannot be read just then is left out, counted as `watch/unread` and logged."""
    found: list[Figure] = []
    for group in (_process, _life, _runs, _road, _ledger, _consents, _limits, _stock):
        try:
            found += group(watched)
        except Exception:  # a node is not to fail, or be blind, for one figure of it
            watched.served.node.counts["watch/unread"] += 1
            logging.getLogger("lianxin").exception("figures cannot be read: %s", group.__name__)
    return found


def _one(name: str, text: str, value: float | int) -> Figure:
    return Figure(name, text, {(): value})


def _by(name: str, text: str, label: str, values: Mapping[str, float | int]) -> Figure:
    return Figure(name, text, {((label, key),): value for key, value in sorted(values.items())})


def _process(watched: Watched) -> Iterator[Figure]:
    node = watched.served.node
    named = (("party", node.party), ("python", machine.python_version()), ("role", node.config.role))
    info: Labels = (*named, ("version", metadata.version("lianxin")))
    yield Figure("lianxin_info", "The program that this node runs; always 1.", {info: 1})
    yield _one("lianxin_start_time_seconds", "When the node was started, seconds since 1970.", watched.started)
    yield _one("lianxin_uptime_seconds", "For how long the node has run.", max(0.0, time.time() - watched.started))
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    yield _one("lianxin_resident_memory_bytes", "Memory of the node's own process.", resident)
    yield _one("lianxin_open_files", "Files and sockets that the process has open.", len(os.listdir("/proc/self/fd")))
    spent = os.times()
    yield _one("lianxin_cpu_seconds_total", "Processor time of the process and its workers.", sum(spent[:4]))


def _life(watched: Watched) -> Iterator[Figure]:
    node = watched.served.node
    ill = {one.what for one in ailments(node)}
    well = {what: int(what not in ill) for what in ("store", "clock", "disk", "certificate")}
    yield _by(
        "lianxin_healthy",
        "1 where nothing is wrong with it, 0 otherwise.",
        "what",
        well,
    )
    free, whole = disk_of(node.config.state)
    yield _one("lianxin_disk_free_bytes", "Room for the state folder.", free)
    yield _one("lianxin_disk_size_bytes", "Size of the disk of the state folder.", whole)
    kept = [p.stat().st_size for p in node.config.state.glob("store.sqlite*")]
    yield _one("lianxin_store_size_bytes", "Size of the store's files in the state folder.", sum(kept))
    now = datetime.now(UTC)
    days: dict[Labels, int] = {
        (("party", c.party), ("use", c.use)): c.days_left(now) for c in certificates_of(node.identity)
    }
    yield Figure("lianxin_certificate_left_days", "Days until a certificate ends.", days)
    yield _by("lianxin_events_total", "What happened to this node, by its name.", "event", dict(node.counts))


def _runs(watched: Watched) -> Iterator[Figure]:
    served, tail = watched.served, watched.tail
    with served.node.store.reading() as connection:
        query = sa.select(schema.runs.c.state, sa.func.count()).group_by(schema.runs.c.state)
        states = {state: count for state, count in connection.execute(query)}
    yield _by("lianxin_runs", "Runs and agreements that the store knows, by state.", "state", states)
    pending = len(getattr(served, "pending", ()))
    yield _one("lianxin_approvals_waiting", "Proposals that wait for a person here.", pending)
    yield _by("lianxin_run_events_total", "Contract leaves since the start, by event.", "event", tail.contracts)
    yield _by("lianxin_run_phase_seconds_total", "Time in each phase of runs led here.", "phase", tail.phase_s)


def _road(watched: Watched) -> Iterator[Figure]:
    node = watched.served.node
    yield _one("lianxin_conversations_open", "Conversations with peers that are open.", watched.conversations())
    sizes = {way: node.counts[f"bytes/{way}"] for way in ("in", "out")}
    yield _by("lianxin_message_bytes_total", "Bytes of messages that crossed, by direction.", "direction", sizes)
    counts = {way: node.counts[f"envelopes/{way}"] for way in ("in", "out")}
    yield _by("lianxin_envelopes_total", "Envelopes that crossed, by direction.", "direction", counts)
    yield _by("lianxin_peer_connected", "1 while the road to the peer stands.", "peer", _connected(watched.served))
    now = time.monotonic()
    ages = {peer: round(now - at, 3) for peer, at in list(node.heard_at.items())}
    yield _by("lianxin_peer_heard_age_seconds", "Since the peer was heard, if only by its pings.", "peer", ages)


def _connected(served: Any) -> dict[str, int]:
    """Return 1 or 0 by peer: at a platform for each bank by its lobby, at a bank for the platform."""
    road = getattr(served, "road", None)
    if road is not None:
        return {road.peer: int(road.is_up)}
    lobby: Mapping[str, Any] = dict(getattr(served, "lobby", {}))
    banks = [peer for peer, one in served.node.identity.peers.items() if one.role == "bank"]
    return {bank: int(bank in lobby and not lobby[bank].channel.is_cut()) for bank in banks}


def _ledger(watched: Watched) -> Iterator[Figure]:
    node, tail = watched.served.node, watched.tail
    yield _one("lianxin_ledger_leaves", "Leaves in the ledger.", node.ledger.size)
    yield _by("lianxin_leaves_total", "Leaves written since the start, by kind.", "kind", tail.leaves)
    gate: dict[Labels, int] = {
        (("decision", one), ("rule", rule)): count for (one, rule), count in sorted(tail.decisions.items())
    }
    yield Figure("lianxin_gate_decisions_total", "Decisions of the gate since the start.", gate)
    yield _by("lianxin_refusals_total", "Refusals of messages and peers since the start.", "rule", tail.refusals)
    yield _by("lianxin_alarms_total", "Alarm leaves since the start.", "rule", tail.alarms)
    now = node.clock.now()
    signed, cosigned = _heads(node)
    if signed:
        yield _one("lianxin_checkpoint_age_seconds", "Since the last signed checkpoint.", seconds_between(signed, now))
    if cosigned:
        age = seconds_between(cosigned, now)
        yield _one("lianxin_witness_age_seconds", "Since the last checkpoint that a peer cosigned.", age)


def _heads(node: "Node") -> tuple[str, str]:
    """Return the times of the newest checkpoint and of the newest that a pinned peer cosigned, "" without one."""
    witnesses = {peer.party: peer.node_key for peer in node.identity.peers.values()}
    first = ""
    for data, _ in zip(node.store.newest_checkpoints(), range(_SOME_CHECKPOINTS), strict=False):
        record = canonical.decode_fragment(data)
        if record.get("type") != "checkpoint-note":
            break
        note = note_of(record)
        lines = notes.parse_checkpoint(note.text).extensions
        at = next((line.removeprefix(TIME) for line in lines if line.startswith(TIME)), "")
        first = first or at
        if cosigners(note, witnesses):
            return first, at
    return first, ""


def _consents(watched: Watched) -> Iterator[Figure]:
    node, kept = watched.served.node, watched.tail.kept
    registry, now = node.register.registry(), node.clock.now()
    if kept.get("consents", ())[:2] != (registry.epoch, now[:_MINUTE]):  # a walk over all of them: once a minute
        kept["consents"] = (registry.epoch, now[:_MINUTE], _by_state(registry, now))
    yield _by("lianxin_consents", "Consents in the registry, by state.", "state", kept["consents"][2])
    yield _one("lianxin_registry_records", "Signed records in the registry.", registry.epoch)


def _by_state(registry: Registry, now: str) -> dict[str, int]:
    counts = {"live": 0, "paused": 0, "expired": 0, "withdrawn": 0, "superseded": 0}
    for consent in list(registry.consents.values()):
        end = registry.ended.get(consent.id)
        if end is not None:
            counts["withdrawn" if end == "REVOKED" else "superseded"] += 1
        elif consent.terms["expires_at"] <= now:
            counts["expired"] += 1
        else:
            counts["paused" if registry.paused.get(consent.id) else "live"] += 1
    return counts


def _limits(watched: Watched) -> Iterator[Figure]:
    node = watched.served.node
    limits, used = node.config.quota, {}
    for setting, name in _QUOTAS.items():
        most = getattr(limits, name)
        for key, kept in node.store.settings_under(f"{setting}/").items():
            labels = (("peer", key.partition("/")[2]), ("quota", name))
            used[labels] = _spent(kept, node.clock.now(), limits.days) * 1000 // most
    yield Figure(
        "lianxin_quota_used_permille", "Of a peer's quota in the window, thousandths used.", dict(sorted(used.items()))
    )
    if node.config.role == "bank":
        from lianxin.parties.privacy import counted_of, left_of, spent_of

        config = node.config.privacy
        left, _ = left_of(counted_of(spent_of(node.store), config, node.clock.now()), config)
        whole = max(1, config.epsilon_thousandths)
        yield _one(
            "lianxin_privacy_left_permille", "Of the privacy budget, thousandths left.", max(0, left) * 1000 // whole
        )


def _spent(kept: bytes, now: str, days: int) -> int:
    """Return what was spent in the window by a quota's record, whatever else the record says."""
    record = canonical.decode(kept)
    since = after(now, -days)
    entries = [one for one in record.get("spent", ()) if str(one.get("time", ""))[:10] > since[:10]]
    return sum(int(one.get("queries", one.get("firms", 0))) for one in entries)


def _stock(watched: Watched) -> Iterator[Figure]:
    """How many encryption randomisers the runs under way at a bank have ready."""
    if watched.served.node.config.role != "bank":
        return
    ready = 0
    for member in list(getattr(watched.served, "members", {}).values()):
        pool = getattr(getattr(getattr(member, "work", None), "filler", None), "_pool", None)
        ready += pool.ready if pool is not None else 0
    yield _one("lianxin_randomisers_ready", "Encryption randomisers that are ready.", ready)
