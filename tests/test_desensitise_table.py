"""The data steward's commands: what is written, what is refused, what a report shows, whom a leaked table names."""

import json
from pathlib import Path

import polars as pl
import pytest

from lianxin.parties import cli
from lianxin.parties.catalogue import load_draft
from lianxin.parties.desensitise import policy_of
from lianxin.parties.desensitise_catalogue import check_roles, suggest_policy
from lianxin.parties.desensitise_watermark import canary_tags, trace, with_canaries

NAME, SECRET_REVENUE = "张三丰", "4242424"
POLICY = """
[policy]
project = "trial-1"
model = "agreement"
[[field]]
column = "uscc"
role = "identifier"
transform = "pseudonym"
[[field]]
column = "legal_rep_name"
role = "identifier"
transform = "drop"
[[field]]
column = "region_code"
role = "quasi"
transform = "region"
[[field]]
column = "revenue_total"
role = "sensitive"
transform = "band"
edges = [100, 1000]
"""


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a table of 60 firms, a policy and a key, in which commands run."""
    monkeypatch.chdir(tmp_path)
    rows = [
        f"91630102MA{row:08d},{NAME},63010{row % 2 + 1},{row * 30 if row else SECRET_REVENUE},x{row}"
        for row in range(60)
    ]
    header = "uscc,legal_rep_name,region_code,revenue_total,remark"
    (tmp_path / "firms.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    (tmp_path / "policy.toml").write_text(POLICY, encoding="utf-8")
    assert cli.run(["desensitise", "key", "own.key"]) == 0
    return tmp_path


BASE = ("desensitise", "--policy", "policy.toml", "firms.csv", "--key", "own.key")


def run(capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    capfd.readouterr()
    code = cli.run(list(words))
    said = capfd.readouterr()
    return code, said.out, said.err


@pytest.mark.parametrize("out", ["shared.csv", "shared.parquet"])
def test_an_accepted_table_is_written_with_its_columns_and_nothing_else(
    desk: Path, capfd: pytest.CaptureFixture[str], out: str
) -> None:
    code, said, _ = run(capfd, *BASE, "--out", out, "--provider", "platform-a", "--json")
    record = json.loads(said.splitlines()[-1])
    frame = pl.read_parquet(desk / out) if out.endswith("parquet") else pl.read_csv(desk / out)
    assert (code, frame.columns, frame.height) == (0, ["uscc", "region_code", "revenue_total"], 60)
    assert frame["revenue_total"].to_list()[:3] == [">=1000", "<100", "<100"]
    assert record["grade"]["accepted"] and record["grade"]["provider"] == "platform-a"
    assert (record["label"], record["unnamed"], record["before"]["grade"]) == ("deidentified", ["remark"], 1)
    assert not list(desk.glob("*.partial"))


def test_the_same_key_gives_the_same_table(desk: Path) -> None:
    assert cli.run([*BASE, "--out", "a.csv"]) == cli.run([*BASE, "--out", "b.csv"]) == 0
    assert (desk / "a.csv").read_bytes() == (desk / "b.csv").read_bytes()


@pytest.mark.rule("R22")
def test_a_table_that_is_not_accepted_is_not_written_and_its_report_is(
    desk: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (desk / "policy.toml").write_text(
        POLICY.replace('"band"\nedges = [100, 1000]', '"keep"').replace("sensitive", "quasi")
    )
    code, _, fault = run(capfd, *BASE, "--out", "shared.csv", "--report", "risk.html")
    assert code == 5 and "not accepted for agreement sharing (R22)" in fault
    assert not (desk / "shared.csv").exists() and (desk / "risk.html").stat().st_size > 5000
    assert run(capfd, *BASE, "--report-only")[0] == 0


def test_the_report_holds_before_and_after_and_no_value(desk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, said, _ = run(capfd, *BASE, "--out", "shared.csv", "--report", "risk.html")
    page = (desk / "risk.html").read_text(encoding="utf-8")
    assert code == 0 and "<svg" in page and "Risk before and after" in page and "deidentified" in page
    for text in (page, said):
        assert NAME not in text and SECRET_REVENUE not in text and "91630102MA" not in text
    assert "smallest class (k)" in said and "│      1 │" in said


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--out", "firms.csv"), "exists already"),
        (("--out", "shared.xlsx"), "no .csv or .parquet"),
        (("--out", "no/shared.csv"), "is no folder"),
        ((), "--out is missing"),
        (("--report-only", "--report", "firms.csv"), "no .html file"),
        (("--out", "s.csv", "--recipient", "bank-a"), "go together"),
        (("--out", "s.csv", "--recipient", "owner", "--watermark", "own.key"), "R24"),
        (("--out", "s.csv", "--recipient", "bank-a", "--watermark", "policy.toml"), "can be read by others"),
        (("--out", "s.csv", "--recipient", "bank-a", "--watermark", "own.key", "--canaries", "7"), "at most a tenth"),
        (("--out", "s.csv", "--earlier", "absent.csv"), "does not exist"),
        (("--out", "s.csv", "--catalogue", "firms.csv"), "no column"),
    ],
)
def test_a_wrong_order_is_one_sentence_and_writes_nothing(
    desk: Path, capfd: pytest.CaptureFixture[str], words: tuple[str, ...], sentence: str
) -> None:
    before = sorted(desk.iterdir())
    code, _, fault = run(capfd, *BASE, *words)
    assert code == 2 and sentence in fault.replace("\n", " ") and "Traceback" not in fault
    assert sorted(desk.iterdir()) == before


def test_keys_are_asked_for_and_must_be_the_owners_alone(desk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = [word for word in BASE if word not in ("--key", "own.key")]
    assert "name the owner's key file with --key" in run(capfd, *words, "--out", "s.csv")[2]
    (desk / "own.key").chmod(0o644)
    assert run(capfd, *BASE, "--out", "s.csv")[0] == 2
    (desk / "own.key").chmod(0o600)
    (desk / "own.key").write_text("short")
    assert "64 lower-case hex digits" in run(capfd, *BASE, "--out", "s.csv")[2]
    assert "make a key with" in run(capfd, *words, "--key", "none.key", "--out", "s.csv")[2].replace("\n", " ")


def test_a_role_below_the_catalogues_is_refused(desk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for column, role, sentence in (("uscc", "other", "is identifier"), ("region_code", "other", "is quasi")):
        text = f"[policy]\nproject='abc'\nmodel='public'\n[[field]]\ncolumn='{column}'\nrole='{role}'\ntransform='keep'"
        (desk / "policy.toml").write_text(text)
        code, _, fault = run(capfd, *BASE, "--out", "s.csv")
        assert code == 2 and f"column {column} {sentence} in the catalogue" in fault.replace("\n", " ")
    text = "[policy]\nproject='abc'\nmodel='public'\n[[field]]\ncolumn='ban_blood'\nrole='identifier'\ntransform='keep'"
    with pytest.raises(Exception, match=r"never released in the catalogue \(R20\)"):
        check_roles(policy_of(text), load_draft())


def test_a_table_that_the_recipient_holds_is_counted(desk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    first = POLICY.replace('role = "sensitive"', 'role = "quasi"').replace("edges = [100, 1000]", "edges = [100]")
    (desk / "policy.toml").write_text(first + "\n")
    assert run(capfd, *BASE, "--report-only", "--json")[0] == 0
    (desk / "earlier.csv").write_text((desk / "firms.csv").read_text())
    (desk / "policy.toml").write_text(POLICY)
    assert run(capfd, *BASE, "--out", "now.csv")[0] == 0
    held = pl.read_csv(desk / "now.csv").with_columns(pl.int_range(60).alias("staff_count"))
    held.write_csv(desk / "held.csv")
    code, _, fault = run(capfd, *BASE, "--out", "again.csv", "--earlier", "held.csv")
    assert code == 5 and "fewer than 5 rows" in fault.replace("\n", " ")


@pytest.mark.rule("R35")
def test_canary_rows_name_the_recipient_of_a_leaked_table(desk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    mark = ("--watermark", "own.key", "--canaries", "5")
    for bank in ("bank-a", "bank-b"):
        code, said, _ = run(capfd, *BASE, "--out", f"{bank}.csv", *mark, "--recipient", bank, "--json")
        record = json.loads(said.splitlines()[-1])
        assert (code, record["canaries"], record["grade"]["rows"]) == (0, 5, 60)
    frame = pl.read_csv(desk / "bank-b.csv")
    assert frame.height == 65
    frame.sample(fraction=1.0, shuffle=True, seed=1).rename({"uscc": "code"}).write_csv(desk / "leaked.csv")
    words = ("--project", "trial-1", "--key", "own.key", "--recipient", "bank-a", "--recipient", "bank-b")
    code, said, _ = run(capfd, "desensitise", "trace", "leaked.csv", *words, "--json")
    assert (code, json.loads(said)["canaries"]) == (0, {"bank-a": 0, "bank-b": 5})
    assert "bank-a: none" in run(capfd, "desensitise", "trace", "leaked.csv", *words)[1]


def test_a_canary_looks_like_a_row_and_leaves_the_rows_in_their_order() -> None:
    rules = policy_of(POLICY)
    left = {"uscc": tuple(f"p{row}" for row in range(90)), "region_code": tuple(f"r{row % 7}" for row in range(90))}
    marked = with_canaries(rules, left, b"w" * 32, "bank-a", 9)
    tags = set(canary_tags(b"w" * 32, "trial-1", "bank-a", 0, 9))
    assert len(tags) == 9 and set(marked["uscc"]) - set(left["uscc"]) == tags
    assert [code for code in marked["uscc"] if code not in tags] == list(left["uscc"])
    regions = [cell for cell, code in zip(marked["region_code"], marked["uscc"], strict=True) if code not in tags]
    assert regions == list(left["region_code"]) and set(marked["region_code"]) == set(left["region_code"])
    assert (
        trace(left, b"w" * 32, "trial-1", ["bank-a"])
        == trace(marked, b"q" * 32, "trial-1", ["bank-a"])
        == {"bank-a": 0}
    )


def test_a_policy_without_a_pseudonym_has_no_watermark(desk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (desk / "policy.toml").write_text(POLICY.replace('"pseudonym"', '"drop"'))
    words = ("--watermark", "own.key", "--recipient", "bank-a", "--canaries", "2")
    assert "needs a column with the transform pseudonym" in run(capfd, *BASE, "--out", "s.csv", *words)[2].replace(
        "\n", " "
    )


def test_a_suggestion_is_a_policy_that_names_every_column_and_drops_what_nobody_knows(
    desk: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(capfd, "desensitise", "suggest", "firms.csv", "--project", "trial-1", "--out", "made.toml")[0] == 0
    made = policy_of((desk / "made.toml").read_text(encoding="utf-8"))
    assert made.fields["uscc"] == "pseudonym" and made.fields["region_code"] == "region(digits=4)"
    assert made.fields["legal_rep_name"] == made.fields["remark"] == "drop"
    assert made.by_column["revenue_total"].written().startswith("band(") and made.schema_hash
    assert SECRET_REVENUE not in (desk / "made.toml").read_text(encoding="utf-8")
    (desk / "policy.toml").write_text((desk / "made.toml").read_text(encoding="utf-8"), encoding="utf-8")
    assert run(capfd, *BASE, "--out", "shared.csv")[0] == 0


def test_every_field_of_the_draft_has_a_suggestion_that_is_a_policy_the_catalogue_accepts() -> None:
    catalogue = load_draft()
    for values in (
        ["1", "5", "9", "200", "3000", "70000"] * 30,
        ["A", "B"] * 60,
        ["2024-03-09"] * 50,
        ["free text"],
        [""],
    ):
        columns = {name: values for name in catalogue}
        made = policy_of(suggest_policy(catalogue, columns))
        check_roles(made, catalogue)
        assert set(made.fields) == set(catalogue)
        never = [name for name, field in catalogue.items() if field.default_release == "NEVER"]
        assert never and all(made.fields[name] == "drop" for name in never)


def test_statistics_are_written_as_a_row_a_group(desk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text = POLICY.replace('"pseudonym"', '"drop"').replace('"band"\nedges = [100, 1000]', '"aggregate"')
    (desk / "policy.toml").write_text(text.replace("agreement", "public"))
    code, said, _ = run(capfd, *BASE, "--out", "groups.csv", "--json")
    record = json.loads(said.splitlines()[-1])
    assert code == 0 and record["grade"]["grade"] == 4 and record["label"] == "anonymised"
    frame = pl.read_csv(desk / "groups.csv")
    assert frame.columns == ["region_code", "rows", "mean_of_revenue_total"] and frame["rows"].to_list() == [60]
