"""A user's own tables and the SBA loans as parties of a run."""

import csv
import datetime
import gzip
import re
from pathlib import Path

import pytest

from lianxin.federation.errors import InputFault
from lianxin.parties.records import load_firm_table, load_loan_table, read_table
from lianxin.simulations.sba import LEFT_OUT_COLUMNS, REFUSED_COLUMNS, SbaInputs, map_sba
from lianxin.simulations.tables import Inputs, check_inputs, party_id

SBA = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "sba_loans.csv.gz"


def table(path: Path, header: str, rows: int = 12) -> Path:
    cells = {"uscc": "F{i}", "label": "{b}", "split": "{s}", "loan_id": "L{i}"}
    lines = [header]
    for i in range(rows):
        values = {"i": i, "b": i % 2, "s": "train" if i < 8 else "test"}
        lines.append(",".join(cells.get(name, "{i}").format(**values) for name in header.split(",")))
    path.write_text("\n".join(lines) + "\n")
    return path


def inputs(
    folder: Path, platform: str = "uscc,a,b", bank: str = "uscc,label,split,x", name: str = "Bank One.csv"
) -> Inputs:
    platform_path, bank_path = table(folder / "Platform.csv", platform), table(folder / name, bank)
    return check_inputs(platform_path, [bank_path], "uscc", "label", "split")


def test_parties_are_named_after_their_files_and_other_columns_are_features(tmp_path: Path) -> None:
    found = inputs(tmp_path)
    assert (found.platform.party, found.platform.features, found.platform.rows) == ("platform", ("a", "b"), 12)
    assert [(bank.party, bank.features) for bank in found.banks] == [("bank-one", ("x",))]


def test_a_loan_id_is_no_feature(tmp_path: Path) -> None:
    platform = table(tmp_path / "platform.csv", "uscc,a,split")
    bank = table(tmp_path / "bank.csv", "uscc,label,split,x,loan_id")
    found = check_inputs(platform, [bank], "uscc", "label", "split", "loan_id")
    assert (found.platform.features, found.banks[0].features) == (("a",), ("x",))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"platform": "uscc,label,a"}, "Platform.csv has the label column label; labels stay"),
        ({"platform": "uscc"}, "Platform.csv has no column left"),
        ({"bank": "uscc,labels,split,x"}, "Bank One.csv has no column label; did you mean labels"),
        ({"bank": "uscc,label,x"}, "Bank One.csv has no column split"),
        ({"platform": "firm,a"}, "Platform.csv has no column uscc; it has firm, a"),
        ({"name": "PLATFORM!.csv"}, "Platform.csv and PLATFORM!.csv both make the party id platform"),
        ({"name": "银行.csv"}, "银行.csv has no letter a-z or digit"),
    ],
)
def test_tables_that_cannot_be_used_are_refused_in_one_sentence(tmp_path: Path, change: dict, says: str) -> None:
    with pytest.raises(InputFault, match=re.escape(says)):
        inputs(tmp_path, **change)


def test_one_column_has_one_role(tmp_path: Path) -> None:
    with pytest.raises(InputFault, match="column uscc is named for two roles"):
        check_inputs(tmp_path / "p.csv", [tmp_path / "b.csv"], "uscc", "uscc", None)


def test_a_run_needs_a_bank(tmp_path: Path) -> None:
    with pytest.raises(InputFault, match="no bank's table"):
        check_inputs(tmp_path / "p.csv", [], "uscc", "label")


@pytest.mark.parametrize("stem", ["a", "Bank of X, N.A.", "--x--", "b" * 90, "b" * 63 + " c", "1_2"])
def test_every_file_name_makes_a_party_id(stem: str) -> None:
    assert re.fullmatch(r"[a-z0-9-]{3,64}", party_id(stem, "x.csv"))


