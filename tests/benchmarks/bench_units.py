"""Unit costs of the Paillier core in CPU time, medians, each beside the textbook power r^n of the same run.

    python tests/benchmarks/bench_units.py

Figures name the key size; exponents are full length everywhere.
"""

import json
import statistics
import time
from collections.abc import Callable

from lianxin.crypto import paillier, psi_ecdh
from lianxin.crypto.randomness import Drbg

BITS = 2048
REPEATS = 5


def median_ms(work: Callable[[], object], count: int) -> float:
    """Return the median CPU milliseconds of one of the `count` operations that `work` does."""
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        work()
        times.append((time.process_time() - start) / count * 1000)
    return statistics.median(times)


def measure() -> dict[str, float]:
    """Return milliseconds a unit."""
    key = paillier.generate_secret_key(BITS, "bank-1", "bench", "bench-run", Drbg(b"k" * 32))
    owner, decryptor = paillier.OwnerEncryptor(key), paillier.Decryptor(key)
    evaluator = paillier.Randomiser(key.public, b"e" * 32)
    drbg, messages = Drbg(b"d" * 32), list(range(40))
    ciphertexts = owner.encrypt_many(messages, drbg)
    evaluator.draw(drbg)
    names = [b"%d" % k for k in messages]
    return {
        "textbook_power": median_ms(lambda: [paillier.textbook_randomiser(key.public, drbg) for _ in messages], 40),
        "owner_encrypt": median_ms(lambda: owner.encrypt_many(messages, drbg), 40),
        "decrypt": median_ms(lambda: decryptor.decrypt_many(ciphertexts, drbg), 40),
        "evaluator_randomiser": median_ms(lambda: [evaluator.draw(drbg) for _ in messages], 40),
        "add": median_ms(lambda: [paillier.add(key.public, ciphertexts[0], c) for c in ciphertexts * 50], 2000),
        "ecdh_blind": median_ms(lambda: psi_ecdh.blind_queries(names, drbg), 40),
    }


def bench_units() -> None:
    """Print the units and their ratio to the textbook power."""
    units = measure()
    base = units["textbook_power"]
    print(json.dumps({"key_bits": BITS, "ms": {k: round(v, 4) for k, v in units.items()},
                      "textbook_power_over_unit": {k: round(base / v, 2) for k, v in units.items()}}, indent=1))  # fmt: skip


if __name__ == "__main__":
    bench_units()
