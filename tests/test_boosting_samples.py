"""Which rows trees are grown on: shares, validation rows and early stopping, and what happens when rows leave."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from boosting_world import SAMPLING, Table, made_up
from test_boosting_growth import SMALL, grown
from torture import repeats

from lianxin.crypto.randomness import Drbg
from lianxin.federation.boosting_ensemble import Ensemble, TreeShapes
from lianxin.federation.boosting_growth import Growth, Histograms, Opening, TreeTerms, grow
from lianxin.federation.boosting_samples import Samples
from lianxin.federation.errors import RunStopped
from lianxin.simulations.clear_trees import ClearPlatform


def openings(terms: TreeTerms, table: Table) -> tuple[list[Opening], Growth]:
    seen = list[Opening]()
    growth = Growth(terms, table.labels, table.own, table.platform.shapes, Drbg(SAMPLING))
    clear = ClearPlatform(table.platform)

    def histograms(opening: Opening, ask: Histograms) -> Any:
        if ask.level == 0:
            seen.append(opening)
        return clear.histograms(opening, ask)

    grow(growth, histograms, clear.sides)
    return seen, growth


def test_samples_have_the_shares_of_the_contract_differ_by_tree_and_do_not_see_labels() -> None:
    table = made_up(400, seed=6, platform=6)
    terms = replace(SMALL, row_sample_permille=500, column_sample_permille=400, validation_permille=250)
    seen, growth = openings(terms, table)
    assert [int(o.sampled.sum()) for o in seen] == [150] * 3 and int(growth.validation.sum()) == 100
    assert all(len(o.features) == 3 for o in seen)
    assert not any((o.sampled & growth.validation).any() for o in seen)
    assert len({o.sampled.tobytes() for o in seen}) == 3
    other, _ = openings(terms, replace(table, labels=made_up(400, seed=7).labels))
    assert [o.sampled.tobytes() for o in other] == [o.sampled.tobytes() for o in seen]
    assert [o.features for o in other] == [o.features for o in seen]


def test_growth_stops_when_validation_rows_gain_nothing_more_and_keeps_the_best_number_of_trees() -> None:
    table = made_up(400, seed=9)
    noise = replace(table, labels=[Drbg(SAMPLING).child("noise", row).below(2) for row in range(400)])
    terms = replace(SMALL, trees=30, validation_permille=300, patience=3)
    ensemble = grown(terms, noise)
    losses = ensemble.validation_loss_micro
    best = losses.index(min(losses)) + 1
    assert ensemble.grown == len(losses) == best + 3 < 30 and len(ensemble.trees) == best
    assert (
        len(ensemble.train_loss_micro) == ensemble.grown
        and ensemble.train_loss_micro[-1] < ensemble.train_loss_micro[0]
    )
    assert len(grown(replace(terms, patience=0), noise).trees) == 30


def left_at(terms: TreeTerms, table: Table, leave: Any, seed: bytes = SAMPLING, firms: Any = None) -> Growth:
    """Grow to the end in clear; `leave(growth, tree)` says which rows are live from a tree on."""
    growth = Growth(terms, table.labels, table.own, table.platform.shapes, Drbg(seed), firms)
    clear, honest = ClearPlatform(table.platform), growth.tree
    growth.tree = lambda live=None, may_grow=True: honest(leave(growth, len(growth.losses)))  # type: ignore[method-assign]
    grow(growth, clear.histograms, clear.sides)
    return growth


@pytest.mark.parametrize(("gone", "known"), [(0, 0), (2, 2), (99, 6)])
def test_when_no_validation_row_is_left_all_trees_are_kept_and_the_ensemble_says_so(gone: int, known: int) -> None:
    terms = replace(SMALL, trees=6, validation_permille=25, patience=2, min_rows=5)
    table = made_up(400, seed=3)
    noise = replace(table, labels=[Drbg(SAMPLING).child("noise", row).below(2) for row in range(400)])
    growth = left_at(terms, noise, lambda g, tree: np.ones(400, dtype=np.bool_) if tree < gone else ~g.validation)
    ensemble = growth.ensemble()
    losses = ensemble.validation_loss_micro
    if gone == 99:
        assert ensemble.notes == () and len(ensemble.trees) <= ensemble.grown == len(losses)
        return
    assert len(ensemble.trees) == ensemble.grown == 6 == len(ensemble.train_loss_micro)
    assert len(losses) == (6 if gone else 0) and len(set(losses[max(0, known - 1) :])) <= 1
    assert f"for tree {gone + 1}:" in ensemble.notes[0] and len(ensemble.notes) == 1
    assert Ensemble.from_record(ensemble.to_record()) == ensemble


def test_a_loss_that_is_better_by_less_than_a_millionth_is_no_better() -> None:
    table = made_up(60, seed=3)
    growth = Growth(replace(SMALL, trees=9, validation_permille=200, patience=2), table.labels, table.own,
                    table.platform.shapes, Drbg(SAMPLING))  # fmt: skip
    stops = []
    for loss in (0.5, 0.5 - 2e-7, 0.5 - 4e-7):
        growth.losses.append((0.4, loss))
        stops.append(growth._stops())
    assert stops == [False, False, True] and growth._best == 1
    growth.losses, growth._best = [(0.4, 0.5), (0.4, 0.5 - 2e-6)], 1
    assert not growth._stops() and growth._best == 2


TOO_FEW: dict[str, tuple[dict[str, int], str]] = {
    "a small share of rows": ({"row_sample_permille": 100}, "row_sample_permille"),
    "validation and a share": ({"validation_permille": 400, "row_sample_permille": 200}, "lower validation_permille"),
    "a share that is nearly all": ({"row_sample_permille": 990}, "differ by fewer than the contract's 50 firms"),
}


@pytest.mark.parametrize("what", TOO_FEW)
def test_shares_with_which_no_tree_could_be_asked_for_are_refused_before_the_first(what: str) -> None:
    shares, sentence = TOO_FEW[what]
    table, terms = made_up(380, seed=3), TreeTerms(**shares)
    with pytest.raises(RunStopped, match=sentence):
        Growth(terms, table.labels, table.own, table.platform.shapes, Drbg(SAMPLING))
    Growth(terms, table.labels, table.own, TreeShapes((), ()), Drbg(SAMPLING))  # alone, nobody is asked


def test_validation_rows_that_leave_too_few_are_refused_and_so_are_many_rows_of_few_firms() -> None:
    table = made_up(70, seed=3)
    for terms, firms in ((TreeTerms(validation_permille=400), None), (TreeTerms(), [row // 2 for row in range(70)])):
        with pytest.raises(RunStopped, match="under the contract's 50"):
            Growth(terms, table.labels, table.own, table.platform.shapes, Drbg(SAMPLING), firms)


def test_whichever_rows_leave_no_two_trees_are_grown_on_sets_that_lie_near_to_each_other() -> None:
    ended = set()
    for case in repeats("samples of trees as rows leave", 60):
        chance = Drbg(SAMPLING).child("leaving", case)
        rows, least = 60 + chance.below(200), 5 + chance.below(20)
        share, held_out = (1000, 700)[chance.below(2)], (0, 200)[chance.below(2)]
        terms = TreeTerms(trees=8, min_rows=least, row_sample_permille=share, validation_permille=held_out)
        firms = [row // (1 + case % 2) for row in range(rows)]
        try:
            samples = Samples(terms, rows, chance.child("draws"), firms, is_joint=True)
        except RunStopped:
            continue
        sets, live = list[set[int]](), np.ones(rows, dtype=np.bool_)
        for tree in range(8):
            for _ in range(chance.below(3)):
                live[chance.below(rows)] = False
            samples.keep(live)
            drawn = samples.rows(tree)
            if drawn is None:
                ended.add(tree)
                break
            assert not (drawn & ~live).any() and not (drawn & samples.validation).any()
            assert len({firms[row] for row in np.flatnonzero(drawn)}) >= least
            sets.append(set(np.flatnonzero(drawn).tolist()))
            between = [{firms[row] for row in other ^ sets[-1]} for other in sets]
            assert all(not apart or len(apart) >= least for apart in between), case
    assert ended and min(ended) > 0


def test_when_one_row_leaves_as_many_firms_as_the_minimum_are_set_aside_and_trees_go_on() -> None:
    table = made_up(400, seed=3)
    terms = replace(SMALL, trees=4, min_rows=20)
    gone = np.arange(400) != 7
    growth = left_at(terms, table, lambda g, tree: gone if tree >= 2 else None)
    assert len(growth.trees) == 4 and growth.notes == []
    roots = [tree.splits[0].rows for tree in growth.trees]
    assert roots == [400, 400, 379, 379]
