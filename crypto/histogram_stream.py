"""An encrypted histogram over rows that arrive in chunks: kept until a block is full, since joint codes save more in
larger blocks, and never longer, so that memory is bounded by the block (18 MB at 2048 bits)."""

from collections.abc import Sequence
from concurrent.futures import Executor

from lianxin.crypto import paillier
from lianxin.crypto.histogram import BLOCK_ROWS, encrypted_histogram


class HistogramStream:
    """Adds rows to the histogram of features with `bins[j]` bins each."""

    def __init__(
        self,
        public: paillier.PublicKey,
        bins: Sequence[int],
        executor: Executor | None = None,
        block_rows: int = BLOCK_ROWS,
    ) -> None:
        self._public, self._bins = public, tuple(bins)
        self._executor, self._block_rows = executor, block_rows
        self._rows: list[int] = []
        self._codes: list[list[int]] = [[] for _ in self._bins]
        self._totals = [[1] * count for count in self._bins]

    def add(self, ciphertexts: Sequence[int], codes: Sequence[Sequence[int]]) -> None:
        """Take rows, `codes[j][i]` being row i's bin of feature j. Raises ValueError for another number of codes."""
        if len(codes) != len(self._bins) or any(len(column) != len(ciphertexts) for column in codes):
            raise ValueError(f"{len(ciphertexts)} rows came with codes of another shape for {len(self._bins)} features")
        self._rows += ciphertexts
        for kept, column in zip(self._codes, codes, strict=True):
            kept += column
        while len(self._rows) >= self._block_rows:
            self._multiply_in(self._block_rows)

    def totals(self) -> list[list[int]]:
        """Return, per feature, the product of the rows of each bin so far; not re-randomised."""
        if self._rows:
            self._multiply_in(len(self._rows))
        return self._totals

    def _multiply_in(self, count: int) -> None:
        rows, codes = self._rows[:count], [column[:count] for column in self._codes]
        self._rows, self._codes = self._rows[count:], [column[count:] for column in self._codes]
        more = encrypted_histogram(self._public, rows, codes, self._bins, self._executor)
        self._totals = [
            [paillier.add(self._public, a, b) for a, b in zip(total, part, strict=True)]
            for total, part in zip(self._totals, more, strict=True)
        ]
