"""What a side may not ask or answer while trees grow: each refusal by its rule, and the attack that the check stops."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from boosting_world import SAMPLING, Run, made_up, start, tampered
from conversations import contract_of, play

from lianxin.crypto import paillier
from lianxin.crypto.errors import CiphertextRejected
from lianxin.crypto.randomness import Drbg
from lianxin.federation import boosting_platform, boosting_sums, wire
from lianxin.federation.boosting import bank_tree_role
from lianxin.federation.boosting_cells import plan_cells
from lianxin.federation.boosting_ensemble import Cut
from lianxin.federation.boosting_growth import TreeTerms
from lianxin.federation.boosting_platform import platform_tree_role
from lianxin.federation.boosting_rows import pack_flags
from lianxin.federation.errors import GateRefused, PeerError
from lianxin.simulations.clear_trees import clear_ensemble

ROWS = 240
TABLE = made_up(ROWS, seed=5)
EVERY = np.ones(ROWS, dtype=np.bool_)
FIRST, ONE, NONE = (np.arange(ROWS) < 120, np.arange(ROWS) == 7, np.zeros(ROWS, dtype=np.bool_))
Change = Callable[[Any], Any]


def begun(key: paillier.SecretKey, nodes: str = "shown", **changes: Any) -> Run:
    return start(contract_of(model="boosted_trees", trees=1, depth=2, nodes=nodes, **changes), TABLE, key)


def bank_says(run: Run, change: Change) -> None:
    play(tampered(bank_tree_role(run.bank_turn()), change), platform_tree_role(run.platform_turn()))


def platform_says(run: Run, change: Change) -> None:
    play(bank_tree_role(run.bank_turn()), tampered(platform_tree_role(run.platform_turn()), change))


def instead(kind: type, at: int | None = None, **fields: Any) -> Change:
    """Return the change that gives messages of one type (and level) other fields."""

    def change(message: Any) -> Any:
        if not isinstance(message, kind) or (at is not None and message.level != at):
            return None
        said = {field.name: value for field, value in message.ListFields()}
        return kind(**{**said, **fields})

    return change


def nodes(*rows: Any, level: int = 0) -> Change:
    return instead(wire.TreeNodes, level, rows=[pack_flags(flags) for flags in rows])


def cuts(*said: tuple[Any, ...], level: int = 0) -> Change:
    return instead(
        wire.SplitChoice,
        level,
        cuts=[wire.Cut(feature=f, bin=b, kind=k, rows=pack_flags(r) if r is not None else b"") for f, b, k, r in said],
    )


ASKS_TOO_MUCH: dict[str, tuple[str, Change]] = {
    "rows under the minimum are sampled": ("BT02", instead(wire.TreeOpening, sampled=pack_flags(ONE))),
    "a bitmap of another length": ("BT02", instead(wire.TreeOpening, sampled=b"\xff")),
    "a feature that there is not": ("BT02", instead(wire.TreeOpening, features=[0, 1, 4])),
    "a feature twice": ("BT02", instead(wire.TreeOpening, features=[1, 1])),
    "no feature": ("BT02", instead(wire.TreeOpening, features=[])),
    "a tree that is not due": ("BT05", instead(wire.TreeOpening, tree=1)),
    "another tree ends": ("BT05", instead(wire.TreeGrown, tree=3)),
    "two roots": ("BT02", nodes(FIRST, ~FIRST)),
    "a node of one row": ("BT02", nodes(ONE)),
    "a node of all rows of the root but one": ("BT02", nodes(~ONE, level=1)),
    "a row in two nodes of a level": ("BT02", nodes(FIRST, EVERY, level=1)),
    "nodes of another level": ("BT02", instead(wire.TreeNodes, 0, level=1)),
    "no gradients for a row": ("BT02", instead(wire.TreeGradients, ciphertexts=b"")),
    "a feature that cannot be cut there": ("BT03", cuts((0, TABLE.platform.shapes.bins[0] - 1, 0, EVERY))),
    "an unknown feature": ("BT03", cuts((9, 0, 0, EVERY))),
    "a kind that does not fit": ("BT03", cuts((0, 0, 2, EVERY))),
    "an unknown kind": ("BT03", cuts((0, 0, 7, EVERY))),
    "sides of one row": ("BT02", cuts((0, 0, 0, ONE))),
    "two cuts of the root": ("BT03", cuts((0, 0, 0, FIRST), (1, 0, 0, ~FIRST))),
    "two cuts of a row in one level": ("BT03", cuts((0, 0, 0, EVERY), (1, 0, 0, FIRST), level=1)),
    "cuts of another level": ("BT03", instead(wire.SplitChoice, 0, level=1)),
}


@pytest.mark.parametrize("what", ASKS_TOO_MUCH)
def test_a_bank_that_asks_for_more_than_a_tree_needs_is_refused(bank_key: paillier.SecretKey, what: str) -> None:
    rule, change = ASKS_TOO_MUCH[what]
    with pytest.raises(PeerError) as refusal:
        bank_says(begun(bank_key), _fixed_chunk(change) if "gradients" in what else change)
    assert refusal.value.rule == rule


def _fixed_chunk(change: Change) -> Change:
    """An empty chunk of ciphertexts still stands behind its key's tag."""

    def changed(message: Any) -> Any:
        said = change(message)
        if said is not None:
            said.ciphertexts = message.ciphertexts[:8]
        return said

    return changed


