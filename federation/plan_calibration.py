"""What one operation costs on one core: measured here in a few seconds, or the reference of protocols.md, section 0.

A plan prices its counted operations with a `Calibration`. `REFERENCE` makes a plan a function of its contract, which
simulations need; a platform that launches a run in earnest measures its own machine. Measuring runs the kernels of
`crypto` under a clock of processor time that is passed in, with a key that is drawn quickly and serves nothing else.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from gmpy2 import next_prime, powmod_sec

from lianxin.crypto import fixed_base, group, modulus_proof, paillier, psi_paillier
from lianxin.crypto.randomness import Drbg
from lianxin.crypto.signing import SigningKey
from lianxin.crypto.signing import verify as verify_signature

_DOMAIN = "calibration"


@dataclass(frozen=True)
class Calibration:
    """Unit costs in nanoseconds of processor time on one core, for keys of `key_bits`.

    `multiply`, `power_bit` (a bit of exponent) and `textbook` (r^n) are modulo n², `short_encrypt` is an encryption in
    the profile `short_exponents`, `group_*` are in ristretto255, `sign` and `verify` Ed25519. `source` is "reference"
    or "measured".
    """

    key_bits: int
    source: str
    multiply_ns: int
    power_bit_ns: int
    encrypt_ns: int
    short_encrypt_ns: int
    randomise_ns: int
    textbook_ns: int
    decrypt_ns: int
    generate_key_ns: int
    prove_key_ns: int
    check_key_ns: int
    group_base_ns: int
    group_multiply_ns: int
    group_hash_ns: int
    sign_ns: int
    verify_ns: int

    def record(self) -> dict[str, Any]:
        """Return the costs as they stand in a plan."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


_CURVES = (20_000, 62_000, 17_000, 38_000, 114_000)
REFERENCE: Mapping[int, Calibration] = {
    2048: Calibration(
        2048, "reference", 4_200, 4_700, 480_000, 190_000, 1_500_000, 9_000_000, 3_800_000,
        1_600_000_000, 130_000_000, 210_000_000, *_CURVES,
    ),
    3072: Calibration(
        3072, "reference", 8_300, 10_200, 1_300_000, 420_000, 4_000_000, 28_000_000, 12_000_000,
        9_000_000_000, 430_000_000, 690_000_000, *_CURVES,
    ),
}  # fmt: skip


