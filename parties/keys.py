"""A node's saved keys: what protects them, and `state/keys/<run>/<purpose>.json`, one file a Paillier key.

The protection is read once, when the node opens: `[keys]` names a key file (32 random bytes in hex) or a file with a
passphrase, both readable by their owner alone. Without the section it is `keys.key` in the identity folder, which
`init` writes. Where it is missing a production node does not start; a trial node makes it.

A run's key is on disk before it is first used. It is written beside its place, synchronised and renamed, so that
after a crash the file is whole or absent. A node that finds the key of the same (owner, purpose, run) opens that one
instead of making another; a file that does not open stops the run, and nothing overwrites it. The formats, and what
they promise, are in `crypto/key_file`.
"""

import json
import os
import re
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from lianxin.crypto import key_file
from lianxin.crypto.errors import KeyFileRejected
from lianxin.crypto.key_file import Label, Protection
from lianxin.crypto.paillier import SecretKey
from lianxin.crypto.randomness import system_seed
from lianxin.federation.errors import InputFault, RunStopped
from lianxin.parties.config import KEY_FILE, NodeConfig

FOLDER = "keys"
SEED_PURPOSE = "run-seed"
LEAST_PASSPHRASE = 12
_ID = re.compile(r"[a-z0-9-]{3,64}")
_MOST_BYTES = 4096


class KeyStore:
    """The saved keys of one node, under one protection. Threads share it: each derivation happens once."""

    def __init__(self, state: Path, party: str, protection: Protection) -> None:
        self._folder, self._party, self._protection = state / FOLDER, party, protection
        self._salt: bytes | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"KeyStore({self._party}, <secret>)"

    def paillier_key(self, purpose: str, run: str, bits: int, make: Callable[[], SecretKey]) -> SecretKey:
        """Return this node's key of (purpose, run): the saved one, or what `make` gives, saved before it is returned.

        Raises RunStopped, naming the file, for one that does not open, has another size than `bits` or cannot be
        written.
        """
        path, label = self._path(run, purpose), Label(self._party, purpose, run)
        saved = self._read(path)
        if saved is not None:
            return self._open(path, saved, label, bits)
        secret_key = make()
        public = secret_key.public
        if Label(public.owner, public.purpose, public.run) != label or public.bits != bits:
            raise ValueError("the key that was made is for another owner, purpose, run or size than was asked for")
        with self._lock:
            data = key_file.seal_key(secret_key, self._protection, self._current_salt())
        try:
            write_whole(path, data)
        except OSError as fault:
            raise RunStopped(
                f"{path} cannot be written ({fault.strerror}); a key is used only once it is saved"
            ) from None
        return secret_key

    def seal_seed(self, seed: bytes, run: str) -> bytes:
        """Return a run's seed for the node's store, sealed as keys are: from the seed a run's keys can be made again."""
        with self._lock:
            return key_file.seal_seed(seed, self._seed_label(run), self._protection, self._current_salt())

    def open_seed(self, kept: bytes, run: str) -> bytes:
        """Return the seed in what the store kept. Raises RunStopped for one that this node did not seal for this run.

        A plain one, as version 0.1 kept it, is refused too: its run has ended, and anybody could have put it there.
        """
        try:
            with self._lock:
                return key_file.open_seed(kept, self._protection, self._seed_label(run))
        except KeyFileRejected as fault:
            raise RunStopped(f"the seed of run {run} in this node's store: {fault}") from None

    def _seed_label(self, run: str) -> Label:
        return Label(self._party, SEED_PURPOSE, run)

    def _path(self, run: str, purpose: str) -> Path:
        if not (_ID.fullmatch(run) and _ID.fullmatch(purpose)):
            raise RunStopped(
                "a key is saved under a run and purpose of 3 to 64 of a-z, 0-9 and '-'; choose such a run id"
            )
        return self._folder / run / f"{purpose}.json"

    def _read(self, path: Path) -> bytes | None:
        try:
            return _read_at_most(path, key_file.MOST_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as fault:
            raise RunStopped(f"{path} cannot be read ({fault.strerror}); mend that before the run") from None

    def _open(self, path: Path, data: bytes, label: Label, bits: int) -> SecretKey:
        try:
            with self._lock:
                secret_key = key_file.open_key(data, self._protection, label)
        except KeyFileRejected as fault:
            raise RunStopped(f"{path}: {fault}") from None
        if secret_key.public.bits != bits:
            raise RunStopped(
                f"{path} holds a key of {secret_key.public.bits} bits, the contract asks for {bits}; choose another run id"
            )
        return secret_key

    def _current_salt(self) -> bytes:
        """Return the salt of any key saved here, else a new one: with a passphrase one derivation opens them all."""
        if self._salt is None:
            self._salt = next(iter(self._known_salts()), system_seed()[: key_file.SALT_BYTES])
        return self._salt

    def _known_salts(self) -> list[bytes]:
        salts = []
        for path in sorted(self._folder.glob("*/*.json")):
            with suppress(OSError, KeyFileRejected):
                salts.append(key_file.salt_of(_read_at_most(path, key_file.MOST_BYTES + 1)))
        return salts


def list_keys(state: Path, as_json: bool) -> str:
    """Return what each saved key's file under `state` says of itself, a line each or one JSON object; nothing secret."""
    entries = [_describe(path) for path in sorted((state / FOLDER).glob("*/*.json"))]
    if as_json:
        return json.dumps({"keys": entries})
    lines = ["  ".join(f"{name} {value}" for name, value in entry.items()) for entry in entries]
    return "\n".join(lines) or "no key is saved here yet"


def _describe(path: Path) -> dict[str, Any]:
    try:
        saved = key_file.read_saved_key(_read_at_most(path, key_file.MOST_BYTES + 1))
    except OSError as fault:
        return {"file": str(path), "fault": fault.strerror}
    except KeyFileRejected as fault:
        return {"file": str(path), "fault": str(fault)}
    return {**saved.label._asdict(), "bits": saved.bits, "key_id": saved.key_id, "protection": saved.protection}


def load_protection(config: NodeConfig) -> Protection:
    """Return what protects this node's keys. Raises InputFault for a file that is missing, open to others or malformed.

    A trial node without a key file gets one.
    """
    if config.keys is not None and config.keys.passphrase_file is not None:
        return key_file.protect_by_passphrase(_passphrase(config.keys.passphrase_file))
    path = config.keys.key_file if config.keys is not None else None
    path = path or config.identity / KEY_FILE
    if config.profile == "trial":
        make_key_file(path)
    return key_file.protect_by_key(_key(path))


def make_key_file(path: Path) -> None:
    """Write 32 new random bytes to `path`, for its owner alone; one that is there stays. Raises InputFault."""
    if path.exists():
        return
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(system_seed().hex() + "\n")
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):  # somebody else's whole file stays
            os.link(draft, path)
        draft.unlink()
        _synchronise(path.parent)
    except OSError as fault:
        raise InputFault(f"{path} cannot be written ({fault.strerror}); choose another key_file under [keys]") from None


