"""The grade: hand-computed tables, a naive second implementation, and what makes a table refused (R22, R14)."""

from collections.abc import Sequence
from fractions import Fraction

import pytest
from test_desensitise import HEAD, KEY, policy
from torture import repeats

from lianxin.crypto import canonical
from lianxin.crypto.randomness import Drbg
from lianxin.federation.errors import InputFault
from lianxin.parties import decision_grades
from lianxin.parties.desensitise import Policy, apply_policy, label_of, measure, policy_of
from lianxin.parties.desensitise_risk import Measurement, evaluate, ppm

NOW = "2026-01-05T01:00:00Z"
Column = Sequence[str]


def spread(*sizes: int) -> list[str]:
    return [f"class {number}" for number, size in enumerate(sizes) for _ in range(size)]


def judged(*sizes: int, model: str = "public", context: Fraction = Fraction(1)) -> Measurement:
    return evaluate(sum(sizes), [spread(*sizes)], [], model, context)


@pytest.mark.rule("R22")
@pytest.mark.parametrize(
    ("sizes", "model", "context", "above", "risk", "accepted"),
    [
        ((20, 20), "public", 1, "0", "1/20", True),
        ((20, 19), "public", 1, "1/2", "1", False),
        ((1000, 20), "public", 1, "0", "1/20", True),
        ((1000, 21), "public", 1, "0", "1/21", True),
        ((5, 5), "agreement", 1, "0", "1/5", False),
        ((5, 5), "agreement", Fraction(1, 4), "0", "1/20", True),
        ((5, 5), "agreement", Fraction(250_001, 1_000_000), "0", "250001/5000000", False),
        ((5, 4), "agreement", Fraction(1, 4), "1/2", "1", False),
        ((5, 500), "agreement", 1, "0", "101/1000", False),
        ((20, 20), "agreement", 1, "0", "1/20", True),
        ((3, 3, 3), "enclave", Fraction(3, 20), "0", "1/20", True),
        ((3, 3, 2), "enclave", Fraction(3, 20), "1/3", "1", False),
    ],
)  # fmt: skip
def test_tables_computed_by_hand(
    sizes: tuple[int, ...], model: str, context: Fraction, above: str, risk: str, accepted: bool
) -> None:
    found = judged(*sizes, model=model, context=Fraction(context))
    assert (found.above, found.risk, found.accepted) == (Fraction(above), Fraction(risk), accepted)
    assert (found.rows, found.classes, found.k) == (sum(sizes), len(sizes), min(sizes))
    assert found.theta_max == Fraction(1, min(sizes)) and found.grade == (3 if accepted else 2)
    assert bool(found.reasons) != accepted


def test_a_share_in_millionths_is_never_smaller_than_it_is() -> None:
    assert [ppm(Fraction(*pair)) for pair in ((1, 20), (1, 3), (1, 3_000_000), (0, 1), (1, 1))] == [
        50_000, 333_334, 1, 0, 1_000_000,
    ]  # fmt: skip


def test_the_distance_of_ordered_values_of_the_textbook() -> None:
    """Li, Li and Venkatasubramanian 2007, section 4: incomes 3k..11k against {3k, 4k, 5k} and {6k, 8k, 11k}."""
    incomes = [*("3000", "4000", "5000"), *("6000", "11000", "8000"), *("7000", "9000", "10000")]
    found = evaluate(9, [spread(3, 3, 3)], [incomes], "agreement")
    assert found.t == Fraction(3, 8) and found.l == 3
    assert evaluate(6, [["a"] * 3 + ["b"] * 3], [["3", "4", "5", "3", "4", "5"]], "agreement").t == 0


def naive(quasi: Sequence[Column], sensitive: Column, rows: int) -> tuple[int, int, int, Fraction]:
    """Return (classes, k, l, t) from the definitions, comparing every row with every other."""
    classes: list[list[int]] = []
    for row in range(rows):
        for members in classes:
            if all(column[members[0]] == column[row] for column in quasi):
                members.append(row)
                break
        else:
            classes.append([row])
    numeric = any(sensitive) and all(value.lstrip("-").isdigit() for value in sensitive if value)
    values = sorted(
        set(sensitive), key=lambda v: (v != "", int(v)) if numeric and v else (v != "", 0) if numeric else v
    )
    everywhere = [Fraction(sum(value == cell for cell in sensitive), rows) for value in values]
    worst = Fraction(0)
    for members in classes:
        here = [Fraction(sum(sensitive[row] == value for row in members), len(members)) for value in values]
        gaps = [p - q for p, q in zip(here, everywhere, strict=True)]
        if numeric and len(values) > 1:
            distance = sum((abs(sum(gaps[: end + 1])) for end in range(len(values))), Fraction(0)) / (len(values) - 1)
        else:
            distance = sum((abs(gap) for gap in gaps), Fraction(0)) / 2
        worst = max(worst, distance)
    least = min(len({sensitive[row] for row in members}) for members in classes)
    return len(classes), min(map(len, classes)), least, worst


