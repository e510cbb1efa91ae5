"""Fixtures that several test modules share; modules beside this one can be imported by their name."""

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import stores
import torture

from lianxin.crypto import paillier
from lianxin.crypto.randomness import Drbg

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


@pytest.fixture(scope="session")
def bank_key() -> paillier.SecretKey:
    """A bank's 2048-bit training key."""
    return paillier.generate_secret_key(2048, "bank-1", "labels", "test-run-1", Drbg(b"b" * 32))


@pytest.fixture(scope="session")
def platform_key() -> paillier.SecretKey:
    """The platform's 2048-bit mask key."""
    return paillier.generate_secret_key(2048, "platform-a", "masks", "test-run-1", Drbg(b"a" * 32))


@pytest.fixture(scope="session")
def matching_key() -> paillier.SecretKey:
    """A bank's 2048-bit matching key."""
    return paillier.generate_secret_key(2048, "bank-1", "matching", "test-run-1", Drbg(b"m" * 32))


@pytest.fixture(scope="session")
def postgres() -> Iterator[stores.Cluster]:
    """A temporary PostgreSQL server, for the session."""
    yield from stores.cluster()


@pytest.fixture(params=["sqlite", "postgresql"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> stores.Place:
    """Where a store may be made: a file, and a schema of a PostgreSQL database."""
    if request.param == "sqlite":
        return tmp_path / "any.db"
    cluster: stores.Cluster = request.getfixturevalue("postgres")
    return cluster.schema()


def refused_skips(reasons: Iterable[str]) -> list[str]:
    """Return the distinct skip reasons, sorted, that no line of allowed_skips.txt gives word for word."""
    allowed = (Path(__file__).parent / "allowed_skips.txt").read_text(encoding="utf-8").splitlines()
    return sorted({reason.removeprefix("Skipped: ") for reason in reasons} - {line for line in allowed if line})


def _refused_here(config: pytest.Config) -> list[str]:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or os.environ.get("CI", "").lower() not in {"1", "true"}:
        return []
    return refused_skips(report.longrepr[2] for report in reporter.stats.get("skipped", []))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """With CI=true, a run that skipped a test for a reason that nobody allowed has failed."""
    if session.exitstatus == pytest.ExitCode.OK and _refused_here(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what a torture counted, and which skips failed the run; pytest's own closing line still comes last."""
    for name, count in sorted(torture.counted.items() if torture.IS_TORTURE else ()):
        terminalreporter.write_line(f"{count:>11,} {name}")
    for reason in _refused_here(config):
        terminalreporter.write_line(f"skipped, which tests/allowed_skips.txt does not allow: {reason}", red=True)
