"""How a story ended, and whether that is what its file says: the verdict, who is accused, by which check and rule."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lianxin.federation.errors import LianxinError
from lianxin.parties.auditor import Check, Verdict
from lianxin.simulations.scenario import NOT_VERIFIED, STOPPED, VERIFIED, Scenario
from lianxin.simulations.scenario_evidence import refusals, taken_back, withdrawn
from lianxin.simulations.story import RULES

NOBODY = "-"
_AT_THE_PLATFORM = "at the platform: "
_PHASES = ("matching", "binning", "training", "scoring")
_MOST_FAILURES = 12
_UNRECEIVED = re.compile(r"left (\d+) messages? unreceived")


@dataclass(frozen=True)
class Round:
    """One round or tree as the platform noted it; `begin_s` and `end_s` are seconds of the run, `end_s` -1 where none came."""

    number: int
    begin_s: float
    end_s: float
    revoked: int
    lost: tuple[str, ...]


@dataclass(frozen=True)
class Phase:
    """A phase of the run as the platform noted it, in seconds of the run."""

    name: str
    begin_s: float
    end_s: float


@dataclass(frozen=True)
class Ending:
    """The end of a story.

    `verdict` is one of the scenario's three, `evidence_ok` the auditor's own word, `sentence` what the auditor says in one
    line; `accused` are (party, why); `taken_back` the rounds of a network that did not count; `surprises` say what is not
    as the story has it, none where all is.
    """

    verdict: str
    evidence_ok: bool
    sentence: str
    accused: tuple[tuple[str, str], ...]
    stopped: str
    rules: tuple[str, ...]
    failures: tuple[Check, ...]
    rounds: tuple[Round, ...]
    withdrawn: tuple[dict[str, Any], ...]
    checks: tuple[tuple[str, bool], ...]
    phases: tuple[Phase, ...] = ()
    taken_back: tuple[int, ...] = ()
    surprises: tuple[str, ...] = ()

    def to_record(self, scenario: Scenario) -> dict[str, Any]:
        """Return the story and its end as JSON: what `result.json` holds under `scenario`."""
        told = scenario.scenario
        return {
            "name": told.name, "title": told.title, "story": told.story, "seed": told.seed,
            "expected": scenario.expect.model_dump(), "verdict": self.verdict, "as_expected": not self.surprises,
            "surprises": list(self.surprises), "sentence": self.sentence,
            "accused": [{"party": party, "sentence": why} for party, why in self.accused], "stopped": self.stopped,
            "rules": list(self.rules), "evidence_verified": self.evidence_ok,
            "checks": [{"name": name, "ok": ok} for name, ok in self.checks],
            "failures": [asdict(check) for check in self.failures], "rounds": [asdict(one) for one in self.rounds],
            "withdrawn": list(self.withdrawn), "phases": [asdict(one) for one in self.phases],
            "taken_back": list(self.taken_back),
        }  # fmt: skip


def ending_of(
    scenario: Scenario, run_dir: Path, verdict: Verdict, stopped: LianxinError | None,
    events: Sequence[tuple[float, str]], also: Iterable[str] = (),
) -> Ending:  # fmt: skip
    """Return how the story in `run_dir` ended; `stopped` is what ended the run before its time, `events` its notes.

    `also` are surprises that were met elsewhere.
    """
    said = refusals(run_dir) if stopped is not None else []
    word = STOPPED if stopped is not None else VERIFIED if verdict.ok else NOT_VERIFIED
    accused, rounds, back = tuple(_accused(verdict, said)), tuple(_rounds(events)), tuple(taken_back(run_dir))
    if word == STOPPED:
        sentence = _stopped_sentence(verdict, str(stopped), said)
    elif word == VERIFIED:
        sentence = _verified_sentence(verdict, rounds, back)
    else:
        sentence = _failed_sentence(verdict, accused)
    rules = dict.fromkeys(
        [getattr(stopped, "rule", ""), *(rule for _, _, rule in said), *(c.rule for c in verdict.failures)]
    )
    checks: dict[str, bool] = {}
    for check in verdict.checks:
        checks[check.name] = checks.get(check.name, True) and check.ok
    ended = Ending(
        word, verdict.ok, sentence, accused, str(stopped or ""), tuple(rule for rule in rules if rule),
        verdict.failures[:_MOST_FAILURES], rounds, tuple(withdrawn(run_dir)), tuple(checks.items()),
        tuple(_phases(events)), back,
    )  # fmt: skip
    return Ending(**{**vars(ended), "surprises": (*_surprises(scenario, ended, verdict), *also)})


def _accused(verdict: Verdict, said: Sequence[tuple[str, str, str]]) -> Iterator[tuple[str, str]]:
    """Yield whom the verdict accuses, then whom a refusal names; each party once, with the first sentence."""
    told: Iterable[tuple[str, str]] = getattr(verdict, "accused", ())
    refused = ((whom, f"a message of it was refused by {_the(who)} ({_ruled(rule)})") for who, whom, rule in said)
    seen = {NOBODY, "", "run"}
    for party, why in (*told, *refused):
        if party not in seen:
            seen.add(party)
            yield party, why


def _verified_sentence(verdict: Verdict, rounds: Sequence[Round], back: Sequence[int]) -> str:
    said = [f"verified: {len(verdict.checks)} checks of the evidence hold"]
    if lost := dict.fromkeys(party for one in rounds for party in one.lost):
        said.append(f"the run ended without {', '.join(lost)}")
    cut = [
        found for check in verdict.checks if check.name == "receipts" and (found := _UNRECEIVED.search(check.detail))
    ]
    said += [f"{found[1]} messages were on the road when it broke off, and were never received" for found in cut]
    if back:
        count = "1 round" if len(back) == 1 else f"{len(back)} rounds"
        said.append(f"{count} taken back: round {', '.join(map(str, back))}")
    return "; ".join(said)


def _failed_sentence(verdict: Verdict, accused: Sequence[tuple[str, str]]) -> str:
    first, names = verdict.failures[0], ", ".join(dict.fromkeys(party for party, _ in accused))
    said = f"NOT VERIFIED: {first.detail} (check {first.name})"
    return said + (f"; accused: {names}" if names else "")


def _stopped_sentence(verdict: Verdict, stopped: str, said: Sequence[tuple[str, str, str]]) -> str:
    """Return the reason first, then who refused whose message by which rule, then how the evidence stands."""
    rest = "verified" if verdict.ok else "not verified"
    who = [f"a message of {whom} was refused by {_the(by)} ({_ruled(rule)})" for by, whom, rule in said[:1]]
    return "; ".join([f"stopped: {_reason(stopped)}", *who, f"the evidence up to there is {rest}"])


def _reason(stopped: str) -> str:
    """Return the platform's own words where there are some, with a party's name once in front."""
    said = stopped.partition(_AT_THE_PLATFORM)[2] or stopped
    party, _, rest = said.partition(": ")
    return (rest if rest.startswith(party) else said).rstrip(".")


def _the(party: str) -> str:
    return f"the {party}" if party == "platform" else party


def _ruled(rule: str) -> str:
    return f"rule {rule}: {RULES[rule]}" if rule in RULES else f"rule {rule}"


def _surprises(scenario: Scenario, ended: Ending, verdict: Verdict) -> Iterator[str]:
    expect = scenario.expect
    if ended.verdict != expect.verdict:
        yield f"the story ends {expect.verdict}, this run ended {ended.verdict}"
        return
    if expect.verdict == VERIFIED:
        return
    if expect.accused and expect.accused not in [party for party, _ in ended.accused]:
        names = ", ".join(party for party, _ in ended.accused) or "nobody"
        yield f"the story accuses {expect.accused}, this run accuses {names}"
    failed = dict.fromkeys(check.name for check in verdict.failures)
    if expect.check and expect.check not in failed:
        yield f"the story fails check {expect.check}, this run fails {', '.join(failed) or 'none'}"
    if expect.rule and expect.rule not in ended.rules:
        yield f"the story breaks rule {expect.rule}, this run broke {', '.join(ended.rules) or 'none'}"


def _phases(events: Sequence[tuple[float, str]]) -> Iterator[Phase]:
    """Yield the phases of a run's notes; each lasts until the next, the last until the run's end."""
    marks = [(at, note.removeprefix("phase ")) for at, note in events if note.startswith("phase ")]
    start, end = (events[0][0], events[-1][0]) if events else (0.0, 0.0)
    for (begin, name), (after, _) in zip(marks, [*marks[1:], (end, "")], strict=False):
        if name in _PHASES:
            yield Phase(name, round(begin - start, 3), round(after - start, 3))


def _rounds(events: Sequence[tuple[float, str]]) -> Iterator[Round]:
    """Yield the rounds or trees of a run's notes, in order; what a round was begun with belongs to it."""
    begins = [(place, note) for place, (_, note) in enumerate(events) if note.startswith("begin round ")]
    start = events[0][0] if events else 0.0
    last = next((at for at, note in events if note == "phase scoring"), events[-1][0] if events else 0.0)
    afters = [place for place, _ in begins[1:]] + [len(events)]
    for (place, note), after in zip(begins, afters, strict=False):
        number = int(note.rsplit(" ", 1)[1])
        within = [said for _, said in events[place:after]]
        ends = [at for at, said in events[place:after] if said == f"end round {number}"]
        end = ends[-1] if ends else events[after][0] if after < len(events) else last
        revoked = sum(said == f"revoked before round {number}" for _, said in events)
        lost = tuple(said.removeprefix("lost ") for said in within if said.startswith("lost "))
        yield Round(
            number, round(events[place][0] - start, 3), round(max(end, events[place][0]) - start, 3), revoked, lost
        )
