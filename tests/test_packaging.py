"""What leaves this tree: a wheel that installs beside other packages, and a CI run that owns up to its skips."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT, refused_skips

ROOMS = ("proto", "crypto", "federation", "parties", "simulations")
BESIDE = ("tests", "docs")
BUILD_FILES = ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", "CHANGELOG.md", "Makefile", "constraints.txt")
MAKE_SDIST = "import sys; from setuptools import build_meta; print(build_meta.build_sdist(sys.argv[1]))"
NOT_IN_A_CHECKOUT = shutil.ignore_patterns("__pycache__", "*.pyc")


def distribution(requirement: str) -> str:
    """Return the normalised name of what `requirement` asks for."""
    return re.split(r"[^\w-]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def run(*command: str | Path, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `command` in `folder` as a person would who never heard of this checkout."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST", "CI"))}
    return subprocess.run(command, cwd=folder, env=clean | environment, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source archive of a copy of the tree, so that no earlier build in the checkout can lend it a file."""
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("sdist")
    for folder in (*ROOMS, *BESIDE):
        shutil.copytree(ROOT / folder, copy / folder, ignore=NOT_IN_A_CHECKOUT)
    for name in BUILD_FILES:
        shutil.copy(ROOT / name, copy / name)
    built = run(sys.executable, "-c", MAKE_SDIST, out, folder=copy)
    assert built.returncode == 0, built.stderr
    return next(out.glob("lianxin-*.tar.gz"))


@pytest.fixture(scope="module")
def unpacked(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the source archive holds."""
    out = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(out, filter="data")
    (folder,) = out.iterdir()
    return folder


@pytest.fixture(scope="module")
def wheel(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel made from nothing but the source archive."""
    out = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", out, unpacked)
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


def test_the_source_archive_holds_what_a_build_and_the_tests_need(unpacked: Path) -> None:
    found = (path for folder in (*ROOMS, *BESIDE) for path in (ROOT / folder).rglob("*") if path.is_file())
    kept = {path.relative_to(ROOT) for path in found if not {"__pycache__"} & set(path.parts) and path.suffix != ".pyc"}
    assert sorted(str(path) for path in kept if not (unpacked / path).is_file()) == []
    assert [name for name in BUILD_FILES if not (unpacked / name).is_file()] == []


def test_the_wheel_holds_no_golden_file_and_is_small(wheel: Path, files: set[str]) -> None:
    assert [name for name in files if "/golden/" in name] == []
    assert wheel.stat().st_size < 3_000_000


def test_what_the_program_reads_beside_its_modules_is_in_the_wheel(files: set[str]) -> None:
    read = {"error_codes.csv", "catalogue_draft.csv"}
    assert {f"lianxin/parties/{name}" for name in read} <= files


def test_the_metadata_says_what_it_is_for_whom_and_names_no_address(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (one for one in archive.namelist() if one.endswith(".dist-info/METADATA"))
        head, _, body = archive.read(name).decode().partition("\n\n")
    said = [
        line
        for line in head.splitlines()
        if line.startswith(("Classifier: ", "License-Expression: ", "Requires-Python: "))
    ]
    assert {"License-Expression: Apache-2.0", "Requires-Python: >=3.11"} <= set(said)
    assert "Classifier: Operating System :: POSIX :: Linux" in said
    assert not any(line.startswith(("Home-page", "Project-URL", "Author-email")) for line in head.splitlines())
    assert body.startswith("# Lianxin")


def test_the_installed_command_says_its_version_and_looks_up_an_error(installed: Path, tmp_path: Path) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert run(installed / "lianxin", "--version", folder=tmp_path).stdout.strip() == f"lianxin {version}"
    told = run(installed / "lianxin", "bank", "status", "missing.toml", folder=tmp_path)
    assert told.returncode == 2
    (code,) = re.findall(r"LX-[0-9]{4}", told.stderr)
    assert "What to do: " in run(installed / "lianxin", "explain", code, folder=tmp_path).stdout


def test_the_installed_program_passes_its_own_test(installed: Path, tmp_path: Path) -> None:
    told = run(installed / "lianxin", "doctor", "--self-test", folder=tmp_path)
    assert told.returncode == 0, told.stdout + told.stderr
    assert "its evidence verified" in told.stdout


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
    for name in ("conftest.py", "stores.py", "torture.py", "allowed_skips.txt"):
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
