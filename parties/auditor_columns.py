"""What the first reading of evidence keeps of each line: some bytes in a row, and the shapes that lines are judged by.

Of a leaf that is: a flag byte (0: no canonical leaf), a byte for its kind where it has all fields of that kind, eight
bytes of its time, sixteen each of the hash of its run and of the hash of its message, and of each 256 leaves one node of the
ledger's tree. Of any other line it is one byte, whether it is canonical; of an envelope sixteen more of its hash. Who can
choose what is hashed finds two of eight bytes in an afternoon, of sixteen never. Lines are judged in parts, which several
processes may do (`Spread`).
"""

import hashlib
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from operator import itemgetter
from typing import Any

from lianxin.crypto import merkle
from lianxin.parties.auditor_lines import TILE, Lines, Marks, Record, decoded, root_of_tile

PART = 64 * TILE
NEVER = -(2**63)
LEAF = {"kind": str, "time": str, "run": str, "party": str, "operator": str, "code_version": str}
KINDS: Mapping[str, Record] = {
    "contract": {"contract_hash": str, "event": str},
    "registry": {"epoch": int},
    "firm-keys": {"keys": int, "keys_root": str},
    "release": {
        "provider": str, "recipient": str, "purpose": str, "mode": str, "step": str, "epoch": int,
        "contract_hash": str, "catalogue_hash": str, "fields": [str], "refused": [{"field": str, "rule": str}],
        "rows": int, "consent_root": str, "consents": int,
    },
    "envelope": {
        "direction": str, "peer": str, "conversation": str, "step": str, "round": int, "seq": int, "message_type": str,
        "message_hash": str, "payload_hash": str, "forms": [{"field": str, "form": str}], "releases": [str],
        "decision": str,
    },
    "refusal": {"peer": str, "rule": str},
    "grade": {"grade_hash": str, "policy_hash": str, "table_hash": str, "model": str, "accepted": bool},
    "deletion": {"dataset": str, "rule": str, "count": int},
    "objection": {"event": str, "field": str, "record_hash": str},
    "model-marked": {"revocations": int, "consent_root": str, "choice": str},
    "alarm": {"rule": str, "skew_s": int},
    "split-bits": {"peer": str, "bits": int},
    "score": {"peer": str, "score": str, "firms": int, "conversation": str},
    "scored": {"peer": str, "score": str, "release": str, "scores": int},
    "secure-sum": {
        "contract_hash": str, "label": str, "asked": [str], "threshold": int, "senders": [str], "included": [str],
        "question": str,
        "keys": [{"party": str, "key": str, "signature": str}], "sets": [{"party": str, "signature": str}],
    },
    "privacy": {
        "contract_hash": str, "unit": str, "epsilon_thousandths": int, "delta_exponent": int, "left_thousandths": int,
    },
    "network-round": {"round": int, "accepted": bool, "reason": str, "rows": int, "weights_sha256": str},
    "institution": {"peer": str, "event": str, "record_hash": str},
    "catalogue": {"event": str, "catalogue_hash": str, "before": str, "record_hash": str},
    "key-rotation": {"peer": str, "rotation": {"record": {"party": str, "what": str, "number": int}}},
    "peer": {"event": str, "peer": str, "rule": str, "node_key": str, "certificate_sha256": str},
}  # fmt: skip
HEADER = {
    "run": str, "conversation": str, "step": str, "round": int, "seq": int, "sender": str, "recipient": str,
    "previous": str, "contract": str, "epoch": int, "expires_at": str, "message_type": str, "payload_hash": str,
    "payload_bytes": int,
}  # fmt: skip
_GOOD, _CROSSED, _OUT, _IN, OWN, AGGREGATE, SPLIT = 1, 2, 4, 8, 16, 32, 64
_DIRECTIONS = {"": 0, "out": _OUT, "in": _IN}
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)
_START = datetime.fromisoformat("1970-01-01T00:00:00Z")
_MARK_BYTES = Marks.BYTES
Check = Callable[[Any], bool]
Task = tuple[Lines, str, str, int, int]
Spread = Callable[[Callable[[Task], "Columns"], Sequence[Task]], Iterable["Columns"]]


