"""What a party says by hand about its bins: `bins.toml`, a table a field, read before a run and by the workbench.

    [utility_continuity_m]
    edges = [6, 24]            # the highest value of every interval but the last
    special = [-999]           # numbers that mean something else than their size: a bin of their own each
    monotone = "auto"          # "up": the weight of evidence rises with the value; "down"; "auto"; "none"
    [industry]
    groups = [["A", "B"], ["C"]]
    [region]
    max_bins = 4
    [free_text]
    skip = true

A field that the file does not name is binned as ever. Every mistake is one sentence that names the file, the field and
the key, and is told before anything runs. What the file says never leaves its owner.
"""

import itertools
import math
import tomllib
import unicodedata
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from lianxin.federation.errors import InputFault
from lianxin.federation.monotone import DIRECTIONS

_LONGEST = 64
_EXCLUDES = (("edges", "groups"), ("edges", "max_bins"), ("groups", "special"), ("groups", "max_bins"))


@dataclass(frozen=True)
class FieldRule:
    """What is said of one field; empty where nothing is. `groups` are categories as text."""

    edges: tuple[float, ...] = ()
    special: tuple[float, ...] = ()
    groups: tuple[tuple[str, ...], ...] = ()
    monotone: str = "none"
    max_bins: int = 0
    skip: bool = False


@dataclass(frozen=True)
class BinRules:
    """The rules of one file; `file` is its name, for sentences."""

    file: str = ""
    fields: Mapping[str, FieldRule] = field(default_factory=dict)

    def of(self, name: str) -> FieldRule:
        """Return what is said of the field."""
        return self.fields.get(name, FieldRule())

    def refuse(self, name: str, key: str, what: str) -> NoReturn:
        """Raise InputFault about one key of one field."""
        raise InputFault(f"{self.file}: [{name}] {key} {what}")

    def check_columns(self, columns: Collection[str], label: str = "") -> None:
        """Raise InputFault where the file names a field that the table does not have, or its label."""
        unknown = next((name for name in self.fields if name not in columns), None)
        if unknown is not None and unknown == label:
            raise InputFault(f"{self.file}: [{unknown}] is the label, which has no bins; remove it")
        if unknown is not None:
            raise InputFault(f"{self.file}: [{unknown}] is no column of this node's table; correct or remove it")


NO_RULES = BinRules()


def load_rules(path: Path | None, columns: Collection[str] | None = None) -> BinRules:
    """Return the checked rules of a file, none without one. Raises InputFault naming the file, the field and the key."""
    if path is None:
        return NO_RULES
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise InputFault(f"{path} cannot be read; check [binning] file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as fault:
        raise InputFault(f"{path} is no TOML: {fault}; mend that line") from None
    named = BinRules(path.name)
    rules = BinRules(path.name, {name: _rule_said(named, name, said) for name, said in content.items()})
    if columns is not None:
        rules.check_columns(columns)
    return rules


def _rule_said(file: BinRules, name: str, said: Any) -> FieldRule:
    if not isinstance(said, dict):
        raise InputFault(f"{file.file}: {name} stands outside a field's table; write it under [field]")
    for key, value in said.items():
        if key not in _CHECKS:
            file.refuse(name, key, f"is no key that a field may have; use {', '.join(_CHECKS)}")
        if (fault := _CHECKS[key](value)) is not None:
            file.refuse(name, key, fault)
    for one, other in _EXCLUDES:
        if one in said and other in said:
            file.refuse(name, other, f"does not go with {one}; remove one of the two")
    if said.get("skip") and len(said) > 1:
        file.refuse(name, "skip", "leaves the field out; remove its other keys")
    if "groups" in said and said.get("monotone", "none") != "none":
        file.refuse(name, "monotone", "orders intervals of numbers, and groups have no order; remove one of the two")
    return _built(file, name, said)


def _built(file: BinRules, name: str, said: Mapping[str, Any]) -> FieldRule:
    groups = tuple(tuple(unicodedata.normalize("NFC", str(one)) for one in group) for group in said.get("groups", ()))
    listed = [category for group in groups for category in group]
    if len(set(listed)) != len(listed):
        file.refuse(name, "groups", "has a category twice; name each once")
    return FieldRule(
        tuple(float(edge) for edge in said.get("edges", ())),
        tuple(float(number) for number in said.get("special", ())),
        groups, said.get("monotone", "none"), said.get("max_bins", 0), said.get("skip", False),
    )  # fmt: skip


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _edges(value: Any) -> str | None:
    if not isinstance(value, list) or not 1 <= len(value) <= _LONGEST or not all(map(_is_number, value)):
        return f"must be a list of 1 to {_LONGEST} numbers"
    rising = all(low < high for low, high in itertools.pairwise(value))
    return None if rising else "must rise from one number to the next"


def _special(value: Any) -> str | None:
    if not isinstance(value, list) or not 1 <= len(value) <= _LONGEST or not all(map(_is_number, value)):
        return f"must be a list of 1 to {_LONGEST} numbers"
    return None if len({float(one) for one in value}) == len(value) else "has a number twice; name each once"


def _groups(value: Any) -> str | None:
    def is_group(group: Any) -> bool:
        named = isinstance(group, list) and bool(group)
        return named and all(isinstance(one, (str, int)) and not isinstance(one, bool) for one in group)

    is_listed = isinstance(value, list) and 1 <= len(value) <= _LONGEST and all(map(is_group, value))
    return None if is_listed else f"must be a list of 1 to {_LONGEST} lists of categories"


def _monotone(value: Any) -> str | None:
    return None if isinstance(value, str) and value in DIRECTIONS else f"must be one of {', '.join(DIRECTIONS)}"


def _max_bins(value: Any) -> str | None:
    return None if type(value) is int and 2 <= value <= _LONGEST else f"must be from 2 to {_LONGEST}"


def _skip(value: Any) -> str | None:
    return None if type(value) is bool else "must be true or false"


_CHECKS: Mapping[str, Callable[[Any], str | None]] = {
    "edges": _edges, "special": _special, "groups": _groups, "monotone": _monotone, "max_bins": _max_bins, "skip": _skip,
}  # fmt: skip
