"""Who may import whom, the single doors, and what the tree may hold: house.md as a test.

A rule is a function from one file (path from the root, text) to the lines that break it. Imports under TYPE_CHECKING
count, and so do aliases: after `import numpy as np`, `np.random` is read as `numpy.random`. The last test shows each
rule a file made up to break it, and a neighbour that may stand.
"""

import ast
import fnmatch
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from conftest import ROOT

Broken = Iterator[tuple[int, str]]
Rule = Callable[[str, str], Broken]

ROOMS = {
    "proto": set[str](),
    "crypto": set[str](),
    "federation": {"crypto", "proto"},
    "parties": {"federation", "crypto"},
    "simulations": {"parties", "federation", "crypto"},
}
BUILD = {".ci", ".gitignore", "Makefile", "MANIFEST.in", "pyproject.toml", "constraints.txt"}
PROSE = {"docs", "README.md", "README.zh-CN.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE"}
DRAWERS = {"utils", "common", "helpers", "manager", "base"}
RUNNABLE = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "builtins.eval", "builtins.exec"}
LONGEST = 400
LAZILY = "def f():\n  "
TORCH = "import torch\ntorch.load(f, "


def tree_files() -> list[str]:
    """Return every file of the tree that .gitignore does not name, as a path from the root."""
    ignored = [line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines()] + [".git"]

    def walk(folder: Path) -> Iterator[str]:
        for entry in sorted(folder.iterdir()):
            if not any(fnmatch.fnmatch(entry.name, pattern) for pattern in ignored):
                yield from walk(entry) if entry.is_dir() else [entry.relative_to(ROOT).as_posix()]

    return list(walk(ROOT))


def is_code(path: str) -> bool:
    return path.endswith(".py") and not path.endswith(("_pb2.py", "_pb2_grpc.py"))


ALL_FILES = tree_files()
CODE = [path for path in ALL_FILES if is_code(path)]
ROOM_CODE = [path for path in CODE if path.split("/")[0] in ROOMS]
TEST_MODULES = {Path(path).stem for path in CODE if path.startswith("tests/") and path.count("/") == 1}


@cache
def text_of(path: str) -> str:
    return (ROOT / path).read_bytes().decode("utf-8", errors="replace")


def is_kept_by(rule: Rule, paths: list[str]) -> None:
    """Fail with every line of `paths` that breaks `rule`."""
    broken = [f"{path}:{line}: {what}" for path in paths for line, what in rule(path, text_of(path))]
    assert not broken, "\n".join(broken)


@cache
def nodes(text: str) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(text)))


def dotted(node: ast.AST) -> str:
    """Return `a.b.c` for a name or a chain of attributes, "" for any other expression."""
    if isinstance(node, ast.Attribute):
        return f"{inner}.{node.attr}" if (inner := dotted(node.value)) else ""
    return node.id if isinstance(node, ast.Name) else ""


