"""Commitments to matching queries (protocols.md, section 3): whoever asks is bound to all its queries before it sees
one answer, and can open any of them to an auditor later.

    commitment_i = HMAC-SHA-256(salt_i, statement_i)       statement_i names a release and a firm, or says "padding"
    leaf_i       = SHA-256(commitment_i || query_i)        query_i as it crosses: a ciphertext or a group element
    root         = the Merkle root (RFC 9162) over the leaves, in the order of the queries

1. asker: the root goes out, and into both ledgers, before the first query.
2. asker: each query with its commitment. The evaluator collects the leaves and refuses to publish its tags unless they
   have that root, so that no query can depend on an answer.
3. auditor: for each index of a sample (`sample_positions`, `verify_sample`) the asker opens (salt_i, statement_i, path,
   witness_i). The witness, a Paillier randomiser or a blind, shows what the query asks for (`psi_paillier.verify_query`,
   `psi_ecdh.verify_query`): the firm of the statement, whose release holds its consent, or `padding_identifier(salt_i)`,
   a hash that is no firm.

Threat model: the commitment hides the firm under HMAC with a secret salt and binds under collision resistance. Nothing
here shows the evaluator that a statement is true; an auditor's sample does, with all of step 3 and no less.
"""

import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from lianxin.crypto import merkle
from lianxin.crypto.errors import CommitmentRejected, EncodingRejected
from lianxin.crypto.randomness import Drbg, derive_seed

COMMITMENT_BYTES = LEAF_BYTES = 32
PADDING = b"padding"
SAMPLE_ROWS = (
    690  # of queries of which one in a hundred is unauthorised, a sample that misses them all is one in a thousand
)
_FIRM, _RELEASE_BYTES = b"firm\x00", 32


def query_salt(seed: bytes, index: int) -> bytes:
    """Return the 32-byte salt of the query at `index`; opening one salt opens no other."""
    return derive_seed(seed, "query", index)


def firm_statement(release_id: str, identifier: bytes) -> bytes:
    """Return the statement of a query for `identifier`, released under `release_id` (hex SHA-256 of a ledger leaf)."""
    return _FIRM + bytes.fromhex(release_id) + identifier


def padding_identifier(salt: bytes) -> bytes:
    """Return the 32 bytes that a padding query asks for: no firm's identifier, except with negligible probability."""
    return hmac.digest(salt, b"padding identifier", hashlib.sha256)


def commit(salt: bytes, statement: bytes) -> bytes:
    """Return the 32-byte commitment to a statement under its own salt."""
    return hmac.digest(salt, statement, hashlib.sha256)


def query_leaf(commitment: bytes, query: bytes) -> bytes:
    """Return the 32-byte leaf that binds a query to its commitment."""
    return hashlib.sha256(commitment + query).digest()


@dataclass(frozen=True)
class QueryOpening:
    """One opened query: what an auditor gets beside the query itself, its index and the root."""

    salt: bytes = field(repr=False)
    statement: bytes = field(repr=False)
    witness: int = field(repr=False)
    path: tuple[bytes, ...]

    @property
    def release_id(self) -> str:
        """The release, in hex, that a firm's statement names; empty for padding."""
        return "" if self.statement == PADDING else self.statement[len(_FIRM) : len(_FIRM) + _RELEASE_BYTES].hex()

    @property
    def asked_for(self) -> bytes:
        """What the query must ask for: the firm's identifier, or the hash that stands for padding."""
        if self.statement == PADDING:
            return padding_identifier(self.salt)
        return self.statement[len(_FIRM) + _RELEASE_BYTES :]


