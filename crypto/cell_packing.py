"""Several encrypted cells in one ciphertext, packed by whoever cannot open them (SecureBoost+, 2021, "cipher compression").

For cells c_0 … c_{S-1} that encrypt non-negative m_k < 2^W, Horner's scheme

    ((c_{S-1}^{2^W}·c_{S-2})^{2^W}·…)^{2^W}·c_0  encrypts  Σ m_k·2^{Wk}:

W squarings and one multiplication a cell (`split_residues`), S times fewer randomisers, bytes and decryptions. The caller
proves that every cell fits W bits and S·W bits the plaintext (`intervals`); a cell that did not would run over into the next
one. Groups are packed independently, so that an executor may share them. The result is a product, hence not re-randomised.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from itertools import chain

from gmpy2 import mpz

from lianxin.crypto.blocks import cut_evenly, decode_residues, encode_residues, run_blocks
from lianxin.crypto.errors import PackingOverflow
from lianxin.crypto.paillier import PublicKey
from lianxin.crypto.split_residues import Split, join_residue, multiply_split, split_residues, square_often

_GROUPS_A_BLOCK = 8


def pack_cells(
    public: PublicKey, cells: Sequence[int], width_bits: int, a_ciphertext: int, executor: Executor | None = None
) -> list[int]:
    """Return ⌈len(cells)/a_ciphertext⌉ ciphertexts, the last one with the cells that are left.

    Raises PackingOverflow unless `a_ciphertext` cells of `width_bits` fit a plaintext below every n of that length.
    """
    check_fits(public, width_bits, a_ciphertext)
    groups = [slice(at, at + a_ciphertext) for at in range(0, len(cells), a_ciphertext)]
    blocks = _blocks(public, cells, [groups[part] for part in cut_evenly(len(groups), _GROUPS_A_BLOCK)])
    shared = (int(public.n), int(width_bits), int(a_ciphertext))
    width = public.ciphertext_bytes
    packed = (decode_residues(part, width) for part in run_blocks(_pack_block, shared, blocks, executor))
    return [int(c) for c in chain.from_iterable(packed)]


def _blocks(public: PublicKey, cells: Sequence[int], parts: Sequence[Sequence[slice]]) -> Iterator[tuple[bytes]]:
    for groups in parts:
        yield (encode_residues(cells[groups[0].start : groups[-1].stop], public.ciphertext_bytes),)


def _pack_block(n: int, width_bits: int, a_ciphertext: int, cells: bytes) -> bytes:
    half = mpz(n)
    width = ((half * half).bit_length() + 7) // 8
    rows = split_residues(decode_residues(cells, width), half)
    groups = [rows[at : at + a_ciphertext] for at in range(0, len(rows), a_ciphertext)]
    return encode_residues([join_residue(_horner(group, width_bits, half), half) for group in groups], width)


def _horner(cells: Sequence[Split], width_bits: int, n: mpz) -> Split:
    packed = cells[-1]
    for cell in reversed(cells[:-1]):
        packed = multiply_split(square_often(packed, width_bits, n), cell, n)
    return packed


def check_fits(public: PublicKey, width_bits: int, a_ciphertext: int) -> None:
    """Raise PackingOverflow unless that many cells stay below 2^(|n|-1), hence below n."""
    if width_bits < 1 or a_ciphertext < 1:
        raise PackingOverflow("a ciphertext holds at least one cell of at least one bit")
    if width_bits * a_ciphertext > public.bits - 1:
        raise PackingOverflow(f"{a_ciphertext} cells of {width_bits} bits exceed a plaintext of {public.bits - 1} bits")


def unpack_cells(values: Sequence[int], width_bits: int, a_ciphertext: int, count: int) -> list[int]:
    """Return the `count` cells of decrypted values, each in [0, 2^W).

    Raises PackingOverflow where the values are not exactly those of so many cells: another number of them, or bits above the
    last cell of one.
    """
    if len(values) != -(-count // a_ciphertext):
        raise PackingOverflow(f"{len(values)} packed values for {count} cells, {a_ciphertext} in each")
    cells, mask = list[int](), (1 << width_bits) - 1
    for value in map(int, values):
        inside = min(a_ciphertext, count - len(cells))
        if value < 0 or value >> (width_bits * inside):
            raise PackingOverflow(f"a packed value is longer than its {inside} cells")
        cells += [value >> (width_bits * place) & mask for place in range(inside)]
    return cells
