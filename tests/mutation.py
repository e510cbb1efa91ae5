"""Taking one call of the gate or the guard out of the program, in memory, and seeing which test notices.

`call_sites` finds by its syntax tree every call in federation/ and parties/ whose name is in `mutants.GATES`. A site is named
`path function callee`, and `#2`, `#3` where a function makes the same call again. `taken_out` compiles the module with
that one call replaced by an expression and puts the code of the changed function in the place of the real one's: every
name that leads to the function, wherever it was imported, then runs the changed code.

As a pytest plugin (`-p mutation`, see test_gate_mutations.py) this runs each test of `LIANXIN_MUTANTS` as it is, and
then once more for each mutant that it is said to notice, and writes to `LIANXIN_MUTANTS_OUT` what became of it.
"""

import ast
import functools
import importlib
import inspect
import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

ROOT = Path(__file__).resolve().parents[1]
KILLED, SURVIVED = "killed", "survived"
_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Site:
    """One call: `function` is the qualified name of the outermost function around it, `number` counts equal calls."""

    path: str
    function: str
    callee: str
    number: int

    def __str__(self) -> str:
        return f"{self.path} {self.function} {self.callee}" + (f" #{self.number}" if self.number > 1 else "")


def calls_in(path: str, text: str, is_gate: Any) -> Iterator[tuple[Site, ast.Call, ast.Module]]:
    """Yield every call in a module whose callee `is_gate`, in the order of the text."""
    tree, seen = ast.parse(text), Counter[tuple[str, str]]()

    def walk(node: ast.AST, classes: tuple[str, ...], function: str) -> Iterator[tuple[str, ast.Call]]:
        for child in ast.iter_child_nodes(node):
            name = function
            if isinstance(child, _Function) and not function:
                name = ".".join([*classes, child.name])
            if isinstance(child, ast.Call) and is_gate(ast.unparse(child.func)):
                yield name, child
            inner = (*classes, child.name) if isinstance(child, ast.ClassDef) and not function else classes
            yield from walk(child, inner, name)

    for function, call in sorted(walk(tree, (), ""), key=lambda found: (found[1].lineno, found[1].col_offset)):
        place = (function, ast.unparse(call.func))
        seen[place] += 1
        yield Site(path, *place, seen[place]), call, tree


def call_sites(paths: list[str], is_gate: Any) -> list[str]:
    """Return the name of every gate call in the files, in order."""
    return [str(site) for path in paths for site, _, _ in calls_in(path, (ROOT / path).read_text("utf-8"), is_gate)]


@contextmanager
def taken_out(name: str, replacement: str, is_gate: Any) -> Iterator[None]:
    """Run the block with the call `name` replaced by the expression `replacement`. Raises KeyError for no such call."""
    path = name.split()[0]
    found = {str(site): (site, call, tree) for site, call, tree in calls_in(path, _text(path), is_gate)}
    site, call, tree = found[name]
    _Replace(call, replacement).visit(tree)
    changed = compile(ast.fix_missing_locations(tree), str(ROOT / path), "exec", dont_inherit=True)
    target = _live_function(path, site.function)
    kept, target.__code__ = target.__code__, _code_of(changed, site.function)
    try:
        yield
    finally:
        target.__code__ = kept


def _text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


class _Replace(ast.NodeTransformer):
    def __init__(self, call: ast.Call, replacement: str) -> None:
        self._call, self._expression = call, ast.parse(replacement, mode="eval").body

    def visit_Call(self, node: ast.Call) -> ast.AST:
        return self._expression if node is self._call else self.generic_visit(node)


def _code_of(code: CodeType, name: str) -> CodeType:
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    for constant in inner:
        if constant.co_qualname == name:
            return constant
        if name.startswith(constant.co_qualname + "."):
            return _code_of(constant, name)
    raise KeyError(name)


def _live_function(path: str, name: str) -> Any:
    module = importlib.import_module("lianxin." + path.removesuffix(".py").replace("/", "."))
    found: Any = module
    for part in name.split("."):
        found = inspect.getattr_static(found, part)
    for kind, inner in (
        (property, "fget"),
        (functools.cached_property, "func"),
        (classmethod | staticmethod, "__func__"),
    ):
        found = getattr(found, inner) if isinstance(found, kind) else found
    return inspect.unwrap(found)


# ---- the plugin


class Plugin:
    """Runs each chosen test once as it is and once a mutant."""

    def __init__(self, mutants: dict[str, tuple[str, str]], is_gate: Any) -> None:
        self.mutants, self.is_gate, self.outcomes = mutants, is_gate, dict[str, str]()

    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool:
        """Run the item as it is; then, if it passed, under each of its mutants."""
        named = [site for site, (_, test) in self.mutants.items() if test == item.nodeid]
        sound = self._run(item, nextitem)
        for site in named:
            if sound != SURVIVED:
                self.outcomes[site] = f"the test does not pass without the mutant: {sound}"
                continue
            try:
                with taken_out(site, self.mutants[site][0], self.is_gate):
                    self.outcomes[site] = self._run(item, nextitem)
            except (KeyError, SyntaxError) as fault:
                self.outcomes[site] = f"no such call, or no expression in its place: {fault}"
        return True

    def _run(self, item: Any, nextitem: pytest.Item | None) -> str:
        item._initrequest()
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
        failed = next((report for report in reports if not report.passed), None)
        if failed is None:
            return SURVIVED
        crash = getattr(failed.longrepr, "reprcrash", None)
        said = crash.message.splitlines()[0] if crash is not None else str(failed.longrepr)
        is_noticed = failed.when == "call" and said.startswith(("AssertionError", "assert ", "Failed: ", "lianxin."))
        return KILLED if is_noticed else f"another failure in {failed.when}: {said}"


def pytest_configure(config: pytest.Config) -> None:
    """Take the mutants from the environment, where this runs as a plugin."""
    if "LIANXIN_MUTANTS" in os.environ:
        from mutants import is_gate

        mutants = {site: tuple(entry) for site, entry in json.loads(os.environ["LIANXIN_MUTANTS"]).items()}
        config.pluginmanager.register(Plugin(mutants, is_gate), "gate-mutations")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Write what became of each mutant."""
    plugin = config.pluginmanager.get_plugin("gate-mutations")
    if plugin is not None:
        Path(os.environ["LIANXIN_MUTANTS_OUT"]).write_text(json.dumps(plugin.outcomes))
