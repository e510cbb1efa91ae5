"""The figures of a finished network run: each bank's local, federated and personalised network, and the pooled one in clear.

`pooled` is the same network, from the same first weights and for as many epochs, on all banks' training rows in one table
and in the run's own preparation; nobody may build it in life.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lianxin.crypto.randomness import derive_seed
from lianxin.federation import evaluation
from lianxin.federation.contract import RunContract
from lianxin.parties import training
from lianxin.parties.node import simulated_seed
from lianxin.parties.platform_network import initial_seed
from lianxin.parties.preparation import Preparation, Prepared
from lianxin.parties.records import load_loan_table, read_table
from lianxin.simulations.advice_networks import held_back, privacy_figures
from lianxin.simulations.clear_networks import pooled
from lianxin.simulations.layout import Layout
from lianxin.simulations.pooled import OVERALL
from lianxin.simulations.results import leaves_of

OWN = ("federated", "local", "personalised")
NETWORKS = (*OWN, "pooled")
Models = Mapping[str, Mapping[str, Any]]


def network_curves(layout: Layout, contract: RunContract, models: Models, scores: Models) -> dict[str, Any]:
    """Return {level: {model: {"labels", "scores"}}} of the test rows, `overall` first: all banks' one after the other."""
    in_clear = _pooled_scores(layout, contract, models) if models else {}
    levels: dict[str, dict[str, Any]] = {OVERALL: {}}
    for bank, kept in scores.items():
        levels[bank] = {name: {"labels": kept["labels"], "scores": kept[name]} for name in OWN}
        levels[bank]["pooled"] = {"labels": kept["labels"], "scores": in_clear[bank].tolist()}
    for name in NETWORKS:
        parts = [levels[bank][name] for bank in scores]
        levels[OVERALL][name] = {key: [v for part in parts for v in part[key]] for key in ("labels", "scores")}
    return levels


def _pooled_scores(layout: Layout, contract: RunContract, models: Models) -> dict[str, np.ndarray]:
    train = {bank: _prepared(layout, bank, models[bank], "training_rows") for bank in models}
    spec = training.NetworkSpec.from_record(next(iter(models.values()))["shape"])
    first = training.initial(spec, initial_seed(contract))
    seed = derive_seed(simulated_seed(layout.terms.seed), "pooled network")
    made = pooled(spec, first, train, training.settings_of(contract), contract.rounds, seed)
    return {
        bank: training.predict(spec, made.weights, _prepared(layout, bank, models[bank], "test_rows"))
        for bank in models
    }


def _prepared(layout: Layout, bank: str, model: Mapping[str, Any], rows: str) -> Prepared:
    inputs = layout.inputs
    path = next(party.path for party in inputs.banks if party.party == bank)
    assert path is not None
    loans = load_loan_table(
        read_table(path), inputs.id_column, inputs.label_column, inputs.split_column, inputs.loan_id_column
    )
    whole = Preparation.from_record(model["preparation"]).apply(loans.columns, loans.labels)
    return whole.take(np.array(model[rows], dtype=np.int64))


def network_figures(
    layout: Layout, contract: RunContract, platform_model: Mapping[str, Any], models: Models, curves: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what a network's --json object has of its own beside `auc` and `ks`."""
    leaves = {bank: leaf for bank in models for leaf in leaves_of(layout, bank) if leaf["kind"] == "privacy"}
    privacy = privacy_figures(contract.record, leaves)
    digests = {platform_model["model_sha256"], *(model["model_sha256"] for model in models.values())}
    return {
        "auc": {level: _measured(row, evaluation.auc) for level, row in curves.items()},
        "ks": {level: _measured(row, evaluation.ks) for level, row in curves.items()},
        "model": contract.model, "strategy": contract.strategy, "aggregation": contract.aggregation,
        "epsilon": contract.epsilon_thousandths / 1000, "rounds": contract.rounds,
        "rolled_back": list(platform_model["rolled_back"]), "model_sha256": platform_model["model_sha256"],
        "same_model": len(digests) == 1, "recommended": {bank: model["recommended"] for bank, model in models.items()},
        **held_back(models), **({} if privacy is None else {"privacy": privacy}),
    }  # fmt: skip


def _measured(models: Mapping[str, Any], measure: Any) -> dict[str, float | None]:
    return {
        name: measure(models[name]["labels"], models[name]["scores"]) if models.get(name, {}).get("labels") else None
        for name in ("local", "federated", "personalised", "pooled")
    }


def train_losses(curve: Sequence[Mapping[str, Any]], key: str) -> list[tuple[int, float]]:
    """Return (round, mean log-loss) of a platform model's curve."""
    return [
        (one["round"], one[key] / 10**6) for one in curve if key in one and (one["round"] or key != "train_loss_micro")
    ]
