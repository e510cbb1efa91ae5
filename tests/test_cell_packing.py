"""Encrypted cells packed by Horner's scheme: what is opened is what went in, and a cell that is too long is refused."""

from concurrent.futures import ProcessPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torture import cases

from lianxin.crypto import paillier
from lianxin.crypto.cell_packing import pack_cells, unpack_cells
from lianxin.crypto.errors import PackingOverflow
from lianxin.crypto.randomness import Drbg

SEED = Drbg(bytes(32)).child("test_cell_packing")
KEY = paillier.generate_secret_key(128, "bank-a", "P4", "run-1", SEED.child("key"))
PUBLIC = KEY.public
ENCRYPTOR, DECRYPTOR = paillier.OwnerEncryptor(KEY), paillier.Decryptor(KEY)


@cases()
@given(data=st.data(), width=st.integers(1, 127), count=st.integers(0, 12))
def test_packed_cells_open_to_what_was_encrypted(data: st.DataObject, width: int, count: int) -> None:
    held = data.draw(st.integers(1, (PUBLIC.bits - 1) // width))
    values = data.draw(st.lists(st.integers(0, (1 << width) - 1), min_size=count, max_size=count))
    drbg = SEED.child(width, held)
    packed = pack_cells(PUBLIC, ENCRYPTOR.encrypt_many(values, drbg), width, held)
    assert len(packed) == -(-count // held)
    assert unpack_cells(DECRYPTOR.decrypt_many(packed, drbg), width, held, count) == values


def test_workers_do_not_change_packed_cells() -> None:
    cells = ENCRYPTOR.encrypt_many(range(500), SEED.child("workers"))
    with ProcessPoolExecutor(2) as executor:
        assert pack_cells(PUBLIC, cells, 9, 14, executor) == pack_cells(PUBLIC, cells, 9, 14)


@pytest.mark.parametrize(("width", "held"), [(0, 1), (1, 0), (64, 2), (128, 1)])
def test_a_layout_that_does_not_fit_the_plaintext_is_refused(width: int, held: int) -> None:
    with pytest.raises(PackingOverflow):
        pack_cells(PUBLIC, [1], width, held)


def test_a_cell_over_its_width_runs_into_the_next_one_which_is_why_callers_prove_widths() -> None:
    cells = ENCRYPTOR.encrypt_many([1 << 20, 5, 0], SEED.child("long"))
    packed = DECRYPTOR.decrypt_many(pack_cells(PUBLIC, cells, 20, 3), SEED.child("open"))
    assert unpack_cells(packed, 20, 3, 3) == [0, 6, 0]


@pytest.mark.parametrize(
    ("values", "count"),
    [([1 << 40], 2), ([-1], 2), ([1, 1], 2), ([], 1), ([1, 1 << 20], 3)],
    ids=["bits above the last cell", "negative", "one too many", "one too few", "bits above a short group"],
)
def test_plaintexts_that_are_not_exactly_their_cells_are_refused(values: list[int], count: int) -> None:
    with pytest.raises(PackingOverflow):
        unpack_cells(values, 20, 2, count)
