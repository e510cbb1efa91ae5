"""What a party learned, from the leaves of those who sent it anything.

A sender's leaves name the releases behind each message; where a sender's evidence was not given, the party's own leaves are
told instead, which know forms and sizes and no fields. Kept are a line for each kind of message and a short entry for each
release to that party.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from lianxin.crypto.errors import CryptoError
from lianxin.parties import decision
from lianxin.parties.auditor_evidence import Evidence, Record, fits
from lianxin.parties.auditor_questions import Answer, Case, Row, Wanted, checked_wanted, digest_of, known_party, number

_COLUMNS = (
    "run", "sender", "step", "message_type", "forms", "classes", "fields", "releases", "rows", "messages", "bytes",
    "planned_messages", "planned_bytes", "told_by",
)  # fmt: skip
_SHOWN = (
    "sender", "step", "message_type", "forms", "classes", "fields", "rows", "messages", "bytes", "planned_messages",
)  # fmt: skip
_CANNOT = (
    "Evidence cannot tell what a message held, only its declared form, nor what a party works out by joining messages: for "
    "that read the plan's own statement (`learns`, `not_protected`) and docs/leakage.md."
)


@dataclass
class _Group:
    """What crossed of one kind, from one sender: counted once a message."""

    messages: int = 0
    bytes: int = 0
    rows: int = 0
    releases: int = 0
    fields: set[str] = field(default_factory=set)
    classes: set[str] = field(default_factory=set)


def learned(case: Case, party: str, run: str = "") -> Answer:
    """Answer what a party was sent; a row for each run, sender, step, message type and forms.

    `fields` and `classes` are those of the releases behind the messages, by the sender's catalogue, `rows` the most distinct
    firms of any of them, `releases` how many there were. `planned_messages` and `planned_bytes` are what the plan allows that
    sender in that step, in all its messages together, and -1 without a plan in evidence. Raises QuestionFault.
    """
    said: list[str] = []
    rows = _learned(case, known_party(case, party), checked_wanted(case, Wanted(run=run)), said)
    return Answer("learned", _COLUMNS, _SHOWN, rows, said, _CANNOT)


def _learned(case: Case, party: str, wanted: Wanted, said: list[str]) -> Iterator[Row]:
    messages = size = 0
    for sender in sorted({*case.ledgers, *case.parties} - {party}):
        own = case.ledgers.get(sender)
        groups = _sent_groups(case, own, party, wanted) if own else _received_groups(case, sender, party, wanted)
        for (run, step, kind, forms), group in sorted(groups.items()):
            planned = _planned(case, run, step, sender, party)
            messages, size = messages + group.messages, size + group.bytes
            yield {
                "run": run, "sender": sender, "step": step, "message_type": kind, "forms": list(forms),
                "classes": sorted(group.classes), "fields": sorted(group.fields), "releases": group.releases,
                "rows": group.rows, "messages": group.messages, "bytes": group.bytes, "planned_messages": planned[0],
                "planned_bytes": planned[1], "told_by": sender if own else party,
            }  # fmt: skip
    said.append(f"{party} was sent {messages} messages of {size} bytes")
    said += [sentence for run in case.runs if wanted.run in ("", run) for sentence in _statements(case, run, party)]
    said += case.silence()


_Key = tuple[str, str, str, tuple[str, ...]]


def _sent_groups(case: Case, own: Evidence, party: str, wanted: Wanted) -> dict[_Key, _Group]:
    groups: dict[_Key, _Group] = defaultdict(_Group)
    releases: dict[bytes, tuple[tuple[str, ...], int]] = {}
    kept: dict[tuple[str, ...], tuple[str, ...]] = {}  # one tuple for each distinct list of fields
    for index, leaf in own.of_kind("release", wanted.run or None):
        if leaf["recipient"] == party:
            fields = kept.setdefault(names := tuple(leaf["fields"]), names)
            releases[bytes.fromhex(own.release_id(index))] = (fields, leaf["rows"])
    seen: dict[bytes, _Key] = {}
    for _, leaf in own.of_kind("envelope", wanted.run or None):
        if (leaf["direction"], leaf["peer"]) == ("out", party) and leaf["decision"] != "refuse":
            group = _counted(groups, leaf)
            for name in leaf["releases"]:
                digest = digest_of(name)
                fields, rows = releases.get(digest, ((), 0))
                group.rows = max(group.rows, rows)
                if fields and seen.get(digest) != _key(leaf):
                    group.fields.update(fields)
                    group.releases, seen[digest] = group.releases + 1, _key(leaf)
    for (run, *_), group in groups.items():
        group.classes = _classes(case, own, run, group.fields)
    return groups


def _received_groups(case: Case, sender: str, party: str, wanted: Wanted) -> dict[_Key, _Group]:
    groups: dict[_Key, _Group] = defaultdict(_Group)
    own = case.ledgers.get(party)
    for _, leaf in own.of_kind("envelope", wanted.run or None) if own else ():
        if (leaf["direction"], leaf["peer"]) == ("in", sender) and leaf["decision"] != "refuse":
            group = _counted(groups, leaf)
            group.rows = max(group.rows, number(leaf, "rows"))
    return groups


def _counted(groups: dict[_Key, _Group], leaf: Record) -> _Group:
    group = groups[_key(leaf)]
    group.messages, group.bytes = group.messages + 1, group.bytes + number(leaf, "size_bytes")
    return group


def _key(leaf: Record) -> _Key:
    forms = tuple(sorted({one["form"] for one in leaf["forms"]}))
    return leaf["run"], leaf["step"], leaf["message_type"], forms


def _classes(case: Case, own: Evidence, run: str, fields: set[str]) -> set[str]:
    try:
        data = case.runs[run].evidence[own.party].catalogue
        catalogue = decision.Catalogue.from_csv_bytes(data)
    except (KeyError, CryptoError):
        return {"unknown"} if fields else set()
    return {catalogue[name].class_ if name in catalogue else "unknown" for name in fields}


def _plan(case: Case, run: str) -> Record:
    """Return the plan as a party of the run keeps it, empty where none does."""
    parties = case.runs[run].evidence if run in case.runs else {}
    return next((plan for party in parties if (plan := case.member(run, party, "plan.json"))), {})


def _planned(case: Case, run: str, step: str, sender: str, recipient: str) -> tuple[int, int]:
    plan = _plan(case, run)
    shape = {"messages": [{"step": str, "sender": str, "recipient": str, "envelopes": int, "bytes": int}]}
    if not fits(plan, shape):
        return -1, -1
    place = (step, sender, recipient)
    fitting = [one for one in plan["messages"] if (one["step"], one["sender"], one["recipient"]) == place]
    return sum(one["envelopes"] for one in fitting), sum(one["bytes"] for one in fitting)


def _statements(case: Case, run: str, party: str) -> Iterator[str]:
    plan = _plan(case, run)
    if not fits(plan, {"learns": [{"who": str, "what": str, "step": str}]}):
        yield f"the plan of run {run} is not in this evidence, so what {party} was to learn is not set beside it"
        return
    roles = {entry["party"]: entry.get("role") for entry in case.runs[run].contract["parties"]}
    meant = {party, "every party", "both sides", "each bank" if roles.get(party) == "bank" else party}
    for one in plan["learns"]:
        if one["who"] in meant:
            yield f"the plan of run {run} said, at {one['step']}, {one['who']}: {one['what']}"
