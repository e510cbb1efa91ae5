"""Attack 24: bytes made for the parser, not for us: deep nesting, an old or a foreign parser, JSON that becomes a message.

The parser is upb from a floor on, or nothing starts. What is nested too deep is refused by rule, by the parser's own
limit or by ours, and never climbs the interpreter's stack. The controls: Python's JSON, unguarded, does run out of stack
at the same depth; the pure-Python parser and upb do not agree on which bytes are a message.
"""

import ast
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from typing import Any

import google.protobuf
import pytest
from conftest import ROOT
from google.protobuf.descriptor import Descriptor
from google.protobuf.internal import api_implementation

from lianxin.crypto import canonical
from lianxin.crypto.errors import EncodingRejected
from lianxin.federation import protobuf_parser, services, wire
from lianxin.federation.errors import GuardRefused, InputFault, PeerError

DEEP = 10_000
GROUP, GROUP_END = b"\x83\x3e", b"\x84\x3e"  # field 992 is nobody's: a group that begins, a group that ends


def nested(depth: int) -> bytes:
    return GROUP * depth + GROUP_END * depth


def with_parser(parser: str, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": parser}
    return subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("kind", ["Envelope", *sorted(wire.MESSAGES)])
def test_a_message_nested_ten_thousand_deep_is_refused_by_rule(kind: str) -> None:
    found = wire.MESSAGES.get(kind, type(wire.envelope_pb2.Envelope()))
    with pytest.raises(GuardRefused) as refused:
        wire._parse(found, nested(DEEP))
    assert refused.value.rule == "G06" and not isinstance(refused.value.__cause__, RecursionError)


@pytest.mark.parametrize("depth", [1, 30, 99])
def test_nesting_that_the_parser_allows_is_refused_as_unknown(depth: int) -> None:
    with pytest.raises(GuardRefused) as refused:
        wire._parse(wire.LearningMessage, nested(depth))
    assert refused.value.rule == "G03"


def test_nesting_inside_an_envelope_and_in_a_frame_is_refused_by_rule() -> None:
    envelope = wire.envelope_pb2.Envelope(
        payload=nested(DEEP), message_type="LearningMessage", step="learning.exchange"
    )
    with pytest.raises(GuardRefused) as refused:
        wire.unseal(envelope.SerializeToString(deterministic=True))
    assert refused.value.rule == "G06"
    with pytest.raises(PeerError) as broken:
        services.decode_frame(nested(DEEP))
    assert broken.value.rule == "I10"


def contains(kind: Descriptor, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield each way down through a message's parts that comes back to a message above it."""
    if kind.full_name in above:
        yield (*above, kind.full_name)
        return
    for field in kind.fields:
        if field.message_type is not None:
            yield from contains(field.message_type, (*above, kind.full_name))


def test_no_message_contains_itself_so_that_our_own_walks_have_an_end() -> None:
    loops = [loop for kind in wire.MESSAGES.values() for loop in contains(kind.DESCRIPTOR)]
    assert loops == []
    from google.protobuf.struct_pb2 import Value

    assert list(contains(Value.DESCRIPTOR))  # the control: JSON's own message does


def test_a_record_nested_deep_is_refused_and_unguarded_json_runs_out_of_stack() -> None:
    text = b'{"a":' + b"[" * DEEP + b"]" * DEEP + b"}"
    with pytest.raises(EncodingRejected):
        canonical.decode_fragment(text)
    with pytest.raises(RecursionError):
        json.loads(text)


@pytest.mark.parametrize(
    ("version", "parser", "says"),
    [
        ("6.33.6", "upb", ""),
        ("7.1.0", "upb", ""),
        ("6.33.4", "upb", "install protobuf 6.33.5 or later"),
        ("5.29.5", "upb", "install protobuf 6.33.5 or later"),
        ("6.33.6", "python", "unset PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"),
        ("6.33.6", "cpp", "unset PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"),
    ],
)
def test_an_old_protobuf_and_a_foreign_parser_are_refused_in_a_sentence(version: str, parser: str, says: str) -> None:
    fault = protobuf_parser.parser_fault(version, parser)
    assert bool(fault) == bool(says) and says in fault


def test_the_floor_is_the_one_that_is_installed_and_pinned() -> None:
    assert protobuf_parser.parser_fault(google.protobuf.__version__, api_implementation.Type()) == ""
    needs = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    pinned = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("protobuf==")]
    floor = ".".join(map(str, protobuf_parser.FLOOR))
    assert f"protobuf>={floor},<7" in needs
    assert protobuf_parser.parser_fault(pinned[0].partition("==")[2], "upb") == ""


def test_a_command_under_the_pure_python_parser_ends_in_one_sentence() -> None:
    told = with_parser("python", "-m", "lianxin.parties.cli", "--help")
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr.count("\n") == 1 and "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION" in told.stderr


def test_nothing_is_read_with_the_wrong_parser_even_without_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_implementation, "Type", lambda: "python")
    protobuf_parser.require_parser.cache_clear()
    try:
        with pytest.raises(InputFault, match="parser 'python'"):
            wire.unseal(b"")
    finally:
        protobuf_parser.require_parser.cache_clear()


READS = f"""
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError
try:
    Empty.FromString({GROUP!r} * 100 + {GROUP_END!r} * 100)
    print("a message")
except DecodeError:
    print("none")
"""


def test_without_the_check_two_parties_do_not_agree_on_what_a_message_is() -> None:
    """The control: the same bytes are a message to one parser and none to the other."""
    assert {with_parser(parser, "-c", READS).stdout for parser in ("upb", "python")} == {"a message\n", "none\n"}


def json_messages(text: str) -> list[int]:
    """Return the lines that name protobuf's json_format, however it is imported."""
    found = []
    for node in ast.walk(ast.parse(text)):
        names: list[Any] = [getattr(node, "attr", ""), getattr(node, "id", ""), getattr(node, "module", "")]
        names += [alias.name for alias in getattr(node, "names", []) if isinstance(alias, ast.alias)]
        names += [node.value] if isinstance(node, ast.Constant) else []
        if any(isinstance(name, str) and name.split(".")[-1] == "json_format" for name in names):
            found.append(getattr(node, "lineno", 0))
    return found


def test_no_module_turns_json_into_a_message() -> None:
    rooms = ("proto", "crypto", "federation", "parties", "simulations")
    files = [path for room in rooms for path in (ROOT / room).rglob("*.py") if "_pb2" not in path.name]
    assert len(files) > 100 and [p.name for p in files if json_messages(p.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize(
    "breaks",
    [
        "from google.protobuf import json_format",
        "from google.protobuf import json_format as j",
        "import google.protobuf.json_format",
        "from google.protobuf.json_format import Parse",
        "importlib.import_module('google.protobuf.json_format')",
    ],
)
def test_the_gate_sees_every_way_to_import_it(breaks: str) -> None:
    assert json_messages(breaks) and not json_messages("import json\njson.loads(text)")
