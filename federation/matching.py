"""Matching: which firms a bank and the platform share (protocols.md, section 3), as two state machines a protocol.

`paillier` (default), bank B with key and platform A, firms only with live consent at either side:
1. B: opening (nonce, padded number of queries, modulus with its Π^mod proof, root over its rows). A: opening (nonce,
   padded number of rows, root). sid = SHA-512(contract, run, epoch, nonces).
2. B: Enc(h(x_i)) in secret random order, padded with uniform scalars, in chunks. A: (c'_i, A_i) chunk by chunk.
3. A: tags of its own rows in fresh random order, padded with uniform tags. B: compares.
4. B: the matched positions in A's list, sorted: row r of the shared table is the r-th of them. A notes the count.
`ecdh` has group elements in place of ciphertexts (RFC 9497) and is some fifty times cheaper.

Learns: B the intersection and A's padded size, A B's padded size and the matched rows (alignment "shared"). A malicious
A may answer wrongly or declare rows it should not hold; a malicious B learns one F(x) a query. Below the contract's
minimum the run stops after step 4; B has seen the intersection by then. At most `WINDOW` chunks are under way, so that
memory is bounded on both sides whatever the sizes.
"""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import cached_property

from lianxin.crypto import merkle, modulus_proof, paillier, psi_ecdh, psi_paillier
from lianxin.crypto.randomness import Drbg
from lianxin.federation import wire
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import PeerError, RunStopped
from lianxin.federation.model import Provenance, Released
from lianxin.federation.session import Receive, Role, Send
from lianxin.federation.streams import ROW_BYTES, WINDOW, check_chunk

PADDING = 64
NONCE_BYTES = 32
PURPOSE = "matching"


@dataclass(frozen=True)
class Side:
    """What either role works with: the contract, its released rows, its randomness and where it computes."""

    contract: RunContract
    bank: str
    rows: Released
    drbg: Drbg = field(repr=False)
    executor: Executor | None = None

    @cached_property
    def firms(self) -> tuple[str, ...]:
        """The distinct firms of the released rows, in the order of their first row: the unit of matching."""
        return tuple(dict.fromkeys(self.rows.firms))

    @property
    def rights(self) -> tuple[Provenance, ...]:
        """The release behind every identifier-bearing message of this side."""
        return (self.rows.provenance,)


