"""Which of a bank's models are in service: a champion, challengers beside it, and the way back.

`challenge` lets a model be scored beside the champion, `promote` makes it the champion, `rollback` brings the champion before
it back. Each change has a leaf of kind `model` in the operator's name, in front of the change; the history is kept whole. Two
people put a model into service (R26): who proposed its run, approved it here or made it a challenger neither promotes it nor
rolls back to it. A model that was dropped after a withdrawal, or whose time is over, serves no more. Where nobody has promoted
any, the first model of the scoring agreement is the champion.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lianxin.crypto import canonical
from lianxin.federation.errors import InputFault
from lianxin.federation.field_query import OPERATOR
from lianxin.parties.lineage import MODEL, read_mark
from lianxin.parties.node import Node
from lianxin.parties.score_parts import check_model, contract_of, model_fault, read_model
from lianxin.parties.score_trees import BANK_TREES, BankModel, read_tree_model
from lianxin.parties.scorecard_card import read_card

CHAMPION, CHALLENGER = "champion", "challenger"
_KEY = "models/served"
_CHANGING = threading.Lock()


def model_of(node: Node, run: str) -> BankModel:
    """Return the bank's scorecard or trees of a run. Raises InputFault naming why there is none to score with."""
    contract, record = read_model(node, run)
    if record.get("type") == BANK_TREES:
        return read_tree_model(contract, record)
    if "card" not in record:
        raise InputFault(f"the model of run {run} holds no scorecard; train it again with this version")
    return read_card(record["card"])


