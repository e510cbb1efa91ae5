"""The output gate: enough rows, far enough from earlier outputs, not too many of them."""

from collections.abc import Iterator
from pathlib import Path
from random import Random
from threading import Event, Lock
from types import SimpleNamespace
from typing import Any

import consents as w
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torture import cases

from lianxin.crypto import canonical
from lianxin.federation.errors import GateRefused
from lianxin.federation.model import Released
from lianxin.parties import outputs
from lianxin.parties import platform_run as common
from lianxin.parties import platform_scorecard as module
from lianxin.parties.config import QuotaSection
from lianxin.parties.outputs import OutputGate
from lianxin.parties.platform_scorecard import PlatformScorecard as PlatformRun
from lianxin.parties.store import Store

FIRMS = [f"firm-{number:03}" for number in range(200)]
FIELDS = ("staff_count", "est_date")
LEAST = 50


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[w.Provider]:
    made = w.Provider(tmp_path)
    yield made
    made.store.close()


def mean(provider: w.Provider, firms: list[str], fields: tuple[str, ...] = FIELDS, **changes: Any) -> None:
    """Ask the gate whether a statistic of these firms may go to a recipient."""
    request = w.request_of(*fields, **changes)
    record = w.contract_of(parties=[{"party": name} for name in ("platform-a", "bank-1", "bank-2")])
    provider.boundary.aggregate(record, request, len(firms), None, None, fields, "figures", firms=firms)


def rule_of(provider: w.Provider, *arguments: Any, **changes: Any) -> str:
    try:
        mean(provider, *arguments, **changes)
    except GateRefused as refusal:
        return refusal.rule
    return ""


