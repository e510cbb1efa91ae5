"""A bank's policy for unattended approval over all models: each limit counts where the model uses what it is about."""

from pathlib import Path
from typing import Any

import pytest
import tomli_w
from conversations import contract_of

from lianxin.federation.contract import RunContract
from lianxin.federation.errors import InputFault
from lianxin.parties.agreement import judge_by_policy
from lianxin.parties.config import PolicySection, load_node

TREES = contract_of(model="boosted_trees")
SCORING = contract_of(model="scoring", models=["run-0"], purpose="P2", fields=[])
QUERIES = contract_of(model="field_query", purpose="P2", fields=[])
LIMITS = {"P09": {"max_trees": 29}, "P10": {"nodes": ["hidden"]}, "P11": {"max_split_bits": 63}}
STRICT: dict[str, Any] = {
    "matching": [], "max_rounds": 1, "min_key_bits": 8192, "min_rows": 10**6, "profiles": [], "max_trees": 1,
    "nodes": ["hidden"], "max_split_bits": 1, "fields": [], "purposes": ["P2"],
}  # fmt: skip


def rule(contract: RunContract, **policy: Any) -> str:
    return judge_by_policy(contract, PolicySection(operator="wang", **policy), "bank-1").rule


@pytest.mark.parametrize("broken", LIMITS)
def test_each_limit_of_trees_refuses_trees_and_no_scorecard(broken: str) -> None:
    assert rule(TREES, **LIMITS[broken]) == broken
    assert rule(contract_of(model="boosted_trees", trees=29, nodes="hidden", split_bits=63), **LIMITS[broken]) == ""
    assert rule(contract_of(), **LIMITS[broken]) == ""


def test_a_policy_lists_the_models_that_it_approves_and_without_a_list_all() -> None:
    contracts = {"scorecard": contract_of(), "boosted_trees": TREES, "scoring": SCORING, "field_query": QUERIES}
    for model, contract in contracts.items():
        others = [name for name in contracts if name != model]
        assert rule(contract, purposes=["P2", "P4"]) == "" == rule(contract, purposes=["P2", "P4"], models=[model])
        assert rule(contract, purposes=["P2", "P4"], models=others) == "P08"


def test_a_standing_agreement_is_refused_by_no_limit_of_matching_and_training_and_trees_by_none_of_rounds() -> None:
    assert rule(SCORING, **STRICT) == "" == rule(QUERIES, **STRICT)
    assert rule(SCORING, **{**STRICT, "purposes": ["P4"]}) == "P01"
    assert rule(TREES, max_rounds=1) == "" and rule(contract_of(), max_rounds=1) == "P03"


def test_what_trains_under_a_key_keeps_to_the_limits_of_keys_rows_and_matching() -> None:
    for broken in ({"matching": []}, {"min_key_bits": 8192}, {"min_rows": 10**6}, {"profiles": []}):
        assert rule(TREES, **broken) == rule(contract_of(), **broken) != ""


@pytest.mark.parametrize(
    ("key", "value"), [("models", ["boosting"]), ("nodes", ["seen"]), ("max_trees", 201), ("max_split_bits", 0)]
)
def test_a_policy_that_names_what_no_contract_has_is_refused_with_its_key(tmp_path: Path, key: str, value: Any) -> None:
    node = {"role": "bank", "operator": "wang", "identity": "i", "state": "s", "data": {"table": "t.csv", "id": "uscc"}}
    path = tmp_path / "node.toml"
    path.write_text(tomli_w.dumps({**node, "policy": {"operator": "wang", key: value}}))
    with pytest.raises(InputFault, match=rf"node\.toml: line 12: policy\.{key}"):
        load_node(path)
