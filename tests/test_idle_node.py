"""A node that waits is small and quick to start: what a run needs is loaded when a run begins."""

import subprocess
import sys
import time

import pytest
import worlds

from lianxin.simulations import runner

HEAVY = (
    "flwr",
    "sklearn",
    "scipy",
    "torch",
    "opacus",
    "matplotlib",
    "ray",
    "dask",
    "prometheus_client",
    "psycopg",
    "polars",
)
MOST_BYTES = 150_000_000
CONNECT_S = 60.0
NODES = {"platform": "lianxin.parties.platform", "bank": "lianxin.parties.bank"}


def peak_bytes(pid: int) -> int:
    """Return the most memory that a process has had in use: what it did at its start is in it, and no moment is chosen."""
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


@pytest.mark.parametrize("role", sorted(NODES))
def test_what_a_run_needs_is_not_loaded_before_one_begins(role):
    loaded = f"import sys, lianxin.parties.cli, {NODES[role]}, lianxin.federation.services, lianxin.parties.watch"
    asked = f"{loaded}; print(*[name for name in {HEAVY} if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.split() == []


def test_the_test_would_see_flower_if_it_were_loaded():
    asked = "import sys, lianxin.federation.grid; print('flwr' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.split() == ["True"]


def test_an_idle_platform_and_bank_stay_under_150_mb(tmp_path):
    layout = worlds.lay(tmp_path / "run", worlds.tables_of(tmp_path / "tables", 3, 300, 1, 150), runner.free_address())
    nodes = runner.Processes(layout)
    try:
        pids = nodes.start()
        platform, bank = layout.parties
        until = time.monotonic() + CONNECT_S
        while nodes.ask(platform, {"do": "status", "from": 0})["connected"] != [bank] and time.monotonic() < until:
            time.sleep(runner.POLL_S)
        most = {party: peak_bytes(pid) for party, pid in pids.items()}
    finally:
        nodes.stop()
    assert set(most) == set(layout.parties)
    assert max(most.values()) < MOST_BYTES, most
