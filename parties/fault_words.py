"""What a person is told of a fault that nobody foresaw: its kind and what to do, never its text."""

import errno

_DISK = frozenset({errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS})


def fault_words(fault: BaseException, what: str) -> str:
    """Return the sentence of a fault that ended `what` at this node: of a disk that fails, or of this program."""
    if isinstance(fault, OSError) and fault.errno in _DISK:
        return (
            f"the disk under this node's state folder failed ({errno.errorcode[fault.errno]}), which ended {what}; "
            "make room or mend the disk, start the node again, and launch anew under another id"
        )
    return f"a fault of this program ({type(fault).__name__}) at this node ended {what}; report it with the log"
