"""The report: complete, self-contained, escaped, the same each time, and honest about what is not there."""

import copy
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console

from lianxin.federation import evaluation
from lianxin.parties import report, report_page
from lianxin.parties.report import ReportNotWritten, render, summary_table, write_report

VOID = {"meta", "br", "hr", "img", "link", "input"}
SECTIONS = ["results", "curves", "matching", "training", "woe", "left", "rights", "plan", "verification", "limits"]
HOSTILE = "<script>alert('x')</script>\"&"


class Page(HTMLParser):
    """Collects tags, ids, table rows and text, and checks that every tag is closed in order."""

    def __init__(self, document):
        super().__init__()
        self.tags, self.attributes, self.rows, self.words, self.open = [], [], [], [], []
        self.feed(document)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    @property
    def text(self):
        return "".join(self.words)

    def row(self, first):
        return next(row for row in self.rows if row and row[0] == first)


def _scores(seed, rows, strength):
    rng = np.random.default_rng(seed)
    labels = (rng.random(rows) < 0.2).astype(int)
    return {"labels": labels.tolist(), "scores": (rng.normal(size=rows) + strength * labels).tolist()}


def _full_summary():
    strengths = {"bank_only": 0.6, "joint": 1.2, "pooled": 1.3}
    curves = {
        level: {model: _scores(seed, 400, strength) for model, strength in strengths.items()}
        for seed, level in enumerate(("bank-a", "bank-b", "overall"))
    }
    return {
        "title": "Joint scorecard",
        "notice": "Consents in this run were simulated.",
        "run": "run-001",
        "purpose": "P4",
        "parties": [{"party": "platform", "role": "platform"}, {"party": "bank-a", "role": "bank"}],
        "started": "2025-06-01T09:00:00Z",
        "code_version": "0.1.0",
        "matched": {"bank-a": 700, "overall": 1234},
        "auc": {
            "bank-a": {"bank_only": 0.61238, "joint": 0.70114, "pooled": 0.70221, "pooled_single": None},
            "overall": {"bank_only": 0.62342, "joint": 0.71239, "pooled": 0.71552, "pooled_single": 0.69991},
        },
        "ks": {"overall": {"bank_only": 0.21, "joint": 0.33, "pooled": 0.34}},
        "gini": {"overall": {"bank_only": 0.24, "joint": 0.42}},
        "curves": curves,
        "rounds": [
            {"round": 1, "gradient_norm": {"bank-a": 90.5, "bank-b": 70.0}, "seconds": 2.5, "live_rows": 1234},
            {
                "round": 2,
                "gradient_norm": {"bank-a": 9.5, "bank-b": 0.0},
                "seconds": 2.4,
                "live_rows": 1230,
                "revoked": 4,
            },
        ],
        "woe": [
            {"field": "tax-weak", "iv": 0.05, "bins": [{"rows": 600, "woe": 0.1}, {"rows": 634, "woe": -0.1}]},
            {"field": "tax-strong", "iv": 0.42, "bins": [{"label": "missing", "rows": 80, "woe": -1.25}]},
        ],
        "left": [
            _crossing("platform", "bank-a", "CIPHERTEXT", rows=700, releases=["r1", "r2"]),
            _crossing("platform", "bank-a", "CIPHERTEXT", rows=650, releases=["r2"]),
            _crossing("bank-a", "platform", "DESENSITISED", field="points"),
        ],
        "refusals": [{"party": "bank-a", "field": "loan-default", "rule": "R18", "reason": "labels stay"}],
        "excluded": [{"party": "platform", "recipient": "bank-a", "rule": "R04", "firms": 17}],
        "revoked": [],
        "consents": {"live_at_start": 1240},
        "plan": {
            "learns": [{"who": "platform", "what": "gradient sums", "step": "training", "malicious": "184 labels"}],
            "bytes": {"predicted": 5_000_000, "actual": 5_100_000},
            "seconds": 100,
        },
        "seconds": 163.2,
        "bytes_sent": 5_100_000,
        "verification": {"ok": True, "checks": [{"check": "signatures", "ok": True}]},
        "transcript_sha256": "9f" * 32,
        "limits": ["One split only."],
    }


def _crossing(sender, recipient, form, field="sums", rows=700, releases=()):
    return {
        "sender": sender, "recipient": recipient, "form": form, "message": "BinSums", "field": field,
        "envelopes": 8, "bytes": 1000, "rows": rows, "releases": list(releases),
    }  # fmt: skip


