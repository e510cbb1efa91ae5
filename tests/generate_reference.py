"""Write docs/commands.md, configuration.md and metrics.md from the program: `python tests/generate_reference.py [FOLDER]`."""

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, get_args, get_origin

import click
import reference_words
from command_tree import leaves
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from lianxin.parties import config

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "parties" / "watch_figures.py"
MADE = "Made by `python tests/generate_reference.py`; a test compares it."
_TYPES = {"str": "text", "int": "whole number", "bool": "true or false", "Path": "path", "float": "number"}
_KINDS = {
    "text": "text",
    "path": "path",
    "integer": "number",
    "integer range": "number",
    "float": "number",
    "boolean": "",
}


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _row(*cells: str) -> str:
    return f"| {' | '.join(_cell(cell) for cell in cells)} |"


def _default(parameter: click.Parameter) -> str:
    if parameter.required:
        return "needed"
    value = parameter.default
    if (
        value is None
        or callable(value)
        or value in ("", False)
        or "Sentinel" in type(value).__name__
        or value in ([], ())
    ):
        return ""
    return f"`{value}`"


def _names(parameter: click.Parameter) -> str:
    if isinstance(parameter, click.Argument):
        return f"`{parameter.human_readable_name}`{' ...' if parameter.nargs == -1 else ''}"
    names = [*parameter.opts, *parameter.secondary_opts]
    return ", ".join(f"`{name}`" for name in names) + (" (repeat it)" if getattr(parameter, "multiple", False) else "")


def _kind(parameter: click.Parameter) -> str:
    if isinstance(parameter.type, click.Choice):
        return ", ".join(f"`{choice}`" for choice in parameter.type.choices)
    span = parameter.type
    if isinstance(span, click.IntRange | click.FloatRange) and (span.min is not None or span.max is not None):
        return f"number, {span.min if span.min is not None else ''} to {span.max if span.max is not None else 'any'}"
    return _KINDS.get(parameter.type.name, parameter.type.name)


def _command(words: str, command: click.Command) -> Iterator[str]:
    said, _, example = inspect.cleandoc(command.help or "").partition("Example: ")
    yield f"\n## lianxin {words}\n\n{' '.join(said.split())}\n"
    if example:
        yield f"```\n{' '.join(example.split())}\n```\n"
    shown = [one for one in command.params if not getattr(one, "hidden", False) and "--help" not in one.opts]
    if shown:
        yield "| given | kind | default | what |\n|---|---|---|---|"
        yield from (_row(_names(one), _kind(one), _default(one), getattr(one, "help", "") or "") for one in shown)


def commands_page() -> str:
    """Return docs/commands.md."""
    lines = [
        f"# Commands: every command with its options, defaults and an example\n\n{MADE}\n"
        "`lianxin COMMAND --help` prints the same. "
        "`lianxin --install-completion` teaches bash, zsh or fish to complete commands and options. A mistake ends with one\n"
        "sentence, a code ([errors](errors.md)) and an exit code ([reference](reference.md#exit-codes))."
    ]
    for words, command in leaves().items():
        lines += _command(words, command)
    return "\n".join(lines) + "\n"


def _type(kind: Any) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _type(inner[0])
    if origin is Literal:
        return " or ".join(f"`{one}`" for one in inner)
    if origin in (list, tuple):
        return f"list of {_type(inner[0])}" if origin is list else "list of pairs"
    if origin is UnionType or str(origin) == "typing.Union":
        return " or ".join(_type(one) for one in inner if one is not NoneType)
    return _TYPES.get(getattr(kind, "__name__", ""), str(getattr(kind, "__name__", kind)))


def _bounds(field: FieldInfo) -> str:
    said = {type(one).__name__: one for one in field.metadata}
    low, high = getattr(said.get("Ge"), "ge", None), getattr(said.get("Le"), "le", None)
    if low is None and high is None:
        return ""
    return f", {low if low is not None else 'any'} to {high if high is not None else 'any'}"


