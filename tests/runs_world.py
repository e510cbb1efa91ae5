"""Nodes of a small layout in this process that lead several runs: launch, wait, cancel, leave, end and start again."""

import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from time import monotonic, sleep
from typing import Any

import tomli_w
import worlds

from lianxin.crypto import canonical
from lianxin.federation.channel import MemoryNetwork
from lianxin.parties.bank import BankNode
from lianxin.parties.config import load_node, load_run
from lianxin.parties.node import open_node
from lianxin.parties.platform import PlatformNode
from lianxin.parties.run_remedies import tell
from lianxin.simulations.layout import Layout
from lianxin.simulations.runner import reference_plan

SOON_S = 40.0


def write_run(layout: Layout, run: str, **terms: Any) -> Path:
    """Write the layout's run under another id, its terms changed by `terms`; return its file."""
    content = tomllib.loads((layout.folder / "run.toml").read_text()) | {"run": run} | terms
    path = layout.folder / f"{run}.toml"
    path.write_text(tomli_w.dumps(content))
    return path


def set_runs(layout: Layout, **keys: int) -> None:
    """Set `[runs]` of every node."""
    for party in layout.parties:
        worlds.edit_toml(layout.home(party) / "node.toml", lambda content: content.update(runs=keys))


def without_policy(layout: Layout, bank: str) -> None:
    """Let a bank's proposals wait for a person."""
    worlds.edit_toml(layout.home(bank) / "node.toml", lambda content: content.pop("policy"))


def wait_for(holds: Callable[[], Any], deadline_s: float = SOON_S) -> None:
    """Wait until `holds()`, or fail."""
    until = monotonic() + deadline_s
    while not holds():
        assert monotonic() < until, "it did not come about in time"
        sleep(0.02)


@dataclass
class House:
    """A platform and its banks, running."""

    layout: Layout
    platform: PlatformNode
    banks: dict[str, BankNode]
    network: MemoryNetwork
    threads: list[Thread] = field(default_factory=list)

    def submit(self, run: str, **terms: Any) -> int:
        """Queue a run at the platform."""
        return self.platform.submit(load_run(write_run(self.layout, run, **terms)))

    def wait(self, *runs: str, at_banks: bool = True) -> None:
        """Wait until these runs have ended on every node."""
        wait_for(lambda: all(run in self.platform.ended for run in runs))
        if at_banks:
            wait_for(lambda: all(run in bank.ended for run in runs for bank in self.banks.values()))

    def finish(self, *runs: str) -> None:
        """Wait until these runs have ended on every node, all of them well."""
        self.wait(*runs)
        failed = [tell(self.platform.ended[run]) for run in runs if self.platform.ended[run]["state"] != "finished"]
        assert not failed, failed

    def node(self, party: str) -> Any:
        return self.platform.node if party == self.layout.parties[0] else self.banks[party].node

    def state(self, party: str, run: str) -> str:
        """Return the state of a run in a party's store, "" where it is not known."""
        row = self.node(party).store.run(run)
        return row.state if row is not None else ""

    def leaves(self, party: str, run: str, kind: str = "contract") -> list[dict[str, Any]]:
        leaves = [canonical.decode(leaf) for leaf in self.node(party).store.leaves()]
        return [leaf for leaf in leaves if leaf["kind"] == kind and leaf["run"] == run]

    def ends(self, run: str) -> dict[str, list[tuple[str, str]]]:
        """Return each party's (event, rule) of the leaves by which a run ended."""
        told = {party: self.leaves(party, run) for party in self.layout.parties}
        ends = ("finished", "failed", "refused")
        return {
            p: [(leaf["event"], leaf["rule"]) for leaf in some if leaf["event"] in ends] for p, some in told.items()
        }


def _start(layout: Layout, link_of: Callable[[MemoryNetwork, str], Any]) -> House:
    opened = {party: open_node(load_node(layout.home(party) / "node.toml")) for party in layout.parties}
    platform = PlatformNode(opened[layout.parties[0]], reference_plan)
    network = MemoryNetwork(platform.handle, layout.parties[0], resume_window_s=2.0)
    banks = {party: BankNode(opened[party], link_of(network, party)) for party in layout.parties[1:]}
    house = House(layout, platform, banks, network)
    house.threads = [Thread(target=bank.serve, daemon=True) for bank in banks.values()]
    for thread in house.threads:
        thread.start()
    platform.take_up()
    return house


@contextmanager
def running(
    layout: Layout, link_of: Callable[[MemoryNetwork, str], Any] = lambda network, party: network.link(party)
) -> Iterator[House]:
    """Run the layout's nodes, each key generated once in this pytest run."""
    with worlds.known_keys():
        house = _start(layout, link_of)
        try:
            yield house
        finally:
            house.platform.close()
            for end in (*house.banks.values(), house.network):
                end.close()
            for thread in house.threads:
                thread.join(10.0)
            for party in layout.parties:
                house.node(party).close()
