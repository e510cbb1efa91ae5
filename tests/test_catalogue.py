"""Catalogues: the packaged draft, a file, a user's columns."""

from pathlib import Path

import pytest

from lianxin.federation.errors import InputFault
from lianxin.parties import catalogue
from lianxin.parties.decision import Catalogue

HEADER = "field_name_en,class,subject_type,id_role,default_release,desens_if_no_auth\n"


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
    [(None, "cannot be read"), (HEADER + "x,BIZ,ENT,NI,AUTH,drop\ny,TOP,ENT,NI,AUTH,drop\n", "line 3, column class")],
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


@pytest.mark.parametrize(
    ("line", "finding"),
    [
        ("x,BAN,NP,SA,AUTH,drop", "class BAN may not have default release AUTH"),
        ("x,SPI,NP,SA,OPEN,drop", "class SPI may not have default release OPEN"),
        ("x,BIZ,ENT,SA,NEVER,none", "transform drop"),
        ("x,PI,ENT,SA,SEP_WRITTEN,drop", "natural person's"),
        ("x,BIZ,ENT,SA,AUTH,drop\nX,BIZ,ENT,SA,AUTH,drop", "upper and lower case"),
    ],
)
def test_lint_names_each_contradiction(line: str, finding: str) -> None:
    findings = catalogue.lint(Catalogue.from_csv_bytes((HEADER + line + "\n").encode()))
    assert len(findings) == 1 and finding in findings[0]
