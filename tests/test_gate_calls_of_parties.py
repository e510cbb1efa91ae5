"""Calls of the gate that no other quick test shows alone, in the registry, in queries and at a node's start.

`mutants.MUTANTS` names these tests; with the call taken out each fails.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import consents
import pytest
import worlds

from lianxin.crypto.errors import CryptoError, ProofOfInclusionRejected, SignatureRejected
from lianxin.crypto.signing import SigningKey, sign_record
from lianxin.federation.errors import GateRefused, LianxinError, PeerError
from lianxin.federation.field_query import Question
from lianxin.federation.wire import Crossing
from lianxin.parties import agreement, bank, boundary, consent, consent_signing, decision, field_selection, platform
from lianxin.parties.bank import BankNode
from lianxin.parties.coding_rules import NO_RULES
from lianxin.parties.config import EvaluationSection, RunsSection
from lianxin.parties.ledger import Ledger
from lianxin.parties.ledger_witness import Witness
from lianxin.parties.platform import PlatformNode
from lianxin.parties.query_bank import BankQueries
from lianxin.parties.query_conversations import STANDING
from lianxin.parties.query_judgement import judge
from lianxin.parties.query_platform import QueryDesk
from lianxin.parties.store import Store
from lianxin.parties.trace import LedgerTrace

ends = worlds.ends
FIRM = consents.FIRM


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[consents.Provider]:
    made = consents.Provider(tmp_path, FIRM)
    made.give(FIRM, consent_id="consent-1")
    yield made
    made.store.close()


def never(*_arguments: Any, **_named: Any) -> Any:
    raise AssertionError("what should have been refused was taken up")


def refuse(*_arguments: Any, **_named: Any) -> Any:
    raise GateRefused("nothing may cross", "R01")


# ---- the registry, held still


def node_of(provider: consents.Provider) -> Any:
    """Return as much of a node as a judgement of a query looks at."""
    return SimpleNamespace(
        party="platform-a", boundary=provider.boundary, clock=provider.clock, register=provider.register,
        catalogue=consents.CATALOGUE, store=provider.store,
    )  # fmt: skip


ACTS: dict[str, Callable[[consents.Provider], Any]] = {
    "release": lambda p: p.boundary.release(
        consents.contract_of(), consents.request_of("staff_count"), [FIRM], {"staff_count": [1]}
    ),
    "aggregate": lambda p: p.boundary.aggregate(
        consents.contract_of(), consents.request_of("staff_count"), 500, None, None, ["staff_count"], "bins"
    ),
    "register": lambda p: p.register.register_firm_keys(consents.firm_keys("firm-9")),
    "import": lambda p: p.register.import_records([]),
    "revoke": lambda p: p.register.revoke(consents.signed(consents.revocation_record())),
    "snapshot": lambda p: p.register.snapshot(consents.NOW),
    "publish": lambda p: p.register.publish_snapshot(consents.NOW),
    "mark": lambda p: p.register.mark(),
    "judge": lambda p: judge(node_of(p), consents.contract_of(), consents.request_of("staff_count"), FIRM, "use-1"),
}


@pytest.mark.parametrize("act", ACTS)
def test_the_registry_is_held_while_it_is_decided_on_or_grows(
    act: str, provider: consents.Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    register, depth, met = provider.register, [0], list[int]()
    held, registry = register.held, register.registry

    @contextmanager
    def noted() -> Iterator[Any]:
        depth[0] += 1
        try:
            with held() as found:
                yield found
        finally:
            depth[0] -= 1

    monkeypatch.setattr(register, "held", noted)
    monkeypatch.setattr(register, "registry", lambda: met.append(depth[0]) or registry())
    ACTS[act](provider)
    assert met and min(met) > 0, "the registry was read without being held"


def test_a_revocation_of_what_is_revoked_already_is_checked_all_the_same(provider: consents.Provider) -> None:
    genuine = consents.signed(consents.revocation_record())
    provider.register.revoke(genuine)
    with pytest.raises(SignatureRejected):
        provider.register.revoke({**genuine, "signatures": consents.signed(consents.consent_record())["signatures"]})


def test_a_consent_and_a_revocation_that_another_key_signed_are_refused_by_their_checks() -> None:
    keys, thief = consents.firm_keys(FIRM), SigningKey.from_seed(b"x" * 32)
    for check, record in (
        (consent.check_consent, consents.consent_record()),
        (consent.check_revocation, consents.revocation_record()),
    ):
        assert check(consents.signed(record), keys) == record
        with pytest.raises(SignatureRejected):
            check(sign_record(record, [("firm", thief)]), keys)
        with pytest.raises((CryptoError, LianxinError)):
            check(sign_record({**record, "signer_key": thief.public_hex}, [("firm", thief)]), keys)


def test_a_firm_signs_no_request_that_its_bank_did_not() -> None:
    record = consents.request_record()
    assert consent_signing.checked_request(sign_record(record, [("bank-1", consents.BANK_KEY)])) == record
    with pytest.raises((CryptoError, LianxinError)):
        consent_signing.checked_request(sign_record(record, [("bank-1", SigningKey.from_seed(b"x" * 32))]))


def test_a_row_in_a_mode_that_nobody_knows_has_no_right_even_where_no_consent_is_needed(
    provider: consents.Provider,
) -> None:
    request, registry = consents.request_of("staff_count", mode="ANY"), provider.register.registry()
    subject = consents.subject_of(FIRM)
    decided = decision.decide_firm(subject, (), request, registry, consents.NOW, consents.CATALOGUE)
    assert (decided.allow, decided.rule) == (False, "R03")


def test_a_firms_proof_under_another_root_is_refused(provider: consents.Provider) -> None:
    made = ACTS["release"](provider)
    root = made.provenance.rows_root
    proof = provider.boundary.prove_firm(root, FIRM)
    boundary.verify_firm(proof, consents.subject_of(FIRM), root)
    with pytest.raises(ProofOfInclusionRejected):
        boundary.verify_firm(replace(proof, salt="11" * 32), consents.subject_of(FIRM), root)


def test_rows_do_not_leave_in_the_mode_of_statistics_whatever_is_said_of_their_firms(
    provider: consents.Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decision.Judge, "decide_firm", lambda *_: decision.Decision(True, "CONSENT"))
    request = consents.request_of("staff_count", mode=decision.AGGREGATE)
    with pytest.raises(GateRefused) as refused:
        provider.boundary.release(consents.contract_of(), request, [FIRM], {"staff_count": [1]})
    assert refused.value.rule == "R03"


@pytest.mark.parametrize("act", ["release", "aggregate"])
def test_while_the_clock_is_wrong_nothing_leaves(
    act: str, provider: consents.Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider.boundary._clock, "fault_s", lambda: 600)
    with pytest.raises(GateRefused) as refused:
        ACTS[act](provider)
    assert refused.value.rule == "T01"


def test_while_the_witnesses_are_overdue_neither_a_release_nor_a_value_leaves() -> None:
    overdue = SimpleNamespace(check_witnessed=refuse, _submit=never, append_envelope=never)
    with pytest.raises(GateRefused):
        Ledger.append_release(overdue, {}, ())  # type: ignore[arg-type]
    header = dict.fromkeys(("run", "conversation", "step", "seq", "message_type", "payload_hash", "payload_bytes"), "")
    opened = SimpleNamespace(header=header | {"round": 0}, message_hash="", encoded=b"", signature=b"")
    with pytest.raises(GateRefused):
        crossing = Crossing("MaskSums.ciphertexts", "MASKED")
        LedgerTrace(overdue).crossed("out", "bank-1", opened, [crossing], (), b"")  # type: ignore[arg-type]


# ---- fields that most consents do not cover


def covered(provider: consents.Provider, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setattr(field_selection, "read_subject_key", lambda _path: consents.SECRET)
    node = SimpleNamespace(config=SimpleNamespace(identity=Path()), **vars(node_of(provider)))
    contract = SimpleNamespace(banks=("bank-1",), purpose="P4")
    return field_selection._coverage_rules(node, contract, [FIRM], ["contact_phone"])  # type: ignore[arg-type]


def test_a_field_that_no_consent_covers_is_left_out_by_its_rule(
    provider: consents.Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert covered(provider, monkeypatch) == {"contact_phone": "R03"}


# ---- queries


def test_a_query_is_judged_field_by_field_by_class_and_by_consent(provider: consents.Provider) -> None:
    asked = consents.request_of("staff_count", "ban_gene", "pwr_kwh_12m", "total_assets")
    judged = judge(node_of(provider), consents.contract_of(), asked, FIRM, "use-1")
    assert {name: "" if one.allow else one.rule for name, one in judged.items()} == {
        "staff_count": "", "ban_gene": "R20", "pwr_kwh_12m": "", "total_assets": "R03",
    }  # fmt: skip


def test_a_bank_names_firms_and_a_platform_answers_by_the_gate_alone() -> None:
    gate = SimpleNamespace(release=refuse, catalogue_of=lambda _: consents.CATALOGUE)
    contract = SimpleNamespace(record={})
    node = SimpleNamespace(boundary=gate, party="platform-a", catalogue=consents.CATALOGUE)
    question = Question("run-1.bank-1.1", "P2", "PLAINTEXT", "operator-1", ("staff_count",), (FIRM,))
    here = SimpleNamespace(
        node=node, contract=contract, table=SimpleNamespace(columns={}), _request=lambda *_a: None,
        _value=lambda *_a: None,
    )  # fmt: skip
    with pytest.raises(GateRefused):
        BankQueries._release(here, question)  # type: ignore[arg-type]
    with pytest.raises(GateRefused):
        QueryDesk._release(here, "bank-1", question, ["staff_count"], FIRM, "use-1")  # type: ignore[arg-type]


def test_a_query_is_charged_before_it_is_logged_or_answered() -> None:
    def spent(*_arguments: Any) -> None:
        raise PeerError("nothing is left", "Q01")

    here = SimpleNamespace(_quota=SimpleNamespace(charge=spent), node=None, contract=None, _each=never, _check_open=int)
    question = Question("run-1.bank-1.1", "P2", "PLAINTEXT", "operator-1", ("staff_count",), ())
    with pytest.MonkeyPatch.context() as patch, pytest.raises(PeerError):
        patch.setattr("lianxin.parties.query_platform.log_question", never)
        patch.setattr("lianxin.parties.query_platform.check_institution", lambda *_: None)
        QueryDesk._answers(here, "bank-1", "query/bank-1/1", question)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "state", "next_step"),
    [
        pytest.param(BankNode, STANDING, "_stand", id="BankNode"),
        pytest.param(BankNode, "running", "_go_on", id="BankNode of a run"),
        pytest.param(PlatformNode, STANDING, "_stand", id="PlatformNode"),
    ],
)
def test_a_node_that_starts_again_takes_up_no_agreement_whose_signatures_do_not_hold(
    kind: type[Any], state: str, next_step: str, ends: worlds.Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed = agreement.encode_signed(sign_record(dict(ends.contract.record), [("bank-1", ends.bank.key)]))
    table = SimpleNamespace(identifiers=[], columns={})
    for module, loader in ((bank, "load_loan_table"), (platform, "load_firm_table")):
        monkeypatch.setattr(module, "read_table", lambda *_a: None)
        monkeypatch.setattr(module, loader, lambda *_a: table)
    monkeypatch.setattr(kind, next_step, never)
    data = SimpleNamespace(label="y", table=Path("table.csv"), id="", split=None, loan_id=None, columns={})
    rows = [SimpleNamespace(run=ends.contract.run, state=state, contract=signed, note="")]
    store = SimpleNamespace(runs=lambda: rows, setting=lambda _key: None, settings_under=lambda _prefix: {})
    node = SimpleNamespace(
        config=SimpleNamespace(data=data, evaluation=EvaluationSection(), runs=RunsSection()), store=store, rules=NO_RULES,
        identity=SimpleNamespace(platform=lambda: "platform-a", revoked=frozenset()), clock=ends.bank.clock,
        say=lambda *_what, **_how: None,
    )  # fmt: skip
    with pytest.raises(PeerError) as refused:
        kind(node, None)
    assert refused.value.rule == "C05"


# ---- heads and cosignatures


def ledger_of(folder: Path, party: str) -> tuple[Ledger, SigningKey, Store]:
    key, store = SigningKey.from_seed(party.encode().ljust(32, b".")), Store(folder / f"{party}.sqlite")
    return Ledger(store, party, key, consents.Clock(), "lianxin test", "operator-1"), key, store


def test_a_head_or_cosignature_of_another_key_is_neither_kept_nor_answered(tmp_path: Path) -> None:
    ledger, key, _ = ledger_of(tmp_path, "bank-1")
    ledger.append({"kind": "note", "run": ""})
    thief = SigningKey.from_seed(b"x" * 32)
    request = ledger.request_for("platform-a")
    witness = Witness(Store(tmp_path / "w.sqlite"), "platform-a", SigningKey.from_seed(b"w" * 32))
    with pytest.raises(SignatureRejected):
        witness.keep_head(request, "bank-1", thief.public_hex, consents.NOW)
    answer = witness.keep_head(request, "bank-1", key.public_hex, consents.NOW)
    with pytest.raises(SignatureRejected):
        ledger.take_answer(answer, "platform-a", thief.public_hex)
    ledger.take_answer(answer, "platform-a", SigningKey.from_seed(b"w" * 32).public_hex)


def test_a_head_in_the_old_form_is_its_partys_or_none(tmp_path: Path) -> None:
    from lianxin.parties.ledger_witness import head_of

    head = {"type": "checkpoint", "version": 1, "party": "bank-1", "size": 1, "root": "0" * 64, "time": consents.NOW}
    key, thief = SigningKey.from_seed(b"k" * 32), SigningKey.from_seed(b"x" * 32)
    signed = sign_record(head, [("bank-1", key)])
    assert head_of(signed, "bank-1", key.public_hex).size == 1
    with pytest.raises(SignatureRejected):
        head_of(signed, "bank-1", thief.public_hex)
    with pytest.raises(SignatureRejected):
        Witness(Store(tmp_path / "w.sqlite"), "platform-a", thief).keep(signed, "bank-1", thief.public_hex)


def test_a_witness_cosigns_no_head_that_its_proof_does_not_join_to_the_last(tmp_path: Path) -> None:
    ledger, key, _ = ledger_of(tmp_path, "bank-1")
    witness = Witness(Store(tmp_path / "w.sqlite"), "platform-a", SigningKey.from_seed(b"w" * 32))
    ledger.append({"kind": "note", "run": ""})
    witness.cosign(ledger.checkpoint(), "bank-1", key.public_hex, (), consents.NOW)
    ledger.append_many([{"kind": "note", "run": ""}] * 2)
    with pytest.raises(ProofOfInclusionRejected):
        witness.cosign(ledger.checkpoint(), "bank-1", key.public_hex, (b"\x00" * 32,), consents.NOW)
