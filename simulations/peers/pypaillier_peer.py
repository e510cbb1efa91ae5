"""What Paillier costs in pypaillier (Rust on GMP): one JSON object with CPU seconds an operation, medians.

    PYTHON pypaillier_peer.py --bits 2048 --json

Runs by itself in an environment that has `pypaillier`, on one thread. Its scheme is Damgård and Jurik's with a short
exponent, (1 + mn)·h^r, whose length it tells.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from importlib import metadata

os.environ["RAYON_NUM_THREADS"] = "1"  # read when the library starts its first batch
BATCH, BATCHES = 16, 3


def median_s(work: Callable[[], object]) -> float:
    """Return the median over the batches of the CPU seconds of one of the BATCH operations that `work` does."""
    times = []
    for _ in range(BATCHES):
        start = time.process_time()
        work()
        times.append((time.process_time() - start) / BATCH)
    return statistics.median(times)


def measure(bits: int) -> dict[str, object]:
    """Return the figures at a modulus of `bits` bits."""
    import paillier  # type: ignore[import-not-found]

    public, secret = paillier.generate_keypair(bits)
    messages = [3**40 + k for k in range(BATCH)]
    encrypted = [bytes(one) for one in paillier.encrypt_integers(public, messages)]
    if [number for number, _ in paillier.decrypt_exact_many(secret, encrypted)] != messages:
        raise SystemExit("pypaillier does not decrypt what it encrypted")
    return {
        "peer": "pypaillier",
        "version": metadata.version("pypaillier"),
        "arithmetic": "GMP",
        "key_bits": bits,
        "exponent_bits": _told(public.exponent_bits),
        "encrypt_s": median_s(lambda: paillier.encrypt_integers(public, messages)),
        "decrypt_s": median_s(lambda: paillier.decrypt_exact_many(secret, encrypted)),
        "add_s": median_s(lambda: paillier.add_many(public, encrypted)),
    }


def _told(bits: int | Callable[[], int]) -> int:
    return int(bits()) if callable(bits) else int(bits)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="pypaillier's figures")
    parser.add_argument("--bits", type=int, required=True)
    parser.add_argument("--json", action="store_true")
    bits = parser.parse_args().bits
    try:
        print(json.dumps(measure(bits)))
    except ImportError as absent:
        print(json.dumps({"peer": "pypaillier", "missing": str(absent)}))
