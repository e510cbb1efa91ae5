"""What is wrong with a TOML file that a person wrote: every mistake at once, each with its line, its key and what to do.

A value is never shown: it may be a password that was put under a wrong key.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel

from lianxin.federation.errors import InputFault

MOST_BYTES, MOST_SHOWN = 4 << 20, 50
_PART = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*')"""
_KEY = rf"{_PART}(?:\s*\.\s*{_PART})*"
_HEADER = re.compile(rf"^\s*\[\[?\s*({_KEY})\s*\]\]?")
_ENTRY = re.compile(rf"^\s*({_KEY})\s*=(.*)$")
_OPENERS = re.compile(r'"""|\'\'\'|"(?:[^"\\]|\\.)*"|\'[^\']*\'|#.*$|[\[\]{}]')
_PLACED = re.compile(r"(?:line \d+: )?([a-z_.]+): ")
_WORDS = {
    "missing": "is missing; add it",
    "string_pattern_mismatch": "is 3 to 64 of a-z, 0-9, '.' and '-'; an operator is named in one spelling",
    "string_type": "is to be text in quotes",
    "path_type": "is to be a path in quotes",
    "int_type": "is to be a whole number without quotes",
    "int_parsing": "is to be a whole number without quotes",
    "int_from_float": "is to be a whole number",
    "bool_type": "is to be true or false, without quotes",
    "bool_parsing": "is to be true or false, without quotes",
    "list_type": 'is to be a list in brackets, such as ["a", "b"]',
    "tuple_type": "is to be a list in brackets",
    "dict_type": "is to be a section of its own, in brackets on a line before its keys",
    "model_type": "is to be a section of its own, in brackets on a line before its keys",
    "model_attributes_type": "is to be a section of its own, in brackets on a line before its keys",
}


class ConfigMistakes(InputFault):
    """All mistakes of one file; `lines` are one sentence each, after a first that counts them where they are several."""

    def __init__(self, path: Path | str, found: Sequence[str]) -> None:
        """`path` is the file or the command in which the mistakes are, `found` the mistakes, each without that name."""
        self.found = found
        more = [f"and {len(found) - MOST_SHOWN} more"] if len(found) > MOST_SHOWN else []
        several = [f"{path} has {len(found)} mistakes; mend each of these", *found[:MOST_SHOWN], *more]
        self.lines = [f"{path}: {found[0]}"] if len(found) == 1 else several
        super().__init__("\n  ".join(self.lines))


def by_option(fault: ConfigMistakes, command: str, options: Mapping[str, str]) -> ConfigMistakes:
    """Return the mistakes of a file that `command` wrote, named by the options of `options` they came from."""

    def named(one: str) -> str:
        found = _PLACED.match(one)
        key = found[1] if found is not None else ""
        return f"{options[key]}: {one.removeprefix(found[0])}" if found is not None and key in options else one

    return ConfigMistakes(command, [named(one) for one in fault.found])


def read_toml(path: Path) -> tuple[dict[str, Any], str]:
    """Return what a TOML file says, and its text. Raises InputFault for one that cannot be read or is none."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InputFault(f"{path} is over {MOST_BYTES >> 20} MiB, which no configuration is; check the path")
        data = path.read_bytes()
    except OSError:
        raise InputFault(f"{path} cannot be read; check the path") from None
    try:
        text = data.removeprefix(b"\xef\xbb\xbf").decode()
        return tomllib.loads(text), text
    except UnicodeDecodeError as fault:
        line = data.count(b"\n", 0, fault.start) + 1
        raise InputFault(f"{path} is no TOML: line {line} is not UTF-8; save the file as UTF-8") from None
    except tomllib.TOMLDecodeError as fault:
        raise InputFault(f"{path} is no TOML: {_broken(str(fault), text)}") from None


def _broken(said: str, text: str) -> str:
    """Return what the parser said, with the line, and whether the file seems to end in its middle."""
    found = re.search(r"\(at line (\d+), column (\d+)\)", said)
    what = re.sub(r"\s*\(at [^)]*\)", "", said).strip()
    what = what[:1].lower() + what[1:] if re.fullmatch(r"[A-Za-z '\"=\]\[,.]+", what) else "it cannot be read"
    last = text.rstrip("\n").count("\n") + 1
    if found is None:
        return f"line {last}: {what}, where the file ends; it may be half-written: write it to its end"
    is_end = int(found[1]) >= last and not text.endswith("\n")
    tail = "; the file may be half-written: write it to its end" if is_end else "; mend that line"
    return f"line {found[1]}, column {found[2]}: {what}{tail}"


def lines_of(text: str) -> dict[tuple[str, ...], int]:
    """Return the line, from 1, on which each section and key of a TOML text begins, by its path."""
    found: dict[tuple[str, ...], int] = {}
    section: tuple[str, ...] = ()
    quote, depth = "", 0
    for number, line in enumerate(text.splitlines(), start=1):
        rest = line
        if not quote and depth == 0:
            if header := _HEADER.match(line):
                section, rest = _parts(header[1]), ""
                found.setdefault(section, number)
            elif entry := _ENTRY.match(line):
                path, rest = (*section, *_parts(entry[1])), entry[2]
                for length in range(len(section) + 1, len(path) + 1):
                    found.setdefault(path[:length], number)
                for inner in re.findall(rf"[{{,]\s*({_PART})\s*=", rest) if "{" in rest else ():
                    found.setdefault((*path, *_parts(inner)), number)
        quote, depth = _still_open(rest, quote, depth)
    return found


def _still_open(rest: str, quote: str, depth: int) -> tuple[str, int]:
    """Return which long quote and how many brackets are open after `rest`."""
    while rest:
        if quote:
            _, closed, rest = rest.partition(quote)
            quote = "" if closed else quote
            continue
        mark = _OPENERS.search(rest)
        if mark is None:
            break
        token, rest = mark[0], rest[mark.end() :]
        quote = token if token in ('"""', "'''") else ""
        depth = max(0, depth + (token in "[{") - (token in "]}")) if len(token) == 1 else depth
    return quote, depth


