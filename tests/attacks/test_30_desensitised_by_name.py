"""Row 30: a raw trade secret is asked for by the firm's code, as "desensitised", and no firm consented.

The measured risk assumes that nobody knows whose a row is; a query names the firm. A policy that calls the secret
anything but a quasi-identifier gives one class of all rows, so the lowest risk, and each answer is that firm's own
figure. A node whose grade was refused puts another table in the place of its own, is measured, and puts the first back.
"""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import consents as w
import pytest

from lianxin.crypto import canonical
from lianxin.crypto.randomness import derive_seed
from lianxin.federation.errors import GateRefused, InputFault
from lianxin.parties import boundary_grades, decision, decision_grades, node
from lianxin.parties.boundary_grades import Desensitiser, grade_of, keep_grade
from lianxin.parties.decision import Registry
from lianxin.parties.desensitise import measure, policy_of

SECRET = "total_assets"
FIRMS = [f"firm-{number:02}" for number in range(80)]
HELD = {firm: 100_000 + 7_919 * place for place, firm in enumerate(FIRMS)}
FEW = {firm: (250_000, 750_000)[place % 2] for place, firm in enumerate(FIRMS)}
OWN = derive_seed(w.SECRET, "desensitisation")
TABLE = "0" * 64


def policy_text(role: str, transform: str, column: str = SECRET) -> str:
    head = '[policy]\nproject = "trial-1"\nmodel = "agreement"\n'
    return f'{head}[[field]]\ncolumn = "{column}"\nrole = "{role}"\ntransform = {transform}\n'


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[w.Provider]:
    made = w.Provider(tmp_path)
    yield made
    made.store.close()


def graded(provider: w.Provider, role: str, transform: str, held: dict[str, int]) -> dict[str, Any]:
    """Give the gate a policy of one column, measured on the table; return the grade record."""
    policy = policy_of(policy_text(role, transform))
    record = measure(policy, {SECRET: list(held.values())}, derive_seed(OWN, "measure"), "platform-a", w.NOW)
    keep_grade(provider.store, record, TABLE)
    provider.boundary.desensitiser = Desensitiser(policy, grade_of(provider.store, policy.hash, TABLE), OWN)
    return record


def learned(provider: w.Provider, held: dict[str, int]) -> dict[str, str]:
    """Ask for every firm by its name; return what the bank was told, firm by firm, and nothing of the refused."""
    told = {}
    for firm, value in held.items():
        request = w.request_of(SECRET, mode="DESENSITISED", step="query.answer")
        try:
            released = provider.boundary.release(w.contract_of(), request, [firm], {SECRET: [value]}, query="q-1")
        except GateRefused as refusal:
            assert refusal.rule == "R22"
            continue
        told[firm] = released.columns[SECRET][0]
    return told


def exact(told: dict[str, str], held: dict[str, int]) -> int:
    return sum(told.get(firm) == str(value) for firm, value in held.items())


WAYS: dict[str, tuple[str, str, dict[str, int], tuple[str, ...]]] = {
    "kept as other": ("other", '"keep"', HELD, ("keep", "shared")),
    "kept as sensitive": ("sensitive", '"keep"', HELD, ("keep", "shared")),
    "rounded to itself": ("sensitive", '"round"\nstep = 1', HELD, ("shared",)),
    "clipped at nothing": ("other", '"clip"\nlow = 0', HELD, ("shared",)),
    "kept as a quasi-identifier": ("quasi", '"keep"', FEW, ("keep",)),
}


