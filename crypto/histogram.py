"""The encrypted histogram: H[j][b] = Π over rows i with code_j(i) = b of C_i (protocols.md, section 2).

Joint codes ("four Russians", Arlazarov et al. 1970): each row is multiplied once per *group* of features into a table
of joint bins, and each feature's histogram is a marginal of its group's table. Groups are chosen by counting
multiplications. Every cell starts from 1 and marginals multiply every cell, so that the count of operations is a
function of the sizes and tells nobody which bins are empty.

A task is a block of rows times a bundle of groups. Blocks are large, because each pays its groups' marginals again;
bundles of about equal work let several workers share one block, at the price of sending its rows to each.

The results are products, hence not re-randomised: whoever sends one back multiplies it with a full randomiser first.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from itertools import chain, islice
from math import prod

import gmpy2
import numpy as np
from gmpy2 import mpz

from lianxin.crypto.blocks import HEAVY_IN_FLIGHT, Residues, cut_evenly, decode_residues, encode_residues, run_blocks
from lianxin.crypto.errors import CiphertextRejected
from lianxin.crypto.paillier import PublicKey

BLOCK_ROWS = 32768
_LARGEST_GROUP = 12
_GROUPS_A_BUNDLE = 6
_JOINT_CODE = np.dtype("<u4")
Group = tuple[int, ...]


def encrypted_histogram(
    public: PublicKey,
    ciphertexts: Sequence[int] | bytes,
    codes: Sequence[Sequence[int]],
    bins: Sequence[int],
    executor: Executor | None = None,
    block_rows: int = BLOCK_ROWS,
    in_flight: int = HEAVY_IN_FLIGHT,
) -> list[list[int]]:
    """Return d lists: the product of the ciphertexts of each bin of each feature, an empty bin being 1.

    `ciphertexts` are integers in [0, n²) or the bytes of `paillier.encode_ciphertexts`, which save a worker's task its
    encoding. `codes[j][i]` in [0, bins[j]) is row i's bin of feature j. Rows are worked on in blocks of at most
    `block_rows`; joint codes save more in larger ones. An executor gets at most `in_flight` tasks at once (by default
    two for each processor of this machine). Raises ValueError for codes that do not fit the rows or the bins.
    """
    return encrypted_histograms(public, [(ciphertexts, codes)], bins, executor, block_rows, in_flight)[0]


def encrypted_histograms(
    public: PublicKey,
    tables: Sequence[tuple[Sequence[int] | bytes, Sequence[Sequence[int]]]],
    bins: Sequence[int],
    executor: Executor | None = None,
    block_rows: int = BLOCK_ROWS,
    in_flight: int = HEAVY_IN_FLIGHT,
) -> list[list[list[int]]]:
    """Return the `encrypted_histogram` of each of several (ciphertexts, codes): workers go from one to the next unasked."""
    shared = executor is not None
    rows = [Residues(ciphertexts, int(public.n_squared)) for ciphertexts, _ in tables]
    for table, (_, codes) in zip(rows, tables, strict=True):
        _check_lengths(len(table), codes, bins)
    plans = [_plan(len(table), bins, block_rows, shared) for table in rows]
    tasks = chain.from_iterable(
        _tasks(table, codes, bins, plan, shared) for table, (_, codes), plan in zip(rows, tables, plans, strict=True)
    )
    parts = run_blocks(_bundle_block, (int(public.n),), tasks, executor, in_flight)
    return [_joined(public, bins, plan, list(islice(parts, len(plan)))) for plan in plans]


def _plan(rows: int, bins: Sequence[int], block_rows: int, shared: bool) -> list[tuple[slice, list[Group]]]:
    blocks = cut_evenly(rows, block_rows)
    return [(block, bundle) for block in blocks for bundle in _bundles(block.stop - block.start, bins, shared)]


def _joined(
    public: PublicKey, bins: Sequence[int], plan: Sequence[tuple[slice, list[Group]]], parts: Sequence[bytes]
) -> list[list[int]]:
    totals = [[mpz(1)] * count for count in bins]
    for (_, bundle), part in zip(plan, parts, strict=True):
        cells = iter(decode_residues(part, public.ciphertext_bytes))
        for feature in (feature for group in bundle for feature in group):
            totals[feature] = [total * next(cells) % public.n_squared for total in totals[feature]]
    return [[int(cell) for cell in total] for total in totals]


def subtract_histogram(
    public: PublicKey, parent: Sequence[Sequence[int]], child: Sequence[Sequence[int]]
) -> list[list[int]]:
    """Return parent·child^-1 bin by bin: the histogram of the parent's rows that are not the child's.

    A tree needs the histogram of its smaller child only (SecureBoost; LightGBM, NIPS 2017). One inversion serves all
    bins (Montgomery, Mathematics of Computation 1987, section 10.3.1), three multiplications a bin. The result is not
    re-randomised: it is a function of two histograms that its reader may know. Raises ValueError for shapes that
    differ, CiphertextRejected where a bin of the child is no unit.
    """
    shapes = [[len(line) for line in histogram] for histogram in (parent, child)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"a parent with bins {shapes[0]} has no child with bins {shapes[1]}")
    inverses = iter(_invert_all([mpz(cell) for line in child for cell in line], public.n_squared))
    return [[int(cell * next(inverses) % public.n_squared) for cell in line] for line in parent]


def _invert_all(values: Sequence[mpz], modulus: mpz) -> list[mpz]:
    before = [mpz(1)]
    for value in values:
        before.append(before[-1] * value % modulus)
    try:
        inverse = gmpy2.invert(before[-1], modulus)
    except ZeroDivisionError:
        raise CiphertextRejected(
            "a bin of the child is no unit modulo n²; check the ciphertexts that made it"
        ) from None
    inverses = []
    for value, product in zip(reversed(values), reversed(before[:-1]), strict=True):
        inverses.append(inverse * product % modulus)
        inverse = inverse * value % modulus
    return inverses[::-1]


def plan_groups(rows: int, bins: Sequence[int]) -> list[Group]:
    """Return the features in groups that share one joint table, with the fewest multiplications for `rows` rows.

    Features are grouped with neighbours in order of bin count, which is where sharing is cheapest.
    """
    order = sorted(range(len(bins)), key=lambda feature: bins[feature])
    best: list[tuple[int, list[Group]]] = [(0, [])]
    for end in range(1, len(order) + 1):
        options = []
        for start in range(max(0, end - _LARGEST_GROUP), end):
            group = tuple(order[start:end])
            options.append((best[start][0] + _group_cost(rows, bins, group), [*best[start][1], group]))
        best.append(min(options, key=lambda option: option[0]))
    return best[-1][1]


def count_multiplications(rows: int, bins: Sequence[int], groups: Sequence[Sequence[int]]) -> int:
    """Return how many multiplications mod n² a histogram of `rows` rows takes with these groups."""
    return sum(_group_cost(rows, bins, group) for group in groups)


def _group_cost(rows: int, bins: Sequence[int], group: Sequence[int]) -> int:
    return rows + _marginal_cost([bins[feature] for feature in group])


def _marginal_cost(bins: Sequence[int]) -> int:
    if len(bins) < 2:
        return 0
    middle = len(bins) // 2
    return 2 * prod(bins) + _marginal_cost(bins[:middle]) + _marginal_cost(bins[middle:])


def _bundles(rows: int, bins: Sequence[int], shared: bool) -> list[list[Group]]:
    """Return the groups in bundles of about equal work: one, or at least two if workers are to share them.

    Sending and decoding a row costs a worker about as much as one group's multiplication.
    """
    groups = plan_groups(rows, bins)
    count = min(len(groups), max(2, len(groups) // _GROUPS_A_BUNDLE)) if shared else min(len(groups), 1)
    bundles: list[tuple[int, list[Group]]] = [(0, []) for _ in range(count)]
    for group in sorted(groups, key=lambda group: -_group_cost(rows, bins, group)):
        lightest = min(range(count), key=lambda bundle: bundles[bundle][0])
        work, members = bundles[lightest]
        bundles[lightest] = (work + _group_cost(rows, bins, group), [*members, group])
    return [members for _, members in bundles]


def _tasks(
    rows: Residues,
    codes: Sequence[Sequence[int]],
    bins: Sequence[int],
    plan: Sequence[tuple[slice, list[Group]]],
    encoded: bool,
) -> Iterator[tuple]:
    """Yield, for each entry of the plan: a block of rows, the shape of each group's table, each row's cell in it."""
    last, part = slice(0, 0), rows.take(slice(0, 0), encoded)
    for block, bundle in plan:
        if block != last:
            last, part = block, rows.take(block, encoded)
        shapes = tuple(tuple(bins[feature] for feature in group) for group in bundle)
        yield part, shapes, tuple(_joint_codes(codes, bins, group, block) for group in bundle)


def _check_lengths(rows: int, codes: Sequence[Sequence[int]], bins: Sequence[int]) -> None:
    if len(codes) != len(bins):
        raise ValueError(f"{len(codes)} lists of codes for {len(bins)} features")
    for feature, column in enumerate(codes):
        if len(column) != rows:
            raise ValueError(f"feature {feature} has {len(column)} codes for {rows} ciphertexts")


def _joint_codes(codes: Sequence[Sequence[int]], bins: Sequence[int], group: Group, block: slice) -> bytes:
    joint = np.zeros(block.stop - block.start, dtype=np.int64)
    for feature in group:
        column = np.asarray(codes[feature][block])
        if column.dtype.kind not in "iub" or column.min() < 0 or column.max() >= bins[feature]:
            raise ValueError(f"feature {feature} has a code outside its {bins[feature]} bins")
        joint = joint * bins[feature] + column.astype(np.int64)
    return joint.astype(_JOINT_CODE).tobytes()


def _bundle_block(
    n: int, ciphertexts: Sequence[int] | bytes, shapes: Sequence[Sequence[int]], joint: Sequence[bytes]
) -> bytes:
    """Return the marginals of each group, one feature after the other, as fixed-length bytes."""
    modulus = mpz(n) ** 2
    width = (modulus.bit_length() + 7) // 8
    rows, result = decode_residues(ciphertexts, width), list[mpz]()
    for shape, codes in zip(shapes, joint, strict=True):
        cells = _accumulate(rows, np.frombuffer(codes, _JOINT_CODE).tolist(), prod(shape), modulus)
        result += [cell for marginal in _marginals(cells, shape, modulus) for cell in marginal]
    return encode_residues(result, width)


def _accumulate(rows: Sequence[mpz], joint: Sequence[int], cells: int, modulus: mpz) -> list[mpz]:
    table = [mpz(1)] * cells
    for code, row in zip(joint, rows, strict=True):
        table[code] = table[code] * row % modulus
    return table


def _marginals(cells: list[mpz], shape: Sequence[int], modulus: mpz) -> list[list[mpz]]:
    """Return each axis's marginal of a row-major table: halve the axes, multiply the other half out, go on."""
    if len(shape) == 1:
        return [cells]
    middle = len(shape) // 2
    rows, columns = prod(shape[:middle]), prod(shape[middle:])
    first, second = [mpz(1)] * rows, [mpz(1)] * columns
    for row in range(rows):
        line = cells[row * columns : (row + 1) * columns]
        for cell in line:
            first[row] = first[row] * cell % modulus
        second = [a * b % modulus for a, b in zip(second, line, strict=True)]
    return _marginals(first, shape[:middle], modulus) + _marginals(second, shape[middle:], modulus)
