"""The quality of sources: what each check finds, that a load is compared with the one before, and that no value is told."""

import gzip
import resource
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conftest import ROOT

from lianxin.crypto import canonical
from lianxin.federation.errors import InputFault
from lianxin.parties import source_quality_table
from lianxin.parties.catalogue import generated_catalogue
from lianxin.parties.identifiers import is_uscc
from lianxin.parties.operator_suppression import SMALL
from lianxin.parties.source_quality import FAIL, OK, WARN, Finding, judge, load_record, shown_permille, worst
from lianxin.parties.source_quality_page import sources_page
from lianxin.parties.source_quality_table import look_at
from lianxin.parties.source_quality_terms import Source, load_sources, source_of
from lianxin.simulations.world import make_province

TODAY, ID = "2026-05-10", "uscc"
CATALOGUE = generated_catalogue({"revenue": "tax", "as_of": "tax", "staff": "labour"})
TAX = Source(
    name="tax-bureau", contact="the tax desk", every_days=31, date="as_of", fields=["revenue"], missing_permille=100
)


@pytest.fixture(scope="module")
def codes(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    province = make_province(5, tmp_path_factory.mktemp("province"), firms=300, banks=2, loans=50)
    found = pl.read_csv(province.platform, columns=[ID])[ID].to_list()
    assert all(map(is_uscc, found))
    return found[:200]


def table(folder: Path, codes: list[str], name: str = "t.csv", **columns: list[Any]) -> Path:
    """Write a table of these firms that nothing is wrong with, but for the columns that are given."""
    base: dict[str, list[Any]] = {
        ID: codes, "revenue": [str(n * 10) for n in range(len(codes))], "as_of": ["2026-05-01"] * len(codes),
        "staff": ["7"] * len(codes),
    }  # fmt: skip
    frame = pl.DataFrame({**base, **columns})
    path = folder / name
    if name.endswith(".parquet"):
        frame.write_parquet(path)
    elif name.endswith(".gz"):
        path.write_bytes(gzip.compress(frame.write_csv().encode()))
    else:
        frame.write_csv(path)
    return path


def found(path: Path, before: Any = None, sources: Any = (TAX,), **more: Any) -> dict[tuple[str, str], Finding]:
    findings = judge(look_at(path, ID), CATALOGUE, sources, ID, TODAY, before=before, **more)
    return {(one.check, one.where): one for one in findings}


def levels(findings: dict[tuple[str, str], Finding]) -> dict[tuple[str, str], str]:
    """What is not well."""
    return {place: one.level for place, one in findings.items() if one.level != OK}


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.parquet"])
def test_a_good_table_is_well_in_every_form(tmp_path: Path, codes: list[str], name: str):
    assert levels(found(table(tmp_path, codes, name))) == {}


@pytest.mark.parametrize(
    ("change", "place", "level"),
    [
        ({"odd": ["1"] * 200}, ("schema", "odd"), WARN),
        ({"revenue": [""] * 50 + ["1"] * 150}, ("missing", "revenue"), WARN),
        ({"revenue": [None] * 200}, ("missing", "revenue"), FAIL),
        ({"as_of": ["2026-04-01"] * 200}, ("lag", "tax-bureau"), WARN),
        ({"as_of": ["2026-01-01"] * 200}, ("lag", "tax-bureau"), FAIL),
        ({"as_of": ["2026-06-01"] * 200}, ("lag", "tax-bureau"), FAIL),
        ({"as_of": ["soon"] * 200}, ("lag", "tax-bureau"), FAIL),
    ],
    ids=["an unknown column", "cells missing", "all missing", "late", "too late", "from the future", "no dates"],
)
def test_each_check_finds_its_fault_and_says_what_to_do(
    tmp_path: Path, codes: list[str], change: Any, place: Any, level: str
):
    findings = found(table(tmp_path, codes, **change))
    assert levels(findings) == {place: level} and findings[place].remedy


def test_a_promised_field_that_is_gone_and_a_type_that_changed_fail(tmp_path: Path, codes: list[str]):
    first = look_at(table(tmp_path, codes), ID)
    before = load_record(first, [], "2026-04-10T00:00:00Z")
    changed = found(table(tmp_path, codes, "next.csv", revenue=[f"{n} yuan" for n in range(200)]), before)
    assert levels(changed) == {("schema", "revenue"): FAIL} and "was number" in changed["schema", "revenue"].said
    path = table(tmp_path, codes, "less.csv")
    pl.read_csv(path).drop("revenue", "staff").write_csv(path)
    assert levels(found(path, before)) == {("schema", "revenue"): FAIL, ("schema", "staff"): WARN}


def test_a_share_of_missing_cells_that_moved_since_the_load_before_is_warned_about(tmp_path: Path, codes: list[str]):
    before = load_record(look_at(table(tmp_path, codes), ID), [], "2026-04-10T00:00:00Z")
    findings = found(table(tmp_path, codes, "next.csv", staff=[""] * 60 + ["7"] * 140), before)
    assert levels(findings) == {("missing", "staff"): WARN}
    assert findings["missing", "staff"].said == "300 permille missing, 0 at the load before"


def test_bad_codes_and_firms_that_stand_twice_are_counted_in_tens(tmp_path: Path, codes: list[str]):
    wrong = [code[:-1] + ("0" if code[-1] != "0" else "1") for code in codes[:12]]
    findings = found(table(tmp_path, [*wrong, *codes[12:199], codes[20]]))
    assert findings["codes", ID].level == FAIL and findings["codes", ID].said == "10 of 200 rows have no valid code"
    assert findings["duplicates", ID].said == f"{SMALL} rows repeat a firm" and findings["duplicates", ID].level == FAIL
    few = found(table(tmp_path, [wrong[0], *codes[1:]], "few.csv"))
    assert few["codes", ID].level == WARN and few["codes", ID].said.startswith(SMALL)


def test_objections_are_counted_by_field_without_a_firm(tmp_path: Path, codes: list[str]):
    disputed = [{"field": "revenue", "state": "disputed", "subject_key": "f" * 64}] * 3
    repaired = [{"field": "revenue", "state": "repaired", "subject_key": "f" * 64}] * 11
    one = found(table(tmp_path, codes), objections=[*disputed, *repaired])["disputed", "revenue"]
    assert (one.level, one.said) == (WARN, f"{SMALL} values disputed, 10 repaired")


def test_no_finding_record_or_page_tells_a_value_a_row_or_a_firm(tmp_path: Path, codes: list[str]):
    canary = [f"canary-{n}" for n in range(200)]
    path = table(tmp_path, [codes[0], "canary-code", *codes[2:]], revenue=canary, staff=canary, as_of=canary)
    look = look_at(path, ID)
    findings = judge(look, CATALOGUE, [TAX], ID, TODAY)
    load = load_record(look, findings, f"{TODAY}T00:00:00Z")
    told = canonical.encode(load).decode() + sources_page(load, findings) + str(findings) + repr(look)
    assert worst(findings) == FAIL and "canary" not in told and not any(code in told for code in codes)


def test_a_share_of_a_few_single_firms_is_shown_as_none_or_all():
    assert [shown_permille(part, 200) for part in (0, 9, 10, 100, 190, 191, 200)] == [0, 0, 50, 500, 950, 1000, 1000]


def test_a_table_in_gb18030_is_read_as_the_node_reads_it(tmp_path: Path, codes: list[str]):
    path = table(tmp_path, codes, staff=["\u4f01\u4e1a\u7eb3\u7a0e"] * 200)
    path.write_bytes(path.read_text(encoding="utf-8").encode("gb18030"))
    assert levels(found(path)) == {}


def test_a_table_is_read_in_pieces_and_the_same_is_found(
    tmp_path: Path, codes: list[str], monkeypatch: pytest.MonkeyPatch
):
    path = table(tmp_path, codes, revenue=[""] * 50 + ["1"] * 150)
    whole = look_at(path, ID)
    monkeypatch.setattr(source_quality_table, "PIECE_ROWS", 7)
    assert look_at(path, ID) == whole
    parquet = look_at(table(tmp_path, codes, "t.parquet", revenue=[None] * 50 + ["1"] * 150), ID)
    assert (parquet.rows, parquet.columns, parquet.codes) == (whole.rows, whole.columns, whole.codes)


def test_memory_does_not_grow_with_the_rows(tmp_path: Path):
    """15,000 rows of 10 columns are texts of 400 letters: whoever kept them would need 40 megabytes more than for 5,000."""
    names, row = [ID, *(f"c{n}" for n in range(9))], ",".join(["91110000600037341L", *(["1234567890" * 40] * 9)])
    for name, rows in (("small.csv", 5_000), ("large.csv", 15_000)):
        (tmp_path / name).write_text("\n".join([",".join(names), *([row] * rows)]))
    look_at(tmp_path / "small.csv", ID)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert look_at(tmp_path / "large.csv", ID).rows == 15_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"uscc,a,a\n1,2,3\n", "two columns named a"),
        (b"uscc,a\n1\n", "data row 1 of"),
        (b"uscc,a\n", "no data rows"),
        (b"uscc,a\n\xff\xfe,1\n", "neither UTF-8"),
        ((",".join(f"c{n}" for n in range(10_001)) + "\n").encode(), "over 10,000 columns"),
    ],
    ids=["empty", "two of one name", "ragged", "header alone", "no UTF-8", "too many columns"],
)
def test_what_is_no_table_is_one_sentence(tmp_path: Path, content: bytes, says: str):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(InputFault, match=says):
        look_at(tmp_path / "t.csv", ID)


