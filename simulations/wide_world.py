"""A made-up table of a province's size: many firms, many fields, drawn by column so that it takes seconds.

It has the shape of a real platform and nothing of its content: every field leans on a hidden conduct or size of the firm,
one in eight is a count that is mostly nought, one in six has gaps. A bank's loans go bad by conduct and by a standing of
the firm's that only the bank's own fields show. One seed gives the same bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lianxin.federation.errors import InputFault
from lianxin.simulations.tables import Inputs, check_inputs, write_table
from lianxin.simulations.world import Floats, Generator, stream

_COUNTS_EVERY, _GAPS_EVERY, _GAPS = 8, 6, 0.12
_CONDUCT, _STANDING, _BASE = 1.2, 1.0, -1.6
_TEST_SHARE = 0.2


@dataclass(frozen=True)
class Shape:
    """Sizes of a run: firms and fields of the platform, loans and fields of one bank."""

    firms: int
    fields: int
    loans: int
    own_fields: int


SHAPES: Mapping[str, Shape] = {
    "qinghai": Shape(firms=132_000, fields=54, loans=28_000, own_fields=6),
    "province": Shape(firms=140_000, fields=30, loans=137_500, own_fields=13),  # 110,000 training rows
}


def make_wide(seed: int, folder: Path, shape: Shape, banks: int = 1) -> Inputs:
    """Write `platform.csv.gz` and `bank-1.csv.gz`… of a shape to `folder` and return the inputs.

    Each loan is of another firm, over all banks. Raises InputFault where there are more loans than firms.
    """
    if shape.loans * banks > shape.firms:
        told = f"{shape.firms} firms cannot have {shape.loans * banks} loans of different firms"
        raise InputFault(f"{told}; ask for fewer loans")
    folder.mkdir(parents=True, exist_ok=True)
    rng = stream(seed, "wide-world")
    conduct, size, standing = rng.standard_normal((3, shape.firms))
    ids = [f"firm-{number:07d}" for number in range(shape.firms)]
    write_table(folder / "platform.csv.gz", {"firm_id": ids, **_fields(rng, "field", shape.fields, conduct, size)})
    borrowers = rng.choice(shape.firms, shape.loans * banks, replace=False)
    paths = [folder / f"bank-{number + 1}.csv.gz" for number in range(banks)]
    for path, rows in zip(paths, np.split(borrowers, banks), strict=True):
        chance = 1 / (1 + np.exp(_CONDUCT * conduct[rows] + _STANDING * standing[rows] - _BASE))
        bad = rng.random(shape.loans) < chance
        split = np.where(rng.random(shape.loans) < _TEST_SHARE, "test", "train")
        roles = {"firm_id": [ids[row] for row in rows], "label_bad": bad.astype(int).tolist(), "split": split.tolist()}
        own = _fields(rng, "own", shape.own_fields, standing[rows], size[rows])
        write_table(path, {**roles, **own})
    return check_inputs(folder / "platform.csv.gz", paths, "firm_id", "label_bad", "split")


def _fields(rng: Generator, name: str, count: int, conduct: Floats, size: Floats) -> dict[str, list[Any]]:
    return {f"{name}_{place:02d}": _field(rng, place, conduct, size) for place in range(count)}


def _field(rng: Generator, place: int, conduct: Floats, size: Floats) -> list[Any]:
    lean = rng.uniform(0.2, 0.8) * (conduct if place % 2 == 0 else size)
    drawn = lean + rng.standard_normal(len(conduct))
    if place % _COUNTS_EVERY == _COUNTS_EVERY - 1:
        return rng.poisson(np.exp(-1.2 - 0.6 * lean)).tolist()
    values = np.round(drawn, 4).tolist()
    if place % _GAPS_EVERY == _GAPS_EVERY - 1:
        gone = rng.random(len(values)) < _GAPS
        return [None if missing else value for value, missing in zip(values, gone.tolist(), strict=True)]
    return values
