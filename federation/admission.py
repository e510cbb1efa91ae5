"""The platform's door: who dials, what for, which open conversation a dial goes on with, who attends to it. No gRPC.

What is asked of each stream before a byte of it is read (attacks.md, row 25); a refusal is logged by its rule:

    I01  the TLS version is 1.3                  (gRPC Python cannot refuse 1.2 in the handshake)
    I02  there is a client certificate, and it parses
    I03  it has exactly one URI name, the same that the AuthContext shows
    I04  that URI is pinned
    I05  the SHA-256 of the certificate is the one pinned for that URI
    I06  it is valid now                         (a connection may outlive its certificate)
    I07  run and conversation ids are well formed, fit the service and name no other pinned party
    I08  the party has no more than its share of conversations open; one that is cut off and may be resumed counts
    I09  a token is well formed and new, or a resumption has the token of a conversation that is open for this very
         party, run and conversation, on a later stream than before (`resumption`, steps 1 and 6)
    I10  the counts of messages in a resumption, and every frame after it, are possible ones (steps 4 and 6)
    I11  the wire protocol of the bank is this one or the one before; who names none speaks 1, as all did up to 0.6.0
    I20  the party was not revoked here

What a peer may cost, which is asked of the same streams, is in `limits`.

I03 reads the certificate too because the AuthContext cuts a name at its first NUL byte: `spiffe://x/bank\\0.evil` shows
there as `spiffe://x/bank`. A certificate that is expired or another authority's fails in the handshake already, of
which gRPC Python tells nobody.
"""

import hashlib
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field
from datetime import datetime
from hmac import compare_digest
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from lianxin.federation.errors import InputFault, PeerError, PeerGone
from lianxin.federation.resumption import RESUME_WINDOW_S, ConversationEnd, Frame, pour

if TYPE_CHECKING:
    from lianxin.federation.channel import ResumableChannel

RUN_KEY, CONVERSATION_KEY = "lianxin-run", "lianxin-conversation"
TOKEN_KEY, STREAM_KEY, HEARD_KEY = "lianxin-token", "lianxin-stream", "lianxin-heard"
PROTOCOL_KEY = "lianxin-protocol"
PROTOCOL = 2
PROTOCOLS_SPOKEN = range(PROTOCOL - 1, PROTOCOL + 1)
UNNAMED_PROTOCOL = 1
SERVICES = {"contracts": "Contracts", "matching": "Matching", "vertical": "Vertical", "learning": "Learning", "query": "Query",
            "scoring": "Scoring"}  # fmt: skip
UNBOUNDED = 2**31
TOKENS_REMEMBERED = 1024
CLOSE_DEADLINE_S = 5.0
FAREWELL_S = 1.0
FAILURES_KEPT = 100
_RUN = re.compile(r"[a-z0-9-]{3,64}")
_CONVERSATION = re.compile(r"[a-z0-9./-]{3,96}")
_TOKEN = re.compile(r"[0-9a-f]{64}")
_COUNT = re.compile(r"[0-9]{1,15}")


class Refused(PeerError):
    """A peer that is not admitted; `uri` is what its certificate says, if it says one thing."""

    def __init__(self, rule: str, message: str, uri: str | None = None) -> None:
        super().__init__(message, rule)
        self.uri = uri


class OtherProtocol(Refused):
    """A pinned peer speaks a wire protocol that this node does not; the only refusal whose reason the peer is told."""


class NoRoom(PeerGone):
    """The platform carries as many conversations as it can; worth another attempt."""


@dataclass(frozen=True)
class PinnedPeer:
    """Whom a server admits under one URI: the party id and the SHA-256 (hex) of its certificate's DER bytes.

    `also` are further certificates, while one is being rotated; a `revoked` party is admitted under none.
    """

    party: str
    certificate_sha256: str
    also: tuple[str, ...] = ()
    revoked: bool = False


