"""A secure sum is the plain sum, exactly, over whoever's vector came; with too few left it stays closed."""

import json
from pathlib import Path

import numpy as np
import pytest
import sums_world
from hypothesis import given
from hypothesis import strategies as st
from sums_world import STAGES, Sums, names_of, plain_sum, terms_of, values_of
from torture import cases

from lianxin.crypto import pairwise_masks
from lianxin.crypto.randomness import Drbg
from lianxin.federation.errors import RunStopped
from lianxin.federation.secure_sum import SumBelowThreshold, SumCheated, from_ring, to_ring

VECTORS = json.loads((Path(__file__).parent / "vectors" / "secure_sums.json").read_text())
WIDTHS = (64, 94, 97)


def spare(banks: int) -> int:
    return banks - terms_of(banks).threshold


@pytest.mark.parametrize("width_bits", [1, 8, 63, *WIDTHS])
@pytest.mark.parametrize("banks", [2, 3, 4, 5, 12])
def test_a_total_is_the_plain_sum(banks: int, width_bits: int) -> None:
    sums = Sums(terms_of(banks, width_bits=width_bits))
    assert sums.run() == sums.expected() and sums.platform.contributors == names_of(banks)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("banks", [4, 5, 12])
def test_as_many_banks_as_the_threshold_allows_may_be_lost_at_any_stage(banks: int, stage: str) -> None:
    gone = names_of(banks)[-spare(banks) :]
    sums = Sums(terms_of(banks), lost={stage: gone})
    assert sums.run() == sums.expected()
    came = stage in ("agree", "open")
    assert set(gone) <= set(sums.platform.contributors) if came else not set(gone) & set(sums.platform.contributors)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("banks", [2, 3, 4, 5, 12])
def test_one_more_lost_bank_keeps_the_sum_closed_and_says_how_many_are_missing(banks: int, stage: str) -> None:
    gone = names_of(banks)[: spare(banks) + 1]
    sums = Sums(terms_of(banks), lost={stage: gone})
    with pytest.raises(SumBelowThreshold) as stopped:
        sums.run()
    assert stopped.value.missing == gone and stopped.value.left == banks - len(gone)
    assert f"{len(gone)} are missing" in str(stopped.value) and isinstance(stopped.value, RunStopped)


@pytest.mark.parametrize("last", ["agree", "open"])
@pytest.mark.parametrize("first", ["keys", "shares"])
def test_banks_may_be_lost_before_and_after_their_vectors_in_one_sum(first: str, last: str) -> None:
    """A survivor that is lost too takes its pair seeds along: the others' shares of them open what is left."""
    names = names_of(12)
    sums = Sums(terms_of(12), lost={first: names[:1], "masked": names[1:2], last: names[2:3]})
    assert sums.run() == sums.expected()
    assert sums.platform.contributors == names[2:]


@cases(per_example=12)  # four values in each of three rings
@given(st.integers(0, 1 << 64), st.integers(2, 5), st.lists(st.sampled_from(STAGES), max_size=3))
def test_whoever_is_lost_a_total_is_the_plain_sum_or_there_is_none(seed: int, banks: int, stages: list[str]) -> None:
    drbg = Drbg(bytes(32)).child("test_secure_sum", seed)
    order = list(names_of(banks))
    drbg.shuffle(order)
    lost: dict[str, list[str]] = {}
    for bank, stage in zip(order, stages, strict=False):
        lost.setdefault(stage, []).append(bank)
    for width_bits in WIDTHS:
        terms = terms_of(banks, width_bits=width_bits, length=4)
        sums = Sums(terms, values_of(terms, seed), lost, seed=seed)
        if sum(map(len, lost.values())) <= spare(banks):
            assert sums.run() == sums.expected()
            continue
        try:
            assert sums.run() == sums.expected()
        except SumBelowThreshold:
            assert not sums.sent.get("open") or len(sums.sent["open"]) < terms.threshold


def test_signed_numbers_come_back_with_their_signs() -> None:
    terms = terms_of(3, length=4)
    numbers = {bank: np.array([-1, -(2**62), at, 0], dtype=np.int64) for at, bank in enumerate(terms.banks)}
    numbers["bank-03"][1] = 2**62
    sums = Sums(terms, {bank: to_ring(values, 64).tolist() for bank, values in numbers.items()})
    total = from_ring(np.array(sums.run(), dtype=np.uint64), 64)
    assert total.dtype == np.int64 and total.tolist() == [-3, -(2**62), 3, 0]


@cases()
@given(st.integers(2, 130), st.lists(st.integers(), min_size=1, max_size=4))
def test_the_ring_holds_signed_numbers_or_refuses_them(width_bits: int, numbers: list[int]) -> None:
    half = 1 << (width_bits - 1)
    if all(-half <= number < half for number in numbers):
        assert list(from_ring(to_ring(numbers, width_bits), width_bits)) == numbers
    else:
        with pytest.raises(RunStopped, match="does not fit"):
            to_ring(numbers, width_bits)


