"""The wire guard: what carries no form, no right or another form than declared crosses in neither direction."""

from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

from lianxin.crypto.signing import SigningKey
from lianxin.federation import wire
from lianxin.federation.errors import GuardRefused
from lianxin.federation.steps import STEPS

DECLARED = {"masked": "MASKED", "attempt": "CONTROL"}
KEY = SigningKey.from_seed(b"k" * 32)
HEADER = {
    "type": "envelope", "version": 1, "run": "run-1", "conversation": "contracts/bank-1", "step": "contract.close",
    "round": 0, "seq": 0, "sender": "platform-a", "recipient": "bank-1", "previous": "00" * 32, "contract": "11" * 32,
    "epoch": 3, "expires_at": "2026-12-31T00:00:00Z",
}  # fmt: skip


def refused(rule: str) -> Any:
    class Expectation:
        def __enter__(self) -> None:
            self.raises = pytest.raises(GuardRefused)
            self.caught = self.raises.__enter__()

        def __exit__(self, *failure: Any) -> bool:
            done = bool(self.raises.__exit__(*failure))
            assert self.caught.value.rule == rule
            return done

    return Expectation()


def made_up(name: str, *fields: tuple[str, str | None]) -> type[Message]:
    """Return a message type made at runtime; each field is a text with a form, or with None for none."""
    file = descriptor_pb2.FileDescriptorProto(name=f"made_up_{name}.proto", package="made.up", syntax="proto3")
    message = file.message_type.add(name=name)
    for number, (field, form) in enumerate(fields, start=1):
        kind = descriptor_pb2.FieldDescriptorProto.TYPE_STRING
        added = message.field.add(name=field, number=number, type=kind, label=1)
        if form is not None:
            added.options.Extensions[wire.crossing_pb2.form] = wire.form_number(form)
    file.dependency.append("lianxin/proto/crossing.proto")
    pool = descriptor_pool.DescriptorPool()
    for needed in ("google/protobuf/descriptor.proto", "lianxin/proto/crossing.proto"):
        pool.AddSerializedFile(descriptor_pool.Default().FindFileByName(needed).serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"made.up.{name}"))


@pytest.mark.rule("G01")
def test_every_field_of_every_message_carries_a_form() -> None:
    fields = [field for kind in wire.MESSAGES.values() for field in kind.DESCRIPTOR.fields]
    assert len(fields) > 60 and [f.full_name for f in fields if wire.form_of(field=f) is None] == []


@pytest.mark.rule("G01")
def test_a_field_without_a_form_is_refused_even_when_it_is_empty() -> None:
    formless = made_up("RunStatus", ("state", "CONTROL"), ("note", None))
    for message in (formless(), formless(state="x"), formless(note="x")):
        with refused("G01"):
            wire.guard(message, "contract.close", DECLARED, with_right=True)


def test_the_same_message_with_a_form_on_each_field_passes() -> None:
    formed = made_up("RunStatus", ("state", "CONTROL"))
    crossings = wire.guard(formed(state="x"), "contract.close", DECLARED, with_right=False)
    assert crossings == [wire.Crossing("RunStatus.state", "CONTROL")]


@pytest.mark.rule("G01")
def test_without_the_check_of_forms_a_field_without_one_would_cross(monkeypatch: pytest.MonkeyPatch) -> None:
    formless = made_up("RunStatus", ("state", "CONTROL"), ("note", None))
    form_of = wire.form_of
    monkeypatch.setattr(wire, "form_of", lambda field: form_of(field) or "CONTROL")
    assert len(wire.guard(formless(state="x", note="secret"), "contract.close", DECLARED, with_right=False)) == 2


@pytest.mark.parametrize("step", sorted(STEPS))
@pytest.mark.rule("G02")
def test_a_message_crosses_in_the_steps_that_list_it_and_in_no_other(step: str) -> None:
    for name, kind in wire.MESSAGES.items():
        if name in STEPS[step].messages:
            wire.guard(kind(), step, DECLARED, with_right=False)
        elif not name.startswith("Named"):
            with refused("G02"):
                wire.guard(kind(), step, DECLARED, with_right=True)


@pytest.mark.rule("G03")
def test_a_field_that_the_definition_does_not_have_is_refused_at_any_depth() -> None:
    unknown = bytes([0xF8, 0x07, 0x01])
    outer = wire.RunStatus.FromString(wire.RunStatus(state="x").SerializeToString() + unknown)
    with refused("G03"):
        wire.guard(outer, "contract.close", DECLARED, with_right=True)
    inner = wire.LearningMessage(metrics=[wire.NamedNumber.FromString(unknown)])
    with refused("G03"):
        wire.guard(inner, "learning.exchange", DECLARED, with_right=True)


RIGHTLESS = {
    "CIPHERTEXT": ("matching.query", wire.BankQueries(ciphertexts=b"x")),
    "PSEUDONYM": ("matching.query", wire.PlatformAnswers(answers=b"x")),
    "MASKED": ("learning.exchange", wire.LearningMessage(arrays=[
        wire.NamedArray(name="masked", declared_form=wire.form_number("MASKED"), data=b"x")])),
}  # fmt: skip


@pytest.mark.parametrize("form", RIGHTLESS)
@pytest.mark.rule("G04")
def test_a_value_needs_a_right_and_crosses_with_one(form: str) -> None:
    step, message = RIGHTLESS[form]
    with refused("G04"):
        wire.guard(message, step, DECLARED, with_right=False)
    assert form in {crossing.form for crossing in wire.guard(message, step, DECLARED, with_right=True)}


