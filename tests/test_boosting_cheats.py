"""Boosted trees against a side that makes sums up, subtracts them or sends many rows of one firm, and their early end."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from boosting_world import SAMPLING, Run, Table, made_up, start, tampered
from conversations import contract_of, play
from test_boosting_refusals import (
    EVERY,
    FIRST,
    NONE,
    ONE,
    ROWS,
    TABLE,
    bank_says,
    begun,
    cuts,
    instead,
    nodes,
    platform_says,
)

from lianxin.crypto import paillier
from lianxin.crypto.randomness import Drbg
from lianxin.federation import boosting_growth, boosting_platform, boosting_sums, wire
from lianxin.federation.boosting import bank_tree_role
from lianxin.federation.boosting_ensemble import Flags, TreeColumns
from lianxin.federation.boosting_platform import platform_tree_role
from lianxin.federation.boosting_rows import pack_flags
from lianxin.federation.boosting_samples import Samples
from lianxin.federation.errors import PeerError

BOTH = pytest.mark.parametrize("shown", ["shown", "hidden"])


# ---- a platform that makes sums up


def counting_one_row_often(monkeypatch: pytest.MonkeyPatch, victims: list[int]) -> None:
    """The platform's bin 0 of feature f holds one row, so many times; bin 1 the rest, so that the feature adds up."""

    def sums(work: Any, public: Any, tables: Any, bins: Any) -> list[int]:
        return [cell for data, _ in tables for cell in cells_of(public, data)]

    def cells_of(public: Any, data: bytes) -> list[int]:
        cells = list[int]()
        square, width = int(public.n) ** 2, public.ciphertext_bytes
        each = [int.from_bytes(data[at * width : (at + 1) * width], "big") for at in range(ROWS)]
        whole = 1
        for ciphertext in each:
            whole = whole * ciphertext % square
        for place, victim in enumerate(victims):
            often = pow(each[victim], 60 + place, square)
            cells += [often, whole * pow(often, -1, square) % square]
        return cells

    monkeypatch.setattr(boosting_platform, "row_sums", sums)
    every_row = lambda self, rows: (bytes(self._ciphertexts), self._codes)  # noqa: E731
    monkeypatch.setattr(boosting_platform._PlatformAnswers, "_table", every_row)


def two_bins(seed: int) -> Table:
    """Rows of four features of two bins that say nothing of the label, which one row in seven has."""
    chance = Drbg(SAMPLING).child("two bins", seed)
    codes = [[chance.below(2) for _ in range(ROWS)] for _ in range(4)]
    labels = [int(chance.below(7) == 0) for _ in range(ROWS)]
    return Table(labels, TreeColumns.of(codes, [2] * 4, [0] * 4, ROWS), TreeColumns.of([], [], [], ROWS))


@BOTH
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_without_the_check_of_sides_a_row_that_is_counted_often_shows_its_label(
    bank_key: paillier.SecretKey, monkeypatch: pytest.MonkeyPatch, shown: str, seed: int
) -> None:
    table = two_bins(seed)
    bad, goods = table.labels.index(1), [row for row in range(ROWS) if not table.labels[row]]
    victims = goods[:3]
    victims.insert(seed, bad)
    contract = contract_of(model="boosted_trees", trees=1, depth=1, nodes=shown)
    counting_one_row_often(monkeypatch, victims)
    run = start(contract, table, bank_key)
    with pytest.raises(PeerError) as refusal:
        run.tree()
    assert refusal.value.rule == "BT01" and not run.bank.growth.trees
    monkeypatch.setattr(boosting_growth._Growing, "_check_sides", lambda self, node, cut, left: None)
    run = start(contract, table, bank_key)
    run.tree()
    assert victims[run.platform.cuts[0].feature] == bad


@BOTH
def test_sides_that_are_not_those_of_the_chosen_sums_end_the_run(bank_key: paillier.SecretKey, shown: str) -> None:
    def turned(message: Any) -> Any:
        if isinstance(message, wire.SplitBits):
            all_but_the_last = bytes(byte ^ 0xFF for byte in message.bits[:-1])
            return wire.SplitBits(place=message.place, bits=all_but_the_last + message.bits[-1:])
        return None

    with pytest.raises(PeerError) as refusal:
        platform_says(begun(bank_key, shown), turned)
    assert refusal.value.rule == "BT01"


# ---- a bank that subtracts


def drawing(monkeypatch: pytest.MonkeyPatch, second: Flags) -> None:
    """The bank grows its second tree on rows of its choice."""
    honest = Samples.rows
    monkeypatch.setattr(Samples, "rows", lambda self, tree: second if tree == 1 else honest(self, tree))