def sba_file(folder: Path, change: dict[str, str] | None = None, drop: str | None = None) -> Path:
    """Sixty loans in the layout of the SBA table: three banks, firm F0 with an earlier loan in the last row."""
    rows = [sba_row(i) | (change if change and i == 3 else {}) for i in range(60)]
    rows.append(sba_row(60) | {"firm_id": "F0", "ApprovalDate": "1/5/1990", "NoEmp": "1", "State": "AK"})
    names = [name for name in rows[0] if name != drop]
    with gzip.open(folder / "loans.csv.gz", "wt", newline="") as out:
        writer = csv.DictWriter(out, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return folder / "loans.csv.gz"


def sba_row(i: int) -> dict[str, str]:
    bank = "BIG BANK, N.A." if i % 2 else ("MIDDLE BANK" if i % 3 else "LITTLE BANK")
    return {
        **{"firm_id": f"F{i}", "loan_id": f"L{i}", "City": "RENO", "State": "NV", "Zip": "89501", "NAICS": "722410"},
        **{"NoEmp": str(i + 3), "NewExist": "1", "CreateJob": "0", "RetainedJob": "2", "FranchiseCode": "1"},
        **{"UrbanRural": "1", "Bank": bank, "BankState": "NV", "ApprovalDate": f"12/{1 + i % 9}/1997"},
        **{"ApprovalFY": "1998", "Term": "84", "RevLineCr": "T" if i % 5 else "Y", "LowDoc": "N"},
        **{"DisbursementDate": "2/28/1999", "DisbursementGross": "60000", "GrAppv": "60000", "SBA_Appv": "48000"},
        **{
            "ChgOffDate": "",
            "ChgOffPrinGr": "0",
            "Default": str(int(i % 4 < 2)),
            "split": "test" if i % 6 == 5 else "train",
        },
    }


def test_sba_loans_become_a_platform_and_its_largest_banks(tmp_path: Path) -> None:
    found = map_sba(sba_file(tmp_path), tmp_path / "parties", banks=2)
    assert [(bank.party, bank.rows) for bank in found.banks] == [("big-bank-n-a", 30), ("middle-bank", 20)]
    assert found.platform.rows == 60
    bank = load_loan_table(read_table(found.banks[0].path), "firm_id", "Default", "split", "loan_id")
    assert set(bank.columns["RevLineCr"]) == {"Y", "other"} and set(bank.columns["sba_share"]) == {0.8}


def test_a_firm_is_on_the_platform_as_it_stood_at_its_first_approval(tmp_path: Path) -> None:
    found = map_sba(sba_file(tmp_path), tmp_path / "parties", banks=2)
    firms = load_firm_table(read_table(found.platform.path), "firm_id")
    row = firms.identifiers.index("F0")
    assert (firms.columns["State"][row], firms.columns["NoEmp"][row]) == ("AK", 1)
    assert firms.columns["sector"][row] == "N72" and firms.columns["franchise"][row] == 0


def test_columns_known_only_after_the_decision_reach_no_party_and_have_a_reason(tmp_path: Path) -> None:
    found = map_sba(sba_file(tmp_path), tmp_path / "parties")
    held = {name for party in (found.platform, *found.banks) for name in read_table(party.path).columns}
    assert not held & (set(REFUSED_COLUMNS) | {"City", "Zip"})
    assert found.refused_columns == dict(REFUSED_COLUMNS) and found.left_out_columns == dict(LEFT_OUT_COLUMNS)


def test_an_sba_table_without_needed_columns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputFault, match=r"loans\.csv\.gz lacks NAICS; give the SBA"):
        map_sba(sba_file(tmp_path, drop="NAICS"), tmp_path / "parties")
    assert not (tmp_path / "parties").exists()


def test_an_unreadable_approval_date_is_refused_by_its_row(tmp_path: Path) -> None:
    path = sba_file(tmp_path, change={"ApprovalDate": "31/31/1997"})
    with pytest.raises(InputFault, match=r"data row 4 of .* ApprovalDate") as fault:
        map_sba(path, tmp_path / "parties")
    assert "31/31" not in str(fault.value)


def test_more_banks_than_there_are_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputFault, match=r"4 banks were asked for and loans\.csv\.gz has 3"):
        map_sba(sba_file(tmp_path), tmp_path / "parties", banks=4)


def test_mapping_twice_writes_the_same_bytes(tmp_path: Path) -> None:
    path = sba_file(tmp_path)
    once, again = map_sba(path, tmp_path / "a"), map_sba(path, tmp_path / "b")
    for one, two in zip((once.platform, *once.banks), (again.platform, *again.banks), strict=True):
        assert one.path.read_bytes() == two.path.read_bytes()


@pytest.fixture(scope="module")
def real_sba(tmp_path_factory: pytest.TempPathFactory) -> SbaInputs:
    if not SBA.exists():
        pytest.skip("shared/data is not beside the checkout")
    return map_sba(SBA, tmp_path_factory.mktemp("sba"))


def test_the_real_sba_loans_become_three_banks_whose_firms_the_platform_knows(real_sba: SbaInputs) -> None:
    found = real_sba
    assert [(bank.party, bank.rows) for bank in found.banks] == [
        ("bank-of-america-natl-assoc", 6602),
        ("capital-one-natl-assoc", 2458),
        ("wells-fargo-bank-natl-assoc", 1190),
    ]
    firms = load_firm_table(read_table(found.platform.path), "firm_id")
    assert len(firms.identifiers) == 21_666 and all(type(n) is str for n in firms.columns["sector"])
    assert set(read_table(found.banks[2].path).column("firm_id")) <= set(firms.identifiers)


def test_no_firm_of_the_real_loans_is_shown_as_of_a_later_loan(real_sba: SbaInputs) -> None:
    source = read_table(SBA)
    days = [datetime.datetime.strptime(text, "%m/%d/%Y").date() for text in source.column("ApprovalDate")]
    first: dict[str, int] = {}
    for row, firm in enumerate(source.column("firm_id")):
        if firm not in first or days[row] < days[first[firm]]:
            first[firm] = row
    firms = load_firm_table(read_table(real_sba.platform.path), "firm_id")
    staff = source.column("NoEmp")
    assert firms.columns["NoEmp"] == [staff[first[firm]] for firm in firms.identifiers]
