"""The Paillier core beside other libraries and plain loops, in one run: `lianxin bench crypto`.

1. On one pinned core, in CPU time: ours, a peer, ours, the other peer, and again, so that what else the machine does
   hits all of them alike (`bench_cipher`).
2. On the same core: the encrypted histogram against n·d single multiplications, multi-exponentiation against one power
   a term, half of which run before the kernel and half after it (`bench_kernels`).
3. On all cores, by the wall: the same kernels inline against two worker processes, which have been warmed up. Beside
   them stands the machine's ceiling, two processes that only multiply and exchange nothing: where two "cores" are two
   threads of one, or are busy with something else, it is far below 2 and no kernel passes it.

Every figure is a quotient of medians within a round, and of those the median. `*_vs_phe`, `*_vs_pypaillier`,
`*_vs_powers` and scaling are their time over ours (higher is better), `*_vs_nd` ours over theirs (lower is better).
"""

import hashlib
import time
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import Any

from lianxin.crypto import fixed_base, paillier
from lianxin.crypto.randomness import Drbg
from lianxin.federation.contract import MINIMUM_KEY_BITS
from lianxin.federation.errors import InputFault
from lianxin.federation.scorecard import plan_layouts
from lianxin.parties.node import make_executor
from lianxin.simulations.bench_cipher import Cipher
from lianxin.simulations.bench_contract import make_contract
from lianxin.simulations.bench_kernels import BINS, FEATURES, SCALAR_BITS, Kernels, make_kernels
from lianxin.simulations.bench_machine import Samples, cpu_seconds, describe_machine, pinned, wall_seconds
from lianxin.simulations.bench_peers import Peers

WORKERS = 2
LARGEST_ROWS = 250_000
_SEED = hashlib.sha256(b"lianxin/bench/crypto/23").digest()  # its safe primes of 1024 bits come early
_START_S = 0.6
_BATCHES = 2
_NEARLY = 0.95
Say = Callable[[str], None]


def check_bits(bits: int) -> None:
    """Raise InputFault unless a modulus of `bits` bits is one that a contract allows."""
    if not MINIMUM_KEY_BITS <= bits <= 8192 or bits % 2:
        raise InputFault(f"--bits is an even number from {MINIMUM_KEY_BITS} to 8192, got {bits}")


def bench_crypto(bits: int, rows: int, repeat: int, peers: Peers, say: Say) -> dict[str, Any]:
    """Return the figures at a modulus of `bits` bits over `rows` rows, medians of `repeat` rounds.

    `say` hears what is being measured. Raises InputFault for a modulus or an interpreter that cannot be used.
    """
    check_bits(bits)
    root, samples = Drbg(_SEED), Samples()
    say("making a key")
    cipher = Cipher(paillier.generate_secret_key(bits, "bank-1", "bench", "bench-run", root.child("key")), root)
    kernels = make_kernels(cipher.public, cipher.ciphertexts, rows, root.child("rows"))
    with pinned() as core:
        for turn in range(repeat):
            samples.next_round()
            say(f"round {turn + 1} of {repeat}: ciphers and peers")
            _sample_ciphers(cipher, peers, samples)
            say(f"round {turn + 1} of {repeat}: kernels")
            _sample_kernels(kernels, samples)
    say("two worker processes")
    _sample_scaling(kernels, repeat, samples)
    return _record(cipher, kernels, samples, peers, core, repeat)


def _sample_ciphers(cipher: Cipher, peers: Peers, samples: Samples) -> None:
    samples.add("owner_tables", cpu_seconds(lambda: fixed_base.OwnerResidues(*cipher.key.reveal_primes())))
    for peer in ("phe", "pypaillier"):
        for _ in range(_BATCHES):
            cipher.fill_pool()
            for name, (work, operations) in cipher.works().items():
                samples.add(name, cpu_seconds(work, operations))
        told = peers.run(peer, "--bits", str(cipher.public.bits)) or {}
        for operation in ("encrypt", "decrypt", "add"):
            if told:
                samples.add(f"{peer}_{operation}", float(told[f"{operation}_s"]))


def _sample_kernels(kernels: Kernels, samples: Samples) -> None:
    halves = kernels.plain_halves()
    for name, work in kernels.parallel_works().items():
        before, after = halves[name]
        plain = cpu_seconds(before)
        samples.add(name, cpu_seconds(partial(work, None)))
        samples.add(f"{name}_plain", plain + cpu_seconds(after))


def _sample_scaling(kernels: Kernels, repeat: int, samples: Samples) -> None:
    executor = make_executor(WORKERS)
    assert executor is not None
    with executor:
        _warm_up(executor)
        for _ in range(repeat):
            samples.next_round()
            for name, work in kernels.parallel_works().items():
                samples.add(f"{name}_inline", wall_seconds(partial(work, None)))
                samples.add(f"{name}_workers", wall_seconds(partial(work, executor)))
            samples.add("ceiling_inline", wall_seconds(partial(kernels.multiply_apart, WORKERS)))
            samples.add("ceiling_workers", wall_seconds(partial(kernels.multiply_apart, WORKERS, executor)))


