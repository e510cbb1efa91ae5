"""How often a property is tried: at least 1,000 cases in `make test`, a hundred times as many in `make torture`.

LIANXIN_TORTURE=1 raises the counts; LIANXIN_FUZZ_SECONDS says how long each decoder is then fed (60 seconds unless said
otherwise). Everything is seeded, so that a run can be had again. What was counted is printed at the end of a torture.
"""

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

IS_TORTURE = os.environ.get("LIANXIN_TORTURE") == "1"
FUZZ_SECONDS = float(os.environ.get("LIANXIN_FUZZ_SECONDS", "60"))
FACTOR = 100 if IS_TORTURE else 1
ONLY = pytest.mark.skipif(not IS_TORTURE, reason="the counts of make torture are needed")
LEAST_CASES = 1000
counted: dict[str, int] = {}


def cases(in_test: int = LEAST_CASES, *, per_example: int = 1) -> Callable[[Any], Any]:
    """Return the decorator of a property test that tries `in_test` cases, in torture a hundred times as many.

    One example of Hypothesis may stand for several cases: `per_example` is how many each checks at least.
    """
    total = in_test * FACTOR

    def decorate(test: Any) -> Any:
        counted[f"{test.__module__}::{test.__name__}"] = total
        return settings(
            max_examples=-(-total // per_example),
            derandomize=True,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        )(test)

    return decorate


def repeats(name: str, in_test: int = LEAST_CASES) -> range:
    """Return the numbers of the cases that a loop of this name runs over: `in_test`, in torture a hundred times that."""
    counted[name] = in_test * FACTOR
    return range(in_test * FACTOR)


def fuzz_rounds(name: str, in_test: int = LEAST_CASES) -> Iterator[int]:
    """Yield case numbers: `in_test` of them, in torture as many as FUZZ_SECONDS allow and never fewer."""
    end, number = time.monotonic() + FUZZ_SECONDS, 0
    while number < in_test or (IS_TORTURE and time.monotonic() < end):
        yield number
        number += 1
    counted[name] = number