@dataclass(frozen=True)
class Dial:
    """What an authenticated bank asks for with one stream.

    `token` is what the conversation can be resumed by (None: not at all), `stream` the serial number of the stream at the
    bank, `heard` how many messages it has (None: it opens the conversation).
    """

    party: str
    conversation: str
    run: str
    token: str | None = field(default=None, repr=False)
    stream: int = 0
    heard: int | None = None


def is_run_id(run: str) -> bool:
    """Return whether `run` is 3 to 64 of `a-z`, `0-9` and `-`."""
    return _RUN.fullmatch(run) is not None


def is_conversation_id(conversation: str) -> bool:
    """Return whether `conversation` is `service/...`: 3 to 96 of `a-z 0-9 . / -`, no empty or dotted-away segment."""
    segments = conversation.split("/")
    known = segments[0] in SERVICES and not any(segment in ("", ".", "..") for segment in segments)
    return known and _CONVERSATION.fullmatch(conversation) is not None


def check_ids(conversation: str, run: str) -> None:
    """Raise `InputFault` unless both ids may be opened."""
    if not is_run_id(run):
        raise InputFault("The run id is not 3 to 64 of a-z, 0-9 and '-': no conversation was opened.")
    if not is_conversation_id(conversation):
        raise InputFault(f"The conversation id does not begin with one of {', '.join(SERVICES)} or has other letters.")


def check_peer(auth: Mapping[str, Any], parties: Mapping[str, PinnedPeer], now: datetime) -> tuple[PinnedPeer, str]:
    """Return the pinned peer that an AuthContext proves, with its URI; raises Refused with rule I01 to I06."""
    if list(auth.get("ssl_tls_version", ())) != [b"TLSv1.3"]:
        raise Refused("I01", "A peer connected with another TLS version than 1.3.")
    certificate = _only_certificate(auth)
    uri = _only_uri(auth, certificate)
    pinned = parties.get(uri)
    if pinned is None:
        raise Refused("I04", "A peer's URI is not pinned here.", uri)
    if pinned.revoked:
        raise Refused("I20", f"{pinned.party} was revoked here and is not admitted.", uri)
    if hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest() not in (pinned.certificate_sha256, *pinned.also):
        raise Refused("I05", f"A peer shows the URI of {pinned.party} with a certificate that is not pinned.", uri)
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise Refused("I06", f"The certificate of {pinned.party} is not valid now: renew and pin it anew.", uri)
    return pinned, uri


def _only_certificate(auth: Mapping[str, Any]) -> x509.Certificate:
    try:
        (pem,) = auth.get("x509_pem_cert", ())
        return x509.load_pem_x509_certificate(pem)
    except ValueError:
        raise Refused("I02", "A peer's certificate is missing or cannot be read.") from None


def _only_uri(auth: Mapping[str, Any], certificate: x509.Certificate) -> str:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
        (shown,) = auth.get("peer_uri", ())
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
        raise Refused("I03", "A peer's certificate does not have exactly one URI name.") from None
    if shown != uri.encode():
        raise Refused("I03", "A peer's URI name is not what TLS shows of it.")
    return uri


def read_dial(metadata: Any, kind: str, party: str, others: Set[str]) -> Dial:
    """Return what a stream's metadata asks for; `others` are the pinned parties whose names `party` may not use.

    Raises Refused: I07 for the ids, I09 for the token and counts.
    """
    conversation, run = _one_of(metadata, CONVERSATION_KEY), _one_of(metadata, RUN_KEY)
    if not _is_opening(conversation, run, kind, others):
        raise Refused("I07", f"{party} may not open a conversation under these ids.")
    token = _one_of(metadata, TOKEN_KEY)
    if token is None:
        return Dial(party, conversation or "", run or "")
    stream, heard = read_count(_one_of(metadata, STREAM_KEY)), _one_of(metadata, HEARD_KEY)
    if _TOKEN.fullmatch(token) is None or stream is None or (heard is not None and read_count(heard) is None):
        raise Refused("I09", f"{party} asks to resume by a token or counts that are none.")
    return Dial(party, conversation or "", run or "", token, stream, read_count(heard))


