"""Matching: which firms a bank and the platform share (protocols.md, section 3), as two state machines a protocol.

`paillier` (default), bank B with key and platform A, firms only with live consent at either side:
1. B: opening (nonce, padded number of queries, modulus with its Π^mod proof). A charges that number to B's quota, then
   A: opening (nonce, padded number of rows, root over them). sid = SHA-512(contract, run, epoch, nonces).
2. B: the root over all its queries, each with a commitment to the release and the firm behind it.
3. B: Enc(h(x_i)) in secret random order, padded, in chunks with their commitments. A: (c'_i, A_i) chunk by chunk.
4. A, once the queries have the root of step 2: tags of its own rows in fresh random order, padded with uniform tags.
5. B compares. B: the matched positions in A's list, sorted: row r of the shared table is the r-th of them. A notes the
   count.
`ecdh` has group elements in place of ciphertexts (RFC 9497) and is some fifty times cheaper.

Learns: B the intersection and A's padded size, A B's padded size and the matched rows (alignment "shared"). A malicious
A may answer wrongly or declare rows it should not hold; a malicious B learns one F(x) a query, chosen before it sees an
answer. Below the contract's minimum the run stops after step 5; B has seen the intersection by then. At most `WINDOW`
chunks are under way; A holds a tag and a place a row and 32 bytes a query, B its queries and their tags. Both sizes are
within the contract's `max_queries` and `max_firms`.
"""

from collections.abc import Iterator, Sequence

from lianxin.crypto import paillier, psi_paillier
from lianxin.crypto.errors import CommitmentRejected
from lianxin.federation import wire
from lianxin.federation.askers import Asker, EcdhAsker, PaillierAsker
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import PeerError, RunStopped
from lianxin.federation.evaluators import EcdhEvaluator, Evaluator, PaillierEvaluator
from lianxin.federation.matching_side import PADDING, PURPOSE, Side, input_root, padded
from lianxin.federation.session import Receive, Role, Send
from lianxin.federation.streams import ROW_BYTES, WINDOW, check_chunk

__all__ = ["PADDING", "PURPOSE", "Side", "bank_role", "check_minimum", "input_root", "padded", "platform_role"]

NONCE_BYTES = 32
QUERIES_A_DEADLINE = 100_000


def bank_role(side: Side, secret_key: paillier.SecretKey | None) -> Role[list[str]]:
    """Return the bank's machine; its result is the shared table's firms in row order. Raises RunStopped for more firms
    than the contract's queries or below its minimum, and PeerError when the platform answers what was not asked."""
    total = padded(len(side.firms))
    _check_quota(side, total)
    asker: Asker = EcdhAsker(side) if secret_key is None else PaillierAsker(side, secret_key)
    nonce = side.drbg.child("nonce").bytes(NONCE_BYTES)
    opening = wire.BankOpening(nonce=nonce, padded_queries=total)
    asker.open(opening)
    yield Send(opening, "matching.open")
    answer = yield Receive("matching.open", (wire.PlatformOpening,))
    _check_firms(side.contract, side.contract.platform, answer.padded_rows)
    sid, order = _session(side.contract, answer.nonce, nonce), list(range(total))
    side.drbg.child("order", sid).shuffle(order)
    root = asker.prepare(sid, order)
    yield Send(wire.BankCommitment(query_root=root), "matching.commit")
    own_tags = yield from _ask(side, asker, total)
    found = yield from _compare(own_tags, padded_rows=answer.padded_rows)
    firms = sorted((place, side.firms[order[i]]) for i, place in found if order[i] < len(side.firms))
    yield from _share(side, [place for place, _ in firms])
    check_minimum(side.contract, side.bank, len(firms))
    return [firm for _, firm in firms]


def _check_quota(side: Side, total: int) -> None:
    if total > side.contract.max_queries:
        raise RunStopped(
            f"{side.bank} holds {total} firms with live consent, padded, and the contract allows "
            f"{side.contract.max_queries} queries; nothing was asked: agree on a contract with a larger max_queries"
        )


def _check_firms(contract: RunContract, platform: str, padded_rows: int) -> None:
    if padded_rows > padded(contract.max_firms):
        raise PeerError(
            f"{platform} declares {padded_rows} firms, padded, and the contract's max_firms is {contract.max_firms}", "M02"
        )


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


def _ask(side: Side, asker: Asker, total: int) -> Role[list[bytes]]:
    """Send all queries in chunks, at most WINDOW unanswered, and return the tags in query order."""
    size = side.chunk_items(asker.item_bytes)
    parts = [(start, min(start + size, total)) for start in range(0, total, size)]
    tags: list[bytes] = []
    for chunk in range(len(parts) + WINDOW):
        if 0 <= chunk - WINDOW < len(parts):
            answer = yield Receive("matching.query", (asker.answer_type,))
            check_chunk(answer.chunk, chunk - WINDOW)
            tags += asker.tags(*parts[chunk - WINDOW], answer)
        if chunk < len(parts):
            yield Send(asker.query(chunk, *parts[chunk]), "matching.query", side.rights)
    return tags


def _compare(own_tags: Sequence[bytes], padded_rows: int) -> Role[list[tuple[int, int]]]:
    """Receive the platform's tags; return (query index, position) of each that is ours."""
    query_of = {tag: index for index, tag in enumerate(own_tags)}
    found: list[tuple[int, int]] = []
    met: set[int] = set()
    place, chunk, last = 0, 0, False
    while not last:
        message = yield Receive("matching.compare", (wire.PlatformTags,))
        check_chunk(message.chunk, chunk)
        for tag in psi_paillier.decode_tags(message.tags):
            if tag in query_of:
                if query_of[tag] in met:
                    raise PeerError("the platform sent the tag of one firm twice", "M02")
                met.add(query_of[tag])
                found.append((query_of[tag], place))
            place += 1
        chunk, last = chunk + 1, message.last
        if place > padded_rows or not message.tags or (last and place != padded_rows):
            raise PeerError("the platform sent another number of tags than rows that it declared", "M02")
    return found


