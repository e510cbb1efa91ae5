"""The machine under a conversation that is cut, without a network: what is delivered, what is refused, what is kept."""

import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lianxin.federation.errors import PeerError, PeerGone
from lianxin.federation.resumption import (
    WINDOW_BYTES,
    WINDOW_MESSAGES,
    ConversationEnd,
    Frame,
    Pipe,
    PipeBusy,
    PipeEnded,
    pour,
)
from lianxin.federation.services import decode_frame, encode_frame
from lianxin.proto import party_pb2

MIB = 2**20
CONVERSATION = "matching/bank-1"


class Pair:
    """Both ends of one conversation, and a road between them that moves one frame at a time."""

    def __init__(self) -> None:
        self.bank = ConversationEnd("platform", CONVERSATION)
        self.platform = ConversationEnd("bank-1", CONVERSATION)
        self.moved = 0
        self.join()

    def join(self) -> None:
        """Cut what connects them and dial again."""
        self.number = self.bank.prepare()
        self.stream = self.platform.replace(self.number, self.bank.heard)
        self.bank.attach(self.number, self.platform.heard)

    def ways(self) -> list[tuple[ConversationEnd, int, ConversationEnd, int]]:
        up = (self.bank, self.number, self.platform, self.stream)
        return [up, (*up[2:], *up[:2])]

    def move(self, way: int, lose: bool = False) -> Frame | None:
        """Take the next frame of one direction off its writer; deliver it unless it is to be lost. Return it."""
        writer, number, reader, stream = self.ways()[way]
        frame = writer.due(number)
        if frame is not None:
            self.moved += 1
            if not lose:
                assert reader.accept(stream, decode_frame(encode_frame(frame)))
        return frame

    def move_all(self) -> None:
        while self.move(0) or self.move(1):
            continue


def message(number: int) -> bytes:
    return number.to_bytes(2, "big") * 3


def talk(pair: Pair, up: int, down: int, cut_at: Callable[[int], bool], lose: bool) -> tuple[list[bytes], list[bytes]]:
    """Say `up` messages to the platform and `down` to the bank, cutting at the frames that `cut_at` names."""
    heard: tuple[list[bytes], list[bytes]] = ([], [])
    to_say = ([message(n) for n in range(down)], [message(n) for n in range(up)])
    for _ in range(40 * (up + down)):
        for here, end in enumerate((pair.bank, pair.platform)):
            for inside in range(end.inbox.count - end.inbox.left):
                heard[here].append(end.inbox.take(0.0))
                assert inside < WINDOW_MESSAGES
            said = end.outbox.count
            if said < len(to_say[1 - here]) and said - end.outbox.left < WINDOW_MESSAGES:
                end.outbox.put(to_say[1 - here][said], 0.0)
        for way in (0, 1):
            doomed = cut_at(pair.moved + 1)
            if pair.move(way, lose=doomed and lose) and doomed:
                pair.join()
    return heard


CONVERSATIONS = {"two ways": (9, 9), "one way up": (20, 0), "one way down": (0, 20)}


@pytest.mark.parametrize("lose", [True, False], ids=["before it arrives", "after it arrived"])
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_a_cut_at_any_frame_delivers_each_message_once_and_in_order(name: str, lose: bool) -> None:
    up, down = CONVERSATIONS[name]
    whole = Pair()
    expected = talk(whole, up, down, lambda at: False, lose)
    assert expected == ([message(n) for n in range(down)], [message(n) for n in range(up)])
    for place in range(1, whole.moved + 1):
        assert talk(Pair(), up, down, lambda at, place=place: at == place, lose) == expected


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_a_cut_after_every_single_frame_delivers_each_message_once_and_in_order(name: str) -> None:
    up, down = CONVERSATIONS[name]
    expected = ([message(n) for n in range(down)], [message(n) for n in range(up)])
    assert talk(Pair(), up, down, lambda at: True, lose=False) == expected


def test_a_road_that_loses_every_third_frame_with_its_connection_delivers_all_the_same() -> None:
    expected = ([message(n) for n in range(9)], [message(n) for n in range(9)])
    assert talk(Pair(), 9, 9, lambda at: at % 3 == 0, lose=True) == expected


