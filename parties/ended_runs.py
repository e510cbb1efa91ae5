"""How runs ended at a node: the newest in memory, all of them in the store, where they outlive the node."""

import json
import threading
from collections import OrderedDict
from collections.abc import Iterator, MutableMapping
from typing import Any

from lianxin.parties.store import Store

KEPT = 256
_PREFIX = "ended/"
Record = dict[str, Any]


class EndedRuns(MutableMapping[str, Record]):
    """The newest `most` ends by run id; `known` looks into the store as well. Safe between threads."""

    def __init__(self, store: Store, most: int = KEPT) -> None:
        self._store, self._most = store, most
        self._newest: OrderedDict[str, Record] = OrderedDict()
        self._lock = threading.Lock()

    def __setitem__(self, run: str, record: Record) -> None:
        self._store.put_setting(_PREFIX + run, json.dumps(record, sort_keys=True).encode())
        with self._lock:
            self._newest[run] = record
            self._newest.move_to_end(run)
            while len(self._newest) > self._most:
                self._newest.popitem(last=False)

    def __getitem__(self, run: str) -> Record:
        with self._lock:
            return self._newest[run]

    def __delitem__(self, run: str) -> None:
        with self._lock:
            del self._newest[run]
        self._store.delete_setting(_PREFIX + run)

    def __iter__(self) -> Iterator[str]:
        with self._lock:
            return iter(list(self._newest))

    def __len__(self) -> int:
        return len(self._newest)

    def kept(self) -> dict[str, Record]:
        """Return every end that was ever written, by run id: also those that are no longer in memory."""
        found = self._store.settings_under(_PREFIX)
        return {key.removeprefix(_PREFIX): dict(json.loads(value)) for key, value in found.items()}

    def known(self, run: str) -> Record | None:
        """Return how a run ended, from memory or the store, None where that was never written."""
        kept = self._store.setting(_PREFIX + run)
        return None if kept is None else dict(json.loads(kept))
