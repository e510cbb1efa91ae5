"""Desensitised releases: nothing without a measured grade, and then only what the policy made of the values."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import consents as w
import pytest
import worlds

from lianxin.crypto import canonical
from lianxin.crypto.randomness import derive_seed
from lianxin.federation.errors import GateRefused
from lianxin.federation.model import Released
from lianxin.parties.boundary_grades import Desensitiser, grade_leaf, grade_of, keep_grade
from lianxin.parties.config import load_node
from lianxin.parties.desensitise import load_policy, measure
from lianxin.parties.node import open_node
from lianxin.parties.records import read_table
from lianxin.simulations.tables import Inputs

province = worlds.province

POLICY = """
[policy]
project = "trial-one"
model = "agreement"
[[field]]
column = "staff_count"
role = "quasi"
transform = "band"
edges = [10, 100]
[[field]]
column = "est_date"
role = "other"
transform = "drop"
"""
FIRMS = [f"firm-{number:03}" for number in range(80)]
COLUMNS = {"staff_count": [5 if n < 40 else 50 for n in range(80)], "est_date": ["2020-01-01"] * 80}
OWN = derive_seed(w.SECRET, "desensitisation")
TABLE = "0" * 64


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[w.Provider]:
    made = w.Provider(tmp_path, *FIRMS)
    yield made
    made.store.close()


def graded(provider: w.Provider, folder: Path, columns: dict[str, list[Any]] = COLUMNS) -> str:
    """Give the gate a policy, measured on these columns, and return the grade's hash."""
    path = folder / "policy.toml"
    path.write_text(POLICY)
    policy = load_policy(path)
    record = measure(policy, columns, derive_seed(OWN, "measure"), "platform-a", w.NOW)
    grade = keep_grade(provider.store, record, TABLE)
    provider.boundary.desensitiser = Desensitiser(policy, grade_of(provider.store, policy.hash, TABLE), OWN)
    return grade


def ask(provider: w.Provider, *fields: str, **named: str) -> Released:
    request = w.request_of(*(fields or ("staff_count",)), mode="DESENSITISED")
    return provider.boundary.release(w.contract_of(), request, FIRMS, COLUMNS, **named)


@pytest.mark.rule("R22")
def test_a_trade_secret_crosses_without_consent_when_it_is_transformed_and_graded(
    provider: w.Provider, tmp_path: Path
) -> None:
    grade = graded(provider, tmp_path)
    released = ask(provider, grade=grade)
    assert released.firms == tuple(FIRMS) and set(released.columns) == {"staff_count"}
    assert len(set(released.columns["staff_count"])) == 2 and not {"5", "50"} & set(released.columns["staff_count"])
    leaf = next(leaf for leaf in map(canonical.decode, provider.store.leaves()) if leaf["kind"] == "release")
    assert (leaf["mode"], leaf["grade"], leaf["consents"]) == ("DESENSITISED", grade, 0)


def test_a_release_that_names_no_grade_relies_on_the_one_of_policy_and_table(
    provider: w.Provider, tmp_path: Path
) -> None:
    graded(provider, tmp_path)
    assert ask(provider).provenance.mode == "DESENSITISED"


@pytest.mark.rule("R22")
@pytest.mark.parametrize("case", ["no policy", "unknown grade", "not accepted", "field not in it"])
def test_without_an_accepted_grade_for_the_field_nothing_crosses(
    provider: w.Provider, tmp_path: Path, case: str
) -> None:
    named, fields = {}, ("staff_count",)
    if case == "unknown grade":
        graded(provider, tmp_path)
        named = {"grade": "f" * 64}
    if case == "not accepted":
        named = {"grade": graded(provider, tmp_path, {**COLUMNS, "staff_count": [5] * 79 + [50]})}
    if case == "field not in it":
        graded(provider, tmp_path)
        fields = ("est_date",)
    with pytest.raises(GateRefused) as refusal:
        ask(provider, *fields, **named)
    assert refusal.value.rule == "R22"
    assert "release" not in {canonical.decode(leaf)["kind"] for leaf in provider.store.leaves()}


def test_a_gate_that_forgot_the_transform_would_let_the_raw_value_go(
    provider: w.Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graded(provider, tmp_path)
    assert 5 not in ask(provider).columns["staff_count"]
    monkeypatch.setattr(Desensitiser, "apply", lambda _self, columns, *_: columns)
    assert 5 in ask(provider).columns["staff_count"]


def test_a_table_is_measured_once_and_the_leaf_says_what_came_out(provider: w.Provider, tmp_path: Path) -> None:
    grade = graded(provider, tmp_path)
    assert provider.boundary.desensitiser is not None
    [record] = provider.boundary.desensitiser.grades.values()
    assert grade_of(provider.store, record["policy_hash"], TABLE) == {grade: record}
    assert grade_of(provider.store, record["policy_hash"], "1" * 64) == {}
    leaf = grade_leaf(grade, record)
    assert leaf["grade_hash"] == canonical.record_hash(record) and leaf["accepted"] is True


def test_pseudonyms_for_two_recipients_or_runs_come_from_two_keys(provider: w.Provider, tmp_path: Path) -> None:
    graded(provider, tmp_path)
    seen: list[bytes] = []
    import lianxin.parties.desensitise as module

    original = module.apply_policy
    try:
        module.apply_policy = lambda policy, columns, key, seed: (
            seen.append(key) or original(policy, columns, key, seed)
        )
        for run, recipient in (("run-1", "bank-1"), ("run-1", "bank-2"), ("run-2", "bank-1"), ("run-1", "bank-1")):
            provider.boundary.desensitiser.apply({"staff_count": [5]}, run, recipient)
    finally:
        module.apply_policy = original
    assert len(set(seen)) == 3 and seen[0] == seen[3] and w.SECRET not in seen


def test_a_node_measures_its_policy_once_for_a_table_and_keeps_grade_and_leaf(province: Inputs, tmp_path: Path) -> None:
    layout = worlds.lay(tmp_path / "run", province)
    home = layout.home(layout.parties[0])
    names = read_table(province.platform.path).columns
    kept = {"judgment_cnt_36m": "keep"}
    fields = "".join(
        f'[[field]]\ncolumn = "{name}"\nrole = "other"\ntransform = "{kept.get(name, "drop")}"\n' for name in names
    )
    (home / "policy.toml").write_text(f'[policy]\nproject = "trial-one"\nmodel = "agreement"\n{fields}')
    worlds.edit_toml(home / "node.toml", lambda content: content["data"].update(desensitisation="policy.toml"))
    for _ in range(2):
        node = open_node(load_node(home / "node.toml"))
        try:
            grades = node.store.settings_under("grade/")
            told = [leaf for leaf in map(canonical.decode, node.store.leaves()) if leaf["kind"] == "grade"]
            assert node.boundary.desensitiser is not None and f"grade/{node.boundary.desensitiser.newest()}" in grades
        finally:
            node.close()
        assert [f"grade/{leaf['grade_hash']}" for leaf in told] == list(grades) and len(grades) == 1
