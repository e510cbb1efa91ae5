"""A scenario from its first table to the auditor's verdict, and whether it ended as its story says.

In order: the world is made up and laid out, every cheat tampers with its node, the run is led in memory, the figures are
taken, every cheat forges what it forges afterwards, and an auditor who knows nothing of all that verifies the evidence.

RUN_DIR/scenario.json   as `layout` writes it, with the whole scenario, so that a replay makes the same run, cheats included
RUN_DIR/result.json     the figures, and under `scenario` how the story ended
RUN_DIR/report.html     the story, the report, the verdict
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lianxin.federation.errors import InputFault, LianxinError
from lianxin.parties.auditor import Verdict, verify_packs, verify_run
from lianxin.parties.identity import load_identity
from lianxin.parties.pack_export import write_pack
from lianxin.parties.retention import write_beside
from lianxin.simulations import results
from lianxin.simulations.layout import START, Layout, check_out, lay_out
from lianxin.simulations.mishaps import cut_off
from lianxin.simulations.replay_inputs import stamped
from lianxin.simulations.results import Outcome
from lianxin.simulations.runner import Ran, Watch, run_in_memory
from lianxin.simulations.scenario import VERIFIED, Scenario
from lianxin.simulations.scenario_end import Ending, ending_of
from lianxin.simulations.scenario_report import write_story
from lianxin.simulations.scenario_world import catalogue_of, make_inputs

PACK = "run.evidence"


@dataclass(frozen=True)
class Played:
    """How a scenario went: the folder, the run and its figures where it finished, the verdict, and how the story ended."""

    layout: Layout
    ran: Ran | None
    outcome: Outcome | None
    verdict: Verdict
    ending: Ending
    result: Mapping[str, Any] = field(repr=False)

    @property
    def as_expected(self) -> bool:
        """Whether the story ended as it says."""
        return not self.ending.surprises


def run_scenario(
    scenario: Scenario, folder: Path, quick: bool = False, watch: Watch | None = None, workers: int = 0
) -> Played:
    """Play a scenario in a new `folder` and return how it went; its quick form where `quick`.

    A run that stops is no error here: whether it should have is in the `ending`. Raises InputFault for a folder that is in
    use, and where the world or its terms cannot be laid out.
    """
    began, told = time.monotonic(), scenario.at(quick)
    check_out(folder)
    cheats = cheats_of(told)
    layout = lay(told, folder, workers)
    ran, stopped, notes = _lead(layout, told, cheats, watch)
    conclude = _Conclusion(layout, told, cheats)
    outcome = None if ran is None else results.gather(layout, ran, lambda _: conclude.verify)
    verdict = conclude.verify() if outcome is None else outcome.verdict
    events = ran.events if ran is not None else notes
    ending = ending_of(told, layout.folder, verdict, stopped, events, conclude.surprises)
    small = small_form(scenario, told)
    told_of = {**ending.to_record(told), "is_quick": quick, "played": small}
    told_of["seconds"] = round(time.monotonic() - began, 3)
    result = {"run_dir": str(folder), **({} if outcome is None else outcome.figures), "scenario": told_of}
    write_story(layout, told, ran, outcome, verdict, ending, small)
    write_beside(folder / "result.json", json.dumps(result, indent=1, ensure_ascii=False).encode())
    return Played(layout, ran, outcome, verdict, ending, result)


def small_form(whole: Scenario, played: Scenario) -> str:
    """Return how much smaller a story was played than it is told, "" where it was played as it is told."""
    if played.world == whole.world and played.terms.rounds == whole.terms.rounds:
        return ""
    return f"played small: {_sizes(played)}; the story tells of {_sizes(whole)}"


def _sizes(scenario: Scenario) -> str:
    counts = ((scenario.world.firms, "firm"), (scenario.world.banks, "bank"), (scenario.terms.rounds, "round"))
    return ", ".join(f"{count:,} {word}" + ("" if count == 1 else "s") for count, word in counts)


def lay(scenario: Scenario, folder: Path, workers: int = 0) -> Layout:
    """Make the scenario's world up in `folder` and lay its run out. Raises InputFault where that cannot be."""
    inputs = make_inputs(scenario, folder / "tables")
    layout = lay_out(folder, inputs, scenario.layout_terms(workers), catalogue_of(scenario, inputs))
    path = folder / "scenario.json"
    record = stamped(json.loads(path.read_text(encoding="utf-8")) | {"scenario": scenario.to_record()}, folder)
    write_beside(path, json.dumps(record, indent=1, ensure_ascii=False).encode())
    return layout


