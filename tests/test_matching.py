"""Matching as two machines: both protocols find exactly the shared firms, and refuse a peer that overreaches."""

from dataclasses import replace

import numpy as np
import pytest
from conversations import contract_of, play, right

from lianxin.crypto import psi_ecdh, psi_paillier
from lianxin.crypto.errors import CommitmentRejected, ProofOfInclusionRejected
from lianxin.crypto.keyed_ciphertexts import strip_key_tag
from lianxin.crypto.query_commitment import PADDING, firm_statement, leaves_of, verify_opening, verify_root
from lianxin.crypto.randomness import Drbg
from lianxin.federation import askers, matching, matching_side, wire
from lianxin.federation.errors import PeerError, RunStopped
from lianxin.federation.model import Released
from lianxin.federation.session import Send

SID = b"s" * 64


def sides(contract, bank_firms, platform_firms, seed=b"s" * 32):
    bank = Released(right("bank-1", "platform-a"), tuple(bank_firms), {})
    platform = Released(right("platform-a", "bank-1"), tuple(platform_firms), {})
    root = Drbg(seed)
    return (
        matching.Side(contract, "bank-1", bank, root.child("bank")),
        matching.Side(contract, "bank-1", platform, root.child("platform"), charge=lambda queries: None),
    )


def firms(numbers):
    return [f"firm-{number:05d}" for number in numbers]


def test_paillier_matching_finds_the_plain_intersection_in_one_row_order(matching_key):
    bank_side, platform_side = sides(contract_of(), firms(range(0, 90)), firms(range(20, 300)))
    ours, theirs, said = play(matching.bank_role(bank_side, matching_key), matching.platform_role(platform_side))
    assert ours == theirs
    assert set(ours) == set(firms(range(20, 90)))
    assert all(len(message.SerializeToString()) <= 1024 * 1024 for _, message in said)


@pytest.mark.parametrize("seed", range(5))
def test_ecdh_matching_finds_the_plain_intersection_on_random_sets(seed):
    rng = np.random.default_rng(seed)
    ours = firms(sorted(rng.choice(600, 200, replace=False)))
    theirs = firms(sorted(rng.choice(600, 300, replace=False)))
    bank_side, platform_side = sides(contract_of(matching="ecdh"), ours, theirs)
    bank, platform, _ = play(matching.bank_role(bank_side, None), matching.platform_role(platform_side))
    assert bank == platform
    assert set(bank) == set(ours) & set(theirs)


def test_the_same_seed_gives_the_same_messages(matching_key):
    transcripts = []
    for _ in range(2):
        bank_side, platform_side = sides(contract_of(), firms(range(60)), firms(range(70)))
        _, _, said = play(matching.bank_role(bank_side, matching_key), matching.platform_role(platform_side))
        transcripts.append([message.SerializeToString(deterministic=True) for _, message in said])
    assert transcripts[0] == transcripts[1]


def test_an_intersection_below_the_minimum_stops_the_run_with_one_sentence():
    bank_side, platform_side = sides(contract_of(matching="ecdh"), firms(range(100)), firms(range(60, 200)))
    with pytest.raises(RunStopped, match="only 40 firms are shared"):
        play(matching.bank_role(bank_side, None), matching.platform_role(platform_side))


def test_an_empty_intersection_stops_the_run_with_one_sentence():
    bank_side, platform_side = sides(contract_of(matching="ecdh"), firms(range(50)), firms(range(60, 200)))
    with pytest.raises(RunStopped, match="no firm is shared"):
        play(matching.bank_role(bank_side, None), matching.platform_role(platform_side))


def changed(role, change):
    """Return `role` with each message passed through `change` before it is said, as a bank that cheats would."""
    wish = next(role)
    while True:
        if isinstance(wish, Send):
            change(wish.message)
        try:
            wish = role.send((yield wish))
        except StopIteration as end:
            return end.value


def test_a_bank_with_more_firms_than_the_contract_asks_nothing_and_says_so():
    bank_side, _ = sides(contract_of(matching="ecdh", max_queries=64), firms(range(100)), [])
    with pytest.raises(RunStopped, match=r"128 firms.* allows 64 queries"):
        next(matching.bank_role(bank_side, None))