@pytest.mark.rule("R22", "R23")
def test_a_thousand_random_tables_agree_with_the_definitions() -> None:
    drbg = Drbg(bytes(32)).child("random tables")
    for _ in repeats("random tables against the definitions"):
        rows, columns = 1 + drbg.below(24), drbg.below(4)
        quasi = [[str(drbg.below(3)) for _ in range(rows)] for _ in range(columns)]
        words = ["", "-2", "1", "7", "30", "31"] if drbg.bits(1) else ["", "a", "b", "c1"]
        sensitive = [words[drbg.below(len(words))] for _ in range(rows)]
        found = evaluate(rows, quasi, [sensitive], "agreement")
        assert (found.classes, found.k, found.l, found.t) == naive(quasi, sensitive, rows)


def firms(rows: int = 60) -> dict[str, list[str]]:
    return {
        "id": [f"F{row}" for row in range(rows)],
        "region": ["630102" if row % 2 else "630103" for row in range(rows)],
        "revenue": [str(1000 + row) for row in range(rows)],
    }


def graded(rules: Policy, columns: dict[str, list[str]] | None = None, **given: object) -> dict[str, object]:
    return measure(rules, firms() if columns is None else columns, KEY, "platform-a", NOW, **given)  # type: ignore[arg-type]


ROWS = ("region quasi region", "revenue sensitive round step = 10")


@pytest.mark.rule("R22")
def test_the_record_is_canonical_and_what_the_gate_asks_for() -> None:
    rules = policy("id identifier pseudonym", *ROWS)
    record = graded(rules)
    assert canonical.decode(canonical.encode(record)) == record
    assert record["fields"] == {"id": "pseudonym", "region": "region(digits=4)", "revenue": "round(step=10)"}
    assert (record["rows"], record["k"], record["grade"], record["accepted"]) == (60, 60, 3, True)
    assert (record["policy_hash"], record["measured_at"], record["model"]) == (rules.hash, NOW, "agreement")
    grade = canonical.record_hash(record)
    assert decision_grades.transform_of("region", "platform-a", grade, {grade: record}) == "region(digits=4)"


@pytest.mark.rule("R22")
@pytest.mark.parametrize(
    "stays", ["keep", "truncate characters = 1", 'coarsen levels = { a = ["F1"] }', "noise step = 1; scale = 1"]
)
def test_a_direct_identifier_that_stays_is_grade_one_and_refused_under_every_model(stays: str) -> None:
    for model in ("public", "agreement", "enclave"):
        record = graded(policy(f"id identifier {stays}", *ROWS), model=model)
        assert (record["grade"], record["accepted"]) == (1, False)


def test_a_masked_identifier_counts_as_a_quasi_identifier() -> None:
    columns = {**firms(), "id": ["张三", *["李四"] * 59]}
    record = graded(policy('id identifier mask kind = "name"', *ROWS), columns)
    assert (record["k"], record["classes"], record["grade"], record["accepted"]) == (1, 2, 2, False)
    assert graded(policy("id identifier drop", *ROWS), columns)["accepted"]


def test_without_a_transform_the_same_table_is_refused() -> None:
    untreated = graded(policy("id identifier drop", "region quasi keep", "revenue quasi keep"))
    assert (untreated["k"], untreated["risk_ppm"], untreated["grade"], untreated["accepted"]) == (1, 10**6, 2, False)


@pytest.mark.rule("R14")
def test_only_a_table_accepted_for_the_public_may_be_called_anonymised() -> None:
    kept, keyed = policy("id identifier drop", *ROWS), policy("id identifier pseudonym", *ROWS)
    assert label_of(graded(kept, model="public")) == "anonymised"
    assert label_of(graded(kept)) == label_of(graded(keyed)) == "deidentified"
    public = graded(keyed, model="public")
    assert label_of(public) == "not desensitised" and public["risk_ppm"] <= 50_000 and not public["accepted"]


