"""The contract on the wire: the generated modules are the committed ones, and nothing crosses without form and step."""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from conftest import ROOT
from generate_protos import generate
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from lianxin.federation import wire
from lianxin.federation.errors import GuardRefused
from lianxin.federation.steps import STEPS
from lianxin.proto import crossing_pb2

NAMES = sorted(path.stem for path in (ROOT / "proto").glob("*.proto"))
FILES = [import_module(f"lianxin.proto.{name}_pb2").DESCRIPTOR for name in NAMES]
STEP_OF = {message: step for step, allowed in STEPS.items() for message in allowed.messages}
CARRIER = {
    **{"NamedArray": "arrays", "NamedNumber": "metrics", "NamedText": "config"},
    **{"PlainField": "plain", "DesensitisedField": "desensitised", "RefusedField": "refused"},
    "Cut": "cuts",
}
CARRYING = {
    **dict.fromkeys(CARRIER, "QueryReply"),
    **dict.fromkeys(list(CARRIER)[:3], "LearningMessage"),
    "Cut": "SplitChoice",
}
NAMED = {"NamedArray", "NamedNumber", "NamedText"}


def with_nested(messages: list[Descriptor]) -> Iterator[Descriptor]:
    for message in messages:
        yield message
        yield from with_nested(list(message.nested_types))


MESSAGES = {m.name: m for file in FILES for m in with_nested(list(file.message_types_by_name.values()))}
BELOW_THE_GUARD = {"Envelope", "Frame"}  # what carries a guarded message, and what carries that
GUARDED = [message for name, message in MESSAGES.items() if name not in BELOW_THE_GUARD]


def made_up(message: Descriptor, formless: str = "") -> Message:
    """Return an empty message like `message`, within the one that carries it, but its field `formless` has no form."""
    file = descriptor_pb2.FileDescriptorProto()
    message.file.CopyToProto(file)
    for field in (f for m in file.message_type if m.name == message.name for f in m.field if f.name == formless):
        field.ClearField("options")
    pool = descriptor_pool.DescriptorPool()
    for known in (descriptor_pb2.DESCRIPTOR, crossing_pb2.DESCRIPTOR):
        pool.AddSerializedFile(known.serialized_pb)
    pool.Add(file)
    carrier = CARRYING.get(message.name, message.name)
    made = message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{file.package}.{carrier}"))()
    if message.name in NAMED:
        getattr(made, CARRIER[message.name]).add(name="listed", declared_form=wire.form_number("CONTROL"))
    elif message.name in CARRIER:
        getattr(made, CARRIER[message.name]).add(**{message.fields[1].name: "listed" if carrier == "QueryReply" else 1})
    return made


def test_the_committed_modules_are_what_protoc_makes_of_the_protos(tmp_path: Path) -> None:
    generate(tmp_path)
    made = {path.name: path.read_bytes() for path in (tmp_path / "lianxin" / "proto").iterdir()}
    committed = {path.name: path.read_bytes() for path in (ROOT / "proto").glob("*_pb2*")}
    assert sorted(made) == sorted(committed), "run `make protos` and commit what it writes"
    assert [name for name in made if made[name] != committed[name]] == [], "run `make protos` and commit what it writes"


def test_every_field_of_every_message_carries_a_form() -> None:
    fields = [field for message in MESSAGES.values() for field in message.fields]
    assert [field.full_name for field in fields if wire.form_of(field) is None] == []
    assert len(fields) > len(MESSAGES) > len(STEPS)


def test_every_message_type_has_a_step_in_which_it_may_cross() -> None:
    assert set(MESSAGES) - set(STEP_OF) == {*BELOW_THE_GUARD, *CARRIER}


def test_every_message_type_that_a_step_lists_exists() -> None:
    assert set(STEP_OF) <= set(MESSAGES)


@pytest.mark.parametrize("message", GUARDED, ids=lambda message: message.name)
def test_the_guard_refuses_a_message_if_any_of_its_fields_loses_its_form(message: Descriptor) -> None:
    for field in message.fields:
        made = made_up(message, formless=field.name)
        with pytest.raises(GuardRefused, match=rf"^{message.name}\.{field.name} carries no form") as refused:
            wire.guard(made, STEP_OF[made.DESCRIPTOR.name], {}, with_right=True)
        assert refused.value.rule == "G01"


@pytest.mark.parametrize("message", GUARDED, ids=lambda message: message.name)
def test_the_guard_passes_the_same_message_with_its_forms(message: Descriptor) -> None:
    made = made_up(message)
    crossings = wire.guard(made, STEP_OF[made.DESCRIPTOR.name], {"listed": "CONTROL"}, with_right=True)
    entries = [entry for field, value in made.ListFields() if field.is_repeated for entry in value]
    inner = sum(len(entry.ListFields()) + (entry.DESCRIPTOR.name in NAMED) for entry in entries)
    assert len(crossings) == len(made.ListFields()) + inner