def fits(value: Any, shape: Any) -> bool:
    """Return whether `value` has the keys and types of `shape`; a list's shape is that of each of its items."""
    if isinstance(shape, list):
        return isinstance(value, list) and all(fits(item, shape[0]) for item in value)
    if isinstance(shape, Mapping):
        return isinstance(value, dict) and all(key in value and fits(value[key], one) for key, one in shape.items())
    return type(value) is shape


@lru_cache(maxsize=1024)
def seconds_of(time: object) -> int | None:
    """Return the seconds from 1970-01-01 (UTC) to `YYYY-MM-DDTHH:MM:SSZ`, None for anything else."""
    if not isinstance(time, str) or _TIME.fullmatch(time) is None:
        return None
    try:
        return round((datetime.fromisoformat(time) - _START).total_seconds())
    except ValueError:
        return None


def mark_of(*parts: str) -> int:
    """Return sixteen bytes of the hash of some texts, as a number."""
    return int.from_bytes(
        hashlib.blake2b("\0".join(parts).encode(errors="surrogatepass"), digest_size=_MARK_BYTES).digest()
    )


@dataclass
class Columns:
    """What is kept of the lines of one file, in their order.

    `kinds`, `runs`, `times` (seconds, `NEVER` where a leaf says none) and `tiles` are of a ledger alone. A mark is sixteen
    bytes of a hash: of an envelope that crossed, of its sender, recipient and message in the ledger, of its line in
    `envelopes`.
    """

    flags: bytearray = field(default_factory=bytearray)
    kinds: bytearray = field(default_factory=bytearray)
    runs: Marks = field(default_factory=Marks)
    times: "array[int]" = field(default_factory=lambda: array("q"))
    marks: Marks = field(default_factory=Marks)
    tiles: bytearray = field(default_factory=bytearray)
    _crossed: dict[tuple[str, int], "array[int]"] = field(default_factory=dict, compare=False, repr=False)

    def add(self, more: "Columns") -> None:
        """Put the columns of the lines that follow behind these."""
        self.flags += more.flags
        self.kinds += more.kinds
        self.runs.extend(more.runs)
        self.times += more.times
        self.marks.extend(more.marks)
        self.tiles += more.tiles

    def note(self, leaf: Record | None, party: str) -> None:
        """Judge one more leaf of `party`; None is a line that is not canonical."""
        if leaf is None or not _is_leaf(leaf):
            self._put(0, 0, 0, NEVER, 0)
            return
        kind = leaf["kind"]
        code = _CODES.get(kind, 0)
        code = code if code and _IS_OF_KIND[code](leaf) else 0
        is_own = leaf.get("type") == "leaf" and leaf.get("version") == 1 and leaf["party"] == party
        flags, mark = _GOOD | (OWN if is_own else 0), 0
        if code == _ENVELOPE and leaf["decision"] != "refuse":
            flags, mark = flags | _crossing_flags(leaf), _crossing_mark(leaf, party)
        time = seconds_of(leaf["time"])
        kind_code = code or (0 if kind in _CODES else _UNKNOWN)
        self._put(flags, kind_code, digest_of(leaf["run"]), NEVER if time is None else time, mark)

    def _put(self, flags: int, kind: int, run: int, time: int, mark: int) -> None:
        self.flags.append(flags)
        self.kinds.append(kind)
        self.runs.append(run)
        self.times.append(time)
        self.marks.append(mark)

    def of_kind(self, kind: str, run: str | None = None) -> Iterator[int]:
        """Yield the indexes of leaves of one kind and run (None: of any); of a kind without a shape, those that may be."""
        code, wanted = _CODES.get(kind, _UNKNOWN), None if run is None else Marks([digest_of(run)])
        high, low, index = self.runs.high, self.runs.low, self.kinds.find(code)
        while index >= 0:
            if wanted is None or (high[index] == wanted.high[0] and low[index] == wanted.low[0]):
                yield index
            index = self.kinds.find(code, index + 1)

    def crossed(self, run: str, direction: str = "", flag: int = 0) -> "array[int]":
        """Return the indexes of the envelopes of a run that crossed, in one direction or both, and have a flag."""
        wanted = _CROSSED | _DIRECTIONS[direction] | flag
        if (run, wanted) not in self._crossed:
            self._crossed.clear()  # it is asked for again and again, and is as long as there are messages
            whole = (index for index in self.of_kind("envelope", run) if self.flags[index] & wanted == wanted)
            self._crossed[run, wanted] = array("Q", whole)
        return self._crossed[run, wanted]


