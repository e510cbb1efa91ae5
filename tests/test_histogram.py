"""The encrypted histogram against a dictionary, its plan of groups and tasks, and a sibling by subtraction."""

import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from itertools import product
from math import prod

import gmpy2
import numpy as np
import pytest
from gmpy2 import mpz
from hypothesis import given
from hypothesis import strategies as st
from torture import cases

from lianxin.crypto import histogram, paillier
from lianxin.crypto.errors import CiphertextRejected
from lianxin.crypto.histogram import (
    count_multiplications,
    encrypted_histogram,
    encrypted_histograms,
    plan_groups,
    subtract_histogram,
)
from lianxin.crypto.randomness import Drbg


def seeded(name: str) -> Drbg:
    return Drbg(bytes(32)).child("test_histogram", name)


KEY = paillier.generate_secret_key(128, "bank-a", "P4", "run-1", seeded("key"))
PUBLIC = KEY.public
MODULUS = int(PUBLIC.n_squared)
ENCRYPTOR, DECRYPTOR = paillier.OwnerEncryptor(KEY), paillier.Decryptor(KEY)
bin_counts = st.lists(st.integers(1, 5), max_size=6)
seeds = st.integers(0, 1 << 32)


@pytest.fixture(scope="module", params=[ThreadPoolExecutor, ProcessPoolExecutor])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    with request.param(2) as workers:
        yield workers


class Recorder(Executor):
    """Runs nothing before its result is asked for; keeps what was submitted and how much of it waited at most."""

    def __init__(self) -> None:
        self.submitted: list[tuple] = []
        self.waiting = self.most = 0

    def submit(self, work: Callable, /, *args: object, **_: object) -> Future:
        recorder = self

        class Later(Future):
            def result(self, timeout: float | None = None) -> object:
                recorder.waiting -= 1
                return work(*args)

        self.submitted.append(args)
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        return Later()


def by_dictionary(ciphertexts: list[int], codes: list[list[int]], bins: list[int]) -> list[list[int]]:
    cells = [dict.fromkeys(range(count), 1) for count in bins]
    for i, ciphertext in enumerate(ciphertexts):
        for column, table in zip(codes, cells, strict=True):
            table[column[i]] = table[column[i]] * ciphertext % MODULUS
    return [list(table.values()) for table in cells]


def draw_case(drbg: Drbg, rows: int, bins: list[int]) -> tuple[list[int], list[list[int]]]:
    ciphertexts = [drbg.between(1, MODULUS) for _ in range(rows)]
    return ciphertexts, [[drbg.below(count) for _ in range(rows)] for count in bins]


@cases()
@given(rows=st.integers(0, 40), bins=bin_counts, seed=seeds)
def test_a_histogram_equals_the_product_over_each_bins_rows(rows: int, bins: list[int], seed: int) -> None:
    ciphertexts, codes = draw_case(seeded("cases").child(seed), rows, bins)
    assert encrypted_histogram(PUBLIC, ciphertexts, codes, bins) == by_dictionary(ciphertexts, codes, bins)


@cases()
@given(rows=st.integers(0, 40), bins=bin_counts, block_rows=st.integers(1, 50), seed=seeds)
def test_blocks_and_bundles_of_any_size_give_the_same_histogram(
    rows: int, bins: list[int], block_rows: int, seed: int
) -> None:
    ciphertexts, codes = draw_case(seeded("blocks").child(seed), rows, bins)
    cells = encrypted_histogram(PUBLIC, ciphertexts, codes, bins, Recorder(), block_rows, in_flight=3)
    assert cells == by_dictionary(ciphertexts, codes, bins)


@cases()
@given(shape=st.lists(st.integers(1, 5), min_size=1, max_size=5), seed=seeds)
def test_each_marginal_is_the_product_over_all_cells_with_that_index(shape: list[int], seed: int) -> None:
    drbg = seeded("marginals").child(seed)
    cells = [mpz(drbg.between(1, MODULUS)) for _ in range(prod(shape))]
    expected = [[1] * count for count in shape]
    for index, cell in zip(product(*map(range, shape)), cells, strict=True):
        for axis, position in enumerate(index):
            expected[axis][position] = expected[axis][position] * cell % MODULUS
    assert histogram._marginals(cells, shape, PUBLIC.n_squared) == expected


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
    assert encrypted_histogram(PUBLIC, [5, 7], [], []) == []


