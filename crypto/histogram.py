"""The encrypted histogram: H[j][b] = Π over rows i with code_j(i) = b of C_i (protocols.md, section 2).

Joint codes ("four Russians", Arlazarov et al. 1970): each row is multiplied once per *group* of features into a table
of joint bins, and each feature's histogram is a marginal of its group's table. Groups are chosen by counting
multiplications. Every cell starts from 1 and marginals multiply every cell, so that the count of operations is a
function of the sizes and tells nobody which bins are empty.

The results are products, hence not re-randomised: whoever sends one back multiplies it with a full randomiser first.
"""

from collections.abc import Sequence
from concurrent.futures import Executor
from math import prod

from gmpy2 import mpz

from lianxin.crypto.blocks import run_blocks
from lianxin.crypto.paillier import PublicKey

_LARGEST_GROUP = 12


def encrypted_histogram(
    public: PublicKey,
    ciphertexts: Sequence[int],
    codes: Sequence[Sequence[int]],
    bins: Sequence[int],
    executor: Executor | None = None,
    block_rows: int = 16384,
) -> list[list[int]]:
    """Return d lists: the product of the ciphertexts of each bin of each feature, an empty bin being 1.

    `codes[j][i]` in [0, bins[j]) is row i's bin of feature j. With an executor the rows are worked on in blocks of
    `block_rows`: joint codes save more in larger blocks, smaller ones occupy more workers. Raises ValueError for
    codes that do not fit the rows or the bins.
    """
    _check_codes(len(ciphertexts), codes, bins)
    size = block_rows if executor else max(1, len(ciphertexts))
    blocks = (
        (
            [int(c) for c in ciphertexts[start : start + size]],
            [[int(code) for code in feature[start : start + size]] for feature in codes],
        )
        for start in range(0, len(ciphertexts), size)
    )
    totals = [[mpz(1)] * count for count in bins]
    for part in run_blocks(_histogram_block, (int(public.n), tuple(bins)), blocks, executor):
        totals = [_multiply_lists(total, more, public.n_squared) for total, more in zip(totals, part, strict=True)]
    return [[int(cell) for cell in total] for total in totals]


def _check_codes(rows: int, codes: Sequence[Sequence[int]], bins: Sequence[int]) -> None:
    if len(codes) != len(bins):
        raise ValueError(f"{len(codes)} lists of codes for {len(bins)} features")
    for feature, (column, count) in enumerate(zip(codes, bins, strict=True)):
        if len(column) != rows:
            raise ValueError(f"feature {feature} has {len(column)} codes for {rows} ciphertexts")
        if rows and not (min(column) >= 0 and max(column) < count):
            raise ValueError(f"feature {feature} has a code outside its {count} bins")


def plan_groups(rows: int, bins: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the features in groups that share one joint table, with the fewest multiplications for `rows` rows.

    Features are grouped with neighbours in order of bin count, which is where sharing is cheapest.
    """
    order = sorted(range(len(bins)), key=lambda feature: bins[feature])
    best: list[tuple[int, list[tuple[int, ...]]]] = [(0, [])]
    for end in range(1, len(order) + 1):
        options = []
        for start in range(max(0, end - _LARGEST_GROUP), end):
            group = tuple(order[start:end])
            cost = best[start][0] + rows + _marginal_cost([bins[feature] for feature in group])
            options.append((cost, [*best[start][1], group]))
        best.append(min(options, key=lambda option: option[0]))
    return best[-1][1]


def count_multiplications(rows: int, bins: Sequence[int], groups: Sequence[Sequence[int]]) -> int:
    """Return how many multiplications mod n² a histogram of `rows` rows takes with these groups."""
    return sum(rows + _marginal_cost([bins[feature] for feature in group]) for group in groups)


def _marginal_cost(bins: Sequence[int]) -> int:
    if len(bins) < 2:
        return 0
    middle = len(bins) // 2
    return 2 * prod(bins) + _marginal_cost(bins[:middle]) + _marginal_cost(bins[middle:])


def _histogram_block(
    n: int, bins: tuple[int, ...], ciphertexts: Sequence[int], codes: Sequence[Sequence[int]]
) -> list[list[int]]:
    modulus, rows = mpz(n) ** 2, [mpz(c) for c in ciphertexts]
    result: list[list[int]] = [[] for _ in bins]
    for group in plan_groups(len(rows), bins):
        shape = [bins[feature] for feature in group]
        cells = _accumulate(rows, _joint_codes([codes[feature] for feature in group], shape), prod(shape), modulus)
        for feature, marginal in zip(group, _marginals(cells, shape, modulus), strict=True):
            result[feature] = [int(cell) for cell in marginal]
    return result


def _joint_codes(codes: Sequence[Sequence[int]], shape: Sequence[int]) -> list[int]:
    joint = list(codes[0])
    for column, count in zip(codes[1:], shape[1:], strict=True):
        joint = [high * count + low for high, low in zip(joint, column, strict=True)]
    return joint


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
        second = _multiply_lists(second, line, modulus)
    return _marginals(first, shape[:middle], modulus) + _marginals(second, shape[middle:], modulus)


def _multiply_lists(left: Sequence[int], right: Sequence[int], modulus: mpz) -> list[mpz]:
    return [mpz(a) * b % modulus for a, b in zip(left, right, strict=True)]
