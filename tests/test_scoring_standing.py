"""One version of a score a quarter, few models a firm, no model of one or two fields: what distinct sub-scores would tell."""

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import scoring_world
import sqlalchemy as sa
from query_world import wait_for
from scoring_world import AGREEMENT, BANK, PLATFORM, RUN, STRANGER, Scene

from lianxin.federation import scoring
from lianxin.federation.errors import InputFault, PeerError, PeerGone, RunStopped
from lianxin.parties import retention, score_parts, score_standing, store_ledger, store_schema
from lianxin.parties.clock import quarter_of
from lianxin.parties.coding import BinSpec
from lianxin.parties.config import load_run
from lianxin.parties.score_parts import served_model
from lianxin.parties.score_platform import completed
from lianxin.parties.trace import HoldingTrace

own = scoring_world.own


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A scene whose agreement serves six models, copies of the first."""
    with scoring_world.running(scoring_world.lay(tmp_path_factory.mktemp("standing"))) as running:
        models = [RUN, *(f"run-{number}" for number in range(2, 7))]
        contract = running.asker.contract
        wider = type(contract)({**contract.record, "models": models})
        running.desk._models |= dict.fromkeys(models, running.desk._model(RUN))
        running.desk.contract = running.asker.contract = wider
        yield running


def value(scene: Scene, firm: str, model: str = RUN) -> int | None:
    (part,) = scene.ask(firm, models=(model,)).by_firm[firm] or (None,)
    return None if part is None else part.value


def rise(scene: Scene, firm: str) -> None:
    """Change every number of a firm's row at the platform."""
    table, row = scene.platform.table, scene.platform.table.identifiers.index(firm)
    for name in scene.fields:
        held = table.columns[name][row]
        table.columns[name][row] = 10**9 if not isinstance(held, str) and held != 10**9 else -(10**9)


# ---- one version a quarter


