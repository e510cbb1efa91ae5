"""What an operator reads when a run did not end well: which run, at whom, in which step, why, and what to do.

One function makes the sentence on every node, from the record of how the run ended: {"run", "state", "rule", "error",
"party", "step"}. What a peer said is not in it: of a peer's fault only the rule is known.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

_ANEW = "launch it anew under another id"
REMEDIES: Mapping[str, str] = {
    "C01": "upgrade the older of the two nodes, or propose terms that both versions know, under another run id",
    "C02": "compare the pinned keys of the two nodes with each other's operator, then " + _ANEW,
    "C03": "take the columns that the bank lacks out of the run's terms, and " + _ANEW,
    "C04": "check the clocks of both nodes and the run's days, and " + _ANEW,
    "C05": "ask the other side for its log before anything is proposed again: a contract that was not agreed was shown",
    "C06": "ask the bank's operator to answer sooner, and " + _ANEW,
    "C07": "ask the bank's operator what has to change, and propose that under another run id",
    "C08": "choose a run id that was never used",
    "C09": "leave one of the two banks out: they are one legal entity",
    "C10": "set aggregation to secret",
    "C20": "ask the operator of the node at which a party was revoked, and " + _ANEW + " without that party",
    "C12": "nothing is to be mended: an operator ended it; " + _ANEW + " when it is wanted",
    "C13": "ask the bank's operator for the reason; " + _ANEW + ", with or without that bank",
    "C14": "wait until a run at that bank has ended, or have it raise at_once in its [runs], and " + _ANEW,
    "I30": "have the bank approved in the register (`lianxin platform institutions`), and " + _ANEW,
    "I31": "leave the suspended bank out, or have another operator resume it, and " + _ANEW,
    "I32": "enter and approve the bank's new agreement (`lianxin platform institutions`), and " + _ANEW,
    "I33": "ask for what the bank is approved for, or enter and approve wider terms, and " + _ANEW,
    "R26": "let a second person decide: who proposes does not approve",
    "M04": "wait until the quota's days are over, or agree a higher one with the platform",
    "BQ01": "wait until the quota's days are over, or propose fewer cuts",
    "T01": "set the machine's clock right and start its node again",
    "W01": "bring the witnesses back, so that they cosign the ledger's head",
    "I00": "look into the other node's log: it turned this one away at the door",
    "I08": "wait until other conversations with that party have ended",
    "I09": "look whether the other node was started again meanwhile, and " + _ANEW,
    "I10": "compare the versions of the two nodes",
    "S04": "propose more days, and " + _ANEW,
    "N01": "keep both evidence folders and show them to the auditor: numbers failed a cryptographic check",
    "DP01": "wait until the budget's days are over, or propose a smaller epsilon",
    "RUN": "mend what the sentence names, and " + _ANEW,
    "W00": "look into the log of the party that is named, and " + _ANEW,
}
_GROUPS = (
    ("OUT-", "bring more firms, or agree lower minimums, and " + _ANEW),
    ("DP", "agree other terms of differential privacy, and " + _ANEW),
    ("SS", "look into the banks' logs: the secret sum was left or disturbed; " + _ANEW),
    ("P", "agree terms within the bank's policy, and propose them under another run id"),
    ("R", "ask for the consents or approvals that are missing, and " + _ANEW),
    ("G", "compare the versions of the two nodes and show the evidence to the auditor"),
    ("S", "look into both nodes' logs: the conversation was not the one agreed; " + _ANEW),
    ("I", "look into the other node's log and compare certificates and versions"),
    ("L", "look into the log of the bank that is named, and " + _ANEW),
    ("M", "compare the two sides' tables and quotas, and " + _ANEW),
    ("NN", "compare versions and packages of the banks' nodes, and " + _ANEW),
    ("B", "show both evidence folders to the auditor: numbers did not fit what was agreed"),
)
_RULE = re.compile(r"\(rule ([A-Z]{1,8}[0-9]{0,2}(?:-[A-Z]{1,8})?)\)")
_ENDINGS = ("finished", "standing", "ended")


def remedy(rule: str) -> str:
    """Return what to do where a run ended by `rule`; a rule that has no words of its own has those of its group."""
    if rule in REMEDIES:
        return REMEDIES[rule]
    return next((words for group, words in _GROUPS if rule.startswith(group)), REMEDIES["RUN"])


def rule_in(fault: Exception) -> str:
    """Return the rule of a fault: its own, the one that its sentence names, else RUN."""
    named = _RULE.findall(str(fault))
    own = str(getattr(fault, "rule", ""))
    return own if own not in ("", "W00") else named[-1] if named else own or "RUN"


def party_in(sentence: str, parties: Iterable[str]) -> str:
    """Return the first of `parties` that a sentence names, "" for none."""
    found = [
        (hit.start(), one) for one in parties if (hit := re.search(rf"(?<![\w-]){re.escape(one)}(?![\w-])", sentence))
    ]
    return min(found)[1] if found else ""


def failed(
    run: str, fault: Exception, own: str, parties: Iterable[str], step: str, rule: str = "", state: str = "failed"
) -> dict[str, Any]:
    """Return the record of a run that ended by `fault` at the node of `own`, in `step` unless the fault knows better."""
    said = str(fault)
    at = str(getattr(fault, "party", "")) or party_in(said, [one for one in parties if one != own]) or own
    return {
        "run": run, "state": state, "rule": rule or rule_in(fault), "error": said, "party": at,
        "step": str(getattr(fault, "step", "")) or step, "exit_code": getattr(fault, "exit_code", 3),
    }  # fmt: skip


def terms_of(contract: Any) -> dict[str, Any]:
    """Return what a list of runs shows of one that never got a row in the store: its kind, its banks, since when."""
    return {"model": contract.model, "banks": list(contract.banks), "since": contract.created_at}


def tell(record: Mapping[str, Any]) -> str:
    """Return the sentence of how a run ended: run, party, step, rule, why and what to do; "" for one that ended well."""
    if record.get("state") in (*_ENDINGS, None):
        return ""
    rule, why = record.get("rule") or "RUN", str(record.get("error") or record.get("why") or "").rstrip(".")
    at = f" at {record['party']}" if record.get("party") else ""
    step = f" in {record['step']}" if record.get("step") else ""
    head = f"run {record['run']} {record['state']}{at}{step} (rule {rule})"
    has_words = rule in REMEDIES and rule != "RUN"
    todo = f"; to do: {remedy(rule)}" if has_words or ";" not in why else ""
    return f"{head}{': ' + why if why else ''}{todo}"
