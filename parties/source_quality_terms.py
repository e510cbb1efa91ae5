"""What an operator promises of each data source, from a TOML file: its fields, how often it delivers, what may be missing.

    [[source]]
    name = "tax-bureau"
    contact = "data desk of the bureau"
    every_days = 31
    date = "tax_as_of"
    fields = ["tax_late_cnt_24m"]

A field has one source. Where the file names none, the catalogue's column `provider` says who provides a field.
"""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from lianxin.federation.errors import InputFault
from lianxin.parties.config_section import Section
from lianxin.parties.decision_catalogue import Catalogue

UNNAMED = "unnamed"
Permille = Annotated[int, Field(ge=0, le=1000)]


class Source(Section):
    """One source: `every_days` is how often it promises new data, `date` the column that says of when a row is; without it the
    file's own time counts. `missing_permille` is the share of empty cells from which a field of it is warned about."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{1,62}[a-z0-9]$")
    contact: str = Field(default="", max_length=200)
    every_days: int = Field(default=31, ge=1, le=3650)
    date: str = ""
    fields: list[str] = Field(min_length=1)
    missing_permille: Permille = 300


class _File(Section):
    source: list[Source] = Field(min_length=1)


def load_sources(path: Path) -> list[Source]:
    """Return the sources of a file. Raises InputFault naming the file and the key, or a field of two sources."""
    try:
        found = _File(**tomllib.loads(path.read_text(encoding="utf-8"))).source
    except OSError:
        raise InputFault(f"{path} cannot be read; check the path of the sources") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as fault:
        raise InputFault(f"{path} is no TOML: {fault}; mend that line") from None
    except (ValidationError, TypeError) as fault:
        where = (
            ".".join(str(part) for part in fault.errors()[0]["loc"]) if isinstance(fault, ValidationError) else "source"
        )
        raise InputFault(
            f"{path}: {where}: is no key or value that a source may have; see docs/operators-day.md"
        ) from None
    _check_once(path, [one.name for one in found], "source")
    _check_once(path, [name for one in found for name in one.fields], "field")
    return found


def _check_once(path: Path, names: Sequence[str], what: str) -> None:
    for place, name in enumerate(names):
        if name in names[:place]:
            raise InputFault(f"{path}: {what} {name} stands there twice; a field has one source")


def source_of(catalogue: Catalogue, sources: Sequence[Source]) -> dict[str, str]:
    """Return the source of each field: by the file, else by the catalogue's column `provider`, else `unnamed`."""
    by_file = {name: one.name for one in sources for name in one.fields}
    by_catalogue = {name: entry.provider or UNNAMED for name, entry in catalogue.items()}
    return by_catalogue | by_file
