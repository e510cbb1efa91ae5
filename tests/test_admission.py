"""Which conversation a dial begins or goes on with, and which dials are refused."""

from dataclasses import replace

import pytest

from lianxin.federation import admission
from lianxin.federation.admission import Dial, NoRoom, Switchboard
from lianxin.federation.errors import PeerError
from lianxin.federation.resumption import Frame

CONVERSATION = "matching/bank-1"
TOKEN = "a1" * 32
OPENED = Dial("bank-1", CONVERSATION, "run-0001", TOKEN, stream=1)
RESUMED = replace(OPENED, stream=2, heard=0)
FOREIGN = {
    "another token": replace(RESUMED, token="b2" * 32),
    "no token": replace(RESUMED, token=None),
    "another party with the token": replace(RESUMED, party="bank-2"),
    "another conversation": replace(RESUMED, conversation="matching/bank-1/2"),
    "another run": replace(RESUMED, run="run-0002"),
    "a stream from before": replace(RESUMED, stream=1),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_resumption_without_the_right_to_it_is_refused_and_disturbs_nothing(name: str) -> None:
    board = Switchboard()
    end, stream, _ = board.connect(OPENED)
    with pytest.raises(PeerError) as refused:
        board.connect(FOREIGN[name])
    assert refused.value.rule == "I09" and end.is_attached and end.accept(stream, Frame(0, 0, b"still the same"))


def test_the_token_of_the_conversation_resumes_it_and_takes_the_place_of_the_old_stream() -> None:
    board = Switchboard()
    end, stream, is_new = board.connect(OPENED)
    same, later, is_new_again = board.connect(RESUMED)
    assert same is end and (is_new, is_new_again) == (True, False)
    assert not end.accept(stream, Frame(0, 0, b"old")) and end.accept(later, Frame(0, 0, b"new"))


def test_an_opening_whose_answer_was_lost_finds_the_conversation_that_it_opened() -> None:
    board = Switchboard()
    end, _, _ = board.connect(OPENED)
    end.outbox.put(b"said into the void")
    end.due(1)
    same, stream, is_new = board.connect(replace(OPENED, stream=2))
    assert same is end and not is_new and end.due(stream).message == b"said into the void"


def test_if_tokens_were_not_compared_another_process_of_the_bank_would_take_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(admission, "_is_same", lambda token, other: True)
    board = Switchboard()
    end, stream, _ = board.connect(OPENED)
    board.connect(FOREIGN["another token"])
    assert not end.accept(stream, Frame(0, 0, b"the rightful stream is cut"))


def test_if_serial_numbers_were_not_kept_a_dial_that_was_held_back_would_cut_the_stream_after_it() -> None:
    board = Switchboard()
    end, _, _ = board.connect(OPENED)
    _, stream, _ = board.connect(RESUMED)
    end._peer_stream = -1
    board.connect(OPENED)
    assert not end.accept(stream, Frame(0, 0, b"the later stream is cut"))


@pytest.mark.parametrize("late", [RESUMED, replace(OPENED, stream=9)], ids=["resumed", "opened"])
def test_a_conversation_that_has_ended_is_neither_resumed_nor_opened_again_by_its_token(late: Dial) -> None:
    board = Switchboard()
    end, _, _ = board.connect(OPENED)
    board.forget(end)
    with pytest.raises(PeerError) as refused:
        board.connect(late)
    assert refused.value.rule == "I09"


def test_a_parked_conversation_counts_among_the_partys_share_and_among_all() -> None:
    board = Switchboard(share=1, room=2)
    end, stream, _ = board.connect(OPENED)
    end.detach(stream)
    with pytest.raises(PeerError, match="has 1 conversations open") as refused:
        board.connect(replace(OPENED, token="b2" * 32))
    assert refused.value.rule == "I08"
    board.connect(replace(OPENED, party="bank-2"))
    with pytest.raises(NoRoom):
        board.connect(replace(OPENED, party="bank-3"))
    assert board.connect(RESUMED)[0] is end
