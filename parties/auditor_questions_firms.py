"""Whose data are in a model: the firms whose consents stand behind the releases that a run was trained on.

A firm is its subject key, which only its provider can make from an identifier. What is kept while the ledgers are read is
one short entry a consent that was used, and the registry's state at the end.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from lianxin.parties import decision
from lianxin.parties.auditor_evidence import Evidence, Run
from lianxin.parties.auditor_questions import (
    Answer,
    Case,
    QuestionFault,
    Row,
    consent_lists,
    digest_of,
    known_run,
    last_time,
)
from lianxin.parties.auditor_registry import History
from lianxin.parties.decision_consents import STATES

NOWHERE: frozenset[str] = frozenset()
PREPARED = ("matching", "query")  # steps that find firms or answer about them, and train on none
_FIRMS = ("provider", "subject_key", "subject_type", "steps", "consents", "state", "withdrawn_at")
_FIRMS_SHOWN = ("provider", "subject_key", "subject_type", "steps", "consents", "state", "withdrawn_at")
_CANNOT_FIRMS = (
    "Evidence cannot tell the firms behind rows that need no consent, nor whether a row weighed in the model: only that it "
    "was let in. Who a subject key is, its provider alone can say."
)


def firms_in_model(case: Case, run: str) -> Answer:
    """Answer which firms' rows were let into the training of a run; a row a firm and provider, as the columns `_FIRMS`.

    Counted are the consents behind each release of the run but those for matching and queries. `steps` are the groups of steps
    (the word before the dot) that its row was let into, `state` that of its best consent at the end of the ledger. A subject
    key is made anew at each provider, so a firm has a row at each. Raises QuestionFault for a run without contract in evidence.
    """
    said: list[str] = []
    return Answer(
        "firms", _FIRMS, _FIRMS_SHOWN, _firms(case, case.run(known_run(case, run)), said), said, _CANNOT_FIRMS
    )


@dataclass(slots=True)
class _Firm:
    consents: list[str]
    steps: frozenset[str] = frozenset()


def _firms(case: Case, run: Run, said: list[str]) -> Iterator[Row]:
    count = withdrawn = bare = 0
    for own in case.ledgers.values():
        used, open_rows = _used_consents(own, run.id)
        bare += open_rows
        registry = History(own).at(len(own.records["registry"]))
        if used and registry is None:
            raise QuestionFault(f"{own.party}: its records do not make one registry; verify the evidence first")
        now = last_time(own)
        for row in _firm_rows(own.party, used, registry or decision.Registry(), now):
            count, withdrawn = count + 1, withdrawn + (row["state"] == "REVOKED")
            yield row
    told = f"{count} subject keys, one for each firm and provider, are in run {run.id} by consents"
    said.append(f"{told}; {withdrawn} of them have withdrawn since")
    said += [f"{bare} releases of the run say something of rows and rest on no consent"] * bool(bare)
    said += [_marked(own, run.id) for own in case.ledgers.values() if any(own.of_kind("model-marked", run.id))]
    said += case.silence()


def _used_consents(own: Evidence, run: str) -> tuple[dict[str, frozenset[str]], int]:
    """Return the consents behind a run's releases with the groups of steps of each, and how many releases need none."""
    first: dict[tuple[str, str], bytes] = {}  # of each distinct list and group of steps one release
    bare = 0
    for index, leaf in own.of_kind("release", run):
        group = leaf["step"].split(".")[0]
        is_of_rows = leaf["mode"] != decision.AGGREGATE and group not in PREPARED
        if is_of_rows and leaf["consents"]:
            first.setdefault((leaf["consent_root"], group), digest_of(own.release_id(index)))
        bare += is_of_rows and not leaf["consents"] and leaf["rows"] > 0
    groups = {release: group for (_, group), release in first.items()}
    return _steps_of(own, groups), bare


def _steps_of(own: Evidence, groups: Mapping[bytes, str]) -> dict[str, frozenset[str]]:
    used: dict[str, frozenset[str]] = {}
    for release, ids in consent_lists(own):
        if group := groups.get(digest_of(release), ""):
            for name in ids:
                if group not in used.get(name, NOWHERE):
                    used[name] = _joined(used.get(name, NOWHERE), group)
    return used


@lru_cache(maxsize=1024)  # thousands of firms were in the same steps
def _joined(steps: frozenset[str], group: str) -> frozenset[str]:
    return steps | {group}


def _firm_rows(party: str, used: Mapping[str, frozenset[str]], registry: decision.Registry, now: str) -> Iterator[Row]:
    firms: dict[str, _Firm] = {}
    for name in sorted(used):
        consent = registry.consents.get(name)
        firm = firms.setdefault(consent.subject if consent else "", _Firm([]))
        firm.consents.append(name)
        firm.steps |= used[name]
    for subject in sorted(firms):
        firm = firms[subject]
        states = {_state(registry, name, now): name for name in firm.consents}
        state = next(one for one in ("ACTIVE", *STATES) if one in states)
        consent = registry.consents.get(firm.consents[0])
        scope = consent.scope if consent else ("", "", "")
        yield {
            "provider": party, "subject_key": subject, "subject_type": consent.terms["subject_type"] if consent else "",
            "consents": firm.consents, "steps": sorted(firm.steps), "state": state,
            "withdrawn_at": registry.stops.get(scope, "") if state == "REVOKED" else "",
        }  # fmt: skip


def _state(registry: decision.Registry, name: str, now: str) -> str:
    try:
        return registry.state_of(name, now)
    except (KeyError, TypeError):
        return "INVALID"


def _marked(own: Evidence, run: str) -> str:
    last = [leaf for _, leaf in own.of_kind("model-marked", run)][-1]
    return f"{own.party} marked the model as touched by {last['revocations']} withdrawals; its choice: {last['choice']}"