UNDECLARED = {
    "another name": ("raw_labels", "MASKED"), "a lesser form": ("masked", "CONTROL"),
    "no form": ("masked", "FORM_UNSPECIFIED"), "the form DECLARED itself": ("attempt", "DECLARED"),
    "an empty name": ("", "CONTROL"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNDECLARED)
@pytest.mark.rule("G05")
def test_a_named_value_crosses_only_in_the_form_that_the_contract_declares(case: str) -> None:
    name, form = UNDECLARED[case]
    number = wire.form_number(form)
    entries = {
        "arrays": wire.NamedArray(name=name, declared_form=number, data=b"x"),
        "metrics": wire.NamedNumber(name=name, declared_form=number, value=7),
        "config": wire.NamedText(name=name, declared_form=number, value="x"),
    }
    for place, entry in entries.items():
        with refused("G05"):
            wire.guard(wire.LearningMessage(**{place: [entry]}), "learning.exchange", DECLARED, with_right=True)


@pytest.mark.rule("G05")
def test_a_name_that_is_not_declared_does_not_cross_beside_an_empty_value() -> None:
    control = wire.form_number("CONTROL")
    for entry in ({"metrics": [wire.NamedNumber(name="91630102", value=0)]},
                  {"config": [wire.NamedText(name="91630102", declared_form=control)]},
                  {"arrays": [wire.NamedArray(name="91630102")]}):  # fmt: skip
        with refused("G05"):
            wire.guard(wire.LearningMessage(**entry), "learning.exchange", DECLARED, with_right=True)
    zero = wire.LearningMessage(metrics=[wire.NamedNumber(name="attempt", declared_form=control, value=0)])
    crossings = wire.guard(zero, "learning.exchange", DECLARED, with_right=False)
    assert wire.Crossing("NamedNumber.value", "CONTROL") in crossings


def test_a_sealed_message_opens_to_the_same_header_message_and_hash() -> None:
    data, sent = wire.seal(dict(HEADER), wire.RunStatus(state="finished"), KEY)
    came = wire.unseal(data)
    assert (came.header, came.message, came.message_hash) == (sent.header, sent.message, sent.message_hash)
    wire.verify_envelope(came, KEY.public_hex)


@pytest.mark.rule("G06")
def test_a_message_above_the_limit_is_neither_sealed_nor_opened() -> None:
    large = wire.PlatformAnswers(answers=bytes(wire.MESSAGE_LIMIT_BYTES + 1))
    with refused("G06"):
        wire.seal(dict(HEADER), large, KEY)
    with refused("G06"):
        wire.unseal(wire.envelope_pb2.Envelope(payload=bytes(wire.MESSAGE_LIMIT_BYTES + 5000)).SerializeToString())


@pytest.mark.rule("G06")
def test_fields_in_another_order_are_another_encoding_and_refused() -> None:
    data, _ = wire.seal(dict(HEADER), wire.RunStatus(state="finished"), KEY)
    first = wire.envelope_pb2.Envelope(run=HEADER["run"]).SerializeToString()
    assert data.startswith(first)
    with refused("G06"):
        wire.unseal(data.removeprefix(first) + first)
    with refused("G06"):
        wire.unseal(first + data)


UNKNOWN = wire.envelope_pb2.Envelope(payload=b"91110000600037341L").SerializeToString()


def with_unknown_field(data: bytes) -> bytes:
    """Return an encoding that has a field 1000 more, of bytes, at its end: what any parser of protobuf lets pass."""
    return data + bytes([(1000 << 3 | 2) & 0x7F | 0x80, (1000 << 3 | 2) >> 7, len(UNKNOWN)]) + UNKNOWN


@pytest.mark.rule("G03")
def test_what_an_envelope_or_its_message_holds_beside_its_fields_is_refused_before_it_is_looked_at() -> None:
    data, _ = wire.seal(dict(HEADER), wire.RunStatus(state="finished"), KEY)
    assert wire.unseal(data).message.state == "finished"
    with refused("G03"):
        wire.unseal(with_unknown_field(data))
    inner = wire.NamedText.FromString(with_unknown_field(b""))
    for message in (wire.RunStatus.FromString(with_unknown_field(b"")), wire.LearningMessage(config=[inner])):
        with refused("G03"):
            wire.unseal(wire.seal(dict(HEADER), message, KEY)[0])


@pytest.mark.rule("G03")
def test_without_the_check_an_envelope_carries_anything_under_the_same_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    data, sent = wire.seal(dict(HEADER), wire.RunStatus(state="finished"), KEY)
    monkeypatch.setattr(wire, "_check_known", lambda message: None)
    assert wire.unseal(with_unknown_field(data)).message_hash == sent.message_hash


@pytest.mark.rule("G02")
def test_an_envelope_of_a_message_type_or_step_that_is_not_known_is_refused() -> None:
    data, _ = wire.seal(dict(HEADER), wire.RunStatus(state="finished"), KEY)
    for field, value in (("message_type", "Envelope"), ("step", "contract.undo")):
        envelope = wire.envelope_pb2.Envelope.FromString(data)
        setattr(envelope, field, value)
        with refused("G02"):
            wire.unseal(envelope.SerializeToString(deterministic=True))
