"""How a running node is watched: its log, its metrics, its health, and what systemd hears of it (docs/operations.md).

`begin` puts all of it in place for a served node, `end` takes it away; `answer` gives the same figures on the control socket.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from lianxin.federation.errors import InputFault
from lianxin.parties.software import code_version
from lianxin.parties.watch_figures import Figure, Watched, figures
from lianxin.parties.watch_health import ailments
from lianxin.parties.watch_log import close_log, log_event, open_log
from lianxin.parties.watch_notify import ALIVE, READY, STOPPING, notify, watchdog_s
from lianxin.parties.watch_tail import Tail

if TYPE_CHECKING:
    from lianxin.parties.node import Node
    from lianxin.parties.watch_metrics import MetricsServer

LOOK_S = 5.0
END_S = 5.0


class Watch:
    """What looks after one served node, in a thread of its own, until `end`."""

    def __init__(self, served: Any, conversations: Callable[[], int] = lambda: 0) -> None:
        """Begin with the log. Raises InputFault where the metrics cannot be served."""
        self._node: Node = served.node
        config = self._node.config.watch
        self._log = open_log(config.log, config.level, self._node.party)
        self._watched = Watched(served, Tail(self._node), time.time(), conversations)
        self._ill: set[str] = set()
        self._over, self._metrics = threading.Event(), self._serve(config.metrics)
        self._thread = threading.Thread(target=self._look, daemon=True, name="watch")

    @property
    def metrics_port(self) -> int:
        """The port on which the metrics are read, 0 where they are not served."""
        return self._metrics.port if self._metrics is not None else 0

    def begin(self) -> "Watch":
        """Look at the node from now on, and say that it is ready."""
        self._node.watch = self
        self._thread.start()
        log_event(self._node.party, "started", "info", "", {"what": code_version()})
        notify(READY)
        return self

    def figures(self) -> list[Figure]:
        """Return the figures of now, the ledger read to its end or 50 pages further."""
        self._watched.tail.look()
        return figures(self._watched)

    def end(self) -> None:
        """Take everything away again."""
        notify(STOPPING)
        log_event(self._node.party, "stopping", "info", "", {"what": "this node is stopped"})
        self._over.set()
        if self._metrics is not None:
            self._metrics.close()
        self._thread.join(END_S)
        close_log(self._log)

    def _serve(self, address: str) -> "MetricsServer | None":
        if not address:
            return None
        from lianxin.parties.watch_metrics import MetricsServer

        return MetricsServer(address, self.figures, lambda: ailments(self._node))

    def _look(self) -> None:
        pause = min(LOOK_S, watchdog_s() or LOOK_S)
        while not self._over.wait(pause):
            try:
                self._watched.tail.look()
                self._tell_ailments()
            except Exception:  # systemd hears nothing then, and starts again a node whose store hangs or cannot be read
                logging.getLogger("lianxin").exception("the node cannot be looked at")
            else:
                notify(ALIVE)

    def _tell_ailments(self) -> None:
        ill = {one.what: one for one in ailments(self._node)}
        for what in ill.keys() - self._ill:
            log_event(self._node.party, "unwell", "error", "", {"what": ill[what].sentence})
        for what in self._ill - ill.keys():
            log_event(self._node.party, "well-again", "info", "", {"what": what})
        self._ill = set(ill)


def answer(served: Any, request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of now, each with its samples as [labels, value], and what is wrong with the node."""
    watch = served.node.watch
    if watch is None:
        raise InputFault("this node is not watched; start it with `serve`")
    told = [{"name": one.name, "help": one.help, "samples": _samples(one)} for one in watch.figures()]
    road = {"road": served.road.told()} if hasattr(served, "road") else {}
    return {
        "party": served.node.party,
        "figures": told,
        "wrong": [one._asdict() for one in ailments(served.node)],
        **road,
    }


def _samples(figure: Figure) -> list[list[Any]]:
    return [[dict(labels), value] for labels, value in figure.samples.items()]
