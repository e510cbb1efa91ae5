"""The second language: every sentence of a report has its Chinese, markup stays what it was, and English is untouched."""

import csv
import html
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_report import _full_summary
from worlds import World, finished  # noqa: F401  the fixture

from lianxin.parties import cli, language, report, run_remedies, verdict_report
from lianxin.parties.auditor import verify_run
from lianxin.parties.decision_rules import RULES
from lianxin.parties.report_page import Part, page, paragraph, text

_GAP = re.compile(r"\{(\d?)\}")
_OWN_WORDS = {"Consents in this run were simulated.", "One split only."}  # of the made-up summary
_HAN = re.compile(r"[\u4e00-\u9fff]")
_ROOT = Path(__file__).resolve().parents[1]
_GUIDES = ("README", *(f"docs/quickstart-{role}" for role in ("platform", "bank", "auditor")))
_BLOCK = re.compile(r"^```(.*?)^```", re.M | re.S)
_TOLD_WHOLE = (
    "GateRefused", "GuardRefused", "ContractRefused", "ConsentRejected", "EvidenceRejected", "RunStopped", "PeerGone",
    "DeadlinePassed",
)  # fmt: skip


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


def _commands(text: str) -> list[list[str]]:
    """Return the words of each block, line by line without its comments."""
    return [[" ".join(line.split("#")[0].split()) for line in block.splitlines()] for block in _BLOCK.findall(text)]


@pytest.mark.parametrize("guide", _GUIDES)
def test_a_chinese_guide_has_the_commands_headings_and_links_of_the_english_one(guide: str) -> None:
    english, chinese = (_ROOT / f"{guide}{end}" for end in (".md", ".zh-CN.md"))
    one, other = english.read_text(encoding="utf-8"), chinese.read_text(encoding="utf-8")
    assert _commands(one) == _commands(other) != []
    assert one.count("\n## ") == other.count("\n## ")
    assert f"[中文]({chinese.name})" in one and f"[English]({english.name})" in other
    links = [[to.replace(".zh-CN", "") for to in re.findall(r"\]\(([^)]+)\)", text)] for text in (one, other)]
    assert Counter(links[0]) - Counter(links[1]) == Counter()
    assert len(_HAN.findall(other)) > 300


def _is_told(sentence: str) -> bool:
    """Return whether a refusal's template is read in Chinese, with no three English words on end outside of code."""
    told = re.sub(r"`[^`]*`|'[^']*'", "", language.in_chinese(sentence.replace("{}", "X1")))
    return bool(_HAN.search(told)) and not re.search(r"[a-z]{2,} [a-z]{2,} [a-z]{2,}", told)


def test_what_a_person_is_refused_with_is_told_in_chinese() -> None:
    with (_ROOT / "parties/error_codes.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if re.search("[A-Za-z]{3}", row["sentence"])]
    of_all, told = (
        Counter(row["class"] for row in rows),
        Counter(row["class"] for row in rows if _is_told(row["sentence"])),
    )
    print(f"{told.total()} of {of_all.total()} refusals are told in Chinese")
    assert {name: told[name] / of_all[name] for name in _TOLD_WHOLE if told[name] < 0.95 * of_all[name]} == {}
    assert told["InputFault"] >= 0.9 * of_all["InputFault"]
    assert told.total() >= 0.97 * of_all.total()


def test_what_to_do_about_a_run_is_told_in_chinese() -> None:
    said = {run_remedies.remedy(rule) for rule in [*run_remedies.REMEDIES, *RULES, "OUT-ROWS", "SS01", "NN1", "GR1"]}
    assert sorted(one for one in said if not _is_told(one)) == []


def test_a_terminal_is_told_in_chinese_and_a_program_in_english(
    finished: World,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = str(finished.layout.folder)
    assert cli.run(["audit", "verify", folder, "--lang", "zh"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("已验证；运行") and all(word in shown for word in ("检查项", "参与方", "成立", "说明"))
    assert cli.run(["audit", "verify", folder, "--json", "--lang", "zh"]) == 0
    assert not _HAN.search(capsys.readouterr().out)
    assert cli.run(["doctor", "--lang", "zh"]) in (0, 2)
    lines = capsys.readouterr().out.splitlines()
    assert all(_HAN.search(line) or "CPython" in line or "Linux" in line for line in lines) and "项正常" in lines[-1]
    assert cli.run(["doctor", "--json", "--lang", "zh"]) in (0, 2)
    assert not _HAN.search(json.dumps(json.loads(capsys.readouterr().out)["lines"], ensure_ascii=False))


def test_a_table_of_a_terminal_keeps_its_numbers_and_styles_in_chinese() -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("level", "difference", title=Text("Difference in AUC on the same rows, paired (DeLong)"))
    table.add_row(Text("joint less bank only", style="bold"), "+0.0123")
    assert language.table_shown(table).columns[0].header == "level"
    language.choose("zh")
    told = language.table_shown(table)
    assert [column.header for column in told.columns] == ["级别", "差值"] and _HAN.search(str(told.title))
    (cell,), (number,) = (list(column.cells) for column in told.columns)
    assert str(cell) == "联合减去仅银行" and cell.style == "bold" and number == "+0.0123"
