"""Boosted trees in joint scoring: sides of the bank's own cuts alone, by consents that let them be told, beside a scorecard."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scoring_world
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from scoring_world import AGREEMENT, ASKER, BANK, PLATFORM, RUN, STRANGER, Scene
from torture import cases

from lianxin.federation import scoring
from lianxin.federation.errors import InputFault, PeerError
from lianxin.federation.scoring import SubScore
from lianxin.parties import cli, score_parts, store_schema
from lianxin.parties.auditor import verify_run
from lianxin.parties.config import load_run
from lianxin.parties.identifiers import subject_type_of
from lianxin.parties.score_cuts import BankCuts, ServedTrees
from lianxin.parties.score_models import CHALLENGER, CHAMPION, ModelShelf, model_of
from lianxin.parties.score_parts import served_model
from lianxin.parties.score_platform import check_fields, completed
from lianxin.parties.score_trees import Scale, TreeModel
from lianxin.simulations import scoring_scene
from lianxin.simulations.layout import APPROVER, PROPOSER, Layout
from lianxin.simulations.scoring_scene import TREES

OPEN, CLOSED = "sides may be told", "scores alone"


@pytest.fixture(scope="module")
def laid(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    return scoring_world.lay(tmp_path_factory.mktemp("trees"), trees=True)


@pytest.fixture(scope="module")
def shared(laid: Layout) -> Iterator[Scene]:
    with scoring_world.running(laid) as scene:
        ModelShelf(scene.bank.node).challenge(TREES, "operator-sun")
        yield scene


def borrower(scene: Scene, kind: str) -> str:
    """Return an enterprise of both tables that no test before asked for, whose consent is of this kind."""
    known = scene.platform.table.identifiers
    told = set(scoring_scene.tells_sides(known))
    firms = set(scoring_scene.consented(known)) - told if kind == CLOSED else told
    asked = (f for f in scene.bank.table.identifiers if f in firms and f not in scene.taken)
    firm = next(asked)
    scene.taken.add(firm)
    return firm


def score(scene: Scene, *firms: str, model: str = "") -> list[dict[str, Any]]:
    answer = scene.bank.scorer.score(scene.asker, [{"firm": firm} for firm in firms], model, ASKER)
    return list(answer["firms"])


def trees_of(scene: Scene) -> TreeModel:
    model = model_of(scene.bank.node, TREES)
    assert isinstance(model, TreeModel)
    return model


def in_clear(scene: Scene, firm: str, served: BankCuts | None = None) -> scoring.SubScore:
    """Return the platform's part of the trees for a firm, of its row in the table."""
    served = served or served_model(scene.platform.node, TREES).for_bank(BANK)
    row = scene.platform.table.identifiers.index(firm)
    (part,) = served.parts({name: [scene.platform.table.columns[name][row]] for name in served.fields})
    return part


# ---- what crosses


@given(
    st.integers(1, 64).flatmap(lambda cuts: st.lists(st.lists(st.booleans(), min_size=cuts, max_size=cuts), max_size=5))
)
@cases(per_example=5)
def test_sides_are_read_as_they_were_written_in_the_bytes_of_a_training(rows: list[list[bool]]) -> None:
    sides = np.array(rows, dtype=np.bool_).reshape(len(rows), len(rows[0]) if rows else 3)
    values = scoring.cut_values(sides)
    assert (scoring.sides_of_cuts([SubScore(value) for value in values], sides.shape[1]) == sides).all()
    for value, row in zip(values, sides, strict=True):
        assert scoring.encode_part(SubScore(value))[1:9] == np.packbits(row).tobytes().ljust(8, b"\0")


@pytest.mark.rule("Q04")
def test_what_is_no_part_of_these_trees_is_refused(shared: Scene) -> None:
    with pytest.raises(PeerError) as reasons:
        scoring.sides_of_cuts([SubScore(0, (1,))], 3)
    with pytest.raises(PeerError) as more:
        scoring.sides_of_cuts([SubScore(1)], 63)
    assert (reasons.value.rule, more.value.rule) == ("Q04", "Q04")
    model = trees_of(shared)
    row: dict[str, list[Any]] = {name: [None] for name in model.fields}
    with pytest.raises(PeerError):
        model.score(row, [1])
    with pytest.raises(InputFault, match=f"has no column {model.fields[0]}, which the trees of run {TREES} need"):
        model.score({name: values for name, values in row.items() if name != model.fields[0]}, [0])


