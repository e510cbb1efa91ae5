"""What an auditor checks of the plan: one plan that all approved, and nothing that crossed beside it.

The leaves `proposed` and `approved` commit to the plan that was shown. A plan lists, for each step and sender, how many
messages of how many bytes cross at most, and who learns what at which step. The auditor counts what crossed by the leaves,
which say what the signed headers say: nothing in a step that the plan does not list, no message outside its step (G02), no
more or larger than "at most", and no value to a party of which the plan does not say that it learns something there. A plan of
a standing agreement lists no counts, since how often is asked is no term of it; its steps are those of which it says what is
learned.

What a contract allows to happen again is no fault: the sum that a lost bank broke off, and the turn of a network that was
under way when a bank came back, in a conversation with a further number. Evidence from before plans were kept has neither
leaf nor plan and is not judged here.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from lianxin.crypto import canonical
from lianxin.parties.auditor_envelopes import FREE_FORMS
from lianxin.parties.auditor_evidence import NOBODY, Evidence, Finding, Record, Run, fits, message_of
from lianxin.parties.auditor_limits import padded
from lianxin.parties.auditor_sums import banks_of, is_network

PLAN: Record = {
    "type": str, "version": int, "run": str, "contract": str, "parties": [str],
    "learns": [{"who": str, "what": str, "step": str}],
    "messages": [{"step": str, "sender": str, "recipient": str, "envelopes": int, "bytes": int}],
}  # fmt: skip
AGREED = frozenset({"proposed", "approved"})
EVERYBODY = frozenset({"every party", "both sides"})
_STANDING, _AGREEMENT = frozenset({"field_query", "scoring"}), frozenset({"contract.agree", "contract.close"})
_MATCHED = ("matching.share", "scoring.points", "boosting.score")
_LEARNING, _CLOSE = "learning.exchange", "contract.close"
_STAGES = 5  # messages of one secret sum in each direction
_TURN = 2 * _STAGES + 2  # a turn of a network: a sum of updates, a sum of losses, and what is said around them
STEP_MESSAGES: Mapping[str, frozenset[str]] = {  # the auditor's own copy of federation/steps
    step: frozenset({*messages.split(), "Refusal"})
    for step, messages in {
        "contract.agree": "Proposal Approval SignedContract",
        "contract.close": "RunStatus RunClosed",
        "learning.exchange": "LearningMessage",
        "matching.open": "BankOpening PlatformOpening",
        "matching.commit": "BankCommitment",
        "matching.query": "BankQueries PlatformAnswers BankBlindedElements PlatformEvaluatedElements",
        "matching.compare": "PlatformTags",
        "matching.share": "BankMatches PlatformMatchesNoted",
        "binning.rows": "TrainingRows TrainingRowsNoted",
        "binning.keys": "TrainingKey",
        "binning.count": "EncryptedLabels LabelHistogram HistogramNoted",
        "binning.masks": "MaskSet MaskSums MaskTotals",
        "round.rows": "LiveRows",
        "round.range": "ScoreRange RangeChoice",
        "round.residuals": "ResidualShares MaskedResiduals",
        "round.gradient": "MaskedGradient RoundNoted",
        "scoring.points": "ScorePoints PointsNoted",
        "selection.products": "OwnColumns CrossProducts OwnCorrelations",
        "selection.verdict": "SelectionVerdict SelectionNoted",
        "boosting.open": "TrainingKey TreeFeatures",
        "boosting.gradients": "TreeOpening TreeGradients",
        "boosting.histogram": "TreeNodes NodeHistograms",
        "boosting.split": "SplitChoice SplitBits TreeGrown",
        "boosting.score": "CutBits CutBitsNoted",
        "scoring.ask": "ScoreRequest",
        "scoring.answer": "ScoreReply",
        "query.ask": "QueryRequest",
        "query.answer": "QueryReply",
    }.items()
}
Road = tuple[str, str, str]  # step, sender, recipient


def plan_findings(run: Run, own: Evidence) -> Iterator[Finding]:
    """Yield where a party's plan is not the one that was approved, and what crossed at this party beside it."""
    approved = approvals_with(run, own, "plan_hash")
    yield from document_findings(run, own, "plan", approved)
    yield from _other_findings(run, own, approved)
    plan = own.documents.get("plan", {})
    if not plan:
        return
    reason = _plan_fault(run, plan)
    if reason:
        yield Finding(f"{own.party}, plan.json: {reason}", f"ask {own.party} which plan it saw")
        return
    yield from _transcript_findings(run, own, plan)


def approvals_with(run: Run, own: Evidence, key: str) -> list[tuple[int, Record]]:
    """Return this party's leaves of proposal and approval of the contract that name a text `key`, with their indexes."""
    return [
        (index, leaf)
        for index, leaf in own.of_kind("contract", run.id)
        if leaf["event"] in AGREED and leaf["contract_hash"] == run.contract_hash and isinstance(leaf.get(key), str)
    ]


