"""Attack 34: a peer that fills the disk, asks everything of everybody, or makes the ledger grow by being turned away.

What a peer does to memory and connections is row 23's. Here: envelopes and recordings end a run by name before the disk is
full, at 95 % too; a run may write its share; no new run begins where little is free; ten thousand refusals are a few leaves;
a checkpoint or a compressed table that is a bomb is not unfolded into memory. Each time the same without the defence.
"""

import gzip
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import worlds

from lianxin.federation import wire
from lianxin.federation.errors import GuardRefused, InputFault, LianxinError, PeerError, RunStopped
from lianxin.parties import bank, checkpoint, limits_node
from lianxin.parties.agreement import Verdict
from lianxin.parties.config_operations import GIB, MIB, LimitsSection
from lianxin.parties.limits_disk import DiskGuard, DiskShort
from lianxin.parties.limits_node import Door, RefusalLog
from lianxin.parties.platform import PlatformNode
from lianxin.parties.trace import LedgerTrace

ends = worlds.ends
WHOLE = 20 * GIB
ENVELOPE = 256 * 1024


class Disk:
    """A disk that is 95 % full; what is written is taken off what is free."""

    def __init__(self, free: int = WHOLE // 20) -> None:
        self.free = free

    def __call__(self, _folder: Path) -> tuple[int, int]:
        return self.free, WHOLE


def guarded(disk: Disk, **limits: Any) -> tuple[DiskGuard, Counter[str]]:
    counts = Counter[str]()
    return DiskGuard(Path("state"), LimitsSection(**limits), counts, disk, lambda: 0.0), counts


def fill(ends: worlds.Ends, disk: Disk, guard: DiskGuard | None, most: int) -> int:
    """Let the bank send until the platform's node stops taking it in; return how many envelopes went to disk."""
    trace = ends.platform.session.trace = LedgerTrace(ends.platform.session.trace._ledger, disk=guard)  # type: ignore[attr-defined]
    trace._recording = Path("kept")
    trace._keep = lambda _header, envelope: setattr(disk, "free", disk.free - len(envelope))  # type: ignore[method-assign]
    for number in range(most):
        ends.bank.session.send(wire.Approval(approval=bytes(ENVELOPE)), "contract.agree")
        try:
            ends.platform.session.receive("contract.agree", (wire.Approval,), 0.0)
        except DiskShort:
            return number
    return most


def test_a_bank_that_sends_on_and_on_ends_its_run_by_name_before_the_disk_is_full(ends: worlds.Ends) -> None:
    disk = Disk(GIB // 4 + 8 * MIB)
    guard, counts = guarded(disk)
    taken = fill(ends, disk, guard, 200)
    assert 16 <= taken <= 60 and disk.free > GIB // 4 - 10 * MIB and counts["limits/L15"] == 1
    assert len([leaf for leaf in ends.platform.leaves() if leaf["kind"] == "envelope"]) == taken


def test_without_the_guard_it_goes_on_until_nothing_is_free(ends: worlds.Ends) -> None:
    disk = Disk(8 * MIB)
    assert fill(ends, disk, None, 40) == 40 and disk.free < 0


def test_a_run_over_its_share_of_the_disk_ends_and_its_end_is_still_told(ends: worlds.Ends) -> None:
    disk = Disk()
    guard, counts = guarded(disk, run_disk_bytes=4 * MIB)
    assert fill(ends, disk, guard, 50) == 15 and counts == {"limits/L16": 1}
    ends.bank.session._sent = 15
    ends.platform.session.send(wire.RunClosed(checkpoint=b"x"), "contract.close")
    ends.platform.session.refuse("L16", "contract.agree")
    assert [leaf["message_type"] for leaf in ends.platform.leaves()[-2:]] == ["RunClosed", "Refusal"]


def test_no_run_begins_on_a_full_disk_at_the_platform_or_at_a_bank(monkeypatch: pytest.MonkeyPatch) -> None:
    guard, _ = guarded(Disk(GIB - 1))
    node: Any = SimpleNamespace(
        trace=LedgerTrace(None, disk=guard), identity=None, party="bank-1",  # type: ignore[arg-type]
        clock=SimpleNamespace(now=lambda: "2026-01-05T01:00:00Z"), store=SimpleNamespace(run=lambda _run: None),
        config=SimpleNamespace(operator="operator-1", profile="trial", policy=None),
    )  # fmt: skip
    with pytest.raises(RunStopped, match="so no run begins here; make room or lower") as short:
        PlatformNode.check(SimpleNamespace(node=node), SimpleNamespace(run="run-1"))  # type: ignore[arg-type]
    assert short.value.rule == "L15"  # type: ignore[attr-defined]
    for name in ("check_proposal", "judge_network"):
        monkeypatch.setattr(bank, name, lambda *_: Verdict("", ""))
    here: Any = SimpleNamespace(node=node, table=SimpleNamespace(columns=()), label="y")
    here._wait_for_person = lambda *_: (Verdict("", ""), "a person is asked")
    assert bank.BankNode._judge(here, None, None, b"")[0].rule == "L15"  # type: ignore[arg-type]
    node.trace.disk = None
    assert bank.BankNode._judge(here, None, None, b"")[1] == "a person is asked"  # type: ignore[arg-type]


# ---- the ledger


def turn_away(ends: worlds.Ends, times: int) -> int:
    """Let the platform turn somebody away; return how many leaves that made."""
    ledger = ends.platform.session.trace._ledger  # type: ignore[attr-defined]
    log, before = RefusalLog(ledger, lambda _what: None, lambda: 100.0), ends.platform.store.leaf_count()
    for _ in range(times):
        log.refused("I04", "spiffe://lianxin.test/stranger")
    log.close()
    return ends.platform.store.leaf_count() - before


def test_ten_thousand_refusals_in_a_minute_are_two_leaves(ends: worlds.Ends) -> None:
    assert turn_away(ends, 10_000) == 2
    assert [leaf.get("times", 1) for leaf in ends.platform.leaves() if leaf["kind"] == "refusal"] == [1, 9_999]


def test_without_the_pause_they_fill_the_ledger(ends: worlds.Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits_node, "QUIET_S", 0.0)
    assert turn_away(ends, 80) == 80


def test_a_nodes_door_counts_what_it_turns_away_and_keeps_the_bytes_of_the_day(ends: worlds.Ends) -> None:
    node: Any = SimpleNamespace(
        ledger=ends.platform.session.trace._ledger, store=ends.platform.store, counts=Counter(),  # type: ignore[attr-defined]
        clock=ends.platform.clock, config=SimpleNamespace(limits=LimitsSection(run_bytes=MIB, conversations=5)),
    )  # fmt: skip
    door = Door(node)
    assert door.serve_options()["max_streams_per_party"] == 5
    with pytest.raises(PeerError, match="over 1048576 bytes in run run-1"):
        door.toll.heard("bank-1", "run-1", MIB + 1)
    door.refused("L13", "spiffe://lianxin.test/bank-1")
    door.refused("I04", None)
    door.close()
    assert node.counts == {"limits/L13": 1, "refusals/I04": 1} and ends.platform.refusals() == ["L13", "I04"]
    assert Door(node).toll.bytes_of("bank-1")[1] == MIB + 1


# ---- checkpoints that are bombs


def memory_of(work: Callable[[], object]) -> int:
    """Return the most bytes that `work` had allocated at once."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_checkpoint_that_is_a_compressed_bomb_is_damaged_and_is_not_unfolded(tmp_path: Path) -> None:
    bomb = gzip.compress(bytes(64 * MIB), 1)
    (tmp_path / checkpoint.FILE).write_bytes(bomb)

    def read() -> None:
        with pytest.raises(RunStopped, match="the checkpoint of run run-1 is damaged"):
            checkpoint.read(tmp_path, "run-1")

    assert len(bomb) < MIB and memory_of(read) < 4 * MIB
    assert memory_of(lambda: gzip.decompress(bomb)) > 60 * MIB  # what it would have been


@pytest.mark.parametrize("size", [2**22, 2**22 + 2**20])
def test_a_head_or_a_plan_that_is_a_bomb_is_no_envelope(ends: worlds.Ends, size: int) -> None:
    with pytest.raises(LianxinError):
        ends.bank.session.send(wire.RunClosed(checkpoint=bytes(size)), "contract.close")
    with pytest.raises((GuardRefused, PeerError, InputFault)):
        wire.unseal(bytes(size))
