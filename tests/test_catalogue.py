"""Catalogues: the packaged draft, a file, a user's columns, what a province adds, and what is derived."""

import json
from pathlib import Path
from typing import Any

import pytest

from lianxin.federation.errors import InputFault
from lianxin.parties import catalogue, catalogue_additions, cli
from lianxin.parties.config import load_node
from lianxin.parties.decision import Catalogue, CatalogueRejected
from lianxin.parties.decision_catalogue import SECRET_TESTS, end_of, is_no_more_open
from lianxin.parties.decision_derived import derive_field

HEADER = "field_name_en,class,subject_type,id_role,default_release,desens_if_no_auth,legal_basis\n"
DRAFT = catalogue.load_draft()


def test_the_draft_has_163_fields_marks_what_was_verified_and_has_no_contradiction() -> None:
    draft = catalogue.load_draft()
    assert len(draft) == 163
    assert {entry.verified for entry in draft.values()} == {True, False}
    assert draft["vat_paid_12m"].class_ == "BIZ" and draft["ban_gene"].default_release == "NEVER"
    assert catalogue.lint(draft) == []


def test_a_file_is_loaded_with_the_digest_of_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_bytes(catalogue.load_draft().to_csv_bytes())
    assert catalogue.load_catalogue(path).digest == catalogue.load_draft().digest


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read"), (HEADER + "x,BIZ,ENT,NI,AUTH,drop,\ny,TOP,ENT,NI,AUTH,drop,\n", "line 3, column class")],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_sentence(
    tmp_path: Path, content: str | None, message: str
) -> None:
    path = tmp_path / "own.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputFault, match=message) as refusal:
        catalogue.load_catalogue(path)
    assert "own.csv" in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_users_columns_become_trade_secrets_that_leave_by_computation_only() -> None:
    made = catalogue.generated_catalogue({"turnover": "platform-a", "LIMIT_BAL": "bank-1"})
    assert list(made) == ["turnover", "LIMIT_BAL"]
    assert {(entry.class_, entry.default_release) for entry in made.values()} == {("BIZ", "COMPUTE")}
    assert made["LIMIT_BAL"].provider == "bank-1"
    assert catalogue.lint(made) == []
    assert Catalogue.from_csv_bytes(made.to_csv_bytes()) == made


def test_a_column_name_that_no_catalogue_can_hold_is_refused() -> None:
    with pytest.raises(InputFault, match="rename the column"):
        catalogue.generated_catalogue({"turn over": "platform-a"})


def test_columns_are_bound_by_name_or_by_the_binding() -> None:
    draft = catalogue.load_draft()
    bound = catalogue.bind_columns(["power", "est_date"], draft, {"power": "pwr_kwh_12m"})
    assert bound == {"power": "pwr_kwh_12m", "est_date": "est_date"}


@pytest.mark.rule("R13")
@pytest.mark.parametrize(
    ("columns", "bindings", "message"),
    [
        (["shoe_size"], {}, "no class"),
        (["power"], {"power": "shoe_size"}, "no class"),
        (["est_date"], {"power": "pwr_kwh_12m"}, "does not have"),
        (["power", "pwr_kwh_12m"], {"power": "pwr_kwh_12m"}, "second one"),
    ],
)
def test_a_binding_that_leaves_a_column_without_one_class_is_refused(
    columns: list[str], bindings: dict[str, str], message: str
) -> None:
    with pytest.raises(InputFault, match=message):
        catalogue.bind_columns(columns, catalogue.load_draft(), bindings)


LATER = (
    "field_name_en,class,subject_type,id_role,default_release,desens_if_no_auth,legal_basis,expiry,expiry_from,duty\n"
)


