"""The report back to data sources: its sums are the ledger's, and no subtraction of two figures leaves a small group."""

import hashlib
import json
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import worlds
from torture import repeats

from lianxin.crypto import canonical
from lianxin.crypto.randomness import Drbg
from lianxin.federation.errors import InputFault
from lianxin.parties.auditor_questions import Wanted, open_case
from lianxin.parties.auditor_questions_releases import who_got
from lianxin.parties.operator_consents import models_under
from lianxin.parties.operator_suppression import LEAST, SMALL, shown, total
from lianxin.parties.usage_report import RUN, Uses, check_month, effect_of, reports, uses_in
from lianxin.parties.usage_report_page import usage_csv, usage_page

MONTH, AFTER = "2026-01", "2026-02-01T00:00:00Z"
OWNER = {"revenue": "tax-bureau", "region": "market-office"}
BANK, OTHER = "bank-1", "bank-2"
finished = worlds.finished


def leaf(fields: list[str], rows: int = 1, **changes: Any) -> bytes:
    """A platform's release leaf as its ledger holds it; by default an answer about one firm."""
    return canonical.encode({
        "kind": "release", "type": "leaf", "version": 1, "run": "queries-1", "time": "2026-01-10T08:00:00Z",
        "party": "platform", "recipient": BANK, "purpose": "P2", "mode": "PLAINTEXT", "step": "query.answer",
        "fields": fields, "rows": rows, "query": "queries-1.bank-1.1", "refused": [], "excluded": [], **changes,
    })  # fmt: skip


def report_of(leaves: list[bytes], source: str = "tax-bureau", **options: Any) -> dict[str, Any]:
    found = reports(uses_in(leaves, MONTH), "platform", MONTH, OWNER, [], **options)
    return next(one for one in found if one["source"] == source)


def exact(leaves: list[bytes]) -> dict[str, int]:
    """Firms by field, of all places."""
    found: dict[str, int] = {}
    for place, use in uses_in(leaves, MONTH).places.items():
        found[place[0]] = found.get(place[0], 0) + use.all_firms
    return found


# ---- sums


def test_the_sums_of_a_run_are_those_that_an_auditor_finds_with_the_question_that_a_line_names(finished: worlds.World):
    lines = (finished.layout.home(finished.platform) / "evidence" / "ledger.jsonl").read_bytes().splitlines()
    month = json.loads(lines[-1])["time"][:7]
    uses, case = uses_in(lines, month), open_case([finished.layout.folder])
    found = reports(uses, finished.platform, month, {}, [])
    assert [one["source"] for one in found] == ["unnamed"] and found[0]["uses"]
    for line in found[0]["uses"]:
        words = line["recompute"].split()
        named = {words[at].removeprefix("--"): words[at + 1] for at in range(5, len(words), 2)}
        rows = [row for row in who_got(case, Wanted(**named)).rows if row["provider"] == finished.platform]
        rows = [row for row in rows if (row["mode"] == "AGGREGATE") == (line["kind"] != RUN)]
        use = uses.places[line["field"], line["bank"], line["purpose"], line["kind"]]
        assert use.all_firms == max(int(str(row["rows"])) for row in rows) and line["firms"] == shown(use.all_firms)
        assert line["runs"] == sorted({str(row["run"]) for row in rows})


def test_queries_and_scores_are_added_up_and_counted_by_request():
    leaves = [leaf(["revenue"], query=f"q.{n // 2}") for n in range(40)]
    leaves += [leaf(["revenue"], 30, step="scoring.answer", mode="SCORE_ONLY", query="s.1", run="scores-1")]
    lines = {line["kind"]: (line["requests"], line["firms"]) for line in report_of(leaves)["uses"]}
    assert lines == {"query": (20, 40), "score": (SMALL, 30)}


def test_only_leaves_of_the_month_count_and_a_month_that_is_over_has_the_same_bytes_for_ever():
    inside = [leaf(["revenue"], 20), leaf(["revenue"], 20, time="2026-01-31T23:59:59Z")]
    outside = [leaf(["revenue"], 20, time=time) for time in ("2025-12-31T23:59:59Z", "2026-02-01T00:00:00Z")]
    assert report_of(outside[:1] + inside) == report_of(outside[:1] + inside + outside[1:])
    assert report_of(inside)["uses"][0]["firms"] == 40
    assert report_of(inside)["last_leaf"] == hashlib.sha256(inside[1]).hexdigest()


def test_what_was_refused_is_told_by_field_bank_and_rule():
    leaves = [leaf(["region"], 20, refused=[{"field": "revenue", "rule": "R39"}]) for _ in range(12)]
    refusal = {"kind": "refusal", "time": "2026-01-11T00:00:00Z", "run": "queries-1", "peer": BANK, "rule": "R02"}
    leaves.append(canonical.encode(refusal | {"step": "query.answer", "values": 25}))
    found = report_of(leaves)
    assert found["refused"] == [{"field": "revenue", "bank": BANK, "rule": "R39", "releases": 10}]
    assert found["left_out"] == [{"bank": BANK, "rule": "R02", "firms_or_values": 20}]


def test_a_field_that_nobody_named_a_source_for_has_a_report_of_its_own():
    assert report_of([leaf(["orphan"], 10)], "unnamed")["uses"][0]["field"] == "orphan"


