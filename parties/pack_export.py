"""Writing an evidence pack: the evidence of one run's parties, each signed by its node key, in one file (docs/evidence.md).

The members are read as they stand and deflated a block at a time into a file beside the pack; then the manifest, which
names every block's digest, goes in front. The pack appears whole, under a name that was free, or not at all.
"""

import hashlib
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from lianxin.crypto import canonical
from lianxin.crypto.errors import CryptoError
from lianxin.crypto.signing import SigningKey
from lianxin.federation.errors import InputFault, RunStopped
from lianxin.parties.auditor_manifest import BLOCK_BYTES, HEADER, MEMBERS, part_record
from lianxin.parties.software import code_version

LEVEL = 9
OLDER = ("commitments.json", "grades.jsonl", "plan.json", "policy.json", "software.json")  # not in every evidence
Record = dict[str, Any]
Progress = Callable[[str], None]


def _quiet(_: str) -> None:
    """Say nothing."""


def write_pack(
    evidence: Mapping[str, Path], keys: Mapping[str, SigningKey], out: Path, now: str, progress: Progress = _quiet
) -> Record:
    """Write the pack of the folders that `evidence` names by party, and return its manifest.

    A folder is `evidence/` of docs/records.md, "Run folder"; `now` is the time that each part says it was exported at.
    Raises InputFault for a name that is taken, a folder without the files of evidence, folders of different runs, or a
    party without a key, RunStopped when the disk is full.
    """
    if out.exists():
        raise InputFault(f"{out} exists already; choose another name")
    run, lacking = _run_of(evidence), sorted(set(evidence) - set(keys))
    if lacking:
        raise InputFault(f"{lacking[0]} has no node key at hand to sign its part with; export it at its own node")
    try:
        with tempfile.TemporaryFile(dir=out.parent) as blocks:
            parts = []
            for party, folder in sorted(evidence.items()):
                progress(f"packing {party}")
                parts.append(_part(run, party, folder, keys[party], blocks, now))
            manifest = {"type": "evidence-pack", "version": 1, "run": run, "parts": parts}
            blocks.seek(0)
            _write_whole(out, canonical.encode(manifest), blocks)
    except FileExistsError:
        raise InputFault(f"{out} exists already; choose another name") from None
    except OSError as fault:
        raise RunStopped(
            f"the pack could not be written to {out}: {fault.strerror or 'the system refused it'}"
        ) from None
    return manifest


def _run_of(evidence: Mapping[str, Path]) -> str:
    runs = {party: _run_in(party, folder) for party, folder in sorted(evidence.items())}
    if len(set(runs.values())) != 1:
        raise InputFault(f"a pack holds the evidence of one run, these folders are of {len(set(runs.values()))}")
    return next(iter(runs.values()))


def _run_in(party: str, folder: Path) -> str:
    try:
        for name in MEMBERS:
            if name not in OLDER and not (folder / name).is_file():
                raise InputFault(f"{folder} holds no {name}: it is not the evidence of {party}; name a run's folder")
        signed = canonical.decode_fragment((folder / "contract.json").read_bytes().removesuffix(b"\n"))
        run: str = signed["record"]["run"]
    except (CryptoError, OSError, LookupError, TypeError):
        raise InputFault(
            f"{folder}/contract.json is no signed contract; export the evidence of {party} again"
        ) from None
    return run


def _part(run: str, party: str, folder: Path, key: SigningKey, blocks: IO[bytes], now: str) -> Record:
    there = [name for name in MEMBERS if (folder / name).is_file()]
    part: Record = {
        "party": party, "code_version": _code_version(folder), "exported_at": now,
        "members": [_member(folder / name, blocks) for name in there],
    }  # fmt: skip
    entry = key.sign_record(part_record(run, part), party)
    return part | {"signature": {"key": entry["key"], "signature": entry["signature"]}}


def _code_version(folder: Path) -> str:
    """Return the version of the program that ran the run, this one's where the evidence does not say."""
    with suppress(CryptoError, OSError, LookupError):
        return str(canonical.decode_fragment((folder / "software.json").read_bytes().rstrip(b"\n"))["code_version"])
    return code_version()


def _member(path: Path, blocks: IO[bytes]) -> Record:
    digest, length, lines, written = hashlib.sha256(), 0, 0, []
    with path.open("rb") as file:
        for raw in cut(file):
            stored = zlib.compress(raw, LEVEL)
            blocks.write(stored)
            digest.update(raw)
            length, lines = length + len(raw), lines + raw.count(b"\n")
            written.append({"stored": len(stored), "raw": len(raw), "sha256": hashlib.sha256(stored).hexdigest()})
    return {"name": path.name, "bytes": length, "lines": lines, "sha256": digest.hexdigest(), "blocks": written}


def cut(file: IO[bytes]) -> Iterator[bytes]:
    """Yield a file in stretches of at most `BLOCK_BYTES`, each to the end of a line where one ends in it."""
    held = b""
    while held := held + file.read(BLOCK_BYTES - len(held)):
        at = held.rfind(b"\n") + 1 if len(held) == BLOCK_BYTES else 0
        yield held[:at] if at else held
        held = held[at:] if at else b""


def _write_whole(out: Path, manifest: bytes, blocks: IO[bytes]) -> None:
    handle, name = tempfile.mkstemp(prefix=f".{out.name}-", dir=out.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines((HEADER, b"%d\n" % len(manifest), manifest, b"\n"))
            shutil.copyfileobj(blocks, file, BLOCK_BYTES)
            file.flush()
            os.fsync(file.fileno())
        os.link(name, out)  # unlike a rename, never over a file that appeared meanwhile
    finally:
        os.unlink(name)
