"""The platform's arithmetic in matching: a fresh OPRF key a session, its own tags, and the answers to queries. One
evaluator a protocol, with the same methods."""

from abc import ABC, abstractmethod
from typing import Any

from lianxin.crypto import group, paillier, psi_ecdh, psi_paillier
from lianxin.crypto.keyed_ciphertexts import add_key_tag, strip_key_tag
from lianxin.crypto.query_commitment import LEAF_BYTES, leaves_of, verify_root
from lianxin.federation import wire
from lianxin.federation.key_exchange import received_key
from lianxin.federation.matching_side import PURPOSE, Side

_BATCH = 65_536


class Evaluator(ABC):
    """What both protocols share: the queries' commitments are collected and compared before any tag leaves."""

    query_type: type[Any]

    def __init__(self, side: Side, sid: bytes, query_bytes: int) -> None:
        self.side, self.sid, self._query_bytes = side, sid, query_bytes
        self._leaves = bytearray()

    def own_tags(self) -> bytearray:
        """Return the tags of the platform's own firms, 16 bytes each, in their order."""
        firms, tags = self.side.firms, bytearray()
        for start in range(0, len(firms), _BATCH):
            for tag in self._tags([firm.encode() for firm in firms[start : start + _BATCH]]):
                tags += tag
        return tags

    def verify_queries(self, root: bytes) -> None:
        """Raise CommitmentRejected unless all queries so far are those that `root` was made over."""
        leaves = self._leaves
        verify_root([bytes(leaves[at : at + LEAF_BYTES]) for at in range(0, len(leaves), LEAF_BYTES)], root)
        self._leaves = bytearray()

    def _collect(self, queries: bytes, commitments: bytes) -> None:
        self._leaves += b"".join(leaves_of(queries, commitments, self._query_bytes))

    @abstractmethod
    def answer(self, chunk: int, query: Any) -> tuple[int, Any]:
        """Return (number of queries, the answer) of one chunk."""

    @abstractmethod
    def _tags(self, identifiers: list[bytes]) -> list[bytes]: ...


class PaillierEvaluator(Evaluator):
    """Evaluates under the bank's matching key, which is admitted here."""

    query_type = wire.BankQueries

    def __init__(self, side: Side, sid: bytes, opening: "wire.BankOpening") -> None:
        self.public = received_key(side.contract, side.bank, PURPOSE, opening.modulus, opening.modulus_proof)
        super().__init__(side, sid, self.public.ciphertext_bytes)
        self._drbg = side.drbg.child("evaluator", sid, opening.modulus)
        self._oprf_key = psi_paillier.draw_oprf_key(self._drbg.child("oprf-key"))
        self._expected = opening.padded_queries

    def _tags(self, identifiers: list[bytes]) -> list[bytes]:
        scalars = [psi_paillier.identifier_scalar(self.sid, one) for one in identifiers]
        return psi_paillier.evaluator_tags(self.sid, self._oprf_key, scalars, self.side.executor)

    def answer(self, chunk: int, query: "wire.BankQueries") -> tuple[int, "wire.PlatformAnswers"]:
        """See `Evaluator.answer`. Raises CiphertextRejected for a query that is no canonical unit."""
        data = strip_key_tag(self.public, query.ciphertexts)
        ciphertexts = paillier.decode_ciphertexts(self.public, data)
        self._collect(data, query.commitments)
        answers = psi_paillier.evaluate_queries(
            self.public, self._oprf_key, ciphertexts, self._drbg.child_seed("randomiser"),
            self._drbg.child("answers", chunk), self.side.executor, self._expected,
        )  # fmt: skip
        data = add_key_tag(self.public, psi_paillier.encode_answers(self.public, answers))
        return len(answers), wire.PlatformAnswers(chunk=chunk, answers=data)


class EcdhEvaluator(Evaluator):
    """Evaluates blinded group elements."""

    query_type = wire.BankBlindedElements

    def __init__(self, side: Side, sid: bytes) -> None:
        super().__init__(side, sid, group.ELEMENT_BYTES)
        self._oprf_key = psi_ecdh.draw_oprf_key(side.drbg.child("oprf-key", sid))

    def _tags(self, identifiers: list[bytes]) -> list[bytes]:
        bound = [psi_ecdh.bound_identifier(self.sid, one) for one in identifiers]
        return psi_ecdh.evaluator_tags(self._oprf_key, bound, self.side.executor)

    def answer(self, chunk: int, query: "wire.BankBlindedElements") -> tuple[int, "wire.PlatformEvaluatedElements"]:
        """See `Evaluator.answer`. Raises GroupElementRejected for a query that is no element."""
        elements = psi_ecdh.decode_elements(query.elements)
        self._collect(query.elements, query.commitments)
        evaluated = psi_ecdh.evaluate_blinded(self._oprf_key, elements, self.side.executor)
        data = psi_ecdh.encode_elements(evaluated)
        return len(evaluated), wire.PlatformEvaluatedElements(chunk=chunk, elements=data)
