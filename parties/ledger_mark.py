"""Raising the mark beside a store (`consent_high_water`) to the leaves that are on disk, never before they are."""

from collections.abc import Callable

from lianxin.federation.errors import RunStopped


def mark_at(raise_to: Callable[[int], None] | None, leaves: int) -> None:
    """Raise the mark to this many leaves, where there is one. Raises RunStopped when the disk does not take it."""
    try:
        if raise_to is not None:
            raise_to(leaves)
    except OSError:
        raise RunStopped(
            "the mark beside the store could not be written, so that a restored copy would not be noticed; see that "
            "the disk of the state folder has room and works, and go on"
        ) from None
