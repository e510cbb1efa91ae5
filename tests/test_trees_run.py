"""Whole runs of boosted trees: joint trees are the trees in clear, rows leave with their consent, evidence and replay hold."""

import json
from pathlib import Path
from typing import Any

import pytest
import worlds
from conversations import contract_of
from worlds import Ends, World

from lianxin.crypto import canonical
from lianxin.federation import wire
from lianxin.federation.boosting_ensemble import Ensemble
from lianxin.federation.errors import GuardRefused, InputFault, PeerError
from lianxin.federation.model import Provenance
from lianxin.federation.session import SPLIT_STEPS, fitting_modes
from lianxin.parties import auditor_envelopes
from lianxin.parties.agreement import draft_contract, trees_fault
from lianxin.parties.auditor import verify_run
from lianxin.parties.bank_trees import BankTrees
from lianxin.parties.config import load_run
from lianxin.parties.consent import subject_key
from lianxin.parties.identity import load_identity
from lianxin.parties.node import SUBJECT_KEY_FILE, read_subject_key
from lianxin.parties.records import LoanTable, load_loan_table, read_table
from lianxin.parties.report import render
from lianxin.parties.tree_columns import specs_of, tree_columns
from lianxin.simulations import results, story
from lianxin.simulations.layout import START, Terms, choose_catalogue, lay_out
from lianxin.simulations.replay import replay_run
from lianxin.simulations.results_trees import TreeRun, grown_in_clear
from lianxin.simulations.tables import Inputs

ends, province = worlds.ends, worlds.province
TERMS = {
    "trees": 3, "depth": 2, "max_bins": 8, "row_sample_permille": 1000, "column_sample_permille": 700,
    "validation_permille": 100, "patience": 2, "positive_weight_permille": 2000, "min_rows": 50,
}  # fmt: skip
CONSENTS = {"compute_only_permille": 120, "revoke_after_round": 1}
_RUNS: dict[str, World] = {}


def run_of(nodes: str, folder: Path, inputs: Inputs) -> World:
    """Return a finished run with these node sets, made once in this process."""
    if nodes not in _RUNS:
        terms = {"model": "boosted_trees", "model_terms": TERMS | {"nodes": nodes}, "minimums": {}, **CONSENTS}
        chosen = Terms(**{"seed": 5, "matching": "ecdh", **worlds.QUICK, **worlds.SHORT, **worlds.CONSENTS, **terms})
        catalogue = choose_catalogue(
            inputs, None, nodes == "hidden", True, nodes == "shown"
        )  # the draft keeps banks' fields back
        _RUNS[nodes] = worlds.run(lay_out(folder / nodes, inputs, chosen, catalogue))
    return _RUNS[nodes]


@pytest.fixture(scope="session")
def shown(tmp_path_factory: pytest.TempPathFactory, province: Inputs) -> World:
    return run_of("shown", tmp_path_factory.mktemp("trees"), province)


@pytest.fixture(scope="session")
def hidden(tmp_path_factory: pytest.TempPathFactory, province: Inputs) -> World:
    return run_of("hidden", tmp_path_factory.mktemp("trees"), province)


def model_of(world: World, party: str) -> dict[str, Any]:
    return json.loads((world.layout.run_state(party) / "model.json").read_text())


def loans_of(world: World, bank: str) -> LoanTable:
    (party,) = (one for one in world.layout.inputs.banks if one.party == bank)
    return load_loan_table(read_table(party.path), worlds.ID, worlds.LABEL, worlds.SPLIT, None)


def consents_of(world: World, bank: str) -> dict[str, dict[str, Any]]:
    """Return the platform's consents for a bank by subject key."""
    lines = (world.layout.home(world.platform) / "consents.jsonl").read_bytes().splitlines()
    records = [canonical.decode_fragment(line)["record"] for line in lines]
    return {one["subject_key"]: one for one in records if one["recipient"] == bank}


def subject_of(world: World, firm: str) -> str:
    secret = read_subject_key(world.layout.home(world.platform) / "identity" / SUBJECT_KEY_FILE)
    return subject_key(secret, firm)


