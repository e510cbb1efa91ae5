"""What is deleted or withheld when: periods of negative items, derived files of a run, evidence."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import consents as w
import pytest

from lianxin.crypto import canonical
from lianxin.federation.errors import GateRefused, InputFault
from lianxin.federation.model import Released
from lianxin.parties import boundary_values, retention
from lianxin.parties.decision import Catalogue, Field

FIRMS = ["firm-a", "firm-b", "firm-c", "firm-d"]
NOW = w.NOW


def catalogue_with_period() -> Catalogue:
    """The draft, with a period of five years on one field, counted from another."""
    rows = list(csv.DictReader(io.StringIO(w.CATALOGUE.to_csv_bytes().decode("utf-8-sig"))))
    for row in rows:
        if row["field_name_en"] == "staff_count":
            row.update(expiry="5y", expiry_from="est_date")
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return Catalogue.from_csv_bytes(out.getvalue().encode())


@pytest.fixture
def provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[w.Provider]:
    monkeypatch.setattr(w, "CATALOGUE", catalogue_with_period())
    made = w.Provider(tmp_path, *FIRMS)
    for firm in FIRMS:
        made.give(firm)
    yield made
    made.store.close()


@pytest.fixture
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[w.Provider]:
    """As `provider`, with firms that let the value be read."""
    monkeypatch.setattr(w, "CATALOGUE", catalogue_with_period())
    made = w.Provider(tmp_path, *FIRMS)
    for firm in FIRMS:
        made.give(firm, mode="PLAINTEXT")
    yield made
    made.store.close()


def ask(provider: w.Provider) -> Released:
    columns = {"staff_count": [1, 2, 3, 4]}
    dates = {"est_date": ["2020-01-01", "2025-01-01", None, "2021-06-01"]}
    return provider.boundary.release(w.contract_of(), w.request_of("staff_count"), FIRMS, columns, dates=dates)


@pytest.mark.rule("R21")
def test_values_past_their_period_are_blank_in_the_release_and_counted_in_the_leaf(provider: w.Provider) -> None:
    released = ask(provider)
    assert released.firms == tuple(FIRMS) and released.columns == {"staff_count": (None, 2, 3, None)}
    leaf = next(leaf for leaf in map(canonical.decode, provider.store.leaves()) if leaf["kind"] == "release")
    assert leaf["expired"] == [{"field": "staff_count", "firms": 2}]


def test_without_the_check_an_item_past_its_period_would_cross(
    provider: w.Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ask(provider).columns["staff_count"][0] is None
    monkeypatch.setattr(Field, "has_expired", lambda *_: False)
    assert ask(provider).columns["staff_count"][0] == 1


def told(provider: w.Provider, mode: str, dates: dict[str, list[Any]]) -> tuple[Any, dict[str, Any]]:
    """Return the values that leave in a mode, with these dates, and the release's leaf."""
    columns = {"staff_count": [1, 2, 3, None]}
    request = w.request_of("staff_count", mode=mode)
    released = provider.boundary.release(w.contract_of(), request, FIRMS, columns, dates=dates)
    return released.columns["staff_count"], [
        leaf for leaf in map(canonical.decode, provider.store.leaves()) if leaf["kind"] == "release"
    ][-1]


DATES = {"none": {}, "some": {"est_date": ["2025-01-01", " ", None, None]}}


