"""The second language: what a person reads, in Chinese where it is asked for, made from the finished English text.

Sentences are written once, in English, where they are said; `texts_zh.csv` has each of them as a template with `{}` for
what is put in, beside its Chinese. A text is looked up whole; what no template fits is taken sentence by sentence, then
piece by piece, and stays as it was where nothing is known: a name, a field, an identifier. What stands in a template's
gaps is looked up too. The order of gaps may differ: `{2}` in the Chinese is the second gap of the English.
"""

import csv
import html
import io
import os
import re
from collections.abc import Sequence
from functools import cache, lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from lianxin.federation.errors import InputFault
from lianxin.parties.decision_rules import RULES

if TYPE_CHECKING:
    from rich.table import Table

LANGUAGES: Final = ("en", "zh")
TEXTS: Final = "texts_zh.csv"
_chosen = "en"
_GAP = re.compile(r"\{(\d?)\}")
_SKIPPED = re.compile(r"(<style>.*?</style>|<code>[^<]*</code>)", re.DOTALL)
_INLINE = r"</?(?:b|em|small|strong)>"
_SEGMENT = re.compile(rf"(?:(?<=>)|\A)((?:[^<>]|{_INLINE})+)(?=<|\Z)")  # between tags, or beside code
_SENTENCE = re.compile(r"(?<=[.!?]) ")
_PIECES = ("; ", ", ", ": ")
_RULE = re.compile(r"\b(?:[A-Z]{1,2}\d{2}|OUT-[A-Z]+)\b")
_LETTERS = re.compile(r"[A-Za-z]{2,}")
_DEEPEST = 4
_LEAST_LETTERS = 12  # a template that says less, such as "{} to {}", fits too much to be tried on several sentences
_MOST_WORDS = 5  # in a gap of such a template: more are a sentence of which it knows nothing


class Template(NamedTuple):
    """How a text begins, the longest piece that it holds, the whole with gaps, and its Chinese with gaps."""

    start: str
    longest: str
    english: str
    chinese: str


def choose(language: str) -> None:
    """Have everything that is read from here on in `language`, one of LANGUAGES."""
    global _chosen
    _chosen = language


def chosen() -> str:
    """Return the language that is chosen: `en` unless a person said otherwise."""
    return _chosen


def taken(arguments: Sequence[str]) -> list[str]:
    """Return a command's arguments without `--lang`, wherever it stands, and choose the language that it names.

    Without it the variable LIANXIN_LANG counts. Raises InputFault for a language that there is none of.
    """
    left, named = list(arguments), os.environ.get("LIANXIN_LANG", LANGUAGES[0])
    for place, argument in enumerate(arguments):
        if argument == "--":
            break
        if argument == "--lang" and place + 1 < len(arguments):
            named, left = arguments[place + 1], [*arguments[:place], *arguments[place + 2 :]]
        elif argument.startswith("--lang="):
            named, left = argument.removeprefix("--lang="), [*arguments[:place], *arguments[place + 1 :]]
        else:
            continue
        break
    if named not in LANGUAGES:
        raise InputFault(f"--lang and LIANXIN_LANG are one of {', '.join(LANGUAGES)}; choose one of them")
    choose(named)
    return left


def told(sentence: str) -> str:
    """Return a sentence of a command or a refusal in the chosen language; in Chinese with what its rules ask."""
    if _chosen != "zh":
        return sentence
    named = dict.fromkeys(rule for rule in _RULE.findall(sentence) if rule in RULES)
    return in_chinese(sentence) + "".join(f"（{rule}：{in_chinese(RULES[rule].what)}）" for rule in named)


def shown(line: str) -> str:
    """Return a line, a heading or a cell of a terminal in the chosen language; its indent stays, no rule is explained."""
    if _chosen != "zh":
        return line
    said = line.strip()
    return line.replace(said, in_chinese(said), 1) if said else line


def table_shown(table: "Table") -> "Table":
    """Return a terminal's table with its title, headings, cells and caption in the chosen language."""
    if _chosen == "zh":
        table.title, table.caption = _cell(table.title), _cell(table.caption)
        for column in table.columns:
            column.header = _cell(column.header)
            column._cells = [_cell(one) for one in column._cells]
    return table


def _cell(cell: Any) -> Any:
    """Return a cell in Chinese, line by line, in the style that it had; what is neither str nor Text stays."""
    if isinstance(cell, str):
        return "\n".join(map(shown, cell.split("\n")))
    if hasattr(cell, "plain"):
        told = cell.copy()
        told.plain = "\n".join(map(shown, cell.plain.split("\n")))
        return told
    return cell