def _share(side: Side, places: Sequence[int]) -> Role[None]:
    size = side.chunk_items(ROW_BYTES)
    starts = list(range(0, max(1, len(places)), size))
    for chunk, start in enumerate(starts):
        part = b"".join(place.to_bytes(ROW_BYTES, "big") for place in places[start : start + size])
        message = wire.BankMatches(chunk=chunk, positions=part, last=chunk == len(starts) - 1)
        yield Send(message, "matching.share", side.rights)
    yield Receive("matching.share", (wire.PlatformMatchesNoted,))


def platform_role(side: Side) -> Role[list[str]]:
    """Return the platform's machine; its result is the shared table's firms in row order. Raises PeerError (M01, M04) when
    the bank asks more than the contract or its quota allows, RunStopped below the contract's minimum."""
    opening = yield Receive("matching.open", (wire.BankOpening,))
    if opening.padded_queries > side.contract.max_queries:
        raise PeerError(
            f"{side.bank} asks {opening.padded_queries} queries, its quota is {side.contract.max_queries}", "M01"
        )
    if side.charge is None:
        raise ValueError("the platform's side of a matching charges a quota: give it `charge`")
    size = padded(len(side.firms))
    _check_own_firms(side, size)
    side.charge(opening.padded_queries)
    nonce = side.drbg.child("nonce", opening.nonce).bytes(NONCE_BYTES)
    yield Send(wire.PlatformOpening(nonce=nonce, padded_rows=size, input_root=input_root(side)), "matching.open")
    sid = _session(side.contract, nonce, opening.nonce)
    is_ecdh = side.contract.matching == "ecdh"
    evaluator: Evaluator = EcdhEvaluator(side, sid) if is_ecdh else PaillierEvaluator(side, sid, opening)
    tags = evaluator.own_tags()
    tags += side.drbg.child("padding", sid).bytes(size * psi_paillier.TAG_BYTES - len(tags))
    order = list(range(size))
    side.drbg.child("order", sid).shuffle(order)
    patience = 1 + opening.padded_queries / QUERIES_A_DEADLINE  # the bank makes them all before it says anything
    commitment = yield Receive("matching.commit", (wire.BankCommitment,), patience)
    yield from _evaluate(side, evaluator, opening.padded_queries)
    _verify_committed(side, evaluator, commitment.query_root)
    yield from _publish(side, tags, order)
    rows = yield from _matches(size, opening.padded_queries)
    yield Send(wire.PlatformMatchesNoted(matched=len(rows)), "matching.share")
    check_minimum(side.contract, side.bank, len(rows))
    if any(order[row] >= len(side.firms) for row in rows):
        raise PeerError(f"{side.bank} claims to have matched padding", "M02")
    return [side.firms[order[row]] for row in rows]


def _check_own_firms(side: Side, size: int) -> None:
    if size > padded(side.contract.max_firms):
        raise RunStopped(
            f"{side.contract.platform} holds {size} firms with live consent, padded, and the contract allows "
            f"{side.contract.max_firms}; nothing was answered: agree on a contract with a larger max_firms"
        )


def _evaluate(side: Side, evaluator: Evaluator, total: int) -> Role[None]:
    done, chunk = 0, 0
    while done < total:
        query = yield Receive("matching.query", (evaluator.query_type,))
        check_chunk(query.chunk, chunk)
        answered, message = evaluator.answer(chunk, query)
        done, chunk = done + answered, chunk + 1
        if done > total or answered == 0:
            raise PeerError(f"{side.bank} asked another number of queries than it declared", "M01")
        yield Send(message, "matching.query", side.rights)


def _verify_committed(side: Side, evaluator: Evaluator, root: bytes) -> None:
    try:
        evaluator.verify_queries(root)
    except CommitmentRejected as error:
        raise PeerError(f"{side.bank} asked other queries than it had committed to; it gets no tags", "M05") from error


def _publish(side: Side, tags: bytearray, order: Sequence[int]) -> Role[None]:
    width = psi_paillier.TAG_BYTES
    size = side.chunk_items(width)
    for chunk, start in enumerate(range(0, len(order), size)):
        part = b"".join(bytes(tags[width * i : width * (i + 1)]) for i in order[start : start + size])
        message = wire.PlatformTags(chunk=chunk, tags=part, last=start + size >= len(order))
        yield Send(message, "matching.compare", side.rights)


def _matches(size: int, quota: int) -> Role[list[int]]:
    """Receive the bank's matched positions, ascending over all chunks."""
    rows: list[int] = []
    chunk, last = 0, False
    while not last:
        message = yield Receive("matching.share", (wire.BankMatches,))
        check_chunk(message.chunk, chunk)
        if not message.positions and not (chunk == 0 and message.last):
            raise PeerError("the bank sent an empty chunk of matches", "M02")
        rows += _positions(message.positions, rows[-1] if rows else -1, size)
        chunk, last = chunk + 1, message.last
        if len(rows) > quota:
            raise PeerError("the bank claims more matches than it asked queries", "M02")
    return rows


def _positions(data: bytes, last: int, size: int) -> Iterator[int]:
    if len(data) % ROW_BYTES:
        raise PeerError("the bank's matches are not a list of positions", "M02")
    for start in range(0, len(data), ROW_BYTES):
        row = int.from_bytes(data[start : start + ROW_BYTES], "big")
        if not last < row < size:
            raise PeerError("the bank's matched positions are not ascending within the declared rows", "M02")
        last = row
        yield row
