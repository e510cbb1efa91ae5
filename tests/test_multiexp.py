"""Products of powers against single powers, their windows and blocks, and bins combined with signed weights."""

from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from math import prod

import gmpy2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torture import cases

from lianxin.crypto import paillier
from lianxin.crypto.blocks import cut_evenly
from lianxin.crypto.multiexp import combine_bins, multi_exponentiate, window_bits
from lianxin.crypto.randomness import Drbg


def seeded(name: str) -> Drbg:
    return Drbg(bytes(32)).child("test_multiexp", name)


KEY = paillier.generate_secret_key(128, "bank-a", "P4", "run-1", seeded("key"))
PUBLIC = KEY.public
MODULUS = int(PUBLIC.n_squared)
ENCRYPTOR, DECRYPTOR = paillier.OwnerEncryptor(KEY), paillier.Decryptor(KEY)


@pytest.fixture(scope="module", params=[ThreadPoolExecutor, ProcessPoolExecutor])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    with request.param(2) as workers:
        yield workers


@cases()
@given(exponents=st.lists(st.integers(0, 1 << 64), max_size=40), small=st.booleans(), seed=st.integers(0, 1 << 32))
def test_a_product_of_powers_equals_the_powers_multiplied(exponents: list[int], small: bool, seed: int) -> None:
    drbg = seeded("powers").child(seed)
    scalars = [exponent % 7 for exponent in exponents] if small else exponents
    bases = [drbg.between(1, MODULUS) for _ in scalars]
    expected = prod((pow(b, e, MODULUS) for b, e in zip(bases, scalars, strict=True)), start=1) % MODULUS
    assert multi_exponentiate(PUBLIC, bases, scalars) == expected


@cases()
@given(weights=st.lists(st.integers(0, 1 << 20), max_size=12), seed=st.integers(0, 1 << 32))
def test_a_product_of_powers_decrypts_to_the_weighted_sum(weights: list[int], seed: int) -> None:
    drbg = seeded("sums").child(seed)
    values = [drbg.below(1 << 20) - (1 << 19) for _ in weights]
    power = multi_exponentiate(PUBLIC, ENCRYPTOR.encrypt_many(values, drbg), weights)
    expected = sum(weight * value for weight, value in zip(weights, values, strict=True))
    assert paillier.centred(DECRYPTOR.decrypt(power, drbg), PUBLIC.n) == expected


def test_workers_and_block_sizes_do_not_change_a_product_of_powers(executor: Executor) -> None:
    drbg = seeded("power workers")
    bases, exponents = [drbg.between(1, MODULUS) for _ in range(500)], [drbg.bits(20) for _ in range(500)]
    alone = multi_exponentiate(PUBLIC, bases, exponents)
    for block_terms in (64, 100, 16384):
        assert multi_exponentiate(PUBLIC, bases, exponents, executor, block_terms) == alone


def test_encoded_bases_and_numpy_exponents_give_the_product_of_the_integers(executor: Executor) -> None:
    drbg = seeded("encoded")
    bases, exponents = [drbg.between(1, MODULUS) for _ in range(90)], [drbg.bits(20) for _ in range(90)]
    data, small = paillier.encode_ciphertexts(PUBLIC, bases), np.array(exponents, dtype=np.int32)
    alone = multi_exponentiate(PUBLIC, bases, exponents)
    assert multi_exponentiate(PUBLIC, data, small) == alone
    assert multi_exponentiate(PUBLIC, data, small, executor, block_terms=40) == alone


@cases()
@given(count=st.integers(0, 500), largest=st.integers(1, 70))
def test_blocks_cover_everything_once_in_the_fewest_blocks_of_nearly_equal_size(count: int, largest: int) -> None:
    blocks = cut_evenly(count, largest)
    sizes = [block.stop - block.start for block in blocks]
    assert [item for block in blocks for item in range(count)[block]] == list(range(count))
    assert len(blocks) == -(-count // largest)
    assert max(sizes, default=0) - min(sizes, default=0) <= 1


def test_more_terms_take_a_wider_window() -> None:
    assert window_bits(10, 64) < window_bits(1000, 64) < window_bits(30_000, 64)


@pytest.mark.parametrize(("bases", "exponents"), [([2], [1, 1]), ([2], [-1]), (bytes(32), [1, 1])])
def test_a_product_of_powers_refuses_other_lengths_and_negative_exponents(
    bases: list[int] | bytes, exponents: list[int]
) -> None:
    with pytest.raises(ValueError, match="exponents"):
        multi_exponentiate(PUBLIC, bases, exponents)


@pytest.mark.parametrize("bases", [[MODULUS], [-1], bytes(31)])
def test_a_product_of_powers_refuses_bases_that_are_no_residues(bases: list[int] | bytes) -> None:
    with pytest.raises(ValueError, match="residue"):
        multi_exponentiate(PUBLIC, bases, [1])


@cases()
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
