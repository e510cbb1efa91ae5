"""Matching by an oblivious pseudorandom function evaluated under Paillier (Jarecki and Liu, TCC 2009).

F(x) = (h(x) + k)^-1·g in ristretto255 (Dodis and Yampolskiy), of order q; the bank owns the Paillier key with modulus
n, the platform a key k fresh for each session. sid = SHA-512(contract hash, run, epoch, both nonces) and
h(x) = SHA-512(tag, sid, x) mod q bind every value to one session.
1. bank -> platform, in secret random order, padded: c_i = Enc(h(x_i)).
2. platform -> bank: a_i <- [1, q·2^448) with a_i ≠ 0 mod q, b_i <- [0, ⌊n/q⌋);
   c'_i = (c_i·(1 + nk))^{a_i}·(1 + n·b_i·q)·(full randomiser), A_i = (a_i mod q)·g.
3. bank: α_i = Dec(c'_i) mod q; abort if α_i = 0 or A_i is no element or the identity; F_i = α_i^-1·A_i.
4. platform -> bank, order fresh per run, padded: the tag, 16 bytes of SHA-512(tag, sid, F(y)), of each of its y.
5. The bank compares tags of F_i with the platform's.

Correctness: c'_i decrypts to T + bq mod n with T = a(x + k) < 2^954, and reducing that modulo q is right unless the
sum passes n. At most T/q of the ⌊n/q⌋ values of b do that, so a query is lost with probability T/(n - q): under
2^-1093 for a 2048-bit key, 2^-69 for the 1024 bits below which this module refuses to work. The same quotient bounds
how far ⌊plaintext/q⌋ is from uniform, so that the plaintext shows α and nothing else of a and k.

Threat model: the bank may be malicious and learns at most one F(x) per charged query. Its plaintext can be any X < n;
the decryption then shows how often a(X + k) passed n: some 64 leading bits of a, or a modulo a small d. Because a is
448 bits wider than q, neither says anything about a mod q, which alone matters; with a < q ten queries give k. The
randomiser must cover all n-th residues, or a crafted n gives a away (protocols.md, section 1). Reusing (a_i, b_i) over
other inputs would give k away too, so step 2 derives its randomness from its inputs. The bank's x are hidden by
Paillier encryption. The platform may answer wrongly: there is no proof, replay finds it.
Leaks: padded sizes, to both; which platform rows matched, to the bank. α = 0 means k = -h(x), probability 2^-252 a
query: the session ends.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import Executor
from itertools import chain

import gmpy2
from gmpy2 import mpz, powmod

from lianxin.crypto import group, paillier
from lianxin.crypto.blocks import block_seeds, cut_blocks, run_blocks
from lianxin.crypto.errors import CommitmentRejected, EncodingRejected, KeyRejected, MatchingAborted
from lianxin.crypto.randomness import Drbg

TAG_BYTES = 16
EXPONENT_BOUND = group.ORDER << 448
MIN_MODULUS_BITS = 1024
_BLOCK_SIZE = 128
_SESSION_DOMAIN = b"lianxin/matching/session/1"
_SCALAR_DOMAIN = b"lianxin/matching/paillier/identifier/1"
_TAG_DOMAIN = b"lianxin/matching/paillier/tag/1"


def session_id(contract_hash: bytes, run: str, epoch: int, nonce_platform: bytes, nonce_bank: bytes) -> bytes:
    """Return the 64-byte id of a matching session; both nonces are fresh."""
    return _hash(_SESSION_DOMAIN, contract_hash, run.encode(), str(epoch).encode(), nonce_platform, nonce_bank)


def identifier_scalar(sid: bytes, identifier: bytes) -> int:
    """Return h(x) in [0, q) for a normalised identifier in the session `sid`."""
    return int.from_bytes(_hash(_SCALAR_DOMAIN, sid, identifier), "big") % group.ORDER


def draw_oprf_key(drbg: Drbg) -> int:
    """Return a fresh key k in [1, q), for one session only."""
    return drbg.between(1, group.ORDER)


def encrypt_queries(
    encryptor: paillier.OwnerEncryptor, scalars: Sequence[int], drbg: Drbg, executor: Executor | None = None
) -> list[int]:
    """Step 1, bank: return c_i = Enc(h(x_i)), in the given order, which the caller has shuffled and padded."""
    if any(not 0 <= scalar < group.ORDER for scalar in scalars):
        raise ValueError("an identifier scalar is not reduced modulo the group order")
    return encryptor.encrypt_many(scalars, drbg, executor)


def evaluate_queries(
    public: paillier.PublicKey,
    oprf_key: int,
    ciphertexts: Sequence[int],
    randomiser_seed: bytes,
    drbg: Drbg,
    executor: Executor | None = None,
    expected_queries: int | None = None,
) -> list[tuple[int, bytes]]:
    """Step 2, platform: return (c'_i, A_i) for each query, in the given order.

    `expected_queries` is what the whole session will ask, where these are one chunk of it: it decides whether tables
    for the randomiser pay.

    `randomiser_seed` is 32 secret bytes drawn once for (key, run), after the key was received. The answers are a
    function of every argument but the executor, and `drbg` is not moved on: the same call gives the same bytes, other
    queries or another key draw other a_i and b_i. Raises KeyRejected for a modulus too small to hide k and
    CiphertextRejected at a query that is no unit modulo n squared.
    """
    if public.bits < MIN_MODULUS_BITS:
        raise KeyRejected(f"matching needs a modulus of at least {MIN_MODULUS_BITS} bits, got {public.bits}")
    paillier.check_ciphertexts(public, ciphertexts)
    queries = [int(ciphertext) for ciphertext in ciphertexts]
    stream = drbg.child("evaluate-queries", _digest_inputs(public, oprf_key, queries))
    blocks = cut_blocks(queries, _BLOCK_SIZE)
    shared = (int(public.n), oprf_key, randomiser_seed, expected_queries or len(queries))
    work = zip(blocks, block_seeds(stream, len(blocks)), strict=True)
    return list(chain.from_iterable(run_blocks(_evaluate_block, shared, work, executor)))


def finish_queries(
    sid: bytes,
    decryptor: paillier.Decryptor,
    answers: Sequence[tuple[int, bytes]],
    drbg: Drbg,
    executor: Executor | None = None,
) -> list[bytes]:
    """Step 3, bank: return the 16-byte tag of F(x_i) for each answer.

    Raises MatchingAborted at an answer that decrypts to 0 modulo q, GroupElementRejected at a bad A_i.
    """
    for _, element in answers:
        group.check_element(element)
    plaintexts = decryptor.decrypt_many([ciphertext for ciphertext, _ in answers], drbg, executor)
    alphas = [int(plaintext % group.ORDER) for plaintext in plaintexts]
    if 0 in alphas:
        raise MatchingAborted("A matching answer decrypts to zero; end the session and start one under a fresh key.")
    elements = [element for _, element in answers]
    work = zip(cut_blocks(alphas, _BLOCK_SIZE), cut_blocks(elements, _BLOCK_SIZE), strict=True)
    return list(chain.from_iterable(run_blocks(_finish_block, (sid,), work, executor)))


def evaluator_tags(sid: bytes, oprf_key: int, scalars: Sequence[int], executor: Executor | None = None) -> list[bytes]:
    """Step 4, platform: return the 16-byte tag of F(y) for each scalar h(y), in the given order.

    Raises MatchingAborted where h(y) + k = 0 modulo q: the bank would read k from its answer, so this is computed
    before any answer of step 2 leaves.
    """
    shifted = [(scalar + oprf_key) % group.ORDER for scalar in scalars]
    if 0 in shifted:
        raise MatchingAborted("The OPRF key is the negative of an identifier's scalar; start again under a fresh one.")
    work = ((block,) for block in cut_blocks(shifted, _BLOCK_SIZE))
    return list(chain.from_iterable(run_blocks(_tag_block, (sid,), work, executor)))


def verify_query(public: paillier.PublicKey, sid: bytes, asked_for: bytes, randomiser: int, query: int) -> None:
    """Raise CommitmentRejected unless the ciphertext `query` asks for `asked_for` in session `sid`, under its randomiser.

    A Paillier ciphertext has one plaintext and one randomiser below n, so it opens one way only.
    """
    if gmpy2.gcd(randomiser, public.n) != 1:
        raise CommitmentRejected("an opened query comes with a randomiser that is no unit; its sender did not open it")
    if paillier.encrypt_with(public, identifier_scalar(sid, asked_for), randomiser) != query:
        raise CommitmentRejected("a query asks for another firm than its opening says")


def encode_answers(public: paillier.PublicKey, answers: Sequence[tuple[int, bytes]]) -> bytes:
    """Return the answers one after the other: c'_i, big-endian in `public.ciphertext_bytes`, then A_i in 32 bytes."""
    return b"".join(int(c).to_bytes(public.ciphertext_bytes, "big") + element for c, element in answers)


def decode_answers(public: paillier.PublicKey, data: bytes) -> list[tuple[int, bytes]]:
    """Return the answers in `data`, checked.

    Raises EncodingRejected at a wrong length, CiphertextRejected at a c' that is no canonical unit modulo n squared,
    GroupElementRejected at an A that is no canonical element or the identity.
    """
    width = public.ciphertext_bytes
    rows = _split(data, width + group.ELEMENT_BYTES, "matching answers")
    answers = [(int.from_bytes(row[:width], "big"), row[width:]) for row in rows]
    paillier.check_ciphertexts(public, [ciphertext for ciphertext, _ in answers])
    for _, element in answers:
        group.check_element(element)
    return answers


def encode_tags(tags: Sequence[bytes]) -> bytes:
    """Return the tags, 16 bytes each, one after the other."""
    if any(len(tag) != TAG_BYTES for tag in tags):
        raise ValueError(f"a matching tag has {TAG_BYTES} bytes")
    return b"".join(tags)


def decode_tags(data: bytes) -> list[bytes]:
    """Return the tags in `data`; raises EncodingRejected where its length is no multiple of 16."""
    return _split(data, TAG_BYTES, "matching tags")


def _evaluate_with(n: int, oprf_key: int, ciphertext: int, a: int, b: int, randomiser: int) -> tuple[int, bytes]:
    """Return (c', A) for the given random choices; step 2 is this and nothing else."""
    # Not powmod_sec, a third slower: `a` serves one answer, and a batch of answers leaves at one time.
    modulus = mpz(n)
    n_squared = modulus * modulus
    shifted = ciphertext * (1 + modulus * oprf_key) % n_squared
    blinded = powmod(shifted, a, n_squared) * (1 + modulus * (b * group.ORDER)) % n_squared
    return int(blinded * randomiser % n_squared), group.base_multiply(a)


def _evaluate_block(
    n: int, oprf_key: int, randomiser_seed: bytes, expected_draws: int, ciphertexts: Sequence[int], seed: bytes
) -> list[tuple[int, bytes]]:
    randomiser = paillier.randomiser_for(paillier.PublicKey(n, "", "", ""), randomiser_seed, expected_draws)
    drbg, answers = Drbg(seed), []
    for ciphertext in ciphertexts:
        a, b = _draw_exponent(drbg), drbg.below(n // group.ORDER)
        answers.append(_evaluate_with(n, oprf_key, ciphertext, a, b, randomiser.draw(drbg)))
    return answers


def _draw_exponent(drbg: Drbg) -> int:
    while True:
        exponent = drbg.between(1, EXPONENT_BOUND)
        if exponent % group.ORDER:
            return exponent


def _finish_block(sid: bytes, alphas: Sequence[int], elements: Sequence[bytes]) -> list[bytes]:
    inverses = group.batch_invert(alphas)
    return [_tag(sid, group.multiply(one, element)) for one, element in zip(inverses, elements, strict=True)]


def _tag_block(sid: bytes, shifted: Sequence[int]) -> list[bytes]:
    return [_tag(sid, group.base_multiply(inverse)) for inverse in group.batch_invert(shifted)]


def _tag(sid: bytes, element: bytes) -> bytes:
    return _hash(_TAG_DOMAIN, sid, element)[:TAG_BYTES]


def _hash(*parts: bytes) -> bytes:
    return hashlib.sha512(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).digest()


def _digest_inputs(public: paillier.PublicKey, oprf_key: int, ciphertexts: Sequence[int]) -> bytes:
    secret = oprf_key.to_bytes(32, "big")
    return _hash(public.key_id.encode(), secret, paillier.encode_ciphertexts(public, ciphertexts))


def _split(data: bytes, size: int, what: str) -> list[bytes]:
    if len(data) % size:
        raise EncodingRejected(f"A list of {what} has a multiple of {size} bytes, this one {len(data)}.")
    return [data[start : start + size] for start in range(0, len(data), size)]