@pytest.mark.rule("R21")
@pytest.mark.parametrize(("case", "shown", "withheld"), [("none", (None,) * 4, 3), ("some", (1, None, None, None), 2)])
def test_an_item_with_a_period_and_no_date_is_shown_to_nobody(
    plain: w.Provider, case: str, shown: tuple[Any, ...], withheld: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    values, leaf = told(plain, "PLAINTEXT", DATES[case])
    assert values == shown and leaf["expired"] == [{"field": "staff_count", "firms": withheld}]
    monkeypatch.setattr(boundary_values, "_expired", lambda entry, rows, values, ended, now: (frozenset(), frozenset()))
    assert told(plain, "PLAINTEXT", DATES[case])[0] == (1, 2, 3, None), "without the check they are shown at any age"


@pytest.mark.rule("R21")
@pytest.mark.parametrize(("case", "undated"), [("none", 3), ("some", 2)])
def test_an_item_without_a_date_is_computed_on_and_counted(provider: w.Provider, case: str, undated: int) -> None:
    values, leaf = told(provider, "COMPUTE_ONLY", DATES[case])
    assert values == (1, 2, 3, None) and leaf["undated"] == [{"field": "staff_count", "firms": undated}]
    assert "expired" not in leaf


def test_the_date_of_an_item_is_read_and_does_not_cross(provider: w.Provider) -> None:
    assert set(ask(provider).columns) == {"staff_count"}
    found = retention.date_columns(w.CATALOGUE, ["staff_count"], {"est_date": ["a", "b", "c"], "x": [1, 2, 3]}, [2, 0])
    assert found == {"est_date": ["c", "a"]}


class Node(SimpleNamespace):
    """As much of a node as a sweep needs: a provider, with a state folder."""

    def folder(self, run: str) -> Path:
        path: Path = self.config.state / "runs" / run
        path.mkdir(parents=True, exist_ok=True)
        return path

    def leaves(self, kind: str) -> list[dict[str, Any]]:
        return [leaf for leaf in map(canonical.decode, self.store.leaves()) if leaf["kind"] == kind]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = w.Provider(tmp_path)
    config = SimpleNamespace(state=tmp_path / "state", operator="operator-1")
    yield Node(config=config, store=made.store, ledger=made.ledger, clock=made.clock, swept="")
    made.store.close()


def put_run(node: Node, run: str, **terms: str) -> Path:
    record = w.contract_of(run=run, **terms)
    node.store.put_run(run, "finished", canonical.encode({"record": record, "signatures": []}))
    folder = node.folder(run)
    (folder / "model.json").write_text("{}")
    (folder / "scores.json").write_text("{}")
    (folder / "evidence").mkdir()
    (folder / "evidence" / "ledger.jsonl").write_text("")
    return folder


@pytest.mark.rule("R07")
def test_a_sweep_deletes_a_runs_model_and_scores_when_they_are_due_and_leaves_the_evidence(node: Node) -> None:
    due, kept = put_run(node, "run-1", retain_until=NOW), put_run(node, "run-2", retain_until="2026-06-01T00:00:01Z")
    assert retention.sweep(node) == [{"run": "run-1", "rule": "R07", "count": 2}]
    assert sorted(path.name for path in due.iterdir()) == ["evidence"]
    assert (kept / "model.json").exists() and (kept / "scores.json").exists()
    [leaf] = node.leaves("deletion")
    assert (leaf["run"], leaf["rule"], leaf["count"]) == ("run-1", "R07", 2) and len(leaf["dataset"]) == 64
    assert retention.sweep(node) == []


@pytest.mark.rule("R07")
def test_a_node_that_runs_for_long_sweeps_once_each_day(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    due = put_run(node, "run-1", retain_until="2026-06-02T12:00:00Z") / "model.json"
    retention.sweep_daily(node)
    node.clock.time = "2026-06-02T23:00:00Z"
    asked = list[str]()
    sweep = retention.sweep
    monkeypatch.setattr(retention, "sweep", lambda one: asked.append(one.clock.now()) or sweep(one))
    assert due.exists()
    for _ in range(3):
        retention.sweep_daily(node)
    assert not due.exists() and asked == ["2026-06-02T23:00:00Z"]


def test_a_contract_that_names_no_retention_gives_thirty_days_after_its_end(node: Node) -> None:
    folder = put_run(node, "run-1", expires_at="2026-05-02T00:00:01Z")
    assert retention.sweep(node) == [] and (folder / "model.json").exists()
    node.clock.time = "2026-06-01T00:00:01Z"
    assert retention.sweep(node) != [] and not (folder / "model.json").exists()


def test_a_file_whose_leaf_is_written_and_that_a_crash_left_goes_with_the_next_sweep(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = put_run(node, "run-1", retain_until=NOW)

    def crash(_path: Path) -> None:
        raise OSError("the machine stops here")

    monkeypatch.setattr(Path, "unlink", crash)
    with pytest.raises(OSError, match="stops here"):
        retention.sweep(node)
    monkeypatch.undo()
    assert (folder / "model.json").exists() and len(node.leaves("deletion")) == 1
    retention.sweep(node)
    assert not (folder / "model.json").exists()


@pytest.mark.rule("R16")
def test_evidence_is_not_deleted_before_five_years_and_the_refusal_is_in_the_ledger(node: Node) -> None:
    folder = put_run(node, "run-1", expires_at="2026-07-01T00:00:00Z")
    node.clock.time = "2031-06-30T23:59:59Z"
    with pytest.raises(GateRefused, match="kept until 2031-07-01") as refusal:
        retention.delete_evidence(node, "run-1")
    assert refusal.value.rule == "R16" and (folder / "evidence" / "ledger.jsonl").exists()
    assert [leaf["rule"] for leaf in node.leaves("refusal")] == ["R16"]
    node.clock.time = "2031-07-01T00:00:00Z"
    size = node.store.leaf_count()
    retention.delete_evidence(node, "run-1")
    assert not (folder / "evidence").exists() and node.store.leaf_count() == size + 1
    with pytest.raises(InputFault, match="not known"):
        retention.delete_evidence(node, "run-9")
