"""The generated reference is fresh, every command explains itself with an example that parses, and shells complete it."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import click
import generate_reference
import pytest
from command_tree import leaves

from lianxin.parties import cli

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = leaves()
LIANXIN = Path(sys.executable).with_name("lianxin")
HEAVY = ("numpy", "scipy", "sqlalchemy", "polars", "grpc", "flwr", "torch", "sklearn", "matplotlib", "cryptography")


@pytest.mark.parametrize("name", ["commands.md", "configuration.md", "metrics.md"])
def test_a_generated_page_is_fresh(name: str) -> None:
    kept = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert kept == generate_reference.pages()[name], "run `python tests/generate_reference.py`"


def test_every_configuration_key_is_described() -> None:
    assert generate_reference.undescribed() == [], "add words to tests/reference_words.py"


def test_every_metric_has_words_and_a_unit_in_its_name() -> None:
    assert [name for name, words, _ in generate_reference.metrics() if len(words) < 10] == []


def example_of(command: click.Command) -> list[str]:
    """Return the words of the first example in a command's help, up to the sentence's or the paragraph's end."""
    paragraphs = (command.help or "").split("Example: ", 1)[1].split("\n\n")
    return shlex.split(" ".join(paragraphs[0].split()), comments=True)


def named_by(given: list[str]) -> str:
    """Return the longest command or group that these words begin with."""
    known = {" ".join(words.split()[:depth]) for words in COMMANDS for depth in range(1, 4)}
    return max((" ".join(given[:depth]) for depth in range(4) if " ".join(given[:depth]) in known), key=len, default="")


def command_of(words: str) -> click.Command:
    command: click.Command = cli.command()
    for word in words.split():
        command = command.commands[word]  # type: ignore[attr-defined]
    return command


@pytest.mark.parametrize("words", sorted(COMMANDS))
def test_every_command_has_an_example_that_it_takes(words: str) -> None:
    program, *given = example_of(COMMANDS[words])
    named = named_by(given)
    assert program == "lianxin" and named != ""
    rest = given[len(named.split()) :]
    taken = command_of(named) if named in COMMANDS else COMMANDS[words]  # a group may have a command that needs no name
    with taken.make_context(named, rest) as context:  # raises where an option or a value is none of its own
        assert context.params


@pytest.mark.parametrize("words", sorted(COMMANDS))
def test_every_option_says_what_it_is_for(words: str) -> None:
    silent = [one.name for one in COMMANDS[words].params if isinstance(one, click.Option) and not one.help]
    assert silent == []


def in_shell(*command: str, **environment: str) -> str:
    folder = str(LIANXIN.parent)
    path = os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"} | environment
    return subprocess.run(command, env=path, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_given_a_script_that_asks_this_program(shell: str) -> None:
    script = in_shell(str(LIANXIN), _LIANXIN_COMPLETE=f"source_{shell}")
    assert f"_LIANXIN_COMPLETE=complete_{shell}" in script and "lianxin" in script


TYPED = {"pl": "platform", "bank app": "approve", "bank approve --op": "--operator"}


@pytest.mark.skipif(not Path("/bin/bash").exists(), reason="bash is not installed")
def test_bash_completes_groups_commands_and_options() -> None:
    script = 'eval "$(_LIANXIN_COMPLETE=source_bash lianxin)"\n'
    for typed in TYPED:
        words = ["lianxin", *typed.split()]
        script += f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; _lianxin_completion lianxin; "
        script += 'echo "${COMPREPLY[*]}"\n'
    offered = in_shell("/bin/bash", "-c", script).splitlines()
    assert [expected in line.split() for expected, line in zip(TYPED.values(), offered, strict=True)] == [True] * 3


def test_help_loads_none_of_the_heavy_libraries() -> None:
    program = (
        "import sys; from lianxin.parties import cli; code = cli.run(['--help']); "
        f"print(sorted(set({HEAVY}) & set(sys.modules))); sys.exit(code)"
    )
    assert in_shell(sys.executable, "-c", program).splitlines()[-1] == "[]"
