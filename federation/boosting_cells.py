"""Fixed point and layout of boosted trees (protocols.md, section 6): what one row, one cell and one ciphertext hold.

With p = 1/(1 + e^-z), class weight c (`positive_weight` of a bad, 1 of a good) and C the larger of both,

    g = c(p - y), at (2^15 - 1)/C           h = c·p(1 - p), at 4(2^16 - 1)/C

both rounded to the nearest integer of 16 bits, so that all sums are exact. A row is the cell

    1 + (g + 2^15)·2^a + h·2^(a+b),   a = bits of max_rows, b = a + 16, width w = a + 2b,

and a sum of at most max_rows rows keeps its three fields apart: `plan_cells` gives the layout only with that proof. With
shown nodes a ciphertext of histograms holds S = ⌊(|n| - 1)/w⌋ cells. With hidden nodes a row stands in the slot of its node,
2^(level-1) slots of w bits a level (one sibling of each pair is asked for), and ⌊S/slots⌋ sums share a ciphertext; every
depth and number of rows that a contract may name fits a modulus of 2048 bits.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from lianxin.crypto.errors import PackingOverflow
from lianxin.crypto.intervals import Interval, exactly, unsigned
from lianxin.crypto.packing import ProvedRange, prove_within
from lianxin.federation.boosting_ensemble import Floats, Ints
from lianxin.federation.contract import RunContract

VALUE_LIMIT = (1 << 15) - 1
OFFSET = 1 << 15
FIELD_BITS = 16
CURVATURE_LIMIT = (1 << FIELD_BITS) - 1


@dataclass(frozen=True)
class CellLayout:
    """`count_bits` and `sum_bits` of a cell's fields, `cells` whole cells in a plaintext; `proof` that none overflows."""

    count_bits: int
    sum_bits: int
    cells: int
    proof: tuple[ProvedRange, ...] = field(default=(), repr=False, compare=False)

    @property
    def width_bits(self) -> int:
        """w: the bits of one cell."""
        return self.count_bits + 2 * self.sum_bits

    def encode(self, gradients: Ints, curvatures: Ints) -> list[int]:
        """Return the cell of each row."""
        rows = zip((gradients + OFFSET).tolist(), curvatures.tolist(), strict=True)
        above = self.count_bits + self.sum_bits
        return [1 + (g << self.count_bits) + (h << above) for g, h in rows]

    def decode(self, cells: Sequence[int]) -> Ints:
        """Return cells x (rows, Σg, Σh)."""
        low, mask = (1 << self.count_bits) - 1, (1 << self.sum_bits) - 1
        above = self.count_bits + self.sum_bits
        fields = [(cell & low, cell >> self.count_bits & mask, cell >> above & mask) for cell in cells]
        sums = np.array(fields, dtype=np.int64).reshape(-1, 3)
        sums[:, 1] -= OFFSET * sums[:, 0]
        return sums


def slots_of(level: int) -> int:
    """Return how many nodes of a level are asked for at most: the root, then one of each pair of siblings."""
    return 1 if level == 0 else 1 << (level - 1)


def plan_cells(contract: RunContract) -> CellLayout:
    """Return the layout that the contract's sizes prove free of overflow. Raises PackingOverflow if a level does not fit."""
    count_bits = int(contract.max_rows).bit_length()
    sum_bits = count_bits + FIELD_BITS
    cells = (contract.key_bits - 1) // (count_bits + 2 * sum_bits)
    slots = slots_of(contract.depth - 1)
    if cells < slots:
        raise PackingOverflow(f"{slots} nodes of a level do not fit a key of {contract.key_bits} bits; lower the depth")
    return CellLayout(count_bits, sum_bits, cells, _prove(contract, count_bits, sum_bits, cells))


def _prove(contract: RunContract, count_bits: int, sum_bits: int, cells: int) -> tuple[ProvedRange, ...]:
    rows = unsigned(1).total_at_most(contract.max_rows)
    gradients = Interval(OFFSET - VALUE_LIMIT, OFFSET + VALUE_LIMIT).total_at_most(contract.max_rows)
    curvatures = unsigned(FIELD_BITS).total_at_most(contract.max_rows)
    width = count_bits + 2 * sum_bits
    cell = rows + (gradients << count_bits) + (curvatures << count_bits + sum_bits)
    plaintext = exactly(0)
    for place in range(cells):
        plaintext = plaintext + (cell << width * place)
    return (
        prove_within("rows of a cell", rows, unsigned(count_bits)),
        prove_within("gradients of a cell", gradients, unsigned(sum_bits)),
        prove_within("curvatures of a cell", curvatures, unsigned(sum_bits)),
        prove_within("a cell", cell, unsigned(width)),
        prove_within("all cells together", plaintext, unsigned(contract.key_bits - 1)),
    )


@dataclass(frozen=True)
class Scales:
    """Integers per unit of gradient and of curvature, from the class weight of bads in thousandths."""

    weight_permille: int

    @property
    def gradient(self) -> float:
        """How many steps of 16 bits a gradient of 1 is."""
        return VALUE_LIMIT * 1000.0 / max(1000, self.weight_permille)

    @property
    def curvature(self) -> float:
        """How many steps of 16 bits a curvature of 1 is."""
        return 4 * CURVATURE_LIMIT * 1000.0 / max(1000, self.weight_permille)

    def weights(self, labels: Ints) -> Floats:
        """Return the class weight of each row."""
        return np.where(labels == 1, self.weight_permille / 1000.0, 1.0)

    def quantised(self, chances: Floats, labels: Ints) -> tuple[Ints, Ints]:
        """Return (g, h) of each row as integers of 16 bits, from its probability to be bad."""
        weights = self.weights(labels)
        gradients = np.rint(weights * (chances - labels) * self.gradient)
        curvatures = np.rint(weights * chances * (1.0 - chances) * self.curvature)
        return (
            np.clip(gradients, -VALUE_LIMIT, VALUE_LIMIT).astype(np.int64),
            np.clip(curvatures, 0, CURVATURE_LIMIT).astype(np.int64),
        )
