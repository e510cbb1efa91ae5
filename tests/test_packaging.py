"""What leaves this tree: a wheel that installs beside other packages, and a CI run that owns up to its skips."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT, refused_skips

ROOMS = ("proto", "crypto", "federation", "parties", "simulations")
BUILD_FILES = ("pyproject.toml", "README.md", "LICENSE")
NOT_IN_A_CHECKOUT = shutil.ignore_patterns("__pycache__", "*.pyc")


def distribution(requirement: str) -> str:
    """Return the normalised name of what `requirement` asks for."""
    return re.split(r"[^\w-]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def run(*command: str | Path, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `command` in `folder` as a person would who never heard of this checkout."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST", "CI"))}
    return subprocess.run(command, cwd=folder, env=clean | environment, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the tree, so that no earlier build in the checkout can lend it a file."""
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("wheel")
    for room in ROOMS:
        shutil.copytree(ROOT / room, copy / room, ignore=NOT_IN_A_CHECKOUT)
    for name in BUILD_FILES:
        shutil.copy(ROOT / name, copy / name)
    pip = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", out, copy)
    built = run(*pip, folder=out)
    assert built.returncode == 0, built.stderr
    return next(out.glob("lianxin-*.whl"))


@pytest.fixture(scope="module")
def files(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a fresh environment with the wheel in it; what it depends on is read from this one."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
    outcome = run(*pip, folder=home)
    assert outcome.returncode == 0, outcome.stderr
    site = next((home / "lib").glob("python3*")) / "site-packages"
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return home / "bin"


def test_the_wheel_puts_nothing_but_lianxin_and_its_metadata_at_the_top(files: set[str]) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert {name.split("/")[0] for name in files} == {"lianxin", f"lianxin-{version}.dist-info"}


def test_the_wheel_holds_every_module_proto_scenario_and_catalogue_of_the_rooms(files: set[str]) -> None:
    carried = {".py", ".proto", ".csv", ".toml"}
    found = (path for room in ROOMS for path in (ROOT / room).rglob("*") if "__pycache__" not in path.parts)
    expected = {f"lianxin/{path.relative_to(ROOT).as_posix()}" for path in found if path.suffix in carried}
    assert {"lianxin/proto/crossing.proto", "lianxin/parties/catalogue_draft.csv"} <= expected
    assert sorted(expected - files) == []


def test_the_wheel_holds_no_tests(files: set[str]) -> None:
    assert [name for name in files if re.search(r"(^|/)(tests?|conftest\.py|test_[^/]*)(/|$)", name)] == []


def test_the_wheel_carries_the_licence(files: set[str]) -> None:
    assert [name for name in files if name.endswith(".dist-info/licenses/LICENSE")] != []


def test_the_installed_package_is_read_from_its_own_environment(installed: Path, tmp_path: Path) -> None:
    shown = run(installed / "python", "-c", "import lianxin.crypto as c; print(c.__file__)", folder=tmp_path)
    assert Path(shown.stdout.strip()).is_relative_to(installed.parent), shown.stderr


def test_the_installed_command_explains_itself_from_another_folder(installed: Path, tmp_path: Path) -> None:
    shown = run(installed / "lianxin", "--help", folder=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "lianxin" in shown.stdout


def test_the_core_asks_for_nothing_heavy_and_nothing_under_the_gpl() -> None:
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert {distribution(one) for one in asked} & {"torch", "opacus", "ray", "phe", "psycopg"} == set()


def test_every_requirement_is_pinned_by_the_constraints() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    lines = [one for one in (ROOT / "constraints.txt").read_text().splitlines() if not one.startswith("#")]
    assert [one for one in lines if not re.fullmatch(r"[\w.-]+==[\w.]+", one)] == []
    assert {distribution(one) for one in asked} - {distribution(one) for one in lines} == {"lianxin"}


def run_with_a_skip(reason: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    tests = folder / "tests"
    tests.mkdir()
    for name in ("conftest.py", "torture.py", "allowed_skips.txt"):
        shutil.copy(ROOT / "tests" / name, tests / name)
    body = f"import pytest\n\ndef test_a(): pytest.skip({reason!r})\n\ndef test_b(): pass\n"
    (tests / "test_made_up.py").write_text(body)
    return run(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", tests, folder=folder, **environment)


def test_in_ci_a_skip_that_nobody_allowed_fails_the_run_and_is_named(tmp_path: Path) -> None:
    outcome = run_with_a_skip("it was late", tmp_path, CI="true")
    assert outcome.returncode == pytest.ExitCode.TESTS_FAILED
    assert "allowed_skips.txt does not allow: it was late" in outcome.stdout
    assert "1 passed, 1 skipped" in outcome.stdout.splitlines()[-1]


def test_outside_ci_the_same_skip_is_only_listed(tmp_path: Path) -> None:
    assert run_with_a_skip("it was late", tmp_path).returncode == pytest.ExitCode.OK


def test_in_ci_an_allowed_skip_passes(tmp_path: Path) -> None:
    outcome = run_with_a_skip("shared/vectors is not beside the checkout", tmp_path, CI="true")
    assert outcome.returncode == pytest.ExitCode.OK


def test_a_reason_is_allowed_word_for_word_or_not_at_all() -> None:
    assert refused_skips(["Skipped: shared/data is not beside the checkout"]) == []
    assert refused_skips(["Skipped: shared/data", "Skipped: "]) == ["", "shared/data"]
