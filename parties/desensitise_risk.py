"""How well a table is de-identified: GB/T 42460, annex D, with l-diversity and t-closeness beside it (R22).

Rows with the same quasi-identifiers form an equivalence class; a row's risk is theta = 1 / size of its class.

1. A class is above the threshold when theta > tau: tau = 1/20 public, 1/5 under an agreement, 1/3 in an enclave.
2. If any class is, the overall risk is 1. Else it is max theta times 1 (public), or mean theta times the probability of
   an attack in the recipient's context (agreement, enclave). The mean is over classes, which is never below the mean
   over rows; the source can be read as a maximum or as a minimum in its formula D.2, and the maximum is taken.
3. The table is accepted when the risk is at most 0.05 and no direct identifier is left.

Grades: 1 a direct identifier is left; 2 none is, but quasi-identifiers are and the risk is not accepted; 3 the risk is
accepted for the sharing model; 4 statistics of groups only, accepted. All arithmetic is exact.

l is the least number of distinct sensitive values in a class. t is the largest distance between a class's distribution
of a sensitive column and the table's: the earth mover's distance (Li, Li and Venkatasubramanian 2007), with ordered
distance where all values are numbers, equal distance otherwise. Missing and suppressed values count as one value.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate

from lianxin.parties.desensitise_numbers import number

THRESHOLDS: Mapping[str, Fraction] = {
    "public": Fraction(1, 20),
    "agreement": Fraction(1, 5),
    "enclave": Fraction(1, 3),
}
ACCEPTED_RISK = Fraction(1, 20)
MOST_CAREFUL = Fraction(1)


@dataclass(frozen=True)
class Measurement:
    """The figures of one table. `sizes` counts classes by their size; `reasons` say why it is not accepted."""

    rows: int
    classes: int
    k: int
    l: int
    t: Fraction
    theta_max: Fraction
    above: Fraction
    risk: Fraction
    grade: int
    accepted: bool
    sizes: Mapping[int, int]
    reasons: tuple[str, ...]


def ppm(value: Fraction) -> int:
    """Return `value` in millionths, rounded up: a risk is never written smaller than it is."""
    return -(-value.numerator * 1_000_000 // value.denominator)


def classes_of(rows: int, quasi: Iterable[Sequence[str]]) -> list[int]:
    """Return each row's class as a number from 0 in order of first appearance; without columns all rows are one."""
    labels = [0] * rows
    for column in quasi:
        seen: dict[tuple[int, str], int] = {}
        labels = [seen.setdefault(pair, len(seen)) for pair in zip(labels, column, strict=True)]
    return labels


def evaluate(
    rows: int,
    quasi: Iterable[Sequence[str]],
    sensitive: Iterable[Sequence[str]],
    model: str,
    context: Fraction = MOST_CAREFUL,
    barred: Sequence[str] = (),
    identified: bool = False,
) -> Measurement:
    """Return the figures of a table of `rows` rows; the columns are as a recipient would see them.

    `context` is the probability of an attack under an agreement or in an enclave (1 is the most careful). `barred`
    are further reasons against acceptance, `identified` tells that a direct identifier is left. Raises ValueError for
    a table without rows. Columns are asked for one at a time.
    """
    if rows < 1:
        raise ValueError("a table without rows has no risk to measure")
    labels = classes_of(rows, quasi)
    counts = Counter(labels)
    sizes = Counter(counts.values())
    above, risk, reasons = judge(sizes, model, context)
    reasons = (*barred, *reasons)
    grade = 1 if identified else 3 if not reasons else 2
    measured = [(_least_distinct(labels, column), _greatest_distance(labels, column)) for column in sensitive]
    k, l = min(sizes), min((distinct for distinct, _ in measured), default=0)
    t = max((distance for _, distance in measured), default=Fraction(0))
    return Measurement(
        rows, len(counts), k, l, t, Fraction(1, k), above, risk, grade, not reasons and not identified, sizes, reasons
    )


