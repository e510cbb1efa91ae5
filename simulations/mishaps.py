"""What happens to honest parties in a scenario: here a bank whose line is cut in the middle of a round.

The bank hears the platform's first message of the round and is never heard of again: it sends no more, dials in vain, and
its node ends the run at its own side, as `parties/runs_left` does. The cut comes while the platform waits for the bank, at
a message and not at a time, so that one seed still gives the same bytes.
"""

from collections.abc import Mapping
from typing import Any

from lianxin.federation.channel import Channel, Link
from lianxin.federation.errors import PeerGone
from lianxin.simulations.scenario import Lost

_CUT = "the line of this bank was cut"


def cut_off(banks: Mapping[str, Any], event: Lost) -> None:
    """Let the node of the event's bank fall silent in the event's round."""
    bank = banks[event.party]
    places = tuple(f"vertical/{event.party}/{what}/{event.round}" for what in ("round", "tree"))
    bank.link = _CutLink(bank.link, places)


class _CutLink(Link):
    """A link that ends with the first message of a conversation at one of `places`."""

    def __init__(self, link: Link, places: tuple[str, ...]) -> None:
        self._link, self._places = link, places
        self.is_cut = False

    def open(self, conversation: str, run: str) -> Channel:
        """See `Link.open`; nothing is reached any more once the line is cut."""
        if self.is_cut:
            raise PeerGone(_CUT)
        is_last = any(conversation == place or conversation.startswith(f"{place}/") for place in self._places)
        return _CutChannel(self._link.open(conversation, run), self, is_last)

    def close(self) -> None:
        """See `Link.close`."""
        self._link.close()


class _CutChannel(Channel):
    """A channel of that link: the message that is its last is taken off the road and not handed on."""

    def __init__(self, channel: Channel, link: _CutLink, is_last: bool) -> None:
        self.peer, self.conversation, self.run = channel.peer, channel.conversation, channel.run
        self._channel, self._link, self._is_last = channel, link, is_last

    def send(self, data: bytes) -> None:
        """See `Channel.send`; the first thing that the bank would say after the cut ends every conversation."""
        if self._link.is_cut:
            self._link.close()
            raise PeerGone(_CUT)
        self._channel.send(data)

    def receive(self, deadline_s: float) -> bytes:
        """See `Channel.receive`."""
        data = self._channel.receive(deadline_s)
        if self._is_last or self._link.is_cut:
            self._link.is_cut = True
            raise PeerGone(_CUT)
        return data

    def finish(self) -> None:
        """See `Channel.finish`."""
        self._channel.finish()

    def is_gone(self) -> bool:
        """See `Channel.is_gone`."""
        return self._channel.is_gone()

    def close(self, reason: str = "") -> None:
        """See `Channel.close`."""
        self._channel.close(reason)
