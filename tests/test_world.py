"""The made-up province: one seed, one set of bytes; valid codes; a true gain from joining the two sides."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from lianxin.federation.errors import InputFault
from lianxin.parties import identifiers
from lianxin.parties.coding import fit_bins
from lianxin.parties.identifiers import check_uscc, subject_type_of
from lianxin.parties.records import FirmTable, LoanTable, load_firm_table, load_loan_table, read_table
from lianxin.simulations.tables import check_inputs
from lianxin.simulations.world import FIELD_CLASSES, Province, make_province

World = tuple[Province, FirmTable, list[LoanTable]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    province = make_province(7, tmp_path_factory.mktemp("province"))
    banks = [load_loan_table(read_table(path), "uscc", "label_bad", "split", None) for path in province.banks]
    return province, load_firm_table(read_table(province.platform), "uscc"), banks


def province_bytes(province: Province) -> list[bytes]:
    return [path.read_bytes() for path in (province.platform, *province.banks)]


def test_one_seed_gives_the_same_bytes_and_another_seed_other_bytes(tmp_path: Path) -> None:
    once, again, other = (
        province_bytes(make_province(seed, tmp_path / name, firms=500, banks=2, loans=200))
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert once == again
    assert all(one != two for one, two in zip(once, other, strict=True))


def test_the_default_province_passes_the_checks_of_a_users_own_tables(world: World) -> None:
    province, _, _ = world
    found = check_inputs(province.platform, list(province.banks), "uscc", "label_bad", "split")
    assert found.platform.rows == 8000 and [bank.party for bank in found.banks] == ["bank-1", "bank-2", "bank-3"]
    assert found.platform.features == tuple(FIELD_CLASSES)


def test_every_class_of_the_catalogue_has_a_field_with_its_draft_class(world: World) -> None:
    province, _, banks = world
    catalogue = read_table(Path(identifiers.__file__).with_name("catalogue_draft.csv"))
    classes = dict(zip(catalogue.column("field_name_en"), catalogue.column("class"), strict=True))
    assert {name: classes[name] for name in FIELD_CLASSES} == province.truth["fields"]
    assert set(FIELD_CLASSES.values()) == {"PUB", "LIM", "BIZ", "PI", "SPI", "BAN"} and len(FIELD_CLASSES) == 12
    assert all(classes[name] == "BIZ" for name in banks[0].columns)


def test_codes_are_valid_of_qinghai_and_an_eighth_are_sole_traders(world: World) -> None:
    province, firms, banks = world
    for code in [*firms.identifiers, *(code for bank in banks for code in bank.identifiers)]:
        check_uscc(code)
    assert {code[2:4] for code in firms.identifiers} == {"63"}
    traders = Counter(subject_type_of(code) for code in firms.identifiers)["IND"]
    assert traders == province.truth["sole_traders"] and 0.10 < traders / 8000 < 0.14


def test_each_bank_has_a_thousand_firms_nearly_all_known_and_few_shared(world: World) -> None:
    province, firms, banks = world
    known, customers = set(firms.identifiers), [set(bank.identifiers) for bank in banks]
    assert [len(bank) for bank in customers] == [1000] * 3
    assert (
        [len(bank & known) for bank in customers]
        == [story["matched"] for story in province.truth["banks"]]
        == [950] * 3
    )
    assert [len(customers[i] & customers[j]) for i, j in ((0, 1), (1, 2), (0, 2))] == [23, 23, 0]


def test_a_small_province_shares_more_customers_and_an_impossible_one_is_refused(tmp_path: Path) -> None:
    province = make_province(1, tmp_path, firms=300, banks=3, loans=200)
    customers = [set(read_table(path).column("uscc")) for path in province.banks]
    assert [len(bank) for bank in customers] == [200] * 3 and len(customers[0] & customers[2]) > 20
    with pytest.raises(InputFault, match="ask for fewer"):
        make_province(1, tmp_path, firms=100, banks=1, loans=200)
    with pytest.raises(InputFault, match="seed"):
        make_province(-1, tmp_path)


def test_labels_have_the_stated_bads_and_the_split_is_a_stratified_fifth(world: World) -> None:
    province, _, banks = world
    for bank, story in zip(banks, province.truth["banks"], strict=True):
        assert sum(bank.labels) == story["bads"] and 0.1 < story["bads"] / 1000 < 0.25
        tested = [label for label, part in zip(bank.labels, bank.split, strict=True) if part == "test"]
        assert abs(len(tested) - 200) <= 1 and abs(sum(tested) - story["bads"] / 5) <= 1


def test_values_of_one_source_are_missing_together(world: World) -> None:
    _, firms, _ = world
    missing = {name: {i for i, v in enumerate(column) if v is None} for name, column in firms.columns.items()}
    assert missing["utility_continuity_m"] == missing["pwr_arrears_cnt"] == missing["pwr_kwh_12m"]
    assert missing["vat_sales_12m"] == missing["tax_yoy"] > missing["tax_late_cnt_24m"]
    assert 0.1 < len(missing["pwr_kwh_12m"]) / 8000 < 0.2
    traders = {i for i, code in enumerate(firms.identifiers) if subject_type_of(code) == "IND"}
    assert missing["reg_capital"] == missing["si_insured_cnt"] == traders
    assert set(range(8000)) - missing["ind_tax_amt"] == traders - missing["tax_late_cnt_24m"]


def test_money_is_whole_yuan_with_a_long_tail_and_counts_are_mostly_zero(world: World) -> None:
    _, firms, _ = world
    sales = [v for v in firms.columns["vat_sales_12m"] if v is not None]
    assert all(type(v) is int and v >= 0 for v in sales) and np.mean(sales) > 1.5 * np.median(sales)
    for name in ("judgment_cnt_36m", "tax_late_cnt_24m", "pwr_arrears_cnt"):
        counts = [v for v in firms.columns[name] if v is not None]
        assert 0.5 < counts.count(0) / len(counts) < 0.95 and max(counts) > 2


def woe_columns(columns: dict[str, list], labels: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Return one WOE-coded column a feature; bins and WOE are those of the train rows."""
    coded = []
    for values in columns.values():
        spec = fit_bins([v for v, learned in zip(values, train, strict=True) if learned], 8, 50)
        codes = np.array(spec.encode(values))
        learned, bad = codes[train], labels[train] == 1
        counts = [np.bincount(learned[kind], minlength=spec.count) + 0.5 for kind in (~bad, bad)]
        coded.append(np.log((counts[0] / counts[0].sum()) / (counts[1] / counts[1].sum()))[codes])
    return np.column_stack(coded)


