"""A platform and a bank under a scoring agreement, over a scorecard that no protocol trained; firms consent in one line."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import query_world
from query_world import ASKER, BANK, PLATFORM, STRANGER, Network

from lianxin.parties.score_bank import BankScores, Parts
from lianxin.simulations import scoring_scene
from lianxin.simulations.layout import RUN, Layout
from lianxin.simulations.scoring_scene import AGREEMENT

__all__ = ["AGREEMENT", "ASKER", "BANK", "PLATFORM", "RUN", "STRANGER", "Scene"]
FIRMS, LOANS = 400, 150


@dataclass
class Scene:
    """The running nodes; `fresh` and `silent` give firms that no test before asked for here."""

    network: Network
    taken: set[str] = field(default_factory=set)

    @property
    def asker(self) -> BankScores:
        found = self.network.banks[BANK].standing[AGREEMENT]
        assert isinstance(found, BankScores)
        return found

    @property
    def platform(self) -> Any:
        return self.network.platform

    @property
    def bank(self) -> Any:
        return self.network.banks[BANK]

    @property
    def desk(self) -> Any:
        return self.platform.desks[AGREEMENT]

    @property
    def fields(self) -> list[str]:
        return sorted(self.desk.contract.fields_of(PLATFORM, "feature"))

    def fresh(self, count: int = 1) -> list[str]:
        """Return firms that have consented to scores many times."""
        return self._some(scoring_scene.consented(self.platform.table.identifiers), count)

    def silent(self, count: int = 1) -> list[str]:
        """Return firms that have consented to nothing."""
        return self._some(scoring_scene.silent(self.platform.table.identifiers), count)

    def _some(self, firms: list[str], count: int) -> list[str]:
        found = [firm for firm in firms if firm not in self.taken][:count]
        self.taken.update(found)
        assert len(found) == count
        return found

    def consent(self, firm: str, **changes: Any) -> dict[str, Any]:
        """Let a firm consent to one score at the platform; return the record."""
        terms = {"purpose": self.desk.contract.purpose, "fields": self.fields, "mode": "SCORE_ONLY"}
        return self.network.consent(firm, **{**terms, **changes})

    def ask(self, *firms: str, models: tuple[str, ...] = (RUN,)) -> Parts:
        """Return what the platform answers about these firms."""
        return self.asker.parts(firms, models, ASKER)

    def has(self, firm: str) -> bool:
        """Return whether the platform gives a score of a firm."""
        (part,) = self.ask(firm).by_firm[firm] or (None,)
        return part is not None

    def leaves(self, party: str, kind: str) -> list[dict[str, Any]]:
        return self.network.leaves(party, kind, AGREEMENT)

    def end(self) -> Path:
        """End the agreement and return the folder in which an auditor finds its evidence."""
        self.platform.end(AGREEMENT)
        query_world.wait_for(lambda: AGREEMENT in self.bank.ended)
        audit = self.network.layout.folder / "audit"
        for party in self.network.layout.parties:
            found = self.network.layout.home(party) / "state" / "runs" / AGREEMENT
            shutil.copytree(found, audit / "parties" / party)
        return audit


def lay(folder: Path, purpose: str = "P3", trees: bool = False) -> Layout:
    """Lay a scene out in `folder`, of a scorecard and, where it says so, of boosted trees."""
    return scoring_scene.make_scene(folder, FIRMS, purpose, loans=LOANS, trees=trees)


@contextmanager
def running(layout: Layout, is_new: bool = True) -> Iterator[Scene]:
    """Start the nodes of a scene in this process, and launch its agreement where it is new."""
    with query_world.running(layout) as network:
        if is_new:
            network.agree(AGREEMENT)
        yield Scene(network)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """One scene of a module, for tests that each take firms of their own."""
    with running(lay(tmp_path_factory.mktemp("shared"))) as scene:
        yield scene


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Scene]:
    """A scene of one test."""
    with running(lay(tmp_path)) as scene:
        yield scene