def write_whole(path: Path, data: bytes) -> None:
    """Write `data` to `path` for its owner alone, so that it is whole on disk or not there. Raises OSError."""
    for folder in (path.parent.parent, path.parent):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)  # left by a node that was killed here; the state folder has one node at a time
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)
    for folder in (path.parent, path.parent.parent, path.parent.parent.parent):
        _synchronise(folder)


def _synchronise(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _key(path: Path) -> bytes:
    text = _private_text(
        path, "restore it, or give a file of 64 random hex digits under [keys] where no key is saved yet"
    )
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise InputFault(f"{path} is no key file: it holds 64 lower-case hex digits and nothing else")
    return bytes.fromhex(text)


def _passphrase(path: Path) -> str:
    text = _private_text(path, "write the passphrase to it, or change passphrase_file under [keys]")
    if len(text) < LEAST_PASSPHRASE or len(text.splitlines()) != 1:
        raise InputFault(f"{path} holds no passphrase: one line of at least {LEAST_PASSPHRASE} characters")
    return text


def _private_text(path: Path, remedy: str) -> str:
    """Return a secret file's text without the line's end. Raises InputFault when it is missing or open to others."""
    try:
        mode, data = path.stat().st_mode, _read_at_most(path, _MOST_BYTES)
    except OSError:
        raise InputFault(f"{path}, which protects this node's keys, is missing or cannot be read; {remedy}") from None
    if stat.S_IMODE(mode) & 0o077:
        raise InputFault(f"{path} can be read by others; set its mode to 600")
    try:
        return data.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise InputFault(f"{path} is no UTF-8 text; {remedy}") from None


def _read_at_most(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        return file.read(limit)
