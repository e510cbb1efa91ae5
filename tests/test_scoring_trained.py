"""A scorecard that two banks and a platform really trained is served as the training left it, and the evidence holds."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import query_world
import tomli_w
import worlds
from query_world import BANK, OTHER, PLATFORM
from worlds import World

from lianxin.federation.errors import InputFault
from lianxin.federation.reasons import codes_of
from lianxin.parties.auditor import verify_run
from lianxin.parties.config import load_run
from lianxin.parties.identifiers import subject_type_of
from lianxin.parties.score_bank import BankScores
from lianxin.parties.score_models import card_of
from lianxin.parties.score_parts import served_model
from lianxin.simulations.layout import PROPOSER, RUN, Layout

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
            given = codes_of(expected.reasons, card_of(network.banks[bank].node, RUN).platform_reasons)
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
