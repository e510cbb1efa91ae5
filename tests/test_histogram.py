"""The encrypted histogram against a dictionary, its plan of groups, and products of powers."""

from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from math import prod

import gmpy2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lianxin.crypto import histogram, paillier
from lianxin.crypto.histogram import count_multiplications, encrypted_histogram, plan_groups
from lianxin.crypto.multiexp import combine_bins, multi_exponentiate, window_bits
from lianxin.crypto.randomness import Drbg


def seeded(name: str) -> Drbg:
    return Drbg(bytes(32)).child("test_histogram", name)


KEY = paillier.generate_secret_key(128, "bank-a", "P4", "run-1", seeded("key"))
PUBLIC = KEY.public
MODULUS = int(PUBLIC.n_squared)
ENCRYPTOR, DECRYPTOR = paillier.OwnerEncryptor(KEY), paillier.Decryptor(KEY)
many = settings(max_examples=300, derandomize=True, deadline=None)


@pytest.fixture(scope="module", params=[ThreadPoolExecutor, ProcessPoolExecutor])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    with request.param(2) as workers:
        yield workers


def by_dictionary(ciphertexts: list[int], codes: list[list[int]], bins: list[int]) -> list[list[int]]:
    return [
        [
            prod([c for c, code in zip(ciphertexts, column, strict=True) if code == b], start=1) % MODULUS
            for b in range(count)
        ]
        for column, count in zip(codes, bins, strict=True)
    ]


def draw_case(drbg: Drbg, rows: int, bins: list[int]) -> tuple[list[int], list[list[int]]]:
    ciphertexts = [drbg.between(1, MODULUS) for _ in range(rows)]
    return ciphertexts, [[drbg.below(count) for _ in range(rows)] for count in bins]


@many
@given(rows=st.integers(0, 60), bins=st.lists(st.integers(1, 5), max_size=7), seed=st.integers(0, 1 << 32))
def test_a_histogram_equals_the_product_over_each_bins_rows(rows: int, bins: list[int], seed: int) -> None:
    ciphertexts, codes = draw_case(seeded("cases").child(seed), rows, bins)
    assert encrypted_histogram(PUBLIC, ciphertexts, codes, bins) == by_dictionary(ciphertexts, codes, bins)


def test_decrypted_bins_are_the_sums_of_their_rows() -> None:
    drbg, bins = seeded("sums"), [3, 8, 2, 5]
    values = [drbg.below(1000) - 500 for _ in range(400)]
    _, codes = draw_case(drbg, 400, bins)
    cells = encrypted_histogram(PUBLIC, ENCRYPTOR.encrypt_many(values, drbg), codes, bins)
    for column, count, line in zip(codes, bins, cells, strict=True):
        sums = np.bincount(column, weights=values, minlength=count)
        assert [paillier.centred(m, PUBLIC.n) for m in DECRYPTOR.decrypt_many(line, drbg)] == sums.tolist()


def test_an_empty_bin_is_one_and_an_empty_input_all_ones() -> None:
    assert encrypted_histogram(PUBLIC, [5, 7], [[2, 2]], [4]) == [[1, 1, 35, 1]]
    assert encrypted_histogram(PUBLIC, [], [[], []], [2, 3]) == [[1, 1], [1, 1, 1]]


def test_workers_and_block_sizes_do_not_change_a_histogram(executor: Executor) -> None:
    bins = [4, 4, 4, 2, 9]
    ciphertexts, codes = draw_case(seeded("workers"), 700, bins)
    alone = encrypted_histogram(PUBLIC, ciphertexts, codes, bins)
    for block_rows in (64, 100, 16384):
        assert encrypted_histogram(PUBLIC, ciphertexts, codes, bins, executor, block_rows) == alone


def test_codes_in_small_numpy_integers_do_not_overflow_in_joint_codes() -> None:
    bins = [100, 3]
    ciphertexts, codes = draw_case(seeded("int8"), 1000, bins)
    small = [np.array(column, dtype=np.int8) for column in codes]
    assert len(plan_groups(1000, bins)) == 1
    assert encrypted_histogram(PUBLIC, ciphertexts, small, bins) == by_dictionary(ciphertexts, codes, bins)


@pytest.mark.parametrize(
    ("codes", "bins"),
    [([[0, 1]], [2, 2]), ([[0]], [2]), ([[0, 2]], [2]), ([[0, -1]], [2]), ([[0, 1], [0, 0, 0]], [2, 2])],
)
def test_codes_that_do_not_fit_rows_or_bins_are_refused(codes: list[list[int]], bins: list[int]) -> None:
    with pytest.raises(ValueError, match=r"codes|code outside"):
        encrypted_histogram(PUBLIC, [5, 7], codes, bins)


