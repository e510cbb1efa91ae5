"""The figures as a page for Prometheus, and `/healthz`, over plain HTTP on an address of the machine itself.

The page has a registry of its own: none of the default metrics of the client library, which name the process. GET alone is
answered, a few requests at a time, each within seconds; nothing that is asked for reaches the node. Needs the extra `watch`.
"""

import errno
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from typing import Any

from lianxin.federation.errors import InputFault, StillHeld
from lianxin.parties.watch_figures import COUNTER, Figure
from lianxin.parties.watch_health import Ailment

AT_ONCE, ANSWER_S, POLL_S = 4, 5.0, 0.1
Figures = Callable[[], Sequence[Figure]]
Ailments = Callable[[], Sequence[Ailment]]


class _Collected:
    """What the client library asks for the figures of now."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Any]:
        """Yield each figure as the client library's family of samples."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        for figure in self._figures():
            names = [name for name, _ in next(iter(figure.samples), ())]
            kind = CounterMetricFamily if figure.kind == COUNTER else GaugeMetricFamily
            family = kind(figure.name, figure.help, labels=names)
            for labels, value in figure.samples.items():
                family.add_metric([text for _, text in labels], value)
            yield family


def page_of(figures: Figures) -> bytes:
    """Return the figures as Prometheus reads them (text format 0.0.4). Raises InputFault without the extra `watch`."""
    if find_spec("prometheus_client") is None:
        raise InputFault("[watch] metrics needs prometheus-client; install it with pip install 'lianxin[watch]'")
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected(figures))
    return bytes(generate_latest(registry))


class _Pages(BaseHTTPRequestHandler):
    timeout = ANSWER_S
    server: "MetricsServer"

    def do_GET(self) -> None:
        """Answer with the page or the health; anything else is not here."""
        if self.path == "/metrics":
            self._send(200, "text/plain; version=0.0.4; charset=utf-8", page_of(self.server.figures))
        elif self.path == "/healthz":
            ill = [one.what for one in self.server.ailments()]
            told = json.dumps({"status": "NOT_SERVING" if ill else "SERVING", "wrong": ill})
            self._send(503 if ill else 200, "application/json", told.encode())
        else:
            self._send(404, "text/plain", b"/metrics and /healthz are here\n")

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def version_string(self) -> str:
        """Return the name of the server, which says nothing of the machine."""
        return "lianxin"

    def log_message(self, *_said: Any) -> None:
        """Write no line a request."""


class MetricsServer(ThreadingHTTPServer):
    """The running page; `close` ends it."""

    daemon_threads = True

    def __init__(self, address: str, figures: Figures, ailments: Ailments) -> None:
        """Listen on `host:port`, port 0 for any. Raises StillHeld for a taken address, InputFault without the extra `watch`."""
        self.figures, self.ailments, self._room = figures, ailments, threading.Semaphore(AT_ONCE)
        page_of(lambda: ())
        host, _, port = address.rpartition(":")
        try:
            super().__init__((host.strip("[]"), int(port)), _Pages)
        except OSError as fault:
            if fault.errno == errno.EADDRINUSE:
                raise StillHeld(
                    f"metrics cannot be served on {address}: another program has the port, or this node's process of before is "
                    "still ending; stop it, or choose another [watch] metrics"
                ) from None
            raise InputFault(
                f"metrics cannot be served on {address} ({fault.strerror}); choose another [watch] metrics"
            ) from None
        self._thread = threading.Thread(target=self.serve_forever, args=(POLL_S,), daemon=True, name="metrics")
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own; where too many are asked at once, the newest is hung up on."""
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """See `process_request`."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Write no traceback: a reader that went away is no event."""

    def close(self) -> None:
        """Answer nothing more."""
        self.shutdown()
        self.server_close()
        self._thread.join(ANSWER_S)
