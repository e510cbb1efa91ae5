"""Every command of the command line with its words, in order: what the reference is made of and what tests walk."""

from collections.abc import Iterator

import click

from lianxin.parties import cli


def _leaves(group: click.Command, words: tuple[str, ...]) -> Iterator[tuple[str, click.Command]]:
    inner = getattr(group, "commands", None)
    if inner is None:
        yield " ".join(words), group
    for name, command in sorted((inner or {}).items()):
        yield from _leaves(command, (*words, name))


def leaves() -> dict[str, click.Command]:
    """Return each command that does something by its words: `bank model list`, `replay`."""
    return dict(_leaves(cli.command(), ()))


def is_path(parameter: click.Parameter) -> bool:
    """Return whether a parameter names a file or a folder."""
    return getattr(parameter.type, "name", "") in ("path", "file", "directory")
