"""Places at which a durable step can be made to fail on purpose: named, counted, and nothing at all unless one is armed.

A fault that cannot be provoked is a fault that nobody has seen survived. `reach` is called before and after each durable
step; what it does is what `arm` was given, by tests and by nodes of a trial. Source: the failpoints of etcd's robustness
suite.
"""

from collections.abc import Callable

POINTS = (
    "consent-write", "snapshot-root", "checkpoint-sign", "witness-answer", "pool-pop", "envelope-send", "envelope-ack",
    "decrypt", "model-write", "revoke",
)  # fmt: skip
Reached = Callable[[str], None]
_hook: Reached | None = None


def arm(hook: Reached | None) -> None:
    """Have `hook` called with the name of each failpoint that is reached; None for none."""
    global _hook
    _hook = hook


def reach(point: str) -> None:
    """Say that execution has come to the failpoint `point`, such as `consent-write/before`. Raises what the hook raises."""
    if _hook is not None:
        _hook(point)
