"""The 132 secret residues behind an evaluator's tables, made once by all workers together and then told to each.

A worker that made them alone would take a second of its processor at 2048 bits, and every other one the same again. They
follow from the evaluator's seed, which workers are told anyway, so that who made them changes no draw.
"""

from collections.abc import Sequence
from concurrent.futures import Executor
from functools import lru_cache

from gmpy2 import mpz

from lianxin.crypto.blocks import cut_blocks, encode_residues, run_blocks
from lianxin.crypto.fixed_base import CACHED_KEYS, evaluator_units, residues_of

_BLOCK = 11


def made_by(n: int, seed: bytes, executor: Executor | None) -> bytes:
    """Return the residues in fixed length one after the other (68 kB at 2048 bits), made by `executor` at the first call;
    nothing without an executor, since who draws then makes them with its tables."""
    if executor is None:
        return b""
    kept = _kept(n, seed)
    if not kept:
        blocks = ((units,) for units in cut_blocks(evaluator_units(n, seed), _BLOCK))
        kept.append(b"".join(run_blocks(_make_block, (n,), blocks, executor)))
    return kept[0]


def forget() -> None:
    """Let go of all of them."""
    _kept.cache_clear()


@lru_cache(maxsize=CACHED_KEYS)
def _kept(n: int, seed: bytes) -> list[bytes]:
    """Return what is kept of an evaluator: an empty list at first, which its maker fills."""
    return []


def _make_block(n: int, units: Sequence[int]) -> bytes:
    width = ((mpz(n) ** 2).bit_length() + 7) // 8
    return encode_residues(residues_of(n, units), width)