def document_findings(run: Run, own: Evidence, name: str, named: list[tuple[int, Record]]) -> Iterator[Finding]:
    """Yield where `name`.json is not the record whose hash these leaves have as `name`_hash, or one of both is missing."""
    record, ask = own.documents.get(name, {}), f"ask {own.party} for the {name} that was in force"
    if record and not named:
        yield Finding(f"{own.party}: {name}.json is there, and no leaf says that it was approved by it", ask)
    digest = canonical.record_hash(record) if record else ""
    for index, leaf in named:
        if not record:
            yield Finding(f"{own.party}, leaf {index}: {name}.json, of the hash that it names, is missing", ask, index)
        elif leaf[f"{name}_hash"] != digest:
            yield Finding(f"{own.party}, leaf {index}: it names another {name} than {name}.json", ask, index)


def _other_findings(run: Run, own: Evidence, approved: list[tuple[int, Record]]) -> Iterator[Finding]:
    """Yield where this party approved another plan than the others, or says nothing of one where they do."""
    told = {
        party: leaf["plan_hash"]
        for party, one in sorted(run.evidence.items())
        if party != own.party and party in run.node_keys
        for _, leaf in approvals_with(run, one, "plan_hash")
    }
    if told and not approved and own.party in run.node_keys:
        other = next(iter(told))
        yield Finding(
            f"{own.party}: no leaf names the plan that it approved, and {other}'s does", f"ask {own.party} for its plan"
        )
    for index, leaf in approved:
        odd = next((party for party, digest in told.items() if digest != leaf["plan_hash"]), "")
        if odd and own.party != run.contract.get("platform"):  # said once, at the bank that was shown it
            what = f"{own.party}, leaf {index}: it approved another plan than the one in the leaf of {odd}"
            ask = f"ask {run.contract.get('platform')} which plan it proposed to whom"
            yield Finding(what, ask, index, accused=NOBODY)


def _plan_fault(run: Run, plan: Record) -> str:
    if not fits(plan, PLAN) or plan["type"] != "plan":
        return "it is no plan"
    if plan["run"] != run.id or plan["contract"] != run.contract_hash:
        return "it is of another run or contract"
    if set(plan["parties"]) != set(run.node_keys):
        return "it is of other parties than the contract's"
    return ""


# ---- what crossed


@dataclass
class _Plan:
    """What a plan allows, and how much of it was used."""

    run: Run
    most: dict[Road, tuple[int, int]]
    learns: dict[str, set[str]]
    used: Counter[Road] = field(default_factory=Counter)
    size: Counter[Road] = field(default_factory=Counter)

    @classmethod
    def of(cls, run: Run, own: Evidence, record: Record) -> "_Plan":
        learns: dict[str, set[str]] = {}
        for entry in record["learns"]:
            learns.setdefault(entry["step"], set()).add(entry["who"])
        most: Counter[Road] = Counter()
        size: Counter[Road] = Counter()
        for entry in record["messages"]:
            road = (entry["step"], entry["sender"], entry["recipient"])
            most[road] += entry["envelopes"]
            size[road] += entry["bytes"]
        again, firms = _repeats(run, own), _shares_of_firms(run, record)
        allowed = {road: _with_repeats(road, most[road], size[road], again) for road in most}
        return cls(run, {road: _times(firms.get(road[0], 1), *pair) for road, pair in allowed.items()}, learns)

    @property
    def is_standing(self) -> bool:
        return self.run.contract.get("model") in _STANDING

    def is_listed(self, road: Road) -> bool:
        return road in self.most or (self.is_standing and (road[0] in self.learns or road[0] in _AGREEMENT))

    def learns_at(self, step: str, recipient: str) -> bool:
        who = self.learns.get(step, set())
        return bool(who & EVERYBODY) or recipient in who or ("each bank" in who and recipient in banks_of(self.run))

    def faults(self, road: Road, leaf: Record) -> Iterator[tuple[str, str, str]]:
        """Yield (what kind of fault, what to say, rule) of one more message that went this road."""
        message, (step, sender, recipient) = leaf["message_type"], road
        if message == "Refusal":
            return
        if message not in STEP_MESSAGES.get(step, frozenset()):
            yield f"type {message}", f"{sender} sent a {_named(message)} in a step that knows none (rule G02)", "G02"
        if not self.is_listed(road):
            what = f"{sender} sent a {_named(message)} to {recipient} in a step that the plan does not list"
            yield "step", what, ""
            return
        forms = {one["form"] for one in leaf["forms"]} - FREE_FORMS
        if forms and not self.learns_at(step, recipient):
            values = " and ".join(map(_named, sorted(forms)))
            what = f"{recipient} was sent {values} in {step}, where the plan does not say that it learns anything"
            yield "learns", what, ""
        size = leaf.get("size_bytes")
        yield from self._count(road, size if isinstance(size, int) else 0)

    def _count(self, road: Road, payload_bytes: int) -> Iterator[tuple[str, str, str]]:
        if road not in self.most:
            return
        self.used[road] += 1
        self.size[road] += payload_bytes
        (step, sender, recipient), (envelopes, size) = road, self.most[road]
        if self.used[road] > envelopes:
            yield (
                "count",
                f"{sender} sent more than the {envelopes} messages of {step} to {recipient} that it plans",
                "",
            )
        if self.size[road] > size:
            yield "bytes", f"{sender} sent more than the {size} bytes of {step} to {recipient} that it plans", ""