def read_protocol(metadata: Any) -> int:
    """Return the wire protocol that a stream's metadata names: 1 where it names none, 0 for what is no number."""
    said = _one_of(metadata, PROTOCOL_KEY)
    return UNNAMED_PROTOCOL if said is None else read_count(said) or 0


def check_protocol(said: int, peer: str) -> None:
    """Raise OtherProtocol (I11) unless `peer`'s wire protocol is spoken here; it says which side to upgrade."""
    first, last = PROTOCOLS_SPOKEN[0], PROTOCOLS_SPOKEN[-1]
    if said not in PROTOCOLS_SPOKEN:
        older = "this node" if said > last else f"the node of {peer}"
        text = f"{peer} speaks wire protocol {said}, this node {first} to {last}: upgrade {older}."
        raise OtherProtocol("I11", text)


def read_count(text: str | None) -> int | None:
    """Return the number in `text`, None if it is not 1 to 15 digits."""
    return int(text) if text is not None and _COUNT.fullmatch(text) else None


def _one_of(metadata: Any, wanted: str) -> str | None:
    values = [value for key, value in metadata if key == wanted]
    if len(values) > 1:
        raise Refused("I07", f"A peer gave {len(values)} values for {wanted}.")
    return values[0] if values else None


def _is_opening(conversation: str | None, run: str | None, kind: str, strangers: Set[str]) -> bool:
    segments = (conversation or "").split("/")
    named = segments[0] == kind and strangers.isdisjoint(segments[1:2])
    return named and is_conversation_id(conversation or "") and is_run_id(run or "")


class Switchboard:
    """The conversations that are open at a platform, and which of them a dial begins or goes on with.

    Not safe between threads: a `Host` uses it under its lock.
    """

    def __init__(self, resume_window_s: float = RESUME_WINDOW_S, room: int = UNBOUNDED, share: int = UNBOUNDED) -> None:
        self._resume_window_s, self._room, self._share = resume_window_s, room, share
        self._open: dict[ConversationEnd, Dial] = {}
        self._spent: deque[str] = deque(maxlen=TOKENS_REMEMBERED)

    def connect(self, dial: Dial) -> tuple[ConversationEnd, int, bool]:
        """Return (this end, its new stream, whether the conversation begins) of what `dial` asks for.

        Raises NoRoom, and PeerError: I08, I09, or I10, after which the conversation is lost.
        """
        known = self._find(dial)
        end = known or self._begin(dial)
        return end, end.replace(dial.stream, dial.heard or 0), known is None

    def forget(self, end: ConversationEnd) -> None:
        """Give up the place of a conversation that has ended; its token is not taken again."""
        dial = self._open.pop(end)
        if dial.token is not None:
            self._spent.append(dial.token)

    def _find(self, dial: Dial) -> ConversationEnd | None:
        for end, first in self._open.items():
            place = (first.party, first.run, first.conversation)
            if place == (dial.party, dial.run, dial.conversation) and _is_same(first.token, dial.token):
                return end
        return None

    def _begin(self, dial: Dial) -> ConversationEnd:
        if dial.heard is not None or dial.token in self._spent:
            raise PeerError(f"{dial.party} would resume a conversation that is not open for it under its token.", "I09")
        if sum(first.party == dial.party for first in self._open.values()) >= self._share:
            raise PeerError(f"{dial.party} has {self._share} conversations open and wants another.", "I08")
        if len(self._open) >= self._room:
            raise NoRoom(f"{len(self._open)} conversations are open, which is all that there may be.", "L17")
        end = ConversationEnd(dial.party, dial.conversation, self._resume_window_s if dial.token else 0.0)
        self._open[end] = dial
        return end


