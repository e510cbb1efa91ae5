"""A bank's policy for unattended approval, as a pure rule over two records: the contract's and the policy's (P01 to P14).

The bank judges by it before it signs, and an auditor judges again by the policy record that the approval's leaf names.
Each key of a policy is a limit that the contract keeps. What a model has no use for is no ground to refuse: trees have no
rounds, and a standing agreement matches and trains nothing, whatever its contract says of both.
"""

from collections.abc import Mapping
from typing import Any

Terms = Mapping[str, Any]
Limits = dict[str, tuple[bool, str]]  # {rule: (whether it holds, what is told where it does not)}
STANDING = frozenset({"field_query", "scoring"})
NETWORKS = frozenset({"logistic", "mlp", "tabular"})


def judge_policy(contract: Terms, policy: Terms, party: str) -> tuple[str, str]:
    """Return the rule and the reason of the first limit, in the order of rules, that `contract` does not keep; "" and "" for
    none. Raises KeyError or TypeError for records that are not a contract and a policy.
    """
    model = contract["model"]
    limits = _of_all(contract, policy, party)
    if model not in STANDING:
        limits |= _of_training(contract, policy)
    if model == "boosted_trees":
        limits |= _of_trees(contract, policy)
    if model in NETWORKS:
        limits |= _of_networks(contract, policy)
    return next(((rule, reason) for rule, (holds, reason) in sorted(limits.items()) if not holds), ("", ""))


def _of_all(contract: Terms, policy: Terms, party: str) -> Limits:
    asked = {f["field"] for f in contract["fields"] if f["provider"] == party and f["use"] in ("feature", "label")}
    listed = policy.get("fields")
    return {
        "P01": (contract["purpose"] in policy["purposes"], "the purpose is not in the policy"),
        "P06": (listed is None or asked <= set(listed), "a field that the policy does not list"),
        "P08": (contract["model"] in policy["models"], "a model that the policy does not list"),
    }


def _of_training(contract: Terms, policy: Terms) -> Limits:
    has_few_rounds = contract["model"] != "scorecard" or contract["rounds"] <= policy["max_rounds"]
    enough = contract["min_rows"] >= policy["min_rows"]
    rows: Limits = {"P05": (enough, "a smaller minimum of rows than the policy allows")}
    if contract["model"] in NETWORKS:
        return rows
    return rows | {
        "P02": (contract["matching"] in policy["matching"], "the matching protocol is not in the policy"),
        "P03": (has_few_rounds, "more rounds than the policy allows"),
        "P04": (contract["key_bits"] >= policy["min_key_bits"], "a smaller key than the policy allows"),
        "P07": (contract["profile"] in policy["profiles"], "an encryption profile that the policy does not list"),
    }


def _of_trees(contract: Terms, policy: Terms) -> Limits:
    return {
        "P09": (contract["trees"] <= policy["max_trees"], "more trees than the policy allows"),
        "P10": (contract["nodes"] in policy["nodes"], "nodes shown or hidden as the policy does not allow"),
        "P11": (
            contract["split_bits"] <= policy["max_split_bits"],
            "more cuts of the platform's than the policy allows",
        ),
    }


def _of_networks(contract: Terms, policy: Terms) -> Limits:
    epsilon, most = contract["epsilon_thousandths"], policy["max_epsilon_thousandths"]
    is_private = not most or 0 < epsilon <= most
    return {
        "P12": (contract["rounds"] <= policy["max_network_rounds"], "more rounds of a network than the policy allows"),
        "P13": (contract["aggregation"] in policy["aggregation"], "an aggregation that the policy does not list"),
        "P14": (is_private, "no differential privacy, or a larger epsilon than the policy allows"),
    }