def test_the_effect_is_what_the_platforms_own_model_says(finished: worlds.World):
    state = finished.layout.home(finished.platform) / "state"
    (model,) = [one for one in models_under(state) if one.get("type") == "platform-model"]
    lines = list(effect_of(model))
    assert {line["field"] for line in lines} == {entry["field"] for entry in model["features"]} != set()
    assert 1000 - len(lines) <= sum(line["weight_permille"] for line in lines) <= 1000
    assert all(line["iv_micro"] > 0 for line in lines)


def test_cuts_of_trees_are_shared_out_over_their_features():
    model = {"type": "platform-trees", "run": "trees-1", "features": [{"field": "a"}, {"field": "b"}],
             "banks": {BANK: {"cuts": [[0, 1, 0], [0, 2, 0], [1, 1, 0]]}, OTHER: {"cuts": [[0, 1, 0]]}}}  # fmt: skip
    assert [(line["field"], line["cuts_permille"]) for line in effect_of(model)] == [("a", 750), ("b", 250)]


# ---- what a subtraction gives away


def figures(report: dict[str, Any]) -> list[int]:
    """Every figure about firms in a report, one that is suppressed as nothing."""
    rows = [*report["uses"], *report["totals"]]
    return [one if isinstance(one := row["firms"], int) else 0 for row in rows]


def gives_away(*reports: dict[str, Any]) -> bool:
    """Return whether two figures of these reports differ by a group of fewer than ten firms."""
    pairs = combinations([one for report in reports for one in figures(report)], 2)
    return any(0 < abs(first - second) < LEAST for first, second in pairs)


def test_a_field_minus_its_neighbour_gives_no_small_group_away_and_without_suppression_does():
    both, alone = [leaf(["revenue", "turnover"])] * 54, [leaf(["revenue"])] * 3
    leaves = [*both, *alone]
    owner = {"revenue": "tax-bureau", "turnover": "tax-bureau"}
    (defended,) = reports(uses_in(leaves, MONTH), "platform", MONTH, owner, [])
    (bare,) = reports(uses_in(leaves, MONTH), "platform", MONTH, owner, [], least=1)
    assert gives_away(bare) and not gives_away(defended)


def test_a_total_minus_its_parts_gives_no_small_group_away_and_without_suppression_does():
    leaves = [leaf(["revenue"])] * 40 + [leaf(["revenue"], recipient=OTHER)] * 3
    defended, bare = report_of(leaves), report_of(leaves, least=1)
    assert [line["firms"] for line in defended["uses"]] == [40, SMALL] and defended["totals"][0]["firms"] == 40
    assert bare["totals"][0]["firms"] - bare["uses"][0]["firms"] == 3
    hidden = [exact(leaves)["revenue"] - line["firms"] for line in defended["uses"] if line["firms"] != SMALL]
    assert hidden == [3], "a total of what is true, beside the part that is shown, would give the three away"


def test_two_reports_one_after_the_other_do_not_show_that_one_firm_was_asked_about_in_between():
    """The attacker asks for a report, waits for the bank's next query, and asks again."""
    first, second = [leaf(["revenue"])] * 57, [leaf(["revenue"])] * 58
    with pytest.raises(InputFault, match="is not over"):
        check_month(MONTH, "2026-01-31T23:59:59Z")
    assert not gives_away(report_of(first), report_of(second))
    assert gives_away(report_of(first, least=1), report_of(second, least=1))


@pytest.mark.parametrize("month", ["2026-13", "2026-1", "2026", "January", "2026-01-01", ""])
def test_a_period_is_a_whole_month_and_nothing_else(month: str):
    with pytest.raises(InputFault, match="--month"):
        check_month(month, AFTER)
    check_month(MONTH, AFTER)


def test_no_two_figures_of_any_reports_differ_by_a_small_group():
    for case in repeats("test_usage_report", 200):
        drbg = Drbg(hashlib.sha256(f"usage {case}".encode()).digest())
        sizes = [drbg.below(25) for _ in range(6)]
        names = [("revenue",), ("turnover",), ("revenue", "turnover")]
        kinds = [leaf(list(names[n % 3]), recipient=(BANK, OTHER)[n // 3]) for n in range(6)]
        leaves = [one for one, size in zip(kinds, sizes, strict=True) for _ in range(size)]
        made = reports(
            uses_in(leaves, MONTH), "platform", MONTH, {"revenue": "tax-bureau", "turnover": "tax-bureau"}, []
        )
        again = reports(
            uses_in(leaves[1:], MONTH), "platform", MONTH, {"revenue": "tax-bureau", "turnover": "tax-bureau"}, []
        )
        assert not gives_away(*made, *again)


@pytest.mark.parametrize(("count", "cell"), [(0, 0), (1, SMALL), (9, SMALL), (10, 10), (19, 10), (20, 20)])
def test_a_count_is_shown_in_tens(count: int, cell: Any):
    assert shown(count) == cell and total([cell]) <= count


# ---- pages


def test_a_page_and_a_csv_show_the_lines_and_no_name_becomes_markup(tmp_path: Path):
    leaves = [leaf(["revenue"], 20, recipient="<script>alert(1)</script>")]
    made = report_of(leaves)
    assert "<script>" not in usage_page(made) and "&lt;script&gt;" in usage_page(made)
    head, line = usage_csv([made]).splitlines()
    assert head.split(",")[:6] == ["source", "month", "field", "bank", "purpose", "kind"] and line.startswith(
        "tax-bureau,2026-01,"
    )


def test_a_ledger_of_nothing_makes_no_report():
    assert reports(Uses(), "platform", MONTH, {}, []) == []