def _warm_up(executor: Executor) -> None:
    """Start every worker: each imports this module, hence the kernels, and stays busy until all have begun."""
    for started in [executor.submit(time.sleep, _START_S) for _ in range(WORKERS)]:
        started.result()
    for ready in [executor.submit(_import_kernels) for _ in range(2 * WORKERS)]:
        ready.result()


def _import_kernels() -> None:
    time.sleep(_START_S / 4)


def _record(
    cipher: Cipher, kernels: Kernels, samples: Samples, peers: Peers, core: int | None, repeat: int
) -> dict[str, Any]:
    scaling = {name: samples.ratio(f"{name}_inline", f"{name}_workers") for name in kernels.parallel_works()}
    known = [value for value in scaling.values() if value is not None]
    figures = {
        "encrypt_vs_phe": samples.ratio("phe_encrypt", "encrypt"),
        "encrypt_vs_pypaillier": samples.ratio("pypaillier_encrypt", "encrypt"),
        "encrypt_short_vs_phe": samples.ratio("phe_encrypt", "encrypt_short"),
        "encrypt_short_vs_pypaillier": samples.ratio("pypaillier_encrypt", "encrypt_short"),
        "encrypt_cold_pool_vs_phe": samples.ratio("phe_encrypt", "encrypt_cold_pool"),
        "encrypt_warm_pool_vs_phe": samples.ratio("phe_encrypt", "encrypt_warm_pool"),
        "encrypt_vs_textbook": samples.ratio("textbook_randomiser", "encrypt"),
        "decrypt_vs_phe": samples.ratio("phe_decrypt", "decrypt"),
        "decrypt_bare_vs_phe": samples.ratio("phe_decrypt", "decrypt_bare"),
        "decrypt_vs_pypaillier": samples.ratio("pypaillier_decrypt", "decrypt"),
        **{f"histogram_{bins}_vs_nd": samples.ratio(f"histogram_{bins}", f"histogram_{bins}_plain") for bins in BINS},
        f"multiexp_{SCALAR_BITS}_vs_powers": samples.ratio(f"multiexp_{SCALAR_BITS}_plain", f"multiexp_{SCALAR_BITS}"),
        "two_process_scaling": min(known) if known else None,
        "two_process_ceiling": samples.ratio("ceiling_inline", "ceiling_workers"),
        "packed_values_per_ciphertext": packed_values(cipher.public.bits),
    }
    medians = samples.medians()
    whole = {"owner_tables", *_kernel_samples(kernels)}
    setting = {"key_bits": cipher.public.bits, "rows": len(kernels.ciphertexts), "features": FEATURES, "repeat": repeat}
    return {
        "bench": "crypto", **setting, **figures, "scaling": scaling,
        "exponent_bits": _exponents(cipher, peers),
        "unit_us": {name: round(value * 1e6, 3) for name, value in medians.items() if name not in whole},
        "whole_s": {name: round(value, 6) for name, value in medians.items() if name in whole},
        "core": core, "machine": describe_machine(), "peers": peers.told,
        "notes": [*peers.notes, *_notes(figures)],
    }  # fmt: skip


def _notes(figures: dict[str, Any]) -> list[str]:
    ceiling = figures["two_process_ceiling"]
    if ceiling is None or ceiling >= WORKERS * _NEARLY:
        return []
    return [
        f"two processes that only multiply were {ceiling:.2f} times as fast as one: cores that are threads of one core, or "
        "busy, leave no more for two_process_scaling, nor for a wall time on two cores"
    ]


def _kernel_samples(kernels: Kernels) -> set[str]:
    """Return the names of measurements of a whole kernel, in contrast to one operation."""
    names = [*kernels.parallel_works(), "ceiling"]
    return {*names, *(f"{name}_{what}" for name in names for what in ("plain", "inline", "workers"))}


def packed_values(bits: int) -> int:
    """Return how many gradient sums share a ciphertext at `bits` bits in a run of the largest size."""
    return plan_layouts(make_contract(key_bits=bits, max_rows=LARGEST_ROWS)).residual.slots


def _exponents(cipher: Cipher, peers: Peers) -> dict[str, Any]:
    """Return the lengths in bits of the random exponents behind one encryption or randomiser."""
    half = [prime.bit_length() for prime in cipher.key.reveal_primes()]
    evaluator = [-(-cipher.public.bits // fixed_base.WIDE_BASES)] * fixed_base.WIDE_BASES
    told = {name: told["exponent_bits"] for name, told in peers.told.items()}
    short = [paillier.short_exponent_bits(cipher.public.bits)] * 2
    return {"owner_full": half, "owner_short": short, "evaluator": [*evaluator, fixed_base.BIT_BASES]} | told