def page_told(document: str) -> str:
    """Return a finished HTML page in the chosen language; its markup, styles and code stay as they are."""
    return page_in_chinese(document) if _chosen == "zh" else document


def page_in_chinese(document: str) -> str:
    """Return an HTML page with every text between its tags in Chinese, as far as it is known."""
    parts = _SKIPPED.split(document.replace('<html lang="en">', '<html lang="zh-CN">'))
    return "".join(part if place % 2 else _SEGMENT.sub(_segment, part) for place, part in enumerate(parts))


def _segment(match: re.Match[str]) -> str:
    raw = match[1]
    said = html.unescape(raw.strip())
    if not _LETTERS.search(said):
        return raw
    before, after = raw[: len(raw) - len(raw.lstrip())], raw[len(raw.rstrip()) :]
    return f"{before}{_escaped(in_chinese(said))}{after}"


def _escaped(said: str) -> str:
    """Escape what is text, and leave the few inline tags that a text may have come with."""
    pieces = re.split(rf"({_INLINE})", said)
    return "".join(piece if place % 2 else html.escape(piece, quote=True) for place, piece in enumerate(pieces))


@lru_cache(maxsize=1 << 14)  # a page says the same in many cells
def in_chinese(said: str, depth: int = 0) -> str:
    """Return a text in Chinese: whole where a template fits, else by sentences, else by pieces; unknown parts as they are."""
    if depth > _DEEPEST or not _LETTERS.search(said):
        return said
    exact, telling, loose = _lexicon()
    whole = exact.get(said) or _fitted(said, telling, depth)
    if whole is not None:
        return whole
    sentences = _SENTENCE.split(said)
    if len(sentences) > 1:
        return _joined([in_chinese(one, depth + 1) for one in sentences], " ")
    if (short := _fitted(said, loose, depth, _MOST_WORDS)) is not None:
        return short
    for mark in _PIECES:
        if mark in said:
            return mark.join(in_chinese(one, depth + 1) for one in said.split(mark))
    return said


def _joined(parts: list[str], gap: str) -> str:
    """Join sentences: after a Chinese stop no space is written."""
    joined = parts[0]
    for part in parts[1:]:
        joined += part if joined.endswith(("。", "；", "：", "，")) else gap + part
    return joined


def _fitted(said: str, templates: Sequence[Template], depth: int, most_words: int = 0) -> str | None:
    """Return a text by the first template that fits; with `most_words` a gap outside of brackets holds no more of them."""
    for start, longest, english, chinese in templates:
        if said.startswith(start) and longest in said and (found := _pattern(english).fullmatch(said)):
            if most_words and "(" not in english and max(map(_words, found.groups())) > most_words:
                continue
            return _filled(chinese, [in_chinese(gap, depth + 1) for gap in found.groups()])
    return None


def _words(gap: str) -> int:
    return len(gap.split())


def _filled(chinese: str, gaps: list[str]) -> str:
    order = iter(range(len(gaps)))
    return _GAP.sub(lambda gap: gaps[int(gap[1]) - 1] if gap[1] else gaps[next(order)], chinese)


@cache
def _lexicon() -> tuple[dict[str, str], list[Template], list[Template]]:
    """Return the texts without gaps, then the templates that say much and those that say little, the longest first."""
    rows = read_texts()
    exact = {english: chinese for english, chinese in rows if not _GAP.search(english)}
    templates = [_template(english, chinese) for english, chinese in rows if _GAP.search(english)]
    templates.sort(key=lambda one: -len(one.english))
    telling = [one for one in templates if _says_much(one)]
    return exact, telling, [one for one in templates if not _says_much(one)]


def _says_much(template: Template) -> bool:
    return len(re.findall("[A-Za-z]", template.english)) >= _LEAST_LETTERS


def read_texts() -> list[tuple[str, str]]:
    """Return the packaged (English, Chinese) texts in the order of the file."""
    text = files(__package__).joinpath(TEXTS).read_text(encoding="utf-8")
    return [(english, chinese) for english, chinese in csv.reader(io.StringIO(text))]


def _template(english: str, chinese: str) -> Template:
    pieces = _GAP.split(english)[::2]
    return Template(pieces[0], max(pieces, key=len), english, chinese)


@cache
def _pattern(english: str) -> re.Pattern[str]:
    return re.compile("(.+?)".join(re.escape(piece) for piece in english.split("{}")), re.DOTALL)
