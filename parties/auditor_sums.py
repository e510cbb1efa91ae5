"""What an auditor checks of secret sums and of networks: who signed what was opened, what stood behind it, what it cost.

A bank's leaf `secure-sum` is written before it opens a sum. The auditor builds the signed records again that it speaks of,
keys and sets, and verifies them under the contract's keys; the values and masks are in no evidence. Of a network's run it
also wants, behind each sum, the releases of that round, the one leaf of what differential privacy cost, and the platform's
word on each round, the ones taken back among them.

A bank that opened a sum and hides it is found by the sets that others hold, or by the round that it then lacks. What cannot be
seen: what was added, and a platform that together with all but one bank of a sum takes the last one's value apart.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from lianxin.crypto import canonical, signing
from lianxin.crypto.errors import CryptoError
from lianxin.parties.auditor_evidence import Evidence, Finding, Record, Run, leaf_finding

NETWORKS = frozenset({"logistic", "mlp", "tabular"})
LEAST = 3
_LABEL = re.compile(r"([a-z][a-z.]*)/(0|[1-9][0-9]{0,6})/(0|[1-9][0-9]{0,6})/(0|[1-9][0-9]{0,6})", re.ASCII)
_KEY, _SET = "secure-sum-key", "secure-sum-set"
_MOST_ROUNDS = 1000  # a contract of any content may lie in a folder


def sum_findings(run: Run, own: Evidence) -> Iterator[Finding]:
    """Yield the sums that this party opened otherwise than the protocol and the contract's policy have it."""
    used = Counter(leaf["label"] for _, leaf in own.of_kind("secure-sum", run.id))
    opened, behind = _opened(run), _Behind(run, own) if is_network(run) else None
    for index, leaf in own.of_kind("secure-sum", run.id):
        what = _terms_fault(run, own, leaf) or _signed_fault(run, leaf) or _place_fault(opened, leaf)
        what = (
            what
            or ("opened a label twice" if used[leaf["label"]] > 1 else "")
            or (behind.fault(index, leaf) if behind else "")
        )
        if what:
            yield _finding(own, index, f"sum {_shown(leaf['label'])} {what}", _rule_of(what))
    if is_network(run):
        yield from _missing_findings(run, own)


def is_network(run: Run) -> bool:
    """Return whether the run's model is a network across banks."""
    return run.contract.get("model") in NETWORKS


def banks_of(run: Run) -> list[str]:
    """Return the contract's banks, sorted."""
    return sorted(set(run.node_keys) - {str(run.contract.get("platform"))})


