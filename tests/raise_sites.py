"""Where our code makes an error that a person may see: module, function, class, sentence and rule, read from the source.

A sentence is a template: `{}` stands for what is put in at run time. An error whose text comes from a helper's parameter
is listed once for each call of the helper in its module, under the caller's name.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("crypto", "federation", "parties", "simulations")
ROOTS = {"LianxinError", "CryptoError", "PackFault", "QuestionFault"}
_RULE = re.compile(r"[A-Z]{1,3}-?[A-Z0-9]{2,}")
_HOLE = "{}"
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Site(NamedTuple):
    """One place that makes an error."""

    module: str
    function: str
    kind: str
    template: str
    rule: str


class Sources:
    """The modules of the rooms, their constant sentences, their error classes and how those put a message together."""

    def __init__(self, root: Path = ROOT) -> None:
        paths = sorted(path for room in ROOMS for path in (root / room).rglob("*.py"))
        self.trees = {
            path.relative_to(root).with_suffix("").as_posix(): ast.parse(path.read_text(encoding="utf-8"))
            for path in paths
        }
        self.constants = dict(found for tree in self.trees.values() for found in _constants(tree))
        classes = [
            node for tree in self.trees.values() for node in _definitions(tree) if isinstance(node, ast.ClassDef)
        ]
        self.bases = {node.name: [_name(base) for base in node.bases] for node in classes}
        self.kinds = {name for name in self.bases if self.is_error(name)} | ROOTS
        self.phrases = {(module, name): said for module, tree in self.trees.items() for name, said in _phrases(tree)}
        self.module = ""  # the one that is being read: its one-line functions that put a sentence together count
        self.makers = {node.name: maker for node in classes if node.name in self.kinds and (maker := _maker(node))}

    def is_error(self, name: str) -> bool:
        """Return whether this class is one of the errors that a person may see."""
        return name in ROOTS or any(self.is_error(base) for base in self.bases.get(name, ()) if base != name)

    def template(self, node: ast.expr | None, known: Mapping[str, str]) -> str:
        """Return the sentence that this expression makes, with `{}` for what is not known before it runs."""
        match node:
            case ast.Constant(value=str() as text):
                return text
            case ast.JoinedStr(values=parts):
                return "".join(self.template(part, known) for part in parts)
            case ast.FormattedValue(value=value) if isinstance(value, ast.Name | ast.Constant):
                return self.template(value, known)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return self.template(left, known) + self.template(right, known)
            case ast.Name(id=name):
                return known.get(name, self.constants.get(name, _HOLE))
            case ast.Call(func=function, args=given) if (self.module, _name(function)) in self.phrases:
                names, body = self.phrases[self.module, _name(function)]
                return self.template(
                    body, {name: self.template(one, known) for name, one in zip(names, given, strict=False)}
                )
        return _HOLE

    def message(self, call: ast.Call | ast.Name, known: Mapping[str, str]) -> tuple[str, str]:
        """Return the template and the rule of a call that makes an error."""
        arguments = call.args if isinstance(call, ast.Call) else []
        named = {word.arg or "": word.value for word in call.keywords} if isinstance(call, ast.Call) else {}
        kind = _name(call.func if isinstance(call, ast.Call) else call)
        kind = next((one for one in self._lineage(kind) if one in self.makers), kind)
        rule = next(
            (text for one in [*arguments[1:], *named.values(), *arguments[:1]] if (text := self._rule(one, known))), ""
        )
        if kind not in self.makers:
            return self.template(arguments[0] if arguments else None, known), rule
        signature, body = self.makers[kind]
        names = [argument.arg for argument in signature.args][1:]
        bound = dict(zip(names, arguments, strict=False)) | named
        return self.template(body, {name: self.template(bound.get(name), known) for name in names}), rule

    def _lineage(self, kind: str) -> Iterator[str]:
        yield kind
        for base in self.bases.get(kind, ()):
            yield from self._lineage(base)

    def _rule(self, node: ast.expr, known: Mapping[str, str]) -> str:
        text = self.template(node, known)
        return text if _RULE.fullmatch(text) else ""


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _constants(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str() as text)):
                yield name, text
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.Constant(value=str() as text)):
                yield name, text


def _definitions(node: ast.AST) -> Iterator[ast.stmt]:
    """Yield every class and function under a node; only statements are walked, since no expression holds one."""
    for part in ("body", "orelse", "handlers", "finalbody"):
        for inner in getattr(node, part, ()) if not isinstance(node, ast.expr) else ():
            if isinstance(inner, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield inner
            yield from _definitions(inner)


def _phrases(tree: ast.Module) -> Iterator[tuple[str, tuple[list[str], ast.expr]]]:
    """Yield the functions that do nothing but return a sentence made of their parameters, by name."""
    for node in _definitions(tree):
        if isinstance(node, ast.FunctionDef) and isinstance(said := node.body[-1], ast.Return) and len(node.body) < 3:
            names = [argument.arg for argument in node.args.args if argument.arg not in ("self", "cls")]
            if isinstance(said.value, ast.JoinedStr) and names:
                yield node.name, (names, said.value)


def _maker(node: ast.ClassDef) -> tuple[ast.arguments, ast.expr] | None:
    """Return the parameters of a class's own `__init__` and the message that it hands on, where it has one."""
    for inner in node.body:
        if isinstance(inner, ast.FunctionDef) and inner.name == "__init__":
            for call in ast.walk(inner):
                if isinstance(call, ast.Call) and _name(call.func) == "__init__" and call.args:
                    return inner.args, call.args[0]
    return None


