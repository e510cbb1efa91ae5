"""The two kernels under measurement, each beside the plain loop that it replaces: products modulo n² of many rows.

The rows are encryptions, made cheaply as running products of a few fresh ones; codes and scalars are uniform.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial

from gmpy2 import mpz, powmod

from lianxin.crypto.histogram import encrypted_histogram
from lianxin.crypto.multiexp import multi_exponentiate
from lianxin.crypto.paillier import PublicKey, encode_ciphertexts
from lianxin.crypto.randomness import Drbg

FEATURES = 23
BINS = (8, 32)
SCALAR_BITS = 20
ALL = slice(None)
_LOOPS_A_ROW = 2


@dataclass
class Kernels:
    """Ciphertexts of `rows` rows, a scalar for each, and for 8 and for 32 bins the codes of 23 features.

    Our kernels take them as `encoded`, as they come off the wire; what they are compared with has them as numbers.
    """

    public: PublicKey
    ciphertexts: list[int] = field(repr=False)
    encoded: bytes = field(repr=False)
    scalars: list[int] = field(repr=False)
    codes: dict[int, list[list[int]]] = field(repr=False)

    def histogram(self, bins: int, executor: Executor | None = None) -> list[list[int]]:
        """Return the encrypted histogram of every row by every feature."""
        return encrypted_histogram(self.public, self.encoded, self.codes[bins], [bins] * FEATURES, executor)

    def multiply_each(self, features: int = FEATURES) -> None:
        """Multiply once a row and feature: what a histogram without joint codes takes at least."""
        rows, modulus, product = [mpz(c) for c in self.ciphertexts], self.public.n_squared, mpz(1)
        for _ in range(features):
            for row in rows:
                product = product * row % modulus

    def multiply_apart(self, tasks: int, executor: Executor | None = None) -> None:
        """Do `tasks` equal loops of multiplications that share nothing, as tasks of the executor if there is one."""
        work = partial(_multiply_loop, int(self.public.n), _LOOPS_A_ROW * len(self.ciphertexts))
        if executor is None:
            for _ in range(tasks):
                work()
            return
        for task in [executor.submit(work) for _ in range(tasks)]:
            task.result()

    def multi_exponentiation(self, executor: Executor | None = None) -> int:
        """Return the product of every row's ciphertext raised to its scalar."""
        return multi_exponentiate(self.public, self.encoded, self.scalars, executor)

    def power_each(self, rows: slice = ALL) -> int:
        """Return the same product over `rows` by one power and one multiplication a term."""
        modulus, product = self.public.n_squared, mpz(1)
        for base, scalar in zip(self.ciphertexts[rows], self.scalars[rows], strict=True):
            product = product * powmod(base, scalar, modulus) % modulus
        return int(product)

    def plain_halves(self) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
        """Return by kernel the plain loop that it replaces, in two parts to be measured before and after it."""
        half, middle = FEATURES // 2, len(self.ciphertexts) // 2
        each = (partial(self.multiply_each, half), partial(self.multiply_each, FEATURES - half))
        powers = (partial(self.power_each, slice(middle)), partial(self.power_each, slice(middle, None)))
        return {**{f"histogram_{bins}": each for bins in BINS}, f"multiexp_{SCALAR_BITS}": powers}

    def parallel_works(self) -> dict[str, Callable[[Executor | None], object]]:
        """Return by name the kernels that take an executor."""
        return {
            **{f"histogram_{bins}": partial(self.histogram, bins) for bins in BINS},
            f"multiexp_{SCALAR_BITS}": self.multi_exponentiation,
        }


def _multiply_loop(n: int, count: int) -> None:
    modulus, product = mpz(n) ** 2, mpz(3) ** n.bit_length()
    for _ in range(count):
        product = product * product % modulus


def make_kernels(public: PublicKey, fresh: Sequence[int], rows: int, drbg: Drbg) -> Kernels:
    """Return the kernels' inputs for `rows` rows under `public`; `fresh` are a few encryptions to make theirs from."""
    ciphertexts, current = [], mpz(fresh[0])
    for row in range(rows):
        current = current * fresh[row % len(fresh)] % public.n_squared
        ciphertexts.append(int(current))
    scalars = [drbg.between(1, 1 << SCALAR_BITS) for _ in range(rows)]
    codes = {bins: [[byte % bins for byte in drbg.bytes(rows)] for _ in range(FEATURES)] for bins in BINS}
    return Kernels(public, ciphertexts, encode_ciphertexts(public, ciphertexts), scalars, codes)
