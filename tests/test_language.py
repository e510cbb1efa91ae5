"""The second language: every sentence of a report has its Chinese, markup stays what it was, and English is untouched."""

import html
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_report import _full_summary
from worlds import World, finished  # noqa: F401  the fixture

from lianxin.parties import cli, language, report, verdict_report
from lianxin.parties.auditor import verify_run
from lianxin.parties.decision_rules import RULES
from lianxin.parties.report_page import Part, page, paragraph, text

_GAP = re.compile(r"\{(\d?)\}")
_OWN_WORDS = {"Consents in this run were simulated.", "One split only."}  # of the made-up summary
_HAN = re.compile(r"[\u4e00-\u9fff]")


@pytest.fixture(autouse=True)
def english_again() -> Iterator[None]:
    yield
    language.choose("en")


def english_left(document: str) -> list[str]:
    """Return the texts of a page in which three English words still follow on each other."""
    shown = re.sub(r"<code>.*?</code>|<style>.*?</style>", "", document, flags=re.DOTALL)
    said = [html.unescape(found[1]) for found in language._SEGMENT.finditer(shown)]
    return [one for one in said if one not in _OWN_WORDS and re.search(r"[a-z]{2,} [a-z]{2,} [a-z]{2,}", one)]


def test_every_template_is_there_once_and_its_gaps_are_filled() -> None:
    texts = language.read_texts()
    assert len({english for english, _ in texts}) == len(texts) > 300
    for english, chinese in texts:
        gaps, filled = len(_GAP.findall(english)), _GAP.findall(chinese)
        places = [int(place) if place else number + 1 for number, place in enumerate(filled)]
        assert set(places) <= set(range(1, gaps + 1)), english
        assert _HAN.search(chinese) or not re.search("[a-z]{2,} [a-z]{2,}", english), english


def test_a_whole_report_and_a_verdict_are_read_in_chinese(finished: World) -> None:  # noqa: F811
    shown = report.render(_full_summary())
    verdict = verdict_report.verdict_page(verify_run(finished.layout.folder))
    for document in (shown, verdict):
        told = language.page_in_chinese(document)
        assert english_left(document) and not english_left(told)
        assert '<html lang="zh-CN">' in told and len(_HAN.findall(told)) > 60
        assert re.findall(r"<[a-z/][^>]*>", told)[3:] == re.findall(r"<[a-z/][^>]*>", document)[3:]
        numbers = re.compile(r">([+−]?\d+\.\d{4})<")
        assert numbers.findall(told) == numbers.findall(document)


def test_a_name_that_is_markup_stays_escaped_in_chinese() -> None:
    language.choose("zh")
    hostile = "<script>alert('x')</script>"
    made = page("Results", "", [Part("a", "Results", paragraph(text(f"{hostile}: no figure of a joint model.")))])
    assert "没有联合模型的数字" in made and "<script>" not in made


def test_english_is_what_it_was_and_the_choice_is_taken_back() -> None:
    parts = [Part("a", "Results", paragraph("Nothing was refused."))]
    before = page("Results", "", parts)
    language.choose("zh")
    assert "没有任何拒绝。" in page("Results", "", parts)
    language.choose("en")
    assert page("Results", "", parts) == before and "Nothing was refused." in before


def test_every_rule_of_the_gate_is_said_in_chinese() -> None:
    known = dict(language.read_texts())
    assert [rule.id for rule in RULES.values() if rule.what not in known] == []


def test_a_refusal_tells_in_chinese_what_its_rule_asks() -> None:
    language.choose("zh")
    said = language.told("bank-1 refused by rule R26; ask its operator for the reason")
    assert said.startswith("bank-1 按规则 R26 拒绝") and "提议者不得批准" in said


@pytest.mark.parametrize(
    "arguments", [["--lang", "zh", "--version"], ["--version", "--lang=zh"]], ids=["before", "after"]
)
def test_the_language_is_named_before_or_after_a_command(arguments: list[str]) -> None:
    assert cli.run(arguments) == 0
    assert language.chosen() == "zh"


def test_the_language_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIANXIN_LANG", "zh")
    assert language.taken(["audit", "verify"]) == ["audit", "verify"] and language.chosen() == "zh"
    assert language.taken(["audit", "--lang", "en", "verify"]) == ["audit", "verify"] and language.chosen() == "en"


def test_a_language_that_there_is_none_of_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--lang", "fr", "--version"]) == 2
    assert "en, zh" in capsys.readouterr().err


def test_a_text_that_is_not_known_stays_as_it_was(tmp_path: Path) -> None:
    assert language.in_chinese("loan_rate of acme") == "loan_rate of acme"
    assert language.in_chinese("1 to 3: no difference shown") == "1 至 3：未显示差异".replace("：", ": ")
