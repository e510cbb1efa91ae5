"""What may be wrong with a path that a person named: a last net under every command, whichever way the file was reached."""

import errno
import os
from collections.abc import Sequence

_REASONS = {
    errno.ENOENT: "it is not there",
    errno.EACCES: "it may not be read or written by you",
    errno.EPERM: "the system forbids it",
    errno.EISDIR: "it is a folder where a file is needed",
    errno.ENOTDIR: "a part of the path is a file where a folder is needed",
    errno.EEXIST: "it exists already",
    errno.ENOTEMPTY: "it is a folder that holds something",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ELOOP: "its links lead in a circle",
    errno.EROFS: "it is on a file system that cannot be written",
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
}


def said_of(fault: BaseException) -> str:
    """Return the sentence for what the system says of a path, "" for any other fault."""
    if (
        not isinstance(fault, OSError)
        or fault.errno not in _REASONS
        or not isinstance(fault.filename, str | os.PathLike)
    ):
        return ""
    return f"{os.fspath(fault.filename)}: {_REASONS[fault.errno]}; mend that or name another path"


def follow_links(arguments: Sequence[str]) -> None:
    """Raise OSError for an argument that is a link which leads in a circle: not every reader of paths says so."""
    for argument in arguments:
        try:
            os.stat(argument)
        except (OSError, ValueError) as fault:  # ValueError: no path at all
            if isinstance(fault, OSError) and fault.errno == errno.ELOOP:
                raise
