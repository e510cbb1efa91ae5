"""Fixtures that several test modules share; modules beside this one can be imported by their name."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

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
