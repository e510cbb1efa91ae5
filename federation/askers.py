"""The bank's arithmetic in matching: all queries made and committed to, then sent as they were committed, then the tags
of the answers. One asker a protocol, with the same methods."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from lianxin.crypto import group, paillier, psi_ecdh, psi_paillier, query_commitment
from lianxin.crypto.keyed_ciphertexts import add_key_tag, strip_key_tag
from lianxin.crypto.query_commitment import COMMITMENT_BYTES, CommittedQueries, QueryOpening
from lianxin.federation import wire
from lianxin.federation.errors import PeerError
from lianxin.federation.key_exchange import announce_key
from lianxin.federation.matching_side import Side

_BATCH = 4096


class Asker(ABC):
    """What both protocols share: which statement stands behind each query, and the committed queries."""

    answer_type: type[Any]
    item_bytes: int

    def __init__(self, side: Side, query_bytes: int) -> None:
        self.side, self._salts = side, b""
        self.queries = CommittedQueries(query_bytes)
        self.sid, self.order = b"", list[int]()

    @abstractmethod
    def open(self, opening: "wire.BankOpening") -> None:
        """Add to the opening what this protocol needs."""

    def prepare(self, sid: bytes, order: Sequence[int]) -> bytes:
        """Make every query of session `sid`, firms and padding in `order`; return the root that binds them."""
        self.sid, self.order = sid, list(order)
        self._salts = self.side.drbg.child_seed("query-salts", sid)
        for start in range(0, len(order), _BATCH):
            end = min(start + _BATCH, len(order))
            for place, query in zip(range(start, end), self._make(start, end), strict=True):
                statement = self._statement(place)
                self.queries.add(query_commitment.commit(self._salt(place), statement), query)
        return self.queries.root

    def open_query(self, place: int) -> QueryOpening:
        """Return the opening of the query at `place`, for an auditor."""
        return self.queries.open(place, self._salt(place), self._statement(place), self._witness(place))

    @abstractmethod
    def query(self, chunk: int, start: int, end: int) -> Any:
        """Return one chunk of queries. Raises CommitmentRejected if they are not the committed ones."""

    @abstractmethod
    def tags(self, start: int, end: int, answer: Any) -> list[bytes]:
        """Return the tags of the answers to queries start..end. Raises PeerError (M02) for another number of them."""

    @abstractmethod
    def _witness(self, place: int) -> int:
        """Return the number that shows what the query at `place` asks for."""

    @abstractmethod
    def _make(self, start: int, end: int) -> list[bytes]:
        """Return the queries start..end as they cross."""

    def _salt(self, place: int) -> bytes:
        return query_commitment.query_salt(self._salts, place)

    def _firm(self, place: int) -> bytes | None:
        """Return the identifier asked for at `place`, None for padding."""
        firm = self.order[place]
        return self.side.firms[firm].encode() if firm < len(self.side.firms) else None

    def _statement(self, place: int) -> bytes:
        identifier = self._firm(place)
        if identifier is None:
            return query_commitment.PADDING
        return query_commitment.firm_statement(self.side.rows.provenance.release_id, identifier)

    def _asked_for(self, place: int) -> bytes:
        return self._firm(place) or query_commitment.padding_identifier(self._salt(place))


class PaillierAsker(Asker):
    """Asks with encrypted scalars under the bank's own matching key."""

    answer_type = wire.PlatformAnswers

    def __init__(self, side: Side, secret_key: paillier.SecretKey) -> None:
        self.secret_key, self.public = secret_key, secret_key.public
        super().__init__(side, self.public.ciphertext_bytes)
        self._encryptor = paillier.OwnerEncryptor(secret_key, side.contract.exponents)
        self._decryptor = paillier.Decryptor(secret_key)
        self.item_bytes = self.public.ciphertext_bytes + COMMITMENT_BYTES

    def open(self, opening: "wire.BankOpening") -> None:
        """Add the modulus with its proof."""
        opening.modulus, opening.modulus_proof = announce_key(self.side.contract, self.secret_key, self.side.drbg)

    def _make(self, start: int, end: int) -> list[bytes]:
        asked = (self._asked_for(place) for place in range(start, end))
        scalars = [psi_paillier.identifier_scalar(self.sid, one) for one in asked]
        drbg = self.side.drbg.child("queries", self.sid, start, _digest(scalars))
        queries = psi_paillier.encrypt_queries(self._encryptor, scalars, drbg, self.side.executor)
        return [query.to_bytes(self.public.ciphertext_bytes, "big") for query in queries]

    def _witness(self, place: int) -> int:
        (query, _) = self.queries.part(place, place + 1)
        return paillier.recover_randomiser(self.secret_key, int.from_bytes(query, "big"))

    def query(self, chunk: int, start: int, end: int) -> "wire.BankQueries":
        """Return one chunk of queries. Raises CommitmentRejected if they are not the committed ones."""
        ciphertexts, commitments = self.queries.part(start, end)
        data = add_key_tag(self.public, ciphertexts)
        return wire.BankQueries(chunk=chunk, ciphertexts=data, commitments=commitments)

    def tags(self, start: int, end: int, answer: "wire.PlatformAnswers") -> list[bytes]:
        """Return the tags of the answers to queries start..end. Raises PeerError (M02) for another number of them."""
        answers = psi_paillier.decode_answers(self.public, strip_key_tag(self.public, answer.answers))
        _check_count(len(answers), end - start)
        drbg = self.side.drbg.child("blinding", self.sid, start)
        return psi_paillier.finish_queries(self.sid, self._decryptor, answers, drbg, self.side.executor)