class ModelReader:
    """Gives a bank's models, each file read once as long as it is the same. Safe between threads."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._read: dict[str, tuple[tuple[int, ...], BankModel]] = {}

    def model(self, run: str) -> BankModel:
        """Return the model of a run. Raises InputFault as `model_of` does, whatever was read before."""
        check_model(self._node, run)
        stamp = self._stamp(run)
        kept = self._read.get(run)
        if kept is None or kept[0] != stamp:
            self._read[run] = kept = (stamp, model_of(self._node, run))
        return kept[1]

    def _stamp(self, run: str) -> tuple[int, ...]:
        try:
            found = (self._node.config.state / "runs" / run / MODEL).stat()
        except OSError:
            raise InputFault(f"{self._node.party} holds no model of run {run} any more; name another model") from None
        return found.st_ino, found.st_size, found.st_mtime_ns


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
        """Return run to role of the models in service that an agreement serves, the champion first; nothing where the
        champion is none of them."""
        state = self.state()
        champion = state["champion"] or next(iter(agreed), "")
        if champion not in agreed:
            return {}
        beside = [run for run in state["challengers"] if run in agreed and run != champion]
        return {champion: CHAMPION} | dict.fromkeys(beside, CHALLENGER)

    def listed(self, agreements: Iterable[Sequence[str]] = ()) -> list[dict[str, Any]]:
        """Return each model that this bank holds or held, by run: its role, whether it may serve, its withdrawals.

        `agreements` are the models of each scoring agreement that stands: without a promoted model the first of each is
        champion, `by_default`.
        """
        state, rows = self.state(), {row.run: row for row in self._node.store.runs()}
        first = set() if state["champion"] else {agreed[0] for agreed in agreements if agreed}
        named = {state["champion"], *state["challengers"], *first} - {""}
        folders = {run for run in rows if (self._node.config.state / "runs" / run / MODEL).is_file()}
        return [self._line(run, state, run in first) for run in sorted(folders | named)]

    def _line(self, run: str, state: Mapping[str, Any], is_first: bool) -> dict[str, Any]:
        is_champion = is_first or run == state["champion"]
        role = CHAMPION if is_champion else CHALLENGER if run in state["challengers"] else ""
        mark = read_mark(self._node.config.state / "runs" / run)
        return {
            "run": run, "role": role, "fault": model_fault(self._node, run), "withdrawals": mark["revocations"],
            "choice": mark["choice"], "by_default": is_first,
        }  # fmt: skip

    def promote(self, run: str, operator: str) -> dict[str, Any]:
        """Make a run's model the champion and return the new state. Raises InputFault for a model that may not serve or is
        the champion already, and for an operator who is not the second person."""
        with _CHANGING:
            self._usable(run, operator)
            state = self.state()
            if run == state["champion"]:
                raise InputFault(f"the model of run {run} is the champion already")
            self._check_second(run, operator, state)
            return self._change("promoted", run, operator, state)

    def challenge(self, run: str, operator: str) -> dict[str, Any]:
        """Let a run's model be scored beside the champion and return the new state."""
        with _CHANGING:
            self._usable(run, operator)
            state = self.state()
            if run == state["champion"] or run in state["challengers"]:
                role = "the champion" if run == state["champion"] else "a challenger"
                raise InputFault(f"the model of run {run} is {role} already")
            return self._change("challenging", run, operator, state)

    def rollback(self, operator: str) -> dict[str, Any]:
        """Bring back the champion before this one and return the new state. Raises InputFault when there is none, and as
        `promote` does."""
        with _CHANGING:
            state = self.state()
            before = _before(state)
            if not before:
                raise InputFault("no champion was in service before this one; promote another model by name")
            self._usable(before, operator)
            self._check_second(before, operator, state)
            return self._change("rolled-back", before, operator, state)

    def _usable(self, run: str, operator: str) -> None:
        """Raise InputFault for an operator without a name, and for a model that may not serve."""
        if OPERATOR.fullmatch(operator) is None:
            raise InputFault("an operator's name is 3 to 64 of a-z, 0-9, '.' and '-'; say who decides with --operator")
        model_of(self._node, run)

    def _check_second(self, run: str, operator: str, state: Mapping[str, Any]) -> None:
        """Raise InputFault (R26) for who has had a hand in the model before: one person alone puts none into service."""
        challenging = [
            one["operator"] for one in state["history"] if (one["run"], one["event"]) == (run, "challenging")
        ]
        firsts = {
            f"proposed run {run}": {contract_of(self._node, run).proposer},
            f"approved run {run}": _approvers(self._node, run),
            f"made run {run} a challenger": set(challenging[-1:]),
        }
        for what, people in firsts.items():
            if operator in people:
                raise InputFault(f"who {what} may not promote its model (R26); let a second person do it")

    def _change(self, event: str, run: str, operator: str, state: Mapping[str, Any]) -> dict[str, Any]:
        before = state["champion"]
        entry = {"time": self._node.clock.now(), "operator": operator, "event": event, "run": run, "before": before}
        if event == "challenging":
            beside = sorted({*state["challengers"], run})
        else:
            beside = [one for one in state["challengers"] if one != run]
        champion = before if event == "challenging" else run
        leaf = {"kind": "model", "run": run, "event": event, "before": before}
        self._node.ledger.append(leaf, operator)
        changed = {**state, "champion": champion, "challengers": beside, "history": [*state["history"], entry]}
        self._node.store.put_setting(_KEY, canonical.encode(changed))
        return changed


def _before(state: Mapping[str, Any]) -> str:
    """Return the champion before the present one, "" where there was none."""
    came = [entry for entry in state["history"] if entry["run"] == state["champion"] and entry["event"] == "promoted"]
    return str(came[-1]["before"]) if came else ""


def _approvers(node: Node, run: str) -> set[str]:
    """Return who approved a run at this node, by the leaves of its ledger."""
    sought = f'"run":"{run}"'.encode()
    leaves = (canonical.decode(leaf) for leaf in node.store.leaves() if b'"approved"' in leaf and sought in leaf)
    events = [leaf for leaf in leaves if leaf["kind"] == "contract" and leaf["run"] == run]
    return {leaf.get("approver", leaf["operator"]) for leaf in events if leaf["event"] == "approved"}


def answer(node: Node, request: Mapping[str, Any], agreements: Iterable[Sequence[str]]) -> dict[str, Any]:
    """Return what the control socket answers to a request about models, of which `agreements` serve some.

    Raises InputFault, ValueError.
    """
    shelf, do = ModelShelf(node), request["action"]
    if do == "promote":
        shelf.promote(request["run"], request["operator"])
    elif do == "challenge":
        shelf.challenge(request["run"], request["operator"])
    elif do == "rollback":
        shelf.rollback(request["operator"])
    elif do != "list":
        raise ValueError("unknown action")
    return {"models": shelf.listed(agreements), "history": shelf.state()["history"]}
