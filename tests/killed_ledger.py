"""A ledger whose process is killed: `python tests/killed_ledger.py FOLDER TRIALS SEED` prints one JSON object.

Each trial forks a writer on a store of its own. It says every index and hash on a pipe once `append` has returned, and is
killed after a random while, between any two instructions. The store is then opened again: every leaf that was said must
be at its index, and the ledger must go on from there.
"""

import hashlib
import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

from lianxin.crypto import signing
from lianxin.parties.clock import SimulatedClock
from lianxin.parties.ledger import Ledger
from lianxin.parties.store import Store

KEY = signing.SigningKey.from_seed(bytes([1]) * 32)
WRITERS = 4


def open_ledger(path: Path) -> Ledger:
    return Ledger(Store(path), "bank-a", KEY, SimulatedClock("2026-05-01T08:00:00Z"), "lianxin 0.3.0", "operator-1")


def write_for_ever(path: Path, pipe: int) -> None:
    ledger = open_ledger(path)

    def work(writer: int) -> None:
        for number in range(10**9):
            index, digest = ledger.append({"kind": "note", "run": "", "writer": writer, "n": number})
            os.write(pipe, f"{index} {digest} {writer} {number}\n".encode())
            if number % 7 == 6:
                ledger.checkpoint()

    for writer in range(WRITERS):
        threading.Thread(target=work, args=(writer,), daemon=True).start()
    time.sleep(60)


def trial(path: Path, delay: float) -> dict[str, int]:
    """Return how many leaves were said before the kill, how many of them are lost, and how many were never said."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        write_for_ever(path, writer)
    os.close(writer)
    first = os.read(reader, 65536)  # it writes: now the clock runs
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as rest:
        said = [line.decode().split() for line in (first + rest.read()).split(b"\n")[:-1]]
    ledger = open_ledger(path)
    leaves = list(Store(path).leaves())
    kept = [hashlib.sha256(leaf).hexdigest() for leaf in leaves]
    lost = sum(int(index) >= len(kept) or kept[int(index)] != digest for index, digest, *_ in said)
    written = [(leaf["writer"], leaf["n"]) for leaf in map(json.loads, leaves)]
    reordered = sum(
        [n for w, n in written if w == one] != list(range(sum(w == one for w, _ in written))) for one in range(WRITERS)
    )
    gone_on = ledger.append({"kind": "note", "run": "", "writer": -1, "n": 0})[0] == len(kept)
    return {
        "said": len(said),
        "lost": lost,
        "reordered": reordered,
        "unsaid": len(kept) - len(said),
        "stuck": int(not gone_on),
    }


def main(folder: Path, trials: int, seed: int) -> None:
    chance = random.Random(seed)
    total = {"said": 0, "lost": 0, "reordered": 0, "unsaid": 0, "stuck": 0}
    for number in range(trials):
        outcome = trial(folder / f"{number}.db", chance.uniform(0.0, 0.2))
        total = {name: count + outcome[name] for name, count in total.items()}
    print(json.dumps(total | {"trials": trials}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
