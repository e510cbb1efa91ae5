"""Scores of a list of firms at a bank: the platform's part of each model, the bank's own card on the firm's own row.

A firm's own values come from the list that a person gives, a column a feature, else from its newest loan in the bank's
table, else they are missing. A firm without the platform's part is scored by the card's bank-only sum and marked so.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lianxin.federation.errors import InputFault
from lianxin.federation.scoring import Part
from lianxin.parties.identifiers import normalise_identifier
from lianxin.parties.node import Node
from lianxin.parties.query_bank import NOT_OUR_DECISION
from lianxin.parties.records import LoanTable
from lianxin.parties.score_bank import BankScores, Parts
from lianxin.parties.score_models import ModelShelf, card_of
from lianxin.parties.score_monitor import ScoreMonitor
from lianxin.parties.scorecard_card import Card, CardScore

Row = Mapping[str, Any]


class Scorer:
    """Makes scores at one bank's node; one at a node. Safe between threads."""

    def __init__(self, node: Node, table: LoanTable) -> None:
        self.node, self.table = node, table
        self.monitor = ScoreMonitor(node)
        self._newest = {firm: row for row, firm in enumerate(table.identifiers)}

    def score(self, asker: BankScores, rows: Sequence[Row], model: str, operator: str) -> dict[str, Any]:
        """Return the scores of up to 1,000 rows `{"firm": code, "values": {field: value}}`, as a record for people.

        `model` names one run, "" the champion and its challengers. Raises InputFault for a list or a model that cannot be
        scored, PeerError as `BankScores.parts`.
        """
        firms = [normalise_identifier(str(row["firm"])) for row in rows]
        if len(set(firms)) != len(firms):
            raise InputFault("a firm stands twice in the list; leave each firm once")
        roles = self._roles(asker, model)
        cards = {run: card_of(self.node, run) for run in roles}
        parts = asker.parts(firms, list(roles), operator)
        own = [self._own(firm, row.get("values") or {}) for firm, row in zip(firms, rows, strict=True)]
        scored = {run: self._by_card(card, place, own, parts, firms) for place, (run, card) in enumerate(cards.items())}
        found = [
            {
                "firm": firm, "platform": _told(parts.by_firm[firm]), "own": own[at][0],
                "scores": [{"run": run, "role": roles[run], **_shown(scored[run][at])} for run in roles],
            }
            for at, firm in enumerate(firms)
        ]  # fmt: skip
        return self._record(asker, parts, operator, cards) | {"firms": found}

    def _roles(self, asker: BankScores, model: str) -> dict[str, str]:
        serving = ModelShelf(self.node).serving(asker.contract.models)
        if model:
            return {model: serving.get(model, "")}
        if not serving:
            raise InputFault(
                f"the champion is no model of agreement {asker.contract.run}; name one with --model, or promote one of "
                f"{', '.join(asker.contract.models)}"
            )
        return serving

    def _own(self, firm: str, given: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Return where a firm's own values are from, and those that are known."""
        row = self._newest.get(firm)
        known = {name: column[row] for name, column in self.table.columns.items()} if row is not None else {}
        source = "file" if given else "table" if known else "missing"
        return source, known | dict(given)

    def _by_card(
        self, card: Card, place: int, own: Sequence[tuple[str, Mapping[str, Any]]], parts: Parts, firms: Sequence[str]
    ) -> list[CardScore | None]:
        columns = {name: [values.get(name) for _, values in own] for name in card.fields}
        given = [_part(parts.by_firm[firm], place) for firm in firms]
        made: list[CardScore | None] = [None] * len(firms)
        able = [at for at, part in enumerate(given) if part is not None or card.bank_only is not None]
        scores = card.score(
            {name: [values[at] for at in able] for name, values in columns.items()},
            [part.value if (part := given[at]) is not None else None for at in able],
            [part.reasons if (part := given[at]) is not None else () for at in able],
        )
        for at, score in zip(able, scores, strict=True):
            made[at] = score
        self.monitor.note(card, made, card.encode(columns))
        return made

    def _record(self, asker: BankScores, parts: Parts, operator: str, cards: Mapping[str, Card]) -> dict[str, Any]:
        contract = asker.contract
        texts = {code: text for card in cards.values() for code, text in card.texts().items()}
        return {
            "request": parts.request, "run": contract.run, "agreement": contract.agreement, "bank": self.node.party,
            "platform": contract.platform, "purpose": contract.purpose, "operator": operator,
            "time": self.node.clock.now(), "texts": texts, "note": NOT_OUR_DECISION,
        }  # fmt: skip


def _part(parts: tuple[Part, ...] | None, place: int) -> Part:
    return parts[place] if parts is not None else None


def _told(parts: tuple[Part, ...] | None) -> str:
    """Return what is known of the platform's part of a firm: `score`, `none`, or `here` where its code stayed here."""
    return "here" if parts is None else "score" if any(part is not None for part in parts) else "none"


def _shown(score: CardScore | None) -> dict[str, Any]:
    if score is None:
        return {"part": "none"}
    return {"part": score.model, "score": score.score, "pd_micro": score.pd_micro, "reasons": list(score.reasons)}