def test_workers_and_block_sizes_do_not_change_a_histogram(executor: Executor) -> None:
    bins = [4, 4, 4, 2, 9]
    ciphertexts, codes = draw_case(seeded("workers"), 700, bins)
    alone = encrypted_histogram(PUBLIC, ciphertexts, codes, bins)
    for block_rows in (64, 100, 16384):
        assert encrypted_histogram(PUBLIC, ciphertexts, codes, bins, executor, block_rows) == alone


@pytest.mark.parametrize("recorder", [None, Recorder()])
def test_encoded_ciphertexts_give_the_histogram_of_their_integers(recorder: Executor | None) -> None:
    bins = [4, 3]
    ciphertexts, codes = draw_case(seeded("encoded"), 90, bins)
    data = paillier.encode_ciphertexts(PUBLIC, ciphertexts)
    assert encrypted_histogram(PUBLIC, data, codes, bins, recorder, 40) == by_dictionary(ciphertexts, codes, bins)


def test_a_task_carries_the_modulus_and_bytes_of_fixed_length_and_no_more() -> None:
    recorder, bins = Recorder(), [40] * 6
    ciphertexts, codes = draw_case(seeded("task"), 90, bins)
    encrypted_histogram(PUBLIC, ciphertexts, codes, bins, recorder, 45)
    for n, part, _, joint in recorder.submitted:
        assert n == PUBLIC.n
        assert len(part) == 45 * PUBLIC.ciphertext_bytes
        assert all(len(column) == 45 * 4 for column in joint)
    carried = max(len(pickle.dumps(task)) for task in recorder.submitted)
    assert carried < 45 * (PUBLIC.ciphertext_bytes + 4 * len(bins)) + 500


def test_no_more_tasks_wait_than_were_allowed() -> None:
    recorder = Recorder()
    ciphertexts, codes = draw_case(seeded("waiting"), 90, [3, 3])
    encrypted_histogram(PUBLIC, ciphertexts, codes, [3, 3], recorder, 9, in_flight=3)
    assert len(recorder.submitted) >= 10
    assert recorder.most == 3


def test_codes_in_small_numpy_integers_do_not_overflow_in_joint_codes() -> None:
    bins = [100, 3]
    ciphertexts, codes = draw_case(seeded("int8"), 1000, bins)
    small = [np.array(column, dtype=np.int8) for column in codes]
    assert len(plan_groups(1000, bins)) == 1
    assert encrypted_histogram(PUBLIC, ciphertexts, small, bins) == by_dictionary(ciphertexts, codes, bins)


@pytest.mark.parametrize(
    ("codes", "bins"),
    [
        ([[0, 1]], [2, 2]),
        ([[0]], [2]),
        ([[0, 2]], [2]),
        ([[0, -1]], [2]),
        ([[0, 0.5]], [2]),
        ([[0, 1 << 70]], [2]),
        ([[0, 1], [0, 0, 0]], [2, 2]),
    ],
)
def test_codes_that_do_not_fit_rows_or_bins_are_refused(codes: list[list[int]], bins: list[int]) -> None:
    with pytest.raises(ValueError, match=r"codes|code outside"):
        encrypted_histogram(PUBLIC, [5, 7], codes, bins)


@pytest.mark.parametrize("ciphertexts", [[5, MODULUS], [5, -1], bytes(2 * PUBLIC.ciphertext_bytes - 1)])
def test_ciphertexts_that_are_no_residues_are_refused(ciphertexts: list[int] | bytes) -> None:
    with pytest.raises(ValueError, match=r"residue"):
        encrypted_histogram(PUBLIC, ciphertexts, [[0, 0]], [2])