@pytest.mark.parametrize(
    ("line", "finding"),
    [
        ("x,BAN,NP,SA,AUTH,drop,,,,", "class BAN may not have default release AUTH"),
        ("x,SPI,NP,SA,OPEN,drop,consent,,,", "class SPI may not have default release OPEN"),
        ("x,BIZ,ENT,SA,NEVER,none,,,,", "transform drop"),
        ("x,PI,ENT,SA,SEP_WRITTEN,drop,consent,,,", "natural person's"),
        ("x,BIZ,ENT,SA,AUTH,drop,,,,\nX,BIZ,ENT,SA,AUTH,drop,,,,", "upper and lower case"),
        ("x,PI,ENT,SA,SEP,drop,,,,", "legal_basis"),
        ("x,BIZ,ENT,SA,AUTH,drop,made_public,,,", "no trade secret"),
        ("x,LIM,ENT,DI,OPEN,drop,,,,", "open only where the law publishes it"),
        ("x,LIM,ENT,SA,AUTH,drop,,3y,y,", "expiry_from names no field"),
        ("x,LIM,ENT,SA,AUTH,drop,,,x,", "expiry_from names no field"),
        ("x,PI,NP,SA,SEP,drop,consent,,,y", "default release OPEN_NAME"),
    ],
)
def test_lint_names_each_contradiction(line: str, finding: str) -> None:
    findings = catalogue.lint(Catalogue.from_csv_bytes((LATER + line + "\n").encode()))
    assert len(findings) == 1 and finding in findings[0]


@pytest.mark.rule("R05", "R21", "R39")
def test_the_draft_says_what_is_optional_what_ends_and_what_nobody_has_tested_yet() -> None:
    assert DRAFT.version == "draft-2" and DRAFT["honor_cnt"].is_optional and not DRAFT["uscc"].is_optional
    assert DRAFT["penalty_content"].expiry_from == "penalty_date" and "dishonest_flag" in catalogue.undated(DRAFT)
    assert set(catalogue.untested(DRAFT)) == {name for name, field in DRAFT.items() if field.class_ == "BIZ"}
    tested = "x,BIZ,ENT,NI,AUTH," + "|".join(sorted(SECRET_TESTS))
    found = Catalogue.from_csv_bytes(
        f"field_name_en,class,subject_type,id_role,default_release,secret_tests\n{tested}\ny,BIZ,ENT,NI,AUTH,valuable\n".encode()
    )
    assert catalogue.untested(found) == ["y"]


def test_a_catalogue_of_before_reads_as_it_did() -> None:
    (entry,) = Catalogue.from_csv_bytes((LEAST + "x,PI,ENT,SA,SEP\n").encode()).values()
    assert (entry.legal_basis, entry.expiry, entry.is_optional, entry.is_duty, entry.transform) == (
        "",
        "",
        False,
        False,
        "none",
    )


@pytest.mark.rule("R21")
@pytest.mark.parametrize(
    ("period", "since", "end"),
    [
        ("5y", "2021-06-01", "2026-06-01"), ("5y", "2020-02-29", "2025-02-28"), ("3m", "2025-11-30", "2026-02-28"),
        ("3y", "2023-01-05", "2026-01-05"), ("0d", "2026-06-01", "2026-06-01"), ("30d", "2026-01-31", "2026-03-02"),
    ],
)  # fmt: skip
def test_an_item_may_be_told_until_the_day_its_period_ends(period: str, since: str, end: str) -> None:
    line = f"x,LIM,ENT,SA,AUTH,drop,,{period},x,\n"
    field = Catalogue.from_csv_bytes((LATER + line).encode())["x"]
    assert end_of(period, since) == end and field.has_expired(since, f"{end}T00:00:00Z")
    assert field.has_expired(since, since) == (period == "0d")
    assert not field.has_expired("", f"{end}T00:00:00Z") and field.has_expired("long ago", since)


def addition(*lines: str, header: str = HEADER) -> Catalogue:
    return Catalogue.from_csv_bytes((header + "".join(line + "\n" for line in lines)).encode())


BASE = addition(
    "staff,BIZ,ENT,QI,AUTH,band,consent", "name,PUB,ENT|IND,DI,OPEN,none,made_public", "boss,PI,NP,DI,SEP,drop,consent"
)


@pytest.mark.rule("R34")
def test_a_province_adds_fields_and_tightens_what_is_there() -> None:
    more = addition("yaks,BIZ,ENT|IND,SA,COMPUTE,band,consent", "staff,PI,ENT|NP,DI,SEP,drop,")
    merged = catalogue.merge_additions(BASE, more)
    assert list(merged) == ["staff", "name", "boss", "yaks"] and merged["name"] == BASE["name"]
    assert (merged["staff"].class_, merged["staff"].legal_basis) == ("PI", "consent"), "an empty column stays as it was"
    assert merged.version == f"{BASE.digest[:8]}+{more.digest[:8]}"
    assert catalogue.merge_additions(BASE, more).to_csv_bytes() == merged.to_csv_bytes()
    assert Catalogue.from_csv_bytes(merged.to_csv_bytes()) == merged and catalogue.merge_additions(BASE) is BASE


