"""What can leave a party: docs/crossings.md is made from the protos, the steps and the contract's forms, and the guard
that keeps to it stands at both ends of every road, for gRPC and for Flower's messages alike.

Run as a program, this file writes docs/crossings.md anew. A new message needs its sender in `SENDERS`, unless its name
begins with Bank or Platform.
"""

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import test_wire
import worlds
from google.protobuf.descriptor import FieldDescriptor
from worlds import Ends, World

from lianxin.federation import grid, services, wire
from lianxin.federation.channel import Channel
from lianxin.federation.errors import GuardRefused, PeerError
from lianxin.federation.model import Provenance
from lianxin.federation.session import fitting_modes
from lianxin.federation.steps import STEPS
from lianxin.parties.agreement import FORMS
from lianxin.parties.identity import load_identity, make_network
from lianxin.proto import crossing_pb2, envelope_pb2, party_pb2

CROSSINGS = Path(__file__).resolve().parents[1] / "docs" / "crossings.md"
ends, finished, province = worlds.ends, worlds.finished, worlds.province
BANK, PLATFORM, EITHER = "bank", "platform", "either"
SENDERS = {
    "Approval": BANK, "EncryptedLabels": BANK, "HistogramNoted": BANK, "LabelHistogram": PLATFORM,
    "LearningMessage": EITHER, "LiveRows": EITHER, "MaskSet": PLATFORM, "MaskSums": BANK, "MaskTotals": PLATFORM,
    "MaskedGradient": PLATFORM, "MaskedResiduals": PLATFORM, "PointsNoted": BANK, "Proposal": PLATFORM,
    "RangeChoice": BANK, "Refusal": EITHER, "ResidualShares": BANK, "RoundNoted": BANK, "RunClosed": BANK,
    "RunStatus": PLATFORM, "ScorePoints": PLATFORM, "ScoreRange": PLATFORM, "SignedContract": PLATFORM,
    "OwnColumns": BANK, "CrossProducts": PLATFORM, "OwnCorrelations": PLATFORM, "SelectionVerdict": BANK,
    "SelectionNoted": PLATFORM, "TreeFeatures": PLATFORM, "TreeOpening": BANK, "TreeGradients": BANK, "TreeNodes": BANK,
    "NodeHistograms": PLATFORM, "SplitChoice": BANK, "SplitBits": PLATFORM, "TreeGrown": BANK, "CutBits": PLATFORM,
    "CutBitsNoted": BANK, "ScoreRequest": BANK, "ScoreReply": PLATFORM,
    "QueryReply": PLATFORM, "QueryRequest": BANK, "TrainingKey": EITHER, "TrainingRows": BANK, "TrainingRowsNoted": PLATFORM,
}  # fmt: skip
HEAD = """# What can leave, by message, field, form and step

Made by `python tests/test_crossings.py` from `proto/`, `federation/steps.py`, `federation/session.py` and the forms that a
contract declares; a test compares it. What is not listed here cannot be sent: the guard (`federation/wire.guard`) walks every
message by reflection before it is sealed and again after it is opened, and refuses a field without a form, a message in
a step that does not list it, and a form without a release in a fitting mode behind it ([threat model](threat-model.md)).
"""


def form_names() -> list[str]:
    return [name for name, _ in crossing_pb2.Form.items() if name not in ("FORM_UNSPECIFIED", "DECLARED")]


def right_of(form: str, step: str = "") -> str:
    if form in wire.FREE_FORMS:
        return "none"
    return "a release in mode " + ", ".join(sorted(fitting_modes(form, step)))


def sender_of(kind: str) -> str:
    if kind in SENDERS:
        return SENDERS[kind]
    sender = next((side for side in (BANK, PLATFORM) if kind.startswith(side.capitalize())), None)
    assert sender is not None, f"say in SENDERS of this file who sends a {kind}"
    return sender


def fields_of(descriptor: Any, before: str = "") -> Iterator[tuple[str, FieldDescriptor]]:
    """Yield each field, with the fields of the messages in it after it, as (dotted name, field)."""
    for field in descriptor.fields:
        yield before + field.name, field
        if field.message_type is not None:
            yield from fields_of(field.message_type, f"{before}{field.name}.")


def row_of(kind: str, name: str, field: FieldDescriptor, step: str) -> str:
    form = str(wire.form_of(field))
    right = "of the name's form, see below" if form == "DECLARED" else right_of(form, step)
    return f"| `{kind}` | {sender_of(kind)} | `{name}` | {form} | {right} |"


def step_part(step: str) -> list[str]:
    lines = [f"### `{step}`", "", f"In conversations of `{STEPS[step].conversation}`.", ""]
    lines += ["| message | sender | field | form | right behind it |", "|---|---|---|---|---|"]
    for kind in sorted(STEPS[step].messages - {"Refusal"}):
        lines += [row_of(kind, name, field, step) for name, field in fields_of(wire.MESSAGES[kind].DESCRIPTOR)]
    return [*lines, ""]


def plain_table(descriptor: Any) -> list[str]:
    rows = [f"| `{name}` | {wire.form_of(field)} |" for name, field in fields_of(descriptor)]
    return ["", "| field | form |", "|---|---|", *rows, ""]


