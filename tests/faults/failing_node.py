"""A node's process in a trial of faults: `lianxin ROLE serve FILE` with keys that were made before, its reservations noted.

Arguments: the file of known keys, the party's folder, then those of `lianxin`. Nothing here arms a fault: the node does that
itself, from its environment. What was reached is written when the node is told to stop.
"""

import json
import sys
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from faults.failpoint_worlds import Known, knowing

from lianxin.crypto import failpoints
from lianxin.crypto.pool import RandomiserPool
from lianxin.parties import failpoints_armed
from lianxin.parties.cli import app


def main() -> None:
    """Be the node."""
    known, home = Known.load(Path(sys.argv[1])), Path(sys.argv[2])
    begin, reached = RandomiserPool.__init__, failpoints_armed.Fault("nowhere/before", "panic")

    def beginning(pool: RandomiserPool, source: Any, seed: bytes, reserve: Any, *more: Any, **named: Any) -> None:
        def reserving(count: int) -> int:
            first = int(reserve(count))
            with (home / "places.jsonl").open("a") as noted:
                noted.write(json.dumps([seed.hex(), first, count]) + "\n")
            return first

        begin(pool, source, seed, reserving, *more, **named)

    sys.argv = ["lianxin", *sys.argv[3:]]
    failpoints.arm(reached)  # the node's own takes its place where the environment asks for one
    with knowing(known), mock.patch.object(RandomiserPool, "__init__", beginning):
        try:
            app()
        finally:
            (home / "hits.json").write_text(json.dumps(reached.hits))


if __name__ == "__main__":
    main()
