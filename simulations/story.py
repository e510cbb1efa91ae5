"""The report of a finished simulation, put together from its evidence, its figures and its plan."""

import json
from collections.abc import Mapping
from typing import Any

from lianxin.federation.contract import parse_contract
from lianxin.federation.plan_calibration import Calibration
from lianxin.parties import coding
from lianxin.parties.model_document_facts import MADE_UP
from lianxin.parties.software import code_version
from lianxin.simulations.evaluations import evaluation_parts
from lianxin.simulations.layout import START, Layout
from lianxin.simulations.planned import network_plan_part, plan_part
from lianxin.simulations.results import Outcome, is_first_of, leaves_of
from lianxin.simulations.results_star import advice_lines
from lianxin.simulations.runner import Ran, reference_plan
from lianxin.simulations.story_trees import tree_parts

SIMULATED_CONSENTS = MADE_UP
RULES = {
    "R01": "outside the contract or the purpose's allow-list",
    "R02": "neither a consent nor another lawful basis", "R03": "no consent in this mode or for these fields",
    "R04": "consent withdrawn", "R09": "personal information without the person's separate consent",
    "R11": "a direct identifier is no feature", "R12": "sensitive personal information without separate consent",
    "R13": "no class in the catalogue", "R20": "never collected or released, by law",
    "R15": "no impact assessment is named", "R18": "plaintext for the operator of a platform",
    "R22": "a transform without a measured grade", "R26": "proposer and approver are one person",
    "R37": "a signer without the power to sign", "R38": "consent or contract not in force",
    "R39": "trade secret without authorisation", "C01": "terms that this version refuses",
    "C02": "keys or parties that are not the pinned ones", "C05": "not signed by exactly its parties",
    "C06": "nobody answered in time", "C07": "refused by the operator", "G04": "no release in a fitting mode behind it",
    "M01": "more queries or sessions than the contract allows", "M02": "answers that do not fit the queries",
    "M03": "rows outside the shared table", "M04": "the bank's quota of queries over all runs is used up",
    "M05": "other queries than those committed to", "N01": "numbers that fail a cryptographic check",
    "S01": "another run, party, conversation or contract", "S02": "a signature that does not hold",
    "S03": "a message replayed, out of order or dropped", "S04": "after the contract's end", "S05": "out of turn",
}  # fmt: skip
LIMITS = (
    "The constructions marked [D] in docs/threat-model.md were composed for this project and have not yet been read by an "
    "outside cryptographer.",
    "Protocols are secure against honest-but-curious parties; what a malicious one could still do is in the plan and is "
    "found by replay.",
    "The platform learns which of its declared firms matched and, of each round, the sum of the banks' gradients.",
    "This is no legal advice.",
)  # fmt: skip


def summary_of(
    layout: Layout, ran: Ran, outcome: Outcome, extra: Mapping[str, Any] | None = None, calibration: Calibration | None = None
) -> dict[str, Any]:  # fmt: skip
    """Return what `report.write_report` shows of a run. `extra` adds or replaces parts.

    The plan is compared with what the run came to at the costs of `calibration`, by default the published ones.
    """
    figures = outcome.figures
    contract = _contract(layout)
    plan = reference_plan(contract)
    summary: dict[str, Any] = {
        "title": "Joint scorecard: what it brings, and what left each node",
        "notice": SIMULATED_CONSENTS,
        "run": f"{contract.run} (contract {contract.hash[:16]}…)",
        "purpose": "P4 joint model training",
        "parties": [dict(p) for p in contract.record["parties"]],
        "started": START,
        "code_version": code_version(),
        "matched": figures.get("matched", {}),
        "auc": figures["auc"],
        "ks": figures["ks"],
        "gini": {
            lv: {m: None if v is None else 2 * v - 1 for m, v in row.items()} for lv, row in figures["auc"].items()
        },
        **evaluation_parts(layout, outcome.evaluation),
        "curves": {lv: {m: c for m, c in row.items() if c["labels"]} for lv, row in outcome.curves.items()},
        "rounds": _rounds(layout, ran, outcome.platform_model) if layout.terms.model == "scorecard" else [],
        "woe": _woe(outcome.platform_model) if layout.terms.model == "scorecard" else [],
        "left": _left(layout),
        "refusals": _refusals(layout, outcome.platform_model),
        "excluded": _excluded(layout),
        "revoked": [note for _, note in ran.events if note.startswith("revoked")],
        "consents": _consents(layout),
        "plan": _plan(layout, ran, outcome, plan, calibration),
        "seconds": figures["seconds"],
        "bytes_sent": figures["bytes_sent"],
        "verification": outcome.verdict.to_record(),
        "transcript_sha256": figures["transcript_sha256"],
        "limits": list(LIMITS),
    }
    if "recommended" in figures and "validation_auc" in figures:
        summary["advice"] = advice_lines(figures["auc"], figures["validation_auc"], figures["recommended"])
    if layout.terms.is_trees:
        parts = tree_parts(layout, ran, outcome)
        summary |= {**parts, "limits": [*LIMITS[:2], *parts["limits"], LIMITS[-1]]}
    if layout.terms.is_network:
        from lianxin.simulations.story_networks import network_parts  # with torch, which others do without

        parts = network_parts(contract, ran, outcome)
        summary |= {"limits": [*LIMITS[:2], *parts.pop("network_limits"), LIMITS[-1]], **parts}
    return {**summary, **(extra or {})}


