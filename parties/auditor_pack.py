"""Evidence packs as an auditor opens them: one file to a folder for each party, every byte accounted for (docs/evidence.md).

`unpack` believes nothing of a pack: names are compared with a closed list and never joined unchecked, a block is inflated
to the size that the signed manifest declares and no byte further, and what appears in the folder is complete or not
there. Memory is that of the manifest and one block, whatever a pack says. Beside a party's `evidence` stands `part.json`,
the signed record "evidence-part" of what was unpacked: the key that signed it is the auditor's to compare with the
contract's.
"""

import hashlib
import os
import shutil
import stat
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from lianxin.crypto import canonical, signing
from lianxin.crypto.errors import CryptoError
from lianxin.parties.auditor_manifest import (
    BLOCK_BYTES,
    HEADER,
    MEMBERS,
    Block,
    Limits,
    Manifest,
    Member,
    PackFault,
    Part,
    part_record,
    read_manifest,
)

DEFAULT_LIMITS = Limits()
PART_FILE = "part.json"


def unpack(path: Path, folder: Path, limits: Limits = DEFAULT_LIMITS) -> list[str]:
    """Unpack a pack to `folder`/parties/<party>/evidence and return its parties, sorted.

    Several packs of one run go into one folder, as long as they hold different parties. Raises PackFault, and leaves
    nothing of the pack behind, for a pack that is damaged, hostile or of a party that is there already, and for a folder
    that cannot be written.
    """
    with opened(path) as (pack, size):
        manifest = read_manifest(pack, size, limits)
        try:
            return _unpack_parts(pack, manifest, folder / "parties", limits)
        except OSError as fault:
            raise PackFault(
                f"the pack could not be read, or {folder} written: {_plain(fault)}; give another folder"
            ) from None


def manifest_of(path: Path, limits: Limits = DEFAULT_LIMITS) -> Manifest:
    """Return what a pack says it holds, signed by its parties, without a look at its blocks. Raises PackFault."""
    with opened(path) as (pack, size):
        return read_manifest(pack, size, limits)


def part_key(folder: Path) -> str:
    """Return the public key that signed the part unpacked to `folder`, "" for a folder that came from no pack.

    Raises PackFault when `part.json` is not a record signed by one key.
    """
    file = folder / PART_FILE
    if not os.path.lexists(file):
        return ""
    try:
        signed = canonical.decode_fragment(_small_file(file))
        key: str = signed["signatures"][0]["key"]
        signing.verify_by(signed, key)
    except (PackFault, CryptoError, OSError, LookupError, TypeError):
        raise PackFault(
            f"part {folder.name}: {PART_FILE} is no signed record; unpack the pack again", folder.name
        ) from None
    return key


def _small_file(path: Path) -> bytes:
    """Return the bytes of a file of at most a manifest's size. Raises PackFault for a larger one, a pipe or a device."""
    with opened(path) as (file, size):
        if size > DEFAULT_LIMITS.manifest_bytes:
            raise PackFault(f"{path} has {size} bytes, at most {DEFAULT_LIMITS.manifest_bytes} are read")
        return file.read(size)


@contextmanager
def opened(path: Path) -> Iterator[tuple[IO[bytes], int]]:
    """Give the open pack and its size. Raises PackFault for what is no file: a folder, a pipe, a device."""
    try:  # without waiting: a pipe that nobody writes to would hold the reader for ever
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as fault:
        raise PackFault(f"{path} cannot be opened: {_plain(fault)}; check the path") from None
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        os.close(handle)
        raise PackFault(f"{path} is no file but a folder, pipe or device; name an evidence pack")
    with os.fdopen(handle, "rb") as pack:
        yield pack, status.st_size


