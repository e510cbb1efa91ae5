"""Rows in chunks give the histogram of all rows, and no more than a block of them is held."""

import pytest

from lianxin.crypto.histogram import encrypted_histogram
from lianxin.crypto.histogram_stream import HistogramStream
from lianxin.crypto.paillier import PublicKey
from lianxin.crypto.randomness import Drbg

PUBLIC = PublicKey(2**61 - 1, "bank", "labels", "run")
BINS = [3, 8, 2]


def rows_and_codes(count):
    drbg = Drbg(b"h" * 32)
    rows = [drbg.between(1, int(PUBLIC.n_squared)) for _ in range(count)]
    return rows, [[drbg.below(bins) for _ in range(count)] for bins in BINS]


@pytest.mark.parametrize("chunk", [1, 7, 64, 100, 1000])
@pytest.mark.parametrize("block_rows", [1, 64, 10_000])
def test_chunks_and_blocks_of_any_size_give_the_histogram_of_all_rows(chunk, block_rows):
    rows, codes = rows_and_codes(300)
    stream = HistogramStream(PUBLIC, BINS, block_rows=block_rows)
    for start in range(0, 300, chunk):
        stream.add(rows[start : start + chunk], [column[start : start + chunk] for column in codes])
    assert stream.totals() == encrypted_histogram(PUBLIC, rows, codes, BINS) == stream.totals()


def test_no_more_than_a_block_is_held():
    rows, codes = rows_and_codes(300)
    stream = HistogramStream(PUBLIC, BINS, block_rows=64)
    for start in range(0, 300, 50):
        stream.add(rows[start : start + 50], [column[start : start + 50] for column in codes])
        assert len(stream._rows) < 64 and all(len(column) == len(stream._rows) for column in stream._codes)


def test_no_rows_give_ones():
    assert HistogramStream(PUBLIC, BINS).totals() == [[1] * 3, [1] * 8, [1] * 2]


def test_rows_with_codes_of_another_shape_are_refused_and_nothing_is_kept():
    rows, codes = rows_and_codes(10)
    stream = HistogramStream(PUBLIC, BINS)
    for bad in (codes[:2], [*codes[:2], codes[2][:9]]):
        with pytest.raises(ValueError, match="another shape"):
            stream.add(rows, bad)
    assert stream.totals() == [[1] * 3, [1] * 8, [1] * 2]
