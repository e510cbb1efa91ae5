"""What an auditor says of honest oddities in evidence that holds: rounds that were taken back, and who refused what.

Neither is a fault, and a verdict that kept silent about them would tell less than the ledger does.
"""

import re
from collections.abc import Iterator
from itertools import islice

from lianxin.parties.auditor_evidence import Evidence, Record, Run
from lianxin.parties.auditor_sums import is_network

STOPPED = frozenset({"failed", "refused"})
_NAMED = 5
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ,.;:()%/_-]{0,199}", re.ASCII)
_RULE = re.compile(r"[A-Z]{1,12}-?[A-Z0-9]{1,12}", re.ASCII)
_STEP = re.compile(r"[a-z]{1,30}\.[a-z]{1,30}", re.ASCII)


def told(run: Run, own: Evidence, check: str) -> Iterator[str]:
    """Yield what the passed check of this name has to tell of this party's ledger beside that it holds."""
    if check == "rounds" and is_network(run) and own.party == run.contract.get("platform"):
        yield from _taken_back(run, own)
    elif check == "end":
        yield from _stopped(run, own)


def _taken_back(run: Run, own: Evidence) -> Iterator[str]:
    rounds = {leaf["round"]: leaf for _, leaf in own.of_kind("network-round", run.id) if not leaf["accepted"]}
    for turn, leaf in islice(sorted(rounds.items()), _NAMED):
        yield f"round {turn} was taken back: {_shown(leaf['reason'])}"
    if len(rounds) > _NAMED:
        yield f"{len(rounds) - _NAMED} more rounds were taken back"
    if rounds and run.contract.get("aggregation") == "secret":
        yield "a sum in secret does not say whose update it was"


def _stopped(run: Run, own: Evidence) -> Iterator[str]:
    if not any(leaf["event"] in STOPPED for _, leaf in own.of_kind("contract", run.id)):
        return
    yield "the run was stopped"
    refused = own.of_kind("refusal", run.id)
    for index, leaf in islice(refused, _NAMED):
        yield f"{own.party}, leaf {index}: refused {_what(run, leaf)}"
    if more := sum(1 for _ in refused):
        yield f"it refused {more} more"


def _what(run: Run, leaf: Record) -> str:
    who = leaf["peer"] if leaf["peer"] in run.node_keys else "a party outside the contract"
    rule, step = leaf["rule"], leaf.get("step")
    where = f" in {step}" if isinstance(step, str) and _STEP.fullmatch(step) else ""
    return f"a message of {who}{where} (rule {rule if _RULE.fullmatch(rule) else 'of an odd name'})"


def _shown(reason: str) -> str:
    """Return a reason as it may be shown: evidence is of any content."""
    return reason if _PLAIN.fullmatch(reason) else "for a reason of odd signs"