LOOSER = [
    ("class", "staff,LIM,ENT,QI,AUTH,band,consent"),
    ("default_release", "boss,PI,NP,DI,AUTH,drop,consent"),
    ("id_role", "name,PUB,ENT|IND,NI,OPEN,none,made_public"),
    ("subject_type", "staff,BIZ,ENT|IND,QI,AUTH,band,consent"),
    ("subject_type", "name,PUB,ENT,DI,OPEN,none,made_public"),
    ("desens_if_no_auth", "boss,PI,NP,DI,SEP,mask,consent"),
]


@pytest.mark.rule("R34")
@pytest.mark.parametrize(("column", "line"), LOOSER)
def test_an_addition_that_loosens_a_field_is_refused_with_its_line(
    column: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = addition("other,BIZ,ENT,NI,AUTH,drop,consent", line)
    with pytest.raises(CatalogueRejected, match=f"line 3, column {column}"):
        catalogue.merge_additions(BASE, more)
    with pytest.raises(CatalogueRejected, match=f"addition 2, line 3, column {column}"):
        catalogue.merge_additions(BASE, addition("some,BIZ,ENT,NI,AUTH,drop,consent"), more)
    monkeypatch.setattr(catalogue_additions, "loosened_column", lambda *_: "")
    assert catalogue.merge_additions(BASE, more)[line.split(",")[0]] != BASE[line.split(",")[0]], (
        "without the check it is in"
    )


@pytest.mark.rule("R21", "R34")
@pytest.mark.parametrize(
    ("expiry", "since", "holds"), [("2y", "day", True), ("3y", "day", True), ("5y", "day", False), ("1y", "x", False)]
)
def test_an_addition_may_shorten_a_period_and_not_lengthen_it(expiry: str, since: str, holds: bool) -> None:
    base = addition("x,LIM,ENT,SA,AUTH,drop,,3y,day,", "day,LIM,ENT,QI,AUTH,drop,,,,", header=LATER)
    more = addition(f"x,LIM,ENT,SA,AUTH,drop,,{expiry},{since},", header=LATER)
    if holds:
        assert catalogue.merge_additions(base, more)["x"].expiry == expiry
    else:
        with pytest.raises(CatalogueRejected, match="line 2, column expiry"):
            catalogue.merge_additions(base, more)


@pytest.mark.parametrize(
    ("release", "than", "holds"),
    [
        ("OPEN", "OPEN", True), ("AUTH", "OPEN", True), ("OPEN", "AUTH", False), ("COMPUTE", "AUTH", True),
        ("SEP", "COMPUTE", False), ("COMPUTE", "SEP_WRITTEN", False), ("NEVER", "COMPUTE", True), ("SEP", "NEVER", False),
    ],
)  # fmt: skip
def test_a_release_is_compared_by_what_it_lets_cross(release: str, than: str, holds: bool) -> None:
    assert is_no_more_open(release, than) == holds


def test_a_node_takes_its_catalogue_with_the_additions_that_it_names(tmp_path: Path) -> None:
    for name, found in (("base", BASE), ("more", addition("yaks,BIZ,ENT|IND,SA,COMPUTE,band,consent"))):
        (tmp_path / f"{name}.csv").write_bytes(found.to_csv_bytes())
    (tmp_path / "node.toml").write_text(
        'role = "platform"\noperator = "li-wei"\nidentity = "id"\nstate = "state"\nlisten = "127.0.0.1:7443"\n'
        '[data]\ntable = "t.csv"\nid = "uscc"\ncatalogue = "base.csv"\ncatalogue_additions = ["more.csv"]\n'
    )
    data = load_node(tmp_path / "node.toml").data
    assert data.catalogue_additions == [tmp_path / "more.csv"]
    assert list(catalogue.load_merged(data.catalogue, data.catalogue_additions))[-1] == "yaks"
    assert catalogue.load_merged(None) == DRAFT


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("staff,LIM,ENT,QI,AUTH,band,consent", "line 2, column class"),
        ("staff,SPI,ENT,QI,AUTH,band,", "merged in, field staff"),
    ],
)
def test_additions_that_loosen_or_contradict_are_told_by_their_file(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "base.csv").write_bytes(BASE.to_csv_bytes())
    (tmp_path / "more.csv").write_bytes(addition(line).to_csv_bytes())
    with pytest.raises(InputFault, match=f"more.csv: {message}"):
        catalogue.load_merged(tmp_path / "base.csv", [tmp_path / "more.csv"])


