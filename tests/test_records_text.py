"""A CSV's packed cells are what polars, which reads them by other code, makes of the same text."""

import subprocess
import sys
from pathlib import Path
from random import Random

import polars as pl
from hypothesis import given, strategies
from torture import cases

from lianxin.parties.records import read_table
from lianxin.parties.records_frame import FrameCells, frame_of
from lianxin.parties.records_text import SEPARATORS, SPACE, TextCells

NUMBERS = (
    "0",
    "-0",
    "+7",
    "12",
    "9" * 18,
    "9" * 19,
    "-0.50",
    ".5",
    "5.",
    "1e5",
    "-2.5E-3",
    "1.5e+300",
    "0e0",
    "+.25e1",
    "0.1",
)
CODES = ("00", "007", "-01", "+00.5")
TEXTS = (
    "x",
    "1 2",
    "1e",
    ".",
    "e5",
    "--1",
    "+",
    "1_000",
    "0x1",
    "１２",
    "٣",
    "inf",
    "nan",
    "N A",
    "na",
    "批发",
    "1\n",
    "\x1f1",
    "0.5\x1c",
)
EMPTY = ("", "NA", " ", "\u3000NA\u00a0", "\t")
KINDS = (
    NUMBERS,
    NUMBERS + EMPTY,
    NUMBERS + CODES,
    (*NUMBERS * 20, "x"),
    TEXTS + EMPTY + NUMBERS,
    ("0", "12", "-3", *EMPTY),
    EMPTY,
)


def same(found: object, wanted: object) -> bool:
    return repr(found) == repr(wanted)  # 1 is not 1.0 and -0.0 not 0.0


@cases(per_example=len(KINDS))
@given(strategies.integers(0, 2**32))
def test_cells_are_the_numbers_texts_and_gaps_that_polars_finds(seed: int) -> None:
    chance = Random(seed)
    columns = [[chance.choice(kind) for _ in range(chance.randint(1, 40))] for kind in KINDS]
    height = min(map(len, columns))
    names, rows = [f"c{place}" for place in range(len(columns))], list(zip(*(c[:height] for c in columns), strict=True))
    cells = TextCells(names)
    cut = chance.randint(0, height)
    for batch in (rows[:cut], rows[cut:]):
        if batch:
            cells.add(batch)
    stripped = pl.DataFrame(
        [
            pl.Series(n, c, dtype=pl.String).str.strip_chars()
            for n, c in zip(names, zip(*rows, strict=True), strict=True)
        ]
    )
    missing = pl.all().is_in(("", "NA"))
    frame = stripped.select(pl.when(missing).then(None).otherwise(pl.all()).name.keep())
    assert frame_of(cells).equals(frame)
    other = FrameCells(frame)
    for name in names:
        assert same(cells.typed(name), other.typed(name)), frame[name]
        assert same(cells.text(name), other.text(name))
        assert cells.first_text(name) == other.first_text(name)


def test_what_is_stripped_is_the_white_space_of_unicode_alone() -> None:
    spaces = [chr(point) for point in range(0x110000) if chr(point).isspace()]
    assert sorted(SPACE + SEPARATORS) == spaces
    stripped = pl.Series([*SPACE, *SEPARATORS]).str.strip_chars().to_list()
    assert stripped == [""] * len(SPACE) + list(SEPARATORS)


def test_a_csv_is_read_without_polars_and_a_frame_of_it_loads_it(tmp_path: Path) -> None:
    path = tmp_path / "firms.csv"
    path.write_text("uscc,staff\nF1,3\n")
    asked = (
        "import sys; from pathlib import Path; from lianxin.parties.records import load_firm_table, read_table;"
        "table = read_table(Path(sys.argv[1])); load_firm_table(table, 'uscc'); print('polars' in sys.modules);"
        "print(table.frame.height, 'polars' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", asked, str(path)], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["False", "1", "True"]
    assert read_table(path).frame.columns == ["uscc", "staff"]
