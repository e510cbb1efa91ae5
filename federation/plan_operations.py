"""Counted operations and what they cost: kernels of `crypto` as multiplications, powers and randomisers of a key."""

from collections import Counter
from collections.abc import Sequence

from lianxin.crypto import fixed_base, paillier
from lianxin.crypto.histogram import BLOCK_ROWS, count_multiplications, plan_groups
from lianxin.federation.contract import RunContract
from lianxin.federation.plan_calibration import Calibration

Work = Counter[str]


def randomisers(contract: RunContract, draws: int, expected: int) -> Work:
    """Return the work of `draws` randomisers of one key, by the rule of `paillier.randomiser_for`."""
    if expected < paillier.TEXTBOOK_DRAWS:
        return Counter(textbook=draws)
    return Counter(randomise=draws) + evaluator_tables(contract)


def evaluator_tables(contract: RunContract) -> Work:
    """Return the work of one process's tables for randomisers of another party's key."""
    bases = fixed_base.WIDE_BASES + fixed_base.BIT_BASES
    rows = contract.key_bits // fixed_base.WINDOW_BITS + fixed_base.BIT_BASES // fixed_base.WINDOW_BITS
    return Counter(textbook=bases, multiply=rows << fixed_base.WINDOW_BITS)


def owner_tables(contract: RunContract) -> int:
    """Return the multiplications of an owner's two tables modulo p² and q², an entry about a third of one modulo n²."""
    bits, window = _owner_exponent(contract)
    return 2 * (-(-bits // window) << window) // 3


def encryptions(contract: RunContract, count: int) -> Work:
    """Return the work of `count` encryptions by a key's owner in the contract's profile."""
    bits, window = _owner_exponent(contract)
    priced = -(-bits // fixed_base.WINDOW_BITS)  # what a calibration measures
    unit = "short_encrypt" if contract.exponents == "short" else "encrypt"
    return Counter({unit: count * -(-bits // window) // priced})


def _owner_exponent(contract: RunContract) -> tuple[int, int]:
    """Return the bits of a bank's exponents and the window of the tables of its training key, as `parties/bank_run` has
    them where every row that the contract allows is there."""
    short = paillier.short_exponent_bits(contract.key_bits) if contract.exponents == "short" else None
    return short or contract.key_bits // 2, fixed_base.owner_window_bits(contract.max_rows * contract.turns, short)


def gate(firms: int) -> Work:
    """Return the work of a release of so many firms: look-ups and hashes, about those of a point hashed to the group."""
    return Counter(group_hash=firms)


def histogram_multiplications(rows: int, bins: Sequence[int]) -> int:
    """Return the multiplications of one encrypted histogram of `rows` rows over features of these bins."""
    if not bins:
        return 0
    parts = [BLOCK_ROWS] * (rows // BLOCK_ROWS) + [rows % BLOCK_ROWS] * (rows % BLOCK_ROWS > 0)
    cost = {size: count_multiplications(size, bins, plan_groups(size, bins)) for size in set(parts)}
    return sum(cost[size] for size in parts) + len(parts) * sum(bins)


def cpu_us(work: Work, calibration: Calibration) -> int:
    """Return the microseconds of processor time that `work` takes."""
    return sum(count * getattr(calibration, f"{unit}_ns") for unit, count in work.items()) // 1000
