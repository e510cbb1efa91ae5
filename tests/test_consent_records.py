"""Consents of version 2, requests, refusals, pauses: their closed schema, who signs them, and the states they lead to."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import consents as w
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torture import cases

from lianxin.crypto import canonical, signing, snapshot
from lianxin.crypto.errors import CryptoError, SignatureRejected
from lianxin.federation.errors import GateRefused, InputFault
from lianxin.parties import consent, decision
from lianxin.parties.consent_import import check_line
from lianxin.parties.decision import ConsentRejected, Registry
from lianxin.parties.decision_consents import snapshot_value
from lianxin.parties.decision_signers import check_registered, party_subject

PERSON, LATER = "person-7", "2026-06-05T00:00:00Z"
KEYS, KINDS = w.firm_keys(w.FIRM, w.SOLE_TRADER, PERSON), w.kinds_of(w.FIRM, w.SOLE_TRADER, PERSON)


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[w.Provider]:
    made = w.Provider(tmp_path, w.FIRM, w.SOLE_TRADER, PERSON, attesting=("bank-1",))
    yield made
    made.store.close()


def test_a_request_is_answered_by_a_consent_that_gives_what_was_asked_and_no_more(provider: w.Provider) -> None:
    provider.register.import_records([w.asked(w.request_record())])
    assert provider.register.registry().state_of("consent-1", w.NOW) == "REQUESTED"
    record = w.full_record()
    assert record["notice_hash"] == consent.check_notice(w.NOTICE) and record["fields"] == w.request_record()["fields"]
    provider.register.import_records([w.signed_by(record)])
    assert provider.register.registry().state_of("consent-1", w.NOW) == "ACTIVE"


@pytest.mark.rule("R36")
def test_nothing_is_ticked_for_the_signer() -> None:
    with pytest.raises(TypeError, match="separate_consent"):
        consent.answer_request(w.request_record(), [w.grantor_of(w.FIRM)], w.NOW)  # type: ignore[call-arg]


@pytest.mark.rule("R06")
@pytest.mark.parametrize("part", ["who", "purpose", "method", "kinds", "retention", "rights", "language", "notice_id"])
def test_a_notice_that_leaves_out_what_the_law_asks_for_is_no_notice(part: str) -> None:
    notice = {name: text for name, text in w.NOTICE.items() if name != part}
    with pytest.raises(ConsentRejected, match=part):
        consent.check_notice(notice)
    with pytest.raises(ConsentRejected, match="notice"):
        w.request_record(notice=notice)


BAD_VALUES: list[tuple[str, Any, str]] = [
    ("grantors", [], "grantors"), ("grantors", "firm", "grantors"), ("recipient", "*", "recipient"),
    ("onward_transfer", True, "onward_transfer"), ("fetch", "ALWAYS", "fetch"), ("fetch", "PERIODIC", "frequency"),
    ("max_uses", 2, "max_uses 1"), ("data_life_days", -1, "data_life_days"), ("notice_language", "English", "language"),
    ("consent_action", "ticked", "consent_action"), ("consent_action", "attested", "attested"),
    ("channel", "pigeon", "channel"), ("frequency", "monthly", "frequency"),
    ("expires_at", "2026-07-02T00:00:00Z", "30 days"), ("data_from", "2026-13-01", "data_from"),
    ("signer_role", "shareholder", "first grantor"), ("signer_key", "0" * 64, "first grantor"), ("version", 3, "version"),
    ("recipient_licence", "", "recipient_licence"), ("all", True, "names"),
    ("power_of_attorney_digest", "0" * 64, "power"),
]  # fmt: skip


@pytest.mark.rule("R09")
@pytest.mark.parametrize(("key", "value", "why"), BAD_VALUES, ids=[f"{k}-{v}" for k, v, _ in BAD_VALUES])
def test_a_value_outside_the_second_schema_is_refused_though_it_is_signed(key: str, value: Any, why: str) -> None:
    record = w.full_record()
    assert consent.check_consent(w.signed_by(record), KEYS) == record
    with pytest.raises(ConsentRejected, match=why):
        consent.check_consent(w.signed_by(record | {key: value}), KEYS)


def _ask_person(**changes: Any) -> tuple[dict[str, Any], decision.ReleaseRequest]:
    fields = ["contact_phone", "staff_count"]
    record = w.full_record(w.FIRM, PERSON, fields=fields, necessity_text="to call", impact_text="a call", **changes)
    return record, w.request_of(*fields, purpose="P2", mode="PLAINTEXT")


@pytest.mark.rule("R09")
def test_a_seal_does_not_give_away_a_persons_own_data_and_the_persons_signature_does() -> None:
    alone = w.full_record(fields=["contact_phone", "staff_count"])
    both, request = _ask_person()
    subject = w.subject_of(w.FIRM)
    for record, is_given in ((alone, False), (both, True)):
        registry = w.registry_of(record)
        decided = decision.decide_firm(subject, request.fields, request, registry, w.NOW, w.CATALOGUE)
        assert decided.allow is is_given


@pytest.mark.rule("R37")
def test_every_grantor_signs_and_none_for_another() -> None:
    record, _ = _ask_person()
    assert consent.check_consent(w.signed_by(record, w.FIRM, PERSON), KEYS, KINDS) == record
    for firms in ((w.FIRM,), (PERSON,), (w.FIRM, w.FIRM), (PERSON, w.FIRM), (w.FIRM, PERSON, w.SOLE_TRADER)):
        with pytest.raises(SignatureRejected):
            consent.check_consent(w.signed_by(record, *firms), KEYS, KINDS)
    with pytest.raises(ConsentRejected, match="registered"):
        consent.check_consent(w.signed_by(record, w.FIRM, PERSON), w.firm_keys(w.FIRM))


@pytest.mark.rule("R04")
def test_a_person_who_signed_beside_the_firm_withdraws_alone(provider: w.Provider) -> None:
    record, _ = _ask_person()
    provider.register.import_records([w.signed_by(record, w.FIRM, PERSON)])
    withdrawn = w.revocation_record(PERSON)
    provider.register.revoke(w.signed(withdrawn, PERSON))
    assert provider.register.registry().state_of("consent-1", w.NOW) == "REVOKED"


@pytest.mark.rule("R37")
@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"role": "agent"}, "power of attorney"),
        ({"subject_type": "ENT"}, "natural persons"),
        ({"subject_key": w.subject_of(w.FIRM)}, "twice"),
        ({"identity_proof": {"method": "face"}}, "grantors"),
    ],
)
def test_a_grantor_without_its_power_or_proof_is_refused(change: dict[str, Any], why: str) -> None:
    record, _ = _ask_person()
    with pytest.raises(ConsentRejected, match=why):
        consent.check_consent_record(record | {"grantors": [record["grantors"][0], record["grantors"][1] | change]})


ACTS: list[tuple[str, Callable[..., dict[str, Any]], dict[str, Any], str]] = [
    ("paused", consent.make_pause, {}, "PAUSED"),
    ("resumed", consent.make_pause, {"is_pause": False}, "ACTIVE"),
]


def test_a_paused_consent_opens_nothing_until_it_is_resumed(provider: w.Provider) -> None:
    provider.register.import_records([w.signed_by(w.full_record())])
    request = w.request_of("staff_count", purpose="P2", mode="PLAINTEXT")
    contract = w.contract_of(purpose="P2")
    for second, (_, make, how, state) in enumerate(ACTS):
        at = f"2026-06-01T00:00:0{second}Z"
        provider.register.import_records([w.signed_by(w.act_record(make, at=at, **how))])
        assert provider.register.registry().state_of("consent-1", w.NOW) == state
        if state == "PAUSED":
            with pytest.raises(GateRefused) as refused:
                provider.boundary.release(contract, request, [w.FIRM], {"staff_count": [1]})
            assert refused.value.rule == "R38"
    assert provider.boundary.release(contract, request, [w.FIRM], {"staff_count": [1]}).firms == (w.FIRM,)


def test_one_grantors_pause_is_not_anothers_to_end(provider: w.Provider) -> None:
    record, _ = _ask_person()
    provider.register.import_records([w.signed_by(record, w.FIRM, PERSON)])
    provider.register.import_records([w.signed_by(w.act_record(consent.make_pause, PERSON), PERSON)])
    provider.register.import_records([w.signed_by(w.act_record(consent.make_pause, is_pause=False))])
    assert provider.register.registry().state_of("consent-1", w.NOW) == "PAUSED"


def test_a_pause_of_anothers_consent_is_refused(provider: w.Provider) -> None:
    provider.register.import_records([w.signed_by(w.full_record())])
    stolen = w.act_record(consent.make_pause, w.SOLE_TRADER)
    with pytest.raises(ConsentRejected, match="has not given"):
        provider.register.import_records([w.signed_by(stolen, w.SOLE_TRADER)])


def _refusal(**changes: Any) -> dict[str, Any]:
    return w.signed_by(w.act_record(consent.make_refusal, recipient="bank-1", purpose="P2", **changes))


@pytest.mark.rule("R17")
def test_who_refused_is_not_asked_again_for_thirty_days(provider: w.Provider) -> None:
    provider.register.import_records([w.asked(w.request_record())])
    provider.register.import_records([_refusal()])
    assert provider.register.registry().state_of("consent-1", w.NOW) == "REFUSED"
    times = {"not_before": "2026-07-02T00:00:00Z", "expires_at": "2026-07-20T00:00:00Z", "consent_id": "consent-2"}
    again = w.request_record(created_at="2026-06-30T23:59:59Z", **times)
    provider.clock.time = "2026-07-01T00:00:00Z"
    with pytest.raises(ConsentRejected, match="R17"):
        provider.register.import_records([w.asked(again)])
    other = w.request_record(created_at="2026-06-30T23:59:59Z", **times | {"purpose": "P1", "consent_id": "consent-3"})
    provider.register.import_records([w.asked(other)])
    provider.register.import_records([w.asked(w.request_record(created_at="2026-07-01T00:00:00Z", **times))])
    assert provider.register.registry().state_of("consent-2", LATER) == "REQUESTED"


STATES: list[tuple[str, dict[str, Any], str, int, str]] = [
    ("live", {}, LATER, 0, "ACTIVE"),
    ("before its time", {"not_before": "2026-06-10T00:00:00Z"}, LATER, 0, "PAUSED"),
    ("at its end", {}, "2026-06-30T00:00:00Z", 0, "EXPIRED"),
    ("used once", {}, LATER, 1, "USED_UP"),
    ("used up and past its end", {}, "2026-06-30T00:00:00Z", 1, "EXPIRED"),
]


@pytest.mark.rule("R38")
@pytest.mark.parametrize(("why", "changes", "now", "used", "state"), STATES, ids=[row[0] for row in STATES])
def test_a_consent_is_in_one_of_eight_states(
    why: str, changes: dict[str, Any], now: str, used: int, state: str
) -> None:
    assert w.registry_of(w.full_record(**changes)).state_of("consent-1", now, used) == state


def test_a_consent_that_a_newer_one_took_the_place_of_is_invalid_and_so_is_an_unknown_id() -> None:
    newer = w.full_record(consent_id="consent-2", supersedes="consent-1")
    registry = w.registry_of(w.full_record(), newer)
    assert [registry.state_of(name, LATER) for name in ("consent-1", "consent-2", "consent-3")] == [
        "INVALID", "ACTIVE", "INVALID",
    ]  # fmt: skip


def _attested(**changes: Any) -> dict[str, Any]:
    proof = {"method": "eid", "verifier": "bank-1", "result": "passed", "time": w.NOW, "evidence_digest": "e" * 64}
    named = {"institution": "bank-1", "key": w.BANK_KEY.public_hex, "method": "qualified e-signature", "time": w.NOW}
    first = w.grantor_of(w.FIRM, identity_proof=proof) | {"key": w.BANK_KEY.public_hex}
    flags = {"separate_consent": False, "written": False}
    request = w.request_record(**{"recipient": "bank-2"} | changes)
    attestation = named | {"evidence_digest": "e" * 64}
    return consent.answer_request(request, [first], w.NOW, **flags, attestation=attestation)


@pytest.mark.rule("R37")
def test_an_attestation_counts_where_its_institution_was_given_that_power(provider: w.Provider, tmp_path: Path) -> None:
    signed = signing.sign_record(_attested(), [("bank-1", w.BANK_KEY)])
    provider.register.import_records([signed])
    assert provider.register.registry().state_of("consent-1", w.NOW) == "ACTIVE"
    assert consent.check_consent(signed, provider.store.firm_keys()) == signed["record"]
    (tmp_path / "careful").mkdir()
    careful = w.Provider(tmp_path / "careful", w.FIRM, attesting=())
    with pytest.raises(ConsentRejected, match="attesting"):
        careful.register.import_records([signed])
    assert party_subject("bank-1", w.BANK_KEY.public_hex) not in careful.store.firm_keys()
    careful.store.close()


@pytest.mark.rule("R37")
def test_an_attestation_under_another_key_or_by_the_firm_itself_is_refused(provider: w.Provider) -> None:
    for key, label in ((w.key_of(w.FIRM), "bank-1"), (w.BANK_KEY, "bank-2")):
        with pytest.raises(CryptoError):
            provider.register.import_records([signing.sign_record(_attested(), [(label, key)])])
    own = _attested()
    own["attestation"] = own["attestation"] | {"key": w.key_of(w.FIRM).public_hex}
    with pytest.raises(CryptoError):
        provider.register.import_records([w.signed_by(own)])
    assert provider.register.epoch == 0


def test_a_request_by_someone_who_is_no_party_is_refused(provider: w.Provider) -> None:
    stranger = w.request_record(key=w.key_of(w.FIRM).public_hex)
    with pytest.raises(ConsentRejected, match="registered"):
        provider.register.import_records([signing.sign_record(stranger, [("bank-1", w.key_of(w.FIRM))])])


LATE: list[tuple[str, str, dict[str, Any], str]] = [
    ("from the future", "2026-05-31T23:59:29Z", {}, "future"),
    ("expired", "2026-06-30T00:00:00Z", {}, "R38"),
    ("another provider's", w.NOW, {"provider": "platform-b"}, "another provider"),
    ("over-scoped", w.NOW, {"purpose": "P6", "fields": ["legal_rep_name"], "max_uses": 1}, "R01"),
    ("of a field that no catalogue has", w.NOW, {"fields": ["no_such_field"]}, "R01"),
]


@pytest.mark.rule("R01")
@pytest.mark.parametrize(("why", "now", "changes", "text"), LATE, ids=[row[0] for row in LATE])
def test_what_is_out_of_time_or_scope_does_not_come_in(
    provider: w.Provider, why: str, now: str, changes: dict[str, Any], text: str
) -> None:
    provider.clock.time = now
    with pytest.raises(ConsentRejected, match=text):
        provider.register.import_records([w.signed_by(w.full_record(**changes))])
    assert provider.register.epoch == 0


@pytest.mark.rule("R38")
def test_a_consent_of_the_first_version_is_held_to_its_purposes_ceiling_too(provider: w.Provider) -> None:
    record = w.consent_record(purpose="P2", max_uses=1)
    with pytest.raises(ConsentRejected, match="30 days"):
        provider.register.import_records([w.signed(record)])


@pytest.mark.rule("R04")
def test_a_consent_older_than_a_withdrawal_of_the_same_scope_stays_out(provider: w.Provider) -> None:
    provider.register.import_records([w.signed_by(w.full_record())])
    provider.register.revoke(w.signed(w.revocation_record(revoked_at="2026-06-01T00:00:01Z")))
    with pytest.raises(ConsentRejected, match="older"):
        provider.register.import_records([w.signed_by(w.full_record(consent_id="consent-2"))])


def test_a_leaf_names_the_snapshot_by_which_any_state_is_proved(provider: w.Provider) -> None:
    provider.register.import_records([w.signed_by(w.full_record())])
    leaf = canonical.decode(list(provider.store.leaves())[-1])
    made, digest = provider.register.snapshot(w.NOW), bytes.fromhex(canonical.record_hash(w.full_record()))
    assert (made.root.hex(), leaf["snapshot_at"]) == (leaf["snapshot_root"], w.NOW)
    snapshot.verify_present(made.root, "consent-1", snapshot_value("ACTIVE", digest), made.prove("consent-1"))
    snapshot.verify_absent(made.root, "consent-9", made.prove("consent-9"))
    provider.register.revoke(w.signed(w.revocation_record()))
    ended = canonical.decode(list(provider.store.leaves())[-1])["snapshot_root"]
    assert provider.register.publish_snapshot(w.NOW) == ended != leaf["snapshot_root"]
    assert canonical.decode(list(provider.store.leaves())[-1])["epoch"] == 2


def test_a_register_over_the_same_store_has_the_same_state(provider: w.Provider) -> None:
    provider.register.import_records([w.asked(w.request_record()), w.signed_by(w.full_record())])
    provider.register.import_records([w.signed_by(w.act_record(consent.make_pause))])
    fresh = consent.ConsentRegister(provider.store, provider.ledger)
    assert fresh.registry() == provider.register.registry()
    assert (
        Registry.from_records(
            [canonical.decode_fragment(line) for line in provider.store.iterate_registry()],
            3,
            provider.store.firm_keys(),
        ).state_of("consent-1", w.NOW)
        == "PAUSED"
    )


def test_firm_keys_that_are_none_are_a_users_mistake(provider: w.Provider) -> None:
    with pytest.raises(InputFault, match="64 lower-case"):
        provider.register.register_firm_keys({"firm": "key"})


optional = st.fixed_dictionaries(
    {},
    optional={
        "channel": st.sampled_from(["web", "app", "paper"]), "data_from": st.just("2020-01-31"),
        "recipient_licence": st.just("B0001"), "product_code": st.just("信用贷"), "application_ref": st.just("a/1"),
        "necessity_text": st.just("必要"), "impact_text": st.just("x"),
        "fields": st.sets(st.sampled_from(sorted(w.CATALOGUE)), min_size=1, max_size=4),
    },
)  # fmt: skip


@pytest.mark.rule("R37")
@cases(per_example=8)
@given(optional, st.booleans(), st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), min_size=8, max_size=8))
def test_what_verifies_is_byte_for_byte_what_was_signed_and_a_changed_byte_is_refused(
    changes: dict[str, Any], is_joint: bool, flips: list[tuple[int, int]]
) -> None:
    firms = (w.FIRM, PERSON) if is_joint else (w.FIRM,)
    line = canonical.encode(w.signed_by(w.full_record(*firms, **changes), *firms))
    check_registered(check_line(line).signers, KEYS)
    assert canonical.encode(canonical.decode_fragment(line)) == line
    for at, flip in flips:
        place = at % len(line)
        changed = line[:place] + bytes([line[place] ^ flip]) + line[place + 1 :]
        with pytest.raises(CryptoError):
            check_registered(check_line(changed).signers, KEYS)
