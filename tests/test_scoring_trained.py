"""Models that two banks and a platform really trained are served as the training left them, and the evidence holds."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import query_world
import tomli_w
import worlds
from query_world import BANK, OTHER, PLATFORM
from worlds import World

from lianxin.federation.boosting_ensemble import Ensemble, Flags, probabilities
from lianxin.federation.errors import InputFault
from lianxin.federation.reasons import codes_of
from lianxin.federation.scoring import sides_of_cuts
from lianxin.parties import score_cuts
from lianxin.parties.auditor import verify_run
from lianxin.parties.bank_trees import BankTrees
from lianxin.parties.config import load_run
from lianxin.parties.identifiers import subject_type_of
from lianxin.parties.score_bank import BankScores
from lianxin.parties.score_models import model_of
from lianxin.parties.score_parts import served_model
from lianxin.parties.score_trees import TreeModel
from lianxin.parties.tree_columns import tree_columns
from lianxin.simulations.layout import PROPOSER, RUN, Layout
from lianxin.simulations.tables import Inputs

finished, province = worlds.finished, worlds.province
AGREEMENT, ASKER = "scores-1", "operator-zhao"


def lay(world: World, folder: Path) -> Layout:
    layout = replace(world.layout, folder=worlds.copy_of(world, folder))
    terms = {
        "run": AGREEMENT, "proposer": PROPOSER, "purpose": "P2", "model": "scoring", "models": [RUN],
        "impact_assessment": "impact-1", "agreement": "agreement-1", "step_deadline_s": 20, "days": 20,
        "banks": {bank: {"identifiers": ["uscc"]} for bank in layout.parties[1:]},
    }  # fmt: skip
    (layout.folder / f"{AGREEMENT}.toml").write_text(tomli_w.dumps(terms))
    for bank in layout.parties[1:]:
        worlds.edit_toml(layout.home(bank) / "node.toml", lambda content: content["policy"].update(purposes=["P2"]))
    return layout


def test_two_banks_score_by_the_model_that_they_trained(finished: World, tmp_path: Path) -> None:
    layout = lay(finished, tmp_path / "run")
    with query_world.running(layout) as network:
        network.platform.launch(load_run(layout.folder / f"{AGREEMENT}.toml"))
        query_world.wait_for(lambda: all(AGREEMENT in bank.standing for bank in network.banks.values()))
        model, table = served_model(network.platform.node, RUN), network.platform.table
        for bank in (BANK, OTHER):
            known = network.banks[bank].table.identifiers
            firm = next(f for f in known if subject_type_of(f) == "ENT" and f in table.identifiers)
            network.consent(firm, recipient=bank, fields=list(model.fields), mode="SCORE_ONLY")
            asker = network.banks[bank].standing[AGREEMENT]
            assert isinstance(asker, BankScores)
            row = table.identifiers.index(firm)
            (expected,) = model.parts({name: [table.columns[name][row]] for name in model.fields})
            found = network.banks[bank].scorer.score(asker, [{"firm": firm}], "", ASKER)["firms"][0]
            assert (found["platform"], found["scores"][0]["part"]) == ("score", "joint")
            assert asker.parts([firm], [RUN], ASKER).by_firm == {firm: (None,)}  # its one use is spent
            given = codes_of(expected.reasons, model_of(network.banks[bank].node, RUN).platform_reasons)
            told = found["scores"][0]["reasons"]
            assert [code for code in told if code in given] == [code for code in given if code in told] != []
        network.platform.end(AGREEMENT)
        query_world.wait_for(lambda: all(AGREEMENT in bank.ended for bank in network.banks.values()))
    audit = tmp_path / "audit"
    for party in (PLATFORM, BANK, OTHER):
        shutil.copytree(layout.home(party) / "state" / "runs" / AGREEMENT, audit / "parties" / party)
    verdict = verify_run(audit)
    assert verdict.ok, verdict.failures


def test_the_model_is_not_served_to_a_bank_once_its_operator_dropped_it(finished: World, tmp_path: Path) -> None:
    layout = lay(finished, tmp_path / "run")
    folder = layout.home(PLATFORM) / "state" / "runs" / RUN
    mark = {"type": "model-touched", "version": 1, "run": RUN, "revocations": 10**6, "choice": "drop"}
    (folder / "touched.json").write_text(json.dumps(mark))
    dropped = pytest.raises(InputFault, match="the model of run run-1 was dropped after a withdrawal")
    with query_world.running(layout) as network, dropped:
        network.platform.launch(load_run(layout.folder / f"{AGREEMENT}.toml"))


def consent_at_once(network: query_world.Network, bank: str, firms: list[str], fields: list[str]) -> None:
    """Let these firms consent to the sides of cuts, in one import of all their records."""
    register = network.platform.node.register
    with mock.patch.object(register, "import_records") as held:
        for number, firm in enumerate(firms):
            named = {"consent_id": f"c-{bank}-{number}", "recipient": bank, "fields": fields}
            network.consent(firm, mode="DESENSITISED", **named)
    register.import_records([call.args[0][0] for call in held.call_args_list])


def test_every_firm_whose_sides_a_training_told_has_its_trained_log_odds_when_it_is_served(
    province: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = dict[str, dict[str, Flags]]()
    compare = BankTrees._compare

    def noting(self: BankTrees, ensemble: Ensemble, place: Any, sides: Flags) -> dict[str, Any]:
        told[self.node.party] = {firm: sides[row] for firm, row in place.items()}
        return compare(self, ensemble, place, sides)

    monkeypatch.setattr(BankTrees, "_compare", noting)
    monkeypatch.setattr(score_cuts, "check_breadth", lambda *_told: None)  # three trees cut few fields
    terms = {
        "model": "boosted_trees",
        "model_terms": {"trees": 3, "depth": 2, "min_rows": 50},
        "minimums": {},
        **worlds.SHORT,
    }
    layout = lay(worlds.run(worlds.lay(tmp_path / "trained", province, **terms)), tmp_path / "run")
    with query_world.running(layout) as network:
        network.platform.launch(load_run(layout.folder / f"{AGREEMENT}.toml"))
        query_world.wait_for(lambda: all(AGREEMENT in bank.standing for bank in network.banks.values()))
        for bank in (BANK, OTHER):
            served, model = (
                served_model(network.platform.node, RUN).for_bank(bank),
                model_of(network.banks[bank].node, RUN),
            )
            assert isinstance(model, TreeModel) and model.joint.platform_cuts
            table, firms = network.banks[bank].table, [f for f in told[bank] if subject_type_of(f) == "ENT"]
            newest = {firm: row for row, firm in enumerate(table.identifiers)}
            consent_at_once(network, bank, firms, list(served.fields))
            asker, caught = network.banks[bank].standing[AGREEMENT], list[Any]()
            assert isinstance(asker, BankScores)
            honest = asker.parts
            monkeypatch.setattr(asker, "parts", lambda *asked, h=honest, c=caught: c.append(h(*asked)) or c[-1])
            found = network.banks[bank].scorer.score(asker, [{"firm": firm} for firm in firms], "", ASKER)["firms"]
            rows = [newest[firm] for firm in firms]
            own = tree_columns(model.specs, table.columns, rows)
            trained = model.joint.raw_scores(own, np.array([told[bank][firm] for firm in firms]))
            sides = sides_of_cuts([caught[0].by_firm[firm][0] for firm in firms], len(model.joint.platform_cuts))
            bins = model.encode({name: [table.columns[name][row] for row in rows] for name in model.fields})
            assert model.raw(bins, range(len(rows)), sides).tolist() == trained.tolist()
            assert len(set(trained.tolist())) > 1 and len(firms) > 100
            chances = np.rint(probabilities(trained) * 10**6).astype(int).tolist()
            assert [one["scores"][0]["pd_micro"] for one in found] == chances
            assert {one["scores"][0]["part"] for one in found} == {"joint"}
            lines = {line["name"]: line for line in network.banks[bank].scorer.monitor.report(model, 30)}
            assert lines["joint"]["grade"] == "stable" and lines["bank_only"]["rows"] == 0
        network.platform.end(AGREEMENT)
        query_world.wait_for(lambda: all(AGREEMENT in bank.ended for bank in network.banks.values()))
    audit = tmp_path / "audit"
    for party in (PLATFORM, BANK, OTHER):
        shutil.copytree(layout.home(party) / "state" / "runs" / AGREEMENT, audit / "parties" / party)
    verdict = verify_run(audit)
    assert verdict.ok, verdict.failures
