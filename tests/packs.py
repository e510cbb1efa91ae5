"""Evidence packs for tests: an honest one of the small two-party world, and packs whose manifest says something else."""

import hashlib
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evidence_world import BANK, KEYS, NOW, PLATFORM, World

from lianxin.crypto import canonical
from lianxin.parties.auditor_manifest import HEADER, part_record
from lianxin.parties.pack_export import write_pack

PARTIES = (BANK, PLATFORM)


def evidence_of(run: Path) -> dict[str, Path]:
    """Return each party's evidence folder of the two-party world."""
    return {party: run / "parties" / party / "evidence" for party in PARTIES}


def a_pack(folder: Path) -> Path:
    """Return the pack of an honest run, written under `folder`."""
    run = World(folder).story()
    write_pack(evidence_of(run), KEYS, folder / "honest.evidence", NOW)
    return folder / "honest.evidence"


def opened(pack: bytes) -> tuple[dict[str, Any], bytes]:
    """Return a pack's manifest and its blocks."""
    length, rest = pack.removeprefix(HEADER).split(b"\n", 1)
    return canonical.decode(rest[: int(length)]), rest[int(length) + 1 :]


def closed(manifest: dict[str, Any], blocks: bytes) -> bytes:
    """Return the pack of a manifest, as it is, and blocks."""
    data = canonical.encode(manifest)
    return HEADER + b"%d\n" % len(data) + data + b"\n" + blocks


def signed_again(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return the manifest with every part signed anew by its party."""
    parts = []
    for part in manifest["parts"]:
        body = {name: value for name, value in part.items() if name != "signature"}
        entry = KEYS.get(part["party"], KEYS["stranger"]).sign_record(part_record(manifest["run"], body), "x")
        parts.append(body | {"signature": {"key": entry["key"], "signature": entry["signature"]}})
    return {**manifest, "parts": parts}


def changed(pack: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """Return a pack after `change` to its manifest, its parts signed anew."""
    manifest, blocks = opened(pack)
    change(manifest)
    return closed(signed_again(manifest), blocks)


def with_block(pack: bytes, member: str, stored: bytes, raw: int) -> bytes:
    """Return a pack whose first part's member is one block of these bytes, declared to inflate to `raw`."""
    manifest, blocks = opened(pack)
    place = 0
    for entry in manifest["parts"][0]["members"]:
        size = sum(block["stored"] for block in entry["blocks"])
        if entry["name"] == member:
            blocks = blocks[:place] + stored + blocks[place + size :]
            digest = hashlib.sha256(stored).hexdigest()
            entry |= {"bytes": raw, "lines": 0, "blocks": [{"stored": len(stored), "raw": raw, "sha256": digest}]}
            break
        place += size
    return closed(signed_again(manifest), blocks)


def deflated(raw: bytes) -> bytes:
    return zlib.compress(raw, 9)