@given(st.lists(st.sampled_from(["put 0", "put 1", "take 0", "take 1", "move 0", "move 1", "lose 0", "lose 1", "cut"])))
@settings(max_examples=500, deadline=None)
def test_whatever_happens_in_whatever_order_what_is_heard_is_a_prefix_of_what_was_said(actions: list[str]) -> None:
    pair, said, heard = Pair(), ([], []), ([], [])
    for action in actions:
        verb, _, way = action.partition(" ")
        writer, _, reader, _ = pair.ways()[int(way or 0)]
        try:
            if verb == "put":
                writer.outbox.put(message(len(said[int(way)])), 0.0)
                said[int(way)].append(message(len(said[int(way)])))
            elif verb == "take":
                heard[int(way)].append(reader.inbox.take(0.0))
            elif verb == "move":
                pair.move(int(way))
        except PipeBusy:
            continue
        if verb == "cut" or (verb == "lose" and pair.move(int(way), lose=True)):
            pair.join()
        assert all(len(end.inbox._messages) <= WINDOW_MESSAGES for end in (pair.bank, pair.platform))
    pair.join()
    for way in (0, 1):
        _, _, reader, _ = pair.ways()[way]
        for _ in range(len(said[way]) - len(heard[way])):
            pair.move_all()
            heard[way].append(reader.inbox.take(0.0))
    assert heard == said


def test_a_message_that_is_sent_again_is_the_very_same_bytes() -> None:
    pair, sealed = Pair(), bytes(range(256)) * 100
    pair.bank.outbox.put(sealed)
    first = pair.move(0, lose=True)
    pair.join()
    again = pair.move(0)
    assert first.message == again.message == sealed and pair.platform.inbox.take(0.0) == sealed


# ---- what is kept


def test_a_reader_that_takes_nothing_holds_its_writer_at_one_window_of_messages() -> None:
    pair = Pair()
    for number in range(WINDOW_MESSAGES):
        pair.bank.outbox.put(message(number), 0.0)
        pair.move_all()
    with pytest.raises(PipeBusy):
        pair.bank.outbox.put(b"one more", 0.0)
    pair.platform.inbox.take(0.0)
    pair.platform.outbox.put(b"carries the acknowledgement", 0.0)
    pair.move_all()
    pair.bank.outbox.put(b"one more", 0.0)


def test_the_window_holds_in_bytes_too_at_both_ends_and_whatever_is_cut() -> None:
    pair = Pair()
    for _ in range(5):
        pair.bank.outbox.put(bytes(3 * MIB), 0.0)
        pair.move_all()
        pair.join()
    with pytest.raises(PipeBusy):
        pair.bank.outbox.put(bytes(3 * MIB), 0.0)
    assert pair.bank.outbox.size_bytes == pair.platform.inbox.size_bytes == 15 * MIB <= WINDOW_BYTES


def test_what_is_acknowledged_is_let_go_of() -> None:
    pair = Pair()
    for number in range(4):
        pair.bank.outbox.put(message(number), 0.0)
        pair.move_all()
        pair.platform.inbox.take(0.0)
    pair.move_all()
    assert pair.bank.outbox.size_bytes == 0 and pair.bank.outbox.left == 4


def test_a_message_of_any_size_fits_an_empty_pipe() -> None:
    pipe = Pipe(capacity=2, capacity_bytes=10)
    pipe.put(bytes(100), 0.0)
    with pytest.raises(PipeBusy):
        pipe.put(b"x", 0.0)


def test_a_lone_acknowledgement_follows_after_a_moment_when_nothing_flows_back() -> None:
    pair = Pair()
    pair.bank.outbox.put(b"only one", 0.0)
    pair.move_all()
    pair.platform.inbox.take(0.0)
    assert pair.platform.due(pair.stream) is None
    assert next(pair.platform.frames(pair.stream)) == Frame(0, 1)


# ---- ends


