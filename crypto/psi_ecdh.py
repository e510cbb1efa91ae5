"""Matching by an oblivious pseudorandom function in ristretto255: RFC 9497, mode OPRF, suite ristretto255-SHA512.

F(x) = SHA-512(x, k·H(x), "Finalize") for the platform's key k, drawn fresh for each session; H hashes to the group.
1. bank -> platform: B_i = r_i·H(x_i), in secret random order, padded; r_i uniform in [1, q).
2. platform -> bank: E_i = k·B_i.
3. bank: F(x_i) = SHA-512(x_i, r_i^-1·E_i, "Finalize"), of which 16 bytes are the tag.
4. platform -> bank: the tags of its own firms, order fresh per run, padded; the bank compares.
Every x is `bound_identifier(sid, firm)`, so that nothing computed in one session means anything in another.

Threat model: the bank may be malicious and learns at most one F(x) per charged query (one-more gap Diffie-Hellman, in
the random-oracle model); B_i is uniform whatever x_i is, so the bank's firms stay hidden from a platform of any
computing power. The platform may answer wrongly: mode OPRF carries no proof, replay finds it.
Leaks: the padded sizes, to both; which platform rows matched, to the bank. There is no Paillier key and so no modulus
to prove: this protocol is the cheap one, and the plan says so.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import Executor
from itertools import chain

from lianxin.crypto import group
from lianxin.crypto.blocks import cut_blocks, run_blocks
from lianxin.crypto.errors import CommitmentRejected, EncodingRejected, MatchingAborted
from lianxin.crypto.randomness import Drbg

TAG_BYTES = 16
_CONTEXT = b"OPRFV1-\x00-ristretto255-SHA512"
_GROUP_DST = b"HashToGroup-" + _CONTEXT
_KEY_DST = b"DeriveKeyPair" + _CONTEXT
_SESSION_ID_BYTES = 64
_MAX_INPUT_BYTES = 2**16 - 1
_BLOCK_SIZE = 1024


def bound_identifier(sid: bytes, identifier: bytes) -> bytes:
    """Return the OPRF input for one firm in one session: the 64-byte session id, then the normalised identifier."""
    if len(sid) != _SESSION_ID_BYTES:
        raise ValueError(f"a session id has {_SESSION_ID_BYTES} bytes, this one {len(sid)}")
    return sid + identifier


def draw_oprf_key(drbg: Drbg) -> int:
    """Return a fresh key k in [1, q), for one session only."""
    return drbg.between(1, group.ORDER)


def derive_oprf_key(seed: bytes, info: bytes) -> int:
    """Return the key that RFC 9497, section 3.2.1 (DeriveKeyPair) derives from 32 bytes of `seed` and `info`."""
    if len(seed) != 32:
        raise ValueError(f"an OPRF key is derived from 32 bytes, not {len(seed)}")
    material = seed + len(info).to_bytes(2, "big") + info
    for counter in range(256):
        key = group.hash_to_scalar(material + bytes([counter]), _KEY_DST)
        if key != 0:
            return key
    raise MatchingAborted("No OPRF key can be derived from this seed; draw another one.")


def blind_queries(
    identifiers: Sequence[bytes], drbg: Drbg, executor: Executor | None = None
) -> tuple[list[int], list[bytes]]:
    """Step 1, bank: return the blinds r_i, to be kept, and the blinded elements B_i, to be sent, in the given order."""
    blinds = [drbg.between(1, group.ORDER) for _ in identifiers]
    work = zip(cut_blocks(identifiers, _BLOCK_SIZE), cut_blocks(blinds, _BLOCK_SIZE), strict=True)
    return blinds, list(chain.from_iterable(run_blocks(_blind_block, (), work, executor)))


def verify_query(sid: bytes, asked_for: bytes, blind: int, query: bytes) -> None:
    """Raise CommitmentRejected unless the element `query` asks for `asked_for` in session `sid` under `blind`.

    The blind of another firm for the same element is a discrete logarithm away, so an element opens one way only.
    """
    if not 0 < blind < group.ORDER or _blind_with(bound_identifier(sid, asked_for), blind) != query:
        raise CommitmentRejected("a query asks for another firm than its opening says")


def evaluate_blinded(oprf_key: int, elements: Sequence[bytes], executor: Executor | None = None) -> list[bytes]:
    """Step 2, platform: return k·B_i. Raises GroupElementRejected at a blinded element that is no element."""
    work = ((block,) for block in cut_blocks(elements, _BLOCK_SIZE))
    return list(chain.from_iterable(run_blocks(_evaluate_block, (oprf_key,), work, executor)))


def finalize(
    identifiers: Sequence[bytes], blinds: Sequence[int], evaluated: Sequence[bytes], executor: Executor | None = None
) -> list[bytes]:
    """Step 3, bank: return the 64-byte outputs F(x_i), of which `tag_of` keeps what is compared.

    Raises MatchingAborted where the numbers differ, GroupElementRejected at an answer that is no element.
    """
    if not len(identifiers) == len(blinds) == len(evaluated):
        raise MatchingAborted(f"{len(blinds)} queries were sent and {len(evaluated)} answers came; stop the session.")
    blocks = (cut_blocks(items, _BLOCK_SIZE) for items in (identifiers, blinds, evaluated))
    return list(chain.from_iterable(run_blocks(_finalize_block, (), zip(*blocks, strict=True), executor)))


def evaluator_tags(oprf_key: int, identifiers: Sequence[bytes], executor: Executor | None = None) -> list[bytes]:
    """Step 4, platform: return the 16-byte tag of F(y) for each of its own bound identifiers, in the given order."""
    work = ((block,) for block in cut_blocks(identifiers, _BLOCK_SIZE))
    return list(chain.from_iterable(run_blocks(_tag_block, (oprf_key,), work, executor)))


def tag_of(output: bytes) -> bytes:
    """Return the 16 bytes of a 64-byte OPRF output that are sent and compared."""
    return output[:TAG_BYTES]


def encode_elements(elements: Sequence[bytes]) -> bytes:
    """Return the elements, 32 bytes each, one after the other."""
    return b"".join(elements)


def decode_elements(data: bytes) -> list[bytes]:
    """Return the elements in `data`, checked.

    Raises EncodingRejected where the length is no multiple of 32, GroupElementRejected at a bad element.
    """
    size = group.ELEMENT_BYTES
    if len(data) % size:
        raise EncodingRejected(f"A list of group elements has a multiple of {size} bytes, this one {len(data)}.")
    elements = [data[start : start + size] for start in range(0, len(data), size)]
    for element in elements:
        group.check_element(element)
    return elements


def _blind_with(identifier: bytes, blind: int) -> bytes:
    return group.multiply(blind, _hashed(identifier))


def _hashed(identifier: bytes) -> bytes:
    if len(identifier) > _MAX_INPUT_BYTES:
        raise ValueError(f"an OPRF input has at most {_MAX_INPUT_BYTES} bytes, this one {len(identifier)}")
    return group.hash_to_group(identifier, _GROUP_DST)


def _output(identifier: bytes, element: bytes) -> bytes:
    return hashlib.sha512(_prefixed(identifier) + _prefixed(element) + b"Finalize").digest()


def _prefixed(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def _blind_block(identifiers: Sequence[bytes], blinds: Sequence[int]) -> list[bytes]:
    return [_blind_with(one, blind) for one, blind in zip(identifiers, blinds, strict=True)]


def _finalize_block(identifiers: Sequence[bytes], blinds: Sequence[int], evaluated: Sequence[bytes]) -> list[bytes]:
    triples = zip(identifiers, group.batch_invert(blinds), evaluated, strict=True)
    return [_output(one, group.multiply(inverse, answer)) for one, inverse, answer in triples]


def _evaluate_block(oprf_key: int, elements: Sequence[bytes]) -> list[bytes]:
    return [group.multiply(oprf_key, element) for element in elements]


def _tag_block(oprf_key: int, identifiers: Sequence[bytes]) -> list[bytes]:
    return [tag_of(_output(one, group.multiply(oprf_key, _hashed(one)))) for one in identifiers]