@dataclass
class _Attended:
    """A conversation that a handler attends to: its thread, and how to give its stream some seconds and then cut it."""

    thread: threading.Thread
    channel: "ResumableChannel"
    cut_after: Callable[[float], object]


class Host:
    """A platform's side of its conversations: `handler` runs in a thread for each, whatever streams it has.

    What a handler raises is kept in `failures` as (party, conversation, exception), the latest hundred.
    """

    def __init__(
        self,
        switchboard: Switchboard,
        make_channel: "Callable[[ConversationEnd, str], ResumableChannel]",
        handler: "Callable[[ResumableChannel], None]",
    ) -> None:
        self.failures: deque[tuple[str, str, Exception]] = deque(maxlen=FAILURES_KEPT)
        self._switchboard, self._make_channel, self._handler = switchboard, make_channel, handler
        self._attended: dict[ConversationEnd, _Attended] = {}
        self._lock = threading.Lock()

    def connect(self, dial: Dial, cut_after: Callable[[float], object]) -> tuple[ConversationEnd, int]:
        """Return (this end, its new stream) of what `dial` asks for; the stream that it had is cut, a handler begun.

        `cut_after(seconds)` gives the new stream some time to end by itself. Raises as `Switchboard.connect`.
        """
        with self._lock:
            end, stream, is_new = self._switchboard.connect(dial)
            if is_new:
                channel = self._make_channel(end, dial.run)
                thread = threading.Thread(
                    target=self._attend, args=(end,), daemon=True, name=f"host:{end.conversation}"
                )
                self._attended[end] = _Attended(thread, channel, cut_after)
                thread.start()
                return end, stream
            old, self._attended[end].cut_after = self._attended[end].cut_after, cut_after
        old(0.0)
        return end, stream

    def hear(self, frames: Iterable[Frame], end: ConversationEnd, stream: int) -> PeerError | None:
        """Hear `stream` out and return the rule that the bank broke on it, if any.

        If it was cut, this waits until the bank resumes or its time to do so is up.
        """
        broken = pour(frames, end, stream)
        end.await_resumption()
        return broken

    def cut(self, party: str, rule: str) -> int:
        """End every conversation of `party` at once, without a farewell, and return how many there were."""
        found = [one for one in self._all() if one.channel.peer == party]
        for attended in found:
            attended.channel.end.lose(PeerError(f"{party} was revoked at this end (rule {rule}).", rule))
            attended.cut_after(0.0)
        return len(found)

    @property
    def open_count(self) -> int:
        """How many conversations are attended to."""
        return len(self._all())

    def close(self, reason: str) -> None:
        """Say farewell in every conversation."""
        for attended in self._all():
            attended.channel.close(reason)

    def join(self, deadline_s: float) -> None:
        """After `close`: give connected peers a moment to answer, then up to `deadline_s` seconds to each handler."""
        for attended in self._all():
            if attended.channel.end.is_attached:
                attended.channel.end.pause(FAREWELL_S)
            attended.channel.end.give_up()
            attended.thread.join(deadline_s)

    def _all(self) -> list[_Attended]:
        with self._lock:
            return list(self._attended.values())

    def _attend(self, end: ConversationEnd) -> None:
        with self._lock:
            attended = self._attended[end]
        patience_s = CLOSE_DEADLINE_S
        try:
            self._handler(attended.channel)
        except Exception as failure:
            self.failures.append((end.peer, end.conversation, failure))
        finally:
            attended.channel.close()
            if not end.await_end(CLOSE_DEADLINE_S, end.resume_window_s):
                patience_s = 0.0
            end.give_up()
            with self._lock:
                self._switchboard.forget(end)
                del self._attended[end]
            attended.cut_after(patience_s)


def _is_same(token: str | None, other: str | None) -> bool:
    return token is not None and other is not None and compare_digest(token, other)
