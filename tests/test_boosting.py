"""Boosted trees between two machines: shown and hidden nodes grow the trees of the clear reference, integer by integer."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from boosting_world import SAMPLING, Table, made_up, start
from conversations import bank_keys, contract_of, play

from lianxin.crypto import paillier
from lianxin.crypto.randomness import Drbg
from lianxin.federation import wire
from lianxin.federation.boosting import bank_open_role
from lianxin.federation.boosting_delivery import bank_cut_bits_role, platform_cut_bits_role
from lianxin.federation.boosting_ensemble import Ensemble, TreeColumns
from lianxin.federation.boosting_growth import TreeTerms
from lianxin.federation.boosting_platform import platform_open_role
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import PeerError
from lianxin.federation.streams import decode_bitmap
from lianxin.simulations.clear_trees import clear_ensemble, predict_clear

ROWS = 380
TABLE = made_up(ROWS, seed=3)
SAMPLED = {"row_sample_permille": 800, "column_sample_permille": 700, "validation_permille": 150, "patience": 2}


def clear(contract: RunContract, table: Table) -> Ensemble:
    return clear_ensemble(TreeTerms.of(contract), table.labels, table.platform, table.own, Drbg(SAMPLING))


def contract_for(nodes: str, **changes: Any) -> RunContract:
    return contract_of(
        **{"model": "boosted_trees", "trees": 2, "depth": 3, "nodes": nodes, "max_rows": 1024, **changes}
    )


@pytest.mark.parametrize("nodes", ["shown", "hidden"])
def test_joint_trees_are_the_clear_trees_integer_by_integer(bank_key: paillier.SecretKey, nodes: str) -> None:
    contract = contract_for(nodes)
    run = start(contract, TABLE, bank_key)
    joint = run.grow()
    assert joint == clear(contract, TABLE)
    assert run.platform.cuts == list(joint.platform_cuts) and joint.platform_cuts
    kinds = {TABLE.platform.shapes.kinds[cut.feature] for cut in joint.platform_cuts}
    assert len(kinds) > 1, "the table makes trees use only one kind of feature"


@pytest.mark.parametrize("nodes", ["shown", "hidden"])
def test_samples_weights_a_small_cap_and_validation_rows_change_nothing_of_that(
    bank_key: paillier.SecretKey, nodes: str
) -> None:
    contract = contract_for(nodes, split_bits=3, positive_weight_permille=3000, trees=3, depth=2, **SAMPLED)
    run = start(contract, TABLE, bank_key)
    joint = run.grow()
    assert joint == clear(contract, TABLE)
    assert len(run.platform.cuts) <= 3


def test_a_bank_without_features_grows_on_the_platforms_alone(bank_key: paillier.SecretKey) -> None:
    table = replace(TABLE, own=TreeColumns.of([], [], [], ROWS))
    contract = contract_for("shown", trees=1)
    assert start(contract, table, bank_key).grow() == clear(contract, table)


@pytest.mark.parametrize("nodes", ["shown", "hidden"])
def test_a_row_that_loses_consent_is_in_no_later_sum_and_no_later_side_is_asked_of_it(
    bank_key: paillier.SecretKey, nodes: str
) -> None:
    run = start(contract_for(nodes), TABLE, bank_key)
    every, fewer = np.ones(ROWS, dtype=np.bool_), np.ones(ROWS, dtype=np.bool_)
    fewer[:60] = False
    run.live = {1: (every, fewer)}  # the platform alone knows of it
    run.tree(0)
    before = len(run.said)
    run.tree(1)
    assert not run.bank.growth.active[:60].any() and run.bank.growth.active[60:].all()
    openings = [m for _, m in run.said[before:] if isinstance(m, wire.TreeOpening)]
    assert not any(decode_bitmap(openings[0].sampled, ROWS)[:60])
    for message in (m for _, m in run.said[before:] if isinstance(m, wire.SplitChoice)):
        assert not any(any(decode_bitmap(cut.rows, ROWS)[:60]) for cut in message.cuts if cut.rows)
    sides = [m for _, m in run.said[before:] if isinstance(m, wire.SplitBits)]
    assert nodes == "shown" or all(len(m.bits) == (ROWS - 60 + 7) // 8 for m in sides)


def test_with_shown_nodes_the_smaller_sibling_alone_is_asked_for(bank_key: paillier.SecretKey) -> None:
    run = start(contract_for("shown", trees=1), TABLE, bank_key)
    run.grow()
    asked = {m.level: list(m.rows) for _, m in run.said if isinstance(m, wire.TreeNodes)}
    assert [len(asked[level]) for level in range(3)] == [1, 1, 2]
    whole = sum(decode_bitmap(asked[0][0], ROWS))
    for level in (1, 2):
        assert sum(sum(decode_bitmap(rows, ROWS)) for rows in asked[level]) <= whole // 2


def shape(message: Any) -> tuple[str, int]:
    """Return what an eavesdropper of lengths and A itself see of a hidden message that names no cut."""
    return type(message).__name__, message.ByteSize()


def test_with_hidden_nodes_a_trees_messages_but_the_cuts_are_as_long_whatever_the_nodes_hold(
    bank_key: paillier.SecretKey,
) -> None:
    turned = replace(TABLE, labels=made_up(ROWS, seed=11).labels)
    seen = []
    for table in (TABLE, turned):
        run = start(contract_for("hidden", trees=1), table, bank_key)
        run.grow()
        seen.append([shape(m) for party, m in run.said if party == "bank" and not isinstance(m, wire.SplitChoice)])
        assert all(not m.rows for _, m in run.said if isinstance(m, wire.TreeNodes))
        assert all(not cut.rows for _, m in run.said if isinstance(m, wire.SplitChoice) for cut in m.cuts)
    assert seen[0] == seen[1]
    shown = []
    for table in (TABLE, turned):  # and with shown nodes they are not: the comparison can tell
        run = start(contract_for("shown", trees=1), table, bank_key)
        run.grow()
        shown.append(
            [m.SerializeToString() for party, m in run.said if party == "bank" and isinstance(m, wire.TreeNodes)]
        )
    assert shown[0] != shown[1]


def test_with_hidden_nodes_a_cut_is_asked_once_and_in_ascending_order(bank_key: paillier.SecretKey) -> None:
    run = start(contract_for("hidden", trees=3, depth=2), TABLE, bank_key)
    run.grow()
    levels = [
        [(cut.feature, cut.bin, cut.kind) for cut in m.cuts] for _, m in run.said if isinstance(m, wire.SplitChoice)
    ]
    asked = [cut for level in levels for cut in level]
    assert len(asked) == len(set(asked)) == len(run.platform.cuts)
    assert all(level == sorted(level) for level in levels)


def test_one_seed_gives_one_transcript_with_and_without_workers(bank_key: paillier.SecretKey) -> None:
    said = []
    with ThreadPoolExecutor(2) as workers:
        for executor in (None, workers):
            run = start(contract_for("shown", trees=1, depth=2), TABLE, bank_key)
            run.executor = executor
            run.grow()
            said.append([m.SerializeToString(deterministic=True) for _, m in run.said])
    assert said[0] == said[1]


def test_no_ciphertext_is_said_twice(bank_key: paillier.SecretKey) -> None:
    run = start(contract_for("hidden", trees=2, depth=2), TABLE, bank_key)
    run.grow()
    width, seen = bank_key.public.ciphertext_bytes, list[bytes]()
    for _, message in run.said:
        if isinstance(message, wire.TreeGradients | wire.NodeHistograms):
            data = message.ciphertexts[8:]
            seen += [data[at : at + width] for at in range(0, len(data), width)]
    assert len(seen) > 4 * ROWS and len(set(seen)) == len(seen)


def test_shapes_and_key_cross_once_and_shapes_outside_the_contract_are_refused(
    bank_key: paillier.SecretKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(contract_for("shown"), TABLE, bank_key)
    roles = (
        bank_open_role(run.work("bank"), bank_keys(bank_key)),
        platform_open_role(run.work("platform"), TABLE.platform),
    )
    shapes, public, said = play(*roles)
    assert shapes == TABLE.platform.shapes and public.n == bank_key.public.n
    assert [type(m).__name__ for _, m in said] == ["TrainingKey", "TreeFeatures"]
    monkeypatch.setattr("lianxin.federation.boosting.announce_key", lambda *_: (b"modulus", b"proof"))
    for bins, kinds in (([33], [0]), ([1], [0]), ([], []), ([3], [3]), ([3, 3], [0]), ([3] * 7, [0] * 7)):
        role = bank_open_role(run.work("bank"), bank_keys(bank_key))
        next(role)
        role.send(None)
        with pytest.raises(PeerError) as refusal:
            role.send(wire.TreeFeatures(bins=bins, kinds=kinds))
        assert refusal.value.rule == "BT06"


def test_the_delivered_sides_score_every_firm_as_the_joined_table_does(bank_key: paillier.SecretKey) -> None:
    contract = contract_for("shown", trees=2, depth=2, chunk_bytes=64 * 1024)
    run = start(contract, TABLE, bank_key)
    ensemble = run.grow()
    fresh = made_up(ROWS, seed=99)
    firms = TreeColumns(
        np.minimum(fresh.platform.codes, TABLE.platform.codes.max(axis=1)[:, None]), TABLE.platform.shapes
    )
    sides, rows = firms.sides(run.platform.cuts), list(range(0, 2 * ROWS, 2))
    bank = bank_cut_bits_role(run.work("bank"), len(ensemble.platform_cuts), 2000)
    (got_rows, bits), _, _ = play(bank, platform_cut_bits_role(run.work("platform"), rows, sides))
    assert got_rows == rows
    assert (ensemble.predict(TABLE.own, bits) == predict_clear(ensemble, firms, TABLE.own)).all()


@pytest.mark.parametrize("bad", ["twice", "short", "beyond", "empty"])
def test_sides_of_cuts_that_do_not_fit_are_refused(bank_key: paillier.SecretKey, bad: str) -> None:
    run = start(contract_for("shown"), TABLE, bank_key)
    rows = b"".join(row.to_bytes(4, "big") for row in ((5, 5) if bad == "twice" else (5, 6)))
    bits = {"twice": b"\x80\x00", "short": b"\x80", "beyond": b"\x81\x00", "empty": b""}[bad]
    role = bank_cut_bits_role(run.work("bank"), 3, 100)
    next(role)
    with pytest.raises(PeerError) as refusal:
        role.send(wire.CutBits(chunk=0, rows=b"" if bad == "empty" else rows, bits=bits, last=bad != "empty"))
    assert refusal.value.rule == "BT06"