@pytest.mark.parametrize("limits", [{"block_rows": 0}, {"in_flight": 0}])
def test_a_limit_that_lets_nothing_through_is_refused(limits: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least one"):
        encrypted_histogram(PUBLIC, [5, 7], [[0, 1]], [2], **limits)


@pytest.mark.parametrize(("bins", "group", "share"), [(8, 4, 0.33), (32, 2, 0.56)])
def test_thirty_thousand_rows_are_grouped_in_fours_of_8_bins_and_pairs_of_32(
    bins: int, group: int, share: float
) -> None:
    groups = plan_groups(30_000, [bins] * 24)
    assert {len(members) for members in groups} == {group}
    assert count_multiplications(30_000, [bins] * 24, groups) < share * 30_000 * 24


@cases()
@given(rows=st.integers(0, 2000), bins=st.lists(st.integers(1, 12), min_size=1, max_size=9))
def test_every_feature_is_in_one_group_and_no_plan_costs_more_than_single_features(rows: int, bins: list[int]) -> None:
    groups = plan_groups(rows, bins)
    assert sorted(feature for group in groups for feature in group) == list(range(len(bins)))
    assert count_multiplications(rows, bins, groups) <= rows * len(bins)


@pytest.mark.parametrize("bins", [8, 32])
def test_thirty_thousand_rows_are_two_tasks_of_nearly_equal_work_and_no_multiplication_more(bins: int) -> None:
    counts = [bins] * 23
    bundles = histogram._bundles(30_000, counts, shared=True)
    work = [count_multiplications(30_000, counts, bundle) for bundle in bundles]
    assert len(bundles) == 2
    assert max(work) < 1.1 * min(work)
    assert sum(work) == count_multiplications(30_000, counts, plan_groups(30_000, counts))


@cases()
@given(rows=st.integers(1, 2000), bins=st.lists(st.integers(1, 12), min_size=1, max_size=30))
def test_bundles_hold_every_group_of_the_plan_once(rows: int, bins: list[int]) -> None:
    groups = sorted(plan_groups(rows, bins))
    assert sorted(group for bundle in histogram._bundles(rows, bins, shared=True) for group in bundle) == groups
    assert [sorted(bundle) for bundle in histogram._bundles(rows, bins, shared=False)] == [groups]


class Counting:
    """A number that counts its multiplications; stands in for mpz."""

    done = 0

    def __init__(self, value: int) -> None:
        self.value = int(value)

    def __mul__(self, other: object) -> "Counting":
        Counting.done += 1
        return Counting(self.value * int(other))  # type: ignore[call-overload]

    def __mod__(self, modulus: object) -> "Counting":
        return Counting(self.value % int(modulus))  # type: ignore[call-overload]

    def __pow__(self, exponent: int) -> "Counting":
        return Counting(self.value**exponent)

    def __int__(self) -> int:
        return self.value

    def bit_length(self) -> int:
        return self.value.bit_length()


COUNTED_BINS = [3, 4, 2, 5, 3]


def multiplications_done(ciphertexts: list[int], codes: list[list[int]]) -> int:
    """Return how many multiplications the histogram takes, after a check that it is right."""
    groups = plan_groups(len(ciphertexts), COUNTED_BINS)
    shapes = [[COUNTED_BINS[feature] for feature in group] for group in groups]
    joint = [histogram._joint_codes(codes, COUNTED_BINS, group, slice(0, len(ciphertexts))) for group in groups]
    Counting.done = 0
    cells = histogram._bundle_block(PUBLIC.n, ciphertexts, shapes, joint)
    expected = by_dictionary(ciphertexts, codes, COUNTED_BINS)
    in_order = [cell for group in groups for feature in group for cell in expected[feature]]
    assert cells == b"".join(cell.to_bytes(PUBLIC.ciphertext_bytes, "big") for cell in in_order)
    return Counting.done


def test_the_counted_multiplications_are_those_that_are_done_whatever_bins_are_empty(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(histogram, "mpz", Counting)
    ciphertexts, codes = draw_case(seeded("counting"), 200, COUNTED_BINS)
    expected = count_multiplications(200, COUNTED_BINS, plan_groups(200, COUNTED_BINS))
    assert multiplications_done(ciphertexts, codes) == expected
    assert multiplications_done(ciphertexts, [[0] * 200 for _ in COUNTED_BINS]) == expected


def test_without_a_one_in_every_cell_the_count_would_tell_how_many_joint_bins_are_empty(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def first_row_for_free(rows: list[mpz], joint: list[int], cells: int, modulus: mpz) -> list[Counting]:
        table: list[Counting | None] = [None] * cells
        for code, row in zip(joint, rows, strict=True):
            cell = table[code]
            table[code] = Counting(row) if cell is None else cell * row % modulus
        return [cell or Counting(1) for cell in table]

    monkeypatch.setattr(histogram, "mpz", Counting)
    monkeypatch.setattr(histogram, "_accumulate", first_row_for_free)
    ciphertexts, codes = draw_case(seeded("counting"), 200, COUNTED_BINS)
    spread, heaped = multiplications_done(ciphertexts, codes), multiplications_done(ciphertexts, [[0] * 200] * 5)
    filled = [len({*zip(*(codes[f] for f in group), strict=True)}) for group in plan_groups(200, COUNTED_BINS)]
    assert heaped - spread == sum(filled) - len(filled)


def units(drbg: Drbg, count: int) -> list[int]:
    values = [drbg.between(1, MODULUS) for _ in range(4 * count)]
    return [value for value in values if gmpy2.gcd(value, PUBLIC.n) == 1][:count]


@cases()
@given(rows=st.integers(0, 40), bins=bin_counts, seed=seeds)
def test_a_sibling_by_subtraction_is_the_histogram_of_the_rows_that_are_left(
    rows: int, bins: list[int], seed: int
) -> None:
    drbg = seeded("siblings").child(seed)
    ciphertexts, (_, codes) = units(drbg, rows), draw_case(drbg, rows, bins)
    kept = [drbg.bits(1) for _ in range(rows)]

    def over(side: int) -> list[list[int]]:
        chosen = [i for i in range(rows) if kept[i] == side]
        part = [[column[i] for i in chosen] for column in codes]
        return encrypted_histogram(PUBLIC, [ciphertexts[i] for i in chosen], part, bins)

    parent = encrypted_histogram(PUBLIC, ciphertexts, codes, bins)
    assert subtract_histogram(PUBLIC, parent, over(1)) == over(0)


def test_a_sibling_takes_one_inversion_however_many_bins(monkeypatch: pytest.MonkeyPatch) -> None:
    inversions, sound = [], gmpy2.invert
    monkeypatch.setattr(gmpy2, "invert", lambda value, modulus: inversions.append(1) or sound(value, modulus))
    assert subtract_histogram(PUBLIC, [[6, 35], [22, 13, 1]], [[2, 5], [11, 13, 1]]) == [[3, 7], [2, 1, 1]]
    assert len(inversions) == 1


@pytest.mark.parametrize("child", [[[2, 5]], [[2], [3, 5]], [[2, 5], [3], []], [[2, 5, 7], [3]]])
def test_a_child_of_another_shape_has_no_sibling(child: list[list[int]]) -> None:
    assert subtract_histogram(PUBLIC, [[2, 5], [3]], [[2, 5], [3]]) == [[1, 1], [1]]
    with pytest.raises(ValueError, match="has no child with bins"):
        subtract_histogram(PUBLIC, [[2, 5], [3]], child)


def test_a_child_with_a_bin_that_is_no_unit_has_no_sibling() -> None:
    p, _ = KEY.reveal_primes()
    with pytest.raises(CiphertextRejected, match="no unit") as refusal:
        subtract_histogram(PUBLIC, [[2, 5]], [[2, p]])
    assert str(p) not in str(refusal.value)


def test_several_tables_at_once_give_what_each_gives_alone(executor: Executor) -> None:
    drbg, bins = seeded("several tables"), [3, 5, 2]
    tables = []
    for rows in (40, 7, 23):
        codes = [[drbg.below(count) for _ in range(rows)] for count in bins]
        tables.append((ENCRYPTOR.encrypt_many(range(rows), drbg), codes))
    alone = [encrypted_histogram(PUBLIC, *table, bins) for table in tables]
    for lent in (None, executor):
        assert encrypted_histograms(PUBLIC, tables, bins, lent, block_rows=16) == alone
    with pytest.raises(ValueError, match="codes for"):
        encrypted_histograms(PUBLIC, [tables[0], (tables[1][0], tables[2][1])], bins)
