"""A node's subject secret: 32 bytes in hex in its identity folder, from which the keys of firms in consents are derived."""

import os
import stat
from pathlib import Path

from lianxin.crypto.randomness import SEED_BYTES
from lianxin.federation.errors import InputFault

SUBJECT_KEY_FILE = "subject.key"


def write_subject_key(path: Path, secret: bytes) -> None:
    """Write the node's subject secret, readable by its owner alone. Raises InputFault when it is there already."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise InputFault(f"{path} exists already; a new subject key would orphan every consent") from None
    with os.fdopen(handle, "w") as file:
        file.write(secret.hex() + "\n")


def read_subject_key(path: Path) -> bytes:
    """Return the node's subject secret. Raises InputFault when it is missing, open to others or malformed."""
    try:
        mode, text = path.stat().st_mode, path.read_text(errors="replace").strip()
    except OSError:
        raise InputFault(f"{path} is missing; `lianxin {{platform,bank}} init` writes it") from None
    if stat.S_IMODE(mode) & 0o077:
        raise InputFault(f"{path} can be read by others; set its mode to 600")
    try:
        secret = bytes.fromhex(text)
    except ValueError:
        secret = b""
    if len(secret) != SEED_BYTES:
        raise InputFault(f"{path} does not hold {SEED_BYTES} bytes in hex; restore it")
    return secret