def held_out_auc(columns: dict[str, list], labels: np.ndarray, train: np.ndarray) -> float:
    features = woe_columns(columns, labels, train)
    model = LogisticRegression(C=1.0, max_iter=1000).fit(features[train], labels[train])
    return roc_auc_score(labels[~train], model.decision_function(features[~train]))


def joined(firms: FirmTable, banks: Sequence[LoanTable]) -> tuple[dict, dict, np.ndarray, np.ndarray]:
    row_of = {code: row for row, code in enumerate(firms.identifiers)}
    pairs = [(bank, i) for bank in banks for i, code in enumerate(bank.identifiers) if code in row_of]
    own = {name: [bank.columns[name][i] for bank, i in pairs] for name in banks[0].columns}
    open_classes = [name for name, kind in FIELD_CLASSES.items() if kind in ("PUB", "LIM", "BIZ")]
    theirs = {n: [firms.columns[n][row_of[bank.identifiers[i]]] for bank, i in pairs] for n in open_classes}
    labels = np.array([bank.labels[i] for bank, i in pairs])
    return own, theirs, labels, np.array([bank.split[i] == "train" for bank, i in pairs])


def test_joining_the_two_sides_predicts_better_than_the_banks_alone(world: World) -> None:
    _, firms, banks = world
    own, theirs, labels, train = joined(firms, banks)
    alone, together = held_out_auc(own, labels, train), held_out_auc(own | theirs, labels, train)
    assert 0.66 < alone < 0.76
    assert together > alone + 0.05
