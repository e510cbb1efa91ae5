"""Which of a bank's models are in service: a champion, challengers beside it, and the way back.

`challenge` lets a model be scored beside the champion, `promote` makes it the champion, `rollback` brings the champion before
it back. Each change has a leaf of kind `model` in the operator's name, in front of the change; the history is kept whole. Who
proposed a run may not promote its model (R26), and a model that was dropped after a withdrawal, or whose time is over, serves
no more. Where nobody has promoted any, the first model of the scoring agreement is the champion.
"""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from lianxin.crypto import canonical
from lianxin.federation.errors import InputFault
from lianxin.federation.field_query import OPERATOR
from lianxin.parties.lineage import MODEL, read_mark
from lianxin.parties.node import Node
from lianxin.parties.score_parts import contract_of, model_fault, read_model
from lianxin.parties.scorecard_card import Card, read_card

CHAMPION, CHALLENGER = "champion", "challenger"
_KEY = "models/served"
_CHANGING = threading.Lock()


def card_of(node: Node, run: str) -> Card:
    """Return the bank's scorecard of a run. Raises InputFault naming why there is none to score with."""
    _, record = read_model(node, run)
    if "card" not in record:
        raise InputFault(f"the model of run {run} holds no scorecard; train it again with this version")
    return read_card(record["card"])


class ModelShelf:
    """The models of one bank's node. Safe between threads and across restarts."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def state(self) -> dict[str, Any]:
        """Return the record of what is in service: `champion` ("" for none), `challengers`, `history`."""
        kept = self._node.store.setting(_KEY)
        empty = {"type": "served-models", "version": 1, "champion": "", "challengers": [], "history": []}
        return canonical.decode(kept) if kept else empty

    def serving(self, agreed: Sequence[str]) -> dict[str, str]:
        """Return run to role of the models in service that an agreement serves, the champion first."""
        state = self.state()
        champion = state["champion"] or next(iter(agreed), "")
        beside = [run for run in state["challengers"] if run in agreed and run != champion]
        roles = {champion: CHAMPION} if champion in agreed else {}
        return roles | dict.fromkeys(beside, CHALLENGER)

    def listed(self) -> list[dict[str, Any]]:
        """Return each model that this bank holds or held, by run: its role, whether it may serve, its withdrawals."""
        state, rows = self.state(), {row.run: row for row in self._node.store.runs()}
        named = {state["champion"], *state["challengers"]} - {""}
        folders = {run for run in rows if (self._node.config.state / "runs" / run / MODEL).is_file()}
        return [self._line(run, state) for run in sorted(folders | named)]

    def _line(self, run: str, state: Mapping[str, Any]) -> dict[str, Any]:
        role = CHAMPION if run == state["champion"] else CHALLENGER if run in state["challengers"] else ""
        mark = read_mark(self._node.config.state / "runs" / run)
        return {
            "run": run, "role": role, "fault": model_fault(self._node, run), "withdrawals": mark["revocations"],
            "choice": mark["choice"],
        }  # fmt: skip

    def promote(self, run: str, operator: str) -> dict[str, Any]:
        """Make a run's model the champion and return the new state; see `_usable` for what is refused."""
        self._usable(run, operator)
        if contract_of(self._node, run).proposer == operator:
            raise InputFault("who proposed a run may not promote its model (R26); let a second person do it")
        return self._change("promoted", run, operator)

    def challenge(self, run: str, operator: str) -> dict[str, Any]:
        """Let a run's model be scored beside the champion and return the new state."""
        self._usable(run, operator)
        if run == self.state()["champion"]:
            raise InputFault(f"the model of run {run} is the champion already")
        return self._change("challenging", run, operator)

    def rollback(self, operator: str) -> dict[str, Any]:
        """Bring back the champion before this one and return the new state. Raises InputFault when there is none."""
        state = self.state()
        came = [
            entry for entry in state["history"] if entry["run"] == state["champion"] and entry["event"] == "promoted"
        ]
        before = came[-1]["before"] if came else ""
        if not before:
            raise InputFault("no champion was in service before this one; promote another model by name")
        self._usable(before, operator)
        return self._change("rolled-back", before, operator)

    def _usable(self, run: str, operator: str) -> None:
        """Raise InputFault for an operator without a name, and for a model that may not serve."""
        if OPERATOR.fullmatch(operator) is None:
            raise InputFault("an operator's name is 3 to 64 of a-z, 0-9, '.' and '-'; say who decides with --operator")
        card_of(self._node, run)

    def _change(self, event: str, run: str, operator: str) -> dict[str, Any]:
        with _CHANGING:
            state = self.state()
            before = state["champion"]
            entry = {"time": self._node.clock.now(), "operator": operator, "event": event, "run": run, "before": before}
            if event == "challenging":
                beside = sorted({*state["challengers"], run})
            else:
                beside = [one for one in state["challengers"] if one != run]
            champion = before if event == "challenging" else run
            leaf = {"kind": "model", "run": run, "event": event, "before": before}
            self._node.ledger.append(leaf, operator)
            changed = state | {"champion": champion, "challengers": beside, "history": [*state["history"], entry]}
            self._node.store.put_setting(_KEY, canonical.encode(changed))
        return changed


def answer(node: Node, request: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the control socket answers to a request about models. Raises InputFault, ValueError."""
    shelf, do = ModelShelf(node), request["action"]
    if do == "promote":
        shelf.promote(request["run"], request["operator"])
    elif do == "challenge":
        shelf.challenge(request["run"], request["operator"])
    elif do == "rollback":
        shelf.rollback(request["operator"])
    elif do != "list":
        raise ValueError("unknown action")
    return {"models": shelf.listed(), "history": shelf.state()["history"]}
