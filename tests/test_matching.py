"""Matching as two machines: both protocols find exactly the shared firms, and refuse a peer that overreaches."""

import numpy as np
import pytest
from conversations import contract_of, play, right

from lianxin.crypto.randomness import Drbg
from lianxin.federation import matching, wire
from lianxin.federation.errors import PeerError, RunStopped
from lianxin.federation.model import Released


def sides(contract, bank_firms, platform_firms, seed=b"s" * 32):
    bank = Released(right("bank-1", "platform-a"), tuple(bank_firms), {})
    platform = Released(right("platform-a", "bank-1"), tuple(platform_firms), {})
    root = Drbg(seed)
    return (
        matching.Side(contract, "bank-1", bank, root.child("bank")),
        matching.Side(contract, "bank-1", platform, root.child("platform")),
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


def test_a_bank_that_declares_more_queries_than_its_quota_gets_no_answer():
    bank_side, platform_side = sides(contract_of(matching="ecdh", max_queries=64), firms(range(100)), firms(range(100)))
    with pytest.raises(PeerError, match="quota is 64") as refusal:
        play(matching.bank_role(bank_side, None), matching.platform_role(platform_side))
    assert refusal.value.rule == "M01"


def test_a_bank_that_asks_one_query_more_than_it_declared_is_refused():
    contract = contract_of(matching="ecdh")
    bank_side, platform_side = sides(contract, firms(range(100)), firms(range(100)))

    def greedy():
        role = matching.bank_role(bank_side, None)
        wish = next(role)
        while True:
            if isinstance(getattr(wish, "message", None), wire.BankBlindedElements):
                wish.message.elements += wish.message.elements[:32]
            answer = yield wish
            wish = role.send(answer)

    with pytest.raises(PeerError, match="another number of queries"):
        play(greedy(), matching.platform_role(platform_side))