@pytest.mark.rule("OUT-DIFF")
def test_subtracting_two_sums_shows_one_firm_and_the_gate_refuses_the_second(
    provider: w.Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    turnover = {firm: Random(firm).randrange(10**6) for firm in FIRMS}
    all_of_them, all_but_one = FIRMS, FIRMS[1:]
    mean(provider, all_of_them)
    assert rule_of(provider, all_but_one) == "OUT-DIFF"
    monkeypatch.setattr(outputs, "_is_too_near", lambda *_: False)  # the gate without the check
    mean(provider, all_but_one)
    difference = sum(turnover[firm] for firm in all_of_them) - sum(turnover[firm] for firm in all_but_one)
    assert difference == turnover[FIRMS[0]]


@pytest.mark.rule("OUT-DIFF")
@pytest.mark.parametrize("second", [FIRMS[1:], FIRMS[:-49], [*FIRMS, "firm-new"], [*FIRMS[24:], *map(str, range(25))]])
def test_a_set_that_differs_by_fewer_than_the_minimum_is_refused(provider: w.Provider, second: list[str]) -> None:
    mean(provider, FIRMS)
    assert rule_of(provider, second) == "OUT-DIFF"


@pytest.mark.parametrize("second", [FIRMS, FIRMS[::-1], FIRMS[:-50], FIRMS[:100] + [f"new-{n}" for n in range(100)]])
def test_the_same_set_or_one_that_differs_by_a_group_may_go(provider: w.Provider, second: list[str]) -> None:
    mean(provider, FIRMS)
    mean(provider, second)


def test_what_the_recipient_cannot_subtract_is_not_held_against_it(provider: w.Provider) -> None:
    mean(provider, FIRMS, ("staff_count",))
    mean(provider, FIRMS[1:], ("est_date",))
    mean(provider, FIRMS[1:], ("staff_count",), recipient="bank-2")
    assert rule_of(provider, FIRMS[1:], ("reg_capital", "staff_count")) == "OUT-DIFF"


def test_the_difference_is_told_after_a_restart_and_the_store_names_nobody(provider: w.Provider) -> None:
    mean(provider, FIRMS)
    provider.boundary = provider.gate(provider.ledger)
    assert rule_of(provider, FIRMS[1:]) == "OUT-DIFF"
    index = canonical.decode(provider.store.setting("outputs/bank-1"))
    rows = provider.store.setting(f"output-rows/bank-1/{index['sets'][0]['rows']}")
    assert len(rows) == 8 * len(FIRMS) and b"firm" not in rows


def test_what_is_refused_spends_nothing_and_is_a_refusal_leaf(provider: w.Provider) -> None:
    mean(provider, FIRMS)
    before = provider.store.setting("outputs/bank-1")
    assert rule_of(provider, FIRMS[1:]) == "OUT-DIFF" and rule_of(provider, FIRMS[:49]) == "OUT-ROWS"
    assert provider.store.setting("outputs/bank-1") == before
    leaves = [canonical.decode(leaf) for leaf in provider.store.leaves()]
    assert [leaf["rule"] for leaf in leaves if leaf["kind"] == "refusal"] == ["OUT-DIFF", "OUT-ROWS"]


@pytest.fixture
def gate(tmp_path: Path) -> OutputGate:
    return OutputGate(Store(tmp_path / "store.sqlite"), QuotaSection(outputs=3, output_sets=2, days=30), w.SECRET)


@pytest.mark.rule("OUT-BUDGET")
def test_a_recipient_gets_so_many_outputs_of_a_field_in_a_window_and_then_none(gate: OutputGate) -> None:
    ask = [gate.admit("bank-1", ["a"], None, LEAST, "2026-03-01T00:00:00Z") for _ in range(4)]
    assert ask == ["", "", "", "OUT-BUDGET"]
    assert gate.admit("bank-1", ["a", "b"], None, LEAST, "2026-03-30T00:00:00Z") == "OUT-BUDGET"
    assert gate.admit("bank-1", ["b"], None, LEAST, "2026-03-01T00:00:00Z") == ""
    assert gate.admit("bank-2", ["a"], None, LEAST, "2026-03-01T00:00:00Z") == ""
    assert gate.admit("bank-1", ["a"], None, LEAST, "2026-03-31T00:00:00Z") == ""


@pytest.mark.rule("OUT-BUDGET")
def test_when_too_many_sets_are_remembered_new_ones_are_refused_and_none_forgotten(gate: OutputGate) -> None:
    now, sets = "2026-03-01T00:00:00Z", [FIRMS[:100], FIRMS[100:], FIRMS[50:150]]
    assert [gate.admit("bank-1", [str(i)], s, LEAST, now) for i, s in enumerate(sets)] == ["", "", "OUT-BUDGET"]
    assert gate.admit("bank-1", ["0"], sets[0], LEAST, now) == ""
    assert gate.admit("bank-1", ["0"], sets[0][1:], LEAST, now) == "OUT-DIFF"


def test_a_group_left_out_beside_a_withdrawn_firm_makes_the_next_output_possible(gate: OutputGate) -> None:
    now = "2026-03-01T00:00:00Z"
    assert gate.to_leave_out("bank-1", ["a"], FIRMS, LEAST) == frozenset()
    gate.admit("bank-1", ["a"], FIRMS, LEAST, now)
    assert gate.to_leave_out("bank-1", ["a"], FIRMS, LEAST) == frozenset()
    out = gate.to_leave_out("bank-1", ["a"], FIRMS[1:], LEAST)
    assert len(out) == LEAST and FIRMS[0] not in out
    assert gate.admit("bank-1", ["a"], [firm for firm in FIRMS[1:] if firm not in out], LEAST, now) == ""


def platform_run(provider: w.Provider, firms: list[str]) -> Any:
    """Return as much of a platform's run as its counting of a bank's labels looks at: both training rows' firms."""
    node = SimpleNamespace(boundary=provider.boundary, party="platform-a", say=lambda *_what, **_how: None)
    shared = SimpleNamespace(firms=firms, rows=list(range(len(firms))), right=None)
    contract = SimpleNamespace(
        run="run-1", record=w.contract_of(), purpose="P4", step_deadline_s=1, min_rows=LEAST, max_rows=1000
    )
    run = SimpleNamespace(
        node=node, contract=contract, features=list(FIELDS), specs=dict.fromkeys(FIELDS), mask_key=1, identifiers=(),
        _shared=lambda _: shared, _table=lambda _: SimpleNamespace(columns=()), _key_ready=Event(), _raw={},
        _work=lambda *_: None, _lock=Lock(), shared=shared,
    )  # fmt: skip
    run._key_ready.set()
    shared.right = "the right of the rows"
    run._request = lambda *parts: PlatformRun._request(run, *parts)
    run._aggregate = lambda *parts, **named: PlatformRun._aggregate(run, *parts, **named)
    return run


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what a platform says to the bank; what it lets go has then passed the gate."""
    monkeypatch.setattr(module, "converse", lambda *_: SimpleNamespace(n=1))
    for name in ("platform_keys_role", "platform_count_role", "platform_masks_role"):
        monkeypatch.setattr(module.binning, name, lambda *_: None)


@pytest.mark.rule("OUT-DIFF")
def test_a_bank_that_counts_again_with_one_firm_less_gets_no_second_table_of_its_labels(
    provider: w.Provider, silent: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bank opens the counts of its labels in each bin of the platform: two tables show the bins of one firm."""
    PlatformRun._binning(platform_run(provider, FIRMS), "bank-1", None)
    with pytest.raises(GateRefused, match="OUT-DIFF"):
        PlatformRun._binning(platform_run(provider, FIRMS[1:]), "bank-1", None)
    monkeypatch.setattr(outputs, "_is_too_near", lambda *_: False)
    PlatformRun._binning(platform_run(provider, FIRMS[1:]), "bank-1", None)


def test_a_platform_takes_a_group_out_of_the_rows_where_a_bank_did_not(
    provider: w.Provider, silent: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    PlatformRun._binning(platform_run(provider, FIRMS), "bank-1", None)
    run = platform_run(provider, FIRMS[1:])
    said = list[list[bool]]()
    monkeypatch.setattr(common, "converse", lambda role, *_: role)
    monkeypatch.setattr(common.streams, "receive_rows", lambda *_: run.shared.rows)
    monkeypatch.setattr(common.streams, "note_rows", lambda flags, _: said.append(flags))
    run._release = lambda _bank, _step, firms: Released(None, tuple(firms), dict.fromkeys(FIELDS, firms))  # type: ignore[arg-type]
    run._kept_back = lambda _released: frozenset()
    PlatformRun._rows(run, "bank-1", None)
    assert len(run.shared.rows) == sum(said[0]) == len(FIRMS) - 1 - LEAST
    run.shared.right = "the right of the rows"
    PlatformRun._binning(run, "bank-1", None)


def test_a_bank_and_its_platform_leave_out_one_group_and_not_two(tmp_path: Path) -> None:
    now, fields = "2026-03-01T00:00:00Z", ["a"]
    bank, platform = (
        OutputGate(Store(tmp_path / f"{name}.sqlite"), QuotaSection(), name[:1].encode() * 32)
        for name in ("bank", "platform")
    )
    for gate in (bank, platform):
        assert gate.admit("other", fields, FIRMS, LEAST, now) == ""
    left = [firm for firm in FIRMS[1:] if firm not in bank.to_leave_out("other", fields, FIRMS[1:], LEAST)]
    assert platform.to_leave_out("other", fields, left, LEAST) == frozenset()
    assert [gate.admit("other", fields, left, LEAST, now) for gate in (platform, bank)] == ["", ""]


def test_a_run_after_a_withdrawal_does_without_a_group_and_without_one_with_all_rows(gate: OutputGate) -> None:
    contract, rows = SimpleNamespace(platform="bank-1", min_rows=LEAST), list(range(len(FIRMS)))
    assert outputs.far_from_earlier(gate, contract, ["a"], rows, FIRMS) == rows
    gate.admit("bank-1", ["a"], FIRMS, LEAST, "2026-03-01T00:00:00Z")
    left = outputs.far_from_earlier(gate, contract, ["a"], rows[1:], FIRMS)
    assert len(left) == len(FIRMS) - 1 - LEAST and left == sorted(left)


def statistic(provider: w.Provider, rows: int, firms: list[str] | None, **changes: Any) -> str:
    """Return the rule by which a statistic that is no table, of many rows, stays; "" when it may go."""
    request = w.request_of(*FIELDS, **changes)
    record = w.contract_of(purpose=request.purpose)
    try:
        provider.boundary.aggregate(record, request, rows, None, None, FIELDS, "figures", firms=firms, readable=False)
    except GateRefused as refusal:
        return refusal.rule
    return ""


@pytest.mark.rule("OUT-ROWS")
def test_many_loans_of_few_firms_count_as_few(provider: w.Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    assert statistic(provider, 60, ["one firm"] * 60) == statistic(provider, 98, FIRMS[:49] * 2) == "OUT-ROWS"
    assert statistic(provider, 60, FIRMS[:60]) == ""
    [leaf] = [leaf for leaf in map(canonical.decode, provider.store.leaves()) if leaf["kind"] == "release"]
    assert leaf["rows"] == 60
    assert statistic(provider, 60, None) == "", "the gate that is not told of whom counts the loans of one firm"


@pytest.mark.rule("OUT-BADS")
def test_bads_and_goods_are_counted_in_firms() -> None:
    firms, labels = ["a", "a", "a", "b", "c"], [1, 1, 0, 0, 0]
    assert outputs.sizes_by_firm(firms, labels) == (3, 1, 3)
    with pytest.raises(ValueError, match="zip"):
        outputs.sizes_by_firm(firms, labels[1:])


def test_what_no_recipient_reads_by_itself_is_not_held_against_it(provider: w.Provider) -> None:
    assert statistic(provider, 200, FIRMS) == statistic(provider, 199, FIRMS[1:]) == ""
    assert rule_of(provider, FIRMS) == "" and rule_of(provider, FIRMS[1:]) == "OUT-DIFF"


PERSON = "11010519491231002X"


@pytest.mark.rule("R29")
@pytest.mark.parametrize("firms", [[*FIRMS, PERSON], [*FIRMS, w.SOLE_TRADER], None, []])
def test_statistics_for_feedback_are_of_enterprises_and_say_of_which(
    provider: w.Provider, firms: list[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert statistic(provider, 201, FIRMS, purpose="P7") == ""
    assert statistic(provider, 201, firms, purpose="P7") == "R29"
    assert statistic(provider, 201, firms, purpose="P5") == ("" if firms is None or firms else "OUT-ROWS")
    from lianxin.parties import boundary

    monkeypatch.setattr(boundary, "persons_rule", lambda *_: "")
    assert statistic(provider, 201, firms, purpose="P7") in ("", "OUT-ROWS")


@cases(in_test=1000, per_example=1)
@given(st.sets(st.integers(0, 30)), st.sets(st.integers(0, 30)), st.integers(1, 12))
def test_the_comparison_is_that_of_the_plain_sets(first: set[int], second: set[int], least: int) -> None:
    gate = OutputGate.__new__(OutputGate)
    gate._key = w.SECRET
    names = [gate._names([str(one) for one in firms]) for firms in (first, second)]
    assert outputs._is_too_near(names[0], names[1], least) == (0 < len(first ^ second) < least)