def test_a_later_request_of_the_quarter_has_the_first_value_whatever_became_of_the_data(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    (firm,) = scene.fresh()
    first = value(scene, firm)
    rise(scene, firm)
    assert value(scene, firm) == first
    with monkeypatch.context() as patched:
        patched.setattr(scene.platform.node.store, "standing", lambda *_told: {})
        assert value(scene, firm) != first  # what a bank would see of each change


def test_quarters_are_those_of_the_calendar() -> None:
    times = ("2026-01-01", "2026-03-31", "2026-04-01", "2026-12-31")
    assert [quarter_of(f"{day}T00:00:00Z") for day in times] == ["2026-Q1", "2026-Q1", "2026-Q2", "2026-Q4"]


def test_what_stands_is_kept_by_subject_key_until_the_quarter_is_over(scene: Scene) -> None:
    (firm,) = scene.fresh()
    store, key = scene.platform.node.store, scene.platform.node.boundary.subject_key(firm)
    given = scene.ask(firm).by_firm[firm] or ()
    with store.reading() as connection:
        rows = list(connection.execute(sa.select(store_schema.standing_scores)))
    (row,) = [one for one in rows if one.subject_key == key]
    assert (row.bank, row.model) == (BANK, RUN) and row.data == scoring.encode_part(given[0])
    assert all(firm not in str(one) for one in rows)
    quarter = quarter_of(scene.platform.node.clock.now())
    assert row.quarter == quarter and store.drop_standing(quarter) == 0
    old = store_ledger.StandingRow(key, BANK, "2019-Q4", RUN, row.data)
    with store.writing() as connection:
        store_ledger.put_standing(connection, [old])
    retention.sweep(scene.platform.node)
    assert store.standing(BANK, "2019-Q4", [key]) == {} and store.standing(BANK, quarter, [key])[key] == {RUN: row.data}


def test_a_value_whose_answer_was_not_written_does_not_stand(own: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    (firm,) = own.fresh()
    expected = value(own, own.fresh()[0])
    assert expected is not None

    def full(*_told: Any, **_named: Any) -> None:
        raise RunStopped("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(own.platform.node.ledger, "append_envelope", full)
        with pytest.raises(PeerGone):
            own.ask(firm)
        wait_for(lambda: not own.desk._open)
    key = own.platform.node.boundary.subject_key(firm)
    assert not own.platform.node.store.standing(BANK, quarter_of(own.platform.node.clock.now()), [key])
    assert value(own, firm) is not None


# ---- few models a firm


def test_a_fifth_model_of_a_firm_in_a_quarter_has_no_score_and_spends_no_use(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    (firm,) = scene.silent()
    scene.consent(firm, max_uses=5)
    known = [value(scene, firm, f"run-{number}") for number in range(1, 5)]
    assert None not in known
    before = len(scene.leaves(PLATFORM, "release"))
    assert value(scene, firm, "run-5") is None
    assert [leaf["rows"] for leaf in scene.leaves(PLATFORM, "release")[before:]] == [0]
    both = scene.ask(firm, models=("run-5", "run-1")).by_firm[firm] or ()
    assert both[0] is None and both[1] is not None  # the fifth use, by a model that stands
    (other,) = scene.fresh()
    assert [value(scene, other, f"run-{number}") is None for number in (1, 2, 3, 4, 5, 1)] == [False] * 4 + [
        True,
        False,
    ]
    with monkeypatch.context() as patched:
        patched.setattr(score_standing, "_left", lambda _kept, models, _most: frozenset(models))
        assert value(scene, other, "run-6") is not None  # what the limit keeps back


def test_as_much_is_looked_up_and_written_for_a_firm_without_a_score(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    (full,) = scene.fresh()
    for number in range(1, 5):
        value(scene, full, f"run-{number}")
    store, seen = scene.platform.node.store, list[tuple[int, int]]()
    honest, put = store.standing, store_ledger.put_standing
    looked: list[int] = []
    monkeypatch.setattr(store, "standing", lambda b, q, s: looked.append(len(s)) or honest(b, q, s))
    monkeypatch.setattr(store_ledger, "put_standing", lambda c, rows: _noted(seen, looked, rows) or put(c, rows))
    for firm in (scene.fresh()[0], scene.silent()[0], STRANGER, full):
        scene.ask(firm, models=("run-5",))
    assert seen == [(2, 1)] * 4


def _noted(seen: list[tuple[int, int]], looked: list[int], rows: Any) -> None:
    if rows:
        seen.append((looked.pop(), len(rows)))


# ---- models of one or two fields


@pytest.mark.rule("Q06")
def test_a_model_of_fewer_than_three_fields_is_not_served_since_its_part_is_the_field(
    own: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, path = own.platform.node, own.platform.node.run_folder(RUN) / "model.json"
    kept = json.loads(path.read_text())
    terms = load_run(own.network.layout.folder / f"{AGREEMENT}.toml").model_copy(update={"features": []})
    narrow = [one for one in kept["features"] if len(set(one["points"])) > 2][:1]
    flat = [one | {"points": [0] * len(one["points"])} for one in kept["features"][-2:] if one != narrow[0]]
    path.write_text(json.dumps(kept | {"features": narrow + flat}))
    with pytest.raises(InputFault, match="depends on 1 of its fields and would all but tell them"):
        completed(node, terms)
    own.desk._models.clear()
    firms = own.fresh(60)
    with pytest.raises(PeerError, match="refused by rule Q06"):
        own.ask(*firms)
    monkeypatch.setattr(score_parts, "check_breadth", lambda *_told: None)
    monkeypatch.setattr(served_model(node, RUN).__class__, "_reasons", lambda *_told: ())
    spec, bins = BinSpec.from_record(narrow[0]["bins"]), defaultdict(set)
    table = own.platform.table
    for firm, parts in own.ask(*firms).by_firm.items():
        row = table.identifiers.index(firm)
        bins[(parts or (None,))[0]].add(spec.encode([table.columns[narrow[0]["field"]][row]])[0])
    assert len(bins) > 2 and all(len(found) == 1 for found in bins.values())  # each sub-score names the bin


# ---- a conversation always ends


def test_a_disk_that_fails_at_the_end_of_a_conversation_leaves_nothing_of_it(
    own: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    (firm,) = own.fresh()
    assert own.has(firm)

    def full(_trace: HoldingTrace) -> None:
        raise RunStopped("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(HoldingTrace, "settle", full)
        with pytest.raises(RunStopped, match="the disk is full"):
            own.asker._hang_up()
        wait_for(lambda: not own.desk._open and not own.desk._roads)
        assert own.bank.node.store.setting(own.asker._open_key) is None
    assert own.has(firm)


def test_a_bank_has_one_request_answered_at_a_time_and_a_cut_one_holds_nobody_up(tmp_path: Path) -> None:
    store = scoring_world.scoring_scene.Store(tmp_path / "store.sqlite")
    first, second = (score_standing.Turn(store, BANK, 0.05) for _ in range(2))
    first.take()
    with pytest.raises(PeerError):
        second.take()
    score_standing.Turn(store, "bank-2", 0.05).take()
    first.give_back()
    second.take()
    second.take()
    second.give_back()
    first.take()
