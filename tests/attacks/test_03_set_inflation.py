"""Attack 3: a bank asks about firms that never authorised it, among the padding or beside its own, one in a hundred.

The root over all queries is fixed before the first answer; an auditor then opens 690 of them (`crypto/query_commitment`).
"""

import hashlib
from pathlib import Path
from typing import Any

import audit_world
import pytest
from audit_world import QUOTA, Told, ask, found, passes_without
from conversations import contract_of
from evidence_world import BANK, PLATFORM, World
from test_matching import SID, firms, sides
from torture import repeats

from lianxin.crypto import merkle, psi_ecdh
from lianxin.crypto import query_commitment as commitment
from lianxin.crypto.errors import CommitmentRejected, CryptoError, ProofOfInclusionRejected
from lianxin.crypto.query_commitment import PADDING, QueryOpening
from lianxin.crypto.randomness import derive_seed
from lianxin.federation import askers
from lianxin.parties import auditor

QUERIES, OWN, PLANTED = 8192, 7400, 82
RELEASE = "ab" * 32
ROOT_SEED = b"inflation".ljust(32, b".")


class Inflated:
    """Committed queries of one bank: its own firms, padding, and firms planted over both at random places.

    A query here is the hash of what it asks for and of its witness; the commitments and the tree are the real ones.
    Every second planted firm hides behind a statement that says padding, the others behind one that names the firm.
    """

    def __init__(self, seed: bytes, planted: int = PLANTED) -> None:
        places = commitment.sample_positions(QUERIES, derive_seed(seed, "places"), planted)
        self.planted = dict(zip(places, range(planted), strict=True))
        self.salts = [hashlib.sha256(seed + place.to_bytes(4, "big")).digest() for place in range(QUERIES)]
        self.statements = [self._statement(place) for place in range(QUERIES)]
        self.queries = [hash_of(self._asked(place), self.salts[place]) for place in range(QUERIES)]
        self.tree = merkle.MerkleTree()
        for salt, statement, query in zip(self.salts, self.statements, self.queries, strict=True):
            self.tree.append(commitment.query_leaf(commitment.commit(salt, statement), query))
        self.root = self.tree.root()

    def _statement(self, place: int) -> bytes:
        number = self.planted.get(place)
        if number is not None and number % 2 == 0:
            return commitment.firm_statement(RELEASE, b"stranger-%d" % number)
        if number is not None or place >= OWN:
            return PADDING
        return commitment.firm_statement(RELEASE, b"own-%d" % place)

    def _asked(self, place: int) -> bytes:
        number = self.planted.get(place)
        if number is not None:
            return b"stranger-%d" % number
        return b"own-%d" % place if place < OWN else commitment.padding_identifier(self.salts[place])

    def open(self, positions: list[int]) -> dict[int, tuple[QueryOpening, bytes]]:
        return {
            place: (
                QueryOpening(
                    self.salts[place], self.statements[place], 0, tuple(self.tree.inclusion_proof(place, QUERIES))
                ),
                self.queries[place],
            )
            for place in positions
        }


def hash_of(asked_for: bytes, salt: bytes) -> bytes:
    return hashlib.sha256(b"query" + salt + asked_for).digest()


def verify_query(opening: QueryOpening, query: bytes) -> None:
    if hash_of(opening.asked_for, opening.salt) != query:
        raise CommitmentRejected("a query asks for another firm than its opening says")


def is_own(release: str, identifier: bytes) -> bool:
    return release == RELEASE and identifier.startswith(b"own-")


def is_caught(bank: Inflated, seed: bytes, rows: int = commitment.SAMPLE_ROWS, **weaker: object) -> bool:
    """Return whether an auditor that opens `rows` queries finds the bank out."""
    checks = {"is_authorised": is_own, "verify_query": verify_query, **weaker}
    positions = commitment.sample_positions(QUERIES, seed, rows)
    try:
        commitment.verify_sample(bank.open(positions), positions, QUERIES, bank.root, **checks)  # type: ignore[arg-type]
    except CryptoError:
        return True
    return False


def test_one_planted_firm_in_a_hundred_is_caught_in_at_least_97_of_100_audits() -> None:
    runs = repeats("audits of inflated queries", 100)
    bank = Inflated(derive_seed(ROOT_SEED, "bank"))
    caught = 0
    for number in runs:
        if number % 10 == 0:
            bank = Inflated(derive_seed(ROOT_SEED, "bank", number))
        caught += is_caught(bank, derive_seed(ROOT_SEED, "auditor", number))
    assert caught >= 0.97 * len(runs), f"{caught} of {len(runs)}"


