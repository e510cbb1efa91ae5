"""Paillier's cryptosystem (EUROCRYPT 1999) with g = n + 1, as section 1 of protocols.md asks for it.

n = pq for safe primes, gcd(n, φ(n)) = 1. Enc(m; r) = (1 + mn)·r^n mod n². Dec(c) = L(c^{p-1} mod p²)·h_p mod p and
likewise at q, joined by the Chinese remainder theorem, with L(u) = (u-1)/p. Enc(a)·Enc(b) encrypts a+b, Enc(a)^k ka.

A key is bound to (owner, purpose, run) by its id: a ciphertext is only ever checked, encoded and decrypted under the
id that was named. `generate_secret_key` and the constructors are pure and take small keys for tests; the floor of 2048
bits stands in the admission check of `modulus_proof`, which every received key passes before it is stored.

Ciphertexts, plaintexts and randomisers are Python integers; mpz is taken wherever an integer is. Methods that end in
`_many` take an executor and give the same integers with or without it (`blocks`).
"""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import chain
from typing import Literal, NoReturn, Protocol

import gmpy2
from gmpy2 import mpz, powmod, powmod_sec

from lianxin.crypto import fixed_base, shared_residues, split_residues
from lianxin.crypto.blocks import block_seeds, cut_blocks, run_blocks
from lianxin.crypto.errors import CiphertextRejected, DecryptionFault, KeyRejected
from lianxin.crypto.failpoints import reach
from lianxin.crypto.fixed_base import CACHED_KEYS, draw_textbook_residue, evaluator_residues, owner_residues
from lianxin.crypto.randomness import Drbg
from lianxin.crypto.safe_primes import draw_safe_prime

MINIMUM_BITS = 2048
TEXTBOOK_DRAWS = 200
Exponents = Literal["full", "short"]
_ENCRYPT_BLOCK = 64
_DECRYPT_BLOCK = 8  # few ciphertexts answer a level of a tree: every worker gets some


@dataclass(frozen=True)
class PublicKey:
    """A modulus and what it may be used for: one owner, one purpose, one run."""

    n: int
    owner: str
    purpose: str
    run: str

    @cached_property
    def n_squared(self) -> mpz:
        """The ciphertext modulus n²."""
        return mpz(self.n) ** 2

    @cached_property
    def bits(self) -> int:
        """The length of n in bits."""
        return int(self.n).bit_length()

    @cached_property
    def ciphertext_bytes(self) -> int:
        """The fixed length of one encoded ciphertext."""
        return (self.n_squared.bit_length() + 7) // 8

    @cached_property
    def key_id(self) -> str:
        """Hex SHA-256 of n, owner, purpose and run, each with its length before it."""
        digest = hashlib.sha256(b"lianxin/paillier-key\x00")
        number = int(self.n).to_bytes((self.bits + 7) // 8, "big")
        for part in (number, self.owner.encode(), self.purpose.encode(), self.run.encode()):
            digest.update(len(part).to_bytes(8, "big") + part)
        return digest.hexdigest()


class SecretKey:
    """p and q. Shows nothing, is not copied or pickled; `reveal_primes` is the one way to the numbers."""

    __slots__ = ("_p", "_q", "public")

    def __init__(self, p: int, q: int, public: PublicKey) -> None:
        self._p, self._q, self.public = int(p), int(q), public

    def __repr__(self) -> str:
        return "SecretKey(<secret>)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a SecretKey is neither copied nor pickled; it stays with the object that made it")

    def reveal_primes(self) -> tuple[int, int]:
        """Return (p, q), for this package's own arithmetic and the owner's own worker processes."""
        return self._p, self._q