# ---- the model


def test_joint_trees_are_the_trees_in_clear_integer_by_integer(shown: World, hidden: World) -> None:
    for world in (shown, hidden):
        platform_model = model_of(world, world.platform)
        firms = results.load_firm_table(read_table(world.layout.inputs.platform.path), worlds.ID)
        for bank in world.banks:
            model, contract = model_of(world, bank), results.contract_of(world.layout)
            run = TreeRun(contract, bank, 5, platform_model, model, firms, loans_of(world, bank))
            assert grown_in_clear(run).to_record() == model["ensemble"]
            assert model["ensemble"]["trees"]
            assert platform_model["banks"][bank]["cuts"] == model["ensemble"]["platform_cuts"]
        assert any(one["cuts"] for one in platform_model["banks"].values())


def test_with_hidden_nodes_no_set_of_a_nodes_rows_leaves_a_bank(shown: World, hidden: World) -> None:
    for world, forms in ((shown, {"TreeNodes", "SplitChoice"}), (hidden, set())):
        found = set[str]()
        for bank in world.banks:
            out = [leaf for leaf in world.leaves(bank, "envelope") if leaf["direction"] == "out"]
            named = {
                leaf["message_type"] for leaf in out if any(one["form"] == "DESENSITISED" for one in leaf["forms"])
            }
            assert {"TreeNodes", "SplitChoice", "TreeOpening"} <= {leaf["message_type"] for leaf in out}
            found |= named
        assert found == forms


@pytest.mark.parametrize("nodes", ["shown", "hidden"])
def test_figures_evidence_and_report_of_a_run_of_trees(nodes: str, request: pytest.FixtureRequest) -> None:
    world: World = request.getfixturevalue(nodes)
    outcome = results.gather(world.layout, world.ran)
    figures = outcome.figures
    assert figures["ledger_verified"], outcome.verdict.failures
    assert figures["auc"]["overall"]["joint"] is not None
    for level, row in figures["auc"].items():
        assert row["joint"] == row["pooled"] == figures["auc_clear"][level] and set(row) == set(results.MODELS[:3])
    assert figures["seconds_per_tree"] > 0 and figures["rounds"] == TERMS["trees"]
    assert {bank: found["kept"] for bank, found in figures["trees"].items()} == {
        bank: len(model_of(world, bank)["ensemble"]["trees"]) for bank in world.banks
    }
    page = render(story.summary_of(world.layout, world.ran, outcome))
    assert "Importance of features" in page and "Weight of evidence" not in page and "utility_continuity_m" in page
    for bank in world.banks:
        shares = [one["share"] for one in story.tree_parts(world.layout, world.ran, outcome)["importance"]
                  if one["bank"] == bank]  # fmt: skip
        assert sum(shares) == pytest.approx(1.0)


def test_a_run_of_trees_replays_equal_in_every_message(shown: World) -> None:
    with worlds.known_keys():
        outcome = replay_run(shown.layout.folder)
    assert outcome.transcript_sha256 == shown.ran.summary["transcript_sha256"]


def test_a_kept_model_scores_as_it_did(shown: World) -> None:
    for bank in shown.banks:
        model, loans = model_of(shown, bank), loans_of(shown, bank)
        ensemble = Ensemble.from_record(model["ensemble"])
        platform = specs_of(model_of(shown, shown.platform)["features"])
        firms = results.load_firm_table(read_table(shown.layout.inputs.platform.path), worlds.ID)
        places = {firm: row for row, firm in enumerate(firms.identifiers)}
        rows = model["test_rows"]
        bits = tree_columns(platform, firms.columns, [places[loans.identifiers[r]] for r in rows])
        own = tree_columns(specs_of(model["features"]), loans.columns, rows)
        scores = json.loads((shown.layout.run_state(bank) / "scores.json").read_text())
        assert ensemble.predict(own, bits.sides(ensemble.platform_cuts)).tolist() == scores["joint"]


