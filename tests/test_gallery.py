"""The gallery's page: what strangers' names and odd figures cannot do to it, and what is refused. Whole runs are shown in
`test_scenario_run`."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lianxin.federation.errors import InputFault
from lianxin.parties.cli import app
from lianxin.simulations.gallery import Card, render, write_gallery
from lianxin.simulations.gallery_plots import auc_svg, forms_svg, rounds_svg
from lianxin.simulations.scenario_compare import Folder

HOSTILE = '<script>alert("x")</script>'


def a_card(result: dict[str, Any], **told: Any) -> Card:
    story = {
        "title": "A story",
        "name": "a-story",
        "story": "One.\n\nTwo.",
        "verdict": "verified",
        "as_expected": True,
        **told,
    }
    terms = {"terms.model": "scorecard", "terms.seed": 3}
    return Card(Folder(Path("run"), terms, result | {"scenario": story}, "platform"), story, {"CIPHERTEXT": 1_500_000})


def a_round(number: int, **changes: Any) -> dict[str, Any]:
    return {"number": number, "begin_s": number - 1.0, "end_s": float(number), "revoked": 0, "lost": [], **changes}


def test_every_text_that_enters_the_page_is_escaped() -> None:
    hostile = {
        "title": HOSTILE, "story": HOSTILE, "sentence": f"x: {HOSTILE}", "surprises": [HOSTILE], "name": HOSTILE,
        "accused": [{"party": HOSTILE, "sentence": HOSTILE}], "checks": [{"name": HOSTILE, "ok": False}],
        "rounds": [a_round(1, lost=[HOSTILE])], "withdrawn": [{"provider": HOSTILE}],
    }  # fmt: skip
    result = {
        "auc": {HOSTILE: {"joint": 0.7}},
        "intervals": {HOSTILE: {"joint": [0.6, 0.8]}},
        "matched": {"overall": HOSTILE},
    }
    page = render([a_card(result, **hostile)])
    assert "<script" not in page and page.count("&lt;script&gt;") > 8
    assert "default-src 'none'" in page


def test_a_card_shows_only_what_its_run_has() -> None:
    page = render([a_card({})])
    assert page.count("<figure") == 1 and "What left the nodes" in page  # no figures and no rounds, nothing to draw
    assert "As told" in page and "✓ verified" in page


@pytest.mark.parametrize(
    ("verdict", "mark"), [("verified", "✓ verified"), ("not verified", "✗ not verified"), ("stopped", "■")]
)
def test_each_verdict_has_its_mark(verdict: str, mark: str) -> None:
    assert render([a_card({}, verdict=verdict)]).count(mark) == 2  # in the table on top and on its card


def test_a_check_that_failed_stands_out() -> None:
    page = render(
        [a_card({}, verdict="not verified", checks=[{"name": "times", "ok": True}, {"name": "consents", "ok": False}])]
    )
    assert '<li class="bad">✗ consents</li>' in page and "<li>✓ times</li>" in page


def test_an_interval_is_drawn_where_it_is_and_wide_ones_stay_in_the_box() -> None:
    svg = auc_svg([("all banks", {"joint": (0.5, 0.0, 1.0), "bank_only": (0.5, 0.4, 0.6)})])
    assert 'x1="96.0"' in svg and 'x2="426.0"' in svg and svg.count("<circle") == 2
    assert auc_svg([]) == "" and auc_svg([("all banks", {})]) == ""


def test_the_largest_form_has_the_longest_bar() -> None:
    svg = forms_svg({"CIPHERTEXT": 2000, "MASKED": 1000})
    assert 'width="268.0"' in svg and 'width="134.0"' in svg and "2.0 kB" in svg
    assert forms_svg({}) == ""


def test_what_happened_in_a_round_is_told_at_its_place() -> None:
    svg = rounds_svg(
        {"matching": 1.0, "training": 2.0, "total": 4.0}, [a_round(1), a_round(2, lost=["bank-2"], revoked=3)]
    )
    assert "round 2: bank-2 lost, 3 withdrew" in svg and "round 1" not in svg
    assert rounds_svg({}, []) == ""


def test_phases_are_drawn_where_they_were_and_the_rounds_lie_under_training() -> None:
    phases = [{"name": "training", "begin_s": 6.0, "end_s": 10.0}]
    svg = rounds_svg({"training": 4.0, "total": 10.0}, [a_round(7)], phases)
    start = 60 + (920 - 60 - 14) * 0.6
    assert svg.count(f'<rect x="{start:.1f}"') == 2  # the phase, and the round under it
    assert f'<rect x="{start:.1f}" y="42"' not in rounds_svg({"training": 4.0, "total": 10.0}, [a_round(1)])


def test_a_page_is_written_beside_what_is_there_and_never_over_it(tmp_path: Path) -> None:
    (tmp_path / "run.evidence").write_text("mine")
    for out, said in (("run.evidence", "exists already"), ("none/page.html", "there is no folder")):
        with pytest.raises(InputFault, match=said):
            write_gallery(tmp_path / out, [tmp_path])
        told = CliRunner().invoke(app, ["simulate", "gallery", "--all", "--out", str(tmp_path / out)])
        assert isinstance(told.exception, InputFault) and said in str(told.exception)
    assert (tmp_path / "run.evidence").read_text() == "mine" and not (tmp_path / "none").exists()


def test_a_small_form_says_so_before_its_story() -> None:
    page = render([a_card({}, played="played small: 4 firms")])
    assert page.index("Played small: 4 firms.") < page.index("<p>One.")


def test_what_cannot_be_shown_is_refused_and_leaves_no_page(tmp_path: Path) -> None:
    with pytest.raises(InputFault, match="a gallery of no runs shows nothing"):
        write_gallery(tmp_path / "page.html", [])
    with pytest.raises(InputFault, match="is no run folder with evidence"):
        write_gallery(tmp_path / "page.html", [tmp_path])
    assert list(tmp_path.iterdir()) == []
    for words in ([], [str(tmp_path), "--all"]):
        said = CliRunner().invoke(app, ["simulate", "gallery", *words])
        assert isinstance(said.exception, InputFault) and "one of the two" in str(said.exception)
