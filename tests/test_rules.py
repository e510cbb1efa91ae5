"""Every rule of the gate has its source, its place and its tests: docs/rules.md is made of them.

Run as a program, this file writes docs/rules.md anew.
"""

import ast
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

from lianxin.parties.decision_rules import RULES

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "rules.md"
HEAD = """# Rules: what the gate refuses, why, where, and which tests show it

Made by `python tests/test_rules.py` from `parties/decision_rules.py` and from the tests that are marked with a rule. The
law is paraphrased for programmers; nothing here is legal advice. Short names: PIPL, the Personal Information Protection
Law; ND, the Network Data Security Management Regulation; DSL, the Data Security Law; CRR, the Credit Reporting Industry
Regulation. "By a person" means that no program keeps the rule here, and says who does.

| rule | what | source | where | tests |
|---|---|---|---|---|
"""


def marked_rules(text: str) -> dict[str, list[str]]:
    """Return the rules of `@pytest.mark.rule(...)` in a test file, each with the tests that carry it."""
    found: dict[str, list[str]] = defaultdict(list)
    tree = ast.parse(text)
    whole = [
        node for node in tree.body if isinstance(node, ast.Assign) and "pytestmark" in ast.unparse(node.targets[0])
    ]
    tests = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    for test in tests:
        places = [*test.decorator_list, *whole]
        calls = [call for place in places for call in ast.walk(place) if isinstance(call, ast.Call)]
        for call in calls:
            if ast.unparse(call.func) == "pytest.mark.rule":
                for argument in call.args:
                    found[ast.literal_eval(argument)].append(test.name)
    return found


@cache
def shown_by_rule() -> dict[str, list[str]]:
    """Return each rule's test files with the number of marked tests, in the order of paths."""
    shown: dict[str, list[str]] = defaultdict(list)
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for rule, names in marked_rules(path.read_text(encoding="utf-8")).items():
            shown[rule].append(f"`{path.relative_to(ROOT / 'tests')}` ({len(set(names))})")
    return dict(shown)


def page() -> str:
    shown = shown_by_rule()
    lines = []
    for rule in RULES.values():
        where = ", ".join(f"`{place}`" for place in rule.where) or f"by a person: {rule.instead}"
        lines.append(
            f"| {rule.id} | {rule.what} | {rule.source} | {where} | {', '.join(shown.get(rule.id, ['none']))} |"
        )
    return HEAD + "\n".join(lines) + "\n"


def test_the_page_of_rules_says_what_the_code_and_the_marks_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `python tests/test_rules.py` to write docs/rules.md anew"


def test_every_rule_of_the_list_is_there_in_its_order() -> None:
    assert [name for name in RULES if name.startswith("R")] == [f"R{number:02}" for number in range(1, 40)]
    assert all(name == rule.id for name, rule in RULES.items())


@pytest.mark.parametrize("name", RULES)
def test_a_rule_is_one_sentence_with_a_source_and_either_a_place_or_a_person(name: str) -> None:
    rule = RULES[name]
    assert re.fullmatch(r"[A-Z][^.|]*\.", rule.what) and rule.source and "|" not in rule.source + rule.instead
    assert bool(rule.where) != bool(rule.instead)
    assert all(place.startswith("lianxin ") or (ROOT / place).is_file() for place in rule.where)


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if rule.where])
def test_a_rule_that_a_program_keeps_is_shown_by_a_test(name: str) -> None:
    assert shown_by_rule().get(name), f"no test is marked with rule {name}"


def test_a_mark_names_a_rule_that_exists() -> None:
    others = set(re.findall(r"[A-Z]+-?[A-Z0-9]+", (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")))
    assert set(shown_by_rule()) <= set(RULES) | others


def test_a_rule_without_a_test_and_a_mark_without_a_test_function_are_told_apart() -> None:
    text = "@pytest.mark.rule('R01', 'R02')\n@pytest.mark.rule('R03')\ndef test_a(): ...\n"
    text += "@pytest.mark.rule('R04')\ndef b(): ..."
    assert dict(marked_rules(text)) == {"R01": ["test_a"], "R02": ["test_a"], "R03": ["test_a"]}
    assert dict(marked_rules("pytestmark = pytest.mark.rule('R05')\ndef test_a(): ...\ndef test_b(): ...")) == {
        "R05": ["test_a", "test_b"]
    }


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
