"""Values into bins, by the owner alone and without labels (protocols.md, section 4).

**One column.** Numbers are cut into ordered intervals: a value held by many rows ("heavy", such as the zero of a count)
has an interval of its own, the other values share the remaining bins evenly by rows, and an interval under the minimum
joins its smaller neighbour. Text keeps its most frequent categories; the rare ones share one bin. Missing is a bin when
enough rows miss the value; else it joins the largest bin, as does a category that was never seen where there is no
bin of rare ones: few rows change a large bin least.

**All columns.** Two bins of different features that differ by a few firms disclose those firms' labels as the
difference of two counts, so `separate_bins` merges until every two bins differ in 0 or at least 50 rows and no bin
holds fewer. Unions of bins are not compared: one more reason for giving counts once per (label snapshot, feature).

Edges and categories never leave their owner; only bin numbers go on to the protocols.
"""

import bisect
import itertools
import math
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lianxin.federation.errors import InputFault

_BLOCK_ROWS = 1 << 16
_Run = list  # of [highest value, rows, heavy]


@dataclass(frozen=True)
class BinSpec:
    """How one column becomes bin numbers.

    `uppers` are the highest values of the intervals but the last (numeric), `categories` the text of each own bin
    (text), `special` the numbers that mean something else than their size, such as -999. A value has a cell: the
    interval or category, then the cell of rare categories (text only), then that of missing values, then one of each
    special number. `groups[cell]` is the bin, 0 … count-1.
    """

    kind: str
    uppers: tuple[float, ...]
    categories: tuple[str, ...]
    groups: tuple[int, ...]
    special: tuple[float, ...] = ()

    @property
    def count(self) -> int:
        """The number of bins."""
        return max(self.groups) + 1

    def encode(self, values: Sequence[Any]) -> list[int]:
        """Return the bin of each value; total: missing, unseen and wrongly typed values have a bin too."""
        cell_of = self._number_cells() if self.kind == "numeric" else self._text_cells()
        return [self.groups[cell_of(value)] for value in values]

    @property
    def ordered(self) -> tuple[int, ...]:
        """The bins that hold an interval, in the order of their values; those of text have no order."""
        return tuple(dict.fromkeys(self.groups[: len(self.uppers) + 1])) if self.kind == "numeric" else ()

    def _number_cells(self) -> Any:
        missing = len(self.uppers) + 1
        special = {number: missing + 1 + place for place, number in enumerate(self.special)}

        def cell_of(value: Any) -> int:
            if not isinstance(value, (int, float)) or is_missing(value):
                return missing
            cell = special.get(value) if special else None
            return bisect.bisect_left(self.uppers, value) if cell is None else cell

        return cell_of

    def _text_cells(self) -> Any:
        cells = {category: cell for cell, category in enumerate(self.categories)}
        rare, missing = len(self.categories), len(self.categories) + 1
        return lambda value: missing if is_missing(value) else cells.get(as_text(value), rare)

    def labels(self) -> list[str]:
        """Return a readable name for each bin. It holds edges and categories: for the owner's eyes only."""
        return [" or ".join(self._names_of(bin_)) for bin_ in range(self.count)]

    def _names_of(self, bin_: int) -> list[str]:
        cells = [cell for cell, group in enumerate(self.groups) if group == bin_]
        last = len(self.uppers if self.kind == "numeric" else self.categories) + 1
        beside = ["missing", *(f"exactly {number:.12g}" for number in self.special)]
        apart = [beside[cell - last] for cell in cells if cell >= last]
        if self.kind != "numeric":
            named = [*self.categories, "any other"]
            return [*(named[cell] for cell in cells if cell < last), *apart]
        return [*self._ranges([cell for cell in cells if cell < last]), *apart]

    def _ranges(self, cells: Sequence[int]) -> list[str]:
        """Return one name for each run of neighbouring intervals."""
        names = []
        for _, run in itertools.groupby(enumerate(cells), lambda pair: pair[1] - pair[0]):
            first, *_ = inner = [cell for _, cell in run]
            low = f"above {self.uppers[first - 1]:.12g}" if first else ""
            high = f"up to {self.uppers[inner[-1]]:.12g}" if inner[-1] < len(self.uppers) else ""
            names.append(f"{low} {high}".strip() or "any number")
        return names

    def merged(self, mapping: Mapping[int, int]) -> "BinSpec":
        """Return this specification with each bin b renamed to `mapping[b]` (see `separate_bins`)."""
        return replace(self, groups=tuple(mapping[group] for group in self.groups))

    def to_record(self) -> dict[str, Any]:
        """Return the specification as canonical-JSON values; edges are `repr` strings, which read back exactly."""
        special = {"special": [repr(number) for number in self.special]} if self.special else {}
        return {
            "type": "bin-specification",
            "version": 2 if self.special else 1,
            "kind": self.kind,
            "uppers": [repr(upper) for upper in self.uppers],
            "categories": list(self.categories),
            "groups": list(self.groups),
            **special,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "BinSpec":
        """Return the specification that `to_record` wrote; raises InputFault when the record is not one."""
        try:
            uppers = tuple(float(upper) for upper in record["uppers"])
            special = tuple(float(number) for number in record["special"]) if record["version"] == 2 else ()
            spec = cls(str(record["kind"]), uppers, tuple(record["categories"]), tuple(record["groups"]), special)
            known = record["type"] == "bin-specification" and record["version"] in (1, 2) and _is_consistent(spec)
        except (KeyError, TypeError, ValueError):
            known = False
        if not known:
            raise InputFault("a stored bin specification is damaged; fit the bins again")
        return spec


def _is_consistent(spec: BinSpec) -> bool:
    cells = (len(spec.uppers) if spec.kind == "numeric" else len(spec.categories)) + 2 + len(spec.special)
    rising = all(low < high for low, high in itertools.pairwise(spec.uppers))
    texts = all(isinstance(category, str) for category in spec.categories)
    distinct = len(set(spec.categories)) == len(spec.categories)
    complete = set(spec.groups) == set(range(len(set(spec.groups)))) and all(type(g) is int for g in spec.groups)
    sound = len(set(spec.special)) == len(spec.special) and (not spec.special or spec.kind == "numeric")
    fits = spec.kind in ("numeric", "text") and len(spec.groups) == cells
    return fits and rising and texts and distinct and complete and sound


def is_missing(value: Any) -> bool:
    """Return whether `value` is None or a float NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def as_text(value: Any) -> str:
    return unicodedata.normalize("NFC", str(value))


def fit_bins(values: Sequence[Any], max_bins: int, min_rows: int) -> BinSpec:
    """Return bins for `values`: at most `max_bins`, each with at least `min_rows` of these rows, or one bin."""
    if max_bins < 2 or min_rows < 1:
        raise ValueError("fit_bins needs max_bins of at least 2 and min_rows of at least 1")
    present = [value for value in values if not is_missing(value)]
    missing = len(values) - len(present)
    own_missing = missing >= min_rows
    room = max_bins - own_missing
    if all(isinstance(value, (int, float)) for value in present):
        uppers, sizes = fit_intervals(present, room, min_rows)
        return _numeric_spec(uppers, sizes, missing, own_missing, min_rows)
    return _fit_categories([as_text(value) for value in present], missing, own_missing, room, min_rows)


def _numeric_spec(uppers: list[float], sizes: list[int], missing: int, own: bool, min_rows: int) -> BinSpec:
    if own and sum(sizes) < min_rows:
        return BinSpec("numeric", (), (), (0, 0))
    group = len(sizes) if own else sizes.index(max(sizes))
    return BinSpec("numeric", tuple(uppers), (), (*range(len(sizes)), group))


def fit_intervals(numbers: list[float], room: int, min_rows: int) -> tuple[list[float], list[int]]:
    """Return the inner upper edges and the rows of each interval."""
    if not numbers:
        return [], [0]
    levels, counts = np.unique(np.asarray(numbers, dtype=float), return_counts=True)
    runs = _cut_runs(levels.tolist(), counts.tolist(), room, min_rows)
    while len(runs) > 1 and (len(runs) > room or min(run[1] for run in runs) < min_rows):
        _merge_smallest(runs)
    return [run[0] for run in runs[:-1]], [run[1] for run in runs]


def _cut_runs(levels: list[float], counts: list[int], room: int, min_rows: int) -> list[_Run]:
    """Return runs [highest value, rows, heavy] in value order: heavy values alone, the rest in even shares."""
    share = sum(counts) / room
    heavy = [len(levels) <= room or count > share for count in counts]
    light_rows = sum(count for count, alone in zip(counts, heavy, strict=True) if not alone)
    target = max(light_rows / max(room - sum(heavy), 1), min_rows)
    runs: list[_Run] = []
    for level, count, alone in zip(levels, counts, heavy, strict=True):
        full = bool(runs) and not runs[-1][2] and runs[-1][1] + count / 2 > target
        if not runs or alone or runs[-1][2] or full:
            runs.append([level, count, alone])
        else:
            runs[-1][:2] = [level, runs[-1][1] + count]
    return runs


def _merge_smallest(runs: list[_Run]) -> None:
    """Join the smallest run with a neighbour: one without a heavy value first, then the smaller."""
    small = min(range(len(runs)), key=lambda i: (runs[i][1], i))
    beside = [i for i in (small - 1, small + 1) if 0 <= i < len(runs)]
    other = min(beside, key=lambda i: (runs[i][2], runs[i][1], i))
    low, high = sorted((small, other))
    runs[low : high + 1] = [[runs[high][0], runs[low][1] + runs[high][1], runs[low][2] or runs[high][2]]]


def _fit_categories(texts: list[str], missing: int, own_missing: bool, room: int, min_rows: int) -> BinSpec:
    ranked = sorted(Counter(texts).items(), key=lambda item: (-item[1], item[0]))
    kept = [(text, rows) for text, rows in ranked if rows >= min_rows]
    if len(kept) > room or len(kept) < len(ranked):
        kept = kept[: room - 1]
    rare = len(texts) - sum(rows for _, rows in kept)
    if 0 < rare < min_rows and kept:
        rare += kept.pop()[1]
    if not kept and len(texts) < min_rows:
        return BinSpec("text", (), (), (0, 0))
    sizes = [rows for _, rows in kept] + ([rare] if rare else [])
    largest = sizes.index(max(sizes))
    rare_bin = len(kept) if rare else largest
    groups = (*range(len(kept)), rare_bin, len(sizes) if own_missing else largest)
    return BinSpec("text", (), tuple(text for text, _ in kept), groups)


def separate_bins(
    codes: Sequence[Sequence[int]], specs_counts: Sequence[int], min_difference: int = 50, settled: int = 0
) -> list[dict[int, int]]:
    """Return for each feature the mapping old bin -> new bin that keeps differences of counts harmless.

    `codes[f][i]` is row i's bin of feature f, `specs_counts[f]` the number of its bins. Afterwards every bin of a
    feature with two or more bins holds at least `min_difference` rows, and every two bins of two such features differ
    (symmetric difference) in 0 or at least `min_difference` rows. Greedy and deterministic: the pair with the
    smallest difference loses the bin whose feature has more bins (the later feature in a tie), which joins the smaller
    of its neighbours in its feature. The first `settled` features were counted before and stay as they are. A feature
    that ends with one bin carries nothing: see `single_bin_features`.
    """
    return _Separation(codes, specs_counts, min_difference, settled).run()


def single_bin_features(mappings: Sequence[Mapping[int, int]]) -> list[int]:
    """Return the positions of the features whose bins have all become one: the caller drops them."""
    return [feature for feature, mapping in enumerate(mappings) if max(mapping.values(), default=0) == 0]


def merge_bins(codes: Sequence[int], mapping: Mapping[int, int]) -> list[int]:
    """Return `codes` with every old bin replaced by its new one."""
    return [mapping[code] for code in codes]


class _Separation:
    """The working state of `separate_bins`: one row of the difference matrix for each bin that is left."""

    def __init__(self, codes: Sequence[Sequence[int]], counts: Sequence[int], minimum: int, settled: int) -> None:
        self.minimum, self.settled, self.features = minimum, settled, len(counts)
        self.owner = [feature for feature, count in enumerate(counts) for _ in range(count)]
        self.members = [[old] for count in counts for old in range(count)]
        self.shared = _shared_rows(codes, counts)

    def run(self) -> list[dict[int, int]]:
        while (bin_ := self._next_to_merge()) is not None:
            self._merge(bin_, self._neighbour(bin_))
        return self._mappings()

    def _next_to_merge(self) -> int | None:
        owner = np.array(self.owner, dtype=int)
        if owner.size == 0:
            return None
        bins_left = np.bincount(owner, minlength=self.features)[owner]
        rows = np.diag(self.shared)
        free = (owner >= self.settled) & (bins_left > 1)
        thin = np.flatnonzero(free & (rows < self.minimum))
        if thin.size:
            return int(thin[np.argmin(rows[thin])])
        return self._closest_pair(owner, bins_left, rows, free)

    def _closest_pair(self, owner: Any, bins_left: Any, rows: Any, free: Any) -> int | None:
        difference = rows[:, None] + rows[None, :] - 2 * self.shared
        live = bins_left > 1
        clash = (difference > 0) & (difference < self.minimum) & (owner[:, None] < owner[None, :])
        clash &= live[:, None] & live[None, :] & (free[:, None] | free[None, :])
        if not clash.any():
            return None
        flat = int(np.argmin(np.where(clash, difference, np.iinfo(difference.dtype).max)))
        pair = [int(bin_) for bin_ in divmod(flat, len(owner)) if free[bin_]]
        return max(pair, key=lambda bin_: (bins_left[bin_], owner[bin_]))

    def _neighbour(self, bin_: int) -> int:
        beside = [i for i in (bin_ - 1, bin_ + 1) if 0 <= i < len(self.owner) and self.owner[i] == self.owner[bin_]]
        return min(beside, key=lambda i: (self.shared[i, i], i))

    def _merge(self, first: int, second: int) -> None:
        keep, gone = sorted((first, second))
        self.shared[keep] += self.shared[gone]
        self.shared[:, keep] += self.shared[:, gone]
        self.shared = np.delete(np.delete(self.shared, gone, axis=0), gone, axis=1)
        self.members[keep] += self.members.pop(gone)
        self.owner.pop(gone)

    def _mappings(self) -> list[dict[int, int]]:
        mappings: list[dict[int, int]] = [{} for _ in range(self.features)]
        for feature, members in zip(self.owner, self.members, strict=True):
            new = len(set(mappings[feature].values()))
            mappings[feature].update({old: new for old in members})
        return mappings


def _shared_rows(codes: Sequence[Sequence[int]], counts: Sequence[int]) -> Any:
    """Return the matrix of rows that each two bins share (bins in feature order), exact in 64-bit integers."""
    starts = np.concatenate(([0], np.cumsum(counts)))[:-1].astype(int)
    total, rows = int(sum(counts)), len(codes[0]) if codes else 0
    table = np.array([np.asarray(column, dtype=int) for column in codes]).reshape(len(codes), rows)
    if ((table < 0) | (table >= np.asarray(counts, dtype=int)[:, None])).any():
        raise ValueError("a row's bin lies outside its feature's bins")
    shared = np.zeros((total, total), dtype=np.int64)
    for start in range(0, rows, _BLOCK_ROWS):
        block = table[:, start : start + _BLOCK_ROWS]
        one_hot = np.zeros((block.shape[1], total), dtype=np.float32)
        np.put_along_axis(one_hot, (block + starts[:, None]).T, 1.0, axis=1)
        shared += np.rint(one_hot.T @ one_hot).astype(np.int64)
    return shared