@pytest.mark.rule("R09")
@pytest.mark.parametrize("line", ["salary,SPI,NP,SA,OPEN,drop,consent", "staff,BIZ,ENT,QI,OPEN,band,consent"])
def test_a_nodes_own_catalogue_whose_release_is_more_open_than_its_class_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "base.csv").write_bytes(addition(line).to_csv_bytes())
    with pytest.raises(
        InputFault, match=f"base.csv: field {line.split(',')[0]}: class .* may not have default release"
    ):
        catalogue.load_merged(tmp_path / "base.csv")


DERIVED: list[tuple[tuple[str, ...], str, tuple[str, str, str, str]]] = [
    (("est_date", "staff_count"), "", ("BIZ", "QI", "AUTH", "ENT")),
    (("staff_count", "pwr_kwh_12m"), "", ("BIZ", "SA", "COMPUTE", "ENT")),
    (("est_date", "ban_gene"), "", ("BAN", "SA", "NEVER", "NP")),
    (("key_person_id_no", "ind_tax_amt"), "", ("SPI", "DI", "NEVER", "NP")),
    (("est_date", "pwr_kwh_12m"), "", ("BIZ", "SA", "COMPUTE", "ENT|IND")),
    (("staff_count", "contact_phone"), "aggregate-20", ("LIM", "NI", "AUTH", "ENT")),
    (("pwr_kwh_12m",), "grade-4", ("LIM", "NI", "AUTH", "ENT|IND")),
    (("ban_gene", "est_date"), "aggregate-20", ("BAN", "SA", "NEVER", "NP")),
    (("loan_id",), "grade-4", ("LIM", "NI", "NEVER", "ENT|IND")),
]


@pytest.mark.rule("R34")
@pytest.mark.parametrize(("inputs", "by", "expected"), DERIVED)
def test_what_is_derived_is_as_guarded_as_its_most_guarded_input(
    inputs: tuple[str, ...], by: str, expected: tuple[str, ...]
) -> None:
    for order in (inputs, inputs[::-1]):
        made = derive_field("made", [DRAFT[name] for name in order], by)
        assert (made.class_, made.id_role, made.default_release, made.subject_type) == expected
    assert catalogue.lint(Catalogue({"made": made}, b"")) == [] or made.class_ == "BAN"


@pytest.mark.rule("R13", "R34")
@pytest.mark.parametrize(("inputs", "by"), [((), ""), (("est_date",), "aggregate-5")])
def test_what_is_derived_of_nothing_or_lowered_by_no_rule_is_refused(inputs: tuple[str, ...], by: str) -> None:
    with pytest.raises(CatalogueRejected, match="aggregate-20, grade-4"):
        derive_field("made", [DRAFT[name] for name in inputs], by)


def test_a_catalogue_gives_back_its_bytes_and_is_known_by_their_digest() -> None:
    data = DRAFT.to_csv_bytes()
    again = Catalogue.from_csv_bytes(data)
    assert (again.to_csv_bytes(), again.digest, dict(again)) == (data, DRAFT.digest, dict(DRAFT))
    assert again == DRAFT and again != Catalogue.from_csv_bytes(data + b"\n")