@BOTH
def test_without_the_rule_on_samples_the_difference_of_two_trees_tells_every_bin_of_a_row(
    bank_key: paillier.SecretKey, monkeypatch: pytest.MonkeyPatch, shown: str
) -> None:
    contract, roots = contract_of(model="boosted_trees", trees=2, depth=1, nodes=shown), list[Any]()
    drawing(monkeypatch, ~ONE)
    run = start(contract, TABLE, bank_key)
    run.tree(0)
    with pytest.raises(PeerError) as refusal:
        run.tree(1)
    assert refusal.value.rule == "BT02"
    monkeypatch.setattr(boosting_platform._PlatformAnswers, "_check_apart", lambda self, rows, others: None)
    honest = boosting_sums.node_sums
    monkeypatch.setattr("lianxin.federation.boosting.node_sums", lambda *args: roots.append(honest(*args)) or roots[-1])
    run = start(contract, TABLE, bank_key)
    run.tree(0)
    run.tree(1)
    bins_of_the_row = (roots[0] - roots[1])[0, :, :, 0].argmax(axis=1)
    assert bins_of_the_row.tolist() == TABLE.platform.codes[:, 7].tolist()


@BOTH
def test_samples_that_are_the_same_or_far_apart_are_answered(
    bank_key: paillier.SecretKey, monkeypatch: pytest.MonkeyPatch, shown: str
) -> None:
    for second in (EVERY, np.arange(ROWS) >= 50, np.arange(ROWS) % 2 == 0):
        drawing(monkeypatch, second)
        run = start(contract_of(model="boosted_trees", trees=2, depth=1, nodes=shown), TABLE, bank_key)
        run.tree(0)
        run.tree(1)
        assert run.platform.grown == 2


def of_firms(run: Run, firms: list[int] | None) -> Run:
    """The platform knows which firm each row is of; the bank goes by rows."""
    honest = run.platform_turn
    run.platform_turn = lambda number=0: replace(honest(number), firms=firms)  # type: ignore[method-assign]
    return run


MANY_OF_ONE = [min(row, 40) if row < 120 else row for row in range(ROWS)]  # the rows from 40 to 119 are one firm's
ONE_FIRM = {
    "sampled rows": instead(wire.TreeOpening, sampled=pack_flags(FIRST)),
    "rows of a node": nodes(FIRST),
    "rows of a cut": cuts((0, 0, 0, FIRST)),
}


@pytest.mark.parametrize("what", ONE_FIRM)
def test_many_rows_of_one_firm_do_not_fill_a_minimum(bank_key: paillier.SecretKey, what: str) -> None:
    with pytest.raises(PeerError) as refusal:
        bank_says(of_firms(begun(bank_key), MANY_OF_ONE), ONE_FIRM[what])
    assert refusal.value.rule == "BT02"
    with pytest.raises((PeerError, AssertionError)) as later:  # without firms the rows are enough, and it goes on
        bank_says(begun(bank_key), ONE_FIRM[what])
    assert "fewer firms" not in str(later.value)


@BOTH
def test_a_bank_that_knows_its_firms_asks_for_nothing_that_a_platform_refuses(
    bank_key: paillier.SecretKey, shown: str
) -> None:
    table, terms = made_up(ROWS, seed=5), {"model": "boosted_trees", "trees": 2, "depth": 3, "nodes": shown}
    firms = [row // 3 for row in range(ROWS)]  # eighty firms: no two sides of fifty each
    run = of_firms(start(contract_of(**terms), table, bank_key), firms)
    run.bank.growth.samples.firms = np.array(firms)
    run.grow()
    assert len(run.bank.growth.trees) == 2


# ---- growth that ends before its time


@BOTH
@pytest.mark.parametrize("gone", [239, 200], ids=["one row is left", "too few are left"])
def test_growth_ends_with_what_it_has_when_too_few_rows_are_left(
    bank_key: paillier.SecretKey, shown: str, gone: int
) -> None:
    run = start(contract_of(model="boosted_trees", trees=3, depth=1, nodes=shown), TABLE, bank_key)
    run.live = {1: (EVERY, np.arange(ROWS) >= gone)}
    assert not run.tree(0)
    before = len(run.said)
    assert run.tree(1) and run.platform.stopped
    assert [type(m).__name__ for _, m in run.said[before:]] == ["LiveRows", "LiveRows", "TreeOpening"]
    ensemble = run.bank.growth.ensemble()
    assert (ensemble.grown, len(ensemble.trees), len(ensemble.notes)) == (1, 1, 1)


def test_a_platform_that_says_no_row_is_live_gets_no_ciphertext(bank_key: paillier.SecretKey) -> None:
    run = begun(bank_key)
    heard = list[str]()

    def none(message: Any) -> Any:
        return wire.LiveRows(bitmap=pack_flags(NONE)) if isinstance(message, wire.LiveRows) else None

    def note(message: Any) -> None:
        heard.append(type(message).__name__)

    play(tampered(bank_tree_role(run.bank_turn()), note), tampered(platform_tree_role(run.platform_turn()), none))
    assert heard == ["LiveRows", "TreeOpening"] and not run.bank.growth.trees
