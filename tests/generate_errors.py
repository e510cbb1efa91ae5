"""Write parties/error_codes.csv and docs/errors.md from the source: `python tests/generate_errors.py [FOLDER]`.

A code stays with its sentence when a function is renamed or a module is split, and when the words of one sentence of a module
change a little; a code whose sentence is gone is kept, without functions, and never given again.
"""

import csv
import difflib
import io
import sys
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

import raise_sites

from lianxin.crypto import errors as crypto_errors
from lianxin.federation import errors
from lianxin.parties.error_codes import COLUMNS, FILE, Entry, entries
from lianxin.parties.error_codes_advice import PARTS, advice_of, part_of

ROOT = Path(__file__).resolve().parents[1]
FIRST = 1001
GENERAL = (
    Entry("LX-0001", "", "", "Exception", "", "a fault of this program ({}); run the command again with --debug and report "
          "what it shows"),
    Entry("LX-0002", "", "", "UsageError", "", "{}; see `{} --help`"),
    Entry("LX-0003", "", "", "Abort", "", "stopped by the operator; what was begun in --out stays there and can be removed"),
    Entry("LX-0004", "", "", "OSError", "", "{}: {}; mend that or name another path"),
    Entry("LX-0010", "", "", "LianxinError", "", "{}"),
    Entry("LX-0011", "", "", "InputFault", "", "{}"),
    Entry("LX-0012", "", "", "RunStopped", "", "{}"),
    Entry("LX-0013", "", "", "PeerError", "", "{}"),
    Entry("LX-0014", "", "", "GuardRefused", "", "{}"),
    Entry("LX-0015", "", "", "GateRefused", "", "{}"),
    Entry("LX-0016", "", "", "EvidenceRejected", "", "{}"),
    Entry("LX-0017", "", "", "CryptoError", "", "{}"),
)  # fmt: skip
_INTRODUCTION = """\
Made by `python tests/generate_errors.py` from the source; a test compares it. The code stands in brackets after the sentence,
`lianxin explain LX-1001` prints its entry, and the same code stands in a control answer's field `code`. `…` is a value. A code
is given once: one whose sentence is gone stays at the end. Exit codes: 1 a fault of this program, 2 a mistake in what was
asked, 3 a run ended by rule or a start that another process is in the way of,
4 a peer or a proof, 5 the gate or the wire guard, 6 evidence, 130 stopped.
"""
_ALIKE = 0.75
_EXITS = {"Exception": 1, "UsageError": 2, "OSError": 2, "Abort": 130, "PackFault": 6, "QuestionFault": 2}


def _as_entries(found: Iterable[raise_sites.Site]) -> list[Entry]:
    """Return the sites as entries without a code: one for each module, class, rule and sentence."""

    def key(site: raise_sites.Site) -> tuple[str, str, str, str]:
        return site.module, site.kind, site.rule, site.template

    grouped = groupby(sorted(found, key=key), key)
    return [
        Entry("", module, " ".join(sorted({site.function or "<module>" for site in sites})), kind, rule, template)
        for (module, kind, rule, template), sites in grouped
    ]


def _likeness(known: Entry, made: Entry) -> float:
    """Return from 0 to 4 how surely an error is the one that an entry was for; under 1 it is not."""
    if known.kind != made.kind:
        return 0.0
    is_home, is_same = known.module == made.module, known.sentence == made.sentence
    if is_same and (is_home or made.words > 7):
        return 2.0 + is_home + (known.rule == made.rule) / 2 + (known.functions == made.functions) / 4
    if not is_home or is_same:
        return 0.0
    alike = difflib.SequenceMatcher(None, known.sentence, made.sentence, autojunk=False).ratio()
    return 1.0 + alike if alike >= _ALIKE and set(known.functions.split()) & set(made.functions.split()) else 0.0


def assign(known: Iterable[Entry], made: Iterable[Entry]) -> list[Entry]:
    """Return `made` with codes, those of `known` where they are meant, and what is gone of `known` without functions."""
    free = {entry.code: entry for entry in known if entry.module}
    exact = {(*entry[1:2], *entry[3:]): code for code, entry in free.items()}
    coded: list[Entry] = []
    rest: list[Entry] = []
    for entry in made:
        code = exact.get((*entry[1:2], *entry[3:]), "")
        if free.pop(code, None) is not None:
            coded.append(entry._replace(code=code))
        else:
            rest.append(entry)
    coming = max((int(entry.code[3:]) for entry in known), default=0)
    coming = max(coming, FIRST - 1)
    for entry in rest:
        pairs = ((_likeness(one, entry), code) for code, one in free.items() if one.kind == entry.kind)
        likeness, code = max(pairs, default=(0.0, ""))
        if likeness < 1.0:
            coming += 1
            code = f"LX-{coming:04d}"
        free.pop(code, None)
        coded.append(entry._replace(code=code))
    return sorted([*GENERAL, *coded, *(entry._replace(functions="") for entry in free.values())])


def as_csv(made: Iterable[Entry]) -> str:
    """Return the file of codes."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([COLUMNS, *made])
    return out.getvalue()


def exit_code(kind: str) -> int:
    """Return with which code a command ends that meets an error of this class."""
    if kind in _EXITS:
        return _EXITS[kind]
    bases = raise_sites.class_bases()
    while kind in bases and not hasattr(errors, kind):
        if kind in ("CryptoError", "PackFault", "QuestionFault") or hasattr(crypto_errors, kind):
            return _EXITS.get(kind, 4)
        kind = bases[kind]
    return int(getattr(getattr(errors, kind, None), "exit_code", 4))


def _cell(text: str) -> str:
    return text.replace("{}", "…").replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")


def _rule(rule: str) -> str:
    return f"[{rule}]({'rules.md' if rule[:1] == 'R' and rule[1:].isdigit() else 'reference.md#rules'})" if rule else ""


def _row(entry: Entry) -> str:
    own = advice_of(entry)
    advice = "" if own == part_of(entry).advice else _cell(own)
    anchor = f'<a id="{entry.code.lower()}"></a>{entry.code}'
    cells = (anchor, str(exit_code(entry.kind)), entry.kind, _rule(entry.rule), _cell(entry.sentence), advice)
    return f"| {' | '.join(cells)} |"


def _page(made: list[Entry]) -> Iterator[str]:
    yield "# Errors: every sentence a person can be told, and what to do\n"
    yield _INTRODUCTION
    used = [entry for entry in made if entry.functions or not entry.module]
    head = "| code | exit | class | rule | sentence | what to do |\n|---|---|---|---|---|---|"
    for part in PARTS:
        rows = [_row(entry) for entry in used if part_of(entry) == part]
        if rows:
            yield f"\n## {part.title}\n\nUnless a row says something else: {part.advice}\n\n{head}"
            yield from rows
    if gone := [entry for entry in made if entry.module and not entry.functions]:
        yield f"\n## No longer said\n\n{head}"
        yield from map(_row, gone)


def as_page(made: list[Entry]) -> str:
    """Return docs/errors.md."""
    return "\n".join(_page(made)) + "\n"


def generated() -> tuple[str, str]:
    """Return the file of codes and the page as the source has them now; codes that were given stay."""
    known = entries() if FILE.exists() else ()
    made = assign(known, _as_entries(raise_sites.sites()))
    return as_csv(made), as_page(made)


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT
    for name, text in zip(("parties/error_codes.csv", "docs/errors.md"), generated(), strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
