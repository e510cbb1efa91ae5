"""What banks make of their columns alike: quantiles and lists that are agreed from counts alone."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torture import cases

from lianxin.crypto import canonical
from lianxin.crypto.randomness import Drbg
from lianxin.federation.errors import InputFault, PeerError, RunStopped
from lianxin.parties import preparation as prep
from lianxin.simulations.clear_networks import agreed_preparation

NUMBERS = st.one_of(
    st.floats(-1e6, 1e6),
    st.integers(-20, 20),
    st.floats(allow_nan=False, allow_infinity=True),
    st.sampled_from([0.0, -0.0, 1e308, -1e308, 5e-324, math.inf, -math.inf, 2**53, 10**400]),
)
COLUMNS = st.lists(st.lists(st.one_of(NUMBERS, st.none()), min_size=0, max_size=25), min_size=1, max_size=3)


def drawn(name: str, count: int) -> np.ndarray:
    words = np.frombuffer(Drbg(b"p" * 32).child(name).bytes(8 * count), dtype="<u8") / 2.0**64
    return np.exp(6 * words - 2) - 3


def total(columns: list[list], grid: prep.Grid, least_rows: int) -> np.ndarray:
    return np.sum([prep.histogram_of(values, grid, least_rows) for values in columns], axis=0)


def refined(columns: list[list], least_rows: int) -> tuple[prep.Grid, np.ndarray]:
    grid = prep.refine(total(columns, prep.FIRST_GRID, least_rows), prep.FIRST_GRID)
    return grid, total(columns, grid, least_rows)


def test_the_public_grid_rises_and_has_whole_numbers_and_zero_on_its_edges() -> None:
    edges = prep.FIRST_GRID.edges
    assert (np.diff(edges) > 0).all() and np.isfinite(edges).all()
    assert {float(whole) for whole in range(-16, 17)} <= set(edges.tolist())
    wide = edges[np.abs(edges) > 2.0**-24]
    assert (np.diff(wide[wide > 0]) <= wide[wide > 0][:-1] / 16).all()


@given(COLUMNS, st.integers(10, 64))
@cases(1000, per_example=10)  # ten quantiles or more each
def test_every_knot_is_the_cell_edge_just_below_a_pooled_quantile(columns: list[list], quantiles: int) -> None:
    grid, counts = refined(columns, 1)
    pooled = np.sort(np.concatenate([prep.as_numbers(values) for values in columns]))
    pooled = pooled[~np.isnan(pooled)]
    field = prep.knots_from("f", counts, grid, quantiles)
    assert counts[:-1].sum() == len(pooled)
    shares = [1 / (8 * quantiles), *(np.arange(1, quantiles) / quantiles), 1 - 1 / (8 * quantiles)]
    ranks = [math.ceil(share * len(pooled)) - 1 for share in shares] if len(pooled) else []
    true = grid.edges[grid.places(pooled[ranks])].tolist()
    assert list(field.knots) == sorted(set(true))
    for edge, value in zip(true, pooled[ranks], strict=True):
        at = int(np.searchsorted(grid.edges, edge))
        assert at == 0 or edge <= value
        assert at == grid.cells - 1 or value < grid.edges[at + 1]
    assert all(low < high for low, high in zip(field.scores, field.scores[1:], strict=False))


def test_the_second_grid_tells_years_apart_that_one_cell_of_the_first_holds() -> None:
    years = [float(1990 + number % 20) for number in range(2000)]
    grid, counts = refined([years, years], 50)
    assert prep.knots_from("f", total([years], prep.FIRST_GRID, 50), prep.FIRST_GRID, 16).knots == (1984.0,)
    knots = prep.knots_from("f", counts, grid, 16).knots
    assert len(knots) == 17 and all(1990 <= knot <= 2009 for knot in knots)


@pytest.mark.parametrize("least_rows", [1, 7, 50])
def test_no_count_is_of_fewer_rows_than_the_minimum_and_no_extreme_shows(least_rows: int) -> None:
    values = [*drawn("values", 1003).tolist(), 1e300, None, None]
    counts = prep.histogram_of(values, prep.FIRST_GRID, least_rows)
    assert all(count >= least_rows for count in counts[counts > 0])
    assert counts[:-1].sum() == 1004 and counts[-1] == (2 if least_rows == 1 else 0)
    assert bool(counts[:-1][-1]) == (least_rows == 1)


def test_grouped_counts_move_a_quantile_by_no_more_than_two_groups_a_bank() -> None:
    columns = [drawn(f"bank {bank}", 1500 + 211 * bank).tolist() for bank in range(4)]
    grid, counts = refined(columns, 50)
    pooled, field = np.sort(np.concatenate(columns)), prep.knots_from("f", counts, grid, 16)
    slack = 2 * 50 * len(columns)
    shares = np.array([1 / 128, *(np.arange(1, 16) / 16), 1 - 1 / 128])
    for knot, share in zip(field.knots, shares, strict=True):
        rank = round(share * len(pooled))
        low, high = pooled[max(rank - slack, 0)], pooled[min(rank + slack, len(pooled) - 1)]
        width = np.diff(grid.edges)[np.searchsorted(grid.edges, knot)] if knot < grid.edges[-1] else 0
        assert low - width <= knot <= high


def test_a_constant_an_empty_and_a_wholly_missing_column_are_prepared_too() -> None:
    for values, numbers in (
        ([7.5] * 90, [[0.0], [0.0]]),
        ([], [[0.0], [0.0]]),
        ([None] * 90, [[0.0, 0.0], [0.0, 1.0]]),
    ):
        grid, counts = refined([values, values], 50)
        field = prep.knots_from("f", counts, grid, 16)
        assert field.numbers([7.5, None]).tolist() == numbers


def test_huge_and_infinite_values_count_as_the_outer_knots() -> None:
    values = drawn("outer", 2000).tolist()
    grid, counts = refined([values], 50)
    field = prep.knots_from("f", counts, grid, 16)
    low, high = field.scores[0] / prep.SCORE_ONE, field.scores[-1] / prep.SCORE_ONE
    read = field.numbers([-math.inf, -(10**400), -1e308, 1e308, 10**400, math.inf])[:, 0]
    assert np.allclose(read, [low] * 3 + [high] * 3) and -3 < low < -2 and 2 < high < 3


@pytest.mark.parametrize("value", [None, math.nan, "text", "12", "", b"7"])
def test_what_is_no_number_is_missing(value: object) -> None:
    field = prep.NumberField("f", (0.0, 1.0), (-prep.SCORE_ONE, prep.SCORE_ONE), True)
    assert field.numbers([value, 0.5]).tolist() == [[0.0, 1.0], [0.0, 0.0]]


def test_the_numbers_are_normal_scores() -> None:
    values = drawn("normal", 4000).tolist()
    grid, counts = refined([values], 20)
    read = prep.knots_from("f", counts, grid, 16).numbers(values)[:, 0]
    assert abs(read.mean()) < 0.05 and 0.9 < read.std() < 1.05


def test_a_text_of_one_bank_alone_is_other() -> None:
    tables = [["a"] * 60 + ["b"] * 60 + [only] * 60 + ["rare"] * 5 + [None] for only in ("x", "y", "z", "b")]
    named = [prep.categories_of(values, 50) for values in tables]
    assert named[0] == ("a", "b", "x")
    field = prep.TextField("f", prep.agreed_categories(named))
    assert field.categories == ("a", "b")
    assert field.places(["a", "b", "x", "rare", "never seen", None, math.nan]).tolist() == [2, 3, 0, 0, 0, 1, 1]


def test_texts_that_two_of_three_banks_name_are_other_and_two_banks_alone_share_theirs() -> None:
    assert prep.agreed_categories([["a", "b"], ["a", "b"], ["a"]]) == ("a",)
    assert prep.agreed_categories([["a", "b"], ["a"]]) == ("a",)


def test_lists_are_bounded() -> None:
    many = [f"text {number:03}" for number in range(200) for _ in range(50 + number)]
    named = prep.categories_of(many, 50)
    assert len(named) == prep.MOST_CATEGORIES and named[0] == "text 136"
    assert len(prep.agreed_categories([[f"{number:03}" for number in range(99)]] * 3)) == prep.MOST_CATEGORIES


def test_kinds_must_agree_between_banks() -> None:
    assert [prep.kind_of(values) for values in ([1, 2.5, None], ["a", 1], [None, math.nan], [])] == [
        "number", "text", "empty", "empty",
    ]  # fmt: skip
    assert prep.agreed_kind("f", ["number", "empty"]) == "number" and prep.agreed_kind("f", ["empty"]) == "number"
    assert prep.agreed_kind("f", ["text", "text", "empty"]) == "text"
    for odd in (["number", "text"], ["something"]):
        with pytest.raises(RunStopped, match="the field f holds numbers at some banks and text at others"):
            prep.agreed_kind("f", odd)


def world() -> tuple[prep.Preparation, dict[str, dict[str, list]]]:
    tables = {
        f"bank-{bank}": {
            "amount": [*drawn(f"amount {bank}", 300).tolist(), *[None] * 60],
            "state": [("north", "south", None)[number % 3] for number in range(360)],
        }
        for bank in range(3)
    }
    return agreed_preparation(tables, ["amount", "state"], 50, 16), tables


def test_a_table_becomes_numbers_and_places() -> None:
    preparation, tables = world()
    prepared = preparation.apply(tables["bank-0"], [0, 1] * 180, list(range(360)))
    assert (preparation.columns, preparation.sizes, preparation.fields) == (2, (4,), ("amount", "state"))
    assert prepared.numbers.shape == (360, 2) and prepared.numbers.dtype == np.float32
    assert prepared.categories.shape == (360, 1) and prepared.categories.dtype == np.int64
    assert prepared.numbers[300:, 1].all() and set(prepared.categories[:, 0].tolist()) == {1, 2, 3}
    some = prepared.take([3, 1])
    assert some.rows == 2 and some.firms is not None and some.firms.tolist() == [3, 1]
    assert np.array_equal(some.numbers, prepared.numbers[[3, 1]])


def test_a_preparation_is_read_back_exactly_through_canonical_json() -> None:
    preparation, _ = world()
    record = canonical.decode(canonical.encode(preparation.to_record()))
    assert prep.Preparation.from_record(record) == preparation
    assert prep.Preparation.received(record, ["state", "amount"]) == preparation


BAD = {
    "no number of knots": lambda r: r["numbers"][0].update(knots=["nan"] * 17),
    "knots that fall": lambda r: r["numbers"][0]["knots"].reverse(),
    "scores that fall": lambda r: r["numbers"][0]["scores"].reverse(),
    "a score too many": lambda r: r["numbers"][0]["scores"].append(1 << 22),
    "a huge score": lambda r: r["numbers"][0]["scores"].__setitem__(-1, 1 << 60),
    "infinite knots": lambda r: r["numbers"][0]["knots"].__setitem__(-1, "inf"),
    "knots as numbers": lambda r: r["numbers"][0].update(knots=[1, 2], scores=[1, 2]),
    "a flag that is none": lambda r: r["numbers"][0].update(missing=1),
    "a key more": lambda r: r.update(more=1),
    "another type": lambda r: r.update(type="bin-specification"),
    "another version": lambda r: r.update(version=True),
    "no texts": lambda r: r.pop("texts"),
    "a text twice": lambda r: r["texts"][0].update(categories=["a", "a"]),
    "texts as one": lambda r: r["texts"][0].update(categories="abc"),
    "too many texts": lambda r: r["texts"][0].update(categories=[str(n) for n in range(65)]),
    "a field twice": lambda r: r["texts"][0].update(field="amount"),
    "a list": lambda r: r.update(numbers=[[1]]),
    "another field": lambda r: r["texts"][0].update(field="other"),
}


@pytest.mark.parametrize("bad", sorted(BAD))
def test_a_preparation_that_a_peer_made_up_is_refused_by_rule(bad: str) -> None:
    preparation, _ = world()
    record = json.loads(json.dumps(preparation.to_record()))
    BAD[bad](record)
    with pytest.raises(PeerError) as refused:
        prep.Preparation.received(record, ["amount", "state"])
    assert refused.value.rule == "NN02"
    if bad != "another field":
        with pytest.raises(InputFault, match="damaged"):
            prep.Preparation.from_record(record)


@pytest.mark.parametrize("record", [None, 3, "text", [], {}, {"type": "preparation", "version": 1}])
def test_anything_else_is_no_preparation(record: object) -> None:
    with pytest.raises(PeerError, match="malformed"):
        prep.Preparation.received(record, [])


@pytest.mark.parametrize("counts", [[1, 2, 3], [-1] * (prep.FIRST_GRID.cells + 1)])
def test_sums_that_do_not_fit_the_grid_are_refused(counts: list[int]) -> None:
    for made in (
        lambda: prep.refine(counts, prep.FIRST_GRID),
        lambda: prep.knots_from("f", counts, prep.FIRST_GRID, 8),
    ):
        with pytest.raises(PeerError) as refused:
            made()
        assert refused.value.rule == "NN02"
