"""Attack 17, second part: consents by people who are none, acts that were signed long ago, terms that nobody kept.

A firm's seal does not give away a natural person's data. Here a firm calls another firm the person, an institution makes
one up, an old resumption is handed in again, a consent is given on another notice than the one that was shown, and a key
is registered in silence. Each test shows the attack succeeding where its defence is off.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import consents as w
import pytest

from lianxin.crypto import canonical, merkle, notes, signing, snapshot
from lianxin.crypto.errors import CryptoError, ProofOfInclusionRejected, SignatureRejected
from lianxin.federation.errors import GateRefused, InputFault
from lianxin.parties import consent, consent_register, decision_signers
from lianxin.parties.consent_proof import make_consent_proof, verify_consent_proof
from lianxin.parties.decision import ConsentRejected, Registry
from lianxin.parties.decision_consents import snapshot_root
from lianxin.parties.decision_signers import keys_root, verify_record
from lianxin.parties.ledger_export import write_evidence
from lianxin.parties.ledger_proof import prove_leaf
from lianxin.parties.ledger_witness import note_of

SECOND, PERSON, INVENTED = "91110000MA00000000", "person-7", "person-nobody"
PHONE = "contact_phone"
OTHER_BANK = signing.SigningKey.from_seed(b"o" * 32)
LATER = "2026-06-01T00:00:01Z"


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[w.Provider]:
    made = w.Provider(tmp_path, w.FIRM, SECOND, PERSON, attesting=("bank-1",))
    yield made
    made.store.close()


def joint(other: str, **changes: Any) -> dict[str, Any]:
    """Return a consent of the firm and of what it calls a natural person."""
    return w.full_record(w.FIRM, other, fields=[PHONE], necessity_text="to call", impact_text="a call", **changes)


def phone(provider: w.Provider) -> tuple[str, ...]:
    request = w.request_of(PHONE, purpose="P2", mode="PLAINTEXT")
    return provider.boundary.release(w.contract_of(purpose="P2"), request, [w.FIRM], {PHONE: ["1"]}).firms


def switch_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decision_signers, "_check_kind", lambda *_: None)


@pytest.mark.rule("R09")
def test_a_second_enterprise_that_is_called_a_person_gives_away_nobodys_data(
    provider: w.Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    forged = w.signed_by(joint(SECOND), w.FIRM, SECOND)
    with pytest.raises(ConsentRejected, match="natural person"):
        provider.register.import_records([forged])
    with pytest.raises(ConsentRejected, match="natural person"):  # the auditor's way
        verify_record(forged, provider.store.firm_keys(), provider.store.firm_kinds())
    with pytest.raises(GateRefused):
        phone(provider)
    switch_off(monkeypatch)
    provider.register.import_records([forged])
    assert phone(provider) == (w.FIRM,)


@pytest.mark.rule("R09")
def test_a_key_of_which_nobody_knows_whose_it_is_is_no_persons(provider: w.Provider) -> None:
    provider.store.add_firm_keys(w.firm_keys("person-8"))
    signed = w.signed_by(joint("person-8"), w.FIRM, "person-8")
    with pytest.raises(ConsentRejected, match="natural person"):
        provider.register.import_records([signed])
    provider.register.register_firm_keys(w.firm_keys("person-8"), w.kinds_of("person-8"))
    provider.register.import_records([signed])
    assert phone(provider) == (w.FIRM,)


@pytest.mark.rule("R29")
def test_a_subject_that_is_registered_as_another_type_does_not_consent_as_one(
    provider: w.Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = w.consent_record(PERSON, subject_type="ENT", signer_role="legal_rep")
    with pytest.raises(ConsentRejected, match="another type"):
        provider.register.import_records([w.signed(record, PERSON)])
    with pytest.raises(InputFault, match="another type"):
        provider.register.register_firm_keys(w.firm_keys(PERSON), {w.subject_of(PERSON): "ENT"})
    switch_off(monkeypatch)
    assert provider.register.import_records([w.signed(record, PERSON)]) == 1


def attested(*persons: dict[str, Any], institution: str = "bank-1", **changes: Any) -> dict[str, Any]:
    """Return a consent that an institution alone signs, for the firm and for whom it names beside it."""
    key = w.BANK_KEY if institution == "bank-1" else OTHER_BANK
    named = {"institution": institution, "key": key.public_hex, "method": "e-signature", "time": w.NOW}
    first = w.grantor_of(w.FIRM, identity_proof=PROOF) | {"key": key.public_hex}
    terms = {"recipient": "bank-2", "fields": [PHONE], "necessity_text": "to call", "impact_text": "a call"}
    request = w.request_record(**terms | changes)
    record = consent.answer_request(
        request, [first, *persons], w.NOW, separate_consent=True, written=True,
        attestation=named | {"evidence_digest": "e" * 64},
    )  # fmt: skip
    return signing.sign_record(record, [(institution, key)])


PROOF = {"method": "eid", "verifier": "bank-1", "result": "passed", "time": w.NOW, "evidence_digest": "e" * 64}
INVENTIONS: list[tuple[str, str, bool, str]] = [
    ("made up, unproved", INVENTED, False, "identity"),
    ("made up, with a proof", INVENTED, True, "registered"),
    ("an enterprise", SECOND, True, "natural person"),
    ("a person, unproved", PERSON, False, "identity"),
]


@pytest.mark.rule("R37")
@pytest.mark.parametrize(("why", "who", "is_proved", "text"), INVENTIONS, ids=[row[0] for row in INVENTIONS])
def test_an_institution_makes_up_no_person_to_sign_for(
    provider: w.Provider, monkeypatch: pytest.MonkeyPatch, why: str, who: str, is_proved: bool, text: str
) -> None:
    invented = w.grantor_of(who, **({"identity_proof": PROOF} if is_proved else {})) | {"subject_type": "NP"}
    with pytest.raises(ConsentRejected, match=text):
        provider.register.import_records([attested(invented)])
    assert provider.register.epoch == 0
    for name in ("consent_schema", "consent_import"):
        monkeypatch.setattr(f"lianxin.parties.{name}.grantors_of", lambda record: ())
    assert provider.register.import_records([attested(invented)]) == 1


def test_a_registered_person_whose_identity_was_proved_is_attested_for(provider: w.Provider) -> None:
    assert provider.register.import_records([attested(w.grantor_of(PERSON, identity_proof=PROOF))]) == 1


@pytest.mark.rule("R37")
def test_the_recipient_attests_no_consent_to_itself(provider: w.Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConsentRejected, match="to itself"):
        attested(recipient="bank-1")
    other = attested()
    own = other["record"] | {"recipient": "bank-1"}
    signed = signing.sign_record(own, [("bank-1", w.BANK_KEY)])
    for refuse in (lambda: provider.register.import_records([signed]), lambda: verify_record(signed, {})):
        with pytest.raises(ConsentRejected, match="to itself"):
            refuse()
    party = decision_signers._party_signer("bank-1", w.BANK_KEY.public_hex)
    monkeypatch.setattr(decision_signers, "_attester_of", lambda record: party)
    assert provider.register.import_records([signed]) == 1


def held(second: int, is_pause: bool, firm: str = w.FIRM) -> dict[str, Any]:
    record = w.act_record(consent.make_pause, firm, is_pause=is_pause, at=f"2026-06-01T00:00:0{second}Z")
    return w.signed_by(record, firm)


@pytest.mark.rule("R04")
def test_an_old_resumption_handed_in_again_does_not_end_a_newer_pause(provider: w.Provider) -> None:
    take, state = provider.register.import_records, lambda: provider.register.registry().state_of("consent-1", w.NOW)
    take([w.signed_by(w.full_record())])
    for act in (held(0, True), held(1, False), held(2, True)):
        take([act])
    with pytest.raises(ConsentRejected, match="signed anew"):
        take([held(1, False)])
    assert state() == "PAUSED"
    lines = [canonical.decode_fragment(line) for line in provider.store.iterate_registry()]
    with pytest.raises(
        ConsentRejected, match="signed anew"
    ):  # what an auditor makes of a registry that has it all the same
        Registry.from_signed([*lines, held(1, False)])
    lax = Registry.from_signed(lines)
    lax.held_at.clear()
    lax.admit(held(1, False)["record"])
    assert lax.state_of("consent-1", w.NOW) == "ACTIVE"
    take([held(3, False)])
    assert state() == "ACTIVE"


@pytest.mark.rule("R37")
def test_a_recipient_ends_no_firms_pause_by_its_own_attestation(provider: w.Provider) -> None:
    provider.register.import_records([w.signed_by(w.full_record())])
    provider.register.import_records([held(0, True)])
    key = w.BANK_KEY.public_hex
    named = {"institution": "bank-1", "key": key, "method": "x", "time": w.NOW, "evidence_digest": "e" * 64}
    record = w.act_record(consent.make_pause, is_pause=False, at=LATER) | {"signer_key": key, "attestation": named}
    with pytest.raises(ConsentRejected, match="recipient"):
        provider.register.import_records([signing.sign_record(record, [("bank-1", w.BANK_KEY)])])


def test_a_key_that_is_registered_in_silence_does_not_fit_the_last_leaf(provider: w.Provider, tmp_path: Path) -> None:
    def last() -> dict[str, Any]:
        leaves = [canonical.decode(leaf) for leaf in provider.store.leaves()]
        return [leaf for leaf in leaves if leaf["kind"] == "firm-keys"][-1]

    size = provider.ledger.size
    provider.register.register_firm_keys(w.firm_keys(PERSON), w.kinds_of(PERSON))
    assert provider.ledger.size == size  # nothing new, no leaf
    provider.register.register_firm_keys(w.firm_keys("person-9"), w.kinds_of("person-9"), "wang")
    provider.register.import_records([attested(w.grantor_of(PERSON, identity_proof=PROOF))])  # brings the bank's key
    keys, kinds = provider.store.firm_keys(), provider.store.firm_kinds()
    assert (last()["keys"], last()["keys_root"]) == (5, keys_root(keys, kinds))
    contract = canonical.encode({"record": {"run": "run-1"}, "signatures": []})
    provider.ledger.checkpoint()
    note = note_of(canonical.decode_fragment(provider.store.last_checkpoint() or b""))
    folder = write_evidence(provider.store, "platform-a", tmp_path, contract, b"", notes.parse_checkpoint(note.text))
    lines = (folder / "firm_keys.jsonl").read_bytes().splitlines()
    assert last()["keys_root"] == merkle.root_of(lines).hex()
    provider.store.add_firm_keys(w.firm_keys("person-10"))
    assert last()["keys_root"] != keys_root(provider.store.firm_keys(), provider.store.firm_kinds())


def test_a_key_and_its_leaf_are_written_together_or_not_at_all(
    provider: w.Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, size = provider.store.firm_keys(), provider.ledger.size
    changed = {w.subject_of(SECOND): w.key_of(PERSON).public_hex}
    with pytest.raises(InputFault, match="another key"):
        provider.register.register_firm_keys({**w.firm_keys("person-9"), **changed})
    assert (provider.store.firm_keys(), provider.ledger.size) == (before, size)


@pytest.mark.rule("R06")
def test_a_consent_on_another_notice_than_its_request_showed_is_refused(
    provider: w.Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.register.import_records([w.asked(w.request_record())])
    milder = {**w.NOTICE, "kinds": "nothing of importance"}
    provider.register.keep_notice(milder)
    answer = consent.answer_request(
        w.request_record(notice=milder), [w.grantor_of(w.FIRM)], w.NOW, separate_consent=False, written=False
    )
    with pytest.raises(ConsentRejected, match="another notice"):
        provider.register.import_records([w.signed_by(answer)])
    monkeypatch.setattr(Registry, "_check_answer", lambda *_: None)
    assert provider.register.import_records([w.signed_by(answer)]) == 2


@pytest.mark.rule("R06")
def test_a_consent_without_a_request_needs_its_notice_on_file(
    provider: w.Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = {**w.NOTICE, "kinds": "what nobody can look up"}
    signed = w.signed_by(w.full_record(notice=unknown))
    with pytest.raises(ConsentRejected, match="on file"):
        provider.register.import_records([signed])
    with monkeypatch.context() as off:
        off.setattr(consent_register._Intake, "_check_notice", lambda *_: None)
        assert provider.register.import_records([signed]) == 1
    provider.register.keep_notice(unknown)
    assert provider.register.import_records([w.signed_by(w.full_record(notice=unknown, consent_id="consent-2"))]) == 2


UNKEPT: list[tuple[dict[str, Any], str]] = [
    ({"data_from": "2020-01-01"}, "data_from"),
    ({"data_to": "2024-12-31"}, "data_to"),
    ({"purpose": "P1", "fetch": "PERIODIC", "frequency": "weekly", "max_uses": None}, "max_uses"),
]


@pytest.mark.parametrize(("changes", "text"), UNKEPT)
def test_a_term_that_the_gate_could_not_keep_is_refused_when_it_comes_in(
    provider: w.Provider, changes: dict[str, Any], text: str
) -> None:
    record = {name: value for name, value in {**w.full_record(), **changes}.items() if value is not None}
    asked = {name: value for name, value in {**w.request_record(), **changes}.items() if value is not None}
    for signed in (w.signed_by(record), w.asked(asked)):
        with pytest.raises(ConsentRejected, match=text):
            provider.register.import_records([signed])


PACE: list[tuple[str, int, str]] = [
    (w.NOW, 0, "ACTIVE"), (w.NOW, 1, "PAUSED"), ("2026-07-01T23:59:59Z", 1, "PAUSED"),
    ("2026-07-02T00:00:00Z", 1, "ACTIVE"), ("2026-07-02T00:00:00Z", 2, "PAUSED"), ("2026-08-02T00:00:00Z", 3, "USED_UP"),
]  # fmt: skip


@pytest.mark.rule("R38")
@pytest.mark.parametrize(("now", "used", "state"), PACE)
def test_a_monthly_consent_is_used_no_oftener_than_months_have_begun(now: str, used: int, state: str) -> None:
    record = w.full_record(
        purpose="P3", fetch="PERIODIC", frequency="monthly", max_uses=3, expires_at="2027-06-01T00:00:00Z"
    )
    assert w.registry_of(record).state_of("consent-1", now, used) == state
    without = {name: value for name, value in record.items() if name != "frequency"}
    assert w.registry_of(without).state_of("consent-1", now, used) in ("ACTIVE", "USED_UP")


@pytest.mark.rule("R38")
def test_the_gate_keeps_the_frequency_that_the_firm_signed(provider: w.Provider) -> None:
    terms = {"purpose": "P3", "fetch": "PERIODIC", "frequency": "monthly", "max_uses": 3}
    record = w.full_record(fields=["staff_count"], expires_at="2027-06-01T00:00:00Z", **terms)
    provider.register.import_records([w.signed_by(record)])

    def take(run: str) -> tuple[str, ...]:
        contract = w.contract_of(purpose="P3", run=run, expires_at="2028-01-01T00:00:00Z")
        request = w.request_of("staff_count", purpose="P3", mode="PLAINTEXT")
        return provider.boundary.release(contract, request, [w.FIRM], {"staff_count": [1]}).firms

    assert take("run-1") == take("run-1") == (w.FIRM,)
    with pytest.raises(GateRefused) as refused:
        take("run-2")
    assert refused.value.rule == "R38"
    provider.clock.time = "2026-07-03T00:00:00Z"
    assert take("run-2") == (w.FIRM,)


def proof_of(provider: w.Provider, name: str) -> dict[str, Any]:
    made, index = provider.register.published(provider.clock.now())
    provider.ledger.checkpoint()
    return make_consent_proof(name, made.prove(name), prove_leaf(provider.store, "platform-a", index))


def test_a_consents_state_is_proved_up_to_the_head_that_the_provider_signed(provider: w.Provider) -> None:
    key, record = provider.key.public_hex, w.full_record()
    before = proof_of(provider, "consent-1")
    assert verify_consent_proof(before, key).state == ""
    provider.register.import_records([w.signed_by(record)])
    there = verify_consent_proof(proof_of(provider, "consent-1"), key)
    assert (there.state, there.record_hash, there.at) == ("ACTIVE", canonical.record_hash(record), w.NOW)
    provider.clock.time = record["expires_at"]
    late = proof_of(provider, "consent-1")
    assert (verify_consent_proof(late, key).state, verify_consent_proof(late, key).epoch) == ("EXPIRED", 1)
    leaf = late["ledger"]["leaves"][0]["leaf"]
    lines = [canonical.decode_fragment(line) for line in provider.store.iterate_registry()]
    assert leaf["snapshot_root"] == snapshot_root(Registry.from_signed(lines), leaf["snapshot_at"])


def test_a_snapshot_that_nobody_published_proves_nothing(provider: w.Provider) -> None:
    """The provider makes a map without the consent, and hands it out beside a true leaf."""
    provider.register.import_records([w.signed_by(w.full_record())])
    true, empty = proof_of(provider, "consent-1"), snapshot.Snapshot([])
    snapshot.verify_absent(empty.root, "consent-1", empty.prove("consent-1"))
    lie = true | {"snapshot": snapshot.proof_to_record(empty.prove("consent-1"))}
    at = true["snapshot"]["at"]
    paused = at | {"value": "02" + at["value"][2:]}
    other_state = true | {"snapshot": true["snapshot"] | {"at": paused}}
    other_leaf = true | {"ledger": prove_leaf(provider.store, "platform-a", 0)}
    for wrong in (lie, other_state, other_leaf):
        with pytest.raises(ProofOfInclusionRejected):
            verify_consent_proof(wrong, provider.key.public_hex)
    with pytest.raises(SignatureRejected):
        verify_consent_proof(true, OTHER_BANK.public_hex)
    with pytest.raises(CryptoError):
        verify_consent_proof(true | {"version": 2}, provider.key.public_hex)