def test_an_honest_bank_is_never_accused() -> None:
    bank = Inflated(derive_seed(ROOT_SEED, "honest"), planted=0)
    assert not any(is_caught(bank, derive_seed(ROOT_SEED, "auditor", number)) for number in range(20))


def test_without_a_part_of_the_check_the_planted_firms_go_unseen() -> None:
    bank = Inflated(derive_seed(ROOT_SEED, "bank"))
    seeds = [derive_seed(ROOT_SEED, "auditor", number) for number in range(20)]
    off: dict[str, object] = {"is_authorised": lambda *_: True, "verify_query": lambda *_: None}
    assert sum(is_caught(bank, seed, **off) for seed in seeds) == 0
    assert sum(is_caught(bank, seed, rows=10) for seed in seeds) < 10
    for name in off:  # half of the planted firms hide from each check alone
        hidden = [place for place, number in bank.planted.items() if number % 2 == (name == "is_authorised")]
        weaker = {"is_authorised": is_own, "verify_query": verify_query, name: off[name]}
        others = [place for place in bank.planted if place not in hidden]
        for places, is_seen in ((hidden, True), (others, False)):
            found = 0
            for place in places:
                try:
                    commitment.verify_sample(bank.open([place]), [place], QUERIES, bank.root, **weaker)  # type: ignore[arg-type]
                except CommitmentRejected:
                    found += 1
            assert found == (len(places) if is_seen else 0)


def test_a_query_that_is_not_opened_or_not_under_the_root_is_refused() -> None:
    bank, other = Inflated(derive_seed(ROOT_SEED, "a"), 0), Inflated(derive_seed(ROOT_SEED, "b"), 0)
    positions = commitment.sample_positions(QUERIES, bytes(32), 5)
    opened = bank.open(positions)
    with pytest.raises(CommitmentRejected, match=f"query {positions[2]} of the sample was not opened"):
        kept = {place: entry for place, entry in opened.items() if place != positions[2]}
        commitment.verify_sample(kept, positions, QUERIES, bank.root, is_own, verify_query)
    with pytest.raises(ProofOfInclusionRejected):
        commitment.verify_sample(other.open(positions), positions, QUERIES, bank.root, is_own, verify_query)


def test_a_sample_is_a_function_of_its_seed_without_repetition_and_never_more_than_there_is() -> None:
    sample = commitment.sample_positions(QUERIES, bytes(32))
    assert sample == commitment.sample_positions(QUERIES, bytes(32)) != commitment.sample_positions(QUERIES, b"1" * 32)
    assert (
        len(set(sample)) == len(sample) == 690 and sample == sorted(sample) and 0 <= sample[0] <= sample[-1] < QUERIES
    )
    assert commitment.sample_positions(64, bytes(32)) == list(range(64))


def test_real_queries_of_the_matching_open_under_the_same_check() -> None:
    side, _ = sides(contract_of(matching="ecdh"), firms(range(60)), [])
    asker = askers.EcdhAsker(side)
    root = asker.prepare(SID, list(range(64)))
    positions = commitment.sample_positions(64, bytes(32), 20)
    opened = {place: (asker.open_query(place), asker.queries.part(place, place + 1)[0]) for place in positions}

    def verify(opening: QueryOpening, query: bytes) -> None:
        psi_ecdh.verify_query(SID, opening.asked_for, opening.witness, query)

    released = {firm.encode() for firm in firms(range(60))}

    def is_released(release: str, identifier: bytes) -> bool:
        return release == "00" * 32 and identifier in released

    commitment.verify_sample(opened, positions, 64, root, is_released, verify)
    released.discard(firms([positions[0]])[0].encode())
    with pytest.raises(CommitmentRejected, match="does not hold"):
        commitment.verify_sample(opened, positions, 64, root, is_released, verify)


# ---- what the auditor says of it before anything is opened

terms = audit_world.terms


def asks_about_strangers(world: World) -> None:
    """A bank that released six firms to be matched and asks about 65 more than their padding hides."""
    right = world.parties[BANK].release([], recipient=PLATFORM, fields=["bad_flag"], step="matching.query", rows=6)
    ask(world, right, 65)


def test_a_bank_that_asks_about_more_firms_than_it_released_is_named_by_its_own_leaves(
    tmp_path: Path, terms: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    terms(max_queries=192)
    run = Told(forged=asks_about_strangers, quota={**QUOTA, "queries": 640}).story(tmp_path)
    monkeypatch.delitem(auditor.PARTY_CHECKS, "plan")  # which counts the same bytes
    [check] = found(run)
    assert (check.name, check.accused, check.rule) == ("limits", BANK, "G04") and check.leaf >= 0
    assert "6 were released" in check.detail
    assert passes_without(run, "limits", monkeypatch)
