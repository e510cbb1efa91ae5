"""What is measured under one key: encryption, decryption and what each of them is made of.

A warm pool holds randomisers that were drawn before, so that encrypting is two multiplications; a cold one draws them
when they are taken, from tables that stand. Setting the tables up, once a key and process, is a figure of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import gmpy2
from gmpy2 import mpz, powmod

from lianxin.crypto import paillier
from lianxin.crypto.pool import BLOCK, CountedPlaces, RandomiserPool
from lianxin.crypto.randomness import Drbg

BATCH = 16
_TEXTBOOK_BATCH = 4
_SHORT_LOOPS = 40
Work = tuple[Callable[[], object], int]


class BareDecryption:
    """Decryption by the Chinese remainder theorem and nothing else: what the protections of `Decryptor` cost.

    For measurement only: its exponentiations show the secret in their timing, and a fault in one gives a prime away.
    """

    def __init__(self, p: int, q: int) -> None:
        self._p, self._q, n = mpz(p), mpz(q), mpz(p) * q
        self._p_squared, self._q_squared = self._p**2, self._q**2
        self._h_p = gmpy2.invert((powmod(1 + n, p - 1, self._p_squared) - 1) // p, p)
        self._h_q = gmpy2.invert((powmod(1 + n, q - 1, self._q_squared) - 1) // q, q)
        self._p_to_q = gmpy2.invert(p, q)

    def __repr__(self) -> str:
        return "BareDecryption(<secret>)"

    def decrypt(self, c: int) -> int:
        """Return the plaintext of c."""
        at_p = (powmod(c, self._p - 1, self._p_squared) - 1) // self._p * self._h_p % self._p
        at_q = (powmod(c, self._q - 1, self._q_squared) - 1) // self._q * self._h_q % self._q
        return int(at_p + self._p * ((at_q - at_p) * self._p_to_q % self._q))


@dataclass
class Cipher:
    """A key, all that encrypts and decrypts under it, and a batch of messages with their ciphertexts."""

    key: paillier.SecretKey = field(repr=False)
    drbg: Drbg = field(repr=False)

    def __post_init__(self) -> None:
        self.public = self.key.public
        self.full = paillier.OwnerEncryptor(self.key)
        self.short = paillier.OwnerEncryptor(self.key, exponents="short")
        self.warm, self.cold = self._pool(), self._pool()
        self.decryptor = paillier.Decryptor(self.key)
        self.randomiser = paillier.Randomiser(self.public, self.drbg.bytes(32))
        self.bare = BareDecryption(*self.key.reveal_primes())
        self.messages = [self.drbg.bits(64) for _ in range(BATCH)]
        self.ciphertexts = [self.full.encrypt(message, self.drbg) for message in self.messages]

    def _pool(self) -> RandomiserPool:
        return RandomiserPool(self.full, self.drbg.bytes(32), CountedPlaces(), BLOCK)

    def fill_pool(self) -> None:
        """Draw what the warm pool gives out next."""
        self.warm.planned += 2 * BLOCK
        self.warm.fill(BLOCK)

    def works(self) -> dict[str, Work]:
        """Return by name what is measured, each with the number of operations that one call of it does."""
        return {
            "encrypt": (lambda: [self.full.encrypt(m, self.drbg) for m in self.messages], BATCH),
            "encrypt_short": (lambda: [self.short.encrypt(m, self.drbg) for m in self.messages], BATCH),
            "encrypt_cold_pool": (lambda: self._from_pool(self.cold), BLOCK),
            "encrypt_warm_pool": (lambda: self._from_pool(self.warm), BLOCK),
            "decrypt": (lambda: [self.decryptor.decrypt(c, self.drbg) for c in self.ciphertexts], BATCH),
            "decrypt_bare": (lambda: [self.bare.decrypt(c) for c in self.ciphertexts], BATCH),
            "evaluator_randomiser": (lambda: [self.randomiser.draw(self.drbg) for _ in self.messages], BATCH),
            "textbook_randomiser": (self._textbook, _TEXTBOOK_BATCH),
            "add": (self._add, BATCH * _SHORT_LOOPS),
            "multiplication": (self._multiply, BATCH * _SHORT_LOOPS),
        }

    def _from_pool(self, pool: RandomiserPool) -> list[int]:
        return paillier.encrypt_prepared(self.public, range(BLOCK), pool.take(BLOCK))

    def _textbook(self) -> None:
        for _ in range(_TEXTBOOK_BATCH):
            paillier.textbook_randomiser(self.public, self.drbg)

    def _add(self) -> None:
        first = self.ciphertexts[0]
        for _ in range(_SHORT_LOOPS):
            for other in self.ciphertexts:
                paillier.add(self.public, first, other)

    def _multiply(self) -> None:
        elements, modulus, product = [mpz(c) for c in self.ciphertexts], self.public.n_squared, mpz(1)
        for _ in range(_SHORT_LOOPS):
            for element in elements:
                product = product * element % modulus
