"""Trees in the house, part by part: the quota of cuts, who is asked for the next tree, columns, options."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conversations import contract_of
from flwr.app import Error, Message

from lianxin.crypto.errors import CryptoError
from lianxin.federation import boosting_platform, grid, wire
from lianxin.federation.apps import EnsembleStrategy, StarStrategy, record_of, strategy_of
from lianxin.federation.binning import Work
from lianxin.federation.boosting_ensemble import Cut, TreeColumns
from lianxin.federation.errors import InputFault, PeerError, RunStopped
from lianxin.parties import auditor_envelopes
from lianxin.parties.cli_model_options import model_choice
from lianxin.parties.clock import SimulatedClock
from lianxin.parties.coding import BinSpec
from lianxin.parties.config import QuotaSection
from lianxin.parties.platform_trees import PlatformTrees
from lianxin.parties.quota import SplitQuota
from lianxin.parties.store import Store
from lianxin.parties.tree_columns import feature_records, kind_of, specs_of, tree_columns

# ---- the quota of cuts


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "store.sqlite")
    yield made
    made.close()


@pytest.mark.rule("BQ01")
def test_cuts_are_charged_over_all_runs_of_a_bank_and_come_back_after_the_window(store: Store) -> None:
    clock = SimulatedClock("2026-03-01T00:00:00Z")
    quota = SplitQuota(store, clock, QuotaSection(split_bits=10, days=30))
    assert [quota.charge("bank-1", "run-1", 3), quota.charge("bank-1", "run-1", 3)] == [7, 4]
    with pytest.raises(PeerError, match="asks for the sides of 5 more cuts and 4 are left of 10") as refused:
        quota.charge("bank-1", "run-2", 5)
    assert refused.value.rule == "BQ01"
    assert quota.charge("bank-2", "run-2", 10) == 0 == quota.charge("bank-1", "run-2", 4)
    clock.advance(30 * 86_400)
    assert quota.charge("bank-1", "run-3", 10) == 0


def charging(store: Store, bits: int) -> Any:
    """Return as much of the platform's run as a charge looks at."""
    quota = SplitQuota(store, SimulatedClock("2026-03-01T00:00:00Z"), QuotaSection(split_bits=bits))
    leaves: list[dict[str, Any]] = []
    node = SimpleNamespace(ledger=SimpleNamespace(append=leaves.append))
    return SimpleNamespace(quota=quota, contract=contract_of(), node=node, leaves=leaves)


def test_a_run_whose_cuts_the_quota_does_not_cover_is_refused_and_no_count_is_written(store: Store) -> None:
    here = charging(store, 3)
    PlatformTrees._charge(here, "bank-1", 3)
    with pytest.raises(PeerError):
        PlatformTrees._charge(here, "bank-1", 1)
    assert [(leaf["kind"], leaf["bits"], leaf["left"]) for leaf in here.leaves] == [("split-bits", 3, 0)]


def platform_of(charge: Any, **terms: Any) -> Any:
    """Return the platform's answers of one tree over made-up columns of 100 rows."""
    columns = TreeColumns.of([[row % 4 for row in range(100)]], [4], [0], 100)
    trees = boosting_platform.PlatformTrees(None, columns, charge)  # type: ignore[arg-type]
    work = SimpleNamespace(contract=contract_of(model="boosted_trees", **terms), rights=())
    turn = SimpleNamespace(work=work, trees=trees, firms=None)
    opening = wire.TreeOpening(tree=0, sampled=np.packbits(np.ones(100, dtype=bool)).tobytes(), features=[0])
    return boosting_platform._PlatformAnswers(turn, np.ones(100, dtype=bool), opening)  # type: ignore[arg-type]


def test_no_side_is_told_before_its_cut_is_charged() -> None:
    def refuse(cuts: int) -> None:
        raise PeerError("the quota is used up", "BQ01")

    telling = platform_of(refuse, nodes="hidden").sides(0)
    next(telling)
    with pytest.raises(PeerError) as refused:
        telling.send(wire.SplitChoice(level=0, cuts=[wire.Cut(feature=0, bin=1, kind=0)]))
    assert refused.value.rule == "BQ01"