def test_what_the_recipient_holds_already_is_counted_with_the_release() -> None:
    now = policy("id identifier pseudonym", "region quasi region digits = 2", "revenue other drop")
    before = policy("id identifier pseudonym", "region quasi drop", "revenue quasi band edges = [1005]")
    assert graded(now)["accepted"]
    held = apply_policy(before, firms(), KEY)
    joined = graded(now, earlier=[held])
    assert (joined["classes"], joined["k"], joined["accepted"]) == (2, 5, False)
    other = graded(now, earlier=[{**held, "id": tuple(reversed(["x"] * 60))}])
    assert other["accepted"] and graded(now, earlier=[{"revenue": held["revenue"]}])["accepted"]
    assert graded(now, earlier=[{"id": held["id"]}])["accepted"]


def test_a_table_hash_tells_tables_apart_and_confirms_no_guess_without_the_key() -> None:
    rules = policy("id identifier drop", *ROWS)
    changed = {**firms(), "revenue": [*firms()["revenue"][:-1], "7"]}
    hashes = {graded(rules)["table_hash"], graded(rules, changed)["table_hash"]}
    hashes.add(measure(rules, firms(), b"q" * 32, "platform-a", NOW)["table_hash"])
    assert len(hashes) == 3 and graded(rules)["table_hash"] in hashes


@pytest.mark.rule("R22")
def test_statistics_of_groups_are_grade_four_and_let_no_row_leave() -> None:
    from lianxin.parties.desensitise_aggregate import aggregate

    rules = policy("id identifier drop", "region quasi region digits = 4", "revenue sensitive aggregate digits = 3")
    columns = {**firms(), "region": ["630102"] * 25 + ["630202"] * 30 + ["632801"] * 5}
    record = graded(rules, columns, model="public")
    assert (record["rows"], record["classes"], record["k"]) == (55, 2, 25)
    assert (record["grade"], record["accepted"], record["fields"]) == (4, True, {})
    assert aggregate(rules, columns, b"") == {
        "region": ("6301", "6302"), "rows": ("25", "30"), "mean_of_revenue": ("1010", "1040"),
    }  # fmt: skip
    with pytest.raises(InputFault, match="no row"):
        apply_policy(rules, columns, KEY)


def test_a_statistic_over_too_few_numbers_is_left_out_and_no_group_at_all_is_refused() -> None:
    from lianxin.parties.desensitise_aggregate import aggregate

    rules = policy('revenue sensitive aggregate statistic = "sum"', "region quasi region")
    sparse = {"region": ["630102"] * 20, "revenue": [*["5"] * 19, "unknown"]}
    assert aggregate(rules, sparse, b"")["sum_of_revenue"] == ("",)
    with pytest.raises(InputFault, match="no group has 20 rows"):
        aggregate(rules, {name: column[:19] for name, column in sparse.items()}, b"")


@pytest.mark.parametrize("field", ["region quasi aggregate", "name other keep"])
def test_a_policy_of_statistics_keeps_nothing_row_by_row(field: str) -> None:
    with pytest.raises(InputFault, match=r"row by row|grouped by and summed"):
        policy("revenue sensitive aggregate", field)


def test_a_small_minimum_of_a_group_is_refused() -> None:
    with pytest.raises(InputFault, match="minimum_group"):
        policy("revenue sensitive aggregate", head=f"{HEAD}minimum_group = 19\n")


def test_a_table_of_other_columns_or_without_rows_is_refused() -> None:
    rules = policy("id identifier drop", *ROWS)
    with pytest.raises(InputFault, match="names column id, which the table does not have"):
        graded(rules, {"region": ["630102"], "revenue": ["1"]})
    with pytest.raises(InputFault, match="nothing is left"):
        graded(rules, {"id": [], "region": [], "revenue": []})
    with pytest.raises(InputFault, match="different numbers of rows"):
        graded(rules, {"id": ["1"], "region": ["630102"], "revenue": []})


def test_the_context_of_the_policy_counts_under_an_agreement_and_never_for_the_public() -> None:
    text = HEAD + "context_ppm = 100000\n[[field]]\ncolumn = 'region'\nrole = 'quasi'\ntransform = 'keep'"
    columns = {"region": [f"{row // 6}" for row in range(60)]}
    assert graded(policy_of(text), columns)["risk_ppm"] == 16_667
    assert graded(policy_of(text), columns, model="public")["risk_ppm"] == 1_000_000
