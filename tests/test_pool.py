"""A pool of randomisers: the same ones whether made ahead or on the spot, each handed out once."""

import threading

import pytest

from lianxin.crypto import paillier
from lianxin.crypto.pool import BLOCK, CountedPlaces, RandomiserPool
from lianxin.crypto.randomness import Drbg

SEED = b"p" * 32


class Numbers:
    """A source whose draws are small and tell where they come from; counts what was drawn."""

    def __init__(self) -> None:
        self.drawn = 0

    def draw(self, drbg: Drbg) -> int:
        self.drawn += 1
        return drbg.bits(64)

    def draw_many(self, count, drbg, executor=None):
        return [self.draw(drbg) for _ in range(count)]


def pool_of(source=None, reserve=None, capacity=4 * BLOCK, planned=10**9):
    pool = RandomiserPool(source or Numbers(), SEED, reserve or CountedPlaces(), capacity)
    pool.planned = planned
    return pool


@pytest.mark.parametrize("sizes", [[1] * 300, [127, 1, 128, 5], [3 * BLOCK + 1, 9], [0, 7, 0, 500]])
def test_a_warm_pool_hands_out_the_same_randomisers_as_a_cold_one(sizes):
    warm, cold = pool_of(), pool_of()
    taken = []
    for size in sizes:
        warm.fill(size)
        taken += warm.take(size)
    assert taken == [one for size in sizes for one in cold.take(size)]
    assert len(set(taken)) == sum(sizes)


def test_what_was_prepared_is_not_made_again():
    source = Numbers()
    pool = pool_of(source)
    pool.fill(2 * BLOCK)
    assert (source.drawn, pool.ready) == (2 * BLOCK, 2 * BLOCK)
    pool.take(BLOCK + 3)
    assert (source.drawn, pool.ready) == (2 * BLOCK, BLOCK - 3)


def test_a_pool_prepares_no_more_than_its_capacity_and_no_more_than_is_planned():
    full, planned = pool_of(), pool_of(planned=BLOCK + 1)
    full.fill(10**6)
    planned.fill(10**6)
    assert (full.ready, planned.ready) == (4 * BLOCK, 2 * BLOCK)
    assert not full.prepare() and not planned.prepare()


def test_a_pool_serves_more_than_is_planned_and_keeps_nothing_it_handed_out():
    pool = pool_of(planned=10)
    assert len(set(pool.take(10 * BLOCK))) == 10 * BLOCK
    assert pool.ready == 0 and not pool._blocks


def test_threads_that_take_and_fill_at_once_share_no_randomiser():
    pool, taken, lock = pool_of(capacity=64 * BLOCK), [], threading.Lock()

    def take():
        for size in range(1, 40):
            part = pool.take(size)
            with lock:
                taken.extend(part)

    threads = [threading.Thread(target=take) for _ in range(4)]
    threads += [threading.Thread(target=pool.fill, args=(20 * BLOCK,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 4 * sum(range(1, 40)) == len(set(taken))


class Slow(Numbers):
    """A source whose first block is finished only when it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.let_go, self.at_once, self.most = threading.Event(), threading.Event(), 0, 0

    def draw_many(self, count, drbg, executor=None):
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        if not self.begun.is_set():
            self.begun.set()
            assert self.let_go.wait(10)
        self.at_once -= 1
        return super().draw_many(count, drbg)


def test_a_block_that_somebody_makes_is_waited_for_and_not_made_twice():
    source, taken = Slow(), list[int]()
    pool = pool_of(source)
    filler = threading.Thread(target=pool.prepare)
    filler.start()
    assert source.begun.wait(10)
    taker = threading.Thread(target=lambda: taken.extend(pool.take(BLOCK)))
    taker.start()
    taker.join(0.05)
    assert taker.is_alive() and not taken
    source.let_go.set()
    for thread in (filler, taker):
        thread.join(10)
    assert taken == pool_of().take(BLOCK) and source.drawn == BLOCK
    assert pool.ready == 0 and not pool._blocks


def test_a_block_whose_maker_failed_is_made_by_who_takes_it():
    class Broken(Numbers):
        def draw_many(self, count, drbg, executor=None):
            raise OSError("no worker")

    pool = pool_of(Broken())
    with pytest.raises(OSError, match="no worker"):
        pool.prepare()
    pool._source = Numbers()
    assert pool.take(BLOCK) == pool_of().take(BLOCK)


def test_two_that_prepare_at_once_make_different_blocks_side_by_side():
    source = Slow()
    pool = pool_of(source)
    fillers = [threading.Thread(target=pool.prepare) for _ in range(2)]
    fillers[0].start()
    assert source.begun.wait(10)
    fillers[1].start()
    fillers[1].join(10)
    assert sorted(pool._blocks) == [1] and source.most == 2
    source.let_go.set()
    fillers[0].join(10)
    assert sorted(pool._blocks) == [0, 1]


def test_a_pool_that_starts_at_later_places_prepares_those():
    places = CountedPlaces()
    places(5 * BLOCK)
    source = Numbers()
    late = pool_of(source, places)
    first = late.take(1)
    late.fill(BLOCK)
    assert source.drawn == 2 * BLOCK
    assert first + late.take(BLOCK) == pool_of(reserve=lambda count: 5 * BLOCK).take(BLOCK + 1)


def test_encryptions_under_a_pool_decrypt_and_differ(bank_key):
    pool = RandomiserPool(paillier.OwnerEncryptor(bank_key), SEED, CountedPlaces(), 4 * BLOCK)
    messages = [0, 0, 5, -7, bank_key.public.n - 1]
    cs = paillier.encrypt_prepared(bank_key.public, messages, pool.take(5))
    decryptor = paillier.Decryptor(bank_key)
    opened = [paillier.centred(m, bank_key.public.n) for m in decryptor.decrypt_many(cs, Drbg(bytes(32)))]
    assert opened == [0, 0, 5, -7, -1]
    assert cs[0] != cs[1]
    paillier.check_ciphertexts(bank_key.public, cs)


def test_a_message_without_a_randomiser_of_its_own_is_refused(bank_key):
    with pytest.raises(ValueError):
        paillier.encrypt_prepared(bank_key.public, [1, 2], [3])


def test_a_pool_shows_nothing_of_itself():
    assert repr(pool_of()) == "RandomiserPool(<secret>)"