class CommittedQueries:
    """An asker's queries with their commitments. Holds them all: `width` + 64 bytes a query."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._queries, self._commitments, self._leaves = bytearray(), bytearray(), bytearray()

    def add(self, commitment: bytes, query: bytes) -> None:
        """Append the next query. Raises EncodingRejected for a wrong length."""
        if len(commitment) != COMMITMENT_BYTES or len(query) != self._width:
            raise EncodingRejected(
                f"a query of {len(query)} bytes and a commitment of {len(commitment)} came where "
                f"{self._width} and {COMMITMENT_BYTES} are due"
            )
        self._queries += query
        self._commitments += commitment
        self._leaves += query_leaf(commitment, query)

    @property
    def root(self) -> bytes:
        """The root over all queries so far."""
        return merkle.root_of_all(self._each_leaf())

    def _each_leaf(self) -> list[bytes]:
        leaves = bytes(self._leaves)
        return [leaves[at : at + LEAF_BYTES] for at in range(0, len(leaves), LEAF_BYTES)]

    def part(self, start: int, end: int) -> tuple[bytes, bytes]:
        """Return (queries, commitments) of a range as they cross.

        Raises CommitmentRejected where one is no longer what the root was made over: then nothing of it may leave.
        """
        queries = bytes(self._queries[start * self._width : end * self._width])
        commitments = bytes(self._commitments[start * COMMITMENT_BYTES : end * COMMITMENT_BYTES])
        leaves = leaves_of(queries, commitments, self._width)
        if b"".join(leaves) != self._leaves[start * COMMITMENT_BYTES : end * COMMITMENT_BYTES]:
            raise CommitmentRejected("a query differs from the committed one; end the session, nothing of it was sent")
        return queries, commitments

    def open(self, index: int, salt: bytes, statement: bytes, witness: int) -> QueryOpening:
        """Return the opening of one query. Raises ValueError for an index outside the queries."""
        tree = merkle.MerkleTree()
        for leaf in self._each_leaf():
            tree.append(leaf)
        path = tuple(tree.inclusion_proof(index, tree.size))
        return QueryOpening(salt, statement, witness, path)


def leaves_of(queries: bytes, commitments: bytes, width: int) -> list[bytes]:
    """Return the leaves of a chunk of queries. Raises EncodingRejected unless there is one commitment a query."""
    count = len(queries) // width
    if len(queries) != count * width or len(commitments) != count * COMMITMENT_BYTES:
        raise EncodingRejected(f"{len(queries)} bytes of queries came with {len(commitments)} bytes of commitments")
    return [
        query_leaf(commitments[i * COMMITMENT_BYTES : (i + 1) * COMMITMENT_BYTES], queries[i * width : (i + 1) * width])
        for i in range(count)
    ]


def verify_root(leaves: Sequence[bytes], root: bytes) -> None:
    """Raise CommitmentRejected unless `leaves`, in order, have this root."""
    if not hmac.compare_digest(merkle.root_of_all(leaves), root):
        raise CommitmentRejected("the queries are not those that were committed to before the first answer")


def verify_opening(opening: QueryOpening, query: bytes, index: int, queries: int, root: bytes) -> None:
    """Raise CommitmentRejected or ProofOfInclusionRejected unless `opening` opens the statement behind `query`.

    `index` is the auditor's choice among the `queries` that were declared. What the query asks for is another check:
    `verify_query` of its protocol, with `opening.asked_for` and `opening.witness`.
    """
    is_firm = opening.statement.startswith(_FIRM) and len(opening.statement) > len(_FIRM) + _RELEASE_BYTES
    if opening.statement != PADDING and not is_firm:
        raise CommitmentRejected("an opened query says neither a firm nor padding; its sender did not open it")
    leaf = query_leaf(commit(opening.salt, opening.statement), query)
    merkle.verify_inclusion(merkle.leaf_hash(leaf), index, queries, list(opening.path), root)


def sample_positions(queries: int, seed: bytes, rows: int = SAMPLE_ROWS) -> list[int]:
    """Return the positions that an auditor opens, ascending: `rows` of them, uniform without repetition, or all.

    `seed` (32 bytes) is drawn by the auditor after the root is in both ledgers, so that no asker knows it before. A share p
    of bad queries is missed with probability under (1 - p)^rows.
    """
    drbg, chosen = Drbg(seed).child("audit-sample", queries), set[int]()
    while len(chosen) < min(rows, queries):
        chosen.add(drbg.below(queries))
    return sorted(chosen)


def verify_sample(
    opened: Mapping[int, tuple[QueryOpening, bytes]],
    positions: Sequence[int],
    queries: int,
    root: bytes,
    is_authorised: Callable[[str, bytes], bool],
    verify_query: Callable[[QueryOpening, bytes], None],
) -> None:
    """Check an asker's openings at the sampled `positions`, each with the query as it crossed.

    `is_authorised(release id in hex, identifier)` says whether that release holds the firm, `verify_query` raises where
    a query asks for something else than its opening says. Raises CommitmentRejected, naming the position alone, for one
    that is not opened or is neither padding nor an authorised firm; ProofOfInclusionRejected for one under another root.
    """
    for position in positions:
        if position not in opened:
            raise CommitmentRejected(f"query {position} of the sample was not opened; its asker has to explain it")
        opening, query = opened[position]
        verify_opening(opening, query, position, queries, root)
        verify_query(opening, query)
        if opening.statement != PADDING and not is_authorised(opening.release_id, opening.asked_for):
            raise CommitmentRejected(f"query {position} asks for a firm that its release does not hold")
