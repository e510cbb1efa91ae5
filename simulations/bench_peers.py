"""Other people's libraries under the same benchmark: one script each, run by an interpreter of a side environment.

`PYTHON script.py --bits N --json` prints one JSON object; nothing of a peer is ever imported here, so that neither
their licences nor their requirements reach this package. A peer that is absent, or fails, gives no figure but a note.
"""

import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lianxin.federation.errors import InputFault

FOLDER = Path(__file__).parent / "peers"
DEADLINE_S = 1800.0
_NO_PEERS = "without --peers PYTHON no other library was measured: the figures against them are null"


@dataclass
class Peers:
    """The interpreter that has the peers, None for none; `notes` says for each missing figure why it is missing."""

    python: Path | None
    notes: list[str] = field(default_factory=list)
    told: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.python is None:
            self.notes.append(_NO_PEERS)
        elif not (self.python.is_file() and os.access(self.python, os.X_OK)):
            raise InputFault(f"--peers names the Python interpreter of a side environment; {self.python} is none")

    def run(self, name: str, *arguments: str) -> dict[str, Any] | None:
        """Return what the peer's script printed, None (with a note, once) when it gave no figures.

        Raises InputFault when the interpreter itself cannot be started.
        """
        if self.python is None or any(note.startswith(f"{name}: ") for note in self.notes):
            return None
        told = self._started(FOLDER / f"{name.replace('-', '_')}_peer.py", *arguments)
        fault = _fault(told)
        if fault:
            self.notes.append(f"{name}: {fault}")
            return None
        self.told[name] = told
        return told

    def _started(self, script: Path, *arguments: str) -> dict[str, Any]:
        try:
            ended = subprocess.run(
                [str(self.python), str(script), *arguments, "--json"],
                capture_output=True, text=True, timeout=DEADLINE_S, stdin=subprocess.DEVNULL,
            )  # fmt: skip
            told = json.loads(ended.stdout.strip().splitlines()[-1])
        except OSError:
            raise InputFault(f"--peers {self.python} cannot be started; is it a Python interpreter?") from None
        except subprocess.TimeoutExpired:
            return {"failed": f"its script did not end within {DEADLINE_S:.0f} s"}
        except (ValueError, IndexError):
            return {"failed": "its script printed no JSON object"}
        return told if isinstance(told, dict) else {"failed": "its script printed no JSON object"}


def _fault(told: dict[str, Any]) -> str:
    if "missing" in told:
        return "it is not installed in the environment of --peers"
    if told.get("arithmetic") == "Python":
        return "it ran without gmpy2, which would flatter our figures; install gmpy2 beside it"
    return str(told.get("failed", ""))
