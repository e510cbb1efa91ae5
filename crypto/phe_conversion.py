"""Keys and ciphertexts to and from `phe` (python-paillier), which has the same scheme with g = n + 1.

`phe` is licensed under the GPL and is an optional extra: this module alone imports it, and only when it is called.

A number of `phe` is a ciphertext with an **exponent** beside it in the clear: the value is (signed plaintext)·16^exponent.
For a float, `phe` takes the exponent from the float itself, so that it shows the size of what was encrypted, and a sum
or a product shows which operands it had (its documentation says so among the caveats; issues 74 and 110 are overflows
of the same encoding). Here every number is a fixed-point integer at one public scale a run, and conversion holds on to
that: the caller names the exponent, a constant of the run (scale 2^s is exponent -s/4), and a number with another one
is refused. Let `phe` encrypt integers, or floats with a `precision` that gives them all that exponent.

What differs besides:
- A secret key of ours is made of safe primes, `phe` draws any. One that comes from `phe` decrypts here and gives no
  `OwnerEncryptor`, and its modulus need not pass `modulus_proof`: for a run, generate keys here and give them to `phe`.
- Keys of `phe` have no owner, purpose or run: who converts names them. There is no floor on bits, as in `paillier`.
- Negative plaintexts are the upper half of Z_n here (`paillier.centred`); `phe` raises OverflowError on opening
  anything between n/3 and 2n/3.
- `phe` checks no ciphertext. What comes from it passes `paillier.check_ciphertexts`: a randomiser with a factor in
  common with n (phe's issue 77) or a number outside (0, n²) would decrypt to something else without a sign.
- Nothing is re-randomised on the way. What goes to a key owner gets a randomiser first (`paillier.Randomiser`, or
  `obfuscate()` of `phe`).
"""

from collections.abc import Sequence
from typing import Any

from lianxin.crypto.errors import CiphertextRejected, ExtraMissing, KeyRejected
from lianxin.crypto.paillier import PublicKey, SecretKey, check_ciphertexts, secret_key_from_primes


def to_phe_public(public: PublicKey) -> Any:
    """Return a `phe.PaillierPublicKey` of the same modulus. Raises ExtraMissing without `phe`, as all of these do."""
    return _phe().PaillierPublicKey(int(public.n))


def to_phe_private(secret_key: SecretKey) -> Any:
    """Return a `phe.PaillierPrivateKey` of the same primes. It pickles and compares: the secret leaves its shelter."""
    return _phe().PaillierPrivateKey(to_phe_public(secret_key.public), *secret_key.reveal_primes())


def from_phe_public(theirs: Any, owner: str, purpose: str, run: str) -> PublicKey:
    """Return the public key of a `phe.PaillierPublicKey`, bound to (owner, purpose, run).

    Raises KeyRejected for another object, or one whose g and n² are not those of its n.
    """
    if not isinstance(theirs, _phe().PaillierPublicKey):
        raise KeyRejected(f"a phe.PaillierPublicKey is converted, got {type(theirs).__name__}")
    n = int(theirs.n)
    if n < 1 or theirs.g != n + 1 or theirs.nsquare != n * n:
        raise KeyRejected("the key of phe is not the one of its n with g = n + 1; make it from n again")
    return PublicKey(n, owner, purpose, run)


def from_phe_private(theirs: Any, owner: str, purpose: str, run: str) -> SecretKey:
    """Return the secret key of a `phe.PaillierPrivateKey`, bound to (owner, purpose, run).

    Raises KeyRejected for another object, for a modulus that is not p·q and for p, q that make no key.
    """
    if not isinstance(theirs, _phe().PaillierPrivateKey):
        raise KeyRejected(f"a phe.PaillierPrivateKey is converted, got {type(theirs).__name__}")
    public = from_phe_public(theirs.public_key, owner, purpose, run)
    if int(theirs.p) * int(theirs.q) != public.n:
        raise KeyRejected("the key of phe has primes of another modulus; make it from p and q again")
    return secret_key_from_primes(int(theirs.p), int(theirs.q), owner, purpose, run)


def to_phe_numbers(public: PublicKey, cs: Sequence[int], exponent: int) -> list[Any]:
    """Return the ciphertexts, in order, as `phe.EncryptedNumber`s that all carry the run's public `exponent`.

    Raises CiphertextRejected, naming the first index, for one that is no ciphertext under `public`.
    """
    check_ciphertexts(public, cs)
    theirs = to_phe_public(public)
    return [_phe().EncryptedNumber(theirs, int(c), exponent) for c in cs]


def from_phe_numbers(public: PublicKey, numbers: Sequence[Any], exponent: int) -> list[int]:
    """Return the ciphertexts of `phe.EncryptedNumber`s, in order.

    Raises CiphertextRejected, naming the first index, for another object, another key than `public`, another exponent
    than the run's public one, and a number that is no canonical unit modulo n².
    """
    phe = _phe()
    for index, number in enumerate(numbers):
        if not isinstance(number, phe.EncryptedNumber):
            raise CiphertextRejected(f"number {index} is no phe.EncryptedNumber")
        if number.public_key.n != public.n:
            raise CiphertextRejected(f"number {index} is encrypted under another key than the one named")
        if number.exponent != exponent:
            raise CiphertextRejected(
                f"number {index} has exponent {number.exponent}, the run's is {exponent}: an exponent of its own shows "
                "how large a number is; encrypt at the one scale"
            )
    cs = [int(number.ciphertext(be_secure=False)) for number in numbers]
    check_ciphertexts(public, cs)
    return cs


def _phe() -> Any:
    try:
        import phe
    except ImportError:
        raise ExtraMissing("conversion needs python-paillier; install the extra: pip install 'lianxin[phe]'") from None
    return phe
