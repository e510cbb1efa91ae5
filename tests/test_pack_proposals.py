"""What a run is proposed with is kept where it is judged, and a bank judges no plan of something else."""

from pathlib import Path
from typing import Any

import pytest
import query_world
import test_agreement
import worlds

from lianxin.crypto import canonical
from lianxin.parties import bank, commitments
from lianxin.parties.software import software_record
from lianxin.simulations.layout import RUN, Layout
from lianxin.simulations.runner import reference_plan
from lianxin.simulations.tables import Inputs


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return worlds.tables_of(tmp_path_factory.mktemp("proposals"), firms=200, loans=100)


@pytest.fixture
def layout(tables: Inputs, tmp_path: Path) -> Layout:
    return worlds.lay(tmp_path / "run", tables, minimums={"step_deadline_s": 2})


def proposed(layout: Layout, change: dict[str, Any]) -> tuple[str, list[dict[str, Any]]]:
    """Return what ended a launch whose plan is changed so, and the first bank's contract leaves."""
    with test_agreement.running(layout) as nodes:
        nodes.platform._planner = lambda contract: {**reference_plan(contract), **change}
        failure = nodes.failure()
        leaves = [canonical.decode(leaf) for leaf in nodes.banks["bank-1"].node.store.leaves()]
        return str(failure), [leaf for leaf in leaves if leaf["kind"] == "contract"]


@pytest.mark.parametrize(
    "change", [{"contract": "0" * 64}, {"run": "run-9"}, {"type": "agreement"}], ids=lambda c: next(iter(c))
)
def test_a_bank_refuses_a_plan_that_is_not_of_the_contract_it_comes_with(
    layout: Layout, change: dict[str, Any]
) -> None:
    failure, leaves = proposed(layout, change)
    assert "rule C01" in failure
    assert [(leaf["event"], leaf["rule"]) for leaf in leaves] == [("proposed", ""), ("refused", "C01")]
    assert "plan_hash" not in leaves[0]


def test_without_that_check_a_bank_approves_what_another_plan_said(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bank, "plan_fault", lambda *_: "")
    with test_agreement.running(layout) as nodes:
        nodes.platform._planner = lambda contract: {**reference_plan(contract), "contract": "0" * 64}
        nodes.launch()
        store = nodes.banks["bank-1"].node.store
        query_world.wait_for(lambda: b'"event":"approved"' in b"".join(store.leaves()))


def test_bytes_that_are_no_canonical_plan_are_kept_nowhere(layout: Layout) -> None:
    with test_agreement.running(layout) as nodes:
        node = nodes.banks["bank-1"].node
        contract = nodes.platform._draft(test_agreement.load_run(layout.folder / "run.toml"))
        for plan in (b"", b"{}", b'{ "type":"plan"}', b"\xff", b'{"type":"plan","version":1}'):
            assert "plan" in commitments.plan_fault(node, contract, plan)
            assert commitments.proposal_hashes(node.store, RUN, "approved") == {}
        plan = canonical.encode(reference_plan(contract))
        assert commitments.plan_fault(node, contract, plan) == ""
        kept = commitments.proposal_hashes(node.store, RUN, "approved")
        assert kept["software_hash"] == canonical.record_hash(software_record())
        assert set(kept) == {"plan_hash", "policy_hash", "software_hash"}
        assert commitments.proposal_hashes(node.store, RUN, "signed") == {}