def reference_calibration(key_bits: int) -> Calibration:
    """Return the reference costs for keys of `key_bits`; sizes without a measurement are scaled from 3072 bits."""
    if key_bits in REFERENCE:
        return REFERENCE[key_bits]
    base, growth = REFERENCE[3072], {"multiply_ns": 2, "power_bit_ns": 2, "generate_key_ns": 4}
    names = [f.name for f in fields(base) if f.name.endswith("_ns")][: -len(_CURVES)]
    scaled = {n: getattr(base, n) * key_bits ** growth.get(n, 3) // 3072 ** growth.get(n, 3) for n in names}
    return replace(base, key_bits=key_bits, **scaled)


class Meter:
    """Unit costs averaged over samples, taken at once or from time to time beside a run.

    What an operation takes depends on who shares the machine, and that changes from second to second: a run is priced by
    samples from the seconds in which it ran. Samples of equal processor time make the average what the run's own
    operations took. `clock_ns` is processor time in nanoseconds. The primes behind the timings are drawn quickly, are
    not safe and serve nothing else; the cost of generating a key varies too much to be measured and is the reference's,
    scaled.
    """

    def __init__(self, key_bits: int, drbg: Drbg, clock_ns: Callable[[], int]) -> None:
        self._key_bits, self._clock_ns = key_bits, clock_ns
        self._works = _kernels(key_bits, drbg)
        self._runs: Counter[str] = Counter()
        self._spent_ns: Counter[str] = Counter()

    @property
    def kernels(self) -> tuple[str, ...]:
        """The names of what is timed, the two that take a quarter of a second among them."""
        return tuple(self._works)

    def sample(self, name: str, share_ns: int) -> None:
        """Do one kernel once, uncounted, then again and again for `share_ns` of processor time."""
        work = self._works[name]
        work()
        start, runs, spent = self._clock_ns(), 0, 0
        while not runs or spent < share_ns:
            work()
            runs += 1
            spent = self._clock_ns() - start
        self._runs[name] += runs
        self._spent_ns[name] += spent

    def calibration(self) -> Calibration:
        """Return the average over all samples. Raises ValueError unless each kernel was sampled."""
        missing = [name for name in self._works if not self._runs[name]]
        if missing:
            raise ValueError(f"{missing[0]} was never sampled; a calibration needs every kernel")
        took = {name: max(1, self._spent_ns[name] // self._runs[name]) for name in self._works}
        at_half = took.pop("half_power")
        took["decrypt_ns"] = took["encrypt_ns"] + 2 * at_half
        took["power_bit_ns"] = max(1, took["power_bit_ns"] // psi_paillier.EXPONENT_BOUND.bit_length())
        base = reference_calibration(self._key_bits)
        generate = base.generate_key_ns * took["textbook_ns"] // base.textbook_ns
        return Calibration(key_bits=self._key_bits, source="measured", generate_key_ns=generate, **took)


def measure_calibration(key_bits: int, drbg: Drbg, clock_ns: Callable[[], int], seconds: float = 2.0) -> Calibration:
    """Return what the kernels cost here, on this core; takes about `seconds` and the time to build small tables.

    See `Meter` for `clock_ns` and for what the timings are made of.
    """
    meter = Meter(key_bits, drbg, clock_ns)
    for name in meter.kernels:
        meter.sample(name, int(seconds * 1e9) // len(meter.kernels))
    return meter.calibration()


def _kernels(key_bits: int, drbg: Drbg) -> dict[str, Callable[[], Any]]:
    secret_key = _timing_key(key_bits, drbg)
    public, (p, q) = secret_key.public, secret_key.reveal_primes()
    n, squared = int(public.n), public.n_squared
    quarter, half = -(-key_bits // fixed_base.WIDE_BASES), key_bits // 2
    short = paillier.short_exponent_bits(key_bits)
    base = drbg.below(n)
    at_p, at_q = (fixed_base.FixedBase(base, prime * prime, half) for prime in (p, q))
    short_p, short_q = (fixed_base.FixedBase(base, prime * prime, short) for prime in (p, q))
    wide = fixed_base.FixedBase(base, squared, quarter)
    few = fixed_base.SubsetProducts([base + i for i in range(fixed_base.BIT_BASES)], squared)
    proof = modulus_proof.prove_modulus(secret_key, b"", drbg)
    signing_key, element = SigningKey.from_seed(drbg.bytes(32)), group.base_multiply(drbg.between(1, group.ORDER))
    signature = signing_key.sign(_DOMAIN, b"")

    def encrypt() -> int:
        joined = at_p.power(drbg.below(p)) + at_q.power(drbg.below(q)) * p
        return (1 + joined * n) * base % squared

    def short_encrypt() -> int:
        joined = short_p.power(drbg.bits(short)) + short_q.power(drbg.bits(short)) * p
        return (1 + joined * n) * base % squared

    def randomise() -> int:
        result = few.product(drbg.bytes(fixed_base.BIT_BASES // 8))
        for _ in range(fixed_base.WIDE_BASES):
            result = result * wide.power(drbg.bits(quarter)) % squared
        return result

    return {
        "multiply_ns": lambda: paillier.add(public, base, base),
        "power_bit_ns": lambda: paillier.multiply(public, base, drbg.below(psi_paillier.EXPONENT_BOUND)),
        "encrypt_ns": encrypt,
        "short_encrypt_ns": short_encrypt,
        "randomise_ns": randomise,
        "textbook_ns": lambda: paillier.textbook_randomiser(public, drbg),
        "half_power": lambda: powmod_sec(base, p - 1, p * p),
        "prove_key_ns": lambda: modulus_proof.prove_modulus(secret_key, b"", drbg),
        "check_key_ns": lambda: modulus_proof.verify_modulus(n, proof, b""),
        "group_base_ns": lambda: group.base_multiply(drbg.between(1, group.ORDER)),
        "group_multiply_ns": lambda: group.multiply(drbg.between(1, group.ORDER), element),
        "group_hash_ns": lambda: group.hash_to_group(drbg.bytes(32), b"lianxin/calibration"),
        "sign_ns": lambda: signing_key.sign(_DOMAIN, b""),
        "verify_ns": lambda: verify_signature(signing_key.public_hex, _DOMAIN, b"", signature),
    }


def _timing_key(key_bits: int, drbg: Drbg) -> paillier.SecretKey:
    def prime() -> int:
        top = 3 << (key_bits // 2 - 2)
        candidate = int(next_prime(top + drbg.bits(key_bits // 2 - 3)))
        return candidate if candidate % 4 == 3 else prime()

    return paillier.secret_key_from_primes(prime(), prime(), "timing", "timing", "timing")
