"""Nodes as processes on gRPC of which some end themselves by SIGKILL at a place and are started again."""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from faults.killed_nodes import Place

from lianxin.federation.errors import LianxinError
from lianxin.simulations.layout import RUN
from lianxin.simulations.runner import Processes

LAUNCHER = Path(__file__).with_name("killed_nodes.py")
POLL_S = 0.1


class Mortal(Processes):
    """The processes of a layout. Each place is one life of its party; its last life has none."""

    def follow(self, places: Sequence[Place], deadline_s: float) -> dict[str, object]:
        """Start all, launch the run, start again whoever dies; return how it ended. The platform must end it."""
        lives = {party: [p for p in places if p.party == party] for party in self.layout.parties}
        for party in self.layout.parties:
            self._begin(party, lives[party])
        for party in self.layout.parties:
            self._wait_until_up(party)
        self.launch()
        until = time.monotonic() + deadline_s
        while time.monotonic() < until:
            for party, child in list(self._children.items()):
                if child.poll() is not None:
                    self._begin(party, lives[party])
            if (ended := self._seen()) is not None:
                assert not any(lives.values()), f"not everybody died: {lives}"
                return ended
            time.sleep(POLL_S)
        raise AssertionError("the run did not end in time: " + "; ".join(map(self.last_words, self.layout.parties)))

    def _seen(self) -> dict[str, object] | None:
        try:
            ended = [self.ask(party, {"do": "status", "from": 0})["ended"] for party in self.layout.parties]
        except LianxinError:
            return None
        return ended[0][RUN] if all(RUN in one for one in ended) else None

    def _begin(self, party: str, lives: list[Place]) -> None:
        role, home = "platform" if party == self.layout.parties[0] else "bank", self.layout.home(party)
        command = [sys.executable, "-m", "lianxin.parties.cli", role, "serve", str(home / "node.toml")]
        if lives:
            one = lives.pop(0)
            command = [sys.executable, str(LAUNCHER), party, one.what, str(one.round), one.kind, role, command[-1]]
        with (home / "node.log").open("ab") as log:
            self._children[party] = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
