"""A conversation's envelopes: what is not the peer's next word under the signed contract is refused by name, traced
at both ends and answered with a signed refusal."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import worlds
from worlds import End, Ends

from lianxin.crypto import canonical
from lianxin.crypto.signing import sign_record
from lianxin.federation import wire
from lianxin.federation.errors import GuardRefused, PeerError
from lianxin.federation.model import Provenance
from lianxin.federation.session import PeerRefused, Receive, Send, converse
from lianxin.federation.wire import RunClosed, RunStatus

ends = worlds.ends
STEP = worlds.STEP
CANARY = "91630102MAQH0CANARY"
Envelope = wire.envelope_pb2.Envelope


def status(state: str = "finished") -> Any:
    return RunStatus(state=state, rule="", checkpoint=b"head")


def changed(data: bytes, field: str, value: Any) -> bytes:
    """Return the envelope with one of its fields set to another value, or to what a function makes of the old one."""
    envelope = Envelope.FromString(data)
    setattr(envelope, field, value(getattr(envelope, field)) if callable(value) else value)
    return envelope.SerializeToString(deterministic=True)


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def hear(end: End, types: tuple[Any, ...] = (RunStatus,), step: str = STEP) -> Any:
    return end.session.receive(step, types, 0.0)


def assert_refused(ends: Ends, rule: str, before: int = 0) -> None:
    """Check that the bank refuses what is on its way by `rule`, leaves that leaf, and that the platform is told."""
    with pytest.raises(PeerError) as refused:
        hear(ends.bank)
    assert refused.value.rule == rule and not isinstance(refused.value, PeerRefused)
    leaves = ends.bank.leaves()
    assert [leaf["kind"] for leaf in leaves[before:]] == ["refusal", "envelope"]
    assert leaves[before]["rule"] == rule and leaves[before]["peer"] == "platform-a"
    with pytest.raises(PeerRefused) as told:
        hear(ends.platform)
    assert told.value.rule == rule


def test_a_message_is_a_leaf_at_both_ends_with_the_same_hash_before_it_is_read(ends: Ends) -> None:
    ends.platform.session.send(status(), STEP)
    (sent,) = ends.platform.leaves()
    assert ends.bank.leaves() == []
    assert hear(ends.bank).state == "finished"
    (came,) = ends.bank.leaves()
    assert (sent["direction"], came["direction"]) == ("out", "in")
    assert sent["message_hash"] == came["message_hash"] and sent["forms"] == came["forms"]


def test_a_leaf_that_cannot_be_written_keeps_the_message_here(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: Any) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(ends.platform.session.trace, "crossed", full)
    with pytest.raises(OSError, match="full"):
        ends.platform.session.send(status(), STEP)
    with pytest.raises(PeerError):
        hear(ends.bank)
    assert ends.bank.leaves() == []


TAMPERED: dict[str, tuple[str, Any, str]] = {
    "run": ("run", "test-run-2", "S01"),
    "conversation": ("conversation", "contracts/bank-2", "S01"),
    "sender": ("sender", "platform-b", "S01"),
    "recipient": ("recipient", "bank-2", "S01"),
    "contract": ("contract", flipped, "S01"),
    "step": ("step", "contract.agree", "S02"),
    "unknown step": ("step", "contract.forget", "G02"),
    "round": ("round", 1, "S02"),
    "seq": ("seq", 1, "S02"),
    "previous": ("previous", flipped, "S02"),
    "epoch": ("epoch", 7, "S02"),
    "expiry": ("expires_at", "2027-12-31T00:00:00Z", "S02"),
    "message type": ("message_type", "RunClosed", "G03"),
    "unknown message type": ("message_type", "Whatever", "G02"),
    "payload": ("payload", status("failed").SerializeToString(), "S02"),
    "payload that is no message": ("payload", b"\xff\xff", "G06"),
    "signature": ("signature", flipped, "S02"),
    "no signature": ("signature", b"", "S02"),
}


@pytest.mark.parametrize("case", TAMPERED)
@pytest.mark.rule("R32")
def test_an_envelope_changed_on_its_way_is_refused_traced_and_answered(ends: Ends, case: str) -> None:
    field, value, rule = TAMPERED[case]
    ends.platform.session.send(status(), STEP)
    ends.platform.put(changed(ends.platform.taken(), field, value))
    assert_refused(ends, rule)


MANGLED = [lambda d: d + b"\x00", lambda d: d[:-1], lambda d: d + d, lambda d: b"", lambda d: b"?"]


@pytest.mark.parametrize("change", MANGLED)
def test_bytes_that_are_no_canonical_envelope_are_refused(ends: Ends, change: Callable[[bytes], bytes]) -> None:
    ends.platform.session.send(status(), STEP)
    ends.platform.put(change(ends.platform.taken()))
    with pytest.raises(PeerError) as refused:
        hear(ends.bank)
    assert refused.value.rule in {"G02", "G06", "S02"} and ends.bank.refusals() == [refused.value.rule]


@pytest.mark.rule("R32")
def test_every_single_flipped_byte_of_an_envelope_is_refused(ends: Ends) -> None:
    ends.platform.session.send(status(), STEP)
    data = ends.platform.taken()
    for place in range(len(data)):
        bent = data[:place] + bytes([data[place] ^ 0x20]) + data[place + 1 :]
        with pytest.raises(PeerError):
            ends.bank.session.accept(bent, STEP, (RunStatus,))
        assert ends.bank.session._received == 0
        while ends.bank.channel.outbox._messages:
            ends.bank.taken()
    assert len(ends.bank.refusals()) == len(data)


LIES: dict[str, tuple[dict[str, Any], str]] = {
    "a step that is not due": ({"step": "contract.agree"}, "S05"),
    "another round": ({"round": 3}, "S05"),
    "a number ahead": ({"seq": 1}, "S03"),
    "another envelope before": ({"previous": "11" * 32}, "S03"),
    "a longer life than the contract's": ({"expires_at": "2027-01-01T00:00:00Z"}, "S04"),
    "another contract": ({"contract": "22" * 32}, "S01"),
    "another run": ({"run": "test-run-2"}, "S01"),
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.rule("R32")
def test_a_peer_that_signs_an_envelope_out_of_place_is_refused(ends: Ends, lie: str) -> None:
    header, rule = LIES[lie]
    ends.platform.put(ends.platform.sealed(status(), **header))
    assert_refused(ends, rule)


def test_a_message_of_a_type_that_is_not_due_is_refused(ends: Ends) -> None:
    ends.platform.put(ends.platform.sealed(RunClosed(checkpoint=b"x")))
    assert_refused(ends, "S05")


def test_a_message_that_the_step_does_not_list_is_refused_by_the_guard_on_receipt(ends: Ends) -> None:
    ends.platform.put(ends.platform.sealed(wire.BankQueries(chunk=1)))
    with pytest.raises(PeerError) as refused:
        hear(ends.bank, types=(wire.BankQueries,))
    assert refused.value.rule == "G02" and ends.bank.refusals() == ["G02"]


def test_after_the_contract_has_expired_nothing_is_accepted(ends: Ends) -> None:
    ends.platform.session.send(status(), STEP)
    ends.bank.clock.advance(366 * 86400)
    with pytest.raises(PeerError, match="after the contract's end") as refused:
        hear(ends.bank)
    assert refused.value.rule == "S04"


def right(recipient: str, purpose: str = "P4", provider: str = "platform-a") -> Provenance:
    return Provenance("00" * 32, provider, recipient, purpose, "COMPUTE_ONLY", ("x",), 100, "00" * 32, "00" * 32, 1)


WRONG_RIGHTS = {
    "no right": [], "another recipient": [right("bank-2")], "another purpose": [right("bank-1", "P1")],
    "another provider": [right("bank-1", provider="bank-1")], "one of two": [right("bank-1"), right("bank-2")],
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG_RIGHTS)
@pytest.mark.rule("G04")
def test_values_do_not_leave_without_a_right_for_this_recipient_and_purpose(ends: Ends, case: str) -> None:
    message = wire.PlatformAnswers(chunk=0, answers=b"pseudonyms")
    with pytest.raises(GuardRefused) as refused:
        ends.platform.session.send(message, "matching.query", WRONG_RIGHTS[case])
    assert refused.value.rule == "G04" and ends.platform.refusals() == ["G04"]
    assert not ends.platform.channel.outbox._messages
    ends.platform.session.send(message, "matching.query", [right("bank-1")])
    assert ends.platform.leaves()[-1]["releases"] == ["00" * 32]


@pytest.mark.rule("G04")
def test_without_the_check_of_rights_a_release_for_another_bank_would_do(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(ends.platform.session), "_check_rights", lambda *_arguments: None)
    ends.platform.session.send(wire.PlatformAnswers(answers=b"x"), "matching.query", [right("bank-2")])
    assert hear(ends.bank, (wire.PlatformAnswers,), "matching.query").answers == b"x"


def test_a_refused_send_uses_no_number_so_the_conversation_goes_on(ends: Ends) -> None:
    with pytest.raises(GuardRefused):
        ends.platform.session.send(status(), "matching.query")
    ends.platform.session.send(status(), STEP)
    assert hear(ends.bank).state == "finished"


def test_a_refusal_in_other_words_than_a_rule_is_not_repeated_to_anyone(ends: Ends) -> None:
    record = {"type": "refusal", "version": 1, "run": "test-run-1", "party": "platform-a", "rule": CANARY.lower()}
    signed = sign_record(record, [("platform-a", ends.platform.key)])
    data = canonical.encode({"type": "signed", "version": 1, **signed})
    ends.platform.put(ends.platform.sealed(wire.Refusal(refusal=data)))
    with pytest.raises(PeerError) as refused:
        hear(ends.bank)
    assert CANARY.lower() not in f"{refused.value} {refused.value.rule} {ends.bank.leaves()}"


def test_a_refusal_that_another_key_signed_is_refused_itself(ends: Ends) -> None:
    record = {"type": "refusal", "version": 1, "run": "test-run-1", "party": "platform-a", "rule": "S01"}
    signed = sign_record(record, [("platform-a", ends.bank.key)])
    data = canonical.encode({"type": "signed", "version": 1, **signed})
    ends.platform.put(ends.platform.sealed(wire.Refusal(refusal=data)))
    with pytest.raises(PeerError) as refused:
        hear(ends.bank)
    assert refused.value.rule == "S02" and not isinstance(refused.value, PeerRefused)


def test_a_bank_in_flowers_conversation_follows_the_round_forward_and_never_back(tmp_path: Path) -> None:
    ends = Ends(tmp_path)
    ends.bank.session.follows = True
    for number in (0, 1, 1, 2):
        ends.platform.session.round = number
        ends.platform.session.send(status(), STEP)
        hear(ends.bank)
        assert ends.bank.session.round == number
    ends.platform.session.round = 1
    ends.platform.session.send(status(), STEP)
    with pytest.raises(PeerError) as refused:
        hear(ends.bank)
    assert refused.value.rule == "S05"
    ends.close()


def test_converse_drives_a_role_to_its_result(ends: Ends) -> None:
    def ask() -> Any:
        yield Send(status(), STEP)
        answer = yield Receive(STEP, (RunClosed,))
        return answer.checkpoint

    ends.bank.session.send(RunClosed(checkpoint=b"head"), STEP)
    assert converse(ask(), ends.platform.session, 0.0) == b"head"
    assert hear(ends.bank).state == "finished"