def test_a_bank_that_declares_more_queries_than_the_contract_gets_no_answer():
    bank_side, platform_side = sides(contract_of(matching="ecdh", max_queries=64), firms(range(60)), firms(range(100)))

    def boast(message):
        if isinstance(message, wire.BankOpening):
            message.padded_queries = 128

    with pytest.raises(PeerError, match="asks 128 queries, its quota is 64") as refusal:
        play(changed(matching.bank_role(bank_side, None), boast), matching.platform_role(platform_side))
    assert refusal.value.rule == "M01"


def test_the_quota_is_charged_with_the_padded_size_before_the_platform_says_anything():
    bank_side, platform_side = sides(contract_of(matching="ecdh"), firms(range(100)), firms(range(100)))
    charged = []

    def refuse(queries):
        charged.append(queries)
        raise PeerError("nothing is left", "M04")

    role = matching.platform_role(replace(platform_side, charge=refuse))
    next(role)
    with pytest.raises(PeerError, match="nothing is left"):
        role.send(next(matching.bank_role(bank_side, None)).message)
    assert charged == [128]


def test_a_bank_that_asks_one_query_more_than_it_declared_is_refused():
    bank_side, platform_side = sides(contract_of(matching="ecdh"), firms(range(100)), firms(range(100)))

    def ask_more(message):
        if isinstance(message, wire.BankBlindedElements):
            message.elements += message.elements[:32]
            message.commitments += message.commitments[:32]

    with pytest.raises(PeerError, match="another number of queries"):
        play(changed(matching.bank_role(bank_side, None), ask_more), matching.platform_role(platform_side))


def swap_last_query(kind, field, width):
    def swap(message):
        if isinstance(message, kind):
            data = getattr(message, field)
            setattr(message, field, data[:-width] + data[:width])

    return swap


@pytest.mark.parametrize("field", ["elements", "commitments"])
def test_a_query_that_was_not_committed_to_ends_the_session_without_a_tag(field):
    bank_side, platform_side = sides(contract_of(matching="ecdh"), firms(range(100)), firms(range(100)))
    said = []
    cheat = changed(matching.bank_role(bank_side, None), swap_last_query(wire.BankBlindedElements, field, 32))

    def listened():
        role = matching.platform_role(platform_side)
        wish = next(role)
        while True:
            if isinstance(wish, Send):
                said.append(type(wish.message))
            wish = role.send((yield wish))

    with pytest.raises(PeerError, match="other queries than it had committed to") as refusal:
        play(cheat, listened())
    assert refusal.value.rule == "M05"
    assert wire.PlatformEvaluatedElements in said and wire.PlatformTags not in said


def test_without_the_commitment_the_same_query_is_answered_and_its_tag_learnt(monkeypatch):
    monkeypatch.setattr("lianxin.federation.evaluators.verify_root", lambda leaves, root: None)
    bank_side, platform_side = sides(contract_of(matching="ecdh"), firms(range(100)), firms(range(100)))
    cheat = changed(matching.bank_role(bank_side, None), swap_last_query(wire.BankBlindedElements, "commitments", 32))
    bank, _, _ = play(cheat, matching.platform_role(platform_side))
    assert len(bank) == 100


def test_the_bank_sends_only_what_it_committed_to(matching_key):
    bank_side, _ = sides(contract_of(), firms(range(60)), [])
    asker = askers.PaillierAsker(bank_side, matching_key)
    root = asker.prepare(SID, list(range(64)))
    message = asker.query(0, 0, 64)
    sent = strip_key_tag(asker.public, message.ciphertexts)
    verify_root(leaves_of(sent, message.commitments, asker.public.ciphertext_bytes), root)
    asker.queries._queries[5] ^= 1
    with pytest.raises(CommitmentRejected, match="nothing of it was sent"):
        asker.query(0, 0, 64)


def verify_ecdh(opening, query):
    psi_ecdh.verify_query(SID, opening.asked_for, opening.witness, query)


@pytest.fixture(params=["paillier", "ecdh"])
def asked(request):
    """Return an asker with 60 firms and 4 paddings, its root, and the check of what a query asks for."""
    bank_side, _ = sides(contract_of(matching=request.param), firms(range(60)), [])
    if request.param == "ecdh":
        return askers.EcdhAsker(bank_side), verify_ecdh
    key = request.getfixturevalue("matching_key")

    def verify_paillier(opening, query):
        number = int.from_bytes(query, "big")
        psi_paillier.verify_query(key.public, SID, opening.asked_for, opening.witness, number)

    return askers.PaillierAsker(bank_side, key), verify_paillier


