"""Small runs with cheats in them: played, their files verified, and what was said in them opened again."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pytest
import worlds

from lianxin.crypto import paillier
from lianxin.crypto.randomness import Drbg, derive_seed
from lianxin.federation import wire
from lianxin.federation.errors import LianxinError, PeerError, RunStopped
from lianxin.parties import auditor
from lianxin.parties.auditor import Check, Verdict, verify_run
from lianxin.parties.config import load_node
from lianxin.parties.node import simulated_seed
from lianxin.parties.records import load_loan_table, read_table
from lianxin.simulations.cheats import cheat_of
from lianxin.simulations.layout import RUN, Layout
from lianxin.simulations.tables import Inputs

STOPS = {"min_intersection": 5000}
Lay = Callable[[str], Layout]


@dataclass
class Played:
    """A run with cheats in it: its folder, what ended it if anything did, and the files' verdict."""

    layout: Layout
    end: LianxinError | None

    @cached_property
    def verdict(self) -> Verdict:
        return verify_run(self.layout.folder)

    def verdict_without(self, monkeypatch: pytest.MonkeyPatch, *checks: str) -> Verdict:
        """Return the verdict of an auditor who lacks these checks."""
        for name in checks:
            if name == "receipts":
                monkeypatch.setattr(auditor.auditor_receipts.Receipts, "findings", lambda receipts: iter(()))
            else:
                monkeypatch.setitem(auditor.PARTY_CHECKS, name, lambda run, own: iter(()))  # type: ignore[arg-type]
        return verify_run(self.layout.folder)

    @property
    def platform(self) -> str:
        return self.layout.parties[0]


def play(layout: Layout, *tables: dict[str, Any]) -> Played:
    """Run a layout with these cheats, then let them forge."""
    cheats, end = [cheat_of(table) for table in tables], None

    def tamper(platform: Any, banks: Any) -> None:
        for cheat in cheats:
            cheat.tamper(platform, banks)

    try:
        worlds.run(layout, tamper=tamper)
    except (RunStopped, PeerError) as fault:
        end = fault
    for cheat in cheats:
        cheat.forge(layout)
    return Played(layout, end)


@pytest.fixture(scope="module")
def province(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return worlds.tables_of(tmp_path_factory.mktemp("cheats"))


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory, province: Inputs) -> Lay:
    """Return how to lay out a run that ends after matching."""

    def lay(name: str) -> Layout:
        minimums = {"spare_attempts": 0, **STOPS}
        return worlds.lay(tmp_path_factory.mktemp(name) / "run", province, rounds=1, minimums=minimums)

    return lay


def named(verdict: Verdict, check: str) -> list[Check]:
    return [one for one in verdict.failures if one.name == check]


def model_of(layout: Layout, party: str) -> dict[str, Any]:
    return dict(json.loads((layout.run_state(party) / "model.json").read_text()))


def table_of(layout: Layout, bank: str) -> Any:
    data = load_node(layout.home(bank) / "node.toml").data
    assert data.table is not None and data.label is not None
    return load_loan_table(read_table(data.table), data.id, data.label, data.split, data.loan_id)


def seed_of(party: str) -> bytes:
    return derive_seed(simulated_seed(5), party, RUN)


def said(layout: Layout, conversation: str, sender: str, kind: type[Any]) -> list[Any]:
    """Return the messages of one type that a party sent in a conversation, in order."""
    folder = layout.folder / "transcript" / RUN / conversation.replace("/", "_")
    opened = (wire.unseal(path.read_bytes()).message for path in sorted(folder.glob(f"{sender}-*.envelope")))
    return [message for message in opened if isinstance(message, kind)]


def labels_key(layout: Layout, bank: str) -> paillier.SecretKey:
    drbg = Drbg(seed_of(bank)).child("training-key")
    with worlds.known_keys():
        return paillier.generate_secret_key(2048, bank, "labels", RUN, drbg)