def _unpack_parts(pack: IO[bytes], manifest: Manifest, parties: Path, limits: Limits) -> list[str]:
    parties.mkdir(parents=True, exist_ok=True)
    if manifest.raw_bytes + limits.disk_left > shutil.disk_usage(parties).free:
        raise PackFault(
            f"the pack needs {manifest.raw_bytes} bytes of disk, fewer are free at {parties}; make room there"
        )
    for part in manifest.parts:
        if (parties / part.party).exists():
            raise PackFault(f"part {part.party} is there already, from another pack; leave one of them out", part.party)
    fresh = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=parties))
    done: list[Path] = []
    try:
        for part in manifest.parts:
            _unpack_part(pack, part, fresh / part.party, limits)
        for part in manifest.parts:
            (fresh / part.party).rename(parties / part.party)
            done.append(parties / part.party)
    except BaseException:
        for folder in done:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return [part.party for part in manifest.parts]


def _unpack_part(pack: IO[bytes], part: Part, folder: Path, limits: Limits) -> None:
    (folder / "evidence").mkdir(parents=True)
    (folder / PART_FILE).write_bytes(canonical.encode(part.signed))
    for member in part.members:
        with (folder / "evidence" / member.name).open("xb") as file:
            _unpack_member(pack, part.party, member, file, limits)


def _unpack_member(pack: IO[bytes], party: str, member: Member, file: IO[bytes], limits: Limits) -> None:
    where, digest, lines = f"part {party}, member {member.name}", hashlib.sha256(), _Lines(limits.line_bytes)
    for number, block in enumerate(member.blocks, 1):
        here = f"{where}, block {number} (byte {block.start} of the pack)"
        try:
            raw = _inflated(pack.read(block.stored), block)
            lines.take(raw)
        except _Odd as fault:
            raise PackFault(f"{here}: {fault}; ask {party} to export it again", party, member.name) from None
        digest.update(raw)
        file.write(raw)
    if digest.hexdigest() != member.sha256 or lines.count != member.lines:
        raise PackFault(
            f"{where}: its bytes have another SHA-256 or number of lines than {party} signed; ask {party} to export it again",
            party, member.name,
        )  # fmt: skip


class _Odd(Exception):
    """What is wrong with a block, as the end of a sentence."""


class _Lines:
    """Counts line feeds and refuses a line that no reader could hold."""

    def __init__(self, most: int) -> None:
        self.count, self._open, self._most = 0, 0, most

    def take(self, raw: bytes) -> None:
        feeds = raw.count(b"\n")
        self.count += feeds
        # A line within a block is shorter than the block; only one that crosses a block's end is added up.
        reach = raw.index(b"\n") if feeds else len(raw)
        longest = max(self._open + reach, max(map(len, raw.split(b"\n"))) if len(raw) > self._most else 0)
        if longest > self._most:
            raise _Odd(f"a line is longer than the {self._most} bytes that are read")
        self._open = len(raw) - raw.rindex(b"\n") - 1 if feeds else self._open + len(raw)


def _inflated(stored: bytes, block: Block) -> bytes:
    if len(stored) != block.stored:
        raise _Odd("the pack ends within it")
    if hashlib.sha256(stored).hexdigest() != block.sha256:
        raise _Odd("its bytes have another SHA-256 than the manifest says")
    inflater = zlib.decompressobj()
    try:
        raw = inflater.decompress(stored, block.raw + 1)
    except zlib.error:
        raise _Odd("it is no zlib stream (RFC 1950)") from None
    if len(raw) != block.raw or not inflater.eof or inflater.unconsumed_tail or inflater.unused_data:
        raise _Odd(f"it does not inflate to exactly the {block.raw} bytes that the manifest says")
    return raw


def _plain(fault: OSError) -> str:
    return os.strerror(fault.errno) if fault.errno is not None else "the system refused it"


__all__ = [
    "BLOCK_BYTES",
    "DEFAULT_LIMITS",
    "HEADER",
    "MEMBERS",
    "PART_FILE",
    "Limits",
    "Manifest",
    "PackFault",
    "manifest_of",
    "opened",
    "part_key",
    "part_record",
    "unpack",
]