@pytest.fixture(scope="module")
def full():
    return _full_summary()


@pytest.fixture(scope="module")
def plotless(full):
    return {key: value for key, value in full.items() if key not in ("curves", "rounds")}


@pytest.fixture(scope="module")
def document(full):
    return render(full)


def test_every_part_of_a_full_summary_has_its_section(document):
    page = Page(document)
    assert [value for key, value in page.attributes if key == "id" and value in SECTIONS] == SECTIONS
    assert not page.open


def test_the_notice_is_the_first_line_that_is_read(document):
    body = document[document.index("<main>") : document.index("</body>")]
    assert "".join(Page(body).words).strip().startswith("Consents in this run were simulated.")


def test_the_page_loads_and_runs_nothing(document):
    page = Page(document)
    assert not {"script", "link", "img", "iframe", "object", "image"} & set(page.tags)
    assert not re.search(r"https?:|//\w|@import|url\((?!#)", document)
    assert all(value.startswith("#") for key, value in page.attributes if key in ("href", "xlink:href", "src"))
    assert "default-src 'none'" in document


def test_the_figures_in_the_tables_are_the_ones_given(document):
    page = Page(document)
    assert page.row("All banks") == ["All banks", "0.6234", "0.7124", "+0.0890", "0.7155", "0.6999"]
    assert page.row("bank-a") == ["bank-a", "0.6124", "0.7011", "+0.0888", "0.7022", "–"]
    assert "reaches an AUC of 0.7124" in page.text


def test_each_level_has_a_roc_and_a_separation_plot_and_training_one(document):
    assert Page(document).tags.count("svg") == 3 * 2 + 1


def test_ids_are_unique_although_every_plot_is_inline(document):
    ids = [value for key, value in Page(document).attributes if key == "id"]
    assert len(ids) == len(set(ids))


def test_the_same_summary_gives_the_same_bytes(full, document):
    assert render(copy.deepcopy(full)) == document


def test_the_largest_gap_drawn_is_the_ks_of_all_rows(monkeypatch):
    data = {"joint": tuple(_scores(5, 5000, 0.7).values())}
    drawn = []
    from matplotlib.axes import Axes

    draw = Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda axes, *data, **looks: drawn.append(data) or draw(axes, *data, **looks))
    report.report_results.separation_svg(data, "ks")
    assert drawn[0][1].max() == pytest.approx(evaluation.ks(*data["joint"]))
    assert drawn[0][1].size < 300


def test_an_empty_summary_makes_a_page_without_sections(tmp_path):
    write_report(tmp_path / "report.html", {})
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "section" not in page.tags and "h1" in page.tags and not page.open


@pytest.mark.parametrize("part", sorted(set(_full_summary()) - {"curves", "rounds"}))
def test_any_part_may_be_missing(plotless, part):
    page = Page(render({key: value for key, value in plotless.items() if key != part}))
    assert not page.open and "not shown" not in page.text


@pytest.mark.parametrize("part", ["auc", "curves", "matched", "rounds", "woe", "left", "refusals", "plan"])
@pytest.mark.parametrize("how", ["in place", "beside"])
def test_a_missing_part_is_replaced_by_its_reason(part, how):
    reason = "only the platform <holds> it"
    page = Page(render({part: reason} if how == "in place" else {"missing": {part: reason}}))
    assert page.text.count(f"not shown. {reason}") == 1


def test_an_empty_list_says_that_nothing_happened():
    assert "No consent was withdrawn." in Page(render({"revoked": []})).text
    assert "No consent was withdrawn." not in Page(render({"revoked": [{"round": 4, "firms": 3}]})).text


def _with_everywhere(value, hostile):
    if isinstance(value, dict):
        return {
            (key if key in SAFE_KEYS else hostile + key): _with_everywhere(item, hostile) for key, item in value.items()
        }
    if isinstance(value, list):
        return [_with_everywhere(item, hostile) for item in value]
    return hostile + value if isinstance(value, str) else value


def _keys(value):
    if isinstance(value, dict):
        return set(value) | set().union(*(_keys(item) for item in value.values()))
    return set().union(*(_keys(item) for item in value)) if isinstance(value, list) else set()


SAFE_KEYS = _keys(_full_summary()) - {"bank-a", "bank-b", "live_at_start"}