def test_a_farewell_is_answered_and_ends_both_sides_after_the_last_message() -> None:
    pair = Pair()
    pair.bank.outbox.put(b"last", 0.0)
    pair.bank.close()
    pair.move_all()
    assert pair.bank.is_done and pair.platform.is_done and pair.bank.fault is pair.platform.fault is None
    assert pair.platform.inbox.take(0.0) == b"last"
    with pytest.raises(PipeEnded):
        pair.platform.inbox.take(0.0)


def test_a_farewell_that_was_cut_off_is_said_again() -> None:
    pair = Pair()
    pair.bank.close()
    assert pair.move(0, lose=True).closed
    pair.join()
    pair.move_all()
    assert pair.bank.is_done and pair.platform.is_done


def test_an_end_of_messages_that_was_cut_off_is_said_again_and_leaves_the_other_way_open() -> None:
    pair = Pair()
    pair.bank.outbox.end()
    assert pair.move(0, lose=True).finished
    pair.join()
    pair.platform.outbox.put(b"answer", 0.0)
    pair.move_all()
    assert pair.platform.inbox.ended and not pair.platform.is_done and pair.bank.inbox.take(0.0) == b"answer"


def test_both_may_close_at_once() -> None:
    pair = Pair()
    pair.bank.close()
    pair.platform.close()
    pair.move_all()
    assert pair.bank.is_done and pair.platform.is_done


def test_a_parked_end_is_lost_with_one_sentence_when_its_window_has_passed() -> None:
    end = ConversationEnd("bank-1", CONVERSATION, resume_window_s=0.1)
    end.outbox.put(b"kept")
    end.detach(end.replace(0, 0))
    end.await_resumption()
    assert isinstance(end.fault, PeerGone) and end.outbox.size_bytes == 0
    assert (
        str(end.fault)
        == f"The connection of conversation {CONVERSATION} with bank-1 was cut and not resumed for 0.1 s."
    )


def test_a_window_begins_anew_with_each_cut() -> None:
    end = ConversationEnd("bank-1", CONVERSATION, resume_window_s=1.0)
    for stream in range(3):
        end.detach(end.replace(stream, 0))
        threading.Thread(target=end.await_resumption, daemon=True).start()
        time.sleep(0.4)
    assert end.fault is None
    end.pause(3.0)
    assert isinstance(end.fault, PeerGone)


# ---- a peer that lies


def halfway() -> Pair:
    """A conversation in which the bank said 3 messages and the platform 3, of which the bank has taken 1."""
    pair = Pair()
    for number in range(3):
        pair.bank.outbox.put(message(number), 0.0)
        pair.platform.outbox.put(message(number), 0.0)
    pair.move_all()
    pair.platform.inbox.take(0.0)
    assert pair.platform.accept(pair.stream, Frame(3, 1))
    return pair


LIES = {
    "a message again": ([Frame(2, 1, b"x")], "sent frame 2 where 3 was due"),
    "a message left out": ([Frame(4, 1, b"x")], "sent frame 4 where 3 was due"),
    "messages in another order": ([Frame(3, 1, b"x"), Frame(5, 1, b"x")], "sent frame 5 where 4 was due"),
    "an end before the last message": ([Frame(2, 1, closed=True)], "sent frame 2 where 3 was due"),
    "an acknowledgement of what was never said": ([Frame(3, 4)], "acknowledged 4 messages where 1 to 3 are possible"),
    "an acknowledgement taken back": ([Frame(3, 0)], "acknowledged 0 messages where 1 to 3 are possible"),
    "a message after the end": ([Frame(3, 1, finished=True), Frame(3, 1, b"x")], "after it had finished"),
    "more than the window": ([Frame(n, 1, b"x") for n in range(3, 13)], "sent more than the window holds"),
    "frames that say nothing": ([Frame(3, 1)] * 9, "sent 9 frames that say nothing"),
}