# ---- consent


def test_firms_that_agreed_to_computing_alone_take_no_part(shown: World) -> None:
    for bank in shown.banks:
        given, model, loans = consents_of(shown, bank), model_of(shown, bank), loans_of(shown, bank)
        rows = [*model["training_rows"], *model["test_rows"]]
        modes = {given[subject_of(shown, loans.identifiers[row])]["mode"] for row in rows}
        everyone = {one["mode"] for one in given.values()}
        assert modes == {"DESENSITISED"} and everyone == {"DESENSITISED", "COMPUTE_ONLY"}


def test_a_firm_that_withdraws_is_in_no_later_tree_and_is_not_scored(shown: World, hidden: World) -> None:
    for world in (shown, hidden):
        (line,) = (world.layout.home(world.platform) / "revocations.jsonl").read_bytes().splitlines()
        gone = canonical.decode_fragment(line)["record"]["subject_key"]
        model, loans = model_of(world, "bank-1"), loans_of(world, "bank-1")
        left = {model["training_rows"][place]: tree for place, tree in model["left"]}
        rows = [row for row in model["training_rows"] if subject_of(world, loans.identifiers[row]) == gone]
        assert rows and {left[row] for row in rows} == set(left.values()) == {2}
        assert len({loans.identifiers[row] for row in left}) == TERMS["min_rows"] + 1  # a drawn group beside it
        assert model_of(world, "bank-2")["left"] == []
        released = [leaf["rows"] for leaf in world.leaves(world.platform, "release")
                    if leaf["step"] == "boosting.split" and leaf["recipient"] == "bank-1"]  # fmt: skip
        assert released[0] == released[1] + 1 == released[-1] + 1
        summed = [leaf["rows"] for leaf in world.leaves(world.platform, "release")
                  if leaf["step"] == "boosting.histogram" and leaf["recipient"] == "bank-1"]  # fmt: skip
        assert summed[0] - summed[1] > TERMS["min_rows"] and len(set(summed[1:])) == 1


def test_with_shown_nodes_a_bank_releases_its_own_features_as_sides_and_its_label_to_be_computed_on(
    shown: World, hidden: World
) -> None:
    for world, expected in ((shown, {"COMPUTE_ONLY": {worlds.ID, worlds.LABEL}, "SPLITS": {worlds.ID}}),
                            (hidden, {"COMPUTE_ONLY": {worlds.ID, worlds.LABEL, *worlds.BANK_FIELDS}})):  # fmt: skip
        for bank in world.banks:
            model = model_of(world, bank)
            own = {one["field"] for one in model["features"]}
            assert own and model["refused"] == []
            releases = [leaf for leaf in world.leaves(bank, "release")
                        if leaf["step"].startswith("boosting") and leaf["round"] and leaf["mode"] != "AGGREGATE"]  # fmt: skip
            found = {leaf["mode"]: set(leaf["fields"]) for leaf in releases}
            assert found == (expected | {"SPLITS": expected["SPLITS"] | own} if "SPLITS" in expected else expected)


def test_rows_are_released_in_mode_splits_anew_in_every_tree_and_sides_cross_behind_it_alone(shown: World) -> None:
    leaves = shown.leaves(shown.platform)
    modes = {(leaf["step"], leaf["mode"]) for leaf in leaves if leaf["kind"] == "release"}
    assert modes >= {("binning.rows", "SPLITS"), ("boosting.split", "SPLITS"), ("boosting.score", "SPLITS")}
    assert {mode for step, mode in modes if step.startswith("boosting")} == {"SPLITS", "AGGREGATE"}
    told = [leaf for leaf in leaves if leaf["kind"] == "split-bits"]
    for bank in shown.banks:
        cuts = len(model_of(shown, bank)["ensemble"]["platform_cuts"])
        assert sum(leaf["bits"] for leaf in told if leaf["peer"] == bank) == cuts
    assert told


def right(mode: str) -> Provenance:
    return Provenance("00" * 32, "platform-a", "bank-1", "P4", mode, ("x",), 100, "00" * 32, "00" * 32, 1)