@cache
def imports(path: str, text: str) -> tuple[tuple[ast.AST, str, str], ...]:
    """Return (node, local name, full dotted name) for each name that an import of the file binds."""
    package, found = ["lianxin", *Path(path).parent.parts], list[tuple[ast.AST, str, str]]()
    for node in nodes(text):
        if isinstance(node, ast.Import):
            found += [(node, a.asname or a.name.split(".")[0], a.name) for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = [*above, *([node.module] if node.module else [])]
            found += [(node, a.asname or a.name, ".".join([*module, a.name])) for a in node.names]
        elif isinstance(node, ast.Call) and dotted(node.func).split(".")[-1] in {"import_module", "__import__"}:
            found += [(node, "", str(a.value)) for a in node.args[:1] if isinstance(a, ast.Constant)]
    return tuple(found)


@cache
def uses(path: str, text: str) -> tuple[tuple[ast.AST, str], ...]:
    """Return (node, full dotted name) of every import, and of every name or attribute that leads back to one."""
    imported = imports(path, text)
    bound = {local: local if full.startswith(local + ".") else full for _, local, full in imported}
    chains = [(node, *dotted(node).partition(".")) for node in nodes(text)]
    reached = [(node, bound[first] + dot + rest) for node, first, dot, rest in chains if first in bound]
    return (*((node, full) for node, _, full in imported), *reached)


def line_of(node: ast.AST) -> int:
    return getattr(node, "lineno", 0)


def is_under(name: str, *roots: str) -> bool:
    return any(name == root or name.startswith(root + ".") for root in roots)


def door(reason: str, opens: Callable[[str], bool], *doors: str) -> Rule:
    """Return the rule that only `doors` (paths, with *) use a name that `opens`."""

    def rule(path: str, text: str) -> Broken:
        if not any(fnmatch.fnmatch(path, d) for d in doors):
            yield from {(line_of(node), f"{name}: {reason}"): None for node, name in uses(path, text) if opens(name)}

    return rule


def rooms_look_only_down(path: str, text: str) -> Broken:
    room = path.split("/")[0]
    functions = [node for node in nodes(text) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lazy = {id(inner) for function in functions for inner in ast.walk(function)}
    for node, name in uses(path, text):
        root, *below = name.split(".")
        if fnmatch.fnmatch(path, "parties/cli*.py") and below[:1] == ["simulations"] and id(node) in lazy:
            continue
        if root in {"tests", *TEST_MODULES} or (root == "lianxin" and not {*below[:1]} <= ROOMS[room] | {room}):
            yield line_of(node), f"{room} may not import {name}"


def released_has_one_maker(path: str, text: str) -> Broken:
    full_names = {id(node): name for node, name in uses(path, text)}
    for node in nodes(text):
        made = [node.func] if isinstance(node, ast.Call) else getattr(node, "bases", [])
        names = {full_names.get(id(m), dotted(m)).split(".")[-1] for m in made}
        if "Released" in names and path != "parties/boundary.py":
            yield line_of(node), "Released is constructed in parties/boundary alone"
        if isinstance(node, ast.ClassDef) and node.name == "Released" and path != "federation/model.py":
            yield line_of(node), "the type Released lives in federation/model"


def nothing_runs_data(path: str, text: str) -> Broken:
    for node, name in uses(path, text):
        if is_under(name, *RUNNABLE):
            yield line_of(node), f"{name} turns data into code"
    for node in nodes(text):
        if isinstance(node, ast.Call) and dotted(node.func) in {"eval", "exec"}:
            yield line_of(node), f"{dotted(node.func)} turns data into code"
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
            yield line_of(node), "allow_pickle turns data into code"


def torch_loads_weights_only(path: str, text: str) -> Broken:
    loads = {id(node) for node, name in uses(path, text) if name in {"torch.load", "torch.serialization.load"}}
    for call in (node for node in nodes(text) if isinstance(node, ast.Call) and id(node.func) in loads):
        if not any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in call.keywords):
            yield line_of(call), "torch.load without weights_only=True runs what it loads"


def judges_stand_alone(path: str, text: str) -> Broken:
    if not fnmatch.fnmatch(path, "parties/auditor*.py") and not fnmatch.fnmatch(path, "parties/decision*.py"):
        return
    judges = "(decision|auditor)" if "auditor" in path else "decision_"
    trusted = rf"lianxin\.(crypto\b|parties\.{judges}(\b|_|\w))"
    for node, _, name in imports(path, text):
        if not re.match(trusted, name) and name.split(".")[0] not in sys.stdlib_module_names:
            yield line_of(node), f"{name}: what an auditor trusts is the standard library, crypto and parties/decision"


def nothing_is_imported_by_star(path: str, text: str) -> Broken:
    yield from ((line_of(node), f"{name} hides its names") for node, local, name in imports(path, text) if local == "*")


def file_is_short(path: str, text: str) -> Broken:
    if (lines := text.count("\n")) > LONGEST:
        yield lines, f"{lines} lines; a file has at most {LONGEST}: split it"


def file_is_no_drawer(path: str, text: str) -> Broken:
    if DRAWERS & {*Path(path).with_suffix("").parts}:
        yield 1, "name it after what it holds, with a noun from the paper or the trade"


def file_has_a_place(path: str, text: str) -> Broken:
    if path.split("/")[0] not in {*ROOMS, *BUILD, *PROSE, "tests"}:
        yield 1, "the top holds the rooms, tests, docs, build files and CI, and nothing else"


def file_names_no_machine(path: str, text: str) -> Broken:
    everywhere = {Path(p) for p in ("/", "/home", "/opt", "/srv", "/usr", tempfile.gettempdir())}
    here = [re.escape(str(ROOT)), *(re.escape(f"{p}/") for p in {ROOT.parent, Path.home()} - everywhere)]
    machine = re.compile(rf"(?<![\w.}})\]])(?:{'|'.join(here)})")
    index = re.compile(r"""\w+://[^ )"']*/simple\b|index[_-]ur[l]""", re.IGNORECASE)
    for number, line in enumerate(text.splitlines(), start=1):
        if machine.search(line) or index.search(line):
            yield number, "names a folder of this machine or a package index"


pb2_has_its_doors = door(
    "generated modules are used in wire and at the gRPC edge",
    lambda name: any(part.endswith(("_pb2", "_pb2_grpc")) for part in name.split(".")),
    *("federation/wire.py", "federation/channel.py", "federation/services*.py"),
)
flower_has_its_doors = door(
    "Flower is used in the grid, the apps, strategies and the mod of sums",
    lambda n: is_under(n, "flwr"),
    *(f"federation/{name}.py" for name in ("grid", "apps", "federated", "strategies", "sum_mod", "stock")),
    "simulations/flower/*.py",
)
torch_has_its_doors = door(
    "torch and Opacus are used in parties/training*: an installation without them runs everything else",
    lambda n: is_under(n, "torch", "opacus"),
    "parties/training*.py",
)
grpc_has_its_doors = door(
    "gRPC is used at the edge",
    lambda name: is_under(name, "grpc"),
    *("federation/channel.py", "federation/services*.py", "parties/node.py"),
)
chance_has_its_doors = door(
    "randomness is an argument, drawn in crypto/randomness or simulations/world",
    lambda name: is_under(name, "secrets", "os.urandom", "os.getrandom", "random", "numpy.random"),
    *("crypto/randomness.py", "simulations/world.py"),
)
gpl_has_its_door = door(
    "phe is for conversion, and for the script that measures it in an environment of its own",
    lambda name: is_under(name, "phe"),
    *("*/*conversion.py", "simulations/peers/phe_peer.py"),
)


def test_a_room_imports_only_the_rooms_below_it() -> None:
    is_kept_by(rooms_look_only_down, ROOM_CODE)


def test_generated_modules_are_used_only_in_wire_and_at_the_grpc_edge() -> None:
    is_kept_by(pb2_has_its_doors, ROOM_CODE)


def test_flower_is_used_only_in_grid_apps_and_strategies() -> None:
    is_kept_by(flower_has_its_doors, ROOM_CODE)


def test_torch_is_used_only_in_training() -> None:
    is_kept_by(torch_has_its_doors, ROOM_CODE)


def test_grpc_is_used_only_in_channel_services_and_node() -> None:
    is_kept_by(grpc_has_its_doors, ROOM_CODE)


def test_released_is_constructed_only_in_boundary() -> None:
    is_kept_by(released_has_one_maker, ROOM_CODE)


def test_random_numbers_are_drawn_only_in_randomness_and_world() -> None:
    is_kept_by(chance_has_its_doors, ROOM_CODE)


def test_no_room_turns_data_into_code() -> None:
    is_kept_by(nothing_runs_data, ROOM_CODE)


def test_torch_loads_nothing_but_weights() -> None:
    is_kept_by(torch_loads_weights_only, ROOM_CODE)


def test_auditor_and_decision_import_nothing_that_they_judge() -> None:
    is_kept_by(judges_stand_alone, ROOM_CODE)


def test_phe_is_imported_only_for_conversion() -> None:
    is_kept_by(gpl_has_its_door, ROOM_CODE)


def test_no_file_imports_by_star() -> None:
    is_kept_by(nothing_is_imported_by_star, CODE)


def test_no_hand_written_file_is_longer_than_400_lines() -> None:
    is_kept_by(file_is_short, CODE)


def test_no_module_is_named_after_a_drawer() -> None:
    is_kept_by(file_is_no_drawer, CODE)


def test_the_top_holds_only_rooms_docs_and_build_files() -> None:
    is_kept_by(file_has_a_place, ALL_FILES)


def test_no_file_names_a_folder_of_this_machine_or_a_package_index() -> None:
    is_kept_by(file_names_no_machine, ALL_FILES)


@pytest.mark.parametrize(
    ("rule", "path", "breaks", "keeps"),
    [
        (rooms_look_only_down, "crypto/x.py", "import lianxin.federation.wire", "from lianxin.crypto import group"),
        (rooms_look_only_down, "federation/x.py", "if TYPE_CHECKING:\n  from lianxin import parties", "import os"),
        (rooms_look_only_down, "crypto/x.py", "import lianxin.crypto.a\nlianxin.parties.b", "import lianxin.crypto"),
        (rooms_look_only_down, "federation/x.py", "from .. import parties", "from . import wire"),
        (rooms_look_only_down, "parties/cli_x.py", "import lianxin.simulations", f"{LAZILY}import lianxin.simulations"),
        (rooms_look_only_down, "parties/x.py", f"{LAZILY}import lianxin.simulations", f"{LAZILY}import os"),
        (rooms_look_only_down, "parties/x.py", "import_module('lianxin.proto.wire')", "import_module('csv')"),
        (rooms_look_only_down, "simulations/x.py", "import conftest", "from lianxin.parties import bank"),
        (pb2_has_its_doors, "parties/x.py", "import lianxin.proto.vertical_pb2", "import lianxin.federation.wire"),
        (pb2_has_its_doors, "parties/x.py", "from lianxin.federation import wire as w\nw.a_pb2.B()", "w.a_pb2.B()"),
        (flower_has_its_doors, "parties/x.py", "from flwr.app import Message", "import flower"),
        (torch_has_its_doors, "parties/x.py", "def f():\n  import torch", "from lianxin.parties import training"),
        (torch_has_its_doors, "federation/x.py", "from opacus import PrivacyEngine", "import torchless"),
        (grpc_has_its_doors, "parties/x.py", "import grpc.aio", "import grpc_tools"),
        (released_has_one_maker, "parties/x.py", "from model import Released as R\nR(1)", "def f(r: Released): ..."),
        (released_has_one_maker, "federation/x.py", "class Mine(model.Released): ...", "isinstance(rows, Released)"),
        (released_has_one_maker, "federation/x.py", "class Released: ...", "class Mine: ..."),
        (chance_has_its_doors, "simulations/x.py", "import numpy as np\nnp.random.f()", "import numpy as np\nnp.f()"),
        (chance_has_its_doors, "parties/x.py", "import os\nos.urandom(32)", "import os\nos.environ['X']"),
        (chance_has_its_doors, "crypto/x.py", "from secrets import token_bytes", "def draw(random): random.bits(2)"),
        (nothing_runs_data, "parties/x.py", "import pickle", "import json"),
        (nothing_runs_data, "parties/x.py", "eval(text)", "model.eval()"),
        (nothing_runs_data, "parties/x.py", "load(f, allow_pickle=True)", "load(f, allow_pickle=False)"),
        (torch_loads_weights_only, "parties/x.py", "import torch\ntorch.load(f)", "json.load(f)"),
        (torch_loads_weights_only, "parties/x.py", "from torch import load\nload(f)", "load(f)"),
        (torch_loads_weights_only, "parties/x.py", f"{TORCH}weights_only=False)", f"{TORCH}weights_only=True)"),
        (judges_stand_alone, "parties/auditor_x.py", "import lianxin.parties.bank", "import lianxin.parties.auditor_y"),
        (judges_stand_alone, "parties/auditor.py", "import numpy", "from lianxin.parties import decision"),
        (judges_stand_alone, "parties/decision.py", "import lianxin.parties.auditor", "import lianxin.crypto.merkle"),
        (gpl_has_its_door, "parties/x.py", "def f():\n  import phe", "import phew"),
        (nothing_is_imported_by_star, "tests/x.py", "from lianxin.crypto.group import *", "from os import path"),
        (file_is_short, "tests/x.py", "\n" * 401, "\n" * 400),
        (file_names_no_machine, "README.md", f"cd {ROOT}/tests", "cd lianxin/tests"),
        (file_names_no_machine, "docs/x.md", "pip install --index" + "-url X", "pip install X"),
        (file_names_no_machine, "Makefile", "https://pypi.org/sim" + "ple/", "https://pypi.org/project/lianxin/"),
    ],
)  # fmt: skip
def test_a_rule_catches_a_planted_violation_and_lets_its_neighbour_stand(
    rule: Rule, path: str, breaks: str, keeps: str
) -> None:
    assert list(rule(path, breaks)) != []
    assert list(rule(path, keeps)) == []


@pytest.mark.parametrize(
    ("rule", "breaks", "keeps"),
    [
        (file_is_no_drawer, "tests/helpers.py", "tests/conversations.py"),
        (file_is_no_drawer, "crypto/common/keys.py", "crypto/fixed_base.py"),
        (file_has_a_place, "backends/x.py", "crypto/x.py"),
        (file_has_a_place, "notes.txt", "README.md"),
        (gpl_has_its_door, "crypto/paillier.py", "parties/phe_conversion.py"),
        (gpl_has_its_door, "simulations/bench_peers.py", "simulations/peers/phe_peer.py"),
        (chance_has_its_doors, "simulations/runner.py", "simulations/world.py"),
        (torch_has_its_doors, "parties/bank_network.py", "parties/training_models.py"),
        (flower_has_its_doors, "federation/rounds.py", "federation/federated.py"),
    ],
)
def test_a_rule_catches_a_file_in_the_wrong_place(rule: Rule, breaks: str, keeps: str) -> None:
    text = "import phe, random, torch, flwr"
    assert list(rule(breaks, text)) != []
    assert list(rule(keeps, text)) == []
