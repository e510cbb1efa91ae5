"""Whoever gives a command a wrong file is told so in one sentence with a code: never a traceback, never a fault of ours."""

import os
import re
from pathlib import Path

import click
import pytest
from command_tree import is_path, leaves
from torture import IS_TORTURE

from lianxin.parties import cli

COMMANDS = leaves()
WRONG = ("missing", "folder", "binary", "broken.toml", "empty", "other.csv", "under", "long", "loop")
STARTS_BY_ITSELF = ("simulate", "bench")  # without a file these commands run; they are given what no file can be
BEGIN_SLOWLY = ("bench grids", "bench privacy", "bench soak", "bench training")  # they load a library or nodes first
SAYS_IT_IN_LINES = ("doctor",)  # its lines are an answer, on standard output
HOPELESS = ("binary", "under", "loop")
DUMMY = {"integer": "3", "integer range": "3", "float": "0.5", "float range": "0.5"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with each kind of wrong file in it."""
    monkeypatch.chdir(tmp_path)
    _refill(tmp_path)
    return tmp_path


def _refill(folder: Path) -> None:
    (folder / "folder").mkdir(exist_ok=True)
    (folder / "binary").write_bytes(bytes(range(256)) * 20)
    (folder / "broken.toml").write_text("role = [\n")
    (folder / "empty").write_bytes(b"")
    (folder / "other.csv").write_text("a,b\n1,2\n")
    if not (folder / "loop").is_symlink():
        (folder / "loop").symlink_to(folder / "loop")


def _named(folder: Path, wrong: str) -> str:
    return str({"under": folder / "binary" / "x", "long": folder / ("x" * 300)}.get(wrong, folder / wrong))


def _value(parameter: click.Parameter, folder: Path) -> str:
    if is_path(parameter):
        return str(folder / "missing")
    if isinstance(parameter.type, click.Choice):
        return str(next(iter(parameter.type.choices)))
    return DUMMY.get(parameter.type.name, "x")


def _given(parameter: click.Parameter, value: str) -> list[str]:
    return [value] if isinstance(parameter, click.Argument) else [parameter.opts[0], value]


def cases_of(words: str) -> list[tuple[click.Parameter, str]]:
    """Return which parameter is given what: the first file five kinds of wrong file, every further one one of them.

    Which ones differs from command to command, so that all are met often; in a torture each file is given each.
    """
    wrong = HOPELESS if words.split()[0] in STARTS_BY_ITSELF else WRONG
    files = [parameter for parameter in COMMANDS[words].params if is_path(parameter)]
    found = []
    for place, parameter in enumerate(files):
        turned = [wrong[(len(words) + place + step) % len(wrong)] for step in range(len(wrong))]
        found += [(parameter, kind) for kind in turned[: len(wrong) if IS_TORTURE else 1 if place else 5]]
    return found


@pytest.mark.parametrize("words", sorted(words for words in COMMANDS if words not in BEGIN_SLOWLY and cases_of(words)))
def test_a_wrong_file_is_told_in_a_sentence_with_a_code(
    words: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for target, wrong in cases_of(words):
        arguments = words.split()
        for parameter in COMMANDS[words].params:
            if parameter is target:
                arguments += _given(parameter, _named(folder, wrong))
            elif parameter.required:
                arguments += _given(parameter, _value(parameter, folder))
        code, said = cli.run(arguments), capfd.readouterr().err
        assert code != 1 and "Traceback" not in said and "fault of this program" not in said, (arguments, said)
        assert code == 0 or words in SAYS_IT_IN_LINES or re.search(r"\(LX-[0-9]{4}\)", said), (arguments, said)
        _refill(folder)


def test_a_bank_is_told_that_the_file_is_a_platforms(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    node = folder / "platform.toml"
    node.write_text(
        'role = "platform"\noperator = "lin"\nidentity = "id"\nstate = "state"\nlisten = "127.0.0.1:7443"\n'
        '[data]\ntable = "t.csv"\nid = "uscc"\n'
    )
    assert cli.run(["bank", "status", str(node)]) == 2
    assert "this is a command of the bank; give the bank's file" in capfd.readouterr().err


def test_a_subject_secret_that_is_no_text_is_refused(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "binary").chmod(0o600)
    secret = ["--firm", "x", "--subject-secret", str(folder / "binary")]
    assert cli.run(["audit", "ask", "firm", str(folder / "empty"), *secret]) == 2
    assert "bytes in hex" in capfd.readouterr().err


@pytest.mark.parametrize("error", [13, 17, 20, 21, 28, 30, 36, 40])
def test_what_the_system_says_of_a_path_is_told_and_is_no_fault_of_ours(
    error: int, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def read(*_: object, **__: object) -> str:
        raise OSError(error, os.strerror(error), "there.toml")

    monkeypatch.setattr("lianxin.parties.cli.require_parser", read)
    assert cli.run(["bank", "status", "there.toml"]) == 2
    said = capfd.readouterr().err
    assert said.startswith("there.toml: ") and said.rstrip().endswith("(LX-0004)")