def generate_secret_key(bits: int, owner: str, purpose: str, run: str, drbg: Drbg) -> SecretKey:
    """Return a key of exactly `bits` bits from two safe primes, a function of `drbg`; ValueError for odd bits."""
    if bits % 2:
        raise ValueError(f"a modulus has an even number of bits, asked for {bits}")
    p = draw_safe_prime(bits // 2, drbg)
    q = draw_safe_prime(bits // 2, drbg)
    while q == p:
        q = draw_safe_prime(bits // 2, drbg)
    return secret_key_from_primes(p, q, owner, purpose, run)


def secret_key_from_primes(p: int, q: int, owner: str, purpose: str, run: str) -> SecretKey:
    """Return the key of two distinct primes with gcd(pq, (p-1)(q-1)) = 1. Raises KeyRejected for others.

    They need not be safe: such keys decrypt, but only safe primes give an `OwnerEncryptor`.
    """
    if p == q or not (gmpy2.is_prime(p, 40) and gmpy2.is_prime(q, 40)):
        raise KeyRejected("a secret key is made of two distinct primes; generate a new one")
    if gmpy2.gcd(mpz(p) * q, (mpz(p) - 1) * (mpz(q) - 1)) != 1:
        raise KeyRejected("n shares a factor with φ(n), so decryption would be ambiguous; generate a new key")
    return SecretKey(p, q, PublicKey(int(p) * int(q), owner, purpose, run))


def encrypt_with(public: PublicKey, m: int, r: int) -> int:
    """Return the textbook (1 + mn)·r^n mod n², the pure function behind vectors and proofs.

    Raises ValueError unless r is a unit mod n: another r encrypts something else without a sign.
    """
    if gmpy2.gcd(r, public.n) != 1:
        raise ValueError("the randomiser is no unit modulo n; draw another one")
    return int((1 + mpz(m) % public.n * public.n) * powmod(r, public.n, public.n_squared) % public.n_squared)


def short_exponent_bits(modulus_bits: int) -> int:
    """Return the exponent length of the profile `short_exponents`: 448 bits up to a modulus of 2048, 512 above."""
    return 448 if modulus_bits <= MINIMUM_BITS else 512


class OwnerEncryptor:
    """The key owner's encryption: the textbook distribution at a twentieth of its price. Needs safe primes.

    `exponents = "short"` is the opt-in profile `short_exponents`: twice as fast again, for one assumption more.
    `expected_draws` decides how large its tables are, and nothing else.
    """

    def __init__(self, secret_key: SecretKey, exponents: Exponents = "full", expected_draws: int = 0) -> None:
        self.public = secret_key.public
        bits = short_exponent_bits(self.public.bits) if exponents == "short" else None
        self._material = (*secret_key.reveal_primes(), bits, fixed_base.owner_window_bits(expected_draws, bits))
        fixed_base.check_safe(*secret_key.reveal_primes())  # tables wait until this process draws

    def __repr__(self) -> str:
        return "OwnerEncryptor(<secret>)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("an OwnerEncryptor holds a secret key and is not pickled")

    def encrypt(self, m: int, drbg: Drbg) -> int:
        """Return a fresh encryption of m mod n; m may be negative."""
        return int(owner_residues(*self._material).encrypt(int(m) % self.public.n, self.public.n, drbg))

    def encrypt_many(self, messages: Sequence[int], drbg: Drbg, executor: Executor | None = None) -> list[int]:
        """Return a fresh encryption of each message, in order."""
        reduced = [int(message) % self.public.n for message in messages]
        blocks = cut_blocks(reduced, _ENCRYPT_BLOCK)
        work = zip(blocks, block_seeds(drbg, len(blocks)), strict=True)
        return list(chain.from_iterable(run_blocks(_encrypt_block, self._material, work, executor)))

    def draw(self, drbg: Drbg) -> int:
        """Return one randomiser, an encryption of 0."""
        return int(owner_residues(*self._material).draw(drbg))

    def draw_many(self, count: int, drbg: Drbg, executor: Executor | None = None) -> list[int]:
        """Return `count` independent ones."""
        return _draw_blocks(_owner_block, self._material, count, drbg, executor)


def encrypt_prepared(public: PublicKey, messages: Sequence[int], randomisers: Sequence[int]) -> list[int]:
    """Return (1 + mn)·randomiser for each message and its own randomiser, which must never be used again.

    A randomiser x + u·n gives x + (u + mx mod n)·n. Raises ValueError unless there is one randomiser a message.
    """
    n = mpz(public.n)
    pairs = zip(messages, split_residues.split_residues(map(mpz, randomisers), n), strict=True)
    return [int(low + (high + message * low) % n * n) for message, (low, high) in pairs]


def _encrypt_block(p: int, q: int, bits: int | None, window: int, messages: Sequence[int], seed: bytes) -> list[int]:
    return [int(c) for c in owner_residues(p, q, bits, window).encrypt_many(messages, p * q, Drbg(seed))]


def _owner_block(p: int, q: int, bits: int | None, window: int, count: int, seed: bytes) -> list[int]:
    return [int(residue) for residue in owner_residues(p, q, bits, window).draw_many(count, Drbg(seed))]


class Decryptor:
    """Decryption with ciphertext and plaintext blinded, exponentiations of fixed pattern and a check for faults."""

    def __init__(self, secret_key: SecretKey) -> None:
        self.public = secret_key.public
        self._primes = secret_key.reveal_primes()
        self._decryption = _crt_decryption(*self._primes)

    def __repr__(self) -> str:
        return "Decryptor(<secret>)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Decryptor holds a secret key and is not pickled")

    def decrypt(self, c: int, drbg: Drbg) -> int:
        """Return the plaintext in [0, n); `drbg` blinds. Raises DecryptionFault if the fault check fails."""
        return self._decryption.decrypt(c, drbg)

    def decrypt_many(self, cs: Sequence[int], drbg: Drbg, executor: Executor | None = None) -> list[int]:
        """Return the plaintext of each ciphertext, in order. Raises DecryptionFault as `decrypt` does."""
        blocks = cut_blocks([int(c) for c in cs], _DECRYPT_BLOCK)
        work = zip(blocks, block_seeds(drbg, len(blocks)), strict=True)
        reach("decrypt/before")
        opened = list(chain.from_iterable(run_blocks(_decrypt_block, self._primes, work, executor)))
        reach("decrypt/after")
        return opened


def _decrypt_block(p: int, q: int, cs: Sequence[int], seed: bytes) -> list[int]:
    decryption, drbg = _crt_decryption(p, q), Drbg(seed)
    return [decryption.decrypt(c, drbg) for c in cs]


class _CrtDecryption:
    def __init__(self, p: int, q: int) -> None:
        self._p, self._q, self._n = mpz(p), mpz(q), mpz(p) * q
        self._h_p = gmpy2.invert(self._log_at(self._p, 1 + self._n), self._p)
        self._h_q = gmpy2.invert(self._log_at(self._q, 1 + self._n), self._q)
        self._p_to_q = gmpy2.invert(self._p, self._q)

    def decrypt(self, c: int, drbg: Drbg) -> int:
        shift = drbg.below(int(self._n))
        blinded = c * (1 + shift * self._n) % self._n**2 * self._fresh_zero(drbg)
        at_p = self._log_at(self._p, blinded) * self._h_p % self._p
        at_q = self._log_at(self._q, blinded) * self._h_q % self._q
        opened = int(at_p + self._p * ((at_q - at_p) * self._p_to_q % self._q) + self._n)
        return (opened - shift) % int(self._n)  # Python's own, as long as n until the last step

    def _fresh_zero(self, drbg: Drbg) -> mpz:
        if _is_safe_pair(self._p, self._q):
            return owner_residues(int(self._p), int(self._q)).draw(drbg)
        return draw_textbook_residue(self._n, drbg)

    @staticmethod
    def _log_at(prime: mpz, c: mpz) -> mpz:
        """Return L(c^(prime-1) mod prime²), after Fermat's c^(prime-1) = 1 mod prime has shown no fault."""
        power = powmod_sec(c % (prime * prime), prime - 1, prime * prime)
        if power % prime != 1:
            raise DecryptionFault("a decryption failed its check: the ciphertext is no unit, or the hardware erred")
        return (power - 1) // prime


@lru_cache(maxsize=CACHED_KEYS)
def _crt_decryption(p: int, q: int) -> _CrtDecryption:
    return _CrtDecryption(p, q)


@lru_cache(maxsize=CACHED_KEYS)
def _is_safe_pair(p: int, q: int) -> bool:
    return gmpy2.is_prime((mpz(p) - 1) // 2) and gmpy2.is_prime((mpz(q) - 1) // 2)


def recover_randomiser(secret_key: SecretKey, c: int) -> int:
    """Return the r in [1, n) with c = (1 + mn)·r^n mod n² for the plaintext m: the n-th root that only the owner takes.

    Whoever is shown (m, r) can encrypt again and compare. c mod n = r^n, and n is invertible modulo (p-1)(q-1).
    """
    p, q = secret_key.reveal_primes()
    n = mpz(p) * q
    return int(powmod_sec(mpz(c) % n, gmpy2.invert(n, (mpz(p) - 1) * (mpz(q) - 1)), n))


def centred(m: int, n: int) -> int:
    """Return the representative of m mod n that is nearest to zero, in (-n/2, n/2] for odd n."""
    reduced = int(m) % int(n)
    return reduced - int(n) if reduced > int(n) // 2 else reduced


class ResidueSource(Protocol):
    """Whatever gives randomisers for re-randomisation: multiply a ciphertext by one."""

    def draw(self, drbg: Drbg) -> int:
        """Return one randomiser, an encryption of 0."""
        ...

    def draw_many(self, count: int, drbg: Drbg, executor: Executor | None = None) -> list[int]:
        """Return `count` independent randomisers."""
        ...


class Randomiser:
    """The evaluator's full randomiser: 132 secret n-th residues from `seed`, made once per (key, run).

    `seed` must be drawn after the key was received, is kept secret from the key's owner and serves no other key.
    """

    def __init__(self, public: PublicKey, seed: bytes) -> None:
        self.public, self._seed = public, seed

    def __repr__(self) -> str:
        return "Randomiser(<secret>)"

    def draw(self, drbg: Drbg) -> int:
        """Return an n-th residue mod n², within 2^-64 of uniform."""
        return int(evaluator_residues(int(self.public.n), self._seed).draw(drbg))

    def draw_many(self, count: int, drbg: Drbg, executor: Executor | None = None) -> list[int]:
        """Return `count` independent ones."""
        key = int(self.public.n), self._seed
        return _draw_blocks(_evaluator_block, (*key, shared_residues.made_by(*key, executor)), count, drbg, executor)


def forget_evaluators() -> None:
    """Let go of this process's evaluator tables (36 MB a key at 2048 bits); they are built again if they are needed."""
    evaluator_residues.cache_clear()
    shared_residues.forget()


class TextbookRandomiser:
    """r^n for a fresh unit r: exact, without set-up, six times the price of a draw from tables."""

    def __init__(self, public: PublicKey) -> None:
        self.public = public

    def draw(self, drbg: Drbg) -> int:
        """Return a uniform n-th residue mod n²."""
        return textbook_randomiser(self.public, drbg)

    def draw_many(self, count: int, drbg: Drbg, executor: Executor | None = None) -> list[int]:
        """Return `count` independent ones."""
        return _draw_blocks(_textbook_block, (int(self.public.n),), count, drbg, executor)


def textbook_randomiser(public: PublicKey, drbg: Drbg) -> int:
    """Return r^n mod n² for a uniform unit r."""
    return int(draw_textbook_residue(public.n, drbg))


def randomiser_for(public: PublicKey, seed: bytes, expected_draws: int) -> ResidueSource:
    """Return the cheaper of the two full randomisers for that many draws: r^n under 200, tables from there on."""
    return TextbookRandomiser(public) if expected_draws < TEXTBOOK_DRAWS else Randomiser(public, seed)


def _draw_blocks(
    work: Callable[..., list[int]], shared: tuple, count: int, drbg: Drbg, executor: Executor | None
) -> list[int]:
    sizes = [len(block) for block in cut_blocks(range(count), _ENCRYPT_BLOCK)]
    blocks = zip(sizes, block_seeds(drbg, len(sizes)), strict=True)
    return list(chain.from_iterable(run_blocks(work, shared, blocks, executor)))


def _evaluator_block(n: int, table_seed: bytes, encoded: bytes, count: int, seed: bytes) -> list[int]:
    residues, drbg = evaluator_residues(n, table_seed, encoded), Drbg(seed)
    return [int(residues.draw(drbg)) for _ in range(count)]


def _textbook_block(n: int, count: int, seed: bytes) -> list[int]:
    drbg = Drbg(seed)
    return [int(draw_textbook_residue(n, drbg)) for _ in range(count)]


def encode_ciphertexts(public: PublicKey, cs: Sequence[int]) -> bytes:
    """Return the ciphertexts as fixed-length big-endian bytes, one after the other."""
    return b"".join(int(c).to_bytes(public.ciphertext_bytes, "big") for c in cs)


def decode_ciphertexts(public: PublicKey, data: bytes) -> list[int]:
    """Return the checked ciphertexts of `data`. Raises CiphertextRejected for a wrong length or a bad element."""
    size = public.ciphertext_bytes
    if len(data) % size:
        raise CiphertextRejected(f"{len(data)} bytes are no whole number of ciphertexts of {size} bytes each")
    cs = [int.from_bytes(data[start : start + size], "big") for start in range(0, len(data), size)]
    check_ciphertexts(public, cs)
    return cs


def check_ciphertexts(public: PublicKey, cs: Sequence[int]) -> None:
    """Raise CiphertextRejected, naming the first index, unless every c has 0 < c < n² and gcd(c, n) = 1."""
    n, product = mpz(public.n), mpz(1)
    for index, c in enumerate(cs):
        if not 0 < c < public.n_squared:
            raise CiphertextRejected(f"ciphertext {index} is outside (0, n²); ask its sender for a canonical one")
        product = product * c % n
    if gmpy2.gcd(product, n) != 1:
        index = next(index for index, c in enumerate(cs) if gmpy2.gcd(c, n) != 1)
        raise CiphertextRejected(f"ciphertext {index} shares a factor with n; its sender or the key is at fault")


def add(public: PublicKey, c1: int, c2: int) -> int:
    """Return an encryption of the sum of both plaintexts; not re-randomised."""
    return int(mpz(c1) * c2 % public.n_squared)


def add_plain(public: PublicKey, c: int, m: int) -> int:
    """Return an encryption of the plaintext plus m, m of any sign; not re-randomised."""
    return int(c * (1 + mpz(m) % public.n * public.n) % public.n_squared)


def multiply(public: PublicKey, c: int, k: int) -> int:
    """Return an encryption of k times the plaintext, k >= 0; not re-randomised. Raises ValueError for k < 0."""
    if k < 0:
        raise ValueError("multiply takes k >= 0; invert once for all negative weights (multiexp.combine_bins)")
    return int(powmod(c, k, public.n_squared))
