"""What Paillier costs in python-paillier (`phe`): one JSON object with CPU seconds an operation, medians.

    PYTHON phe_peer.py --bits 2048 --json

Runs by itself in an environment that has `phe`, and gmpy2 beside it, which phe takes when it is there. phe encrypts
with r^n for a unit r, so its exponent is as long as its modulus.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from importlib import metadata

BATCH, BATCHES = 8, 3


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
    from phe import paillier, util

    public, secret = paillier.generate_paillier_keypair(n_length=bits)
    messages = [3**40 + k for k in range(BATCH)]
    encrypted = [public.encrypt(message) for message in messages]
    if [secret.decrypt(one) for one in encrypted] != messages:
        raise SystemExit("phe does not decrypt what it encrypted")
    return {
        "peer": "phe",
        "version": metadata.version("phe"),
        "arithmetic": f"gmpy2 {metadata.version('gmpy2')}" if util.HAVE_GMP else "Python",
        "key_bits": public.n.bit_length(),
        "exponent_bits": public.n.bit_length(),
        "encrypt_s": median_s(lambda: [public.encrypt(message) for message in messages]),
        "decrypt_s": median_s(lambda: [secret.decrypt(one) for one in encrypted]),
        "add_s": median_s(lambda: [one + encrypted[0] for one in encrypted]),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="phe's figures")
    parser.add_argument("--bits", type=int, required=True)
    parser.add_argument("--json", action="store_true")
    bits = parser.parse_args().bits
    try:
        print(json.dumps(measure(bits)))
    except ImportError as absent:
        print(json.dumps({"peer": "phe", "missing": str(absent)}))
