"""What an auditor checks of one run's sizes: rows, matched firms, questions and attempts against the contract.

A leaf tells how many distinct firms a release or message is about, and how long the message is: queries, tags and positions
have fixed lengths, so that their number follows from the bytes. What else a message holds is left aside in the party's favour,
so that nobody is accused for a few bytes.

- matching: no more queries than `max_queries`, padded (M01), and than the firms that the bank released to be matched, padded;
  no more tags than `max_firms` and than the platform released, padded (G04). A set inflated within its padding is found by
  opening a sample of the queries (crypto/query_commitment), not here;
- after it: a run with fewer matched firms than `min_intersection` goes no further, and nothing leaves about more firms than
  were matched, nor than were released to be matched (G04); no more training rows than `max_rows`;
- rounds: no more attempts than rounds and spare attempts.

No leaf tells bads and goods: their minimums are the output gate's, and replay's to judge.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from lianxin.parties.auditor_evidence import NOBODY, Evidence, Finding, Record, Run, fits, leaf_finding, message_of
from lianxin.parties.auditor_sums import is_network

PADDING = 64
ROW_BYTES, TAG_BYTES, QUERY_BYTES = 4, 16, 64  # a position, a tag, a blinded element with its commitment
SPARE_BYTES = 16  # of a message that are none of its list's
_COMMITMENT, _BYTES_A_BIT = 32, 4  # a ciphertext has twice the key's bits
_MATCHED_AFTER = ("binning.", "round.", "boosting.", "selection.", "scoring.points")
_SIZED = re.compile(rb'"message_type":"(Bank|PlatformTags|TrainingRows")')
_ATTEMPT = re.compile(rb'"conversation":"vertical/[^"]*/round/[^"]*"')
_ROUND = re.compile(r"vertical/[a-z0-9-]{3,64}/round/([0-9]{1,6})/([0-9]{1,6})", re.ASCII)


def limit_findings(run: Run, own: Evidence) -> Iterator[Finding]:
    """Yield the leaves that show more rows, questions or attempts at this party than the contract and the matching allow."""
    if is_network(run) or run.contract.get("model") in ("field_query", "scoring"):
        return
    limits, attempts = _message_limits(run.contract), _Attempts.of(run)
    sizes = _Sizes({name: limit[0] for name, limit in limits.limits.items() if name != "TrainingRows"})
    for index, leaf in _to_judge(run, own):
        size = leaf.get("size_bytes")
        sizes.see(index, leaf, size if isinstance(size, int) else 0)
        what, rule = limits.fault(leaf, size if isinstance(size, int) else 0) or attempts.fault(leaf) or ("", "")
        if what:
            place, sender = message_of(own.party, leaf), own.party if leaf["direction"] == "out" else leaf["peer"]
            accused = sender if sender in run.node_keys else NOBODY
            yield Finding(
                f"{own.party}, leaf {index}: {what}", f"ask {sender} by which terms", index, rule, place, accused
            )
    yield from _row_findings(run, own, sizes)


def _to_judge(run: Run, own: Evidence) -> Iterator[tuple[int, Record]]:
    """Yield the crossings that have anything to do with a size: by their bytes, since most have not and decoding takes time."""
    seen = set[bytes]()
    for index in own.columns.crossed(run.id):
        line = own.ledger_lines[index]
        found = _ATTEMPT.search(line)
        if (found is not None and found[0] not in seen) or _SIZED.search(line):
            seen.add(found[0] if found is not None else b"")
            yield index, own.leaves[index]


def query_bytes(message_type: str, key_bits: int) -> int:
    """Return the bytes of one matching query in a message of this type, 0 for a message without queries."""
    if message_type == "BankBlindedElements":
        return QUERY_BYTES
    return key_bits // _BYTES_A_BIT + _COMMITMENT if message_type == "BankQueries" else 0


@dataclass
class _Sizes:
    """What this party declared to each peer, queries or tags by `units`, and the most firms that were matched with it."""

    units: Mapping[str, int]
    matched: Counter[str] = field(default_factory=Counter)
    at: dict[str, int] = field(default_factory=dict)
    declared: Counter[str] = field(default_factory=Counter)
    declared_at: dict[str, int] = field(default_factory=dict)

    def see(self, index: int, leaf: Record, size: int) -> None:
        if leaf["message_type"] == "BankMatches" and leaf["step"] == "matching.share":
            self.matched[leaf["peer"]] += size // ROW_BYTES
            self.at[leaf["peer"]] = index
        elif leaf["direction"] == "out" and (unit := self.units.get(leaf["message_type"])):
            self.declared[leaf["peer"]] += max(0, size - SPARE_BYTES) // unit
            self.declared_at[leaf["peer"]] = index


@dataclass
class _Limits:
    """For each message type: bytes of one entry, how many entries may cross with one peer, what they are, the rule."""

    limits: Mapping[str, tuple[int, int, str, str]]
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)

    def fault(self, leaf: Record, size: int) -> tuple[str, str] | None:
        """Return what to say, and the rule, of the message by which the entries become too many."""
        unit, most, what, rule = self.limits.get(leaf["message_type"], (0, 0, "", ""))
        if not unit:
            return None
        place = (leaf["message_type"], leaf["peer"])
        before = self.counts[place]
        self.counts[place] += max(0, size - SPARE_BYTES) // unit
        if not before <= most < self.counts[place]:
            return None
        return f"{self.counts[place]} {what} crossed, the contract allows {most} (rule {rule})", rule


def _message_limits(contract: Record) -> _Limits:
    names = ("max_queries", "max_firms", "max_rows", "key_bits")
    if not fits(contract, dict.fromkeys(names, int)):
        return _Limits({})
    queries, firms = padded(contract["max_queries"]), padded(contract["max_firms"])
    asked = {
        name: (query_bytes(name, contract["key_bits"]), queries, "matching queries", "M01")
        for name in ("BankBlindedElements", "BankQueries")
    }
    rows = (ROW_BYTES, contract["max_rows"], "training rows", "M03")
    return _Limits({**asked, "PlatformTags": (TAG_BYTES, firms, "tags of firms", "M01"), "TrainingRows": rows})


def padded(size: int) -> int:
    """Return the declared size of a set that is matched: the next multiple of 64 (federation/matching_side)."""
    return max(PADDING, -(-size // PADDING) * PADDING)


def _declared_findings(own: Evidence, sizes: _Sizes, offered: Mapping[str, int]) -> Iterator[Finding]:
    """Yield the peers to whom more queries or tags went than firms were released to be matched, padded."""
    for peer, declared in sorted(sizes.declared.items()):
        most = padded(offered[peer]) if peer in offered else 0
        if declared > most:
            what = f"{declared} firms or more were matched with {peer}, {offered.get(peer, 0)} were released for it (rule G04)"
            yield leaf_finding(own, sizes.declared_at[peer], what, "whose the further firms are", "G04")


def _row_findings(run: Run, own: Evidence, sizes: _Sizes) -> Iterator[Finding]:
    """Yield the releases after the matching that are about more firms than it let through, or that should not be."""
    least, said, offered = run.contract.get("min_intersection", 0), set[str](), dict[str, int]()
    for index, leaf in own.of_kind("release", run.id):
        peer, rows = leaf["recipient"], leaf["rows"]
        if leaf["step"] == "matching.query":
            offered[peer] = max(rows, offered.get(peer, 0))
        if not leaf["step"].startswith(_MATCHED_AFTER) or index < sizes.at.get(peer, len(own.leaves)):
            continue
        matched = min(sizes.matched[peer], offered.get(peer, sizes.matched[peer]))
        if isinstance(least, int) and matched < least and peer not in said:
            said.add(peer)
            what = (
                f"a run went on with {matched} matched firms at most, the contract's minimum is {least} (rule OUT-ROWS)"
            )
            yield leaf_finding(own, index, what, "why it went on", "OUT-ROWS")
        if rows > matched:
            what = f"a release of {rows} rows to {peer}, the matching let {matched} through (rule G04)"
            yield leaf_finding(own, index, what, "whence the further firms came", "G04")
    yield from _declared_findings(own, sizes, offered)


@dataclass
class _Attempts:
    """Which attempts at which rounds a contract has; trees have one each, and no number."""

    rounds: int
    most: int
    said: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, run: Run) -> "_Attempts":
        rounds, spare = run.contract["rounds"], run.contract.get("spare_attempts", 0)
        return cls(rounds, rounds + (spare if isinstance(spare, int) else 0))

    def fault(self, leaf: Record) -> tuple[str, str] | None:
        """Return what to say, and the rule, of the first message of an attempt too many."""
        name = leaf["conversation"]
        found = _ROUND.fullmatch(name)
        if found is None or name in self.said or (int(found[1]) <= self.rounds and int(found[2]) < self.most):
            return None
        self.said.add(name)
        return f"attempt {found[2]} at round {found[1]}, of {self.rounds} rounds and {self.most} attempts", ""
