"""What a run came to beside what its plan said: pure comparison, for the report.

Three numbers a row: *at most*, from the contract's bounds (what the parties approved); *expected*, the same counting at
the sizes that the run turned out to have, priced by a calibration of the machine that it ran on; and *actual*. The
factor is actual over expected: a plan is good where it lies between 1/1.5 and 1.5.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lianxin.federation.contract import RunContract
from lianxin.federation.plan import totals_of
from lianxin.federation.plan_calibration import Calibration
from lianxin.federation.plan_costs import PHASES, bank_phases, bank_traffic, platform_phases
from lianxin.federation.plan_operations import cpu_us, evaluator_tables, owner_tables
from lianxin.federation.plan_sizes import Known, Sizes, Traffic

GOOD_FACTOR = 1.5
EVERYBODY = "all parties"
WORKER_START_US = 1_000_000  # a new process imports what it needs


@dataclass(frozen=True)
class Actual:
    """What was measured: `bytes` by (step, sender) of the messages, `cpu_s` by party, `phases_s` by phase by the wall.

    A run in one process has one entry of `cpu_s`, EVERYBODY; figures that were not taken are absent.
    """

    bytes: Mapping[tuple[str, str], int] = field(default_factory=dict)
    cpu_s: Mapping[str, float] = field(default_factory=dict)
    phases_s: Mapping[str, float] = field(default_factory=dict)
    wall_s: float | None = None


@dataclass(frozen=True)
class Expected:
    """What a run of known sizes should come to: its messages, a total a party, processor seconds a party and phase."""

    messages: Sequence[Traffic]
    totals: Sequence[Mapping[str, Any]]
    phases_s: Mapping[tuple[str, str], float]


def expect(
    contract: RunContract, calibration: Calibration, known: Mapping[str, Known], firms: int, plan_bytes: int = 0,
    workers: int = 0,
) -> Expected:  # fmt: skip
    """Return what a run with these banks' known sizes, `firms` of the platform and that calibration should come to.

    Each worker of a pool starts, and makes tables of its own where one party alone would make them once: booked on the
    platform.
    """
    sizes = [Sizes(contract, bank, firms, known[bank]) for bank in contract.banks if bank in known]
    turns = max((one.turns for one in known.values()), default=contract.turns)
    messages = [entry for one in sizes for entry in bank_traffic(one, known[one.bank].turns, plan_bytes)]
    totals = totals_of(sizes, calibration, messages, messages, turns)
    tables = evaluator_tables(contract) + Counter(multiply=owner_tables(contract))
    totals[0]["cpu_us"] += workers * WORKER_START_US + max(0, workers - 1) * cpu_us(tables, calibration)
    phases: dict[tuple[str, str], float] = {}
    for one in sizes:
        made = known[one.bank].turns
        for party, work in ((contract.platform, platform_phases(one, made)), (one.bank, bank_phases(one, made))):
            for phase, operations in work.items():
                before = phases.get((party, phase), 0.0)
                phases[party, phase] = before + cpu_us(operations, calibration) / 1e6
    return Expected(messages, totals, phases)


def compare(plan: Mapping[str, Any], expected: Expected, actual: Actual) -> list[dict[str, Any]]:
    """Return rows {"figure", "party", "step", "at_most", "expected", "actual", "factor"}; a number is None where unknown.

    Figures are "bytes" by step and party and in all, "cpu_s" by party, "phase_s" by phase over all parties, "wall_s".
    """
    return [
        *_byte_rows(plan, expected, actual),
        *_cpu_rows(plan, expected, actual),
        *_time_rows(plan, expected, actual),
    ]


def _row(
    figure: str, party: str, step: str, numbers: tuple[float | None, float | None, float | None]
) -> dict[str, Any]:
    at_most, expected, actual = numbers
    factor = actual / expected if actual is not None and expected else None
    return {
        "figure": figure, "party": party, "step": step, "at_most": at_most, "expected": expected, "actual": actual,
        "factor": factor,
    }  # fmt: skip


def _byte_rows(plan: Mapping[str, Any], expected: Expected, actual: Actual) -> list[dict[str, Any]]:
    bound = _by_step((e["step"], e["sender"], e["bytes"]) for e in plan["messages"])
    should = _by_step((e.step, e.sender, e.bytes) for e in expected.messages)
    rows = [_row("bytes", sender, step, (most, should.get((step, sender), 0), actual.bytes.get((step, sender), 0)))
            for (step, sender), most in bound.items()]  # fmt: skip
    whole = (float(sum(values.values())) for values in (bound, should, actual.bytes))
    return [*rows, _row("bytes", EVERYBODY, "", (next(whole), next(whole), next(whole)))] if rows else []


def _by_step(entries: Any) -> dict[tuple[str, str], float]:
    found: dict[tuple[str, str], float] = {}
    for step, sender, size in entries:
        found[step, sender] = found.get((step, sender), 0) + size
    return found


def _cpu_rows(plan: Mapping[str, Any], expected: Expected, actual: Actual) -> list[dict[str, Any]]:
    bound = {total["party"]: total["cpu_us"] / 1e6 for total in plan["totals"]}
    should = {total["party"]: total["cpu_us"] / 1e6 for total in expected.totals}
    if EVERYBODY in actual.cpu_s:
        bound, should = {EVERYBODY: sum(bound.values())}, {EVERYBODY: sum(should.values())}
    rows = [_row("cpu_s", p, "", (bound.get(p), should.get(p), actual.cpu_s.get(p))) for p in bound]
    if len(bound) > 1 and set(bound) <= set(actual.cpu_s):
        whole = (sum(bound.values()), sum(should.values()), sum(actual.cpu_s[party] for party in bound))
        rows.append(_row("cpu_s", EVERYBODY, "", whole))
    return rows


def _time_rows(plan: Mapping[str, Any], expected: Expected, actual: Actual) -> list[dict[str, Any]]:
    rows = []
    for phase in PHASES:
        seconds = sum(value for (_, name), value in expected.phases_s.items() if name == phase)
        if seconds and phase in actual.phases_s:
            rows.append(_row("phase_s", EVERYBODY, phase, (None, seconds, actual.phases_s[phase])))
    if actual.wall_s is not None:
        bound = max(total["wall_us"] for total in plan["totals"]) / 1e6
        should = max(total["wall_us"] for total in expected.totals) / 1e6
        rows.append(_row("wall_s", EVERYBODY, "", (bound, should, actual.wall_s)))
    return rows
