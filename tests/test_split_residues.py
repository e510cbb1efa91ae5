"""Residues modulo n² as two digits base n multiply and square as the residues themselves."""

from itertools import product

from gmpy2 import mpz

from lianxin.crypto.randomness import Drbg
from lianxin.crypto.split_residues import join_residue, multiply_split, split_residues, square_often

MODULI = (2, 15, (1 << 127) - 1, Drbg(bytes(32)).child("modulus").bits(2048) | 1)


def residues(n: int) -> list[mpz]:
    drbg = Drbg(bytes(32)).child("test_split_residues", n)
    edges = [0, 1, n - 1, n, n + 1, n * n - 1]
    return [mpz(c) for c in [*edges, *(drbg.below(n * n) for _ in range(20))]]


def test_both_digits_are_below_n_and_give_the_residue_back() -> None:
    for n in map(mpz, MODULI):
        split = split_residues(residues(int(n)), n)
        assert all(0 <= digit < n for digits in split for digit in digits)
        assert [join_residue(digits, n) for digits in split] == residues(int(n))


def test_split_products_are_the_products_and_split_again() -> None:
    for n in map(mpz, MODULI):
        cs = residues(int(n))
        for (a, first), (b, second) in product(zip(cs, split_residues(cs, n), strict=True), repeat=2):
            assert multiply_split(first, second, n) == split_residues([a * b % n**2], n)[0]


def test_squares_of_split_residues_are_powers_of_the_residue() -> None:
    for n, times in product(map(mpz, MODULI), (0, 1, 2, 77)):
        cs = residues(int(n))
        squares = [square_often(digits, times, n) for digits in split_residues(cs, n)]
        assert squares == split_residues([pow(c, 1 << times, n**2) for c in cs], n)
