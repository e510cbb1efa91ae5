"""How fast an auditor verifies a large pack, and in how much memory: `lianxin bench audit`.

Evidence of two parties with as many leaves as asked is made (`big_evidence`) and packed, and the pack is verified by a
process of its own as `lianxin audit verify` does: unpacked, read, every signature and decision checked. Memory is what that
process and its workers have resident together, looked at ten times a second; pages that they share count more than once.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lianxin.federation.errors import EvidenceRejected, InputFault
from lianxin.parties.pack_export import write_pack
from lianxin.parties.usage import process_tree
from lianxin.simulations import big_evidence
from lianxin.simulations.bench_machine import describe_machine

LEAST_LEAVES = 1_000
BYTES_A_LEAF = 5_000  # evidence, unpacked once more, and the pack
SPARE_BYTES = 500_000_000
_EVERY_S = 0.1
_VERIFY = """
import json, sys
from pathlib import Path
from lianxin.parties.auditor import verify_packs
if __name__ == "__main__":
    verdict = verify_packs([Path(sys.argv[1])], scratch=Path(sys.argv[2]), workers=int(sys.argv[3]) if sys.argv[3] else None)
    print(json.dumps({"ok": verdict.ok, "line": verdict.line}))
"""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Asked:
    """How many leaves in all; `workers` None is what `audit verify` chooses by itself."""

    leaves: int
    seed: int = 1
    workers: int | None = None


def bench_audit(asked: Asked, folder: Path | None, say: Say) -> dict[str, Any]:
    """Return the record of one measurement, in a folder of its own that is gone afterwards.

    Raises InputFault without room on the disk, EvidenceRejected when the evidence does not verify.
    """
    place = Path(tempfile.gettempdir()) if folder is None else folder
    check_room(place, asked.leaves)
    with tempfile.TemporaryDirectory(dir=place, prefix="lianxin-bench-") as made:
        pack, leaves = build_pack(asked, Path(made), say)
        say(f"verifying {leaves} leaves")
        record = measured(pack, Path(made), asked.workers)
        size = pack.stat().st_size
    messages = (asked.leaves // big_evidence.LEAVES_A_ROUND) * big_evidence.MESSAGES_A_ROUND
    return {
        "bench": "audit", "leaves": leaves, "messages": messages, **record, "pack_mb": round(size / 1e6, 1),
        "pack_bytes_a_message": round(size / messages), "machine": describe_machine(),
    }  # fmt: skip


def check_room(folder: Path, leaves: int) -> None:
    """Raise InputFault unless the disk of `folder` has room for so many leaves three times."""
    free, needed = shutil.disk_usage(folder).free, leaves * BYTES_A_LEAF + SPARE_BYTES
    if free < needed:
        raise InputFault(
            f"{leaves} leaves take about {needed // 10**6} MB and {folder} has {free // 10**6} MB free; make room, name "
            "another folder with --folder, or ask for fewer"
        )


def build_pack(asked: Asked, folder: Path, say: Say) -> tuple[Path, int]:
    """Make the evidence and its pack in `folder`; return the pack and how many leaves are in it."""
    leaves = big_evidence.write_evidence(folder / "run", asked.leaves, asked.seed, say)
    evidence = {name: folder / "run" / "parties" / name / "evidence" for name in big_evidence.PARTIES}
    say("packing")
    write_pack(evidence, dict(big_evidence.keys_of(asked.seed)), folder / "run.evidence", "2026-06-01T00:00:00Z")
    shutil.rmtree(folder / "run")
    return folder / "run.evidence", leaves


def measured(pack: Path, scratch: Path, workers: int | None) -> dict[str, Any]:
    """Return seconds and peak megabytes of a process that verifies `pack`. Raises EvidenceRejected when it does not hold."""
    began = time.perf_counter()
    command = [sys.executable, "-c", _VERIFY, str(pack), str(scratch), "" if workers is None else str(workers)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        peak = 0
        while process.poll() is None:
            peak = max(peak, _resident(process.pid))
            time.sleep(_EVERY_S)
        took = time.perf_counter() - began
        answer = process.stdout.read() if process.stdout else b""
    verdict = json.loads(answer) if process.returncode == 0 else {"ok": False, "line": "the verifying process failed"}
    if not verdict["ok"]:
        raise EvidenceRejected(f"the evidence that was made does not verify: {verdict['line']}; the figures are void")
    return {"seconds": round(took, 2), "peak_mb": peak // 10**6}


def _resident(pid: int) -> int:
    """Return the bytes that a process and its children have resident."""
    page, total = os.sysconf("SC_PAGE_SIZE"), 0
    for one in process_tree(pid):
        try:
            total += int(Path(f"/proc/{one}/statm").read_text().split()[1]) * page
        except (OSError, IndexError):
            continue
    return total
