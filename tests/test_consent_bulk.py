"""Consents by the file: all or nothing, at a rate that takes 132,000 in a minute, in modest memory."""

import gc
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import consents as w
import pytest
import torture
from hypothesis import given
from hypothesis import strategies as st

from lianxin.crypto import canonical, merkle
from lianxin.crypto.errors import SignatureRejected
from lianxin.crypto.frontier import Frontier
from lianxin.crypto.signing import SigningKey, sign_record
from lianxin.parties import consent
from lianxin.parties.decision import ConsentRejected

FIRMS = 132_000 if torture.IS_TORTURE else 3_000
MINUTE_S = 60
FULL = 132_000
MOST_BYTES = 1_500


def line_of(number: int) -> tuple[str, str, bytes]:
    """Return one firm's subject key, public key and the bytes of its signed consent."""
    subject = consent.subject_key(w.SECRET, f"F{number:06d}")
    key = SigningKey.from_seed(number.to_bytes(32, "big"))
    changes = {"subject_key": subject, "signer_key": key.public_hex, "subject_type": "ENT"}
    record = w.consent_record(consent_id=f"consent-{number:06d}", **changes)
    return subject, key.public_hex, canonical.encode(sign_record(record, [("firm", key)]))


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, str], Path]]:
    path, keys = tmp_path_factory.mktemp("bulk") / "consents.jsonl", {}
    with path.open("wb") as file, ProcessPoolExecutor(2, get_context("fork")) as pool:
        for subject, key, line in pool.map(line_of, range(FIRMS), chunksize=250):
            keys[subject] = key
            file.write(line + b"\n")
    yield keys, path


@pytest.fixture
def provider(tmp_path: Path, lines: tuple[dict[str, str], Path]) -> Iterator[w.Provider]:
    made = w.Provider(tmp_path)
    made.register.register_firm_keys(lines[0])
    yield made
    made.store.close()


def read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from (line.rstrip(b"\n") for line in file)


@pytest.mark.skipif(not torture.IS_TORTURE, reason="the counts of make torture are needed")
def test_132000_consents_are_taken_in_a_minute(provider: w.Provider, lines: tuple[dict[str, str], Path]) -> None:
    began = time.perf_counter()
    with ProcessPoolExecutor(2, get_context("forkserver")) as pool:
        assert provider.register.import_lines(read(lines[1]), pool) == FIRMS
    wall = time.perf_counter() - began
    print(f"\n{FIRMS} consents: {wall:.1f} s by the wall")
    assert wall < MINUTE_S


def test_one_process_alone_is_fast_enough_for_half_of_132000_in_a_minute(
    provider: w.Provider, lines: tuple[dict[str, str], Path]
) -> None:
    source, spent = read(lines[1]), []
    for _ in range(3):
        before = time.process_time()
        provider.register.import_lines(islice(source, 1000))
        spent.append((time.process_time() - before) / 1000)
    assert provider.register.epoch == 3000
    assert min(spent) < 2 * MINUTE_S / FULL


def test_workers_and_one_process_make_the_same_registry_and_the_same_root(
    provider: w.Provider, lines: tuple[dict[str, str], Path], tmp_path: Path
) -> None:
    some = list(read(lines[1]))[:1200]
    (tmp_path / "second").mkdir()
    other = w.Provider(tmp_path / "second")
    other.register.register_firm_keys(lines[0])
    with ProcessPoolExecutor(2, get_context("forkserver")) as pool:
        provider.register.import_lines(some, pool)
    assert provider.register.registry() == other.register.registry() or other.register.import_lines(some)
    assert provider.register.registry() == other.register.registry()
    leaf = canonical.decode(list(provider.store.leaves())[-1])
    assert leaf["registry_root"] == merkle.root_of(some).hex()
    assert list(provider.store.iterate_registry()) == some
    other.store.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_one_bad_line_far_down_keeps_the_whole_file_out(
    provider: w.Provider, lines: tuple[dict[str, str], Path], workers: int
) -> None:
    some = list(read(lines[1]))[:1100]
    some[1050] = some[1050].replace(b'"SCORE_ONLY"', b'"PLAINTEXT"')
    pool = ProcessPoolExecutor(workers, get_context("forkserver")) if workers else None
    with pytest.raises(SignatureRejected, match="record 1051"):
        provider.register.import_lines(some, pool)
    assert provider.register.epoch == provider.store.registry_epoch() == 0
    assert provider.ledger.size == 1  # the keys' own leaf
    if pool:
        pool.shutdown()


def test_a_file_that_names_one_consent_twice_is_kept_out(
    provider: w.Provider, lines: tuple[dict[str, str], Path]
) -> None:
    some = list(read(lines[1]))[:3]
    with pytest.raises(ConsentRejected, match="already"):
        provider.register.import_lines([*some, some[0]])
    assert provider.register.epoch == 0


def test_the_registry_in_memory_is_modest(provider: w.Provider, lines: tuple[dict[str, str], Path]) -> None:
    consent.ConsentRegister(provider.store, provider.ledger).import_lines(islice(read(lines[1]), 1000))
    gc.collect()
    tracemalloc.start()
    fresh = consent.ConsentRegister(provider.store, provider.ledger)
    assert fresh.epoch == 1000
    each = tracemalloc.get_traced_memory()[0] / 1000
    tracemalloc.stop()
    print(f"\n{each:.0f} bytes a consent")
    assert each < MOST_BYTES


@torture.cases()
@given(st.lists(st.integers(0, 3), max_size=10))
def test_a_frontier_has_the_root_of_the_list_at_every_length(sizes: list[int]) -> None:
    frontier, leaves = Frontier(), []
    for size in sizes:
        leaves.append(bytes(size))
        frontier.append(leaves[-1])
        assert (frontier.size, frontier.root()) == (len(leaves), merkle.root_of(leaves))
