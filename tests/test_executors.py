"""The same kernels give the same integers inline, on a pool of processes and on a Dask cluster; docs/executors.md runs."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from lianxin.crypto import paillier
from lianxin.crypto.blocks import run_blocks
from lianxin.crypto.errors import DecryptionFault
from lianxin.crypto.histogram import encrypted_histogram
from lianxin.crypto.multiexp import multi_exponentiate
from lianxin.crypto.randomness import Drbg

PAGE = (ROOT / "docs" / "executors.md").read_text(encoding="utf-8")
SEED = Drbg(bytes(32)).child("test_executors")
KEY = paillier.generate_secret_key(256, "bank-1", "labels", "test-run-1", SEED.child("key"))
PUBLIC = KEY.public
ROWS, BINS = 150, [4, 4, 3, 9, 9]
CIPHERTEXTS = [SEED.child("row", i).between(1, int(PUBLIC.n_squared)) for i in range(ROWS)]
ENCODED = paillier.encode_ciphertexts(PUBLIC, CIPHERTEXTS)
CODES = [[SEED.child("code", j, i).below(count) for i in range(ROWS)] for j, count in enumerate(BINS)]
SCALARS = [SEED.child("scalar", i).bits(20) for i in range(ROWS)]
ENCRYPTED = paillier.OwnerEncryptor(KEY).encrypt_many(SCALARS, SEED.child("encrypted"))

KERNELS: dict[str, Callable[[Executor | None], Any]] = {
    "histogram": lambda e: encrypted_histogram(PUBLIC, CIPHERTEXTS, CODES, BINS, e, block_rows=50),
    "histogram of encoded rows": lambda e: encrypted_histogram(PUBLIC, ENCODED, CODES, BINS, e, in_flight=1),
    "product of powers": lambda e: multi_exponentiate(PUBLIC, CIPHERTEXTS, SCALARS, e, block_terms=40),
    "product of powers of encoded bases": lambda e: multi_exponentiate(PUBLIC, ENCODED, SCALARS, e, 40, in_flight=1),
    "encryption": lambda e: paillier.OwnerEncryptor(KEY).encrypt_many(SCALARS, SEED.child("encrypt"), e),
    "decryption": lambda e: paillier.Decryptor(KEY).decrypt_many(ENCRYPTED, SEED.child("decrypt"), e),
    "evaluator's randomisers": lambda e: paillier.Randomiser(PUBLIC, b"s" * 32).draw_many(ROWS, SEED.child("draw"), e),
    "textbook randomisers": lambda e: paillier.TextbookRandomiser(PUBLIC).draw_many(ROWS, SEED.child("draw"), e),
}


@pytest.fixture(scope="module")
def dask_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A client of two single-threaded worker processes on this machine, which talk TLS under a passing certificate."""
    from distributed import Client, LocalCluster

    scratch = str(tmp_path_factory.mktemp("dask"))
    workers = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "host": "127.0.0.1"}
    with (
        closing(
            LocalCluster(**workers, dashboard_address="127.0.0.1:0", security=True, local_directory=scratch)
        ) as cluster,
        closing(Client(cluster, timeout="60s")) as client,
    ):
        yield client


@pytest.fixture(scope="module", params=["processes", "dask"])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    if request.param == "dask":
        yield request.getfixturevalue("dask_client").get_executor()
        return
    with ProcessPoolExecutor(2, get_context("forkserver")) as pool:
        yield pool


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_kernel_gives_the_same_integers_on_workers_as_inline(kernel: str, executor: Executor) -> None:
    assert KERNELS[kernel](executor) == KERNELS[kernel](None)


@pytest.mark.timeout(120)
def test_a_fault_on_a_worker_arrives_by_name_and_leaves_no_prime_in_the_clusters_log(dask_client: Any) -> None:
    p, q = KEY.reveal_primes()
    with pytest.raises(DecryptionFault):
        paillier.Decryptor(KEY).decrypt_many([p * p], SEED.child("fault"), dask_client.get_executor())
    logs = str(dask_client.get_worker_logs())
    assert "Compute Failed" in logs
    assert [prime for prime in (p, q) if str(prime) in logs] == []


@pytest.mark.timeout(120)
def test_the_cluster_of_the_tests_talks_tls(dask_client: Any) -> None:
    addresses = [dask_client.scheduler.address, *dask_client.scheduler_info()["workers"]]
    assert [address.split(":")[0] for address in addresses] == ["tls"] * 3


@pytest.mark.timeout(120)
def test_the_documented_example_runs_as_it_stands(tmp_path: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    (tmp_path / "example.py").write_text(block, encoding="utf-8")
    command = [sys.executable, "-W", "error::UserWarning", "example.py"]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=110)
    assert shown.returncode == 0, shown.stderr
    assert "defaults by bin" in shown.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["example.py"]


def test_blocks_are_taken_only_as_answers_are_read() -> None:
    taken: list[int] = []
    blocks = ((taken.append(i) or i,) for i in range(40))
    with ThreadPoolExecutor(2) as pool:
        answers = run_blocks(abs, (), blocks, pool, in_flight=3)
        assert [next(answers) for _ in range(5)] == [0, 1, 2, 3, 4]
        assert taken == list(range(7))
        assert list(answers) == list(range(5, 40))


def test_a_failing_block_cancels_those_that_have_not_begun() -> None:
    futures: list[Future] = []

    class Idle(Executor):
        def submit(self, work: Callable, /, *args: object, **_: object) -> Future:
            futures.append(Future())
            if len(futures) == 1:
                futures[0].set_exception(DecryptionFault("a fault"))
            return futures[-1]

    with pytest.raises(DecryptionFault):
        list(run_blocks(abs, (), ((i,) for i in range(9)), Idle(), in_flight=4))
    assert [future.cancelled() for future in futures] == [False, True, True, True]
