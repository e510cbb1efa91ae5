"""Objections: a disputed value is marked, one whose answer is overdue is withheld, every change is a leaf (R27)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import consents as w
import pytest

from lianxin.crypto import canonical
from lianxin.federation.errors import InputFault
from lianxin.federation.model import Released
from lianxin.parties.objections import Objections

FIRMS = ["firm-a", "firm-b"]


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[w.Provider]:
    made = w.Provider(tmp_path, *FIRMS)
    for firm in FIRMS:
        made.give(firm, fields=["est_date", "staff_count"])
    yield made
    made.store.close()


def ask(provider: w.Provider) -> Released:
    columns = {"staff_count": [1, 2], "est_date": ["x", "y"]}
    return provider.boundary.release(w.contract_of(), w.request_of("staff_count", "est_date"), FIRMS, columns)


def dispute(provider: w.Provider) -> dict[str, Any]:
    return provider.boundary.objections.open(w.subject_of("firm-a"), "staff_count", w.NOW, "operator-2")


def last_release(provider: w.Provider) -> dict[str, Any]:
    return [leaf for leaf in map(canonical.decode, provider.store.leaves()) if leaf["kind"] == "release"][-1]


@pytest.mark.rule("R27")
def test_a_disputed_value_still_crosses_and_is_marked_with_its_firm_and_counted(provider: w.Provider) -> None:
    dispute(provider)
    released = ask(provider)
    assert released.columns["staff_count"] == (1, 2)
    assert released.disputed == {"staff_count": frozenset({"firm-a"})}
    assert last_release(provider)["disputed"] == 1


@pytest.mark.rule("R27")
def test_a_disputed_value_is_withheld_from_the_moment_the_answer_is_overdue(provider: w.Provider) -> None:
    assert dispute(provider)["due_at"] == "2026-06-21T00:00:00Z"
    provider.clock.time = "2026-06-20T23:59:59Z"
    assert ask(provider).columns["staff_count"] == (1, 2)
    provider.clock.time = "2026-06-21T00:00:00Z"
    released = ask(provider)
    assert released.columns == {"staff_count": (None, 2), "est_date": ("x", "y")} and released.disputed == {}
    leaf = last_release(provider)
    assert leaf["overdue"] == [{"field": "staff_count", "firms": 1}] and "disputed" not in leaf


@pytest.mark.parametrize("end", ["repaired", "rejected"])
def test_an_answer_lifts_the_mark(provider: w.Provider, end: str) -> None:
    record = dispute(provider)
    provider.boundary.objections.resolve(record["objection"], end, w.NOW, "operator-2")
    assert ask(provider).disputed == {} and "disputed" not in last_release(provider)


def test_without_the_register_a_disputed_value_would_cross_unmarked(
    provider: w.Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    dispute(provider)
    assert ask(provider).disputed
    monkeypatch.setattr(Objections, "disputed", lambda _self: {})
    assert not ask(provider).disputed


def test_every_change_is_a_leaf_with_the_records_hash_the_operator_and_no_subject_key(provider: w.Provider) -> None:
    opened = dispute(provider)
    ended = provider.boundary.objections.resolve(opened["objection"], "repaired", w.NOW, "operator-3")
    leaves = [leaf for leaf in map(canonical.decode, provider.store.leaves()) if leaf["kind"] == "objection"]
    assert [(leaf["event"], leaf["operator"], leaf["record_hash"]) for leaf in leaves] == [
        ("disputed", "operator-2", canonical.record_hash(opened)),
        ("repaired", "operator-3", canonical.record_hash(ended)),
    ]
    assert w.subject_of("firm-a") not in b"".join(map(canonical.encode, leaves)).decode()


def test_a_value_is_disputed_once_at_a_time_and_ends_by_one_of_two_words(provider: w.Provider) -> None:
    objections, opened = provider.boundary.objections, dispute(provider)
    with pytest.raises(InputFault, match="open already"):
        dispute(provider)
    with pytest.raises(InputFault, match="repaired or rejected"):
        objections.resolve(opened["objection"], "forgotten", w.NOW, "operator-2")
    objections.resolve(opened["objection"], "rejected", w.NOW, "operator-2")
    with pytest.raises(InputFault, match="no open objection"):
        objections.resolve(opened["objection"], "rejected", w.NOW, "operator-2")
    assert dispute(provider)["objection"] == "objection-2"


def test_objections_are_there_after_a_restart(provider: w.Provider) -> None:
    dispute(provider)
    provider.boundary = provider.gate(provider.ledger)
    assert ask(provider).disputed == {"staff_count": frozenset({"firm-a"})}
