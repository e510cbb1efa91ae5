"""What boosted trees send and compute between one bank and the platform: `boosting`'s messages and kernels, at most.

With nodes shown, gradients cross once a tree and every level asks for the smaller of each two siblings, which together
hold at most half of the rows. With nodes hidden they cross anew for each level, a slot a node, and each level works over
all rows. A tree's levels ask for 1, 1, 2, 4, ... nodes and choose at most 1, 2, 4, ... cuts; with hidden nodes no cut is
asked for twice in a run.
"""

from collections import Counter
from collections.abc import Iterator

from lianxin.federation import wire
from lianxin.federation.boosting_cells import plan_cells, slots_of
from lianxin.federation.boosting_sums import answers_of, ciphertexts_for
from lianxin.federation.plan_costs_scorecard import key_bytes
from lianxin.federation.plan_operations import (
    Work,
    encryptions,
    gate,
    histogram_multiplications,
    owner_tables,
    randomisers,
)
from lianxin.federation.plan_sizes import Part, Sizes, one, stream, times
from lianxin.federation.streams import ROW_BYTES

_LARGEST_BIN, _LARGEST_KIND = 31, 2


def _answers(sizes: Sizes, level: int) -> int:
    """Return how many ciphertexts answer a level: all features, as many sums to one as fit."""
    return answers_of(sizes.contract, sum(sizes.bins), level)


def parts(sizes: Sizes, trees: int) -> list[Part]:
    """Return what crosses after the training rows are known, a part a step and direction."""
    found = [*_open(sizes), *_score(sizes)]
    return found + [times(part, trees) for part in _tree(sizes)]


def learning_bytes(sizes: Sizes) -> tuple[int, int]:
    """Return the bytes of arrays in a bank's replies to Flower: none, since a bank's trees are its own."""
    return 0, 0


def _open(sizes: Sizes) -> Iterator[Part]:
    yield one("boosting.open", True, wire.TrainingKey(**key_bytes(sizes)))
    kinds = [_LARGEST_KIND] * sizes.features
    yield one("boosting.open", False, wire.TreeFeatures(bins=list(sizes.bins), kinds=kinds))