def test_a_platform_admits_no_key_for_trees_whose_modulus_is_bad() -> None:
    even = (1 << 2047) + 2
    columns = TreeColumns.of([[0, 1]], [2], [0], 2)
    role = boosting_platform.platform_open_role(Work(contract_of(), None, "bank-1", None, ()), columns)  # type: ignore[arg-type]
    next(role)
    with pytest.raises(CryptoError):
        role.send(wire.TrainingKey(modulus=even.to_bytes(256, "big"), modulus_proof=b"x" * 4096))


def told_bits(*bits: int) -> list[Any]:
    """Return an auditor's findings on ledgers that count these cuts, of a contract that allows five."""
    leaves = [(place, {"peer": "bank-1", "bits": count}) for place, count in enumerate(bits)]
    leaves = [(place, {"kind": "split-bits", **leaf}) for place, leaf in leaves]
    own = SimpleNamespace(of_kind=lambda kind, run: leaves, crossings=lambda *_: [], party="platform-a")
    run = SimpleNamespace(id="run-1", contract={"split_bits": 5})
    return list(auditor_envelopes._split_findings(run, own))  # type: ignore[arg-type]


def test_an_auditor_counts_the_cuts_that_were_told_against_the_contract() -> None:
    assert told_bits(2, 3) == []
    (found,) = told_bits(2, 4)
    assert "sides of 6 cuts were told to bank-1, the contract allows 5" in found.detail


# ---- who is asked for the next tree


class Grid(grid.PartyGrid):
    """A grid whose banks answer out of `plan`: the last tree of each, or the tree at which it is lost."""

    def __init__(self, last: dict[str, int], lost: dict[str, int] | None = None) -> None:
        super().__init__(dict.fromkeys(last), 0.0)  # type: ignore[arg-type]
        self.last, self.lost_at = last, lost or {}
        self.asked: list[tuple[str, int, str]] = []

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> list[Message]:
        return [self._answered(message) for message in messages]

    def _answered(self, message: Message) -> Message:
        bank, kind = self.banks[message.metadata.dst_node_id], message.metadata.message_type
        number = int(message.metadata.group_id)
        self.asked.append((kind, number, bank))
        if kind == "train" and number == self.lost_at.get(bank):
            self.lost[bank] = PeerError("gone", "L01")
            return grid._answer(message, error=Error(code=grid.LOST, reason="L01"))
        numbers = {"stopped": int(number >= self.last[bank])} if kind == "train" else {}
        return grid._answer(message, content=record_of({}, numbers, {}))