def _plan(
    layout: Layout, ran: Ran, outcome: Outcome, plan: Mapping[str, Any], calibration: Calibration | None
) -> dict[str, Any]:
    if layout.terms.is_network:
        return network_plan_part(layout, ran, outcome)
    sent = {"predicted": _plan_bytes(plan), "actual": sum(outcome.figures["bytes_sent"].values())}
    return {"learns": plan["learns"], "bytes": sent, **plan_part(layout, ran, outcome, calibration)}


def _contract(layout: Layout) -> Any:
    path = layout.home(layout.parties[0]) / "evidence" / "contract.json"
    return parse_contract(json.loads(path.read_bytes())["record"])


def _plan_bytes(plan: Mapping[str, Any]) -> int:
    return sum(entry["bytes"] for entry in plan["messages"])


def _rounds(layout: Layout, ran: Ran, model: Mapping[str, Any]) -> list[dict[str, Any]]:
    begins = {note.split()[-1]: at for at, note in ran.events if note.startswith("begin round")}
    rounds = []
    for number, norm in enumerate(model["gradient_norms_milli"], start=1):
        ends = [at for at, note in ran.events if note == f"end round {number}"]
        live = [int(note.split()[3]) for _, note in ran.events if note.startswith(f"round {number} ")]
        seconds = ends[-1] - begins[str(number)] if ends and str(number) in begins else None
        rounds.append({
            "round": number, "gradient_norm": {layout.parties[0]: norm / 1000}, "seconds": seconds,
            "live_rows": sum(live), "revoked": sum(n == f"revoked before round {number}" for _, n in ran.events),
        })  # fmt: skip
    return rounds


def _woe(model: Mapping[str, Any]) -> list[dict[str, Any]]:
    tables = []
    for feature in model["features"]:
        spec = coding.BinSpec.from_record(feature["bins"]).merged(dict(enumerate(feature["merged"])))
        names = spec.labels()
        bins = [
            {"label": names[b], "rows": feature["goods"][b] + feature["bads"][b], "woe": woe / 4096}
            for b, woe in enumerate(feature["woe"])
        ]
        tables.append({"field": feature["field"], "iv": feature["iv_micro"] / 10**6, "bins": bins})
    return sorted(tables, key=lambda t: -t["iv"])


def _left(layout: Layout) -> list[dict[str, Any]]:
    """Return what left each node; an envelope's bytes are booked once, on its most telling field."""
    entries = []
    for party in layout.parties:
        for leaf in leaves_of(layout, party):
            if leaf["kind"] != "envelope" or leaf["direction"] != "out":
                continue
            telling = [f for f in leaf["forms"] if f["form"] not in ("CONTROL", "PUBLIC")] or leaf["forms"]
            for place, crossing in enumerate(telling):
                entries.append({
                    "sender": party, "recipient": leaf["peer"], "form": crossing["form"], "message": leaf["message_type"],
                    "field": crossing["field"].split(".")[-1], "envelopes": 1, "rows": leaf["rows"],
                    "bytes": leaf["size_bytes"] if place == 0 else 0, "releases": leaf["releases"],
                })  # fmt: skip
                if crossing["form"] in ("CONTROL", "PUBLIC"):
                    break
    return entries


def _refusals(layout: Layout, model: Mapping[str, Any]) -> list[dict[str, Any]]:
    platform = layout.parties[0]
    found = {(platform, entry["field"], entry["rule"]) for entry in model["refused"]}
    for party in layout.parties:
        for leaf in leaves_of(layout, party):
            if leaf["kind"] == "release":
                found |= {(party, entry["field"], entry["rule"]) for entry in leaf["refused"]}
    return [
        {"party": party, "field": field, "rule": rule, "reason": RULES.get(rule, "")}
        for party, field, rule in sorted(found)
    ]


def _excluded(layout: Layout) -> list[dict[str, Any]]:
    rows = []
    for party in layout.parties:
        for leaf in leaves_of(layout, party):
            if leaf["kind"] == "release" and is_first_of(leaf):
                rows += [
                    {"party": party, "recipient": leaf["recipient"], "rule": e["rule"], "firms": e["firms"]}
                    for e in leaf["excluded"]
                ]
    return rows


def _consents(layout: Layout) -> dict[str, int]:
    counts = {}
    for party in layout.parties:
        path = layout.home(party) / "evidence" / "registry.jsonl"
        counts[party] = len(path.read_bytes().splitlines()) if path.exists() else 0
    return counts
