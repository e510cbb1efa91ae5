"""The report of a scenario: the story on top, the report of its run, and how the story ended."""

from collections.abc import Mapping
from typing import Any

from lianxin.parties.auditor import Verdict
from lianxin.parties.report import write_report
from lianxin.simulations import story
from lianxin.simulations.layout import Layout
from lianxin.simulations.results import Outcome
from lianxin.simulations.runner import Ran
from lianxin.simulations.scenario import Scenario
from lianxin.simulations.scenario_end import Ending


def write_story(
    layout: Layout, scenario: Scenario, ran: Ran | None, outcome: Outcome | None, verdict: Verdict, ending: Ending,
    played: str = "",
) -> None:  # fmt: skip
    """Write RUN_DIR/report.html; of a run that stopped it has the story, what stopped it and the auditor's checks.

    `played` says in front how much smaller than told it was played, "" where it was not.
    """
    told: dict[str, Any] = {
        "title": scenario.scenario.title,
        "story": {"text": scenario.scenario.story, "played": played},
        "conclusion": conclusion_of(scenario, ending),
    }
    if ran is not None and outcome is not None:
        summary: Mapping[str, Any] = story.summary_of(layout, ran, outcome, told)
    else:
        summary = {
            "notice": story.SIMULATED_CONSENTS,
            "started": story.START,
            "verification": verdict.to_record(),
            **told,
        }
    write_report(layout.folder / "report.html", summary)


def conclusion_of(scenario: Scenario, ending: Ending) -> dict[str, Any]:
    """Return the report's last part: the verdict in a sentence, who is accused, who withdrew, what surprised."""
    return {
        "expected": scenario.expect.verdict,
        "as_expected": not ending.surprises,
        "sentence": ending.sentence,
        "accused": [{"party": party, "why": why} for party, why in ending.accused],
        "withdrawn": list(ending.withdrawn),
        "surprises": list(ending.surprises),
    }
