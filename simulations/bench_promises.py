"""What was promised of the figures, and whether a measurement keeps it.

A promise holds for one setting (key size, rows, sizes of the sets); a measurement of another setting is shown beside
none. Some figures are good when they are high ("at least"), some when they are low ("at most").
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Promise:
    """A bar to reach: `path` leads to the figure in a record of the same `setting`; `unit` is shown after it."""

    label: str
    path: tuple[str, ...]
    bar: float
    at_least: bool
    unit: str
    setting: Mapping[str, Any]


@dataclass(frozen=True)
class Kept:
    """A promise beside what was measured; `measured` is None where the figure is null."""

    promise: Promise
    measured: float | None

    @property
    def margin(self) -> float | None:
        """How many times better than the bar: above 1 keeps the promise, whichever way the figure runs."""
        if self.measured is None or self.measured <= 0:
            return None
        return self.measured / self.promise.bar if self.promise.at_least else self.promise.bar / self.measured

    @property
    def verdict(self) -> str:
        """Whether the promise is kept, in a word or two."""
        margin = self.margin
        return "not measured" if margin is None else "reached" if margin >= 1 else "not reached"

    @property
    def bar_text(self) -> str:
        """The bar as a person writes it."""
        return f"{'≥' if self.promise.at_least else '≤'} {self.promise.bar:g}{self.promise.unit}"

    @property
    def measured_text(self) -> str:
        """The measurement with its unit, a dash without one."""
        return "–" if self.measured is None else f"{self.measured:,.3g}{self.promise.unit}"


_CORE = {"bench": "crypto", "key_bits": 2048}
_KERNELS = {**_CORE, "rows": 30_000}
_PAILLIER = {"bench": "matching", "protocol": "paillier", "key_bits": 2048, "queries": 10_000, "rows": 132_000}
_LARGE = {**_PAILLIER, "queries": 100_000, "rows": 1_000_000}
_ECDH = {"bench": "matching", "protocol": "ecdh", "queries": 100_000, "rows": 100_000}

PROMISES = (
    Promise("owner encryption, full exponents, against phe", ("encrypt_vs_phe",), 16, True, "x", _CORE),
    Promise("owner encryption, full, against pypaillier", ("encrypt_vs_pypaillier",), 1.8, True, "x", _CORE),
    Promise("owner encryption, short exponents, against phe", ("encrypt_short_vs_phe",), 40, True, "x", _CORE),
    Promise("decryption, protected, against phe", ("decrypt_vs_phe",), 0.6, True, "x", _CORE),
    Promise("decryption, bare CRT, against phe", ("decrypt_bare_vs_phe",), 0.95, True, "x", _CORE),
    Promise("packed sums a ciphertext", ("packed_values_per_ciphertext",), 8, True, "", _CORE),
    Promise("histogram, 8 bins, of n·d multiplications", ("histogram_8_vs_nd",), 0.4, False, "", _KERNELS),
    Promise("histogram, 32 bins, of n·d multiplications", ("histogram_32_vs_nd",), 0.6, False, "", _KERNELS),
    Promise("multi-exponentiation, 20 bits, against powers", ("multiexp_20_vs_powers",), 8, True, "x", _KERNELS),
    Promise("kernels on two processes", ("two_process_scaling",), 1.8, True, "x", _KERNELS),
    Promise("matching paillier 10⁴ × 132,000, both sides", ("cpu_s",), 120, False, " CPU-s", _PAILLIER),
    Promise("matching paillier 10⁴ × 132,000, two cores", ("wall_s",), 70, False, " s", _PAILLIER),
    Promise("matching paillier 10⁴ × 132,000, bank", ("peak_mb", "bank"), 500, False, " MB", _PAILLIER),
    Promise("matching paillier 10⁴ × 132,000, platform", ("peak_mb", "platform"), 500, False, " MB", _PAILLIER),
    Promise("matching paillier 10⁵ × 10⁶, two cores", ("wall_s",), 720, False, " s", _LARGE),
    Promise("matching paillier 10⁵ × 10⁶, bank", ("peak_mb", "bank"), 1000, False, " MB", _LARGE),
    Promise("matching paillier 10⁵ × 10⁶, platform", ("peak_mb", "platform"), 1000, False, " MB", _LARGE),
    Promise("matching ecdh 10⁵ × 10⁵ against openmined-psi", ("cpu_vs_openmined",), 1, True, "x", _ECDH),
)


def kept_by(record: Record) -> Iterator[Kept]:
    """Yield each promise whose setting is the record's, with the record's figure."""
    for promise in PROMISES:
        if all(record.get(name) == value for name, value in promise.setting.items()):
            value: Any = record
            for name in promise.path:
                value = value.get(name) if isinstance(value, Mapping) else None
            yield Kept(promise, None if value is None else float(value))