@pytest.mark.parametrize(("bins", "group", "share"), [(8, 4, 0.33), (32, 2, 0.56)])
def test_thirty_thousand_rows_are_grouped_in_fours_of_8_bins_and_pairs_of_32(
    bins: int, group: int, share: float
) -> None:
    groups = plan_groups(30_000, [bins] * 24)
    assert {len(members) for members in groups} == {group}
    assert count_multiplications(30_000, [bins] * 24, groups) < share * 30_000 * 24


@many
@given(rows=st.integers(0, 2000), bins=st.lists(st.integers(1, 12), min_size=1, max_size=9))
def test_every_feature_is_in_one_group_and_no_plan_costs_more_than_single_features(rows: int, bins: list[int]) -> None:
    groups = plan_groups(rows, bins)
    assert sorted(feature for group in groups for feature in group) == list(range(len(bins)))
    assert count_multiplications(rows, bins, groups) <= rows * len(bins)


def test_the_counted_multiplications_are_those_that_are_done_whatever_bins_are_empty(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done = []

    class Counting:
        def __init__(self, value: int) -> None:
            self.value = int(value)

        def __mul__(self, other: object) -> "Counting":
            done.append(1)
            return Counting(self.value * int(other))  # type: ignore[call-overload]

        def __mod__(self, modulus: object) -> "Counting":
            return Counting(self.value % int(modulus))  # type: ignore[call-overload]

        def __pow__(self, exponent: int) -> "Counting":
            return Counting(self.value**exponent)

        def __int__(self) -> int:
            return self.value

    monkeypatch.setattr(histogram, "mpz", Counting)
    bins, counts = [3, 4, 2, 5, 3], []
    ciphertexts, codes = draw_case(seeded("counting"), 200, bins)
    for columns in (codes, [[0] * 200 for _ in bins]):
        done.clear()
        result = histogram._histogram_block(PUBLIC.n, tuple(bins), ciphertexts, columns)
        assert result == by_dictionary(ciphertexts, columns, bins)
        counts.append(len(done))
    expected = count_multiplications(200, bins, plan_groups(200, bins))
    assert counts == [expected, expected]


@many
@given(exponents=st.lists(st.integers(0, 1 << 64), max_size=40), small=st.booleans(), seed=st.integers(0, 1 << 32))
def test_a_product_of_powers_equals_the_powers_multiplied(exponents: list[int], small: bool, seed: int) -> None:
    drbg = seeded("powers").child(seed)
    scalars = [exponent % 7 for exponent in exponents] if small else exponents
    bases = [drbg.between(1, MODULUS) for _ in scalars]
    expected = prod((pow(b, e, MODULUS) for b, e in zip(bases, scalars, strict=True)), start=1) % MODULUS
    assert multi_exponentiate(PUBLIC, bases, scalars) == expected


def test_workers_do_not_change_a_product_of_powers(executor: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    drbg = seeded("power workers")
    bases, exponents = [drbg.between(1, MODULUS) for _ in range(500)], [drbg.bits(20) for _ in range(500)]
    alone = multi_exponentiate(PUBLIC, bases, exponents)
    monkeypatch.setattr("lianxin.crypto.multiexp._BLOCK", 64)
    assert multi_exponentiate(PUBLIC, bases, exponents, executor) == alone


def test_more_terms_take_a_wider_window() -> None:
    assert window_bits(10, 64) < window_bits(1000, 64) < window_bits(30_000, 64)


@pytest.mark.parametrize(("bases", "exponents"), [([2], [1, 1]), ([2], [-1])])
def test_a_product_of_powers_refuses_other_lengths_and_negative_exponents(
    bases: list[int], exponents: list[int]
) -> None:
    with pytest.raises(ValueError, match="exponents"):
        multi_exponentiate(PUBLIC, bases, exponents)


@many
@given(weights=st.lists(st.integers(-(1 << 15), 1 << 15), max_size=12), seed=st.integers(0, 1 << 32))
def test_combined_bins_decrypt_to_the_weighted_sum_with_its_sign(weights: list[int], seed: int) -> None:
    drbg = seeded("weights").child(seed)
    values = [drbg.below(1 << 20) - (1 << 19) for _ in weights]
    combined = combine_bins(PUBLIC, ENCRYPTOR.encrypt_many(values, drbg), weights)
    expected = sum(weight * value for weight, value in zip(weights, values, strict=True))
    assert paillier.centred(DECRYPTOR.decrypt(combined, drbg), PUBLIC.n) == expected


def test_all_negative_weights_take_one_inversion(monkeypatch: pytest.MonkeyPatch) -> None:
    inversions, sound = [], gmpy2.invert
    monkeypatch.setattr(gmpy2, "invert", lambda value, modulus: inversions.append(1) or sound(value, modulus))
    combine_bins(PUBLIC, [3, 5, 7, 11], [-1, -2, 3, -4])
    assert len(inversions) == 1
