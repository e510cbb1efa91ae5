"""How often a consent that allows a limited number of uses was used, by everything but the use that is asked for now.

A use is named: by the request that a person made, else by the run. The pairs (consent, use) are kept in one transaction
with the release leaf, so that a count is never behind the ledger and the same use counts once, however many releases it
takes. A store of an earlier version has no pairs: they are read off its leaves once.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from lianxin.crypto import canonical
from lianxin.parties.decision import Registry
from lianxin.parties.store import Store

_COUNTED = "uses/counted"


class UseCount:
    """The uses that one node's store knows of."""

    def __init__(self, store: Store) -> None:
        self._store, self._is_counted = store, False

    def others(self, registry: Registry, consents: Iterable[str], use: str, least: int = 0) -> dict[str, int]:
        """Return, for each of these consents that has a limit, by how many other uses it was used.

        At least as many as `least` are looked up: names that no consent has stand for those that are lacking.
        """
        limited = limited_of(registry, consents)
        wanted = [*limited, *nobodys(use, least - len(limited))]
        if not wanted:
            return {}
        self._count_once(registry)
        found = self._store.uses(wanted)
        return {name: len(found[name] - {use}) for name in limited if name in found}

    def _count_once(self, registry: Registry) -> None:
        """Read the uses off the ledger, once a store: one of version 1 kept none, a new one has nothing to read."""
        self._is_counted = self._is_counted or self._store.setting(_COUNTED) is not None
        if self._is_counted:
            return
        limited, lists = set(limited_of(registry, registry.consents)), self._store.release_consents()
        found: set[tuple[str, str]] = set()
        for leaf in self._store.leaves():
            used = limited.intersection(lists.get(hashlib.sha256(leaf).hexdigest(), ()))
            found |= {(name, use_of(canonical.decode(leaf))) for name in used}
        self._store.append_leaves(self._store.leaf_count(), [], uses=sorted(found))
        self._store.put_setting(_COUNTED, b"1")


def limited_of(registry: Registry, consents: Iterable[str]) -> list[str]:
    """Return those of these consents that allow a limited number of uses, sorted."""
    return sorted(name for name in consents if "max_uses" in registry.consents[name].terms)


def use_of(leaf: Mapping[str, str]) -> str:
    """Return the use that a release leaf is part of: the one that it names, else its run."""
    return leaf.get("use") or leaf["run"]


def uses_of(registry: Registry, consents: Sequence[str], use: str, least: int = 0) -> list[tuple[str, str]]:
    """Return the (consent, use) pairs that a release by these consents adds, at least `least` by names of no consent."""
    limited = limited_of(registry, consents)
    return [(name, use) for name in (*limited, *nobodys(use, least - len(limited)))]


def nobodys(use: str, count: int) -> list[str]:
    """Return names that no consent has, a use's own: looked up and kept where the work must not tell how many there were."""
    return [f"\x00{use}.{place}" for place in range(count)]
