"""What matching costs in OpenMined's PSI: one JSON object with CPU seconds of client and server together.

    PYTHON openmined_psi_peer.py --client FILE --server FILE --json

Each file has one identifier a line. Runs by itself in an environment that has `openmined-psi`: ECDH on P-256, the
server's set sent as it is (`RAW`, so that there are no false positives to pay for), the client learns the
intersection. Both sides run in this process, without a network; messages are serialised as they would cross one.
"""

import argparse
import hashlib
import json
import time
from importlib import metadata
from pathlib import Path

FALSE_POSITIVES = 1e-9


def measure(client_items: list[str], server_items: list[str]) -> dict[str, object]:
    """Return the figures of one run over both sets."""
    import private_set_intersection.python as psi  # type: ignore[import-not-found]

    start, wall = time.process_time(), time.perf_counter()
    client, server = psi.client.CreateWithNewKey(True), psi.server.CreateWithNewKey(True)
    setup = server.CreateSetupMessage(FALSE_POSITIVES, len(client_items), server_items, psi.DataStructure.RAW)
    request = client.CreateRequest(client_items)
    response = server.ProcessRequest(request)
    sent = sum(message.ByteSize() for message in (setup, request, response))
    found = sorted(client_items[place] for place in client.GetIntersection(setup, response))
    return {
        "peer": "openmined-psi",
        "version": metadata.version("openmined-psi"),
        "cpu_s": time.process_time() - start,
        "wall_s": time.perf_counter() - wall,
        "bytes": sent,
        "matched": len(found),
        "set_sha256": hashlib.sha256("\n".join(found).encode()).hexdigest(),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="openmined-psi's figures")
    parser.add_argument("--client", type=Path, required=True)
    parser.add_argument("--server", type=Path, required=True)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    try:
        print(json.dumps(measure(asked.client.read_text().split("\n"), asked.server.read_text().split("\n"))))
    except ImportError as absent:
        print(json.dumps({"peer": "openmined-psi", "missing": str(absent)}))
