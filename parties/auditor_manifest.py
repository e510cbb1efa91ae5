"""The manifest of an evidence pack: what a pack says it holds, read and believed in nothing (docs/evidence.md).

A pack opens with its name and version, the length of its manifest, and the manifest. This module reads these, in memory
that the limits bound, and returns a `Manifest` only when every key has its shape, every party's part is in its place and
signed under the key that it names, and the sizes add up to the length of the file. Whose key that is, is not judged here.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any

from lianxin.crypto import canonical, signing
from lianxin.crypto.errors import CryptoError

HEADER = b"lianxin evidence pack 1\n"
PART_TYPE = "evidence-part"
BLOCK_BYTES = 2**20
MEMBERS = (
    "catalogue.csv", "checkpoints.jsonl", "commitments.json", "contract.json", "envelopes.jsonl", "firm_keys.jsonl",
    "grades.jsonl", "ledger.jsonl", "plan.json", "policy.json", "registry.jsonl", "release_consents.jsonl", "software.json",
    "witnessed.jsonl",
)  # fmt: skip
_STORED_BYTES = BLOCK_BYTES + BLOCK_BYTES // 256 + 64  # what zlib makes at most of a block that does not shrink
_BYTES_PER_ITEM = 16  # an honest manifest has more than this for each comma and bracket, a member for each line
_LENGTH_DIGITS = 15
_ID = re.compile(r"[a-z0-9-]{3,64}")
_VERSION = re.compile(r"[ -~]{1,100}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)
_HASH = re.compile(r"[0-9a-f]{64}")
_SIGNATURE = re.compile(r"[0-9a-f]{128}")
_AGAIN = "the pack was damaged or changed after it was made; ask {} to export it again"
Record = dict[str, Any]


class PackFault(ValueError):
    """A pack is refused. The text is one sentence; `part` and `member` say where, "" where it is before or between them."""

    def __init__(self, message: str, part: str = "", member: str = "") -> None:
        super().__init__(message)
        self.part, self.member = part, member


@dataclass(frozen=True)
class Limits:
    """What a pack may ask of the machine that reads it; sizes in bytes."""

    parts: int = 1_000
    manifest_bytes: int = 2**24
    raw_bytes: int = 2**38
    line_bytes: int = 2**24
    disk_left: int = 2**28


@dataclass(frozen=True, slots=True)
class Block:
    """A stretch of a member: `stored` bytes from `start` of the pack on, `raw` of them when inflated."""

    start: int
    stored: int
    raw: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Member:
    """One file of a part: its name of `MEMBERS`, length, line feeds and SHA-256, and its blocks in order."""

    name: str
    bytes: int
    lines: int
    sha256: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """One party's evidence in a pack; `signed` is the signed record "evidence-part" that its signature stands for."""

    party: str
    key: str
    members: tuple[Member, ...]
    signed: Record = field(repr=False)


@dataclass(frozen=True, slots=True)
class Manifest:
    """A pack's run and parts, sorted by party."""

    run: str
    parts: tuple[Part, ...]

    @property
    def raw_bytes(self) -> int:
        """How many bytes the members have together."""
        return sum(member.bytes for part in self.parts for member in part.members)


def part_record(run: str, part: Record) -> Record:
    """Return the record that a part's signature is on: the part without its signature, with type, version and run."""
    body = {name: value for name, value in part.items() if name != "signature"}
    return {"type": PART_TYPE, "version": 1, "run": run, **body}


def read_manifest(pack: IO[bytes], size: int, limits: Limits) -> Manifest:
    """Return the manifest of a pack of `size` bytes, read from its start; the file stands at the first block then.

    Raises PackFault for whatever is not as docs/evidence.md says.
    """
    if size == 0:
        raise PackFault("the pack is empty: it was not written to its end; ask for it again")
    if pack.read(len(HEADER)) != HEADER:
        raise PackFault(
            "the first line is not that of an evidence pack of version 1; name a file that `lianxin audit export` wrote"
        )
    length = _length(pack, size, limits)
    data = pack.read(length)
    if len(data) != length or pack.read(1) != b"\n":
        raise PackFault(f"the pack ends or goes on within its manifest, which is said to have {length} bytes")
    return _manifest(_decoded(data), pack.tell(), size, limits)


def _length(pack: IO[bytes], size: int, limits: Limits) -> int:
    digits = pack.readline(_LENGTH_DIGITS + 1)
    text = digits.removesuffix(b"\n")
    if not digits.endswith(b"\n") or re.fullmatch(rb"[1-9][0-9]*", text) is None:
        raise PackFault("the second line is not the manifest's length, a whole number")
    length = int(text)
    if length > limits.manifest_bytes:
        raise PackFault(f"the manifest is said to have {length} bytes, at most {limits.manifest_bytes} are read")
    if length > size:
        raise PackFault(f"the manifest is said to have {length} bytes, the whole pack has {size}: it is truncated")
    return length


def _decoded(data: bytes) -> Record:
    if sum(data.count(mark) for mark in (b",", b"[", b"{")) > len(data) // _BYTES_PER_ITEM + 64:
        raise PackFault("the manifest holds more items than one of its length can; ask for the pack again")
    try:
        return canonical.decode_fragment(data)
    except CryptoError as fault:
        raise PackFault(f"the manifest is refused: {fault}") from None