def policy_threshold(banks: int) -> int:
    """Return how many of `banks` must sign a set: the auditor's own copy of the policy (network_terms.threshold)."""
    return min(max(LEAST, 2 * banks // 3 + 1), max(2, banks))


def _terms_fault(run: Run, own: Evidence, leaf: Record) -> str:
    asked, senders, included = (leaf[name] for name in ("asked", "senders", "included"))
    least = LEAST if is_network(run) else 2
    signers, most = [one["party"] for one in leaf["sets"]], _most(run, leaf)
    fewest = policy_threshold(most)
    broken = {
        "is under another contract": leaf["contract_hash"] != run.contract_hash,
        "has a label that is none": _LABEL.fullmatch(leaf["label"]) is None,
        "is of parties that are not the contract's banks": not set(asked) <= set(banks_of(run)),
        f"is of fewer than {least} banks": len(set(asked)) < least,
        "lists a bank twice": any(len(set(one)) < len(one) for one in (asked, senders, included, signers)),
        "has a bank that did not come through the stage before": not set(included) <= set(senders) <= set(asked),
        "was opened without this bank's own value in it": own.party not in included,
        "was opened by a bank outside of the set": not set(signers) <= set(included),
        f"was opened by fewer than the policy's {fewest} of {most} banks": not (
            fewest <= leaf["threshold"] <= len(set(signers))
        ),
    }
    return next((what for what, holds in broken.items() if holds), "")


def _most(run: Run, leaf: Record) -> int:
    """Return how many banks the policy of a sum is reckoned of: a network's, or its smallest group's, whoever is said to be
    lost; of a scorecard those asked."""
    if not is_network(run):
        return len(leaf["asked"])
    groups = run.contract.get("groups", 1)
    in_groups = groups if _is_training(leaf) and isinstance(groups, int) and groups > 1 else 1
    return max(1, len(banks_of(run)) // in_groups)


def _signed_fault(run: Run, leaf: Record) -> str:
    texts = [_signed(run, leaf, _KEY, one, {"key": one["key"]}) for one in leaf["keys"]]
    parties = {one["party"] for one in leaf["keys"]}
    if "" in texts or len(parties) != len(texts) or len({one["key"] for one in leaf["keys"]}) != len(texts):
        return "holds a key that its bank did not sign for this sum"
    if not set(leaf["senders"]) <= parties <= set(leaf["asked"]):
        return "has a bank without a signed key"
    said = {"view": _view(texts, leaf["senders"], leaf["question"]), "included": leaf["included"]}
    for one in leaf["sets"]:
        if not _signed(run, leaf, _SET, one, said):
            return f"was opened by a set that {_shown(one['party'])} did not sign"
    return ""


def _signed(run: Run, leaf: Record, kind: str, one: Mapping[str, str], entries: Mapping[str, Any]) -> str:
    """Return the text of the signed record that a leaf speaks of, "" when it is not signed by its party."""
    party = one["party"]
    record = {
        "type": kind, "version": 1, "run": run.id, "contract": run.contract_hash, "label": leaf["label"],
        "party": party, **entries,
    }  # fmt: skip
    key = run.node_keys.get(party, "")
    signed = {"record": record, "signatures": [{"key": key, "signer": party, "signature": one["signature"]}]}
    try:
        text = canonical.encode(signed)
    except CryptoError:
        return ""
    return text.decode() if _is_signed(text, party, key) else ""


@lru_cache(maxsize=1 << 17)  # each bank's leaf speaks of the same records
def _is_signed(text: bytes, party: str, key: str) -> bool:
    try:
        signing.verify_signed(canonical.decode_fragment(text), {party: key})
    except CryptoError:
        return False
    return True


def _view(keys: list[str], senders: list[str], question: str) -> str:
    """Return what a bank signs of what it saw before it (federation/secure_sum, step 4)."""
    of_keys = hashlib.sha256(canonical.encode({"keys": sorted(keys)})).hexdigest()
    return hashlib.sha256(
        canonical.encode({"keys": of_keys, "senders": sorted(senders), "question": question})
    ).hexdigest()


def _opened(run: Run) -> dict[str, list[tuple[str, frozenset[str]]]]:
    """Return which sets all parties' leaves say were opened, by kind/round, with who says so."""
    found: dict[str, list[tuple[str, frozenset[str]]]] = defaultdict(list)
    sets: dict[frozenset[str], frozenset[str]] = {}
    for party, one in run.evidence.items():
        for _, leaf in one.of_kind("secure-sum", run.id):
            told = (party, sets.setdefault(banks := frozenset(leaf["included"]), banks))
            if told not in found[place := _place(leaf)]:
                found[place].append(told)
    return found


def _place(leaf: Record) -> str:
    return "/".join(str(leaf["label"]).split("/")[:2])


def _place_fault(opened: Mapping[str, list[tuple[str, frozenset[str]]]], leaf: Record) -> str:
    """Return the fault of two sets that were opened at one (kind, round): they are equal, or of groups without a bank in
    common (SS08)."""
    included = set(leaf["included"])
    for party, other in opened[_place(leaf)]:
        if other & included and other != included:
            return f"is a second set of banks opened for {_place(leaf)}, beside the one that {party} tells (SS08)"
    return ""


class _Behind:
    """Where this party first released rows, and aggregates by step, for each round of a network."""

    def __init__(self, run: Run, own: Evidence) -> None:
        self._rows: dict[object, int] = {}
        self._aggregates: dict[tuple[object, str], int] = {}
        for index, leaf in own.of_kind("release", run.id):
            turn = leaf.get("round") if isinstance(leaf.get("round"), int) else None
            if leaf["mode"] == "COMPUTE_ONLY":
                self._rows.setdefault(turn, index)
            elif leaf["mode"] == "AGGREGATE":
                self._aggregates.setdefault((turn, leaf["step"]), index)

    def fault(self, index: int, leaf: Record) -> str:
        """Return which release of the round is missing in front of a network's sum."""
        kind, turn, _, _ = leaf["label"].split("/")
        if not self._rows.get(int(turn), index) < index:
            return f"was opened without a release of rows for round {turn} (rule G04)"
        if kind == "train" and not self._aggregates.get((int(turn), kind), index) < index:
            return f"was opened without a release of an aggregate for round {turn} (rule G04)"
        return ""


def _missing_findings(run: Run, own: Evidence) -> Iterator[Finding]:
    """Yield the rounds of a finished network in which a bank opened no sum of training."""
    if own.party not in banks_of(run) or run.contract.get("aggregation") != "secret" or not _has_finished(run, own):
        return
    opened = {leaf["label"].split("/")[1] for _, leaf in own.of_kind("secure-sum", run.id) if _is_training(leaf)}
    for turn in range(1, min(run.contract["rounds"], _MOST_ROUNDS) + 1):
        if str(turn) not in opened:
            what = f"{own.party}: no leaf tells who opened the sum of training of round {turn}"
            yield Finding(what, f"ask {own.party} for its leaf of that round")


def _is_training(leaf: Record) -> bool:
    return bool(leaf["label"].startswith("train/"))


def _has_finished(run: Run, own: Evidence) -> bool:
    return any(leaf["event"] == "finished" for _, leaf in own.of_kind("contract", run.id))


# ---- what differential privacy costs


def privacy_findings(run: Run, own: Evidence) -> Iterator[Finding]:
    """Yield what is wrong with the leaves of what this bank's runs spent of differential privacy."""
    if not is_network(run) or own.party not in banks_of(run):
        return
    here, asked = list(own.of_kind("privacy", run.id)), run.contract.get("epsilon_thousandths")
    trained = _first_training(run, own)
    if bool(asked) != bool(here) and (here or trained is not None):
        said = "no leaf says what it cost" if asked else "a leaf says what it cost, and the contract asks for none"
        yield Finding(f"{own.party}: trained with differential privacy of epsilon {asked} thousandths, {said}",
                      f"ask {own.party} with what noise it trained")  # fmt: skip
    if len(here) > 1:
        yield _finding(own, here[1][0], "a run's privacy was spent twice")
    terms = {"epsilon_thousandths": asked, "delta_exponent": run.contract.get("delta_exponent"),
             "unit": run.contract.get("privacy_unit"), "contract_hash": run.contract_hash}  # fmt: skip
    for index, leaf in here:
        odd = [name for name, value in terms.items() if leaf[name] != value]
        if odd:
            yield _finding(own, index, f"a run's privacy was spent on another {odd[0]} than the contract's")
        if trained is not None and trained < index:
            yield _finding(own, index, "a run's privacy was spent after its first training")
    yield from _budget_findings(run, own)


def _first_training(run: Run, own: Evidence) -> int | None:
    """Return the index of the first masked or clear value of a round that left."""
    sent = (
        index for index, leaf in own.crossings(run.id, "out") if leaf["round"] and leaf["step"] == "learning.exchange"
    )
    return next(sent, None)


def _budget_findings(run: Run, own: Evidence) -> Iterator[Finding]:
    """Yield the first leaf by which the runs of this table spent more than the budget that the first leaf shows."""
    leaves = list(own.of_kind("privacy"))
    if not leaves:
        return
    budget, spent = leaves[0][1]["left_thousandths"] + leaves[0][1]["epsilon_thousandths"], 0
    for index, leaf in leaves:
        spent += leaf["epsilon_thousandths"]
        is_renewed = bool(leaf.get("days", 0))  # a rolling window: what was spent long ago counts no more
        if leaf["left_thousandths"] < 0 or (spent > budget and not is_renewed):
            yield _finding(own, index, f"runs spent {spent} thousandths of epsilon together, of a budget of {budget}")
            return


# ---- the platform's word on each round


def round_findings(run: Run, own: Evidence) -> Iterator[Finding]:
    """Yield the rounds of a network of which its platform does not say, once and for all, whether they were taken back."""
    if not is_network(run) or own.party != run.contract.get("platform"):
        return
    told: dict[int, Record] = {}
    for index, leaf in own.of_kind("network-round", run.id):
        said = {name: leaf[name] for name in ("accepted", "reason", "rows", "weights_sha256")}
        if told.setdefault(leaf["round"], said) != said:
            yield _finding(own, index, f"round {leaf['round']} is told twice, and otherwise")
    taken_back, most = sum(not said["accepted"] for said in told.values()), run.contract.get("max_rollbacks", 0)
    if isinstance(most, int) and taken_back > most and _has_finished(run, own):
        yield Finding(f"{own.party}: {taken_back} rounds were taken back, the contract allows {most}",
                      f"ask {own.party} why the run went on")  # fmt: skip
    if _has_finished(run, own):
        for turn in sorted(set(range(1, min(run.contract["rounds"], _MOST_ROUNDS) + 1)) - set(told)):
            yield Finding(
                f"{own.party}: no leaf tells what became of round {turn}", f"ask {own.party} what it did with it"
            )


def _shown(text: str) -> str:
    """Return a name as it may be shown: evidence is of any content."""
    return text if _LABEL.fullmatch(text) or re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", text) else "of an odd name"


def _rule_of(what: str) -> str:
    return next((rule for rule in ("SS08", "G04") if rule in what), "")


def _finding(own: Evidence, index: int, what: str, rule: str = "") -> Finding:
    return leaf_finding(own, index, what, "for the sum's records", rule)


__all__ = ["is_network", "policy_threshold", "privacy_findings", "round_findings", "sum_findings"]