@pytest.mark.parametrize("name", LIES)
def test_an_impossible_frame_ends_the_conversation_by_name_and_nothing_is_kept(name: str) -> None:
    pair, (frames, sentence) = halfway(), LIES[name]
    broken = pour(frames, pair.platform, pair.stream)
    assert broken.rule == "I10" and sentence in str(broken) and "bank-1" in str(broken)
    assert pair.platform.fault is broken and pair.platform.inbox.size_bytes == pair.platform.outbox.size_bytes == 0
    with pytest.raises(PipeEnded):
        pair.platform.inbox.take(0.0)
    with pytest.raises(PeerError, match="has ended here"):
        pair.join()


def test_possible_frames_in_the_same_place_are_taken_in() -> None:
    pair = halfway()
    frames = [Frame(3, 1, b"x"), Frame(4, 3), Frame(4, 3, b"y"), *[Frame(5, 3)] * 8, Frame(5, 3, finished=True)]
    assert pour(frames, pair.platform, pair.stream) is None and pair.platform.fault is None
    assert [pair.platform.inbox.take(0.0) for _ in range(4)][-2:] == [b"x", b"y"]


def test_without_the_check_a_repeated_frame_is_delivered_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = halfway()
    monkeypatch.setattr(ConversationEnd, "_check", lambda end, frame: None)
    pour([Frame(2, 1, message(2))], pair.platform, pair.stream)
    assert [pair.platform.inbox.take(0.0) for _ in range(3)] == [message(1), message(2), message(2)]


def test_what_an_old_stream_still_brings_is_dropped() -> None:
    pair = Pair()
    old = pair.stream
    pair.join()
    assert not pair.platform.accept(old, Frame(0, 0, b"late"))
    assert pair.platform.heard == 0 and pair.platform.fault is None


@pytest.mark.parametrize("heard", [0, 4])
def test_a_peer_that_resumes_from_what_was_never_sent_or_is_gone_loses_the_conversation(heard: int) -> None:
    pair = halfway()
    with pytest.raises(PeerError, match=f"heard {heard} messages where 1 to 3 are possible") as refused:
        pair.platform.replace(pair.number + 1, heard)
    assert refused.value.rule == "I10" and pair.platform.fault is not None and pair.platform.outbox.size_bytes == 0


@pytest.mark.parametrize("heard", [1, 2, 3])
def test_a_peer_may_resume_from_anything_between(heard: int) -> None:
    pair = halfway()
    stream = pair.platform.replace(pair.number + 1, heard)
    again = [pair.platform.due(stream) for _ in range(3 - heard)]
    assert [frame.message for frame in again] == [message(n) for n in range(heard, 3)]


BAD_FRAMES = {
    "no frame": b"hello",
    "an unknown field": encode_frame(Frame(1, 1)) + b"\x30\x01",
    "a field twice": encode_frame(Frame(1, 1)) + encode_frame(Frame(1, 1)),
    "two things said": encode_frame(Frame(1, 1, b"x")) + b"\x20\x01",
    "an end that is none": encode_frame(Frame(1, 1)) + b"\x20\x00",
    "a longer number than needed": b"\x08\x81\x00",
    "a longer length than needed": b"\x1a\x81\x00x",
    "a number that is nought": b"\x08\x00",
    "fields in another order": b"\x10\x01\x08\x01",
    "a message before its number": b"\x1a\x01x\x08\x01",
    "an unknown field within the size": b"\x08\x01\x30\x01",
}


@pytest.mark.parametrize("name", BAD_FRAMES)
def test_bytes_that_are_no_canonical_frame_are_refused(name: str) -> None:
    with pytest.raises(PeerError) as refused:
        decode_frame(BAD_FRAMES[name])
    assert refused.value.rule == "I10"


@pytest.mark.parametrize(
    "frame",
    [
        *(Frame(1, 2, b"x" * size) for size in (0, 1, 127, 128, 16383, 16384, 3 * MIB)),
        *(Frame(0, 0), Frame(7, 2**40), Frame(3, 3, finished=True), Frame(3, 3, closed=True)),
    ],
    ids=repr,
)
def test_a_frame_comes_back_as_it_went_in_the_encoding_of_protobuf(frame: Frame) -> None:
    data = encode_frame(frame)
    assert decode_frame(data) == frame
    assert party_pb2.Frame.FromString(data).SerializeToString(deterministic=True) == data
