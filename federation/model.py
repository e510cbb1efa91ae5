"""Frozen values that rooms hand to each other.

`Released` is the only way for rows to reach a protocol: it is constructed in `parties/boundary` alone (test_layout
keeps that), after the gate has decided and the ledger has its leaf.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

MODES = ("COMPUTE_ONLY", "SCORE_ONLY", "DESENSITISED", "PLAINTEXT")


@dataclass(frozen=True)
class Provenance:
    """By which right values may cross: the release that the ledger holds, without any value of it.

    `round` is that of a release for one round alone, 0 for any other.
    """

    release_id: str
    provider: str
    recipient: str
    purpose: str
    mode: str
    fields: tuple[str, ...]
    rows: int
    rows_root: str
    consent_root: str
    epoch: int
    round: int = 0


@dataclass(frozen=True)
class Released:
    """Rows that passed the gate: `firms[i]` is the i-th row's firm, `columns[f][i]` its value of field f.

    `disputed[f]` are the firms whose value of field f is under an objection: it may be used, with that mark (R27).
    `consents` are the ids of the consents that it rests on, sorted.
    """

    provenance: Provenance
    firms: tuple[str, ...] = field(repr=False)
    columns: Mapping[str, Sequence[Any]] = field(repr=False)
    disputed: Mapping[str, frozenset[str]] = field(default_factory=dict, repr=False)
    consents: tuple[str, ...] = ()


class Clock(Protocol):
    """Where the time comes from; simulations pass one that does not tick by itself."""

    def now(self) -> str:
        """Return the time as `YYYY-MM-DDTHH:MM:SSZ` (UTC)."""
        ...
