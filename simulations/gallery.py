"""The gallery: one page with a card for each run: its story, its plots, its rounds, and the auditor's verdict.

It is made of run folders alone: `scenario.json`, `result.json` and the ledgers. The page needs nothing from elsewhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lianxin.federation.errors import InputFault
from lianxin.parties.auditor_verdict import named
from lianxin.parties.new_files import check_new
from lianxin.parties.report_page import Part, duration, facts, figure_number, page, paragraph, size, table, text
from lianxin.parties.report_plots import look
from lianxin.parties.report_story import played_html
from lianxin.simulations.gallery_plots import PHASES, Interval, auc_svg, forms_svg, rounds_svg
from lianxin.simulations.scenario import NOT_VERIFIED, STOPPED, VERIFIED
from lianxin.simulations.scenario_compare import Folder, open_folder
from lianxin.simulations.scenario_evidence import bytes_by_form

TITLE = "Lianxin: scenarios, and what their auditor found"
OVERALL = "overall"
_SHOWN = ("bank_only", "local", "joint", "federated", "personalised", "pooled")
_MARKS = {
    VERIFIED: ("good", "✓", "verified"),
    NOT_VERIFIED: ("bad", "✗", "not verified"),
    STOPPED: ("watched", "■", "stopped"),
}
_LEVELS, _FIRST_CHECKS = 6, 40
STYLE = """
.mark{display:inline-block;font:600 .82rem var(--sans);padding:.1rem .6rem;border-radius:1rem;border:1.5px solid currentColor;
white-space:nowrap}
.checks{display:flex;flex-wrap:wrap;gap:.25rem .3rem;margin:.6rem 0;padding:0;list-style:none}
.checks li{font-size:.76rem;padding:.05rem .45rem;border:1px solid var(--line);border-radius:2px;color:var(--fine)}
.checks li.bad{color:#fff;background:var(--alarm);border-color:var(--alarm);font-weight:600}
section>h2{display:flex;flex-wrap:wrap;justify-content:space-between;gap:.2rem 1rem;align-items:baseline}
.verdict{border-left:4px solid var(--fine);background:var(--wash);padding:.5rem .9rem;margin:.9rem 0;max-width:none}
.verdict.bad{border-color:var(--alarm);font-weight:400;color:var(--ink)}
.verdict.watched{border-color:var(--watch);font-weight:400;color:var(--ink)}
.plots figcaption{margin:0 0 .2rem;color:var(--ink);font-weight:600}
.plots{grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr))}
.plots .wideplot{grid-column:1/-1}
"""


@dataclass(frozen=True)
class Card:
    """What is shown of one run: the folder's own words, the story's end where it was one, bytes by form."""

    folder: Folder
    told: Mapping[str, Any]
    booked: Mapping[str, int]

    @property
    def title(self) -> str:
        """Return the story's title, else the folder's name."""
        return str(self.told.get("title") or self.folder.path.name)

    @property
    def anchor(self) -> str:
        """Return the name of the card on its page."""
        return str(self.told.get("name") or self.folder.path.name)


def write_gallery(out: Path, run_dirs: Sequence[Path]) -> None:
    """Write the page of these run folders, in their order. Raises InputFault for a folder that is none, or a path that
    cannot be written; the page appears whole or not at all."""
    if not run_dirs:
        raise InputFault("a gallery of no runs shows nothing; name the folders of finished simulations")
    check_new(out, "--out")
    document = render([_card(run_dir) for run_dir in run_dirs])
    draft = out.with_name(out.name + ".partial")
    try:
        draft.write_text(document, encoding="utf-8")
        draft.replace(out)
    except OSError as fault:
        draft.unlink(missing_ok=True)
        raise InputFault(f"{out} cannot be written ({fault.strerror}); choose another --out") from None


def render(cards: Sequence[Card]) -> str:
    """Return the page of these cards."""
    ended = sum(bool(card.told.get("as_expected")) for card in cards)
    stories = sum(bool(card.told) for card in cards)
    said = f"{stories} stories, {ended} of which ended as they are told. " if stories else ""
    about = (
        f"{said}Every firm, bank and loan here is made up. A story ends with the verdict of an auditor who is given the "
        "parties' evidence and nothing else."
    )
    header = f"<style>{STYLE}</style><h1>{text(TITLE)}</h1>" + paragraph(about, "lead") + _overview(cards)
    anchors = [f"run-{number}" for number in range(1, len(cards) + 1)]
    return page(
        TITLE, header, [Part(anchor, card.title, _body(card)) for anchor, card in zip(anchors, cards, strict=True)]
    )


def _card(run_dir: Path) -> Card:
    folder = open_folder(run_dir)
    told = folder.result.get("scenario")
    return Card(folder, told if isinstance(told, Mapping) else {}, bytes_by_form(run_dir))


def _overview(cards: Sequence[Card]) -> str:
    rows = [
        [text(card.anchor), _mark(card.folder.verdict), _told(card), *_gain(card), text(size(sum(card.booked.values()))),
         text(duration(_total_s(card)))]
        for card in cards
    ]  # fmt: skip
    head = ["Run", "Verdict", "As told", "AUC, banks alone", "AUC, joint", "Sent", "Took"]
    return table(head, rows, (3, 4, 5, 6))


def _told(card: Card) -> str:
    if not card.told:
        return text(None)
    return '<span class="good">yes</span>' if card.told.get("as_expected") else '<span class="bad">no</span>'


def _gain(card: Card) -> list[str]:
    row = (card.folder.result.get("auc") or {}).get(OVERALL) or {}
    alone = row.get("bank_only", row.get("local"))
    joint = row.get("joint", row.get("federated"))
    return [figure_number(alone), figure_number(joint)]


def _total_s(card: Card) -> Any:
    return (card.folder.result.get("seconds") or {}).get("total")


def _mark(verdict: str) -> str:
    kind, sign, words = _MARKS.get(verdict, ("", "–", verdict))
    return f'<span class="mark {kind}">{sign} {text(words)}</span>'


def _body(card: Card) -> str:
    story = "".join(
        paragraph(text(" ".join(p.split()))) for p in str(card.told.get("story", "")).split("\n\n") if p.strip()
    )
    return played_html(card.told.get("played")) + story + facts(_facts(card)) + _plots(card) + _verdict(card)


def _facts(card: Card) -> list[tuple[str, object]]:
    terms, result = card.folder.terms, card.folder.result
    matched = result.get("matched")
    return [
        ("Model", str(terms.get("terms.model", "")).replace("_", " ")),
        ("Matched by", terms.get("terms.matching") if matched else None),
        ("Firms at the platform", terms.get("world.firms")),
        ("Banks", terms.get("world.banks")),
        ("Loans of each", terms.get("world.loans")),
        ("Firms matched", matched.get(OVERALL) if isinstance(matched, Mapping) else None),
        ("Seed", terms.get("terms.seed")),
        (
            "Form",
            None if "is_quick" not in card.told else "quick: smaller than told" if card.told["is_quick"] else "whole",
        ),
    ]


def _plots(card: Card) -> str:
    result = card.folder.result
    rows = _auc_rows(result)
    models = list(dict.fromkeys(model for _, shown in rows for model in shown))
    more = len(result.get("auc") or {}) - len(rows)
    beside = f" and {more} more banks" if more > 0 else ""
    figures = [
        (
            f"What joining brings{beside}",
            _with_key(auc_svg(rows), [(look(m).label, look(m).colour) for m in models]),
            "",
        ),
        ("What left the nodes, by form", forms_svg(card.booked), ""),
        ("The run", _timeline(card), ' class="wideplot"'),
    ]
    drawn = [
        f"<figure{kind}><figcaption>{text(title)}</figcaption>{svg}</figure>" for title, svg, kind in figures if svg
    ]
    return f'<div class="plots">{"".join(drawn)}</div>' if drawn else ""


def _timeline(card: Card) -> str:
    seconds, rounds = card.folder.result.get("seconds") or {}, card.told.get("rounds") or []
    phases = card.told.get("phases") or []
    return _with_key(rounds_svg(seconds, rounds, phases), PHASES if seconds or phases else ())


def _with_key(svg: str, entries: Sequence[tuple[str, str]]) -> str:
    return svg + _key(entries) if svg and entries else svg


def _key(entries: Sequence[tuple[str, str]]) -> str:
    shown = "".join(f'<span><i style="--c:{colour}"></i>{text(label)}</span>' for label, colour in entries)
    return f'<div class="key">{shown}</div>'


def _auc_rows(result: Mapping[str, Any]) -> list[tuple[str, dict[str, Interval]]]:
    """Return (level, {model: (AUC, low, high)}), all banks first; a model without an interval is left out."""
    levels = result.get("auc") or {}
    intervals = result.get("intervals") or {}
    rows = []
    for level in sorted(levels, key=lambda name: name != OVERALL)[:_LEVELS]:
        bounds = intervals.get(level) or {}
        shown = {m: (levels[level][m], *bounds[m]) for m in _SHOWN if m in bounds and levels[level].get(m) is not None}
        if shown:
            rows.append(("all banks" if level == OVERALL else level, shown))
    return rows


def _verdict(card: Card) -> str:
    kind = _MARKS.get(card.folder.verdict, ("", "", ""))[0]
    sentence = str(card.told.get("sentence", "")).partition(": ")[2]
    blocks = [
        paragraph(f"{_mark(card.folder.verdict)} {text(sentence)}.", f"verdict {kind}" if kind != "good" else "verdict")
    ]
    checks = [one for one in card.told.get("checks", ()) if isinstance(one, Mapping)][:_FIRST_CHECKS]
    if checks:
        marks = "".join(_check(one) for one in checks)
        blocks.append(f'<ul class="checks">{marks}</ul>')
    for part, about in (("accused", "Accused"), ("surprises", "Not as told")):
        for item in card.told.get(part, ()):
            said = text(named(str(item["party"]), str(item["sentence"])) if isinstance(item, Mapping) else item)
            blocks.append(paragraph(f'<span class="bad">{about}.</span> {said}'))
    return "".join(blocks) + _withdrawn(card)


def _check(one: Mapping[str, Any]) -> str:
    sign, kind = ("✓", "") if one.get("ok") else ("✗", ' class="bad"')
    return f"<li{kind}>{sign} {text(one.get('name'))}</li>"


def _withdrawn(card: Card) -> str:
    items = [one for one in card.told.get("withdrawn", ()) if isinstance(one, Mapping)]
    if not items:
        return ""
    names = ("provider", "recipient", "round", "firms", "rows")
    rows = [[text(one.get(name)) for name in names] for one in items]
    about = (
        "Releases after consents were withdrawn, the first of each round; the one after the last round is for scores."
    )
    head = ["Provider", "Recipient", "Round", "Firms out (R04)", "Firms that stayed"]
    return table(head, rows, (2, 3, 4), about)
