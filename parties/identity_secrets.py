"""A node's signing and TLS keys as files: in clear with mode 0600, or sealed under the node's `[keys]` (crypto/key_file).

Which of the two a file is shows at its first bytes. Both are refused when others than the owner may read them. A file is
written beside its place and renamed, so that after a crash the earlier key is there whole.
"""

from collections.abc import Callable
from pathlib import Path

from lianxin.crypto import key_file
from lianxin.crypto.errors import KeyFileRejected
from lianxin.crypto.key_file import Label, Protection
from lianxin.crypto.randomness import system_seed
from lianxin.federation.errors import InputFault
from lianxin.parties.keys import write_whole

PURPOSE = "identity"
Unlock = Callable[[], Protection]


def read_secret(path: Path, owner: str, unlock: Unlock | None) -> bytes:
    """Return the bytes of a key. Raises InputFault for a file that is missing, open to others or does not open."""
    check_private(path)
    data = read_bytes(path)
    if not key_file.is_sealed_identity(data):
        return data
    if unlock is None:
        raise InputFault(
            f"{path} is encrypted: name the node's configuration, whose [keys] section says what opens it."
        )
    try:
        return key_file.open_identity(data, unlock(), label_of(path, owner))
    except KeyFileRejected as fault:
        raise InputFault(f"{path}: {fault}.") from None


def new_salt() -> bytes:
    """Return the salt of keys that are sealed together: with a passphrase one derivation opens them all."""
    return system_seed()[: key_file.SALT_BYTES]


def write_secret(
    path: Path, secret: bytes, owner: str, protection: Protection | None = None, salt: bytes | None = None
) -> None:
    """Write a key for its owner alone, sealed where there is a `protection`. Raises InputFault."""
    if protection is not None:
        secret = key_file.seal_identity(secret, label_of(path, owner), protection, salt or new_salt())
    try:
        write_whole(path, secret)
    except OSError as fault:
        raise InputFault(f"{path} cannot be written ({fault.strerror}): check the folder and its owner.") from None


def is_sealed(path: Path) -> bool:
    """Return whether a key's file is sealed. Raises InputFault for one that cannot be read."""
    return key_file.is_sealed_identity(read_bytes(path))


def label_of(path: Path, owner: str) -> Label:
    """Return what a key's file is sealed for: a file that was moved to another's place does not open."""
    return Label(owner, PURPOSE, path.name)


def check_private(path: Path) -> None:
    """Raise InputFault for a key that is missing or that others than its owner may read."""
    try:
        mode = path.stat().st_mode
    except OSError:
        raise InputFault(f"{path} is missing: run `lianxin network init`, or restore the party's folder.") from None
    if mode & 0o077:
        raise InputFault(f"{path} can be read by others: set its mode to 0600, and make new keys if it was exposed.")


def read_bytes(path: Path) -> bytes:
    """Return a file's bytes. Raises InputFault."""
    try:
        return path.read_bytes()
    except OSError:
        raise InputFault(f"{path} cannot be read: restore the party's folder or check its owner.") from None
