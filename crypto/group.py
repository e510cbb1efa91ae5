"""The group of both matching protocols: ristretto255 (RFC 9496), of prime order q, through libsodium.

Elements are their canonical 32 bytes, scalars are integers modulo q, written little-endian where libsodium wants
bytes. Hashing follows RFC 9380 (expand_message_xmd with SHA-512, section 5.3.1) and, for the group and its scalars,
RFC 9497, section 4.1. libsodium's multiplication runs in constant time; Python's integers do not, so what is computed
on scalars here (reduction, batch inversion) is for the caller's own secrets on the caller's own machine.
"""

import hashlib
from collections.abc import Sequence

import rbcl

from lianxin.crypto.errors import GroupElementRejected

ORDER = 2**252 + 27742317777372353535851937790883648493
ELEMENT_BYTES = 32
_SCALAR_BYTES = 32
_UNIFORM_BYTES = 64
_IDENTITY = bytes(ELEMENT_BYTES)
_DIGEST_BYTES = 64
_SHA512_BLOCK_BYTES = 128
_NO_ELEMENT = "32 bytes are not the canonical encoding of a ristretto255 element."
_OVERSIZE_DST = b"H2C-OVERSIZE-DST-"


def base_multiply(scalar: int) -> bytes:
    """Return scalar·g for the standard generator g; a scalar that is 0 modulo q raises GroupElementRejected."""
    return rbcl.crypto_scalarmult_ristretto255_base(_encode_scalar(scalar))


def multiply(scalar: int, element: bytes) -> bytes:
    """Return scalar·element. Raises GroupElementRejected for a zero scalar or an element that check_element refuses."""
    encoded = _encode_scalar(scalar)
    _check_form(element)
    try:  # the multiplication decodes the element, so that a check beforehand would decode it twice
        return rbcl.crypto_scalarmult_ristretto255(encoded, element)
    except RuntimeError:
        raise GroupElementRejected(_NO_ELEMENT) from None


def add(left: bytes, right: bytes) -> bytes:
    """Return left + right, which is the identity (32 zero bytes) where they are opposite.

    Raises GroupElementRejected where an operand is not the canonical encoding of an element; the identity may be one.
    """
    for element in (left, right):
        if element != _IDENTITY:
            _check_canonical(element)
    return rbcl.crypto_core_ristretto255_add(left, right)


def check_element(element: bytes) -> None:
    """Raise GroupElementRejected unless `element` is the canonical encoding of an element other than the identity."""
    _check_canonical(element)


def hash_to_group(message: bytes, dst: bytes) -> bytes:
    """Return the element that `message` hashes to under the domain separation tag `dst` (RFC 9497, section 4.1)."""
    return rbcl.crypto_core_ristretto255_from_hash(expand_message_xmd(message, dst, _UNIFORM_BYTES))


def hash_to_scalar(message: bytes, dst: bytes) -> int:
    """Return the scalar in [0, q) that `message` hashes to under `dst` (RFC 9497, section 4.1)."""
    return int.from_bytes(expand_message_xmd(message, dst, _UNIFORM_BYTES), "little") % ORDER


def expand_message_xmd(message: bytes, dst: bytes, length: int) -> bytes:
    """Return `length` uniform bytes from SHA-512 (RFC 9380, section 5.3.1); a `dst` over 255 bytes is hashed first."""
    rounds = -(-length // _DIGEST_BYTES)
    if not 0 < rounds <= 255:
        raise ValueError(f"expand_message_xmd gives 1 to {255 * _DIGEST_BYTES} bytes, not {length}")
    suffix = _prime_dst(dst)
    start = hashlib.sha512(bytes(_SHA512_BLOCK_BYTES) + message + length.to_bytes(2, "big") + b"\x00" + suffix).digest()
    block, uniform, first = bytes(_DIGEST_BYTES), b"", int.from_bytes(start, "big")
    for index in range(1, rounds + 1):
        mixed = (first ^ int.from_bytes(block, "big")).to_bytes(_DIGEST_BYTES, "big")
        block = hashlib.sha512(mixed + bytes([index]) + suffix).digest()
        uniform += block
    return uniform[:length]


def batch_invert(scalars: Sequence[int]) -> list[int]:
    """Return each scalar's inverse modulo q, with one inversion and three multiplications a scalar (Montgomery).

    Its time depends on the values, so it is used only on the caller's own secrets, never where a peer can time it.
    A scalar that is 0 modulo q raises ZeroDivisionError: callers look for it first and name the reason.
    """
    prefixes, product = [], 1
    for scalar in scalars:
        prefixes.append(product)
        product = product * scalar % ORDER
    if product == 0:
        raise ZeroDivisionError("zero has no inverse modulo the group order")
    inverse, inverses = pow(product, -1, ORDER), []
    for scalar, prefix in zip(reversed(scalars), reversed(prefixes), strict=True):
        inverses.append(inverse * prefix % ORDER)
        inverse = inverse * scalar % ORDER
    inverses.reverse()
    return inverses


def _encode_scalar(scalar: int) -> bytes:
    reduced = int(scalar % ORDER)
    if reduced == 0:
        raise GroupElementRejected("Multiplying by zero would give the identity; no protocol here sends that.")
    return reduced.to_bytes(_SCALAR_BYTES, "little")


def _check_canonical(element: bytes) -> None:
    _check_form(element)
    if not rbcl.crypto_core_ristretto255_is_valid_point(element):
        raise GroupElementRejected(_NO_ELEMENT)


def _check_form(element: bytes) -> None:
    if len(element) != ELEMENT_BYTES:
        raise GroupElementRejected(f"A group element has {ELEMENT_BYTES} bytes, this one {len(element)}.")
    # The libsodium in rbcl ignores the top bit, so that one element would have two encodings; RFC 9496 has it clear.
    if element[-1] >> 7:
        raise GroupElementRejected(_NO_ELEMENT)
    if element == _IDENTITY:
        raise GroupElementRejected("A group element is the identity; refuse the message that it came in.")


def _prime_dst(dst: bytes) -> bytes:
    if len(dst) > 255:
        dst = hashlib.sha512(_OVERSIZE_DST + dst).digest()
    return dst + bytes([len(dst)])
