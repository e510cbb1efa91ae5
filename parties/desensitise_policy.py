"""The desensitisation policy: what becomes of every column of one project's table, read from a TOML file.

    [policy]
    project = "trial-2026"          # pseudonyms of two projects cannot be joined
    model = "agreement"             # public | agreement | enclave: whom the table is for
    schema_hash = "…"               # optional: the columns that this was written for, and no others
    [[field]]
    column = "region_code"
    role = "quasi"                  # identifier | quasi | sensitive | other
    transform = "region"
    digits = 4

What is not named is dropped. The transforms are in `desensitise_transforms`. `context_ppm` is the probability, in
millionths, that a recipient under an agreement tries to re-identify; without it 1 is assumed, the most careful.
"""

import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from lianxin.crypto import canonical
from lianxin.federation.errors import InputFault
from lianxin.parties.desensitise_transforms import Aggregate, Drop, Rule, Section, Transform

Model = Literal["public", "agreement", "enclave"]
MOST_FIELDS = 500


class _Head(Section):
    project: str = Field(pattern=r"^[a-z0-9-]{3,64}$")
    model: Model
    schema_hash: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    context_ppm: int = Field(default=1_000_000, ge=1, le=1_000_000)
    minimum_group: int = Field(default=20, ge=20, le=1_000_000)


class _File(Section):
    policy: _Head
    field: tuple[Rule, ...] = Field(min_length=1, max_length=MOST_FIELDS)


@dataclass(frozen=True)
class Policy:
    """A checked policy; `rules` are in the order of the file."""

    project: str
    model: Model
    schema_hash: str
    context_ppm: int
    minimum_group: int
    rules: tuple[Transform, ...]

    @cached_property
    def hash(self) -> str:
        """The SHA-256 of what the policy says, in hex: the same for two files that differ in order or spelling."""
        fields = [
            {"column": rule.column, "role": rule.role, "transform": rule.transform, "parameters": rule.parameters()}
            for rule in sorted(self.rules, key=lambda rule: rule.column)
        ]
        head = {name: getattr(self, name) for name in _Head.model_fields}
        return canonical.record_hash({"type": "desensitisation-policy", "version": 1, **head, "fields": fields})

    @cached_property
    def fields(self) -> Mapping[str, str]:
        """Column to transform, as one text each."""
        return MappingProxyType({rule.column: rule.written() for rule in self.rules})

    @cached_property
    def by_column(self) -> Mapping[str, Transform]:
        """Column to rule."""
        return MappingProxyType({rule.column: rule for rule in self.rules})

    @property
    def is_aggregate(self) -> bool:
        """Whether the policy lets statistics of groups leave and no row."""
        return any(isinstance(rule, Aggregate) for rule in self.rules)

    @property
    def is_keyed(self) -> bool:
        """Whether a transform needs the owner's key."""
        return any(rule.is_keyed for rule in self.rules)


def load_policy(path: Path) -> Policy:
    """Return the policy in the TOML file at `path`; raises InputFault naming the file, the field and the key."""
    try:
        return policy_of(path.read_text(encoding="utf-8"), str(path))
    except OSError:
        raise InputFault(f"{path} cannot be read; check the path of the policy") from None
    except UnicodeDecodeError:
        raise InputFault(f"{path} is not UTF-8 text; save the policy with the UTF-8 encoding") from None


def policy_of(text: str, name: str = "the policy") -> Policy:
    """Return the policy that a TOML text holds; `name` is what a fault calls it. Raises InputFault."""
    try:
        file = TypeAdapter(_File).validate_python(tomllib.loads(text))
    except (tomllib.TOMLDecodeError, RecursionError) as fault:
        raise InputFault(f"{name} is no TOML: {fault}; mend that line") from None
    except ValidationError as fault:
        raise InputFault(f"{name}: {_first_fault(fault.errors(include_url=False)[0])}") from None
    policy = Policy(**dict(file.policy), rules=tuple(file.field))
    _check_rules(name, policy)
    return policy


def _first_fault(error: Any) -> str:
    """Return where and what as a sentence that shows no value; the place of a field is counted from 1."""
    head, *rest = error["loc"] or ("policy",)
    where = f"field {rest[0] + 1}" if head == "field" and rest and isinstance(rest[0], int) else str(head)
    keys = [str(part) for part in rest if not isinstance(part, int)]
    known = {
        "missing": "is missing; add it",
        "extra_forbidden": "is no key that may stand here; remove it",
        "union_tag_invalid": "transform is none that this version knows; see docs/desensitisation.md",
        "union_tag_not_found": "transform is missing; add it",
    }
    what = known.get(error["type"], error["msg"].removeprefix("Value error, ").lower())
    return f"{where}: {keys[-1] + ': ' if keys and not error['type'].startswith('union') else ''}{what}"


def _check_rules(name: str, policy: Policy) -> None:
    columns = [rule.column for rule in policy.rules]
    for place, column in enumerate(columns):
        if column in columns[:place]:
            raise InputFault(f"{name}: field {place + 1} is a second entry for column {column}; keep one")
    if policy.is_aggregate:
        for rule in policy.rules:
            if rule.role != "quasi" and not isinstance(rule, Aggregate | Drop):
                raise InputFault(
                    f"{name}: column {rule.column} stays row by row beside statistics; drop it or group by it"
                )
            if rule.role == "quasi" and isinstance(rule, Aggregate):
                raise InputFault(f"{name}: column {rule.column} cannot be grouped by and summed up; make it sensitive")


def schema_hash(columns: Sequence[str]) -> str:
    """Return the hash of a table's column names, in any order, for `schema_hash` of a policy."""
    names = "".join(f"{len(name.encode())}:{name}" for name in sorted(columns))
    return hashlib.sha256(b"lianxin/table-schema\x00" + names.encode()).hexdigest()


def check_schema(policy: Policy, columns: Sequence[str]) -> None:
    """Raise InputFault unless the table has every column of the policy, and is the one that it was written for."""
    missing = [rule.column for rule in policy.rules if rule.column not in set(columns)]
    if missing:
        raise InputFault(f"the policy names column {missing[0]}, which the table does not have; correct the policy")
    if policy.schema_hash and policy.schema_hash != schema_hash(columns):
        raise InputFault(
            "the table's columns are not those that the policy was written for (schema_hash); review every column, "
            f'then write schema_hash = "{schema_hash(columns)}"'
        )
