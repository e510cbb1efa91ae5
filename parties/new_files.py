"""Files that a command writes for its user: beside what is there, never over it."""

from pathlib import Path

from lianxin.federation.errors import InputFault


def check_new(path: Path, option: str) -> None:
    """Raise InputFault where something is at `path` already, or its folder is not there; `option` is how it was named."""
    try:
        is_there, has_folder = path.exists() or path.is_symlink(), path.parent.is_dir()
    except (OSError, ValueError):
        raise InputFault(f"{path} cannot be written; choose another {option}") from None
    if is_there:
        raise InputFault(f"{path} exists already and is left as it is; remove it, or choose another {option}")
    if not has_folder:
        raise InputFault(
            f"{path} cannot be written: there is no folder {path.parent}; make it, or choose another {option}"
        )