def _parts(key: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in re.findall(_PART, key))


def sentence(key: Sequence[str | int], what: str, lines: Mapping[tuple[str, ...], int]) -> str:
    """Return a mistake as `line N: key: what`; the line is the key's, or that of the section which lacks it."""
    path = tuple(str(part) for part in key)
    at = next((lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in lines), 0)
    name = ".".join(path)
    return (f"line {at}: " if at else "") + (f"{name}: {what}" if name else what)


def found_by_pydantic(kind: type[BaseModel], errors: Sequence[Any], text: str) -> Iterator[str]:
    """Yield one sentence for each error of a model's validation, in the order of the lines."""
    lines = lines_of(text)
    told = {sentence(_own(kind, error["loc"]), _plain(kind, error), lines): None for error in errors}
    yield from sorted(told, key=lambda one: int(re.match(r"line (\d+)", one)[1]) if one.startswith("line ") else 0)  # type: ignore[index]


def _own(kind: type[BaseModel], loc: Sequence[str | int]) -> list[str | int]:
    """Return a place without what the validator adds to it, such as the name of a type."""
    return [part for part in loc if not (isinstance(part, str) and ("[" in part or part in ("str", "int", "bool")))]


def _plain(kind: type[BaseModel], error: Any) -> str:
    name, context = error["type"], error.get("ctx", {})
    if name == "extra_forbidden":
        return f"is no key that this file may have; {_nearest(kind, error['loc'])}"
    if name == "literal_error":
        return f"is to be {context['expected']}"
    if name in ("greater_than_equal", "greater_than"):
        return f"is to be {'at least' if name.endswith('equal') else 'over'} {next(iter(context.values()))}"
    if name in ("less_than_equal", "less_than"):
        return f"is to be {'at most' if name.endswith('equal') else 'under'} {next(iter(context.values()))}"
    if name == "too_long":
        return f"has at most {context['max_length']} entries"
    return _WORDS.get(name, str(error["msg"]).lower())


def _nearest(kind: type[BaseModel], loc: Sequence[str | int]) -> str:
    """Return what to do about an unknown key: the near one that is known, or the section where it belongs."""
    *above, last = loc
    section = kind
    for part in above:
        section = _section_in(section, str(part)) or section
    near = get_close_matches(str(last), section.model_fields, n=1, cutoff=0.7)
    if near:
        return f"did you mean {near[0]}?"
    homes = {name: one for name in kind.model_fields if (one := _section_in(kind, name)) and not above}
    home = next((name for name, one in homes.items() if last in one.model_fields), "")
    if above and last in kind.model_fields:
        return "move it above the first section"
    return f"move it under [{home}]" if home else "remove it"


def _section_in(kind: type[BaseModel], name: str) -> type[BaseModel] | None:
    """Return the model of a field of `kind`, also where it is optional or a value of a table; None for plain values."""
    entry = kind.model_fields.get(name)
    return _model_of(entry.annotation) if entry is not None else None


def _model_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, UnionType, dict):
        return next((found for one in get_args(annotation) if (found := _model_of(one)) is not None), None)
    return None