def padded(size: int) -> int:
    """Return the declared size of a set of `size` rows: the next multiple of PADDING."""
    return max(PADDING, -(-size // PADDING) * PADDING)


def proof_session(contract: RunContract, owner: str, purpose: str) -> bytes:
    """Return the context that binds a modulus proof to (contract, owner, purpose)."""
    return hashlib.sha512(f"{contract.hash}/{owner}/{purpose}".encode()).digest()


def received_key(contract: RunContract, owner: str, purpose: str, modulus: bytes, proof: bytes) -> paillier.PublicKey:
    """Return the peer's public key after its admission check. Raises KeyRejected or ProofRejected."""
    public = paillier.PublicKey(int.from_bytes(modulus, "big"), owner, purpose, contract.run)
    modulus_proof.check_public_key(public, proof, proof_session(contract, owner, purpose), bits=contract.key_bits)
    return public


def announce_key(contract: RunContract, secret_key: paillier.SecretKey, drbg: Drbg) -> tuple[bytes, bytes]:
    """Return (modulus, proof) as they cross."""
    public = secret_key.public
    session = proof_session(contract, public.owner, public.purpose)
    modulus = int(public.n).to_bytes((int(public.n).bit_length() + 7) // 8, "big")
    return modulus, modulus_proof.prove_modulus(secret_key, session, drbg.child("modulus-proof"))


def input_root(side: Side) -> bytes:
    """Return the Merkle root over salted commitments to this side's rows, which sampling can open later."""
    salt = side.drbg.child_seed("input-root")
    return merkle.root_of(hashlib.sha256(salt + firm.encode()).digest() for firm in side.firms)


def bank_role(side: Side, secret_key: paillier.SecretKey | None) -> Role[list[str]]:
    """Return the bank's machine; its result is the shared table's firms in row order. Raises RunStopped below the
    contract's minimum and PeerError when the platform answers what was not asked."""
    asker = _EcdhAsker(side) if secret_key is None else _PaillierAsker(side, secret_key)
    nonce = side.drbg.child("nonce").bytes(NONCE_BYTES)
    opening = wire.BankOpening(nonce=nonce, padded_queries=padded(len(side.firms)), input_root=input_root(side))
    asker.open(opening)
    yield Send(opening, "matching.open")
    answer = yield Receive("matching.open", (wire.PlatformOpening,))
    order = list(range(padded(len(side.firms))))
    side.drbg.child("order").shuffle(order)
    asker.begin(_session(side.contract, answer.nonce, nonce), order)
    own_tags = yield from _ask(side, asker, len(order))
    positions = yield from _compare(own_tags, padded_rows=answer.padded_rows)
    firms = [(place, side.firms[order[i]]) for i, place in positions if order[i] < len(side.firms)]
    firms.sort()
    places = b"".join(place.to_bytes(ROW_BYTES, "big") for place, _ in firms)
    yield Send(wire.BankMatches(positions=places), "matching.share", side.rights)
    yield Receive("matching.share", (wire.PlatformMatchesNoted,))
    check_minimum(side.contract, side.bank, len(firms))
    return [firm for _, firm in firms]


def check_minimum(contract: RunContract, bank: str, matched: int) -> None:
    """Raise RunStopped when fewer firms matched than the contract allows."""
    if matched < contract.min_intersection:
        found = "no firm is shared" if matched == 0 else f"only {matched} firms are shared"
        raise RunStopped(
            f"matching with {bank} ended the run: {found}, the contract's minimum is {contract.min_intersection}; "
            "check that both sides name firms by the same identifier and hold live consents"
        )


def _session(contract: RunContract, nonce_platform: bytes, nonce_bank: bytes) -> bytes:
    return psi_paillier.session_id(bytes.fromhex(contract.hash), contract.run, 0, nonce_platform, nonce_bank)


def _chunk(contract: RunContract, item_bytes: int) -> int:
    return max(1, contract.chunk_bytes // item_bytes)


def _ask(side: Side, asker: "_PaillierAsker | _EcdhAsker", total: int) -> Role[list[bytes]]:
    """Send all queries in chunks, at most WINDOW unanswered, and return the tags in query order."""
    size = _chunk(side.contract, asker.item_bytes)
    starts = list(range(0, total, size))
    tags: list[bytes] = []
    for sent, start in enumerate(starts):
        if sent >= WINDOW:
            tags += yield from _answered(asker, sent - WINDOW)
        yield Send(asker.query(sent, start, min(start + size, total)), "matching.query", side.rights)
    for chunk in range(max(0, len(starts) - WINDOW), len(starts)):
        tags += yield from _answered(asker, chunk)
    return tags


def _answered(asker: "_PaillierAsker | _EcdhAsker", chunk: int) -> Role[list[bytes]]:
    answer = yield Receive("matching.query", (asker.answer_type,))
    check_chunk(answer.chunk, chunk)
    return asker.tags(chunk, answer)


def _compare(own_tags: Sequence[bytes], padded_rows: int) -> Role[list[tuple[int, int]]]:
    """Receive the platform's tags; return (query index, position) of each that is ours."""
    query_of = {tag: index for index, tag in enumerate(own_tags)}
    found: list[tuple[int, int]] = []
    seen: set[bytes] = set()
    place, chunk, last = 0, 0, False
    while not last:
        message = yield Receive("matching.compare", (wire.PlatformTags,))
        check_chunk(message.chunk, chunk)
        for tag in psi_paillier.decode_tags(message.tags):
            if tag in query_of:
                found.append((query_of[tag], place))
            place += 1
            if tag in seen:
                raise PeerError("the platform sent one tag twice", "M02")
            seen.add(tag)
        chunk, last = chunk + 1, message.last
        if place > padded_rows or not message.tags or (last and place != padded_rows):
            raise PeerError("the platform sent another number of tags than rows that it declared", "M02")
    return found


def _digest(scalars: Sequence[int]) -> bytes:
    return hashlib.sha256(b"".join(scalar.to_bytes(32, "big") for scalar in scalars)).digest()


class _PaillierAsker:
    answer_type = wire.PlatformAnswers

    def __init__(self, side: Side, secret_key: paillier.SecretKey) -> None:
        self.side, self.secret_key = side, secret_key
        self.encryptor, self.decryptor = paillier.OwnerEncryptor(secret_key), paillier.Decryptor(secret_key)
        self.item_bytes = secret_key.public.ciphertext_bytes + 32  # an answer carries a group element too
        self.sent: dict[int, int] = {}

    def open(self, opening: "wire.BankOpening") -> None:
        opening.modulus, opening.modulus_proof = announce_key(self.side.contract, self.secret_key, self.side.drbg)

    def begin(self, sid: bytes, order: Sequence[int]) -> None:
        padding = self.side.drbg.child("padding")
        firms = self.side.firms
        own = [psi_paillier.identifier_scalar(sid, firm.encode()) for firm in firms]
        own += [psi_paillier.draw_oprf_key(padding) for _ in range(len(order) - len(firms))]
        self.sid, self.scalars = sid, [own[index] for index in order]

    def query(self, chunk: int, start: int, end: int) -> "wire.BankQueries":
        drbg = self.side.drbg.child("queries", self.sid, chunk, _digest(self.scalars[start:end]))
        ciphertexts = psi_paillier.encrypt_queries(self.encryptor, self.scalars[start:end], drbg, self.side.executor)
        self.sent[chunk] = end - start
        data = paillier.encode_ciphertexts(self.secret_key.public, ciphertexts)
        return wire.BankQueries(chunk=chunk, ciphertexts=data)

    def tags(self, chunk: int, answer: "wire.PlatformAnswers") -> list[bytes]:
        answers = psi_paillier.decode_answers(self.secret_key.public, answer.answers)
        _check_count(len(answers), self.sent.pop(chunk))
        drbg = self.side.drbg.child("blinding", self.sid, chunk)
        return psi_paillier.finish_queries(self.sid, self.decryptor, answers, drbg, self.side.executor)


class _EcdhAsker:
    answer_type = wire.PlatformEvaluatedElements
    item_bytes = 32

    def __init__(self, side: Side) -> None:
        self.side = side
        self.sent: dict[int, tuple[list[bytes], list[int]]] = {}

    def open(self, opening: "wire.BankOpening") -> None:
        """Nothing to add: this protocol has no modulus."""

    def begin(self, sid: bytes, order: Sequence[int]) -> None:
        padding = self.side.drbg.child("padding")
        own = [psi_ecdh.bound_identifier(sid, firm.encode()) for firm in self.side.firms]
        own += [padding.bytes(32) for _ in range(len(order) - len(own))]
        self.sid, self.identifiers = sid, [own[index] for index in order]

    def query(self, chunk: int, start: int, end: int) -> "wire.BankBlindedElements":
        asked = self.identifiers[start:end]
        blinds, elements = psi_ecdh.blind_queries(asked, self.side.drbg.child("queries", self.sid, chunk))
        self.sent[chunk] = (list(asked), blinds)
        return wire.BankBlindedElements(chunk=chunk, elements=psi_ecdh.encode_elements(elements))

    def tags(self, chunk: int, answer: "wire.PlatformEvaluatedElements") -> list[bytes]:
        asked, blinds = self.sent.pop(chunk)
        evaluated = psi_ecdh.decode_elements(answer.elements)
        _check_count(len(evaluated), len(asked))
        return [psi_ecdh.tag_of(output) for output in psi_ecdh.finalize(asked, blinds, evaluated)]


def _check_count(got: int, expected: int) -> None:
    if got != expected:
        raise PeerError(f"a chunk came with {got} answers to {expected} queries", "M02")


def platform_role(side: Side) -> Role[list[str]]:
    """Return the platform's machine; its result is the shared table's firms in row order. Raises PeerError (M01) when
    the bank asks more than its quota, RunStopped below the contract's minimum."""
    opening = yield Receive("matching.open", (wire.BankOpening,))
    if opening.padded_queries > side.contract.max_queries:
        raise PeerError(
            f"{side.bank} asks {opening.padded_queries} queries, its quota is {side.contract.max_queries}", "M01"
        )
    nonce = side.drbg.child("nonce", opening.nonce).bytes(NONCE_BYTES)
    size = padded(len(side.firms))
    yield Send(wire.PlatformOpening(nonce=nonce, padded_rows=size, input_root=input_root(side)), "matching.open")
    sid = _session(side.contract, nonce, opening.nonce)
    evaluator = (
        _EcdhEvaluator(side, sid) if side.contract.matching == "ecdh" else _PaillierEvaluator(side, sid, opening)
    )
    tags = evaluator.own_tags(sid)
    tags += [side.drbg.child("padding", sid, i).bytes(psi_paillier.TAG_BYTES) for i in range(size - len(tags))]
    order = list(range(size))
    side.drbg.child("order", sid).shuffle(order)
    yield from _evaluate(side, evaluator, opening.padded_queries)
    yield from _publish(side, [tags[index] for index in order])
    matches = yield Receive("matching.share", (wire.BankMatches,))
    rows = list(_positions(matches.positions, size, opening.padded_queries))
    yield Send(wire.PlatformMatchesNoted(matched=len(rows)), "matching.share")
    check_minimum(side.contract, side.bank, len(rows))
    if any(order[row] >= len(side.firms) for row in rows):
        raise PeerError(f"{side.bank} claims to have matched padding", "M02")
    return [side.firms[order[row]] for row in rows]


def _evaluate(side: Side, evaluator: "_PaillierEvaluator | _EcdhEvaluator", total: int) -> Role[None]:
    done, chunk = 0, 0
    while done < total:
        query = yield Receive("matching.query", (evaluator.query_type,))
        check_chunk(query.chunk, chunk)
        answered, message = evaluator.answer(chunk, query)
        done, chunk = done + answered, chunk + 1
        if done > total or answered == 0:
            raise PeerError(f"{side.bank} asked another number of queries than it declared", "M01")
        yield Send(message, "matching.query", side.rights)


def _publish(side: Side, tags: Sequence[bytes]) -> Role[None]:
    size = _chunk(side.contract, psi_paillier.TAG_BYTES)
    starts = range(0, len(tags), size)
    for chunk, start in enumerate(starts):
        part = psi_paillier.encode_tags(tags[start : start + size])
        message = wire.PlatformTags(chunk=chunk, tags=part, last=start + size >= len(tags))
        yield Send(message, "matching.compare", side.rights)


def _positions(data: bytes, size: int, quota: int) -> Iterator[int]:
    if len(data) % ROW_BYTES or len(data) // ROW_BYTES > quota:
        raise PeerError("the bank's matches are not a list of positions within its quota", "M02")
    last = -1
    for start in range(0, len(data), ROW_BYTES):
        row = int.from_bytes(data[start : start + ROW_BYTES], "big")
        if not last < row < size:
            raise PeerError("the bank's matched positions are not ascending within the declared rows", "M02")
        last = row
        yield row


class _PaillierEvaluator:
    query_type = wire.BankQueries

    def __init__(self, side: Side, sid: bytes, opening: "wire.BankOpening") -> None:
        self.side = side
        self.public = received_key(side.contract, side.bank, PURPOSE, opening.modulus, opening.modulus_proof)
        self.drbg = side.drbg.child("evaluator", sid, opening.modulus)
        self.oprf_key = psi_paillier.draw_oprf_key(self.drbg.child("oprf-key"))
        self.expected = opening.padded_queries

    def own_tags(self, sid: bytes) -> list[bytes]:
        scalars = [psi_paillier.identifier_scalar(sid, firm.encode()) for firm in self.side.firms]
        return psi_paillier.evaluator_tags(sid, self.oprf_key, scalars, self.side.executor)

    def answer(self, chunk: int, query: "wire.BankQueries") -> tuple[int, "wire.PlatformAnswers"]:
        ciphertexts = paillier.decode_ciphertexts(self.public, query.ciphertexts)
        seed = self.drbg.child_seed("randomiser")
        answers = psi_paillier.evaluate_queries(
            self.public, self.oprf_key, ciphertexts, seed, self.drbg.child("answers", chunk), self.side.executor,
            self.expected,
        )  # fmt: skip
        data = psi_paillier.encode_answers(self.public, answers)
        return len(answers), wire.PlatformAnswers(chunk=chunk, answers=data)


class _EcdhEvaluator:
    query_type = wire.BankBlindedElements

    def __init__(self, side: Side, sid: bytes) -> None:
        self.side = side
        self.oprf_key = psi_ecdh.draw_oprf_key(side.drbg.child("oprf-key", sid))

    def own_tags(self, sid: bytes) -> list[bytes]:
        bound = [psi_ecdh.bound_identifier(sid, firm.encode()) for firm in self.side.firms]
        return psi_ecdh.evaluator_tags(self.oprf_key, bound, self.side.executor)

    def answer(self, chunk: int, query: "wire.BankBlindedElements") -> tuple[int, "wire.PlatformEvaluatedElements"]:
        evaluated = psi_ecdh.evaluate_blinded(
            self.oprf_key, psi_ecdh.decode_elements(query.elements), self.side.executor
        )
        data = psi_ecdh.encode_elements(evaluated)
        return len(evaluated), wire.PlatformEvaluatedElements(chunk=chunk, elements=data)
