"""Every rule that a log, a metric or an alert names is explained by `lianxin explain`, in the words of the reference."""

import csv
import io
import json
import re

import pytest
from conftest import ROOT

from lianxin.parties import cli, rule_words, watch_log
from lianxin.parties.decision_rules import RULES
from lianxin.parties.run_remedies import REMEDIES
from lianxin.parties.watch_tail import Tail

REFERENCE = ROOT / "docs" / "reference.md"


# ---- made of the table of rules
def words_in(table: str) -> dict[str, str]:
    """Return what each rule refuses, from the rows of the reference's table."""
    found = {}
    for row in re.findall(r"^\| ((?:[A-Z][A-Z0-9-]+ ?)+) \| (.*) \|$", table, re.MULTILINE):
        rules, said = row[0].split(), re.sub(r" ?\(\[[^)]*\)\)|\[([^]]*)\]\([^)]*\)", r"\1", row[1])
        kind, colon, rest = said.partition(": ")
        told = said if (colon and len(rules) == 1) or not colon or "; " in kind or "`" in kind else rest
        parts = told.split("; ")
        parts = parts if len(parts) == len(rules) else re.split("[;,] ", told)
        parts = parts if len(parts) == len(rules) else [told] * len(rules)
        head = f"{kind}: " if told is rest and colon else ""
        if said.startswith("no refusal"):
            continue  # of these the gate's own table says what they ask
        found |= {rule: head + part for rule, part in zip(rules, parts, strict=True)}
    return found


def written(words: dict[str, str]) -> str:
    """Return the file of `words`, a rule a line."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([("rule", "words"), *sorted(words.items())])
    return out.getvalue()


# ---- end


def test_the_words_are_those_of_the_reference() -> None:
    table = REFERENCE.read_text(encoding="utf-8").partition("\n## Rules\n")[2].partition("\n## ")[0]
    advice = "run `python tests/test_rule_words.py`: a rule of docs/reference.md was added or changed"
    assert rule_words.FILE.read_text(encoding="utf-8") == written(words_in(table)), advice


def test_every_rule_of_the_gate_and_of_a_runs_end_has_words() -> None:
    assert {rule for rule in (*RULES, *REMEDIES) if not rule_words.words_of(rule)} == set()


@pytest.mark.parametrize("rule", ["R02", "C13", "L15", "T01", "OUT-ROWS"])
def test_a_rule_is_explained_as_a_code_is(rule: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["explain", rule.lower()]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"{rule} (rule): {rule_words.words_of(rule)}\n") and "What to do: " in told
    assert ("docs/rules.md" in told) == (rule in RULES) and "docs/reference.md#rules" in told
    assert cli.run(["explain", rule, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rule"] == rule and all(code.startswith("LX-") for code in found["codes"])


def test_what_is_neither_a_code_nor_a_rule_is_told_how_both_look(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["explain", "R99"]) == 2
    assert "rules look like R02" in capsys.readouterr().err


class Quiet:
    """As much of a node as its tail looks at."""

    party = "bank-1"

    def __init__(self) -> None:
        self.ledger = type("Ledger", (), {"size": 0})()


def test_a_refusal_is_logged_with_words_and_where_to_look(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[dict[str, str]] = []
    monkeypatch.setattr("lianxin.parties.watch_tail.log_event", lambda *event: said.append(event[-1]))
    tail = Tail(Quiet())  # type: ignore[arg-type]
    tail._take({"kind": "refusal", "run": "queries-3", "peer": "bank-1", "rule": "R02", "step": "query.answer"})
    (fields,) = said
    assert fields["what"] == f"{rule_words.words_of('R02')} (`lianxin explain R02`)"
    assert (fields["rule"], fields["peer"], fields["step"]) == ("R02", "bank-1", "query.answer")
    assert watch_log.classify("refused queries-3: x")[0] == "proposal-refused"


if __name__ == "__main__":
    rules = REFERENCE.read_text(encoding="utf-8").partition("\n## Rules\n")[2].partition("\n## ")[0]
    rule_words.FILE.write_text(written(words_in(rules)), encoding="utf-8")
