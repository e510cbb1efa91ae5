"""Attack 12: a bin of a handful of rows, in which a sum is nearly a row.

The owner of a column merges its bins under the contract's minimum before any of them is counted. A bank that is alone
with its platform reads the counts itself, and refuses a histogram that asks for a smaller bin.
"""

from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from conversations import bank_keys, contract_of, play, right
from hypothesis import given
from hypothesis import strategies as st
from torture import cases

from lianxin.crypto.randomness import Drbg
from lianxin.federation import binning, scorecard
from lianxin.federation.errors import PeerError
from lianxin.parties import coding

ROWS, LEAST = 120, 50


@pytest.fixture
def counted(bank_key) -> Callable[..., list[list[tuple[int, int]]]]:
    """Return what counts the bank's labels over one platform column with bins of the given sizes."""

    def count(*sizes: int, least: int = LEAST, banks: int = 1) -> list[list[tuple[int, int]]]:
        contract = contract_of(banks=banks, min_rows=LEAST)
        layouts, root = scorecard.plan_layouts(contract), Drbg(b"u" * 32)
        seen = SimpleNamespace(**{name: getattr(contract, name) for name in ("banks", "platform", "max_bins", "key_bits",
                                  "chunk_bytes", "fields_of", "hash", "run", "exponents")}, min_rows=least)  # fmt: skip
        bank = binning.Work(seen, layouts, "bank-1", root.child("bank"), (right("bank-1", "platform-a"),))  # type: ignore[arg-type]
        platform = binning.Work(contract, layouts, "bank-1", root.child("platform"), (right("platform-a", "bank-1"),))
        codes = [code for code, size in enumerate(sizes) for _ in range(size)]
        labels = [row % 2 for row in range(len(codes))]
        features = binning.Columns((codes,), (len(sizes),))
        result, _, _ = play(
            binning.bank_count_role(bank, bank_keys(bank_key), labels),
            binning.platform_count_role(platform, bank_key.public, features),
        )
        return result

    return count


@pytest.mark.rule("B01")
@pytest.mark.parametrize("sizes", [(119, 1), (71, 49), (60, 59, 1)])
def test_a_platform_that_asks_for_a_bin_under_the_minimum_is_refused_by_a_bank_alone(counted, sizes) -> None:
    with pytest.raises(PeerError, match="under the contract's minimum of rows") as refused:
        counted(*sizes)
    assert refused.value.rule == "B01"


def test_bins_of_the_minimum_are_counted(counted) -> None:
    assert [sum(cell) for cell in counted(70, 50)[0]] == [70, 50]


def test_without_the_minimum_a_bin_of_one_row_shows_its_label(counted) -> None:
    assert counted(119, 1, least=0)[0][1] in ((0, 1), (1, 0))


@cases()
@given(st.lists(st.integers(0, 5), min_size=LEAST, max_size=400))
def test_an_owner_merges_every_bin_under_the_minimum_before_it_is_counted(values: list[int]) -> None:
    spec = coding.fit_bins(values, 6, LEAST)
    codes = spec.encode(values)
    (mapping,) = coding.separate_bins([codes], [spec.count], LEAST)
    merged = Counter(coding.merge_bins(codes, mapping))
    assert len(merged) == 1 or min(merged.values()) >= LEAST
