"""The three first days work when their blocks are run as they stand: platform, bank and auditor on one machine.

Only the folder and the port are put in. A block of a serving node runs in the background, as in a terminal of its own. Who
reads is slower than a test: a block that comes too early for the other side is given again.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lianxin.simulations import runner

DOCS = Path(__file__).resolve().parents[1] / "docs"
BLOCK = re.compile(r"^```sh *(\w*)\n(.*?)^```", re.S | re.M)
UP = {"platform": " listens on ", "bank": "connected"}
PATIENCE_S = 20.0


def blocks(role: str, *, begin: int = 1, end: int = 99) -> list[str]:
    """Return the blocks of the sections `begin` to `end` of a role's first day that a test can run."""
    text = (DOCS / f"quickstart-{role}.md").read_text(encoding="utf-8")
    parts = re.split(r"^## (\d+)\. ", text, flags=re.M)
    numbered = {int(number): part for number, part in zip(parts[1::2], parts[2::2], strict=True)}
    chosen = (numbered[number] for number in sorted(numbered) if begin <= number <= end)
    return [block for part in chosen for kind, block in BLOCK.findall(part) if kind not in ("install", "slow")]


class Desk:
    """One folder and the terminals in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.said = folder, ""
        self._address, self._serving = runner.free_address(), []  # type: ignore[var-annotated]
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self._environment = os.environ | {"PATH": path, "COLUMNS": "200", "NO_COLOR": "1"}

    def give(self, block: str) -> None:
        """Run one block to its end, or its node until the desk is cleared."""
        block = block.replace("127.0.0.1:7443", self._address)
        if " serve " in block:
            self._serve(block)
            return
        limit = time.monotonic() + PATIENCE_S
        while (done := self._run(block)).returncode and time.monotonic() < limit:
            time.sleep(0.3)
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        self.said += done.stdout

    def _run(self, block: str) -> subprocess.CompletedProcess[str]:
        command = ["/bin/bash", "-euo", "pipefail", "-c", block]
        return subprocess.run(
            command, cwd=self.folder, env=self._environment, capture_output=True, text=True, timeout=60, check=False
        )

    def _serve(self, block: str) -> None:
        words = block.split()
        log = self.folder / f"{words[1]}.log"
        with log.open("w") as file:
            node = subprocess.Popen(words, cwd=self.folder, env=self._environment, stdout=file, stderr=file)
        self._serving.append(node)
        limit = time.monotonic() + PATIENCE_S
        while UP[words[1]] not in log.read_text(encoding="utf-8"):
            assert node.poll() is None and time.monotonic() < limit, log.read_text(encoding="utf-8")
            time.sleep(0.1)

    def clear(self) -> None:
        """Stop the nodes that were started here."""
        for node in self._serving:
            node.send_signal(signal.SIGTERM)
        for node in self._serving:
            try:
                node.wait(20)
            except subprocess.TimeoutExpired:
                node.kill()
                node.wait()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.clear()


def test_the_three_first_days_work_as_they_are_written(desk: Desk) -> None:
    for role, begin, end in (
        ("platform", 1, 6), ("bank", 1, 5), ("platform", 7, 7), ("bank", 6, 9), ("platform", 8, 10), ("bank", 10, 10),
    ):  # fmt: skip
        for block in blocks(role, begin=begin, end=end):
            desk.give(block)
    assert "5700000" in desk.said and "R02" in desk.said
    assert "another operator" not in desk.said
    assert (desk.folder / "firm.html").read_text(encoding="utf-8").count("5700000") > 0
    assert {one.name for one in (desk.folder / "backups").iterdir()} == {"bank-1", "platform"}
    desk.clear()
    for block in blocks("auditor"):
        desk.give(block)
    assert "verified; run queries-1" in desk.said
    assert (desk.folder / "verdict.html").stat().st_size > 1000


@pytest.mark.parametrize("role", ["platform", "bank", "auditor"])
def test_every_block_of_a_first_day_is_run_or_says_why_not(role: str) -> None:
    text = (DOCS / f"quickstart-{role}.md").read_text(encoding="utf-8")
    assert {kind for kind, _ in BLOCK.findall(text)} <= {"", "install", "slow", "end"}
    assert text.count("```") == 2 * len(BLOCK.findall(text))
    assert blocks(role)
