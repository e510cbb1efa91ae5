"""What program a node is: its version, Python's, and every installed distribution with the digest of its own file list.

A wheel's `RECORD` names each of its files with its SHA-256, so that the digest of the RECORD stands for what was installed
(the binary distribution format of the Python packaging specifications).
"""

import hashlib
import platform
import re
from functools import cache
from importlib import metadata
from typing import Any

_HEADER = re.compile(r"^(Name|Version): (.*)$", re.MULTILINE)


def code_version() -> str:
    """Return the installed version of this package."""
    return f"lianxin {metadata.version('lianxin')}"


@cache
def software_record() -> dict[str, Any]:
    """Return the record "software": `code_version`, `python`, and `distributions` sorted by name.

    A distribution without a RECORD, as an operating system's package may be, has an empty digest.
    """
    found = {_named(one): _digest(one.read_text("RECORD")) for one in metadata.distributions()}
    distributions = [
        {"name": name, "version": version, "record_sha256": digest} for (name, version), digest in sorted(found.items())
    ]
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return {
        "type": "software", "version": 1, "code_version": code_version(), "python": python,
        "distributions": distributions,
    }  # fmt: skip


def _named(one: metadata.Distribution) -> tuple[str, str]:
    """Return name and version, from the head of the metadata: to parse the whole of each takes a second of all."""
    head = (one.read_text("METADATA") or one.read_text("PKG-INFO") or "").partition("\n\n")[0]
    values = dict(_HEADER.findall(head))
    return values.get("Name", "").strip(), values.get("Version", "").strip()


def _digest(record: str | None) -> str:
    return hashlib.sha256(record.encode()).hexdigest() if record else ""