def _key(name: str, field: FieldInfo, meaning: str) -> str:
    default = field.get_default(call_default_factory=True)
    if field.is_required() or default is PydanticUndefined:
        said = "needed"
    else:
        said = "none" if default in (None, "", []) else f"`{default}`"
        said = said.replace("True", "true").replace("False", "false").replace("'", '"')
    return _row(f"`{name}`", _type(field.annotation) + _bounds(field), said, field.description or meaning)


def _section(kind: Any) -> type[BaseModel] | None:
    """Return the section that a key of this type is, itself or in a table of several; None for a plain value."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind
    return next((found for one in get_args(kind) if (found := _section(one)) is not None), None)


def undescribed() -> list[str]:
    """Return the keys that no words are written for."""
    keys = [*_keys("", config.NodeConfig, reference_words.NODE), *_keys("", config.RunConfig, reference_words.RUN)]
    return [name for name, field, meaning in keys if not (meaning or field.description)]


def _keys(prefix: str, model: type[BaseModel], words: dict[str, str]) -> Iterator[tuple[str, FieldInfo, str]]:
    for name, field in model.model_fields.items():
        inner = _section(field.annotation)
        if inner is None:
            yield prefix + name, field, words.get(prefix + name, "")
        else:
            yield from _keys(f"{prefix}{name}.", inner, words)


def _table(model: type[BaseModel], words: dict[str, str]) -> Iterator[str]:
    head = "| key | value | default | meaning |\n|---|---|---|---|"
    by_section: dict[str, list[str]] = {"": []}
    for name, field, meaning in _keys("", model, words):
        section, _, key = name.rpartition(".")
        by_section.setdefault(section, []).append(_key(key, field, meaning))
    for section, rows in by_section.items():
        title = "[banks.ID]" if section == "banks" else f"[{section}]"
        yield f"\n### `{title}`\n\n{head}" if section else head
        yield from rows


def configuration_page() -> str:
    """Return docs/configuration.md."""
    lines = [
        f"# Configuration: every key of a node's file and of a run's\n\n{MADE}\nWhat belongs together is told in "
        "[reference](reference.md).\nPaths are relative to the file; an unknown key is refused with its line.\n",
        "## A node's TOML file\n",
        *_table(config.NodeConfig, reference_words.NODE),
        "\n## A run's TOML file\n",
        *_table(config.RunConfig, reference_words.RUN),
    ]
    return "\n".join(lines) + "\n"


def metrics() -> list[tuple[str, str, tuple[str, ...]]]:
    """Return the name, the words and the labels of each metric that the source of the figures names."""
    found = []
    for node in ast.walk(ast.parse(FIGURES.read_text(encoding="utf-8"))) if FIGURES.exists() else ():
        if (
            isinstance(node, ast.Call)
            and len(node.args) > 1
            and all(isinstance(one, ast.Constant) for one in node.args[:2])
        ):
            texts = [one.value for one in node.args if isinstance(one, ast.Constant)]
            if str(texts[0]).startswith("lianxin_"):
                found.append((str(texts[0]), str(texts[1]), tuple(map(str, texts[2:3]))))
    return sorted(found)


def metrics_page() -> str:
    """Return docs/metrics.md."""
    lines = [
        f"# Metrics: every figure by which a node is watched\n\n{MADE}\nThey are read where `[watch] metrics` says, in the",
        "text form of Prometheus; the unit ends the name, `_total` only grows. No label is a firm, a run or a value.\n",
        "| metric | kind | label | what |\n|---|---|---|---|",
    ]
    for name, words, labels in metrics():
        kind = "counter" if name.endswith("_total") else "gauge"
        lines.append(
            _row(
                f"`{name}`", kind, ", ".join(f"`{label}`" for label in labels if re.fullmatch("[a-z_]+", label)), words
            )
        )
    return "\n".join(lines) + "\n"


@cache
def pages() -> dict[str, str]:
    """Return each page by its name under docs."""
    return {"commands.md": commands_page(), "configuration.md": configuration_page(), "metrics.md": metrics_page()}


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs"
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
