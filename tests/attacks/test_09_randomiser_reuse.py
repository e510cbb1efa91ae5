"""Row 9: a randomiser that serves twice gives away the difference of two plaintexts. None does: not after kill -9
between taking and sending, not in a forked child, and nothing draws numbers but by `crypto/randomness`."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest
from torture import repeats

from lianxin.crypto import paillier
from lianxin.crypto.pool import BLOCK, CountedPlaces, RandomiserPool
from lianxin.crypto.randomness import Drbg
from lianxin.parties.store import Store

SEED = b"k" * 32
KILLED_TAKER = """
    import os, signal, sys
    from lianxin.crypto.pool import RandomiserPool
    from lianxin.parties.store import Store

    class Numbers:
        def draw_many(self, count, drbg, executor=None):
            return [drbg.bits(128) for _ in range(count)]

    store = Store(sys.argv[1])
    reserve = lambda count: store.reserve("pool/k", count) if sys.argv[2] == "durable" else 0
    pool = RandomiserPool(Numbers(), b"k" * 32, reserve, 1024)
    while True:
        for number in pool.take(3):
            print(f"{number:x}", flush=True)
"""


def kill_in_the_middle(store, kind, lines, script):
    """Run a process that takes randomisers, kill it without warning after `lines` of them, return what it had shown."""
    process = subprocess.Popen(
        [sys.executable, str(script), str(store), kind], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    shown = [process.stdout.readline().strip() for _ in range(lines)]
    process.send_signal(signal.SIGKILL)
    shown += [line.strip() for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    process.wait()
    return shown


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "taker.py"
    path.write_text(textwrap.dedent(KILLED_TAKER))
    return path


def test_kill_9_between_taking_and_sending_reuses_none(tmp_path, script):
    turns = repeats("kill -9 between taking and sending", in_test=10)
    shown = [one for turn in turns for one in kill_in_the_middle(tmp_path / "s", "durable", 1 + turn % 5, script)]
    assert len(shown) >= len(turns)
    assert len(set(shown)) == len(shown)


def test_without_the_durable_reservation_the_same_kill_reuses_them(tmp_path, script):
    shown = [one for _ in range(2) for one in kill_in_the_middle(tmp_path / "s", "in memory", 3, script)]
    assert len(set(shown)) < len(shown)


def test_a_reused_randomiser_gives_the_difference_of_two_plaintexts(bank_key):
    public = bank_key.public
    pool = RandomiserPool(paillier.OwnerEncryptor(bank_key), SEED, lambda count: 0, BLOCK)
    (first,) = paillier.encrypt_prepared(public, [1000], pool.take(1))
    (second,) = paillier.encrypt_prepared(public, [58], pool.take(1))
    assert (first * pow(second, -1, int(public.n_squared)) - 1) % int(public.n_squared) // public.n == 942
    sound = RandomiserPool(paillier.OwnerEncryptor(bank_key), SEED, CountedPlaces(), BLOCK)
    (first,) = paillier.encrypt_prepared(public, [1000], sound.take(1))
    (second,) = paillier.encrypt_prepared(public, [58], sound.take(1))
    assert (first * pow(second, -1, int(public.n_squared)) - 1) % int(public.n_squared) % public.n != 0


def test_places_of_a_store_are_given_once_after_it_is_opened_again(tmp_path):
    given = []
    for _ in range(5):
        store = Store(tmp_path / "store.sqlite")
        given += [store.reserve("pool/a", 7), store.reserve("pool/b", 1)]
        store.close()
    assert given == [0, 0, 7, 1, 14, 2, 21, 3, 28, 4]


def test_the_system_gives_forked_children_different_seeds():
    read, write = os.pipe()
    for _ in range(8):
        if os.fork() == 0:
            from lianxin.crypto.randomness import system_seed

            os.write(write, Drbg(system_seed()).bytes(32))
            os._exit(0)
        os.wait()
    os.close(write)
    with os.fdopen(read, "rb") as answers:
        data = answers.read()
    assert len({data[i : i + 32] for i in range(0, len(data), 32)}) == 8
