"""A node that cannot serve ends with one sentence and a non-zero code: wrong certificate, wrong platform, no identity."""

import subprocess
import sys
from pathlib import Path

import pytest
import worlds

from lianxin.parties.control import ask
from lianxin.simulations import runner


def serve(config: Path, role: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
    """Run a node's serve command until it ends by itself."""
    command = [sys.executable, "-m", "lianxin.parties.cli", role, "serve", str(config)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)


@pytest.fixture
def two_networks(tmp_path: Path):
    """Two trial folders of the same party names, each with certificates of its own authority."""
    address = runner.free_address()
    inputs = worlds.tables_of(tmp_path / "tables", 3, 300, 2, 150)
    return [worlds.lay(tmp_path / name, inputs, address) for name in ("ours", "theirs")]


def test_a_bank_that_meets_another_certificate_than_the_pinned_one_stops_with_one_sentence(two_networks):
    ours, theirs = two_networks
    nodes = runner.Processes(ours)
    bank = ours.parties[1]
    command = [
        sys.executable,
        "-m",
        "lianxin.parties.cli",
        "platform",
        "serve",
        str(ours.home("platform") / "node.toml"),
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as platform:
        try:
            nodes._children["platform"] = platform
            nodes._wait_until_up("platform")
            ended = serve(theirs.home(bank) / "node.toml", "bank")
            answer = ask(ours.home("platform") / "state", {"do": "status", "from": 0})
        finally:
            platform.terminate()
    assert ended.returncode == 4
    assert "certificate" in ended.stderr
    *log, sentence = ended.stderr.strip().splitlines()
    assert "certificate" in sentence and "Traceback" not in ended.stderr
    assert {line.split()[4] for line in log} == {"started", "stopping"}  # beside the sentence, the node's own log
    assert answer["ended"] == {}


def test_a_node_without_its_keys_says_what_is_missing(two_networks):
    ours, _ = two_networks
    bank = ours.parties[1]
    (ours.home(bank) / "identity" / "node.key").unlink()
    ended = serve(ours.home(bank) / "node.toml", "bank")
    assert ended.returncode == 2
    assert "node.key" in ended.stderr and len(ended.stderr.strip().splitlines()) == 1
