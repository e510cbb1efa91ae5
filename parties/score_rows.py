"""Scores of a list of firms at a bank: the platform's part of each model, the bank's own model on the firm's own row.

A firm's own values come from the list that a person gives, a column a feature, else from its newest loan in the bank's
table, else they are missing. A firm without the platform's part is scored by the model's bank-only part and marked so.

Scorecards and trees are asked for apart, a request each: they leave the platform by releases in different modes, so that a
firm which has consented to scores alone still has the scorecard's part, and none of the trees'.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lianxin.federation.errors import InputFault, LianxinError
from lianxin.federation.scoring import Part
from lianxin.parties.identifiers import normalise_identifier
from lianxin.parties.node import Node
from lianxin.parties.records import LoanTable
from lianxin.parties.score_bank import BankScores, Parts
from lianxin.parties.score_models import CHALLENGER, ModelReader, ModelShelf
from lianxin.parties.score_monitor import ScoreMonitor
from lianxin.parties.score_trees import BankModel
from lianxin.parties.scorecard_card import CardScore
from lianxin.parties.scorecard_table import own_columns

NO_DECISION = (
    "These are scores of this bank's own models, with the platform's part where they are marked joint. They are no credit "
    "decision and no advice; whoever decides decides by the bank's own rules and answers for it."
)
Row = Mapping[str, Any]
Told = Mapping[str, tuple[Part, ...] | None]


class Scorer:
    """Makes scores at one bank's node; one at a node. Safe between threads."""

    def __init__(self, node: Node, table: LoanTable) -> None:
        self.node, self.table = node, table
        self.monitor, self._models = ScoreMonitor(node), ModelReader(node)
        self._newest = {firm: row for row, firm in enumerate(table.identifiers)}

    def score(self, asker: BankScores, rows: Sequence[Row], model: str, operator: str) -> dict[str, Any]:
        """Return the scores of up to 1,000 rows `{"firm": code, "values": {field: value}}`, as a record for people.

        `model` names one run, "" the champion and its challengers. What came is kept: once the platform has answered about
        one kind of models, a fault about the other, or of what is counted here, is a sentence in `notes`. Raises InputFault
        for a list or a model that cannot be scored, PeerError as `BankScores.parts`.
        """
        firms = [normalise_identifier(str(row["firm"])) for row in rows]
        if len(set(firms)) != len(firms):
            raise InputFault("a firm stands twice in the list; leave each firm once")
        serving = ModelShelf(self.node).serving(asker.contract.models)
        roles = self._roles(asker, model, serving)
        models = {run: self._models.model(run) for run in roles}
        own = [self._own(firm, row.get("values") or {}) for firm, row in zip(firms, rows, strict=True)]
        notes = [_compared(run) for run, role in roles.items() if model and role == CHALLENGER and run not in serving]
        scored, told, requests = dict[str, list[CardScore | None]](), list[Told](), list[str]()
        for runs in _by_kind(models):
            parts = self._parts(asker, firms, runs, operator, notes, bool(told))
            told.append(parts.by_firm)
            requests += [parts.request] if parts.request else []
            for place, run in enumerate(runs):
                given = [_part(parts.by_firm[firm], place) for firm in firms]
                scored[run] = self._by_model(models[run], own, given, notes)
        found = [
            {
                "firm": firm, "platform": _told([one[firm] for one in told]), "own": own[at][0],
                "scores": [{"run": run, "role": roles[run], **_shown(scored[run][at])} for run in roles],
            }
            for at, firm in enumerate(firms)
        ]  # fmt: skip
        return self._record(asker, ",".join(requests), operator, models) | {"notes": notes, "firms": found}

    def _parts(
        self, asker: BankScores, firms: Sequence[str], runs: Sequence[str], operator: str, notes: list[str],
        has_come: bool,
    ) -> Parts:  # fmt: skip
        """Return the platform's parts; those that do not come after others have, noted, are nobody's."""
        try:
            return asker.parts(firms, runs, operator)
        except LianxinError as fault:
            if not has_come:
                raise
            notes.append(f"no platform's part of {', '.join(runs)} came: {fault}")
            return Parts("", tuple(runs), dict.fromkeys(firms))

    def _roles(self, asker: BankScores, model: str, serving: Mapping[str, str]) -> dict[str, str]:
        if model:
            return {model: serving.get(model, CHALLENGER)}
        if not serving:
            raise InputFault(
                f"the champion is no model of agreement {asker.contract.run}; name one with --model, or promote one of "
                f"{', '.join(asker.contract.models)}"
            )
        return dict(serving)

    def _own(self, firm: str, given: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Return where a firm's own values are from, and those that are known."""
        row = self._newest.get(firm)
        known = {name: column[row] for name, column in self.table.columns.items()} if row is not None else {}
        source = "file" if given else "table" if known else "missing"
        return source, known | dict(given)

    def _by_model(
        self, model: BankModel, own: Sequence[tuple[str, Mapping[str, Any]]], given: Sequence[Part], notes: list[str]
    ) -> list[CardScore | None]:
        given_values = {name: [values.get(name) for _, values in own] for name in model.fields}
        read = own_columns(dict(zip(model.fields, model.bins, strict=True)), given_values)
        columns = read.columns
        notes += [note for note in read.notes if note not in notes]
        made: list[CardScore | None] = [None] * len(given)
        able = [at for at, part in enumerate(given) if part is not None or model.bank_only is not None]
        scores = model.score(
            {name: [values[at] for at in able] for name, values in columns.items()},
            [part.value if (part := given[at]) is not None else None for at in able],
            [part.reasons if (part := given[at]) is not None else () for at in able],
        )
        for at, score in zip(able, scores, strict=True):
            made[at] = score
        try:
            self.monitor.note(model, made, model.encode(columns))
        except LianxinError as fault:
            notes.append(f"the counts of drift of {model.run} were not written: {fault}")
        return made

    def _record(
        self, asker: BankScores, requests: str, operator: str, models: Mapping[str, BankModel]
    ) -> dict[str, Any]:
        contract = asker.contract
        texts = {code: text for model in models.values() for code, text in model.texts().items()}
        return {
            "request": requests, "run": contract.run, "agreement": contract.agreement, "bank": self.node.party,
            "platform": contract.platform, "purpose": contract.purpose, "operator": operator,
            "time": self.node.clock.now(), "texts": texts, "note": NO_DECISION,
        }  # fmt: skip


def _compared(run: str) -> str:
    return f"the model of run {run} is not in service; its scores are a challenger's, for comparison alone"


def _by_kind(models: Mapping[str, BankModel]) -> list[list[str]]:
    """Return the runs by the kind of their model, in their order: the platform answers about one kind at a time."""
    kinds: dict[type, list[str]] = {}
    for run, model in models.items():
        kinds.setdefault(type(model), []).append(run)
    return list(kinds.values())


def _part(parts: tuple[Part, ...] | None, place: int) -> Part:
    return parts[place] if parts is not None else None


def _told(answers: Sequence[tuple[Part, ...] | None]) -> str:
    """Return what is known of the platform's part of a firm: `score`, `none`, or `here` where its code stayed here."""
    if all(parts is None for parts in answers):
        return "here"
    return "score" if any(part is not None for parts in answers for part in parts or ()) else "none"


def _shown(score: CardScore | None) -> dict[str, Any]:
    if score is None:
        return {"part": "none"}
    return {"part": score.model, "score": score.score, "pd_micro": score.pd_micro, "reasons": list(score.reasons)}
