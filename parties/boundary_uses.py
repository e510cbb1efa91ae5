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
        self._store = store

    def others(self, registry: Registry, consents: Iterable[str], use: str) -> dict[str, int]:
        """Return, for each of these consents that has a limit, by how many other uses it was used."""
        limited = limited_of(registry, consents)
        if not limited:
            return {}
        self._count_once(registry)
        return {name: len(uses - {use}) for name, uses in self._store.uses(limited).items()}

    def _count_once(self, registry: Registry) -> None:
        """Read the uses off the ledger, once a store: one of version 1 kept none, a new one has nothing to read."""
        if self._store.setting(_COUNTED) is not None:
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


def uses_of(registry: Registry, consents: Sequence[str], use: str) -> list[tuple[str, str]]:
    """Return the (consent, use) pairs that a release by these consents adds."""
    return [(name, use) for name in limited_of(registry, consents)]
