"""Which protobuf parser reads a peer's bytes: checked when a command starts and before the first bytes are read.

The parser in C (upb) is the one that limits and tests are made for. The one in pure Python is many times slower, draws
its limits elsewhere, so that two parties would not agree on which bytes are a message, and in releases before the
floor it followed nested groups without a limit (CVE-2025-4565) or JSON past it (CVE-2026-0994). JSON from a peer is
never turned into a message at all: no module imports `json_format` (tests/attacks/test_24_protobuf.py).
"""

from functools import cache

from google.protobuf import __version__ as installed
from google.protobuf.internal import api_implementation

from lianxin.federation.errors import InputFault

FLOOR = (6, 33, 5)
PARSER = "upb"


def parser_fault(version: str, parser: str) -> str:
    """Return why this protobuf may not read a peer's bytes, "" when it may. `version` is like "6.33.6"."""
    numbers = tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
    if numbers < FLOOR:
        floor = ".".join(map(str, FLOOR))
        return f"protobuf {version} has known holes in its parser; install protobuf {floor} or later"
    if parser != PARSER:
        return (
            f"protobuf would read peers' bytes with its parser '{parser}'; unset PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION, "
            f"or install a protobuf that has the parser '{PARSER}'"
        )
    return ""


@cache
def require_parser() -> None:
    """Raises InputFault, exit code 2, where protobuf may not read a peer's bytes."""
    fault = parser_fault(installed, api_implementation.Type())
    if fault:
        raise InputFault(fault)