def _named(text: str) -> str:
    """Return a word of evidence as it may be shown."""
    return text if text.isascii() and text.isalpha() and len(text) <= 40 else "message of an odd name"


def _shares_of_firms(run: Run, record: Record) -> dict[str, int]:
    """Return how many times over a step may be larger because the platform has more firms than the plan reckons with.

    That number is the plan's guess and no term: the contract's are `max_firms`, and `max_queries` for what was matched.
    `auditor_limits` holds what was declared and matched against what was released.
    """
    guessed, terms = record.get("budgets"), {"max_firms": int, "max_queries": int}
    if not fits(guessed, {"firms_of_platform": int}) or not fits(run.contract, terms):
        return {}
    firms = max(1, guessed["firms_of_platform"])  # type: ignore[index]
    declared, matched = (-(-padded(run.contract[name]) // firms) for name in terms)
    return {"matching.compare": max(1, declared), **dict.fromkeys(_MATCHED, max(1, matched))}


def _times(factor: int, envelopes: int, size: int) -> tuple[int, int]:
    return factor * envelopes, factor * size


def _repeats(run: Run, own: Evidence) -> Counter[tuple[str, str]]:
    """Return how many further messages of a (step, bank) the contract lets cross in each direction."""
    found: Counter[tuple[str, str]] = Counter()
    banks, spare = banks_of(run), run.contract.get("spare_attempts", 0)
    if run.contract.get("on_loss") == "rerun" and type(spare) is int and not is_network(run) and len(banks) > 2:
        found.update({(_LEARNING, bank): min(spare, len(banks) - 2) * _STAGES for bank in banks})
    for bank, name in sorted(_further(run, own)):
        found[(_LEARNING, bank) if name == "learning" else (_CLOSE, bank)] += _TURN if name == "learning" else 1
    found.update(("contract.agree", bank) for bank in _proposed_again(run, own))
    return found


def _proposed_again(run: Run, own: Evidence) -> list[str]:
    """Return the bank of each later conversation in which the contract was proposed again, as it had been restarted."""
    names = {leaf["conversation"] for _, leaf in own.crossings(run.id) if leaf.get("message_type") == "Proposal"}
    return [parts[1] for name in sorted(names) if len(parts := name.split("/")) == 3 and parts[0] == "contracts"]


def _further(run: Run, own: Evidence) -> list[tuple[str, str]]:
    """Return (bank, kind) of each conversation by which a bank that was away took a network's run up again, or was told the
    end of any run."""
    kinds = ("learning", "contracts") if is_network(run) else ("contracts",)
    parts = [name.split("/") for name in {leaf["conversation"] for _, leaf in own.crossings(run.id)}]
    return [(one[1], one[0]) for one in parts if len(one) == 3 and one[0] in kinds]


def _with_repeats(road: Road, envelopes: int, size: int, again: Mapping[tuple[str, str], int]) -> tuple[int, int]:
    step, sender, recipient = road
    more = again.get((step, sender), 0) + again.get((step, recipient), 0)
    return envelopes + more, size + -(-2 * size * more // max(1, envelopes))


def _transcript_findings(run: Run, own: Evidence, record: Record) -> Iterator[Finding]:
    """Yield the first messages of each road beside the plan: those this party sent, and those it got of parties whose
    evidence is not there."""
    plan, said = _Plan.of(run, own, record), set[tuple[Road, str]]()
    are_all_here = set(run.node_keys) <= set(run.evidence)
    for index, leaf in own.crossings(run.id, "out" if are_all_here else ""):
        is_out = leaf["direction"] == "out"
        if not is_out and leaf["peer"] in run.evidence:
            continue
        sender, recipient = (own.party, leaf["peer"]) if is_out else (leaf["peer"], own.party)
        road = (leaf["step"], sender, recipient)
        for kind, what, rule in plan.faults(road, leaf):
            if (road, kind) not in said:
                said.add((road, kind))
                ask = f"ask {sender} why it left the plan that all approved"
                where, place = f"{own.party}, leaf {index}: {what}", message_of(own.party, leaf)
                yield Finding(where, ask, index, rule, place, sender if sender in run.node_keys else NOBODY)