class _Walk(ast.NodeVisitor):
    """Collects, of one module, what makes an error and every call, each with the functions around it."""

    def __init__(self, kinds: set[str]) -> None:
        self.kinds, self.around = kinds, []  # type: ignore[var-annotated]
        self.made: list[tuple[str, Function | None, ast.Call | ast.Name]] = []
        self.calls: list[tuple[str, ast.Call]] = []

    def visit_FunctionDef(self, node: Function | ast.ClassDef) -> None:
        self.around.append(node)
        self.generic_visit(node)
        self.around.pop()

    visit_AsyncFunctionDef = visit_ClassDef = visit_FunctionDef

    @property
    def _where(self) -> str:
        return ".".join(node.name for node in self.around)

    def visit_Call(self, node: ast.Call) -> None:
        inner = [one for one in self.around if not isinstance(one, ast.ClassDef)]
        if _name(node.func) in self.kinds:
            self.made.append((self._where, inner[-1] if inner else None, node))
        else:
            self.calls.append((self._where, node))
        self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        if isinstance(node.exc, ast.Name) and node.exc.id in self.kinds:
            self.made.append((self._where, None, node.exc))
        self.generic_visit(node)


def _bound(function: Function, call: ast.Call, sources: Sources) -> dict[str, str]:
    names = [argument.arg for argument in function.args.args]
    names = names[1:] if names[:1] in (["self"], ["cls"]) else names
    given = dict(zip(names, call.args, strict=False)) | {word.arg or "": word.value for word in call.keywords}
    return {name: sources.template(given[name], {}) if name in given else _HOLE for name in names}


def _sites_of(module: str, tree: ast.Module, sources: Sources) -> Iterator[Site]:
    sources.module = module
    walk = _Walk(sources.kinds)
    walk.visit(tree)
    for where, function, made in walk.made:
        kind = _name(made.func if isinstance(made, ast.Call) else made)
        if (function is not None and function.name == "__init__") or kind == "Verdict":
            continue
        plain = sources.message(made, {})
        if function is not None:
            calls = [(at, call) for at, call in walk.calls if _name(call.func) == function.name and at != where]
            said = {(at, *sources.message(made, _bound(function, call, sources))) for at, call in calls}
            if any(template != plain[0] for _, template, _ in said):
                yield from (Site(module, at, kind, template, rule) for at, template, rule in sorted(said))
                if function.name.startswith("_"):
                    continue
        yield Site(module, where, kind, *plain)


_sources = cache(Sources)


def sites(root: Path = ROOT) -> list[Site]:
    """Return every place of the rooms that makes an error a person may see, each once, in the order of its module."""
    sources = _sources(root)
    return sorted({site for module, tree in sources.trees.items() for site in _sites_of(module, tree, sources)})


def class_bases(root: Path = ROOT) -> dict[str, str]:
    """Return the first base of each error class of the rooms."""
    sources = _sources(root)
    return {name: sources.bases[name][0] for name in sources.kinds if sources.bases.get(name)}