LEAST = "field_name_en,class,subject_type,id_role,default_release\n"
BAD_CATALOGUES: list[tuple[bytes, str]] = [
    (b"\xff\xfe", "UTF-8"),
    (b"name,class\n", "line 1 has no column field_name_en"),
    ((LEAST + "x,BIZ\n").encode(), "line 2 has another number of columns"),
    ((LEAST + "x,SECRET,ENT,NI,AUTH\n").encode(), "line 2, column class"),
    ((LEAST + "x,BIZ,ENT,NI,AUTH\nx,BIZ,ENT,NI,AUTH\n").encode(), "line 3, column field_name_en: this id appears"),
    ((LEAST + "х,BIZ,ENT,NI,AUTH\n").encode(), "line 2, column field_name_en: use"),
    ((LEAST + "x,BIZ,ENT|ENT,NI,AUTH\n").encode(), "line 2, column subject_type"),
    ((LEAST + "x,BIZ,ENT,NI,MAYBE\n").encode(), "line 2, column default_release"),
    ((LATER + "x,BIZ,ENT,NI,AUTH,drop,whim,,,\n").encode(), "line 2, column legal_basis"),
    ((LATER + "x,BIZ,ENT,NI,AUTH,drop,,soon,,\n").encode(), "line 2, column expiry"),
    ((LATER + "x,BIZ,ENT,NI,AUTH,drop,,3y,a day,\n").encode(), "line 2, column expiry_from"),
    ((LATER + "x,BIZ,ENT,NI,AUTH,drop,,,,maybe\n").encode(), "line 2, column duty"),
    ((LEAST[:-1] + ",secret_tests\nx,BIZ,ENT,NI,AUTH,old\n").encode(), "line 2, column secret_tests"),
    (
        (LEAST[:-1] + ",catalogue_version\nx,BIZ,ENT,NI,AUTH,1\ny,BIZ,ENT,NI,AUTH,2\n").encode(),
        "line 3, column catalogue_version",
    ),
]


@pytest.mark.rule("R13")
@pytest.mark.parametrize(("data", "message"), BAD_CATALOGUES)
def test_a_bad_catalogue_is_refused_by_line_and_column(data: bytes, message: str) -> None:
    with pytest.raises(CatalogueRejected, match=message):
        Catalogue.from_csv_bytes(data)


def told(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = cli.run(["catalogue", *words])
    shown = capsys.readouterr()
    return code, (shown.out or shown.err).strip()


def test_a_field_and_a_class_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = told(capsys, "show", "pwr_kwh_12m", "--json")
    record: dict[str, Any] = json.loads(text)
    assert code == 0 and record["digest"] == DRAFT.digest and record["fields"][0]["class"] == "BIZ"
    code, text = told(capsys, "show", "--class", "BAN")
    assert code == 0 and "ban_gene" in text and "uscc" not in text and "no official list" in text
    assert told(capsys, "show", "uscc")[1].splitlines()[0].split() == ["id", "uscc"]


@pytest.mark.parametrize("words", [("show", "shoe_size"), ("show", "--class", "TOP"), ("lint", "nothing.csv")])
def test_what_is_not_there_is_one_sentence(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    code, text = told(capsys, *words)
    assert code == 2 and "\n" not in text and "Traceback" not in text


def test_lint_ends_with_2_where_there_are_contradictions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = tmp_path / "good.csv", tmp_path / "bad.csv"
    good.write_bytes(BASE.to_csv_bytes())
    bad.write_text(HEADER + "x,BAN,NP,SA,AUTH,drop,\n")
    assert told(capsys, "lint", str(good))[0] == 0
    code, text = told(capsys, "lint", str(bad))
    assert code == 2 and text.splitlines()[-1] == "contradictions: 1"
    assert len(json.loads(told(capsys, "lint", str(bad), "--json")[1])["findings"]) == 1


def test_merge_writes_the_whole_file_or_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, more, bad = (tmp_path / f"{name}.csv" for name in ("base", "more", "bad"))
    base.write_bytes(BASE.to_csv_bytes())
    more.write_text(HEADER + "yaks,BIZ,ENT|IND,SA,COMPUTE,band,consent\n")
    bad.write_text(HEADER + "staff,PUB,ENT,QI,OPEN,band,\n")
    out = tmp_path / "out.csv"
    assert told(capsys, "merge", str(base), str(bad), "--out", str(out))[0] == 2 and not out.exists()
    code, text = told(capsys, "merge", str(base), str(more), "--out", str(out), "--json")
    assert code == 0 and json.loads(text)["digest"] == catalogue.load_catalogue(out).digest
    assert told(capsys, "merge", str(base), str(more), "--out", str(out))[0] == 2, "it is there already"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.csv", "base.csv", "more.csv", "out.csv"]