def test_a_row_that_is_not_live_at_the_platform_is_not_sampled(bank_key: paillier.SecretKey) -> None:
    run = begun(bank_key)
    run.live = {0: (EVERY, FIRST)}
    with pytest.raises(PeerError) as refusal:
        bank_says(run, instead(wire.TreeOpening, sampled=pack_flags(EVERY)))
    assert refusal.value.rule == "BT02"


@pytest.mark.parametrize(
    ("change", "rule"),
    [(nodes(FIRST), "BT02"), (cuts((0, 0, 0, FIRST)), "BT03")],
    ids=["rows of a node", "rows of a cut"],
)
def test_with_hidden_nodes_rows_are_not_named(bank_key: paillier.SecretKey, change: Change, rule: str) -> None:
    with pytest.raises(PeerError) as refusal:
        bank_says(begun(bank_key, "hidden"), change)
    assert refusal.value.rule == rule


def test_no_tree_begins_after_the_last(bank_key: paillier.SecretKey) -> None:
    run = begun(bank_key)
    assert run.tree()
    with pytest.raises(PeerError) as refusal:
        run.tree()
    assert refusal.value.rule == "BT05"


def test_without_the_minimum_a_node_of_one_row_would_tell_every_bin_of_that_row(
    bank_key: paillier.SecretKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    def read(*args: Any) -> Any:
        opened.append(boosting_sums.node_sums(*args[:2], [(1, int(g[7]), int(h[7]))], *args[3:]))
        raise PeerError("the bank has read what it wanted", "DONE")

    run = begun(bank_key)
    growth = run.bank.growth
    g, h = growth._scales.quantised(np.full(ROWS, 1 / (1 + np.exp(-growth.base / 2**24))), growth._labels)
    monkeypatch.setattr("lianxin.federation.boosting.node_sums", read)
    monkeypatch.setattr(
        boosting_platform._PlatformAnswers,
        "_checked_rows",
        lambda self, data, among: boosting_platform.unpack_flags(data, len(among), "BT02"),
    )
    with pytest.raises(PeerError, match="wanted"):
        bank_says(run, nodes(ONE))
    bins_of_the_row = opened[0][0, :, :, 0].argmax(axis=1)
    assert bins_of_the_row.tolist() == TABLE.platform.codes[:, 7].tolist()


def every_bin(level: int = 1) -> Change:
    """The bank asks with hidden nodes for the two lowest cuts of feature 0 as well, whatever its tree needs."""
    return cuts((0, 0, 0, None), (0, 1, 0, None), level=level)


def test_without_the_cap_a_bank_reads_a_feature_bin_by_bin(
    bank_key: paillier.SecretKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begun(bank_key, "hidden", split_bits=1)
    with pytest.raises(PeerError) as refusal:
        bank_says(run, every_bin())
    assert refusal.value.rule == "BT04"
    run, bits = begun(bank_key, "hidden", split_bits=1), list[bytes]()
    monkeypatch.setattr(boosting_platform._PlatformAnswers, "_take", lambda self, cuts: None)

    def overheard(message: Any) -> None:
        bits.extend([message.bits] if isinstance(message, wire.SplitBits) else [])

    bank, platform = bank_tree_role(run.bank_turn()), platform_tree_role(run.platform_turn())
    with suppress(AssertionError, PeerError):  # the honest half of this bank waits for other answers than come
        play(tampered(bank, every_bin()), tampered(platform, overheard))
    read = [pack_flags(TABLE.platform.codes[0] <= bin_) for bin_ in (0, 1)]
    assert read[0] in bits and read[1] in bits


def test_new_cuts_are_charged_before_a_side_leaves_and_a_quota_that_is_used_up_lets_none_leave(
    bank_key: paillier.SecretKey,
) -> None:
    run, said, charged = begun(bank_key), list[str](), list[int]()

    def charge(fresh: int) -> None:
        charged.append(fresh)
        said.append("charged")

    def note(message: Any) -> None:
        said.append(type(message).__name__)

    run.platform.charge = charge
    platform_says(run, note)
    assert sum(charged) == len(run.platform.cuts) > 0
    assert said.index("charged") < said.index("SplitBits")
    run = begun(bank_key)

    def refuse(fresh: int) -> None:
        raise GateRefused("the bank's quota of split bits is used up", "M04")

    run.platform.charge = refuse
    said.clear()
    with pytest.raises(GateRefused):
        platform_says(run, note)
    assert "SplitBits" not in said and run.platform.cuts == []


def moved(sums: list[int], public: paillier.PublicKey, cell: int, by: int) -> list[int]:
    return [*sums[:cell], paillier.add_plain(public, sums[cell], by), *sums[cell + 1 :]]


def lying(monkeypatch: pytest.MonkeyPatch, cell: int, by: int) -> None:
    honest = boosting_platform.row_sums

    def lie(work: Any, public: Any, tables: Any, bins: Any) -> list[int]:
        return moved(honest(work, public, tables, bins), public, cell, by)

    monkeypatch.setattr(boosting_platform, "row_sums", lie)


@pytest.mark.parametrize("hidden", ["shown", "hidden"])
@pytest.mark.parametrize("by", [1, 1 << 12, -1, 1 << 40], ids=["row", "gradient", "minus a row", "curvature"])
def test_a_platform_that_lies_in_a_cell_is_caught(
    bank_key: paillier.SecretKey, monkeypatch: pytest.MonkeyPatch, hidden: str, by: int
) -> None:
    lying(monkeypatch, 2, by)
    with pytest.raises(PeerError) as refusal:
        begun(bank_key, hidden).grow()
    assert refusal.value.rule == "BT01"


def test_without_the_check_of_sums_the_lie_makes_another_model(
    bank_key: paillier.SecretKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begun(bank_key)
    honest = clear_ensemble(TreeTerms.of(run.contract), TABLE.labels, TABLE.platform, TABLE.own, Drbg(SAMPLING))
    layout = plan_cells(run.contract)
    gradients = 4_000_000 << layout.count_bits  # the lowest bin of the first feature seems to hold bads alone
    lying(monkeypatch, 0, gradients)
    monkeypatch.setattr(boosting_sums, "_check_sums", lambda sums, totals: None)
    assert run.grow() != honest


@pytest.mark.parametrize(
    "change",
    [
        instead(wire.NodeHistograms, ciphertexts=b""),
        instead(wire.NodeHistograms, last=False),
        instead(wire.NodeHistograms, chunk=3),
        instead(wire.SplitBits, place=5),
        instead(wire.SplitBits, bits=b"\x00"),
        instead(wire.LiveRows, bitmap=b"\x00"),
    ],
    ids=["no ciphertexts", "no last chunk", "another chunk", "another cut", "too few sides", "short"],
)
def test_an_answer_of_another_shape_is_refused(bank_key: paillier.SecretKey, change: Change) -> None:
    with pytest.raises((PeerError, CiphertextRejected)):
        platform_says(begun(bank_key), change)


def test_cuts_that_a_feature_takes_leave_something_on_both_sides() -> None:
    shapes = TABLE.platform.shapes
    for feature, (bins, kind) in enumerate(zip(shapes.bins, shapes.kinds, strict=True)):
        for cut in (Cut(feature, b, k) for b in range(9) for k in range(4)):
            taken = {0: cut.kind == 0, 1: cut.kind in (0, 1), 2: cut.kind == 2}[kind]
            whole = TABLE.platform.codes[feature][:0].tolist() + list(range(bins))
            left = {0: cut.bin + 1, 1: cut.bin + 2, 2: 1}.get(cut.kind, 0)
            room = cut.bin < bins if cut.kind == 2 else 0 < left < len(whole)
            assert shapes.fits(cut) == (taken and room and cut.bin < bins)
