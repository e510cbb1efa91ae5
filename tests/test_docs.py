"""The documents tell the truth: commands run, keys and rules are named, links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from lianxin.parties import cli, config

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md")}
REFERENCE = DOCS["reference.md"]
_SHELL = re.compile(r"```sh\n(.*?)```", re.S)
_NAMED = re.compile(r"`lianxin ([a-z]+(?: [a-z][a-z-]*)?)")
_RULE = re.compile(r'"((?:[GSICPMBALNRW][0-9]{2})|OUT-[A-Z]+)"')


def shell_lines() -> list[str]:
    return [
        line.split("#")[0].strip() for block in _SHELL.findall(README) for line in block.splitlines() if line.strip()
    ]


def commands() -> dict[str, typer.models.CommandInfo]:
    """Every command by its words: `platform serve`, `replay`…"""
    group = typer.main.get_command(cli.app)
    found = {}
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", {})
        found |= {f"{name} {word}": one for word, one in inner.items()} or {name: command}
    return found


def test_the_readme_names_the_two_commands_and_make_has_them():
    makefile = (ROOT / "Makefile").read_text()
    for line in shell_lines():
        if line.startswith("make "):
            assert f"\n{line.split()[1]}:" in makefile


def test_every_command_that_a_document_names_exists():
    known = set(commands())
    groups = {words.split()[0] for words in known}
    for text in (README, *DOCS.values()):
        for words in _NAMED.findall(text):
            assert words in known or words.split()[0] in known or words in groups, words


@pytest.mark.parametrize("words", sorted(commands()))
def test_every_command_has_help_with_an_example(words, capsys):
    assert cli.run([*words.split(), "--help"]) == 0
    assert "Example: lianxin" in capsys.readouterr().out.replace("\n", " ").replace("  ", " ")


def test_the_readme_commands_run_in_their_order(tmp_path, monkeypatch, capfd):
    """The small province of the README is simulated; verify and replay are run on it in place of the demo."""
    monkeypatch.chdir(tmp_path)
    lines = [line for line in shell_lines() if "lianxin" in line and "COL" not in line]
    lines.sort(key=lambda line: "simulate" not in line)
    assert len(lines) == 8
    for line in lines:
        words = shlex.split(line.replace("build/demo", "build/small"))
        assert cli.run(words[1:]) == 0, capfd.readouterr().err
    out = capfd.readouterr().out
    assert "verified" in out and "equal, byte for byte" in out
    assert (tmp_path / "build" / "small" / "report.html").stat().st_size > 10_000


def test_every_configuration_key_is_in_the_reference():
    sections = (
        config.NodeConfig, config.DataSection, config.PolicySection, config.SimulationSection, config.RunConfig,
        config.BankTerms, config.KeysSection, config.QuotaSection, config.WitnessSection,
        config.EvaluationSection, config.StoreSection, config.RunsSection, config.LimitsSection, config.WatchSection,
    )  # fmt: skip
    missing = {key for section in sections for key in section.model_fields if f"`{key}`" not in REFERENCE}
    assert missing - {"data", "policy", "simulation", "banks", "keys", "quota", "witness"} == set()
    assert all(
        f"[{name}" in REFERENCE for name in ("data", "policy", "simulation", "banks", "keys", "quota", "witness")
    )


def test_every_rule_that_the_code_raises_is_in_the_reference():
    rooms = ("federation", "parties", "crypto", "simulations")
    code = "".join(path.read_text(encoding="utf-8") for room in rooms for path in (ROOT / room).glob("*.py"))
    assert set(_RULE.findall(code)) - {word for word in re.findall(r"[A-Z]+-?[A-Z0-9]+", REFERENCE)} == set()


def test_links_between_documents_lead_somewhere():
    for base, text in [(ROOT, README), *((ROOT / "docs", text) for text in DOCS.values())]:
        for target in re.findall(r"\]\(([^)#]+)", text):
            if "://" not in target:
                assert (base / target).exists(), target


def test_the_version_is_the_same_in_every_place():
    version = re.search(r'version = "([0-9.]+)"', (ROOT / "pyproject.toml").read_text()).group(1)  # type: ignore[union-attr]
    assert f"## {version}\n" in (ROOT / "CHANGELOG.md").read_text()