def test_no_text_of_a_party_becomes_markup_wherever_it_stands(full, document):
    hostile = _with_everywhere(full, HOSTILE)
    page = Page(render(hostile))
    assert "script" not in page.tags and not page.open
    assert sorted(set(page.tags)) == sorted(set(Page(document).tags))
    for text in ("Joint scorecard", "run-001", "bank-a", "loan-default", "signatures", "tax-weak", "One split only."):
        assert HOSTILE + text in page.text


def test_without_escaping_the_same_name_would_be_a_script(monkeypatch):
    summary = {"parties": [HOSTILE]}
    assert "script" not in Page(render(summary)).tags
    monkeypatch.setattr(report_page.html, "escape", lambda text, quote: text)
    assert "script" in Page(render(summary)).tags


def test_characters_that_turn_or_hide_text_are_shown_as_unprintable():
    page = Page(render({"title": "bank\u202eknab\x00\ud800"}))
    assert "bank\ufffdknab\ufffd\ufffd" in page.text


def test_a_chinese_name_is_kept_and_has_a_font(tmp_path):
    write_report(tmp_path / "report.html", {"title": "联信 征信报告"})
    written = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "联信 征信报告" in Page(written).text and "Noto Sans CJK SC" in written


def test_what_left_is_added_up_by_form_field_and_peer(document):
    row = Page(document).row("CIPHERTEXT")
    assert row == ["CIPHERTEXT", "sums", "BinSums", "bank-a", "16", "2,000", "700", "2"]


@pytest.mark.parametrize(
    ("form", "verdict"),
    [
        ("CIPHERTEXT", "No row value left as held or desensitised."),
        ("DESENSITISED", "No row left as held; desensitised row values did."),
        ("PLAIN", "Row values left as held (PLAIN)."),
        ("OTHER", "in a form that this report does not know"),
    ],
)
def test_each_node_is_told_how_openly_rows_left(form, verdict):
    crossings = [_crossing("platform", "bank-a", form), _crossing("platform", "bank-a", "CONTROL")]
    assert verdict in Page(render({"left": crossings})).text


@pytest.mark.parametrize("ok", [False, None, "yes"])
def test_anything_but_a_passed_check_reads_as_not_verified(ok):
    text = Page(render({"verification": {"ok": ok}})).text
    assert "NOT VERIFIED" in text and "passed every check" not in text


def test_fields_stand_in_the_order_of_their_information_value(document):
    text = Page(document).text
    assert text.index("tax-strong IV 0.4200, strong") < text.index("tax-weak IV 0.0500, weak")


def test_a_bank_without_both_classes_gets_a_sentence_instead_of_a_curve():
    page = Page(render({"curves": {"bank-a": {"joint": {"labels": [0, 0], "scores": [0.1, 0.2]}}}}))
    assert "all good or all bad" in page.text and "svg" not in page.tags


def test_scores_that_cannot_be_drawn_do_not_lose_the_report():
    page = Page(render({"run": "run-001", "curves": {"bank-a": {"joint": {"labels": [0, 1], "scores": [0.1]}}}}))
    assert "cannot be drawn" in page.text and "run-001" in page.text


def test_a_report_is_replaced_whole_and_leaves_no_partial_file(tmp_path):
    path = tmp_path / "new" / "report.html"
    write_report(path, {"title": "first"})
    write_report(path, {"title": "second"})
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]
    assert "second" in path.read_text(encoding="utf-8")


def test_a_fault_while_writing_keeps_the_old_report(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    write_report(path, {"title": "first"})

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report.os, "fsync", fail)
    with pytest.raises(ReportNotWritten, match="No space left"):
        write_report(path, {"title": "second"})
    assert "first" in path.read_text(encoding="utf-8")
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]


def _terminal(summary):
    console = Console(file=io.StringIO(), width=160, force_terminal=False)
    console.print(summary_table(summary))
    return console.file.getvalue()


def test_the_terminal_table_sets_auc_and_ks_side_by_side(full):
    lines = _terminal(full).splitlines()
    overall = next(line for line in lines if "overall" in line)
    assert re.findall(r"\d\.\d{4}", overall) == ["0.6234", "0.7124", "0.7155", "0.6999", "0.2100", "0.3300", "0.3400"]
    assert lines.index(overall) < lines.index(next(line for line in lines if "bank-a" in line))


def test_the_terminal_table_prints_names_and_not_their_markup():
    shown = _terminal({"title": "[bold]x", "auc": {"[red]bank\x1b[31m": {"joint": 0.7}}})
    assert "[red]bank" in shown and "[bold]x" in shown and "\x1b" not in shown


def test_the_terminal_table_of_nothing_is_empty():
    assert summary_table({}).row_count == 0
