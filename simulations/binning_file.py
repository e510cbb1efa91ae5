"""One binning file for all nodes of a simulation: checked against every table, and cut into each party's own part.

In a real network each party writes its own file. Here one is enough: a party's part has the fields of its own table, and a
party that has none of them has no file. RUN_DIR/bins.toml is the whole, from which a replay begins.
"""

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from lianxin.federation.errors import InputFault
from lianxin.parties.coding_rules import load_rules
from lianxin.simulations.tables import Inputs, PartyInput

BINNING = "bins.toml"


@dataclass(frozen=True)
class BinningFile:
    """A checked binning file: its bytes, and what it says a field."""

    data: bytes
    said: Mapping[str, Any]

    @property
    def sha256(self) -> str:
        """The digest of the whole file, hex."""
        return hashlib.sha256(self.data).hexdigest()

    def part_of(self, party: PartyInput) -> str:
        """Return the TOML text about a party's own fields, "" where there is none."""
        return tomli_w.dumps({name: rule for name, rule in self.said.items() if name in party.features})


def read_binning(path: Path | None, inputs: Inputs) -> BinningFile | None:
    """Return the checked file, None without one. Raises InputFault naming the file, the field and the key."""
    if path is None:
        return None
    load_rules(path)
    data = path.read_bytes()
    said = tomllib.loads(data.decode("utf-8"))
    known = {name for party in (inputs.platform, *inputs.banks) for name in party.features}
    if inputs.label_column in said:
        raise InputFault(f"{path.name}: [{inputs.label_column}] is the label, which has no bins; remove it")
    if (alien := next((name for name in said if name not in known), None)) is not None:
        raise InputFault(f"{path.name}: [{alien}] is a feature of no party's table; correct or remove it")
    return BinningFile(data, said)


def kept_binning(run_dir: Path, kept: Mapping[str, str] | None) -> Path | None:
    """Return the copy of a run's binning file, None where it had none. Raises InputFault where it is not what it was."""
    if kept is None:
        return None
    path = run_dir / BINNING
    if not path.is_file():
        raise InputFault(f"the binning file of the run is no longer at {path}; put it back to replay")
    if hashlib.sha256(path.read_bytes()).hexdigest() != kept["sha256"]:
        raise InputFault(f"the binning file at {path} has changed since the run; replay needs the same bytes")
    return path