class EcdhAsker(Asker):
    """Asks with blinded group elements."""

    answer_type = wire.PlatformEvaluatedElements
    item_bytes = group.ELEMENT_BYTES + COMMITMENT_BYTES

    def __init__(self, side: Side) -> None:
        super().__init__(side, group.ELEMENT_BYTES)
        self._blinds: list[int] = []

    def open(self, opening: "wire.BankOpening") -> None:
        """Nothing to add: this protocol has no modulus."""

    def _bound(self, start: int, end: int) -> list[bytes]:
        return [psi_ecdh.bound_identifier(self.sid, self._asked_for(place)) for place in range(start, end)]

    def _make(self, start: int, end: int) -> list[bytes]:
        bound = self._bound(start, end)
        drbg = self.side.drbg.child("blinds", self.sid, start, hashlib.sha256(b"".join(bound)).digest())
        blinds, elements = psi_ecdh.blind_queries(bound, drbg, self.side.executor)
        self._blinds += blinds
        return elements

    def _witness(self, place: int) -> int:
        return self._blinds[place]

    def query(self, chunk: int, start: int, end: int) -> "wire.BankBlindedElements":
        """Return one chunk of queries. Raises CommitmentRejected if they are not the committed ones."""
        elements, commitments = self.queries.part(start, end)
        return wire.BankBlindedElements(chunk=chunk, elements=elements, commitments=commitments)

    def tags(self, start: int, end: int, answer: "wire.PlatformEvaluatedElements") -> list[bytes]:
        """Return the tags of the answers to queries start..end. Raises PeerError (M02) for another number of them."""
        evaluated = psi_ecdh.decode_elements(answer.elements)
        _check_count(len(evaluated), end - start)
        asked, blinds = self._bound(start, end), self._blinds[start:end]
        outputs = psi_ecdh.finalize(asked, blinds, evaluated, self.side.executor)
        return [psi_ecdh.tag_of(output) for output in outputs]


def _check_count(got: int, expected: int) -> None:
    if got != expected:
        raise PeerError(f"a chunk came with {got} answers to {expected} queries", "M02")


def _digest(scalars: Sequence[int]) -> bytes:
    return hashlib.sha256(b"".join(scalar.to_bytes(32, "big") for scalar in scalars)).digest()
