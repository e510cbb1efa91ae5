"""A bank's link as one run uses it: every conversation of the run can be closed at once, and none is opened after that."""

import threading

from lianxin.federation.channel import Channel, Link
from lianxin.federation.errors import PeerGone


class RunLink(Link):
    """The conversations of one run over the bank's link, which other runs use too. Safe between threads."""

    def __init__(self, link: Link) -> None:
        self._link, self._open, self._stopped = link, list[Channel](), False
        self._lock = threading.Lock()

    def open(self, conversation: str, run: str) -> Channel:
        """See `Link.open`. Raises PeerGone once the run was stopped here."""
        self._check()
        channel = self._link.open(conversation, run)
        with self._lock:
            self._open = [one for one in self._open if not one.is_gone()] + [channel]
        if self._stopped:
            channel.close("the run was stopped")
        self._check()
        return channel

    def _check(self) -> None:
        if self._stopped:
            raise PeerGone("this run was stopped here, so that nothing more is said in it")

    def close(self) -> None:
        """End every conversation of the run; the bank's link stays."""
        self._stopped = True
        with self._lock:
            channels, self._open = self._open, []
        closing = [
            threading.Thread(target=channel.close, args=("the run was stopped",), daemon=True) for channel in channels
        ]
        for thread in closing:
            thread.start()