def document() -> str:
    lines = [HEAD, "## Forms", "", "| form | right behind it |", "|---|---|"]
    lines += [f"| {form} | {right_of(form)} |" for form in form_names()]
    lines += ["", "A release names its recipient, its purpose and its provider; one for another does not count.", ""]
    lines += ["## Steps", "", "`Refusal` may cross in every step, from either side:"]
    lines += plain_table(wire.MESSAGES["Refusal"].DESCRIPTOR)
    for step in STEPS:
        lines += step_part(step)
    lines += ["## Named values of Flower's messages", "", "| name | form | right behind it |", "|---|---|---|"]
    lines += [f"| `{name}` | {form} | {right_of(form)} |" for name, form in sorted(FORMS.items())]
    lines += ["", "## Around every message", "", "The envelope, under its sender's signature:"]
    lines += plain_table(envelope_pb2.Envelope.DESCRIPTOR)
    lines += ["The frame of a gRPC stream, which holds one envelope:", *plain_table(party_pb2.Frame.DESCRIPTOR)]
    return "\n".join(lines).rstrip() + "\n"


def test_the_document_says_what_can_leave() -> None:
    said = CROSSINGS.read_text(encoding="utf-8")
    assert said == document(), "run `python tests/test_crossings.py` to write docs/crossings.md anew"


def test_every_message_has_a_step_and_a_sender() -> None:
    listed = {kind for step in STEPS.values() for kind in step.messages}
    inner = {
        field.message_type.name
        for kind in wire.MESSAGES.values()
        for _, field in fields_of(kind.DESCRIPTOR)
        if field.message_type is not None
    }
    assert listed == set(wire.MESSAGES) - inner
    assert {sender_of(kind) for kind in listed} == {BANK, PLATFORM, EITHER}


def test_in_a_real_run_each_message_is_sent_by_whom_the_document_says(finished: World) -> None:
    sent = {
        (leaf["message_type"], BANK if party in finished.banks else PLATFORM)
        for party in finished.layout.parties
        for leaf in finished.leaves(party, "envelope")
        if leaf["direction"] == "out"
    }
    assert len(sent) > 25
    assert [pair for pair in sent if sender_of(pair[0]) not in (pair[1], EITHER)] == []


# ---- the fit of form and mode


def right(mode: str) -> Provenance:
    digest = "00" * 32
    return Provenance(digest, "platform-a", "bank-1", "P4", mode, ("x",), 100, digest, digest, 1)


BY_FORM: dict[str, tuple[str, Any]] = {
    "PSEUDONYM": ("matching.query", wire.PlatformAnswers(answers=b"x")),
    "CIPHERTEXT": ("matching.query", wire.BankQueries(ciphertexts=b"x")),
    "MASKED": ("round.gradient", wire.MaskedGradient(ciphertexts=b"x")),
    "AGGREGATE": ("round.range", wire.RangeChoice(mean_steps=1)),
    "DESENSITISED": ("scoring.points", wire.ScorePoints(points=b"x")),
}
MODES = ("COMPUTE_ONLY", "SCORE_ONLY", "DESENSITISED", "SPLITS", "PLAINTEXT", "AGGREGATE")


@pytest.mark.rule("G04")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("form", BY_FORM)
def test_a_form_crosses_behind_a_release_in_a_fitting_mode_and_behind_no_other(
    ends: Ends, form: str, mode: str
) -> None:
    step, message = BY_FORM[form]
    if mode in fitting_modes(form, step):
        ends.platform.session.send(message, step, [right(mode)])
        assert ends.platform.leaves()[-1]["kind"] == "envelope"
        return
    with pytest.raises(GuardRefused) as refused:
        ends.platform.session.send(message, step, [right(mode)])
    assert refused.value.rule == "G04" and not ends.platform.channel.outbox._messages


def test_plain_values_cross_behind_a_plaintext_release_alone_and_a_statistic_behind_an_aggregate() -> None:
    assert fitting_modes("PLAIN", "any.step") == {"PLAINTEXT"}
    assert fitting_modes("AGGREGATE", "any.step") == {"AGGREGATE"}
    assert "COMPUTE_ONLY" not in fitting_modes("DESENSITISED", "scoring.points")


def test_a_consent_to_a_score_lets_no_desensitised_value_cross_outside_the_score_steps() -> None:
    assert "SCORE_ONLY" in fitting_modes("DESENSITISED", "scoring.points")
    assert "SCORE_ONLY" not in fitting_modes("DESENSITISED", "another.step")