@pytest.mark.rule("R22")
@pytest.mark.parametrize("way", WAYS)
def test_a_trade_secret_asked_for_by_name_is_not_told_as_it_is_and_without_the_checks_all_of_them_are(
    provider: w.Provider, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    role, transform, held, checks = WAYS[way]
    assert graded(provider, role, transform, held)["accepted"], "the measure sees nothing wrong with it"
    assert learned(provider, held) == {}
    if "keep" in checks:
        monkeypatch.setattr(decision_grades, "KEPT", "no transform's name")
    if "shared" in checks:
        monkeypatch.setattr(decision_grades, "_is_shared", lambda *_: True)
    assert exact(learned(provider, held), held) == len(FIRMS)
    assert provider.store.release_consents() and not any(provider.store.release_consents().values())


@pytest.mark.rule("R22")
def test_of_a_measured_column_a_named_firms_answer_is_its_classs_and_no_more(provider: w.Provider) -> None:
    record = graded(provider, "quasi", '"band"\nedges = [250000, 500000]', HELD)
    assert record["quasi"] == [SECRET] and record["accepted"]
    told = learned(provider, HELD)
    classes = [list(told.values()).count(value) for value in set(told.values())]
    assert len(told) == len(FIRMS) and exact(told, HELD) == 0 and (len(classes), min(classes)) == (3, record["k"])


def test_an_auditor_decides_the_same_of_the_field_and_of_the_firm(provider: w.Provider) -> None:
    record = graded(provider, "sensitive", '"round"\nstep = 1', HELD)
    grade = canonical.record_hash(record)
    for step, rule in (("query.answer", "R22"), ("train", "")):
        request = w.request_of(SECRET, mode="DESENSITISED", step=step, grade=grade)
        grades = {grade: record}
        found = decision.decide_release(w.contract_of(), w.CATALOGUE, Registry(), request, w.NOW, grades)
        assert found.rule == rule
        of_firm = (w.subject_of(FIRMS[0]), (SECRET,), request, Registry(), w.NOW, w.CATALOGUE, "ENT", {}, grades)
        assert (decision.decide_firm(*of_firm).rule == "R22") is bool(rule)


def test_what_the_law_publishes_may_be_kept_as_it_is_and_a_record_of_no_sense_lets_nothing_go() -> None:
    record = {
        "type": "desensitisation-grade", "provider": "platform-a", "model": "agreement", "accepted": True,
        "risk_ppm": 1, "classes_above_ppm": 0, "fields": {"a": "keep", "b": "band"}, "quasi": ["a", "b"],
    }  # fmt: skip

    def of(name: str, class_: str, **changes: Any) -> str:
        grades = {"g": {**record, **changes}}
        return decision_grades.transform_of(name, "platform-a", "g", grades, class_, "query.answer")

    assert (of("a", "PUB"), of("a", "LIM"), of("a", "BIZ"), of("b", "BIZ")) == ("keep", "", "", "band")
    assert [of("b", "BIZ", quasi=odd) for odd in ({}, None, "b", 7, [], [["b"]])] == [""] * 6


# ---- the grade of another table


def node_at(provider: w.Provider, folder: Path, column: str = SECRET, role: str = "quasi") -> Any:
    """Return as much of a node as its desensitisation looks at."""
    (folder / "policy.toml").write_text(policy_text(role, '"band"\nedges = [500000]', column))
    data = SimpleNamespace(desensitisation=folder / "policy.toml", table=folder / "firms.csv", columns={})
    return SimpleNamespace(
        config=SimpleNamespace(data=data), catalogue=w.CATALOGUE, store=provider.store, ledger=provider.ledger,
        clock=provider.clock, party="platform-a",
    )  # fmt: skip


def started_with(provider: w.Provider, folder: Path, values: list[int]) -> bool:
    """Write the table, start, and return whether the node's grade is accepted."""
    (folder / "firms.csv").write_text(f"{SECRET}\n" + "".join(f"{value}\n" for value in values))
    provider.clock.time = f"{provider.clock.time[:18]}{int(provider.clock.time[18]) + 1}Z"
    made = node._desensitiser(node_at(provider, folder), w.SECRET)
    assert made is not None and made.has(made.newest())
    return bool(made.grades[made.newest()]["accepted"])


@pytest.mark.rule("R22")
def test_a_table_whose_grade_was_refused_cannot_borrow_the_grade_of_another(
    provider: w.Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, other = [750_000] + [250_000] * 79, [250_000, 750_000] * 40  # in the first, one firm is alone in its band
    assert [started_with(provider, tmp_path, table) for table in (own, other, own)] == [False, True, False]

    def every_grade(store: Any, *_: str) -> dict[str, Any]:
        found = store.settings_under(boundary_grades.GRADES)
        return {name.removeprefix(boundary_grades.GRADES): canonical.decode(data) for name, data in found.items()}

    monkeypatch.setattr(node, "grade_of", every_grade)
    assert started_with(provider, tmp_path, own), "a node that looks at all grades of the policy takes the other's"


def test_a_leaf_names_the_table_that_its_grade_was_measured_on(provider: w.Provider) -> None:
    record = graded(provider, "quasi", '"band"\nedges = [250000, 500000]', HELD)
    learned(provider, dict(list(HELD.items())[:1]))
    [leaf] = [leaf for leaf in map(canonical.decode, provider.store.leaves()) if leaf["kind"] == "release"]
    assert (leaf["table_hash"], leaf["grade"]) == (record["table_hash"], canonical.record_hash(record))


def test_a_node_does_not_start_on_a_policy_that_calls_a_column_less_than_the_catalogue(
    provider: w.Provider, tmp_path: Path
) -> None:
    (tmp_path / "firms.csv").write_text(f"{SECRET}\n" + "1\n" * 30)
    with pytest.raises(InputFault, match=f"{SECRET} is sensitive in the catalogue, other in the policy"):
        node._desensitiser(node_at(provider, tmp_path, role="other"), w.SECRET)
