"""What a run folder's ledgers tell about a story: who withdrew when, who refused what, which bytes left in which form.

Read are the lines of each party's `ledger.jsonl`; one that is no record is passed over, for some stories end with evidence
that somebody forged. What is believed is the auditor's business, not this module's.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lianxin.crypto import canonical
from lianxin.crypto.errors import CryptoError
from lianxin.federation.errors import InputFault

Leaf = Mapping[str, Any]
_OPEN_FORMS = ("CONTROL", "PUBLIC")
WITHDRAWN = "R04"


def parties_of(run_dir: Path) -> list[str]:
    """Return the parties that have evidence in a run folder, in order of name. Raises InputFault where it is none."""
    found = sorted(path.parent.parent.name for path in run_dir.glob("parties/*/evidence/ledger.jsonl"))
    if not found:
        raise InputFault(f"{run_dir} is no run folder with evidence; name the folder that `simulate ... --out` gave")
    return found


def leaves_of(run_dir: Path, party: str, kind: str = "") -> Iterator[Leaf]:
    """Yield a party's ledger leaves, of one kind or of all, in order."""
    path = run_dir / "parties" / party / "evidence" / "ledger.jsonl"
    if not path.is_file():
        return
    with path.open("rb") as lines:
        for line in lines:
            leaf = _leaf(line)
            if leaf and kind in ("", leaf.get("kind")):
                yield leaf


def _leaf(line: bytes) -> Leaf:
    try:
        found = canonical.decode(line.removesuffix(b"\n"))
    except CryptoError:
        return {}
    return found if isinstance(found, dict) else {}


def bytes_by_form(run_dir: Path) -> dict[str, int]:
    """Return the bytes that left all nodes, by form; a message's are booked on the most telling form that it holds."""
    booked: Counter[str] = Counter()
    for party in parties_of(run_dir):
        for leaf in leaves_of(run_dir, party, "envelope"):
            if leaf["direction"] == "out":
                forms = [entry["form"] for entry in leaf["forms"]]
                telling = [form for form in forms if form not in _OPEN_FORMS]
                booked[(telling or forms or ["CONTROL"])[0]] += leaf["size_bytes"]
    return dict(sorted(booked.items(), key=lambda entry: (-entry[1], entry[0])))


def withdrawn(run_dir: Path) -> list[dict[str, Any]]:
    """Return the releases to a recipient whose consents had been withdrawn by then, the first of each a round:
    {"provider", "recipient", "round", "firms" out by R04, "rows" that stayed}."""
    found: dict[tuple[str, str, int], dict[str, Any]] = {}
    for party in parties_of(run_dir):
        for leaf in leaves_of(run_dir, party, "release"):
            out = sum(entry["firms"] for entry in leaf["excluded"] if entry["rule"] == WITHDRAWN)
            place = (party, leaf["recipient"], leaf.get("round", 0))
            if out and place not in found:
                names = ("provider", "recipient", "round", "firms", "rows")
                found[place] = dict(zip(names, (*place, out, leaf["rows"]), strict=True))
    return [found[place] for place in sorted(found)]


def taken_back(run_dir: Path) -> list[int]:
    """Return the rounds of a network that the platform took back, as its ledger says, in order."""
    parties = [path.parent.parent.name for path in run_dir.glob("parties/*/evidence/ledger.jsonl")]
    leaves = (leaf for party in parties for leaf in leaves_of(run_dir, party, "network-round"))
    return sorted({leaf["round"] for leaf in leaves if not leaf["accepted"]})


def refusals(run_dir: Path) -> list[tuple[str, str, str]]:
    """Return what was refused: (who refused, whom, rule), each once, in order of first occurrence."""
    told = (
        (party, leaf.get("peer", ""), leaf.get("rule", ""))
        for party in parties_of(run_dir)
        for leaf in leaves_of(run_dir, party, "refusal")
    )
    return list(dict.fromkeys(told))
