"""Attack row 20: somebody sets a node's clock back, or forward, to bring a consent to life that has ended or not begun.

Expiry is judged by a time that never goes back behind the ledger; a clock that has parted from it by more than half a
minute raises one alarm, and nothing is decided. The weak gate believes the machine's clock.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import consents as w
import pytest
from audit_world import found, passes_without
from evidence_world import PLATFORM, World, a_consent
from hypothesis import given
from hypothesis import strategies as st
from torture import cases

from lianxin.crypto import canonical
from lianxin.crypto.randomness import Drbg
from lianxin.federation.errors import GateRefused
from lianxin.parties import boundary_clock
from lianxin.parties.boundary import Boundary
from lianxin.parties.boundary_clock import TOLERANCE_S, LedgerClock, newest_time
from lianxin.parties.clock import FORMAT
from lianxin.parties.consent import ConsentRegister
from lianxin.parties.ledger import Ledger
from lianxin.parties.node import Node

LASTING, ENDING, COMING = "firm-lasting", "firm-ending", "firm-coming"
FIRMS = [LASTING, ENDING, COMING]


class Machine:
    """A machine whose clock anybody may set, beside a counter of seconds that nobody can."""

    def __init__(self) -> None:
        self.wall, self.counted = datetime.strptime(w.NOW, FORMAT), 1000.0

    def now(self) -> str:
        return self.wall.strftime(FORMAT)

    def steady(self) -> float:
        return self.counted

    def pass_by(self, seconds: int) -> None:
        self.wall, self.counted = self.wall + timedelta(seconds=seconds), self.counted + seconds

    def set(self, seconds: int) -> None:
        self.wall += timedelta(seconds=seconds)


class Weak(LedgerClock):
    """A gate's clock that is the machine's."""

    def now(self) -> str:
        return self._local.now()

    def fault_s(self) -> int:
        return 0


class Party:
    """A provider whose ledger and gate share the clock under attack; it can be started again."""

    def __init__(self, folder: Path, kind: type[LedgerClock]) -> None:
        self.machine, self.kind = Machine(), kind
        self.provider = w.Provider(folder, *FIRMS)
        self.provider.give(LASTING)
        self.provider.give(ENDING, expires_at="2026-06-01T00:05:00Z")
        self.provider.give(COMING, not_before="2026-06-01T01:00:00Z")
        self.start()

    def start(self) -> None:
        store, key = self.provider.store, self.provider.key
        self.clock = self.kind(self.machine, newest_time(store), self.machine.steady)
        self.ledger = Ledger(store, "platform-a", key, self.clock, "test", "operator-1")
        register = ConsentRegister(store, self.ledger)
        self.gate = Boundary("platform-a", w.CATALOGUE, register, self.ledger, self.clock, w.SECRET, Drbg(b"d" * 32))

    def ask(self) -> tuple[str, ...]:
        columns = {"staff_count": [1, 2, 3]}
        return self.gate.release(w.contract_of(), w.request_of("staff_count"), FIRMS, columns).firms

    def leaves(self, kind: str) -> list[dict[str, Any]]:
        return [leaf for leaf in map(canonical.decode, self.provider.store.leaves()) if leaf["kind"] == kind]

    def is_refused(self) -> bool:
        with pytest.raises(GateRefused) as refusal:
            self.ask()
        return refusal.value.rule == "T01"


@pytest.fixture
def party(tmp_path: Path) -> Iterator[Party]:
    made = Party(tmp_path, LedgerClock)
    yield made
    made.provider.store.close()


@pytest.fixture
def weak(tmp_path: Path) -> Iterator[Party]:
    (tmp_path / "weak").mkdir()
    made = Party(tmp_path / "weak", Weak)
    yield made
    made.provider.store.close()


@pytest.mark.rule("T01")
@pytest.mark.parametrize("back_s", [600, 31, 10])
def test_a_clock_set_back_revives_no_expired_consent(party: Party, weak: Party, back_s: int) -> None:
    for one in (party, weak):
        assert one.ask() == (LASTING, ENDING)
        one.machine.pass_by(305)
        assert one.ask() == (LASTING,)
        one.machine.set(-back_s)
    assert weak.ask() == (LASTING, ENDING)
    if back_s > TOLERANCE_S:
        assert party.is_refused()
    else:
        assert party.ask() == (LASTING,)


@pytest.mark.rule("T01")
def test_a_clock_set_forward_begins_no_consent_early(party: Party, weak: Party) -> None:
    for one in (party, weak):
        one.machine.pass_by(60)
        one.ask()
        one.machine.set(3600)
    assert weak.ask() == (LASTING, COMING)
    assert party.is_refused()
    assert max(leaf["time"] for leaf in party.leaves("refusal")) == "2026-06-01T00:01:00Z"


@pytest.mark.rule("T01")
def test_a_clock_set_back_while_the_node_is_down_is_met_by_the_ledgers_last_time(party: Party, weak: Party) -> None:
    for one in (party, weak):
        one.machine.pass_by(600)
        one.ask()
        one.machine.set(-600)
        one.start()
    assert weak.ask() == (LASTING, ENDING)
    assert party.is_refused()


@pytest.mark.rule("T01")
def test_an_alarm_is_written_once_with_the_skew_and_serving_goes_on_when_the_clock_is_right(party: Party) -> None:
    party.machine.pass_by(60)
    party.ask()
    party.machine.set(-600)
    assert party.is_refused() and party.is_refused()
    [alarm] = party.leaves("alarm")
    assert (alarm["rule"], alarm["run"], alarm["skew_s"]) == ("T01", "run-1", 600)
    assert [leaf["rule"] for leaf in party.leaves("refusal")] == ["T01", "T01"]
    party.machine.set(600)
    assert party.ask() == (LASTING, ENDING)
    party.machine.set(-600)
    assert party.is_refused() and len(party.leaves("alarm")) == 2


def test_what_is_decided_and_its_leaf_have_one_time(party: Party, monkeypatch: pytest.MonkeyPatch) -> None:
    from lianxin.parties import boundary

    keep = boundary.commitments_to

    def late(*parts: Any) -> Any:
        party.machine.pass_by(400)
        return keep(*parts)

    monkeypatch.setattr(boundary, "commitments_to", late)
    assert ENDING in party.ask()
    [leaf] = party.leaves("release")
    assert leaf["time"] == w.NOW < "2026-06-01T00:05:00Z" < party.clock.now()


@pytest.mark.rule("T01")
@pytest.mark.parametrize(("time", "alarms"), [("2026-06-01T00:10:00Z", 1), ("2026-06-01T00:00:30Z", 0)])
def test_a_peers_signed_time_far_from_ours_raises_an_alarm(party: Party, time: str, alarms: int) -> None:
    node: Any = SimpleNamespace(clock=party.clock, ledger=party.ledger)
    Node.heard(node, time, "bank-1")
    assert [leaf["peer"] for leaf in party.leaves("alarm")] == ["bank-1"] * alarms


@cases(in_test=1000)
@given(st.lists(st.tuples(st.integers(0, 90), st.integers(-700, 700)), max_size=12))
def test_the_time_never_goes_back_whatever_is_done_to_the_clock(steps: list[tuple[int, int]]) -> None:
    machine = Machine()
    clock, seen = LedgerClock(machine, w.NOW, machine.steady), [w.NOW]
    for passed, moved in steps:
        machine.pass_by(passed)
        machine.set(moved)
        seen.append(clock.now())
    assert seen == sorted(seen)


def test_a_time_that_cannot_be_read_is_no_skew() -> None:
    assert boundary_clock.seconds_between("2026-06-01T00:00:00Z", "") == 0


# ---- what the auditor says of a node that believed its clock

SHORT = "2026-05-01T07:30:00Z"


def clock_set_back(world: World) -> None:
    """A platform that goes on under a clock an hour behind its last head, at which a consent still lived."""
    world.parties[PLATFORM].clock.time = "2026-05-01T07:00:00Z"


@pytest.mark.rule("T01")
def test_the_auditor_names_the_leaf_that_was_dated_back_to_revive_a_consent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    consents = [*(a_consent(number) for number in range(3)), a_consent(3, expires_at=SHORT)]
    for name in ("honest", "back"):
        (tmp_path / name).mkdir()
    honest = World(tmp_path / "honest", {"consents": consents})
    assert {check.name for check in found(honest.story())} == {"consents"}
    run = World(tmp_path / "back", {"consents": consents, "before release": clock_set_back}).story()
    failures = found(run)
    assert {(check.name, check.accused) for check in failures} == {("times", PLATFORM)}
    assert all(check.leaf >= 0 for check in failures)
    assert passes_without(run, "times", monkeypatch)
