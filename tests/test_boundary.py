"""The gate: what crosses, what stays, and that the ledger knew before."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import consents as w
import pytest

from lianxin.crypto import canonical, merkle
from lianxin.crypto.errors import ProofOfInclusionRejected
from lianxin.crypto.randomness import Drbg
from lianxin.federation.errors import GateRefused, InputFault
from lianxin.federation.model import Released
from lianxin.parties import boundary, decision
from lianxin.parties.decision import AGGREGATE

A, B, C, SOLE = "firm-a", "firm-b", "firm-c", w.SOLE_TRADER
FIRMS = [A, B, C, SOLE]
FIELDS = ("staff_count", "est_date")
COLUMNS = {"staff_count": [1, 2, 3, 4], "est_date": ["a", "b", "c", "d"], "ban_gene": [0, 0, 0, 0]}


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[w.Provider]:
    made = w.Provider(tmp_path, *FIRMS)
    for firm in (A, C):
        made.give(firm)
    yield made
    made.store.close()


def leaves(provider: w.Provider, kind: str) -> list[dict[str, Any]]:
    decoded = (canonical.decode(leaf) for leaf in provider.store.leaves())
    return [leaf for leaf in decoded if leaf["kind"] == kind]


def release(provider: w.Provider, *fields: str, gate: boundary.Boundary | None = None, **changes: Any) -> Released:
    request = w.request_of(*(fields or FIELDS), **changes)
    return (gate or provider.boundary).release(w.contract_of(), request, FIRMS, COLUMNS)


def test_only_rows_of_firms_with_a_live_consent_and_columns_with_a_right_cross(provider: w.Provider) -> None:
    released = release(provider, "staff_count", "est_date", "ban_gene")
    assert released.firms == (A, C)
    assert released.columns == {"staff_count": (1, 3), "est_date": ("a", "c")}
    assert released.provenance.fields == ("staff_count", "est_date") and released.provenance.rows == 2


def test_the_leaf_says_what_the_provenance_says(provider: w.Provider) -> None:
    right = release(provider, "staff_count", "ban_gene").provenance
    [leaf] = leaves(provider, "release")
    for name in ("provider", "recipient", "purpose", "mode", "rows", "rows_root", "consent_root", "epoch"):
        assert leaf[name] == getattr(right, name)
    assert leaf["fields"] == ["staff_count"] and leaf["refused"] == [{"field": "ban_gene", "rule": "R20"}]
    assert leaf["excluded"] == [{"rule": "R12", "firms": 1}, {"rule": "R39", "firms": 1}]
    assert leaf["contract_hash"] == canonical.record_hash(w.contract_of())
    assert leaf["catalogue_hash"] == w.CATALOGUE.digest
    assert right.release_id == canonical.record_hash(leaf)


@pytest.mark.rule("R28")
def test_the_consents_behind_a_release_are_kept_beside_the_ledger(provider: w.Provider) -> None:
    right = release(provider).provenance
    [ids] = provider.store.release_consents().values()
    assert ids == sorted(ids) == ["consent-firm-a", "consent-firm-c"]
    assert merkle.root_of(name.encode() for name in ids).hex() == right.consent_root


def test_what_was_held_back_can_be_read_by_the_party(provider: w.Provider) -> None:
    release(provider, "staff_count", "ban_gene")
    assert provider.boundary.refusals("run-1") == [("ban_gene", "R20")]
    assert provider.boundary.excluded("run-1") == [("train", 0, "R12", 1), ("train", 0, "R39", 1)]
    assert provider.boundary.summaries("run-2") == ()


def test_what_was_held_back_is_remembered_of_the_newest_runs_alone(
    provider: w.Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boundary, "RUNS_REMEMBERED", 2)
    for run in ("run-1", "run-2", "run-3"):
        provider.boundary.release({**w.contract_of(), "run": run}, w.request_of(*FIELDS), FIRMS, COLUMNS)
    assert [len(provider.boundary.summaries(run)) for run in ("run-1", "run-2", "run-3")] == [0, 1, 1]


def test_a_leaf_is_on_disk_before_released_is_made(provider: w.Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def spy(*parts: Any) -> Released:
        seen.append(len(leaves(provider, "release")))
        return Released(*parts)

    monkeypatch.setattr(boundary, "Released", spy)
    release(provider)
    assert seen == [1]


class FailingLedger:
    """A ledger whose disk is full."""

    size = 0

    def append_release(self, *_: Any) -> None:
        raise OSError("disk full")


def test_without_a_leaf_nothing_crosses(provider: w.Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    monkeypatch.setattr(boundary, "Released", lambda *parts: made.append(parts))
    with pytest.raises(OSError, match="disk full"):
        release(provider, gate=provider.gate(FailingLedger()))
    assert made == [] and provider.store.release_consents() == {}


def test_without_the_consent_check_a_firm_without_consent_would_cross(
    provider: w.Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert B not in release(provider).firms
    monkeypatch.setattr(decision.Judge, "decide_firm", lambda *_: decision.Decision(True, "CONSENT"))
    assert B in release(provider).firms


def test_without_the_field_check_a_prohibited_field_would_cross(
    provider: w.Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "ban_gene" not in release(provider, "est_date", "ban_gene").columns
    monkeypatch.setattr(decision, "_field_rule", lambda *_: "")
    provider.give(B, fields=["ban_gene", "staff_count"])
    assert "ban_gene" in release(provider, "ban_gene").columns


@pytest.mark.parametrize(
    ("rule", "fields", "changes"),
    [
        ("R20", ("ban_gene",), {}),
        ("R09", FIELDS, {"provider": "bank-1", "recipient": "platform-a"}),
        ("R22", FIELDS, {"mode": "DESENSITISED"}),
        ("R03", FIELDS, {"mode": AGGREGATE}),
        ("R01", FIELDS, {"purpose": "P5"}),
    ],
)
def test_when_nothing_may_cross_the_rule_is_told_and_a_refusal_leaf_written(
    provider: w.Provider, rule: str, fields: tuple[str, ...], changes: dict[str, Any]
) -> None:
    with pytest.raises(GateRefused) as refusal:
        provider.boundary.release(w.contract_of(), w.request_of(*fields, **changes), FIRMS, COLUMNS)
    assert refusal.value.rule == rule
    [leaf] = leaves(provider, "refusal")
    assert (leaf["rule"], leaf["run"], leaf["step"]) == (rule, "run-1", "train")
    assert leaves(provider, "release") == []


def test_when_every_firm_has_withdrawn_nothing_crosses(provider: w.Provider) -> None:
    for firm in (A, C):
        provider.register.revoke(w.signed(w.revocation_record(firm, f"consent-{firm}"), firm))
    with pytest.raises(GateRefused) as refusal:
        release(provider)
    assert refusal.value.rule == "R04" and leaves(provider, "release") == []


def test_a_withdrawn_firm_is_out_from_the_next_release_and_the_epoch_tells(provider: w.Provider) -> None:
    before = release(provider)
    provider.register.revoke(w.signed(w.revocation_record(A, "consent-firm-a"), A))
    after = release(provider)
    assert (before.firms, after.firms) == ((A, C), (C,))
    assert after.provenance.epoch == before.provenance.epoch + 1


def test_expiry_is_judged_by_the_clock_that_was_given(provider: w.Provider) -> None:
    provider.give(B, expires_at="2026-06-01T00:00:01Z")
    assert B in release(provider).firms
    provider.clock.time = "2026-06-01T00:00:01Z"
    assert B not in release(provider).firms


@pytest.mark.rule("R09")
def test_a_sole_trader_crosses_by_a_persons_consent_alone(provider: w.Provider) -> None:
    provider.give(SOLE, consent_id="consent-9", fields=["est_date", "staff_count"], written=True, **w.PERSON)
    assert SOLE in release(provider).firms
    assert (
        SOLE
        not in provider.boundary.release(
            w.contract_of(), w.request_of(*FIELDS), FIRMS, COLUMNS, subject_types=["ENT"] * 4
        ).firms
    )


def test_a_firms_several_loans_cross_together_and_count_once(provider: w.Provider) -> None:
    columns = {"staff_count": [1, 2, 3]}
    released = provider.boundary.release(w.contract_of(), w.request_of("staff_count"), [A, B, A], columns)
    assert released.firms == (A, A) and released.columns["staff_count"] == (1, 3)
    assert released.provenance.rows == 1


def test_an_identifier_needs_no_column_of_its_own(provider: w.Provider) -> None:
    released = provider.boundary.release(w.contract_of(), w.request_of("uscc", "staff_count"), FIRMS, COLUMNS)
    assert released.provenance.fields == ("uscc", "staff_count") and set(released.columns) == {"staff_count"}


@pytest.mark.parametrize(
    ("columns", "types"),
    [
        ({"est_date": [1, 2, 3, 4]}, None),
        ({**COLUMNS, "staff_count": [1]}, None),
        (COLUMNS, ["ENT"]),
        (COLUMNS, ["ENT", "ENT", "ENT", "FIRM"]),
    ],
)
def test_a_table_of_another_shape_is_refused_before_anything_is_written(
    provider: w.Provider, columns: dict[str, Any], types: list[str] | None
) -> None:
    size = provider.ledger.size
    with pytest.raises(InputFault):
        provider.boundary.release(w.contract_of(), w.request_of(*FIELDS), FIRMS, columns, subject_types=types)
    assert provider.ledger.size == size


def test_a_consent_for_one_run_serves_every_release_of_that_run_and_no_other(provider: w.Provider) -> None:
    provider.give(B, max_uses=1)
    assert B in release(provider).firms and B in release(provider).firms
    other = provider.boundary.release(w.contract_of(run="run-2"), w.request_of(*FIELDS), FIRMS, COLUMNS)
    assert B not in other.firms and A in other.firms


def test_a_firms_presence_can_be_proved_without_opening_another(provider: w.Provider) -> None:
    root = release(provider).provenance.rows_root
    proof = provider.boundary.prove_firm(root, C)
    assert proof is not None and provider.boundary.prove_firm(root, B) is None
    boundary.verify_firm(proof, w.subject_of(C), root)
    with pytest.raises(ProofOfInclusionRejected):
        boundary.verify_firm(proof, w.subject_of(A), root)
    with pytest.raises(InputFault):
        provider.boundary.prove_firm("0" * 64, A)


def test_two_releases_of_the_same_firms_have_roots_that_do_not_link(provider: w.Provider) -> None:
    assert release(provider).provenance.rows_root != release(provider).provenance.rows_root


def test_the_same_seed_and_history_give_the_same_evidence(tmp_path: Path) -> None:
    ids = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        provider = w.Provider(tmp_path / name, A)
        provider.give(A)
        ids.append(release(provider).provenance)
        provider.store.close()
    assert ids[0] == ids[1]


def test_no_leaf_error_or_summary_holds_an_identifier_or_a_subject_key(provider: w.Provider) -> None:
    release(provider)
    with pytest.raises(GateRefused) as refusal:
        release(provider, "ban_gene")
    written = b"".join(provider.store.leaves()).decode() + repr(provider.boundary.summaries("run-1"))
    for firm in FIRMS:
        for secret in (f'"{firm}"', w.subject_of(firm)):
            assert secret not in written + str(refusal.value)
    assert w.SECRET.hex() not in written and Drbg(b"d" * 32).child_seed("release").hex() not in written


def aggregate(provider: w.Provider, rows: int, bads: int | None, goods: int | None, *fields: str) -> Any:
    request = w.request_of(*FIELDS)
    return provider.boundary.aggregate(w.contract_of(), request, rows, bads, goods, fields or FIELDS, "bins", 3)


def test_a_statistic_over_enough_rows_crosses_with_its_leaf(provider: w.Provider) -> None:
    right = aggregate(provider, 50, 10, 40)
    [leaf] = leaves(provider, "release")
    assert right.release_id == canonical.record_hash(leaf)
    assert (leaf["mode"], leaf["step"], leaf["round"], leaf["rows"], leaf["consents"]) == (AGGREGATE, "bins", 3, 50, 0)


@pytest.mark.parametrize(
    ("rule", "rows", "bads", "goods", "fields"),
    [
        ("OUT-ROWS", 49, None, None, ()),
        ("OUT-ROWS", 0, None, None, ()),
        ("OUT-BADS", 50, 9, 41, ()),
        ("OUT-BADS", 50, 41, 9, ()),
        ("R20", 500, None, None, ("staff_count", "ban_gene")),
        ("R01", 500, None, None, ("biz_scope",)),
    ],
)
@pytest.mark.rule("OUT-ROWS", "OUT-BADS")
def test_a_statistic_over_too_few_or_of_a_refused_field_stays(
    provider: w.Provider, rule: str, rows: int, bads: int | None, goods: int | None, fields: tuple[str, ...]
) -> None:
    with pytest.raises(GateRefused) as refusal:
        aggregate(provider, rows, bads, goods, *fields)
    assert refusal.value.rule == rule
    assert [leaf["rule"] for leaf in leaves(provider, "refusal")] == [rule]
    assert leaves(provider, "release") == []


def test_a_statistic_of_another_partys_fields_stays(provider: w.Provider) -> None:
    request = w.request_of(*FIELDS, provider="bank-1", recipient="platform-a")
    catalogues = {"bank-1": w.CATALOGUE.digest}
    listed = [{"provider": "bank-1", "field": name, "use": "feature"} for name in FIELDS]
    with pytest.raises(GateRefused, match="R09"):
        provider.boundary.aggregate(
            w.contract_of(catalogues=catalogues, fields=listed), request, 500, None, None, FIELDS, "bins"
        )


def test_a_release_says_which_consents_it_rests_on(provider: w.Provider) -> None:
    released = release(provider, "staff_count")
    [ids] = provider.store.release_consents().values()
    assert released.consents and list(released.consents) == ids
    assert release(provider, "est_date").consents == ()


def test_commitments_and_leaf_are_kept_together_or_not_at_all(
    provider: w.Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = "release-commitments/"
    release(provider, "staff_count")
    [leaf] = leaves(provider, "release")
    assert list(provider.store.settings_under(kept)) == [kept + leaf["rows_root"]]
    with pytest.raises(OSError, match="disk full"):
        release(provider, gate=provider.gate(FailingLedger()))
    assert len(provider.store.settings_under(kept)) == 1
