"""What keeps a network across banks from being agreed: too few legal entities, sums in clear, fields that are not alike."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import network_world
import numpy as np
import pytest
import worlds
from conversations import contract_of, fields_of

from lianxin.federation.errors import ContractRefused, GateRefused, InputFault, PeerError
from lianxin.federation.federated import Question
from lianxin.federation.sum_mod import Summed
from lianxin.parties.clock import SimulatedClock
from lianxin.parties.config import load_node, load_run
from lianxin.parties.identity import Identity, legal_entities, load_identity, make_network
from lianxin.parties.network_agreement import judge_network
from lianxin.parties.platform_network import PlatformNetwork, signed
from lianxin.parties.preparation import SCORE_ONE, NumberField, Preparation
from lianxin.simulations.runner import run_in_memory

BANKS = ["bank-1", "bank-2", "bank-3"]
LEDGER = SimpleNamespace(append=lambda _: None)
NETWORK = {"model": "mlp", "min_banks": 3, "validation_permille": 150}


def identity_of(folder: Path, organisations: dict[str, str], party: str = "bank-1") -> Identity:
    make_network(folder, "platform-a", BANKS, None, SimulatedClock("2026-01-05T01:00:00Z"), 30, None, organisations)
    return load_identity(folder / party)


def network_contract(**changes: Any) -> Any:
    fields = [f for f in fields_of(BANKS) if f["provider"] != "platform-a"]
    return contract_of(3, **{**NETWORK, "fields": fields, **changes})


@pytest.mark.parametrize("party", ["platform-a", "bank-1", "bank-3"])
def test_two_banks_of_one_legal_entity_are_refused_at_every_node(tmp_path: Path, party: str) -> None:
    same = {"bank-1": "Bank of  Qinghe", "bank-2": "Rural Bank", "bank-3": "bank of qinghe"}
    verdict = judge_network(network_contract(), identity_of(tmp_path / "net", same, party), "production")
    assert verdict.rule == "C09" and "bank-1 and bank-3 are one legal entity" in verdict.reason


def test_banks_of_different_legal_entities_and_banks_without_one_are_counted_each(tmp_path: Path) -> None:
    identity = identity_of(tmp_path / "net", {"bank-1": "Bank of Qinghe", "bank-2": "Rural Bank"})
    assert legal_entities(identity)["bank-3"] == "bank-3"
    assert judge_network(network_contract(), identity, "production").rule == ""


@pytest.mark.parametrize(("profile", "rule"), [("production", "C10"), ("trial", "")])
def test_sums_in_clear_are_for_trials_alone(tmp_path: Path, profile: str, rule: str) -> None:
    identity = identity_of(tmp_path / "net", {})
    assert judge_network(network_contract(aggregation="clear"), identity, profile).rule == rule


def test_features_that_are_not_alike_a_platform_that_brings_some_and_blind_judging_are_refused(tmp_path: Path) -> None:
    identity, fields = identity_of(tmp_path / "net", {}), network_contract().record["fields"]
    broken = [
        ({"fields": fields_of(BANKS)}, "take the platform's features out"),
        ({"fields": [f for f in fields if (f["provider"], f["field"]) != ("bank-2", "g1")]}, "the same features"),
        ({"validation_permille": 0}, "set validation_permille"),
    ]
    for changes, said in broken:
        verdict = judge_network(network_contract(**changes), identity, "trial")
        assert verdict.rule == "C01" and said in verdict.reason
    assert (
        judge_network(network_contract(validation_permille=0, max_loss_rise_permille=0), identity, "trial").rule == ""
    )
    assert judge_network(contract_of(3), identity, "trial").rule == ""


def test_neither_end_of_a_run_goes_on_when_two_banks_are_one_entity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = network_world.tables_of(tmp_path / "tables", rows=300)
    layout = network_world.lay(tmp_path / "run", inputs)
    again = tmp_path / "again"
    shutil.copytree(layout.folder, again)
    one = dict.fromkeys(["bank-1", "bank-2"], "bank of qinghe")
    monkeypatch.setattr("lianxin.parties.network_agreement.legal_entities", lambda _identity: one)
    with pytest.raises(InputFault, match="rule C09"):
        run_in_memory(layout)
    monkeypatch.setattr("lianxin.parties.platform.judge_network", lambda *_: judge_network(contract_of(3), None, ""))  # type: ignore[arg-type]
    with pytest.raises(ContractRefused, match="rule C09"):
        run_in_memory(type(layout)(again, layout.inputs, layout.terms, layout.catalogue))


def test_a_platform_may_have_no_table_and_a_bank_must(tmp_path: Path) -> None:
    layout = network_world.lay(tmp_path / "run", network_world.tables_of(tmp_path / "tables", rows=300))
    assert load_node(layout.home("coordinator") / "node.toml").data.table is None
    worlds.edit_toml(layout.home("bank-1") / "node.toml", lambda content: content["data"].pop("table"))
    with pytest.raises(InputFault, match=r"data\.table: is missing"):
        load_node(layout.home("bank-1") / "node.toml")


def test_a_network_needs_no_terms_of_matching(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(
        'run = "run-1"\nproposer = "operator-li"\nimpact_assessment = "impact-1"\nagreement = "agreement-1"\nmodel = "mlp"\n'
        'max_rows = 1000\n[banks.bank-1]\nfeatures = ["a"]\nlabel = "bad"\nidentifiers = ["firm"]\n'
    )
    config = load_run(path)
    assert config.features == [] and config.identifiers == [] and config.validation_permille == 150


# ---- what a peer could send


class Refusing:
    """A gate that lets nothing go."""

    def aggregate(self, *_given: Any, **_more: Any) -> Any:
        raise GateRefused("nothing crosses", "OUT-BUDGET")


def platform(contract: Any, boundary: Any = None, folder: Path | None = None) -> PlatformNetwork:
    node = SimpleNamespace(
        party="platform-a",
        boundary=boundary,
        say=lambda *_what, **_how: None,
        run_folder=lambda _: folder,
        ledger=LEDGER,
    )
    return PlatformNetwork(node, contract)  # type: ignore[arg-type]


def described(**changed: Any) -> dict[str, Any]:
    fields = [{"field": f"g{k}", "kind": "number", "texts": [], **changed} for k in range(4)]
    return {bank: ({}, {}, {"categories": json.dumps({"fields": fields, "judges": True})}) for bank in BANKS}


def test_the_platform_hands_nothing_on_that_its_gate_refuses() -> None:
    with pytest.raises(GateRefused, match="nothing crosses"):
        platform(network_contract(), Refusing()).answered(Question("query.prepare"), described())


@pytest.mark.parametrize(
    "changed", [{"kind": "picture"}, {"texts": ["x" * 300]}, {"texts": [1]}, {"field": "g9"}, {"texts": ["a"] * 65}],
    ids=["kind", "long text", "no text", "other fields", "many texts"],
)  # fmt: skip
def test_a_description_that_is_none_is_refused_by_the_platform(changed: dict[str, Any]) -> None:
    with pytest.raises(PeerError) as refused:
        platform(network_contract(), Refusing()).answered(Question("query.prepare"), described(**changed))
    assert refused.value.rule == "NN02"


@pytest.mark.parametrize("rows", [-5, 0, 2, 10**9])
def test_a_sum_over_an_impossible_number_of_rows_is_taken_back(tmp_path: Path, rows: int) -> None:
    work = platform(network_contract(model="logistic"), None, tmp_path)
    work.preparation = Preparation((NumberField("g0", (0.0, 1.0), (-SCORE_ONE, SCORE_ONE), False),), ())
    work.weights = np.zeros(2, dtype=np.float32)
    total = np.array([rows, 100, 0, 0], dtype=np.int64).view(np.uint64)
    work.summed(Question("train", 1, 4), {0: Summed(total, tuple(BANKS), {})})
    assert work.judging(1) is None
    work.end_round(1)
    assert work.weights.tolist() == [0.0, 0.0] and "no possible number of rows" in work.curve[-1]["reason"]
    total = np.array([300, 100, 300 << 24, 0], dtype=np.int64).view(np.uint64)
    work.summed(Question("train", 2, 4), {0: Summed(total, tuple(BANKS), {})})
    work.end_round(2)
    assert work.weights.tolist() == [1.0, 0.0] and work.next_round == 3 and work.rolled_back == [1]


def test_a_negative_sum_is_read_by_twos_complement() -> None:
    assert signed(np.array([2**64 - 3, 5], dtype=np.uint64)).tolist() == [-3, 5]


def test_a_bank_whose_budget_is_used_up_begins_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from lianxin.parties import bank_network

    class Spent:
        def charge(self, *_given: Any) -> Any:
            raise GateRefused("nothing is left", "DP01")

    class Bank(bank_network.BankNetwork):
        def __init__(self) -> None:
            self.contract, self.training = network_contract(), [1]

        def _budget(self) -> Any:
            return Spent()

    monkeypatch.setattr(bank_network, "plan_privacy", lambda *_: "settings")
    with pytest.raises(GateRefused, match="nothing is left"):
        Bank()._spend()