def _tree(sizes: Sizes) -> Iterator[Part]:
    contract, bitmap = sizes.contract, bytes((sizes.rows + 7) // 8)
    for from_bank in (True, False):
        yield one("round.rows", from_bank, wire.LiveRows(bitmap=bitmap))
    features = list(range(sizes.features))
    yield one("boosting.gradients", True, wire.TreeOpening(tree=contract.trees, sampled=bitmap, features=features))
    gradients = stream(
        "boosting.gradients", True, _sampled(sizes), _gradients_a_chunk(sizes),
        lambda chunk, n: wire.TreeGradients(level=contract.depth, chunk=chunk, ciphertexts=sizes.ciphertexts(n)),
    )  # fmt: skip
    yield times(gradients, _passes(sizes))
    for level in range(contract.depth):
        yield from _level(sizes, level, bitmap)
    yield one("boosting.split", True, wire.TreeGrown(tree=contract.trees, stop=True))


def _passes(sizes: Sizes) -> int:
    """Return how often a tree's rows are encrypted: once where nodes are shown, else for each level."""
    return 1 if sizes.contract.nodes == "shown" else sizes.contract.depth


def _level(sizes: Sizes, level: int, bitmap: bytes) -> Iterator[Part]:
    is_shown, nodes, cuts = sizes.contract.nodes == "shown", slots_of(level), 1 << level
    shown = [bitmap] * nodes if is_shown else []
    yield one("boosting.histogram", True, wire.TreeNodes(level=level + 1, rows=shown))
    yield stream(
        "boosting.histogram", False, _answers(sizes, level), _chunk(sizes),
        lambda chunk, n: wire.NodeHistograms(chunk=chunk, ciphertexts=sizes.ciphertexts(n), last=True),
    )  # fmt: skip
    cut = wire.Cut(feature=sizes.features, bin=_LARGEST_BIN, kind=_LARGEST_KIND, rows=bitmap if is_shown else b"")
    yield one("boosting.split", True, wire.SplitChoice(level=level + 1, cuts=[cut] * cuts))
    # with shown nodes a row is in one node of a level, so that all sides together are a bit a row and a byte a node
    bits = bitmap if not is_shown else bytes(-(-len(bitmap) // cuts) + 1)
    yield times(one("boosting.split", False, wire.SplitBits(place=cuts, bits=bits)), cuts)


def _gradients_a_chunk(sizes: Sizes) -> int:
    return max(1, sizes.contract.chunk_bytes // (sizes.contract.key_bits // 4))


def _chunk(sizes: Sizes) -> int:
    return max(1, sizes.contract.chunk_bytes // sizes.ciphertext)


def _score(sizes: Sizes) -> Iterator[Part]:
    width = (sizes.contract.split_bits + 7) // 8

    def part(chunk: int, n: int) -> wire.CutBits:
        return wire.CutBits(chunk=chunk, rows=bytes(ROW_BYTES * n), bits=bytes(width * n), last=True)

    yield stream("boosting.score", False, sizes.matched, sizes.contract.chunk_bytes // (ROW_BYTES + width), part)
    yield one("boosting.score", True, wire.CutBitsNoted(rows=sizes.matched))


# ---- processor time


# handling of a ciphertext, as multiplications: blinded, written and hashed; read, checked, hashed and passed to a worker
_SENT, _RECEIVED = 2, 3


def _sampled(sizes: Sizes) -> int:
    return sizes.rows * sizes.contract.row_sample_permille // 1000


def bank_phases(sizes: Sizes, trees: int) -> dict[str, Work]:
    """Return what a bank computes when its key is made and when `trees` trees are grown."""
    contract, asked = sizes.contract, 2 if sizes.contract.nodes == "shown" else 1  # label and own features apart
    sent = _sampled(sizes) * _passes(sizes) * trees
    binning: Work = Counter(generate_key=1, prove_key=1, multiply=owner_tables(contract))
    binning += gate(sizes.matched + (2 * asked - 1) * sizes.rows)
    training = encryptions(contract, sent) + gate(asked * sizes.rows * trees)
    return {"binning": binning, "training": training + Counter(decrypt=_opened(sizes, trees), multiply=_SENT * sent)}


def _opened(sizes: Sizes, trees: int) -> int:
    """Return the ciphertexts of sums in `trees` trees: as many levels and nodes as can be, or as many as there were."""
    if sizes.known and sizes.known.nodes and sizes.contract.nodes == "shown":
        return ciphertexts_for(sizes.known.nodes * sum(sizes.bins), plan_cells(sizes.contract), 1)
    return trees * _most_opened(sizes)


def _most_opened(sizes: Sizes) -> int:
    return sum(_answers(sizes, level) for level in range(sizes.contract.depth))


def platform_phases(sizes: Sizes, trees: int) -> dict[str, Work]:
    """Return what the platform computes with one bank over `trees` trees: histograms, packing their cells, randomisers."""
    contract, layout = sizes.contract, plan_cells(sizes.contract)
    taken = list(sizes.bins)[: max(1, sizes.features * contract.column_sample_permille // 1000)]
    opened, training = _opened(sizes, trees), Counter[str]()
    for level in range(contract.depth):
        is_hidden, nodes = contract.nodes == "hidden", slots_of(level)
        slots, passes = (nodes, 1) if is_hidden else (1, nodes)
        rows = _sampled(sizes) if is_hidden or level == 0 else _sampled(sizes) // (2 * nodes)
        cells, answers = passes * sum(taken), _answers(sizes, level)
        training["multiply"] += trees * (passes * histogram_multiplications(rows, taken) + cells)
        training["power_bit"] += trees * max(0, cells - answers) * layout.width_bits * slots
    training += randomisers(contract, opened, contract.trees * _most_opened(sizes)) + gate(sizes.rows * trees)
    training["multiply"] += _RECEIVED * _sampled(sizes) * _passes(sizes) * trees
    binning: Work = Counter(check_key=1) + gate(sizes.firms + 2 * sizes.rows)
    return {"binning": binning, "training": training, "scoring": gate(sizes.matched)}