def judge(sizes: Mapping[int, int], model: str, context: Fraction) -> tuple[Fraction, Fraction, tuple[str, ...]]:
    """Return (share of classes above the threshold, overall risk, reasons against) for counts of classes by size."""
    total, threshold = sum(sizes.values()), THRESHOLDS[model]
    above = Fraction(sum(count for size, count in sizes.items() if Fraction(1, size) > threshold), total)
    if above:
        least = int(1 / threshold)
        return above, Fraction(1), (f"classes of fewer than {least} rows are left",)
    mean = sum((Fraction(count, size) for size, count in sizes.items()), Fraction(0)) / total
    risk = Fraction(1, min(sizes)) if model == "public" else mean * context
    return above, risk, () if risk <= ACCEPTED_RISK else ("the overall risk is above 0.05",)


def _least_distinct(labels: Sequence[int], column: Sequence[str]) -> int:
    per_class = Counter(label for label, _ in set(zip(labels, column, strict=True)))
    return min(per_class.values())


def _greatest_distance(labels: Sequence[int], column: Sequence[str]) -> Fraction:
    """Return the largest earth mover's distance of a class from the table."""
    ranks, total, is_ordered = _ranked(column)
    if len(total) == 1:
        return Fraction(0)
    members: dict[int, list[int]] = {}
    for label, value in zip(labels, column, strict=True):
        members.setdefault(label, []).append(ranks[value])
    if not is_ordered:
        return max(_equal_distance(Counter(member), total, len(labels)) for member in members.values())
    below = list(accumulate(total))
    sums = [0, *accumulate(below)]
    return max(_ordered_distance(sorted(member), below, sums) for member in members.values())


def _ranked(column: Sequence[str]) -> tuple[dict[str, int], list[int], bool]:
    """Return (the place of each distinct value, the rows at each place, whether all values are numbers).

    Numbers stand by their size, and two spellings of one number in one place; a missing value is first.
    """
    counts = Counter(column)
    keys = {value: number(value) for value in counts if value}
    is_ordered = bool(keys) and None not in keys.values()
    if is_ordered:
        distinct = sorted({key for key in keys.values() if key is not None})
        place = {key: rank for rank, key in enumerate(distinct, start=int("" in counts))}
        ranks = {"": 0} | {value: place[key] for value, key in keys.items() if key is not None}
    else:
        ranks = {value: rank for rank, value in enumerate(sorted(counts))}
    total = [0] * (max(ranks.values()) + 1)
    for value, count in counts.items():
        total[ranks[value]] += count
    return ranks, total, is_ordered


def _equal_distance(member: Mapping[int, int], total: Sequence[int], rows: int) -> Fraction:
    """Return half the sum of |p - q|: what the class has above the table's share."""
    size = sum(member.values())
    excess = sum(max(0, count * rows - total[rank] * size) for rank, count in member.items())
    return Fraction(excess, rows * size)


def _ordered_distance(ranks: Sequence[int], below: Sequence[int], sums: Sequence[int]) -> Fraction:
    """Return sum over i < m-1 of |P(i) - Q(i)| / (m - 1), P and Q the distribution functions of class and table.

    `below[i]` are the table's rows at place i or lower, `sums` its running sums. Between two of the class's own places
    P is constant and Q rises, so that each stretch is two sums that meet where they cross.
    """
    size, rows, last = len(ranks), below[-1], len(below) - 1
    distance, start = 0, 0
    for had, end in enumerate((*ranks, last)):
        if end > start:
            cross = min(max(bisect_right(below, had * rows // size, start, end), start), end)
            lower, upper = sums[cross] - sums[start], sums[end] - sums[cross]
            distance += had * rows * (cross - start) - size * lower + size * upper - had * rows * (end - cross)
            start = end
    return Fraction(distance, size * rows * last)
