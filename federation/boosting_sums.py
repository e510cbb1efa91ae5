"""The sums of a level as they cross: the platform's half multiplies, packs and covers, the bank's opens and checks them.

A sum is a cell with shown nodes; with hidden ones it is the cells of all nodes of the level side by side, a slot each. Sums go
in the order node (shown), feature, bin, as many to a ciphertext as the layout holds.
"""

from collections.abc import Sequence
from hashlib import sha256

import numpy as np

from lianxin.crypto import paillier
from lianxin.crypto.cell_packing import pack_cells, unpack_cells
from lianxin.crypto.errors import PackingOverflow
from lianxin.crypto.histogram import encrypted_histograms
from lianxin.crypto.keyed_ciphertexts import decode_keyed, encode_keyed
from lianxin.federation import wire
from lianxin.federation.binning import BankKeys, Work
from lianxin.federation.boosting_cells import CellLayout, plan_cells, slots_of
from lianxin.federation.boosting_ensemble import Codes, Ints
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import PeerError
from lianxin.federation.session import Receive, Role, Send
from lianxin.federation.streams import check_chunk


def ciphertexts_for(sums: int, layout: CellLayout, slots: int) -> int:
    """Return how many ciphertexts carry that many sums of `slots` cells each."""
    return -(-sums // (layout.cells // slots))


# ---- the platform


def answers_of(contract: RunContract, bins: int, level: int) -> int:
    """Return how many ciphertexts answer a level at most, of features with so many bins in all."""
    layout, slots = plan_cells(contract), slots_of(level)
    return (
        ciphertexts_for(bins, layout, slots) if contract.nodes == "hidden" else ciphertexts_for(slots * bins, layout, 1)
    )


def tree_randomiser(work: Work, public: paillier.PublicKey, bins: int) -> paillier.ResidueSource:
    """Return the platform's one source of randomisers for a bank's key, whose columns have so many bins: for the sums of
    all trees of the run."""
    draws = work.contract.trees * sum(answers_of(work.contract, bins, level) for level in range(work.contract.depth))
    return paillier.randomiser_for(public, work.drbg.child_seed("tree-randomiser", int(public.n)), draws)


def row_sums(
    work: Work, public: paillier.PublicKey, tables: Sequence[tuple[bytes, Codes]], bins: Sequence[int]
) -> list[int]:
    """Return, table by table, the product of the rows of each feature and bin. A table is a ciphertext and a code a row."""
    numbered = [(data, list(codes.astype(np.int64))) for data, codes in tables]
    sums = encrypted_histograms(public, numbered, bins, work.executor)
    return [cell for table in sums for feature in table for cell in feature]


def send_histograms(
    work: Work, source: paillier.ResidueSource, public: paillier.PublicKey, layout: CellLayout, sums: Sequence[int],
    slots: int, inputs: bytes,
) -> Role[None]:  # fmt: skip
    """Pack, cover from `source` and send the sums in chunks; `inputs` is a digest of all that they were made of."""
    held = layout.cells // slots
    packed = pack_cells(public, sums, layout.width_bits * slots, held, work.executor)
    drbg = work.drbg.child("tree-sums", inputs)
    covers = source.draw_many(len(packed), drbg, work.executor)
    covered = [paillier.add(public, c, cover) for c, cover in zip(packed, covers, strict=True)]
    size = max(1, work.contract.chunk_bytes // public.ciphertext_bytes)
    starts = range(0, max(1, len(covered)), size)
    for chunk, start in enumerate(starts):
        data = encode_keyed(public, covered[start : start + size])
        message = wire.NodeHistograms(chunk=chunk, ciphertexts=data, last=chunk == len(starts) - 1)
        yield Send(message, "boosting.histogram", work.rights)


# ---- the bank


def receive_histograms(public: paillier.PublicKey, expected: int) -> Role[list[int]]:
    """Return the ciphertexts of a level. Raises PeerError (BT01) for another number of them than `expected`."""
    ciphertexts, chunk, last = list[int](), 0, False
    while not last:
        answer = yield Receive("boosting.histogram", (wire.NodeHistograms,))
        check_chunk(answer.chunk, chunk)
        part = decode_keyed(public, answer.ciphertexts)
        ciphertexts += part
        chunk, last = chunk + 1, answer.last
        if (not part and expected) or len(ciphertexts) > expected or last != (len(ciphertexts) == expected):
            raise PeerError("the sums of a level came in another number than were asked for", "BT01")
    return ciphertexts


def open_sums(
    work: Work, keys: BankKeys, layout: CellLayout, ciphertexts: Sequence[int], sums: int, slots: int
) -> Ints:
    """Return sums x slots x (rows, Σg, Σh). Raises PeerError (BT01) for plaintexts longer than their cells."""
    seen = sha256(paillier.encode_ciphertexts(keys.secret_key.public, ciphertexts)).digest()
    values = keys.decryptor.decrypt_many(ciphertexts, work.drbg.child("tree-blinding", seen), work.executor)
    width, held = layout.width_bits, layout.cells // slots
    try:
        cells = unpack_cells(values, width * slots, held, sums)
    except PackingOverflow:
        raise PeerError("a packed sum is longer than its cells", "BT01") from None
    low = (1 << width) - 1
    parts = [cell >> width * slot & low for cell in cells for slot in range(slots)]
    return layout.decode(parts).reshape(sums, slots, 3)


def node_sums(
    opened: Ints, bins: Sequence[int], totals: Sequence[tuple[int, int, int]], slots: int, hidden: bool
) -> Ints:
    """Return nodes x features x bins (padded) x (rows, Σg, Σh), checked.

    Raises PeerError (BT01) where a feature does not add up to its node's own totals, or a slot that no node has is not empty.
    """
    every = [*totals, *[(0, 0, 0)] * (slots - len(totals))] if hidden else list(totals)
    by_node = opened.transpose(1, 0, 2) if hidden else opened.reshape(len(every), sum(bins), 3)
    padded = np.zeros((len(every), len(bins), max(bins), 3), dtype=np.int64)
    start = 0
    for feature, count in enumerate(bins):
        padded[:, feature, :count] = by_node[:, start : start + count]
        start += count
    _check_sums(padded, np.array(every, dtype=np.int64).reshape(-1, 3))
    return padded[: len(totals)]


def _check_sums(sums: Ints, totals: Ints) -> None:
    if (sums.sum(axis=2) != totals[:, None, :]).any():
        raise PeerError("a feature's bins do not add up to the rows of their node", "BT01")