# ---- who has which part


def test_a_firm_that_consented_to_scores_alone_has_a_scorecards_part_and_none_of_the_trees(shared: Scene) -> None:
    before = len(shared.leaves(PLATFORM, "release"))
    firms = [borrower(shared, OPEN), borrower(shared, CLOSED)]
    told, closed = score(shared, *firms)
    assert [(one["run"], one["role"], one["part"]) for one in told["scores"]] == [
        (RUN, CHAMPION, "joint"), (TREES, CHALLENGER, "joint"),
    ]  # fmt: skip
    assert [one["part"] for one in closed["scores"]] == ["joint", "bank_only"]
    assert (told["platform"], closed["platform"]) == ("score", "score")
    releases = shared.leaves(PLATFORM, "release")[before:]
    assert [(one["mode"], one["rows"]) for one in releases] == [("SCORE_ONLY", 2), ("SPLITS", 1)]
    assert [one["models"] for one in shared.leaves(BANK, "score")[-2:]] == [[RUN], [TREES]]
    assert releases[1]["excluded"] == [{"rule": "R03", "firms": 1}]
    assert set(releases[1]["fields"]) == set(served_model(shared.platform.node, TREES).for_bank(BANK).fields)


def test_by_releases_for_scores_sides_would_be_told_without_such_a_consent(
    shared: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    firm = borrower(shared, CLOSED)
    assert shared.ask(firm, models=(TREES,)).by_firm[firm] == (None,)
    monkeypatch.setattr(BankCuts, "mode", scoring.MODE)
    assert shared.ask(firm, models=(TREES,)).by_firm[firm] == (in_clear(shared, firm),)


def test_a_score_is_the_ensembles_log_odds_in_points_and_the_chance_is_its_own(shared: Scene) -> None:
    firm, model = borrower(shared, OPEN), trees_of(shared)
    (found,) = score(shared, firm, model=TREES)
    table = shared.bank.table
    row = max(place for place, name in enumerate(table.identifiers) if name == firm)
    bins = model.encode({name: [table.columns[name][row]] for name in model.fields})
    sides = scoring.sides_of_cuts([in_clear(shared, firm)], len(model.joint.platform_cuts))
    z = int(model.raw(bins, [0], sides)[0]) / 2**24
    scale = model.scale
    points = scale.base_score + scale.points_to_double_odds / np.log(2) * (-z - np.log(scale.base_odds))
    (one,) = found["scores"]
    assert one == {
        "run": TREES, "role": CHALLENGER, "part": "joint", "score": round(points),
        "pd_micro": round(1e6 / (1 + np.exp(-z))), "reasons": [],
    }  # fmt: skip


def test_points_stand_for_odds_as_the_contract_says() -> None:
    scale, double = Scale(20, 600, 50), round(np.log(2) * 2**24)
    fifty = -round(np.log(50) * 2**24)
    assert scale.points(np.array([fifty, fifty - double, fifty + double])).tolist() == [600, 620, 580]
    raw = np.arange(-400, 400) << 16
    bands = scale.bands(raw, [int(value > 0) for value in raw])
    assert len(bands) == 10 and sum(band[2] for band in bands) == len(raw)
    assert [band[4] for band in bands] == sorted((band[4] for band in bands), reverse=True)
    assert scale.bands(raw[:0], []) == ()


def test_a_firm_without_the_platforms_part_is_scored_by_the_banks_own_trees_and_marked(shared: Scene) -> None:
    stranger, known = score(shared, STRANGER, borrower(shared, OPEN), model=TREES)
    assert (stranger["platform"], stranger["own"], stranger["scores"][0]["part"]) == ("none", "missing", "bank_only")
    assert known["scores"][0]["part"] == "joint"
    model = trees_of(shared)
    (alone,) = model.score({name: [None] for name in model.fields}, [None])
    assert stranger["scores"][0]["score"] == alone.score and alone.model == "bank_only"


def test_a_firm_whose_code_may_not_leave_is_scored_here(shared: Scene) -> None:
    trader = next(f for f in shared.platform.table.identifiers if subject_type_of(f) == "IND")
    before = len(shared.leaves(PLATFORM, "score"))
    (found,) = score(shared, trader)
    assert found["platform"] == "here" and [one["part"] for one in found["scores"]] == ["bank_only"] * 2
    assert len(shared.leaves(PLATFORM, "score")) == before


# ---- equal answers and equal work


def test_unknown_and_unauthorised_firms_have_the_same_bytes_after_the_same_work(
    shared: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = {
        OPEN: borrower(shared, OPEN), CLOSED: borrower(shared, CLOSED), "silent": shared.silent()[0], "none": STRANGER,
    }  # fmt: skip
    node, seen, worked, wrote = shared.platform.node, dict[str, bytes](), dict[str, int](), dict[str, list[int]]()
    shared.ask(kinds["silent"], models=(TREES,))
    decode, parts = scoring.decode_parts, BankCuts.parts
    for kind, firm in kinds.items():
        monkeypatch.setattr(scoring, "decode_parts", lambda data, n, k=kind: seen.update({k: data}) or decode(data, n))
        rows = list[int]()
        monkeypatch.setattr(BankCuts, "parts", lambda *told, r=rows: r.append(1) or parts(*told))
        before = _counted(node)
        shared.ask(firm, models=(TREES,))
        wrote[kind] = [after - first for after, first in zip(_counted(node), before, strict=True)]
        worked[kind] = len(rows)
    assert seen[OPEN][:1] == b"\x01" and seen[CLOSED] == seen["silent"] == seen["none"] == scoring.NOTHING
    assert set(worked.values()) == {1} and len(set(map(tuple, wrote.values()))) == 1


def _counted(node: Any) -> tuple[int, ...]:
    """Return how many leaves, uses and lists of consents a node's store holds."""
    tables = (store_schema.leaves, store_schema.uses, store_schema.release_consents)
    with node.store.reading() as connection:
        return tuple(connection.scalar(sa.select(sa.func.count()).select_from(table)) for table in tables)


# ---- what is refused


@pytest.mark.rule("Q02")
def test_a_request_for_models_of_two_kinds_is_refused(shared: Scene) -> None:
    firm, before = borrower(shared, OPEN), len(shared.leaves(PLATFORM, "release"))
    with pytest.raises(PeerError, match="refused by rule Q02"):
        shared.ask(firm, models=(RUN, TREES))
    assert len(shared.leaves(PLATFORM, "release")) == before
    assert shared.ask(firm, models=(TREES,)).by_firm[firm] == (in_clear(shared, firm),)


@pytest.mark.rule("Q06")
def test_a_bank_has_the_sides_of_its_own_cuts_and_one_without_any_is_refused(
    shared: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = served_model(shared.platform.node, TREES)
    assert isinstance(honest, ServedTrees)
    mine, firm = honest.for_bank(BANK), borrower(shared, OPEN)
    right, other = in_clear(shared, firm), replace(mine, cuts=mine.cuts[1:])
    monkeypatch.setitem(shared.desk._models, TREES, replace(honest, banks={BANK: mine, "bank-2": other}))
    assert shared.ask(firm, models=(TREES,)).by_firm[firm] == (right,)
    monkeypatch.setattr(ServedTrees, "for_bank", lambda self, _bank: self.banks["bank-2"])
    second = borrower(shared, OPEN)
    found = shared.ask(second, models=(TREES,)).by_firm[second]
    assert found != (in_clear(shared, second, mine),)  # what the check keeps away
    monkeypatch.undo()
    monkeypatch.setitem(shared.desk._models, TREES, replace(honest, banks={"bank-2": other}))
    with pytest.raises(PeerError, match="refused by rule Q06"):
        shared.ask(firm, models=(TREES,))


def test_an_agreement_over_trees_has_the_fields_of_the_cuts_and_refuses_models_that_are_not_whole(
    shared: Scene, laid: Layout
) -> None:
    node, terms = shared.platform.node, load_run(laid.folder / f"{AGREEMENT}.toml")
    both = completed(node, terms.model_copy(update={"features": []})).features
    alone = completed(node, terms.model_copy(update={"features": [], "models": [TREES]})).features
    assert set(alone) == set(served_model(node, TREES).for_bank(BANK).fields) <= set(both)
    path = node.run_folder(TREES) / "model.json"
    kept = json.loads(path.read_text())
    cuts = kept["banks"][BANK]["cuts"]
    cases_: list[tuple[Any, str]] = [
        ({BANK: {"cuts": [], "trees": 3}}, f"{BANK} has no trees of run {TREES} that cut a field of the platform"),
        ({"bank-2": {"cuts": cuts}}, f"{BANK} has no trees"),
        ({BANK: {"cuts": [*cuts, cuts[0]]}}, "damaged"),
        ({BANK: {"cuts": [[99, 0, 0]]}}, "damaged"),
        ({BANK: {"cuts": [[0, 99, 0]]}}, "damaged"),
        ([], "damaged"),
    ]
    try:
        for banks, sentence in cases_:
            path.write_text(json.dumps(kept | {"banks": banks}))
            with pytest.raises(InputFault, match=sentence):
                completed(node, terms)
    finally:
        path.write_text(json.dumps(kept))


@pytest.mark.rule("R39")
def test_trees_over_a_field_that_is_for_computing_alone_are_not_agreed(
    shared: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, contract = shared.platform.node, shared.desk.contract
    check_fields(node, contract)
    name = next(
        n for n, entry in node.catalogue.items() if entry.default_release == "COMPUTE" and entry.class_ == "BIZ"
    )
    record = json.loads((node.run_folder(TREES) / "model.json").read_text())
    record["features"][0]["field"] = name
    monkeypatch.setattr(score_parts, "read_model", lambda *_told: (contract, record))
    terms = {**contract.record, "models": [TREES]}
    terms["fields"] = [*terms["fields"], {"provider": PLATFORM, "field": name, "use": "feature"}]
    with pytest.raises(InputFault, match=f"field {name} may not be used for scores of purpose P3 \\(rule R39\\)"):
        check_fields(node, type(contract)(terms))


def test_a_banks_damaged_trees_are_refused_by_name(shared: Scene) -> None:
    path = shared.bank.node.run_folder(TREES) / "model.json"
    kept = json.loads(path.read_text())
    joint = kept["ensemble"]
    try:
        for broken in (
            {name: value for name, value in kept.items() if name != "bands"},
            kept | {"feature_rows": kept["feature_rows"][:-1]},
            kept | {"ensemble": joint | {"own_cuts": [[99, 0, 0], *joint["own_cuts"][1:]]}},
        ):
            path.write_text(json.dumps(broken))
            with pytest.raises(InputFault, match="damaged or of an earlier version"):
                model_of(shared.bank.node, TREES)
    finally:
        path.write_text(json.dumps(kept))


# ---- the bank's people


def test_trees_are_promoted_by_a_second_person_scored_and_watched_by_the_same_commands(
    shared: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    config, table = str(shared.network.layout.home(BANK) / "node.toml"), shared.network.layout.folder / "firms.csv"

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.run(["bank", *arguments, "--node", config])
        told = capsys.readouterr()
        return code, told.out, told.err

    assert f"{TREES}: challenger" in run("model", "list")[1]
    code, _, error = run("model", "promote", TREES, "--operator", PROPOSER)
    assert code == 2 and "R26" in error
    assert run("model", "promote", TREES, "--operator", APPROVER)[0] == 0
    assert ModelShelf(shared.bank.node).serving([RUN, TREES]) == {TREES: CHAMPION}
    firms = [borrower(shared, OPEN) for _ in range(6)]
    table.write_text("uscc\n" + "\n".join(firms) + "\n")
    answer = json.loads(run("score", str(table), "--operator", ASKER, "--json")[1].splitlines()[-1])
    assert [(one["firm"], one["scores"][0]["part"]) for one in answer["firms"]] == [(f, "joint") for f in firms]
    code, text, _ = run("monitor", "--model", TREES)
    assert code == 0 and f"model of run {TREES}" in text and "joint: index" in text and "bank_only:" in text
    assert all(f"own/{name}: index" in text for name in trees_of(shared).fields)
    code, _, error = run("card", TREES)
    assert code == 2 and "boosted trees, which have no card: `lianxin bank score`" in " ".join(error.split())


# ---- evidence, last of the module: the agreement ends


def test_the_evidence_of_an_agreement_over_both_kinds_verifies(shared: Scene) -> None:
    firm = borrower(shared, OPEN)
    for model in (RUN, TREES):
        assert score(shared, firm, model=model)[0]["platform"] == "score"
    assert {"SCORE_ONLY", "SPLITS"} <= {leaf["mode"] for leaf in shared.leaves(PLATFORM, "release")}
    verdict = verify_run(shared.end())
    assert verdict.ok, verdict.failures