def _manifest(record: Record, start: int, size: int, limits: Limits) -> Manifest:
    _want(record, {"type", "version", "run", "parts"}, "the manifest")
    if record["type"] != "evidence-pack" or record["version"] != 1 or isinstance(record["version"], bool):
        raise PackFault("the manifest's type and version are not evidence-pack 1; use the version that wrote the pack")
    run, entries = record["run"], record["parts"]
    _text(run, _ID, "the manifest's run")
    if not isinstance(entries, list) or not 1 <= len(entries) <= limits.parts:
        raise PackFault(f"the manifest's parts are no list of 1 to {limits.parts}")
    parts: list[Part] = []
    place = start
    for entry in entries:
        part, place = _part(run, entry, parts[-1].party if parts else "", place)
        parts.append(part)
    if place != size:
        odd = "bytes are left over behind the last block" if place < size else "the pack is truncated"
        raise PackFault(f"the blocks end at byte {place}, the pack at byte {size}: {odd}")
    manifest = Manifest(run, tuple(parts))
    if manifest.raw_bytes > limits.raw_bytes:
        raise PackFault(
            f"the members have {manifest.raw_bytes} bytes together, at most {limits.raw_bytes} are unpacked"
        )
    return manifest


def _part(run: str, entry: Any, before: str, place: int) -> tuple[Part, int]:
    where = f"the part behind {before or 'the start'}"
    _want(entry, {"party", "code_version", "exported_at", "members", "signature"}, where)
    party = _text(entry["party"], _ID, f"{where}: party")
    if party <= before:
        raise PackFault(f"part {party} stands behind {before}: parts are sorted by party, one of each", party)
    try:
        _text(entry["code_version"], _VERSION, f"part {party}: code_version")
        _text(entry["exported_at"], _TIME, f"part {party}: exported_at")
        members, place = _members(party, entry["members"], place)
        signed = _signed(run, party, entry)
    except PackFault as fault:
        raise PackFault(str(fault), party, fault.member) from None
    return Part(party, signed["signatures"][0]["key"], members, signed), place


def _signed(run: str, party: str, entry: Record) -> Record:
    signature = entry["signature"]
    _want(signature, {"key", "signature"}, f"part {party}: signature")
    _text(signature["key"], _HASH, f"part {party}: signature.key")
    _text(signature["signature"], _SIGNATURE, f"part {party}: signature.signature")
    signed = {"record": part_record(run, entry), "signatures": [{"signer": party, **signature}]}
    try:
        signing.verify_by(signed, signature["key"])
    except CryptoError:
        raise PackFault(
            f"part {party}: the signature on what the manifest says of it does not verify: {_AGAIN.format(party)}"
        ) from None
    return signed


def _members(party: str, entries: Any, place: int) -> tuple[tuple[Member, ...], int]:
    if not isinstance(entries, list) or not 1 <= len(entries) <= len(MEMBERS):
        raise PackFault(f"part {party}: members are no list of 1 to {len(MEMBERS)}")
    members: list[Member] = []
    for number, entry in enumerate(entries, 1):
        _want(entry, {"name", "bytes", "lines", "sha256", "blocks"}, f"part {party}, member {number}")
        name = entry["name"]
        if name not in MEMBERS:
            raise PackFault(f"part {party}, member {number}: its name is not one of the files that evidence has")
        if members and name <= members[-1].name:
            raise PackFault(f"part {party}: member {name} stands twice or out of order", member=name)
        member, place = _member(f"part {party}, member {name}", entry, place)
        members.append(member)
    return tuple(members), place


def _member(where: str, entry: Record, place: int) -> tuple[Member, int]:
    name = entry["name"]
    try:
        length, lines = _count(entry["bytes"], f"{where}: bytes"), _count(entry["lines"], f"{where}: lines")
        digest = _text(entry["sha256"], _HASH, f"{where}: sha256")
        if not isinstance(entry["blocks"], list):
            raise PackFault(f"{where}: blocks are no list")
        blocks = tuple(_blocks(where, entry["blocks"], place))
        held = sum(block.raw for block in blocks)
        if held != length or lines > min(length, length // _BYTES_PER_ITEM + 64):
            raise PackFault(
                f"{where}: its blocks have {held} bytes, the member is said to have {length} in {lines} lines"
            )
    except PackFault as fault:
        raise PackFault(str(fault), member=name) from None
    return Member(name, length, lines, digest, blocks), place + sum(block.stored for block in blocks)


def _blocks(where: str, entries: list[Any], place: int) -> Iterator[Block]:
    for number, entry in enumerate(entries, 1):
        here = f"{where}, block {number}"
        _want(entry, {"stored", "raw", "sha256"}, here)
        stored, raw = _count(entry["stored"], f"{here}: stored"), _count(entry["raw"], f"{here}: raw")
        if not 1 <= raw <= BLOCK_BYTES or not 1 <= stored <= _STORED_BYTES:
            raise PackFault(f"{here}: {stored} bytes that inflate to {raw}; a block has 1 to {BLOCK_BYTES}")
        yield Block(place, stored, raw, _text(entry["sha256"], _HASH, f"{here}: sha256"))
        place += stored


def _want(value: Any, keys: set[str], where: str) -> None:
    if not isinstance(value, dict) or set(value) != keys:
        raise PackFault(f"{where} is no object with exactly the keys {', '.join(sorted(keys))}")


def _text(value: Any, form: re.Pattern[str], where: str) -> str:
    if not isinstance(value, str) or form.fullmatch(value) is None:
        raise PackFault(f"{where} is not of its form (docs/evidence.md)")
    return value


def _count(value: Any, where: str) -> int:
    if type(value) is not int or value < 0:
        raise PackFault(f"{where} is no whole number from 0 on")
    return value
