"""What a person sees of a benchmark: a table in the terminal, JSON files and one HTML page with a plot in a folder.

A folder keeps the latest record of each benchmark: `bench.json` of `bench crypto`, `matching-PROTOCOL.json` of
`bench matching`; `bench.html` shows all that lie there.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from lianxin.federation.errors import InputFault
from lianxin.parties.report_page import Part, facts, heading, page, paragraph, plain, table, text
from lianxin.simulations.bench_plot import margins_svg
from lianxin.simulations.bench_promises import Kept, kept_by

PAGE = "bench.html"
_FILES = ("bench.json", "matching-paillier.json", "matching-ecdh.json")
_TITLE = "Benchmark"
_LEAD = (
    "CPU time of one pinned core, medians, each figure and what it is compared with in one run; scaling and matching "
    "by the wall on all cores. Ratios hold on other machines better than the times that they are made of."
)
_CAPTION = "Bars to the right, in blue, reach what was promised; bars to the left, in orange, do not."
_SETTING = {"crypto": ("rows", "features", "repeat", "core"), "matching": ("queries", "rows", "workers", "road")}
_FIGURES = (
    "cpu_s", "cpu_s_by_side", "wall_s", "bytes", "peak_mb", "key_generation_s", "matched", "correct", "cpu_vs_openmined"
)  # fmt: skip
_SINGLE = ("two_process_scaling", "two_process_ceiling", "packed_values_per_ciphertext")
_NAMES = {
    "cpu_s": "CPU seconds, both sides", "cpu_s_by_side": "CPU seconds by side", "wall_s": "Seconds by the wall",
    "bytes": "Bytes of envelopes", "peak_mb": "Highest memory, MB", "key_generation_s": "Key generation, CPU seconds",
}  # fmt: skip
_CLASSES = {"reached": "good", "not reached": "bad"}


def check_folder(folder: Path) -> None:
    """Make the folder of a report. Raises InputFault when it cannot be one."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        raise InputFault(f"--out {folder} cannot be made a folder; choose another") from None


def write_report(folder: Path, record: Mapping[str, Any]) -> Path:
    """Keep `record` in `folder`, show every record there as one page and return the page's path."""
    name = _FILES[0] if record["bench"] == "crypto" else f"matching-{record['protocol']}.json"
    (folder / name).write_text(json.dumps(record, indent=1) + "\n")
    records = [_read(folder / kept) for kept in _FILES if (folder / kept).exists()]
    (folder / PAGE).write_text(render(records), encoding="utf-8")
    return folder / PAGE


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text())
    except ValueError:
        record = None
    if not isinstance(record, dict) or record.get("bench") not in _SETTING:
        raise InputFault(f"{path} is no record of a benchmark; remove it")
    return record


def terminal_tables(record: Mapping[str, Any]) -> list[Table]:
    """Return what a terminal shows: the figures with their promises, and for the core the cost of each operation."""
    promised = {one.promise.path: one for one in kept_by(record)}
    shown = Table("figure", "measured", "to reach", "", title=_heading(record), caption=_exponents(record))
    for name, value in _figures(record):
        one = promised.get((name,))
        shown.add_row(_named(name), plain(value), one.bar_text if one else "", one.verdict if one else "")
    for one in promised.values():
        if len(one.promise.path) > 1:
            shown.add_row(one.promise.label, one.measured_text, one.bar_text, one.verdict)
    return [shown, _units(record)] if record["bench"] == "crypto" else [shown]


def _figures(record: Mapping[str, Any]) -> list[tuple[str, Any]]:
    names = _FIGURES if record["bench"] == "matching" else [n for n in record if "_vs_" in n or n in _SINGLE]
    return [(name, record[name]) for name in names if name in record]


def _named(name: str) -> str:
    return _NAMES.get(name, heading(name))


def _heading(record: Mapping[str, Any]) -> str:
    what = "Paillier core" if record["bench"] == "crypto" else f"Matching by {record['protocol']}"
    return f"{what}, {record['key_bits']}-bit keys"


def _exponents(record: Mapping[str, Any]) -> str:
    lengths = (f"{heading(name).lower()} {plain(bits)}" for name, bits in record["exponent_bits"].items())
    return f"bits of exponents: {'; '.join(lengths)}"


def _units(record: Mapping[str, Any]) -> Table:
    units = Table("operation", "median", title="One operation, one whole kernel")
    for name, time in _times(record):
        units.add_row(name, time)
    return units


def _times(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    units = [(heading(name), f"{value:,.1f} µs") for name, value in record["unit_us"].items()]
    return units + [(heading(name), f"{value:,.3f} s") for name, value in record["whole_s"].items()]


def render(records: Sequence[Mapping[str, Any]]) -> str:
    """Return the page of one or more records."""
    kept = [one for record in records for one in kept_by(record)]
    machine = records[0]["machine"]
    about = facts((name, machine[name]) for name in ("processor", "cores", "system", "python", "arithmetic"))
    lead = paragraph(text(f"{machine['processor']}, {machine['cores']} cores. {_LEAD}"), "lead")
    parts = [Part("promises", "Promised and measured", _promises(kept))] if kept else []
    parts += [_part(record) for record in records]
    versions = table(("Library", "Version"), [[text(n), text(v)] for n, v in machine["libraries"].items()])
    return page(_TITLE, f"<h1>{_TITLE}</h1>{lead}", [*parts, Part("machine", "Machine", about + versions)])


def _promises(kept: Sequence[Kept]) -> str:
    rows = [
        [text(one.promise.label), text(one.measured_text), text(one.bar_text), _verdict(one.verdict)] for one in kept
    ]
    plot = margins_svg(kept)
    figure = f'<figure class="wideplot">{plot}<figcaption>{_CAPTION}</figcaption></figure>' if plot else ""
    return figure + table(("Figure", "Measured", "Promised", ""), rows, (1, 2))


def _verdict(word: str) -> str:
    kind = _CLASSES.get(word)
    return f'<span class="{kind}">{text(word)}</span>' if kind else text(word)


def _part(record: Mapping[str, Any]) -> Part:
    setting = [("key_bits", record["key_bits"])]
    setting += [(name, record.get(name)) for name in _SETTING[record["bench"]]]
    body = facts((heading(name), value) for name, value in setting)
    body += table(
        ("Exponents", "Bits"), [[text(heading(n)), text(v)] for n, v in record["exponent_bits"].items()], (1,)
    )
    body += table(("Figure", "Measured"), [[text(_named(n)), text(v)] for n, v in _figures(record)], (1,))
    if record["bench"] == "crypto":
        scaling = [[text(heading(name)), text(value)] for name, value in record["scaling"].items()]
        body += table(("Kernel on two processes", "Times faster"), scaling, (1,))
        times = [[text(name), text(time)] for name, time in _times(record)]
        body += table(("Operation or whole kernel", "Median"), times, (1,))
    peers = [[text(name), text(told.get("version"))] for name, told in record["peers"].items()]
    body += table(("Compared with", "Version"), peers) if peers else ""
    body += "".join(paragraph(text(note), "reason") for note in record["notes"])
    name = record["bench"] if record["bench"] == "crypto" else f"matching-{record['protocol']}"
    return Part(name, _heading(record), body)
