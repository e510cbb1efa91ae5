"""Every call of the gate or the guard is needed: taken out, a named test fails. A call without such a test fails here.

A new call site needs two lines in `mutants.MUTANTS`; see there.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import mutants
import mutation
import pytest

MUTATED_AT_ONCE = 2
DEADLINE_S = 240


def test_every_gate_call_has_a_mutant_and_every_mutant_a_gate_call() -> None:
    sites = mutation.call_sites(mutants.gated_files(), mutants.is_gate)
    assert len(sites) == len(set(sites)) > 60
    missing = [site for site in sites if site not in mutants.MUTANTS]
    assert missing == [], f"say in tests/mutants.py which test notices that this call is gone: {missing}"
    assert [site for site in mutants.MUTANTS if site not in set(sites)] == [], "these calls are there no more"


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What became of each mutant, by site; the tests run in processes of their own."""
    folder = tmp_path_factory.mktemp("mutants")
    files = sorted({test.split("::")[0] for _, test in mutants.MUTANTS.values()})
    running = [_start(folder / str(place), files[place::MUTATED_AT_ONCE]) for place in range(MUTATED_AT_ONCE)]
    found: dict[str, str] = {}
    for child, out in running:
        said, _ = child.communicate(timeout=DEADLINE_S)
        assert out.exists(), said
        found |= json.loads(out.read_text())
    return found


def _start(folder: Path, files: list[str]) -> tuple["subprocess.Popen[str]", Path]:
    folder.mkdir()
    chosen = {site: entry for site, entry in mutants.MUTANTS.items() if entry[1].split("::")[0] in files}
    tests = sorted({test for _, test in chosen.values()})
    out = folder / "outcomes.json"
    environment = {
        **os.environ, "LIANXIN_MUTANTS": json.dumps(chosen), "LIANXIN_MUTANTS_OUT": str(out),
        "PYTHONPATH": str(Path(__file__).parent), "LIANXIN_TORTURE": "0",
    }  # fmt: skip
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "mutation",
        "-p",
        "no:cacheprovider",
        "--continue-on-collection-errors",
    ]
    child = subprocess.Popen(
        [*command, f"--basetemp={folder / 'tmp'}", *tests], cwd=mutation.ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    return child, out


@pytest.mark.parametrize("site", sorted(mutants.MUTANTS))
def test_without_this_call_a_test_fails(site: str, outcomes: dict[str, str]) -> None:
    assert outcomes.get(site, "its test was not collected") == mutation.KILLED


PROGRAM = """
def f(x):
    check(x)
    return [check(y) for y in x]

class C:
    def m(self):
        def g():
            check(1)
"""


def test_calls_are_found_and_named_wherever_they_stand() -> None:
    names = [str(site) for site, _, _ in mutation.calls_in("a.py", PROGRAM, lambda callee: callee == "check")]
    assert names == ["a.py f check", "a.py f check #2", "a.py C.m check"]


def test_a_call_is_gone_inside_the_block_alone_and_for_every_name_of_its_function() -> None:
    from lianxin.parties import boundary
    from lianxin.parties.boundary import Boundary

    kept, name = Boundary.aggregate.__code__, "parties/boundary.py Boundary._decide_fields _mode_rule"
    if name not in mutants.MUTANTS:
        name = next(site for site in mutants.MUTANTS if site.startswith("parties/boundary.py Boundary.aggregate "))
    with mutation.taken_out(name, "''", mutants.is_gate):
        changed = [f for f in vars(boundary.Boundary).values() if getattr(f, "__code__", kept) is not kept]
        assert changed
    assert Boundary.aggregate.__code__ is kept
