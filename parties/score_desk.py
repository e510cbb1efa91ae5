"""What a bank's running node answers to its people about scores, models in service and drift (`control`)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lianxin.federation.errors import InputFault
from lianxin.parties import score_models, score_monitor
from lianxin.parties.query_bank import chosen
from lianxin.parties.score_bank import BankScores
from lianxin.parties.score_models import ModelShelf, model_of

if TYPE_CHECKING:
    from lianxin.parties.bank import BankNode


def answer(served: "BankNode", request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answer to a request to `score`, about `models` or to `monitor`. Raises LianxinError."""
    if request["do"] == "models":
        return score_models.answer(served.node, request, [asker.contract.models for asker in _askers(served)])
    if request["do"] == "monitor":
        return _monitored(served, request["model"], int(request["days"]))
    asker = agreement_for(served, request["purpose"], request["run"])
    return {"answer": served.scorer.score(asker, request["rows"], request["model"], request["operator"])}


def agreement_for(served: "BankNode", purpose: str = "", run: str = "") -> BankScores:
    """Return the asker of a scoring agreement: the one for `purpose` and named `run`, where these are given.

    Raises GateRefused (R01) when there is none, InputFault when one must be named.
    """
    return chosen(_askers(served), purpose, run)


def _askers(served: "BankNode") -> list[BankScores]:
    return [one for one in list(served.standing.values()) if isinstance(one, BankScores)]


def _monitored(served: "BankNode", model: str, days: int) -> dict[str, Any]:
    """Return the stability of the named model's scores, or of all that are in service."""
    agreed = [run for one in _askers(served) for run in one.contract.models]
    runs = [model] if model else list(ModelShelf(served.node).serving(list(dict.fromkeys(agreed))))
    if not runs:
        raise InputFault("no model is in service; name one with --model, or promote one")
    return score_monitor.answer(served.scorer.monitor, {run: model_of(served.node, run) for run in runs}, days)
