"""A node that waits is small and quick to start: what a run needs is loaded when a run begins."""

import subprocess
import sys

import pytest
import worlds

from lianxin.simulations import runner

HEAVY = ("flwr", "sklearn", "scipy", "torch", "opacus", "matplotlib", "ray", "dask", "prometheus_client", "psycopg")
MOST_MIB = 150
NODES = {"platform": "lianxin.parties.platform", "bank": "lianxin.parties.bank"}


def resident_mib(pid: int) -> float:
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))


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


def test_an_idle_platform_and_bank_stay_under_150_mib(tmp_path):
    layout = worlds.lay(tmp_path / "run", worlds.tables_of(tmp_path / "tables", 3, 300, 1, 150), runner.free_address())
    nodes = runner.Processes(layout)
    try:
        sizes = {party: resident_mib(pid) for party, pid in nodes.start().items()}
    finally:
        nodes.stop()
    assert set(sizes) == set(layout.parties)
    assert max(sizes.values()) < MOST_MIB, sizes