def _crossing_flags(leaf: Record) -> int:
    forms = AGGREGATE if any(one["form"] == "AGGREGATE" for one in leaf["forms"]) else 0
    split = SPLIT if leaf["message_type"] == "SplitBits" else 0
    return _CROSSED | _DIRECTIONS.get(leaf["direction"], 0) | forms | split


def _crossing_mark(leaf: Record, party: str) -> int:
    ends = (party, leaf["peer"]) if leaf["direction"] == "out" else (leaf["peer"], party)
    return mark_of(*ends, leaf["message_hash"])


@lru_cache(maxsize=1024)
def digest_of(run: str) -> int:
    """Return sixteen bytes of the hash of a run's id, as a number."""
    return int.from_bytes(hashlib.sha256(run.encode(errors="surrogatepass")).digest()[:_MARK_BYTES])


def judge(lines: Mapping[str, Lines], party: str, spread: Spread) -> dict[str, Columns]:
    """Return the columns of each file of `party`; the one called `ledger` has leaves."""
    tasks = [(name, (one, name, party, at, min(at + PART, len(one))))
             for name, one in lines.items() for at in range(0, len(one), PART)]  # fmt: skip
    found = {name: Columns() for name in lines}
    for (name, _), part in zip(tasks, spread(judged, [task for _, task in tasks]), strict=True):
        found[name].add(part)
    return found


def here(work: Callable[[Task], Columns], tasks: Sequence[Task]) -> Iterator[Columns]:
    """Do the tasks one after another in this process."""
    return map(work, tasks)


def judged(task: Task) -> Columns:
    """Return the columns of the lines from start to stop, a task being (lines, name of the file, party, start, stop)."""
    lines, name, party, start, stop = task
    columns, tile = Columns(), list[bytes]()
    for n in range(start, stop):
        line = lines[n]
        if name == "ledger":
            columns.note(decoded(line), party)
            tile.append(merkle.leaf_hash(line))
            if len(tile) == TILE:
                columns.tiles += root_of_tile(tile)
                tile.clear()
            continue
        columns.flags.append(decoded(line) is not None)
        if name == "envelopes":
            columns.marks.append(int.from_bytes(hashlib.blake2b(line, digest_size=_MARK_BYTES).digest()))
    return columns


def checker(shape: Any) -> Check:
    """Return `fits` for one shape, made ready: it is asked once for each of a million leaves."""
    if isinstance(shape, list):
        return _list_checker(shape[0])
    if not isinstance(shape, Mapping):
        return lambda value: type(value) is shape
    names = [key for key, one in shape.items() if isinstance(one, type)]
    pick, types = _picker(names), tuple(shape[key] for key in names)
    nested = [(key, checker(one)) for key, one in shape.items() if not isinstance(one, type)]

    def check(value: Any) -> bool:
        try:
            if not isinstance(value, dict) or tuple(map(type, pick(value))) != types:
                return False
            for key, one in nested:
                if not one(value[key]):
                    return False
        except KeyError:
            return False
        return True

    return check


def _picker(names: list[str]) -> Callable[[Record], Iterable[Any]]:
    if len(names) > 1:
        return itemgetter(*names)
    return lambda value: [value[name] for name in names]


def _list_checker(shape: Any) -> Check:
    if isinstance(shape, type):
        of_type = frozenset({shape})
        return lambda value: isinstance(value, list) and of_type.issuperset(map(type, value))
    of_item = checker(shape)
    return lambda value: isinstance(value, list) and all(map(of_item, value))


_UNKNOWN = 255
_CODES = {kind: code for code, kind in enumerate(KINDS, 1)}
_IS_OF_KIND = {code: checker(KINDS[kind]) for kind, code in _CODES.items()}
_ENVELOPE = _CODES["envelope"]
_is_leaf = checker(LEAF)
is_header = checker(HEADER)