@pytest.mark.rule("G04")
def test_sides_of_cuts_cross_behind_a_release_for_splits_and_nothing_else_that_is_desensitised(ends: Ends) -> None:
    session = ends.platform.session
    for mode in ("COMPUTE_ONLY", "SCORE_ONLY", "AGGREGATE"):
        with pytest.raises(GuardRefused) as refused:
            session.send(wire.SplitBits(bits=b"x"), "boosting.split", [right(mode)])
        assert refused.value.rule == "G04"
    with pytest.raises(GuardRefused) as refused:
        session.send(wire.ScorePoints(points=b"x"), "scoring.points", [right("SPLITS")])
    assert refused.value.rule == "G04" and not ends.platform.channel.outbox._messages
    session.send(wire.SplitBits(bits=b"x"), "boosting.split", [right("SPLITS")])
    assert ends.platform.taken()


def test_the_auditors_copy_of_the_fitting_modes_is_the_sessions() -> None:
    modes = {"COMPUTE_ONLY", "SCORE_ONLY", "DESENSITISED", "PLAINTEXT", "AGGREGATE", "SPLITS"}
    for form in ("PSEUDONYM", "CIPHERTEXT", "MASKED", "AGGREGATE", "DESENSITISED", "PLAIN"):
        for step in (*sorted(SPLIT_STEPS), "scoring.points", "binning.rows"):
            fitting = {mode for mode in modes if auditor_envelopes.fits_mode(form, step, {mode})}
            assert fitting == fitting_modes(form, step), (form, step)


def test_terms_that_cannot_grow_are_refused_before_anything_is_proposed(shown: World) -> None:
    config = load_run(shown.layout.folder / "run.toml")
    identity = load_identity(shown.layout.home(shown.platform) / "identity")
    draft_contract(config, identity, "00" * 32, START)
    with pytest.raises(InputFault, match="patience asks for rows held back"):
        draft_contract(config.model_copy(update={"validation_permille": 0}), identity, "00" * 32, START)
    assert trees_fault(contract_of(model="boosted_trees", depth=6, max_rows=250_000)) == ""
    screens = {"min_iv_millionths": 1, "max_correlation_permille": 999, "max_vif_hundredths": 500, "sign_check": "drop"}
    for name, value in screens.items():
        with pytest.raises(InputFault, match=f"trees choose their features by gain and know no {name}; leave it out"):
            draft_contract(config.model_copy(update={name: value}), identity, "00" * 32, START)


def test_a_bank_that_is_lost_at_a_tree_leaves_the_others_to_go_on_with_evidence_that_verifies(
    province: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = BankTrees.train

    def fail(self: BankTrees, tree: int, *told: Any) -> Any:
        if (self.node.party, tree) == ("bank-2", 2):
            raise PeerError("a fault made up", "L01")
        return train(self, tree, *told)

    monkeypatch.setattr(BankTrees, "train", fail)
    terms = {
        "model": "boosted_trees",
        "model_terms": {"trees": 3, "depth": 1},
        "minimums": {"min_banks": 1},
        **worlds.SHORT,
    }
    world = worlds.run(worlds.lay(tmp_path / "run", province, **terms))
    assert list(world.ran.summary["scored"]) == ["bank-1"]
    assert [len(model_of(world, "bank-1")["ensemble"]["trees"])] == [3]
    trees = {bank: one["trees"] for bank, one in model_of(world, world.platform)["banks"].items()}
    assert trees == {"bank-1": 3, "bank-2": 1}
    assert verify_run(world.layout.folder).ok and not (world.layout.run_state("bank-2") / "model.json").exists()
    kept = model_of(world, "bank-1")  # nodes are shown, and this catalogue lets a bank's fields be computed on alone
    assert kept["features"] == [] and kept["refused"] == [{"field": name, "rule": "R39"} for name in worlds.BANK_FIELDS]
    assert kept["ensemble"]["own_cuts"] == []
