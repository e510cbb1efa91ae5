"""Openings that were made to deceive or to harm the auditor: sets that are left out, tables that never end, odd settings."""

import base64
import gzip
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from lianxin.federation.errors import EvidenceRejected, InputFault, RunStopped
from lianxin.parties import opening, run_inputs
from lianxin.parties.config import QuotaSection
from lianxin.parties.outputs import OutputGate
from lianxin.parties.run_inputs import checked_sets, output_sets, outputs_digest, outputs_for, outputs_of, put_outputs
from lianxin.parties.store import Store
from lianxin.simulations.replay_node import _config

FIRMS = [f"firm-{n}" for n in range(60)]
THEN, LATER, LEAST = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", 20


def gate_of(store: Store) -> OutputGate:
    return OutputGate(store, QuotaSection(), b"\1" * 32)


@pytest.fixture
def before(tmp_path: Path) -> Store:
    """A store whose gate let a statistic go to two recipients."""
    store = Store(tmp_path / "before.sqlite")
    assert all(gate_of(store).admit(who, ["f"], FIRMS, LEAST, THEN) == "" for who in ("bank-1", "bank-2"))
    return store


def test_a_gate_made_again_from_an_opening_refuses_the_difference(before: Store, tmp_path: Path) -> None:
    again, outputs = Store(tmp_path / "again.sqlite"), outputs_of(before)
    put_outputs(again, outputs, output_sets(before, outputs))
    assert gate_of(again).admit("bank-1", ["f"], FIRMS[1:], LEAST, LATER) == "OUT-DIFF"


@pytest.mark.parametrize("change", ["none", "empty", "others", "one left out", "no base64"])
def test_an_opening_that_leaves_out_a_set_is_refused(before: Store, tmp_path: Path, change: str) -> None:
    outputs = outputs_of(before)
    sets = output_sets(before, outputs)
    changed: dict[str, dict[str, str]] = {
        "none": {}, "empty": dict.fromkeys(sets, ""), "others": dict.fromkeys(sets, base64.b64encode(b"x" * 8).decode()),
        "one left out": dict(list(sets.items())[1:]), "no base64": dict.fromkeys(sets, "*"),
    }  # fmt: skip
    again = Store(tmp_path / "again.sqlite")
    with pytest.raises((EvidenceRejected, ValueError)):
        put_outputs(again, outputs, changed[change])
    assert not again.settings_under("outputs/")


def test_without_the_set_the_gate_would_let_the_difference_pass(
    before: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again, outputs = Store(tmp_path / "again.sqlite"), outputs_of(before)
    monkeypatch.setattr(run_inputs, "checked_sets", lambda *_: {})
    put_outputs(again, outputs, {})
    with pytest.raises(RunStopped, match="lost the rows of an earlier output"):
        gate_of(again).admit("bank-1", ["f"], FIRMS[1:], LEAST, LATER)
    monkeypatch.setattr(OutputGate, "_kept", lambda *_: b"")
    assert gate_of(again).admit("bank-1", ["f"], FIRMS[1:], LEAST, LATER) == ""


def test_an_opening_shows_what_the_runs_parties_had_and_a_digest_of_the_rest(before: Store) -> None:
    outputs = outputs_of(before)
    shown = outputs_for(outputs, {"bank-1", "platform"})
    assert isinstance(shown["recipients"]["bank-1"], dict) and len(shown["recipients"]["bank-2"]) == 64
    assert outputs_digest(shown) == outputs_digest(outputs) == outputs_digest(outputs_for(outputs, ()))
    assert set(output_sets(before, shown)) == {name for name in output_sets(before, outputs) if "/bank-1/" in name}
    assert len(checked_sets(shown, output_sets(before, shown))) == 1
    shown["recipients"]["bank-2"] = "0" * 64
    assert outputs_digest(shown) != outputs_digest(outputs)


@pytest.mark.parametrize("index", [{"spent": [], "sets": [{"rows": 7}]}, {"sets": []}, {"spent": {}, "sets": "x"}])
def test_an_output_index_of_another_shape_is_no_opening(index: Any) -> None:
    with pytest.raises(ValueError, match="another shape"):
        checked_sets({"recipients": {"bank-1": index}}, {})


# ---- tables


@pytest.mark.parametrize("line", [b"\n", b"1,1\n", b"," * 99 + b"\n", b"a" * 1000 + b"\n"])
def test_a_compressed_table_is_read_no_further_than_the_limits(
    tmp_path: Path, line: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("MOST_TABLE", 1_000_000), ("MOST_ROWS", 100_000), ("MOST_CELLS", 200_000)):
        monkeypatch.setattr(opening, name, value)
    path = tmp_path / "table.csv.gz"
    with gzip.open(path, "wb", 1) as file:
        file.write(b"id,label\n" + line * (2_000_000 // len(line)))
    assert path.stat().st_size < 100_000
    with pytest.raises(InputFault, match="no larger table is replayed"):
        opening._check_size(path)
    small = tmp_path / "small.csv.gz"
    small.write_bytes(gzip.compress(b"id,label\n" + b"1,1\n" * 1000))
    opening._check_size(small)


def test_a_parquet_table_is_bounded_by_the_rows_that_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "table.parquet"
    pl.DataFrame({"id": pl.repeat(1, 50_000, eager=True), "label": pl.repeat(0, 50_000, eager=True)}).write_parquet(
        path
    )
    opening._check_size(path)
    monkeypatch.setattr(opening, "MOST_ROWS", 49_999)
    with pytest.raises(InputFault, match="no larger table is replayed"):
        opening._check_size(path)
    path.write_bytes(b"PAR1 and nothing more")
    with pytest.raises(InputFault, match="cannot be read as the table"):
        opening._check_size(path)


def test_a_pipe_for_an_opening_is_one_sentence(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / opening.OPENING)
    with pytest.raises(InputFault, match="cannot be read"):
        opening.read_opening(tmp_path)


# ---- settings


@pytest.mark.parametrize(
    "change",
    [
        {"columns": {"id": "x", "nope": "y"}}, {"columns": {"table": "/etc/passwd"}}, {"columns": {"id": 7}},
        {"columns": {"id": "x", "desensitisation": "/etc/passwd"}}, {"columns": [1]}, {"quota": {"nope": 1}},
        {"privacy": 3}, {"attesting": "x"}, {"role": "judge"},
    ],
    ids=str,
)  # fmt: skip
def test_settings_of_another_shape_are_one_sentence(tmp_path: Path, change: dict[str, Any]) -> None:
    settings = {"role": "bank", "operator": "op-a", "columns": {"id": "x"}, "attesting": [], "quota": {}, "privacy": {}}
    own: Any = SimpleNamespace(party="bank-1", catalogue=b"")
    shown: Any = SimpleNamespace(
        configuration={**settings, "evaluation": {}, **change}, inputs={}, subject_secret=b"\1" * 32,
        table=tmp_path / "t.csv", role="bank",
    )  # fmt: skip
    with pytest.raises(InputFault, match="the configuration in the opening of bank-1 is none of a run"):
        _config(own, shown, tmp_path)
