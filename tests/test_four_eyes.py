"""Proposer and approver are two people (R26): refused at the bank in every spelling, found by the auditor."""

from types import SimpleNamespace

import pytest

from lianxin.federation.errors import InputFault
from lianxin.parties import config
from lianxin.parties.auditor_ledger import approval_findings
from lianxin.parties.bank import BankNode

RUN = SimpleNamespace(id="run-1", contract_hash="c0", contract={"proposer": "operator-li"})


def evidence(operator: str) -> SimpleNamespace:
    """A bank's evidence whose one approval is by `operator`."""
    leaf = {"event": "approved", "contract_hash": "c0", "operator": operator}
    kinds = {"contract": [(3, leaf)], "release": [(9, {})]}
    return SimpleNamespace(party="bank-1", of_kind=lambda kind, _run: kinds[kind])


@pytest.mark.parametrize("operator", ["", " ", "operator-li", " operator-li"])
@pytest.mark.rule("R26")
def test_the_auditor_finds_an_approval_by_nobody_or_by_the_proposer(operator):
    (finding,) = approval_findings(RUN, evidence(operator))  # type: ignore[arg-type]
    assert "R26" in finding.detail and "leaf 3" in finding.detail


def test_the_auditor_finds_nothing_where_a_second_person_approved():
    assert list(approval_findings(RUN, evidence("operator-wang"))) == []  # type: ignore[arg-type]


@pytest.mark.parametrize("operator", ["", " operator-wang", "Operator-Wang", "operator wang", "王"])
def test_a_bank_takes_a_decision_only_from_an_operator_in_the_one_spelling(operator):
    with pytest.raises(InputFault, match="operator's name"):
        BankNode.decide(SimpleNamespace(pending={}), "run-1", True, operator)  # type: ignore[arg-type]


def test_a_proposer_in_another_spelling_is_no_run_configuration(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('run = "run-1"\nproposer = " operator-li"\nfeatures = []\nidentifiers = []\nmax_queries = 64\n'
                    "max_rows = 64\n[banks]\n")  # fmt: skip
    with pytest.raises(InputFault, match="proposer"):
        config.load_run(path)