class Steps:
    """The platform's part, which only keeps what it is told."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return partial(self._note, name)

    def _note(self, name: str, *told: Any) -> dict[str, str]:
        self.calls.append((name, *told))
        return {}


def led(banks: Grid, **terms: Any) -> Steps:
    steps = Steps()
    contract = contract_of(len(banks.banks), model="boosted_trees", trees=4, **terms)
    EnsembleStrategy(contract, steps).start(banks)  # type: ignore[arg-type]
    return steps


def asked_trees(banks: Grid, bank: str) -> list[int]:
    return [number for kind, number, who in banks.asked if (kind, who) == ("train", bank)]


def test_a_bank_that_has_stopped_is_asked_for_no_further_tree_and_is_evaluated_all_the_same() -> None:
    banks = Grid({"bank-1": 2, "bank-2": 9})
    steps = led(banks)
    assert asked_trees(banks, "bank-1") == [1, 2] and asked_trees(banks, "bank-2") == [1, 2, 3, 4]
    assert [who for kind, _, who in banks.asked if kind == "evaluate"] == ["bank-1", "bank-2"]
    assert [call[1] for call in steps.calls if call[0] == "before_round"] == [1, 2, 3, 4]


def test_when_every_bank_has_stopped_no_tree_is_begun() -> None:
    steps = led(Grid({"bank-1": 1, "bank-2": 2}))
    assert [call[1] for call in steps.calls if call[0] == "before_round"] == [1, 2]


def test_a_lost_bank_leaves_the_others_trees_as_they_are_where_the_contract_says_so() -> None:
    banks = Grid({"bank-1": 9, "bank-2": 9}, lost={"bank-2": 2})
    steps = led(banks, on_loss="rerun")
    assert asked_trees(banks, "bank-1") == [1, 2, 3, 4] and asked_trees(banks, "bank-2") == [1, 2]
    assert ("drop_round", ["bank-2"]) in steps.calls
    with pytest.raises(RunStopped, match="bank-2 left the run"):
        led(Grid({"bank-1": 9, "bank-2": 9}, lost={"bank-2": 2}), on_loss="stop")
    with pytest.raises(RunStopped, match="bank-2 left the run"):
        led(Grid({"bank-1": 9, "bank-2": 9}, lost={"bank-2": 2}), on_loss="rerun", min_banks=2)


def test_a_reply_that_does_not_say_whether_it_was_the_last_tree_is_refused() -> None:
    banks = Grid({"bank-1": 9})
    banks._answered = lambda message: grid._answer(message, content=record_of({}, {}, {}))  # type: ignore[method-assign]
    with pytest.raises(PeerError) as refused:
        led(banks)
    assert refused.value.rule == "L04"


def test_the_model_of_the_contract_chooses_the_strategy() -> None:
    assert type(strategy_of(contract_of(model="boosted_trees"), Steps())) is EnsembleStrategy  # type: ignore[arg-type]
    assert type(strategy_of(contract_of(), Steps())) is StarStrategy  # type: ignore[arg-type]


# ---- columns and options

NUMBERS, TEXT = ("numeric", (1.0, 2.0), ()), ("text", (), ("a", "b"))
KINDS = [
    ("no bin of its own for missing values", BinSpec(*NUMBERS, (0, 1, 2, 1)), 0),
    ("missing values in the last bin", BinSpec(*NUMBERS, (0, 1, 2, 3)), 1),
    ("missing values merged with the highest interval", BinSpec(*NUMBERS, (0, 1, 2, 2)), 0),
    ("a special number in the last bin, missing values among the others", BinSpec(*NUMBERS, (0, 1, 2, 1, 3), (9.0,)), 1),
    ("two bins beside the intervals", BinSpec(*NUMBERS, (0, 1, 2, 3, 4), (9.0,)), 2),
    ("text", BinSpec(*TEXT, (0, 1, 2, 2)), 2),
]  # fmt: skip


@pytest.mark.parametrize(("why", "spec", "kind"), KINDS, ids=[why for why, _, _ in KINDS])
def test_how_a_feature_may_be_cut_follows_from_its_bins(why: str, spec: BinSpec, kind: int) -> None:
    assert kind_of(spec) == kind
    assert specs_of(feature_records({"x": spec})) == {"x": spec}
    columns = tree_columns({"x": spec}, {"x": [0.5, 1.5, None]}, [2, 0])
    assert columns.rows == 2 and columns.shapes.fits(Cut(0, 0, {0: 0, 1: 0, 2: 2}[kind]))


def test_options_of_the_command_line_become_terms_of_the_contract() -> None:
    choice = model_choice("boosted_trees", trees=9, learning_rate=0.15, row_sample=0.8, node_sets="hidden", depth=None)
    assert choice.terms == {
        "max_bins": 32, "trees": 9, "learning_rate_thousandths": 150, "row_sample_permille": 800, "nodes": "hidden",
    }  # fmt: skip
    assert model_choice(bins=4).terms == {"max_bins": 4} and model_choice().terms == {}


BAD_OPTIONS = [
    ({"model": "field_query"}, "--model is"), ({"trees": 3}, "--trees is an option of trees"),
    ({"model": "boosted_trees", "node_sets": "none"}, "--node-sets is"),
    ({"model": "boosted_trees", "learning_rate": 0.0}, "--learning-rate is a number"),
    ({"model": "boosted_trees", "validation": 0.5}, "--validation is a number from 0 to 0.4"),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "said"), BAD_OPTIONS, ids=[said for _, said in BAD_OPTIONS])
def test_an_option_that_cannot_be_is_named(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(InputFault, match=said):
        model_choice(**asked)