def test_lists_and_words_give_one_total_in_a_ring_of_64_bits() -> None:
    terms = terms_of(3)
    values = values_of(terms)
    sums = Sums(terms, values)
    sums.in_ring = lambda bank: list(values[bank])  # type: ignore[method-assign]
    assert sums.run() == plain_sum(terms, values, terms.banks)


def test_a_masked_vector_and_every_partial_sum_look_uniform() -> None:
    terms = terms_of(4, width_bits=8, length=20_000)
    sums = Sums(terms, {bank: [3] * terms.length for bank in terms.banks})
    sums.until_masked()
    masked = list(sums.sent["masked"].values())
    for vectors in ([masked[0]], masked[:2], masked[1:], masked):
        counts = np.bincount(pairwise_masks.sum_masked(vectors, 8), minlength=256)
        expected = terms.length / 256
        assert (
            (counts - expected) ** 2 / expected
        ).sum() < 400  # 255 degrees of freedom: chance passes it once in 10^8


def test_the_masks_of_words_are_the_masks_of_integers() -> None:
    words = pairwise_masks.keystream_words(b"k" * 32, "label", 50)
    assert words.tolist() == pairwise_masks.keystream(b"k" * 32, "label", 50, 64)


# ---- same seed, same bytes


@pytest.mark.parametrize("banks", [3, 5, 40])
def test_a_sum_under_fixed_keys_is_the_recorded_one(banks: int) -> None:
    recorded = VECTORS["sums"][str(banks)]
    assert sums_world.digest_of(banks) == recorded


def test_another_label_run_or_seed_shares_no_key_mask_or_box() -> None:
    def said(**changes: object) -> set[str]:
        terms = terms_of(3, **{key: value for key, value in changes.items() if key != "seed"})
        sums = Sums(terms, values_of(terms_of(3)), seed=int(changes.get("seed", 0)))  # type: ignore[call-overload]
        sums.until_masked()
        boxes = [box for sent in sums.sent["shares"].values() for box in sent.values()]
        vectors = [value for vector in sums.sent["masked"].values() for value in map(str, vector)]
        return {*sums.sent["keys"].values(), *map(str, boxes), *vectors}

    every = [said(), said(label="train/1/1/0"), said(run="run-2"), said(contract_hash="d" * 64), said(seed=1)]
    assert len(set().union(*every)) == sum(map(len, every))


# ---- what a bank refuses of itself

BAD_VALUES = {
    "too long": np.zeros(6, dtype=np.uint64),
    "too short": [1, 2],
    "of fractions": np.zeros(5, dtype=np.float64),
    "with signs": np.zeros(5, dtype=np.int64),
    "in two dimensions": np.zeros((5, 1), dtype=np.uint64),
    "above the ring": [0, 0, 0, 0, 2**64],
    "below the ring": [0, 0, 0, 0, -1],
    "no numbers": ["1"] * 5,
    "truth values": [True] * 5,
    "nothing": None,
}


@pytest.mark.parametrize("case", BAD_VALUES)
def test_a_value_that_does_not_fit_is_refused_before_it_is_masked(case: str) -> None:
    sums = Sums(terms_of(3))
    sums.in_ring = lambda _bank: BAD_VALUES[case]  # type: ignore[method-assign]
    with pytest.raises(RunStopped, match="nothing was sent") as stopped:
        sums.run()
    assert "masked" not in sums.sent and str(2**64) not in str(stopped.value)


BAD_TERMS = {
    "one bank listed twice": {"banks": ("bank-01", "bank-01", "bank-02")},
    "a bank that the contract does not have": {"banks": ("bank-01", "bank-02", "bank-99")},
    "one bank": {"banks": ("bank-01",), "threshold": 1},
    "a threshold of one": {"threshold": 1},
    "a threshold above the banks": {"threshold": 4},
    "no value": {"length": 0},
    "no ring": {"width_bits": 0},
    "no label": {"label": ""},
}


@pytest.mark.parametrize("case", BAD_TERMS)
def test_terms_that_cannot_be_are_refused(case: str) -> None:
    with pytest.raises(SumCheated) as refused:
        terms_of(3, **{"node_keys": terms_of(3).node_keys, **BAD_TERMS[case]})
    assert refused.value.rule == "SS01"


def test_a_secret_shows_in_no_text_of_a_sum() -> None:
    sums = Sums(terms_of(3))
    assert repr(sums.banks["bank-01"]) == "BankSum('bank-01', 'train/1/0/0', stage='keys')"
    assert "node_keys" not in repr(sums.terms)