def play(layout: Layout, scenario: Scenario, watch: Watch | None = None, cheats: Sequence[Any] | None = None) -> Ran:
    """Run a laid-out folder with the scenario's mishaps and cheats. Raises the LianxinError that ended the run.

    `cheats` are those of `cheats_of`, made anew where none are given.
    """
    cheating = cheats_of(scenario) if cheats is None else cheats

    def tamper(platform: Any, banks: Mapping[str, Any]) -> None:
        for event in scenario.lost:
            cut_off(banks, event)
        for cheat in cheating:
            cheat.tamper(platform, banks)

    return run_in_memory(layout, watch, tamper=tamper)


def forge(layout: Layout, scenario: Scenario, cheats: Sequence[Any] | None = None) -> None:
    """Let every cheat of the scenario do to the evidence what it does after a run; `cheats` are those that `play` had."""
    for cheat in cheats_of(scenario) if cheats is None else cheats:
        cheat.forge(layout)


def cheats_of(scenario: Scenario) -> list[Any]:
    """Return the scenario's cheats, ready. Raises InputFault for a kind that there is none of."""
    if not scenario.cheat:
        return []
    from lianxin.simulations.cheats import CHEATS

    strangers = [cheat.kind for cheat in scenario.cheat if cheat.kind not in CHEATS]
    if strangers:
        raise InputFault(
            f"scenario {scenario.name}: no cheat is of kind {strangers[0]}; there are {', '.join(sorted(CHEATS))}"
        )
    return [CHEATS[cheat.kind]({"seed": scenario.scenario.seed, **cheat.options}) for cheat in scenario.cheat]


def _lead(
    layout: Layout, scenario: Scenario, cheats: Sequence[Any], watch: Watch | None
) -> tuple[Ran | None, LianxinError | None, list[tuple[float, str]]]:
    notes: list[tuple[float, str]] = []
    began = time.monotonic()

    def note(said: str) -> None:
        notes.append((time.monotonic() - began, said))
        if watch is not None:
            watch(said)

    try:
        return play(layout, scenario, note, cheats), None, notes
    except InputFault:
        raise
    except LianxinError as end:
        return None, end, notes


class _Conclusion:
    """The end of a story, once: what is forged, the evidence in one file, the verdict on it."""

    def __init__(self, layout: Layout, scenario: Scenario, cheats: Sequence[Any]) -> None:
        self.layout, self.scenario, self.cheats = layout, scenario, cheats
        self.surprises: list[str] = []

    def verify(self) -> Verdict:
        """Forge, verify the folder, then pack and verify the pack, whose verdict must be the same; return the folder's."""
        forge(self.layout, self.scenario, self.cheats)
        verdict = verify_run(self.layout.folder)
        evidence = {party: self.layout.home(party) / "evidence" for party in self.layout.parties}
        if evidence and all((folder / "contract.json").is_file() for folder in evidence.values()):
            self._pack(evidence, verdict)
        return verdict

    def _pack(self, evidence: Mapping[str, Path], verdict: Verdict) -> None:
        keys = {party: load_identity(self.layout.home(party) / "identity").signing_key for party in evidence}
        try:
            write_pack(evidence, keys, self.layout.folder / PACK, START)
        except InputFault as fault:
            if self.scenario.expect.verdict == VERIFIED:
                self.surprises.append(f"the evidence cannot be packed: {fault}")
            return
        packed = verify_packs([self.layout.folder / PACK])
        if packed.ok != verdict.ok:
            self.surprises.append("the pack and the folder that it was made of are not judged alike")
