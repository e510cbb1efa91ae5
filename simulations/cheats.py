"""What can be done wrong on purpose in a scenario: a cheat for each `kind` of a `[[cheat]]` table (docs/cheats.md).

A cheat makes one party do otherwise than the protocol says, at its node before the run begins (`tamper`) or in its files
after it (`forge`). It is a function of its options, of the run and of the scenario's seed: played again, it cheats again
in the same bytes. Every other party stays honest, and what catches the cheat is theirs or the auditor's.
"""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from lianxin.federation.errors import InputFault
from lianxin.simulations import cheats_ciphertexts, cheats_gate, cheats_ledger, cheats_matching, cheats_updates
from lianxin.simulations.cheats_hooks import ByOneParty, Cheat

__all__ = ["CHEATS", "Cheat", "cheat_of"]
_KINDS: tuple[type[ByOneParty], ...] = (
    cheats_matching.InflatedMatching,
    cheats_matching.ReplayedEnvelope,
    cheats_gate.UnconsentedFirms,
    cheats_gate.IgnoredRevocation,
    cheats_gate.ClockSetBack,
    cheats_ciphertexts.CraftedCiphertexts,
    cheats_updates.PoisonedUpdate,
    cheats_ledger.ForkedLedger,
    cheats_ledger.RewrittenLedger,
    cheats_ledger.DeniedMessage,
    cheats_ledger.SwappedContract,
)


def _made(cheat: type[ByOneParty], options: Mapping[str, Any]) -> Cheat:
    """Return the cheat with these options. Raises InputFault with the key that is none or of another type."""
    try:
        return cheat.model_validate({name: value for name, value in options.items() if name != "kind"})
    except ValidationError as fault:
        first = fault.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "its options"
        raise InputFault(f"cheat {cheat.kind}: {key}: {first['msg'].lower()}; see docs/cheats.md") from None


CHEATS: Mapping[str, Callable[[Mapping[str, Any]], Cheat]] = MappingProxyType(
    {cheat.kind: partial(_made, cheat) for cheat in _KINDS}
)


def cheat_of(table: Mapping[str, Any]) -> Cheat:
    """Return the cheat of one `[[cheat]]` table. Raises InputFault for a kind or an option that is none."""
    kind = str(table.get("kind", ""))
    if kind not in CHEATS:
        raise InputFault(f"there is no cheat of kind {kind or 'nothing'}; known are {', '.join(sorted(CHEATS))}")
    return CHEATS[kind](table)
