"""What a person is told of a fault that nobody foresaw: its kind and what to do, never its text."""

import errno
import sqlite3

_DISK = frozenset({errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG})
_STORE = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR})


def _disk_fault(fault: BaseException) -> str:
    """Return the name of a fault of the disk, from a file or from the store; "" for another one."""
    if isinstance(fault, OSError):
        return errno.errorcode[fault.errno] if fault.errno in _DISK else ""
    from_store = getattr(fault, "orig", None)
    if isinstance(from_store, sqlite3.Error) and getattr(from_store, "sqlite_errorcode", 0) & 0xFF in _STORE:
        return str(from_store.sqlite_errorname)
    return ""


def fault_words(fault: BaseException, what: str) -> str:
    """Return the sentence of a fault that ended `what` at this node: of a disk that fails, or of this program."""
    if name := _disk_fault(fault):
        return (
            f"the disk under this node's state folder failed ({name}), which ended {what}; "
            "make room or mend the disk, start the node again, and launch anew under another id"
        )
    return f"a fault of this program ({type(fault).__name__}) at this node ended {what}; report it with the log"
