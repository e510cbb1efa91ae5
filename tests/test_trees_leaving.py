"""Trees between their steps: rounds that are due, firms that leave, values kept back, minimums over the rows that take part,
and what the evidence says of all this. Each attack succeeds where the rule is taken away."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import worlds
from worlds import Ends

from lianxin.federation import wire
from lianxin.federation.errors import GateRefused, GuardRefused
from lianxin.federation.model import Provenance, Released
from lianxin.parties import auditor_envelopes
from lianxin.parties.bank_trees import BankTrees
from lianxin.parties.clock import SimulatedClock
from lianxin.parties.config import QuotaSection
from lianxin.parties.outputs import OutputGate
from lianxin.parties.platform_scorecard import PlatformScorecard
from lianxin.parties.platform_trees import PlatformTrees
from lianxin.parties.quota import SplitQuota
from lianxin.parties.store import Store
from lianxin.parties.withheld import firms_of, kept_back

ends = worlds.ends
BANK, NOW, LEAST = "bank-1", "2026-03-01T00:00:00Z", 50
FIRMS = [f"firm-{number:04d}" for number in range(400)]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "store.sqlite")
    yield made
    made.close()


def provenance(mode: str = "SPLITS", round_number: int = 0) -> Provenance:
    return Provenance(
        "00" * 32, "platform-a", BANK, "P4", mode, ("x",), 100, "00" * 32, "00" * 32, 1, round=round_number
    )


# ---- a tree or a round before the first


@pytest.mark.parametrize("round_number", [0, 1])
def test_no_tree_is_served_before_the_platform_leads_one(round_number: int) -> None:
    here = SimpleNamespace(tables={BANK: 1}, trees={BANK: 1}, _grown=set(), round=round_number, _tree=None, _score=None)
    due = set(PlatformTrees.handlers(here, BANK))  # type: ignore[arg-type]
    assert due == ({f"vertical/{BANK}/tree/1"} if round_number else set())


@pytest.mark.parametrize(("round_number", "attempt"), [(0, -1), (0, 0), (1, -1), (1, 0)])
def test_no_round_of_a_scorecard_is_served_before_the_platform_leads_one(round_number: int, attempt: int) -> None:
    contract, star = SimpleNamespace(max_vif_hundredths=0, rounds=3), SimpleNamespace(kept=[])
    here = SimpleNamespace(round=round_number, attempt=attempt, contract=contract, star=star, opened_rounds=0,
                           _binning=None, _round=None)  # fmt: skip
    due = {name for name in PlatformScorecard.handlers(here, BANK) if "round" in name}  # type: ignore[arg-type]
    assert due == ({f"vertical/{BANK}/round/1/0"} if (round_number, attempt) == (1, 0) else set())


# ---- firms that leave between two trees


class Leaving:
    """A platform's run of trees as far as it says who stays; its gate's outputs are the real ones."""

    def __init__(self, store: Store, leaves_groups: bool) -> None:
        self.gate = OutputGate(store, QuotaSection(), b"s" * 32)
        nobody = SimpleNamespace(to_leave_out=lambda *told: frozenset())
        self.node = SimpleNamespace(boundary=self.gate if leaves_groups else nobody)
        self.contract, self.features = SimpleNamespace(min_rows=LEAST), ["x"]
        self._staying: dict[str, set[str]] = {}

    def _live(self, bank: str, released: Released) -> set[str]:
        return set(released.firms)

    def tree(self, live: list[str]) -> tuple[set[str], str]:
        """Return who is in a tree when these firms are released, and what the gate says to its sums."""
        released = Released(provenance(), tuple(live), {})
        stays = PlatformTrees._stays(self, BANK, FIRMS, released)  # type: ignore[arg-type]
        return stays, self.gate.admit(BANK, ["x"], sorted(stays), LEAST, NOW)


def test_when_a_firm_leaves_between_two_trees_a_drawn_group_leaves_beside_it_and_stays_out(store: Store) -> None:
    run = Leaving(store, leaves_groups=True)
    assert run.tree(FIRMS) == (set(FIRMS), "")
    second, rule = run.tree(FIRMS[1:])
    assert rule == "" and FIRMS[0] not in second and len(FIRMS) - len(second) == LEAST + 1
    assert run.tree(FIRMS[1:]) == (second, "") and run.tree(FIRMS) == (second, "")
    third, rule = run.tree([firm for firm in FIRMS[1:] if firm != min(second)])
    assert rule == "" and third < second and len(second) - len(third) == LEAST + 1


@pytest.mark.rule("OUT-DIFF")
def test_without_the_group_the_gate_refuses_the_sums_by_whose_difference_the_firm_would_be_read(store: Store) -> None:
    run = Leaving(store, leaves_groups=False)
    assert run.tree(FIRMS)[1] == ""
    stays, rule = run.tree(FIRMS[1:])
    assert set(FIRMS) - stays == {FIRMS[0]} and rule == "OUT-DIFF"


# ---- values that are kept back later than they were coded


def test_a_value_that_a_later_release_keeps_back_is_found_and_one_that_was_always_missing_is_not() -> None:
    held = {"x": [1, None, 3], "y": [None, 2, 3]}
    assert kept_back(held, [0, 1, 2], Released(provenance(), ("a", "b", "c"), held)) == frozenset()
    later = Released(provenance(), ("a", "c"), {"x": (1, None), "y": (None, 3)})
    assert kept_back(held, [0, 2], later) == {("x", "c")} and firms_of(kept_back(held, [0, 2], later)) == {"c"}


def test_a_firm_whose_value_is_kept_back_is_in_no_later_tree_unless_it_was_so_when_it_was_coded() -> None:
    table = SimpleNamespace(columns={"x": [1, 2, 3]})
    shared = SimpleNamespace(withheld=frozenset({("x", "b")}))
    here: Any = SimpleNamespace(table=table, row_of={"a": 0, "b": 1, "c": 2}, _shared=lambda bank: shared)
    here._kept_back = lambda released: PlatformTrees._kept_back(here, released)
    released = Released(provenance(), ("a", "b", "c"), {"x": (1, None, None)})
    assert PlatformTrees._live(here, BANK, released) == {"a", "b"}


# ---- minimums over the rows that take part


@pytest.mark.parametrize("rule", ["OUT-ROWS", "OUT-BADS", "R01"])
def test_a_banks_gate_is_asked_over_the_rows_of_both_sides_and_too_few_end_the_growth(rule: str) -> None:
    asked: list[Any] = []

    def aggregate(step: str, firms: list[str], labels: list[int], tree: int, readable: bool) -> Provenance:
        asked.append((firms, labels))
        raise GateRefused("refused", rule)

    table = SimpleNamespace(labels=[0, 1, 1, 0], identifiers=list("abcd"))
    here: Any = SimpleNamespace(training=[0, 1, 3], table=table, rights=(), _aggregate=aggregate)
    if rule == "R01":
        with pytest.raises(GateRefused):
            BankTrees._admit(here, 2, np.array([False, True, True]))
    else:
        assert BankTrees._admit(here, 2, np.array([False, True, True])) is None
    assert asked == [(["b", "d"], [1, 0])]


# ---- the quota before a run


@pytest.mark.rule("BQ01")
def test_a_run_for_which_too_few_cuts_are_left_to_a_bank_is_not_begun(store: Store) -> None:
    clock = SimulatedClock(NOW)
    quota = SplitQuota(store, clock, QuotaSection(split_bits=10, days=30))
    quota.check([BANK, "bank-2"], 10)
    quota.charge(BANK, "run-1", 4)
    assert (quota.left(BANK), quota.left("bank-2")) == (6, 10)
    with pytest.raises(GateRefused, match="may be told the sides of 6 more cuts") as refused:
        quota.check([BANK, "bank-2"], 7)
    assert refused.value.rule == "BQ01" and quota.left(BANK) == 6
    clock.advance(30 * 86_400)
    quota.check([BANK], 10)


# ---- what a session and an auditor see of it


@pytest.mark.rule("G04")
def test_rows_cross_in_a_round_behind_a_release_for_that_round(ends: Ends) -> None:
    session = ends.platform.session
    session.round = 2
    with pytest.raises(GuardRefused, match="for another round"):
        session.send(wire.SplitBits(bits=b"x"), "boosting.split", [provenance(round_number=1)])
    session.send(wire.SplitBits(bits=b"x"), "boosting.split", [provenance(round_number=2)])
    assert ends.platform.taken()


def envelope(round_number: int = 2, step: str = "boosting.split", form: str = "DESENSITISED") -> dict[str, Any]:
    return {"round": round_number, "step": step, "forms": [{"form": form}]}


def behind(round_number: int, step: str = "boosting.split") -> list[dict[str, Any]]:
    return [{"round": round_number, "step": step, "mode": "SPLITS"}, {"round": 0, "step": "x", "mode": "AGGREGATE"}]


def test_an_auditor_sees_that_a_rounds_rows_left_under_an_earlier_rounds_release() -> None:
    right = auditor_envelopes._is_of_round
    assert right(envelope(), behind(2)) and right(envelope(step="round.rows", form="PSEUDONYM"), behind(2))
    assert not right(envelope(), behind(1))
    assert not right(envelope(), behind(2, "binning.rows"))
    assert right(envelope(0), behind(4)) and right(envelope(form="AGGREGATE"), behind(1))


def uncounted(nodes: str, *happened: int | str) -> list[Any]:
    """Return an auditor's findings on a ledger: a number is a leaf that counts cuts, a word a message with sides."""
    bits = [
        (at, {"kind": "split-bits", "peer": BANK, "bits": n}) for at, n in enumerate(happened) if isinstance(n, int)
    ]
    leaf = {"kind": "envelope", "peer": BANK, "direction": "out", "conversation": "vertical/bank-1/boosting/1"}
    sent = [(at, leaf | {"message_type": n, "seq": at}) for at, n in enumerate(happened) if n == "SplitBits"]
    own = SimpleNamespace(
        of_kind=lambda kind, run: bits, crossings=lambda run, direction, flag: sent, party="platform-a",
        ledger_lines=[b""] * len(happened),
    )  # fmt: skip
    run = SimpleNamespace(id="run-1", contract={"split_bits": 64, "nodes": nodes})
    return list(auditor_envelopes._split_findings(run, own))  # type: ignore[arg-type]


def test_an_auditor_sees_that_sides_were_told_which_no_earlier_leaf_counts() -> None:
    for nodes in ("shown", "hidden"):
        assert uncounted(nodes, 2, "SplitBits", "SplitBits", "CutBits") == []
        (found,) = uncounted(nodes, "SplitBits", 1)
        assert "told to bank-1 that no earlier split-bits leaf counts" in found.detail
    assert len(uncounted("hidden", 1, "SplitBits", "SplitBits", "SplitBits")) == 1
    assert uncounted("shown", 1, "SplitBits", "SplitBits") == []