@pytest.mark.parametrize("place", [0, 41, 63])
def test_any_query_opens_to_its_firm_or_to_padding_and_to_nothing_else(asked, place):
    asker, verify = asked
    root = asker.prepare(SID, list(range(64)))
    opening, query = asker.open_query(place), asker.queries.part(place, place + 1)[0]
    verify_opening(opening, query, place, 64, root)
    verify(opening, query)
    assert opening.statement.endswith(b"firm-000%02d" % place) == (place < 60)
    assert (opening.statement == PADDING) == (place >= 60)
    for lie in (
        replace(opening, statement=firm_statement("00" * 32, b"firm-00099")),
        replace(opening, statement=PADDING if place < 60 else firm_statement("00" * 32, b"firm-00001")),
        replace(opening, salt=bytes(32)),
    ):
        with pytest.raises(ProofOfInclusionRejected):
            verify_opening(lie, query, place, 64, root)
    with pytest.raises(CommitmentRejected):
        verify(replace(opening, witness=opening.witness + 1), query)
    for index, queries in (((place + 1) % 64, 64), (place, 65)):
        with pytest.raises(ProofOfInclusionRejected):
            verify_opening(opening, query, index, queries, root)


@pytest.mark.parametrize("place", [3, 62])
def test_a_query_for_another_firm_than_it_says_opens_its_statement_and_is_caught_by_its_witness(asked, place):
    asker, verify = asked
    asked_for = asker._asked_for
    asker._asked_for = lambda at: b"firm-00777" if at == place else asked_for(at)
    root = asker.prepare(SID, list(range(64)))
    opening, query = asker.open_query(place), asker.queries.part(place, place + 1)[0]
    verify_opening(opening, query, place, 64, root)
    with pytest.raises(CommitmentRejected, match="asks for another firm"):
        verify(opening, query)


def test_a_platform_that_declares_more_firms_than_the_contract_is_refused_before_a_query_is_made():
    bank_side, platform_side = sides(contract_of(matching="ecdh", max_firms=100), firms(range(60)), firms(range(200)))
    with pytest.raises(RunStopped, match=r"256 firms.* contract allows 100"):
        play(matching.bank_role(bank_side, None), matching.platform_role(platform_side))
    role = matching.bank_role(bank_side, None)
    next(role)
    role.send(None)
    with pytest.raises(PeerError, match="declares 192 firms, padded, and the contract's max_firms is 100"):
        role.send(wire.PlatformOpening(nonce=bytes(32), padded_rows=192))


def test_a_platform_without_a_quota_answers_nobody():
    bank_side, platform_side = sides(contract_of(matching="ecdh"), firms(range(60)), firms(range(60)))
    role = matching.platform_role(replace(platform_side, charge=None))
    next(role)
    with pytest.raises(ValueError, match="charges a quota"):
        role.send(next(matching.bank_role(bank_side, None)).message)


def test_a_firm_whose_tag_comes_twice_ends_the_session():
    bank_side, platform_side = sides(contract_of(matching="ecdh"), firms(range(64)), firms(range(64)))

    def repeat(message):
        if isinstance(message, wire.PlatformTags):
            message.tags = message.tags[:16] + message.tags[:16] + message.tags[32:]

    with pytest.raises(PeerError, match="tag of one firm twice"):
        play(matching.bank_role(bank_side, None), changed(matching.platform_role(platform_side), repeat))


@pytest.mark.parametrize("pairs", [b"\x00\x00\x00\x05\x00\x00\x00\x05", b"\xff\xff\xff\xff", b"\x00\x00\x00"])
def test_matches_that_are_no_ascending_positions_are_refused(pairs):
    bank_side, platform_side = sides(contract_of(matching="ecdh"), firms(range(100)), firms(range(100)))

    def lie(message):
        if isinstance(message, wire.BankMatches):
            message.positions = pairs

    with pytest.raises(PeerError) as refusal:
        play(changed(matching.bank_role(bank_side, None), lie), matching.platform_role(platform_side))
    assert refusal.value.rule == "M02"


def test_matches_longer_than_a_chunk_arrive_whole(monkeypatch):
    monkeypatch.setattr(matching_side.Side, "chunk_items", lambda side, item_bytes: 7)
    bank_side, platform_side = sides(contract_of(matching="ecdh"), firms(range(120)), firms(range(100)))
    bank, platform, said = play(matching.bank_role(bank_side, None), matching.platform_role(platform_side))
    assert bank == platform and len(bank) == 100
    assert sum(isinstance(message, wire.BankMatches) for _, message in said) == 15
