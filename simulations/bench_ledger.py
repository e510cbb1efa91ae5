"""How fast a ledger takes leaves, and what it holds in memory: `lianxin bench ledger`.

One store on the folder's disk, filled in three ways: leaves that each wait for the disk alone; appenders in threads
that share its transactions; and lists of leaves at a time, until there are as many as asked. A leaf that is durable costs one
flush of the disk, so the disk's own rate, measured beside it, is what a figure is worth. At the end the store is opened
again, and its root is compared with the one before.
"""

import os
import resource
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lianxin.crypto import signing
from lianxin.federation.errors import EvidenceRejected, InputFault
from lianxin.parties.clock import SystemClock
from lianxin.parties.ledger import Ledger
from lianxin.parties.store import Store
from lianxin.simulations.bench_machine import describe_machine

LEAST_LEAVES = 1_000
MARK = 100_000  # memory is compared between this many leaves and all
LIST = 256
APPENDERS = 64
BYTES_A_LEAF = 1_100  # a leaf of an envelope, its keys and its share of the tiles, rounded up
SPARE_BYTES = 200_000_000
FLUSH_S = 1.0
_LEAF = {
    "kind": "envelope", "run": "bench-run-1", "direction": "out", "peer": "bank-a", "round": 1, "seq": 0,
    "conversation": "vertical/bank-a/round/1/0", "step": "round.residuals", "message_type": "ResidualShares",
    "payload_hash": "0" * 64, "message_hash": "1" * 64, "size_bytes": 131072, "releases": ["2" * 64], "rows": 2600,
    "forms": [{"field": "ResidualShares.first", "form": "CONTROL"}, {"field": "ResidualShares.shares", "form": "CIPHERTEXT"}],
    "decision": "allow", "rule": "",
}  # fmt: skip


def check_room(folder: Path, leaves: int) -> None:
    """Raise InputFault unless the disk of `folder` has room for a store of so many leaves."""
    free, needed = shutil.disk_usage(folder).free, leaves * BYTES_A_LEAF + SPARE_BYTES
    if free < needed:
        raise InputFault(
            f"{leaves} leaves take about {needed // 10**6} MB and {folder} has {free // 10**6} MB free; make room, name "
            "another folder with --folder, or ask for fewer"
        )


def bench_ledger(leaves: int, folder: Path | None, say: Callable[[str], None]) -> dict[str, Any]:
    """Return the record of one measurement, in a folder of its own that is gone afterwards. Raises InputFault, RunStopped."""
    place = Path(tempfile.gettempdir()) if folder is None else folder
    check_room(place, leaves)
    with tempfile.TemporaryDirectory(dir=place, prefix="lianxin-bench-") as made:
        path = Path(made) / "store.sqlite"
        say("flushes of the disk")
        flushes = flush_rate(Path(made) / "flushes")
        record = _measured(path, leaves, say)
        size = sum(file.stat().st_size for file in Path(made).glob("store.sqlite*"))
    return {
        "bench": "ledger", "leaves": leaves, **record, "flushes_per_s": flushes, "bytes_a_leaf": size // leaves,
        "machine": describe_machine(),
    }  # fmt: skip


def _measured(path: Path, leaves: int, say: Callable[[str], None]) -> dict[str, Any]:
    ledger, few = _open(path), min(leaves // 10, 2_000)
    say(f"{few} leaves, each durable alone")
    alone = _rate(few, lambda: [ledger.append(_LEAF | {"seq": seq}) for seq in range(few)])
    shared = min(leaves // 5, 40_000) // APPENDERS * APPENDERS
    say(f"{shared} leaves from {APPENDERS} appenders")
    group = _rate(shared, lambda: _append_together(ledger, shared))
    start, first, peak_at_mark = time.perf_counter(), ledger.size, 0
    for position in range(first, leaves, LIST):
        if position % (40 * LIST) < LIST:
            say(f"{position} of {leaves} leaves")
        if not peak_at_mark and position >= MARK:
            peak_at_mark = _peak_mb()
        ledger.append_many(_LEAF | {"seq": seq} for seq in range(position, min(position + LIST, leaves)))
    many = round((leaves - first) / (time.perf_counter() - start))
    root, filled_mb = ledger.root(), _peak_mb()
    ledger.close()
    say("opening the store again")
    began = time.perf_counter()
    if _open(path).root() != root:
        raise EvidenceRejected("the ledger that was opened again has another root; the figures are void")
    return {
        "leaves_per_s_alone": alone, "leaves_per_s_group": group, "leaves_per_s_many": many,
        "peak_mb_at_100000": peak_at_mark or None, "peak_mb": filled_mb, "open_s": round(time.perf_counter() - began, 3),
    }  # fmt: skip


def _open(path: Path) -> Ledger:
    key = signing.SigningKey.from_seed(bytes(32))
    return Ledger(Store(path), "platform-bench", key, SystemClock(), "lianxin bench", "bench-operator")


def _append_together(ledger: Ledger, count: int) -> None:
    def work() -> None:
        for seq in range(count // APPENDERS):
            ledger.append(_LEAF | {"seq": seq})

    threads = [threading.Thread(target=work) for _ in range(APPENDERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _rate(count: int, work: Callable[[], object]) -> int:
    start = time.perf_counter()
    work()
    return round(count / (time.perf_counter() - start))


def _peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 // 10**6


def flush_rate(path: Path) -> int:
    """Return how many times a second the disk makes 4 KB durable, measured for about a second."""
    handle, count, start = os.open(path, os.O_CREAT | os.O_RDWR, 0o600), 0, time.perf_counter()
    try:
        while time.perf_counter() - start < FLUSH_S:
            os.pwrite(handle, bytes(4096), 4096 * count)
            os.fdatasync(handle)
            count += 1
    finally:
        os.close(handle)
    return round(count / (time.perf_counter() - start))