def test_broken_files_are_refused(tmp_path: Path):
    (tmp_path / "t.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"uscc,a\n" * 999)[:40])
    said = {"t.parquet": "no readable Parquet", "t.csv.gz": "no complete gzip", "nowhere.csv": "cannot be read"}
    for name, says in said.items():
        with pytest.raises(InputFault, match=says):
            look_at(tmp_path / name, ID)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[source]]\nname = 'tax'\n", "source.0.fields"),
        ("[[source]]\nname = 'Tax Bureau'\nfields = ['a']\n", "source.0.name"),
        ("[[source]]\nname = 'tax'\nfields = ['a']\nevery = 3\n", "source.0.every"),
        ("[[source]]\nname = 'tax'\nfields = ['a', 'a']\n", "field a stands there twice"),
        (
            "[[source]]\nname = 'tax'\nfields = ['a']\n[[source]]\nname = 'tax'\nfields = ['b']\n",
            "source tax stands there twice",
        ),
        ("[[source", "no TOML"),
        ("source = 3\n", "source"),
    ],
    ids=["no fields", "no id", "unknown key", "field twice", "source twice", "no TOML", "another type"],
)
def test_a_mistake_in_the_sources_names_its_key(tmp_path: Path, text: str, says: str):
    (tmp_path / "sources.toml").write_text(text)
    with pytest.raises(InputFault, match=says):
        load_sources(tmp_path / "sources.toml")


def test_a_field_is_of_the_source_that_the_file_names_else_of_the_catalogues_provider():
    assert source_of(CATALOGUE, [TAX]) == {"revenue": "tax-bureau", "as_of": "tax", "staff": "labour"}


def test_the_keys_of_a_source_are_in_the_document():
    text = (ROOT / "docs" / "operators-day.md").read_text(encoding="utf-8")
    assert all(f"`{key}`" in text for key in Source.model_fields)
