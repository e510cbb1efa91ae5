"""What each rule refuses, in a few words: for logs, and for `lianxin explain R02`.

`rule_words.csv` is made of the table of rules in docs/reference.md (`python tests/test_rule_words.py`).
"""

import csv
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from lianxin.parties.decision_rules import RULES
from lianxin.parties.error_codes import entries
from lianxin.parties.run_remedies import remedy

FILE = Path(__file__).with_name("rule_words.csv")
PAGE, GATE_PAGE = "docs/reference.md#rules", "docs/rules.md"


@cache
def all_words() -> Mapping[str, str]:
    """Return by rule what it refuses."""
    with FILE.open(encoding="utf-8", newline="") as file:
        return {row["rule"]: row["words"] for row in csv.DictReader(file)}


def words_of(rule: str) -> str:
    """Return what a rule refuses, or asks where the gate refuses nothing by it; "" for none of this version."""
    asks = RULES[rule].what if rule in RULES else ""
    return all_words().get(rule, asks)


def in_log(rule: str) -> str:
    """Return what a log's line says of a rule, and how to read more."""
    return f"{words_of(rule) or 'a rule of another version'} (`lianxin explain {rule}`)"


def explained(rule: str) -> dict[str, Any]:
    """Return {"rule", "words", "asks", "source", "what_to_do", "codes", "pages"} of a rule that has words."""
    gate = RULES.get(rule)
    return {
        "rule": rule, "words": words_of(rule), "asks": gate.what if gate else "", "source": gate.source if gate else "",
        "what_to_do": remedy(rule), "codes": [entry.code for entry in entries() if entry.rule == rule],
        "pages": [PAGE, GATE_PAGE] if gate else [PAGE],
    }  # fmt: skip