def test_rows_for_the_sides_of_cuts_let_no_desensitised_value_cross_outside_the_steps_of_sides() -> None:
    sides = {step for step in STEPS if "SPLITS" in fitting_modes("DESENSITISED", step)}
    assert sides == {"boosting.histogram", "boosting.split", "boosting.score", "scoring.answer"}
    assert all("SPLITS" not in fitting_modes(form, step) for form in ("PLAIN", "AGGREGATE") for step in STEPS)


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "PLAINTEXT"])
def test_a_plain_value_in_a_message_of_our_own_is_held_back_without_a_plaintext_release(
    ends: Ends, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_field = test_wire.made_up("RunStatus", ("state", "PLAIN"))
    with pytest.raises(GuardRefused) as refused:
        ends.platform.session.send(open_field(state="x"), worlds.STEP, [right(mode)])
    assert refused.value.rule == "G04"
    monkeypatch.setattr(type(ends.platform.session), "_check_rights", lambda *_arguments: None)
    ends.platform.session.send(open_field(state="x"), worlds.STEP, [right(mode)])
    assert ends.platform.taken()


# ---- both ends, both roads


def unsent_messages() -> dict[str, tuple[str, Callable[[], Any], str]]:
    """Return, by case: the step, what makes a message that may not cross there, and the rule that refuses it."""
    declared = wire.form_number("PUBLIC")
    named = wire.NamedArray(name="raw_labels", declared_form=declared, dtype="uint8", shape=[1], data=b"\x01")
    lesser = wire.NamedArray(name="masked", declared_form=declared, dtype="uint8", shape=[1], data=b"\x01")
    unknown = wire.RunStatus(state="x").SerializeToString() + bytes([0xF8, 0x07, 0x01])
    return {
        "a message of another step": (worlds.STEP, lambda: wire.BankQueries(chunk=1), "G02"),
        "a field that the definition lacks": (worlds.STEP, lambda: wire.RunStatus.FromString(unknown), "G03"),
        "a Flower array of an undeclared name": (
            grid.STEP, lambda: wire.LearningMessage(kind="train", arrays=[named]), "G05"),
        "a Flower array in a lesser form": (
            grid.STEP, lambda: wire.LearningMessage(kind="train", arrays=[lesser]), "G05"),
    }  # fmt: skip


class GrpcEnds(Ends):
    """The same two ends, joined by gRPC on loopback in place of pipes in memory."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        make_network(folder / "net", "platform-a", ["bank-1"], None, _MachineClock(), 2)
        met, self._over = list[Channel](), threading.Event()
        arrived = threading.Event()

        def hold(channel: Channel) -> None:
            met.append(channel)
            arrived.set()
            self._over.wait(30)

        host, guest = (load_identity(folder / "net" / party) for party in ("platform-a", "bank-1"))
        self._server = services.serve("127.0.0.1:0", host.server_tls(), host.pinned_peers(), hold, on_refused=_nobody)
        address = f"127.0.0.1:{self._server.port}"
        self._link = services.GrpcLink(address, guest.client_tls("platform-a"), "platform-a")
        dialled = self._link.open(worlds.CONVERSATION, "test-run-1")
        assert arrived.wait(10)
        for end, channel in ((self.platform, met[0]), (self.bank, dialled)):
            end.session.channel = channel

    def close(self) -> None:
        self._over.set()
        self._link.close()
        self._server.stop(0.0)
        super().close()


def _nobody(rule: str, uri: str | None) -> None:
    raise AssertionError(f"{uri} was refused by {rule}")


class _MachineClock:
    def now(self) -> str:
        return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.fixture(scope="module", params=["memory", "grpc"])
def make_ends(request: pytest.FixtureRequest) -> type[Ends]:
    return Ends if request.param == "memory" else GrpcEnds


@pytest.mark.rule("G02", "G03", "G05")
@pytest.mark.parametrize("case", unsent_messages())
def test_the_guard_refuses_at_the_sender_and_without_it_at_the_receiver(
    make_ends: type[Ends], case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, make, rule = unsent_messages()[case]
    pair = make_ends(tmp_path)
    try:
        with pytest.raises(GuardRefused) as held:
            pair.platform.session.send(make(), step, [right("COMPUTE_ONLY")])
        assert held.value.rule == rule and pair.platform.refusals() == [rule]
        guard = wire.guard
        with monkeypatch.context() as without:
            without.setattr(wire, "guard", lambda *_arguments: [])
            pair.platform.session.send(make(), step, [right("COMPUTE_ONLY")])
        assert wire.guard is guard
        with pytest.raises(PeerError) as refused:
            pair.bank.session.receive(step, (type(make()),), 5.0)
        assert refused.value.rule == rule and pair.bank.refusals() == [rule]
    finally:
        pair.close()


@pytest.mark.rule("G01")
def test_a_field_that_is_added_without_a_form_cannot_be_sent(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    formless = test_wire.made_up("RunStatus", ("state", "CONTROL"), ("note", None))
    for message in (formless(state="x"), formless(state="x", note="91630102")):
        with pytest.raises(GuardRefused) as refused:
            ends.platform.session.send(message, worlds.STEP, [right("PLAINTEXT")])
        assert refused.value.rule == "G01" and not ends.platform.channel.outbox._messages
    form_of = wire.form_of
    monkeypatch.setattr(wire, "form_of", lambda field: form_of(field) or "CONTROL")
    ends.platform.session.send(formless(state="x", note="91630102"), worlds.STEP)
    assert b"91630102" in ends.platform.taken()


if __name__ == "__main__":
    CROSSINGS.write_text(document(), encoding="utf-8")
