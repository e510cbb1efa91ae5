"""Where a node's store is: the file in its state folder, or the PostgreSQL database of `[store] url`."""

import fcntl
import os
import stat
from pathlib import Path
from typing import IO

from lianxin.federation.errors import InputFault, StillHeld
from lianxin.parties.config import NodeConfig
from lianxin.parties.store import Store
from lianxin.parties.store_postgres import checked_url

FILE = "store.sqlite"


def open_store(config: NodeConfig, read_only: bool = False) -> Store:
    """Return the store of a node's configuration, created when it is new.

    One that is opened to be written is this process's alone: in PostgreSQL by a lock of the database, beside the one of the
    state folder. With `read_only` nothing is created or changed, and a running node is not disturbed. Raises InputFault for
    a store that is not there, is a newer version's, or cannot be reached.
    """
    if config.store.url:
        url = checked_url(config.store.url, config.store.password_file)
        return Store(url, read_only=read_only, holds=not read_only)
    path = store_file(config)
    if not read_only:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # its log takes the file's mode
        return Store(path)
    if not path.is_file():
        raise InputFault(f"{config.state} holds no store yet; start the node once")
    return Store(f"sqlite:///file:{path.resolve()}?mode=ro&uri=true", read_only=True)


def store_file(config: NodeConfig) -> Path:
    """Return where the store of a node without `[store] url` lies."""
    return config.state / FILE


def close_state(state: Path) -> None:
    """Make the state folder where it is new, and keep it and the files in it to their owner, as keys are.

    Raises InputFault for one that others can look into and that this user may not close to them.
    """
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        for path in (state, *filter(Path.is_file, state.iterdir())):
            mode = stat.S_IMODE(path.stat().st_mode)
            if mode & 0o077:
                path.chmod(mode & 0o700)
    except OSError:
        raise InputFault(
            f"{state} or a file in it is open to others, and belongs to another user; give the folder to the user of this node "
            "with mode 700, or name a folder below it as state"
        ) from None


def lock_state(state: Path) -> IO[bytes]:
    """Return the open lock of a state folder: one process a ledger. Raises StillHeld when another node holds it."""
    handle = (state / "lock").open("ab")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        handle.close()
        raise StillHeld(
            f"a node already runs on {state}; stop it first, or give this one its own state folder"
        ) from None
    return handle
