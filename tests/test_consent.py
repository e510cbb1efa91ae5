"""Consents and revocations: their closed schema, and a registry that takes all of a list or nothing."""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import consents as w
import pytest

from lianxin.crypto import canonical
from lianxin.crypto.errors import EncodingRejected, SignatureRejected
from lianxin.federation.errors import EvidenceRejected, InputFault
from lianxin.parties import consent
from lianxin.parties.decision import ConsentRejected
from lianxin.parties.decision_signers import keys_root

FIRMS = (w.FIRM, w.SOLE_TRADER)


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[w.Provider]:
    made = w.Provider(tmp_path, *FIRMS)
    yield made
    made.store.close()


def leaves(provider: w.Provider) -> list[dict[str, Any]]:
    """Return the leaves about the registry; the one about its firms' keys came before."""
    return [leaf for leaf in map(canonical.decode, provider.store.leaves()) if leaf["kind"] != "firm-keys"]


def test_a_subject_key_is_keyed_and_tells_nothing_without_the_secret() -> None:
    key = w.subject_of(w.FIRM)
    assert len(key) == 64 and key != consent.subject_key(b"other secret", w.FIRM)


@pytest.mark.parametrize("spelling", [w.FIRM.lower(), w.FIRM + " ", "９" + w.FIRM[1:], "Cafe\u0301"])
def test_a_second_spelling_of_an_identifier_is_no_second_subject(spelling: str) -> None:
    with pytest.raises(InputFault, match="normal form"):
        w.subject_of(spelling)


def test_a_signed_consent_is_checked_and_returned() -> None:
    record = w.consent_record()
    assert consent.check_consent(w.signed(record), w.firm_keys(w.FIRM)) == record


def test_nothing_is_ticked_beforehand() -> None:
    record = w.consent_record()
    assert (record["separate_consent"], record["written"]) == (False, False)
    assert "necessity_text" not in record


BAD_VALUES = [
    ("type", "revocation"), ("version", 2), ("consent_id", "C1"), ("created_at", "2026-13-01T00:00:00Z"),
    ("created_at", "2026-01-01"), ("jurisdiction", "XX"), ("language", "Chinese"), ("subject_key", "A" * 64),
    ("subject_type", "ALL"), ("signer_role", "friend"), ("signer_key", "0" * 63), ("notice_id", " "),
    ("notice_hash", ""), ("separate_consent", 1), ("written", "yes"), ("consent_action", "ticked"),
    ("provider", "Platform A"), ("recipient", "*"), ("recipient", "platform-a"), ("purpose", "P9"), ("fields", []),
    ("fields", ["b", "a"]), ("fields", ["a", "a"]), ("fields", "a"), ("fields", [1]), ("fields", ["*"]),
    ("fields", ["stаff_count"]), ("catalogue_version", 1), ("mode", "ANY"), ("onward_transfer", True),
    ("onward_transfer", 0), ("not_before", "2025-12-31T00:00:00Z"), ("expires_at", "2026-01-01T00:00:00Z"),
    ("withdrawal_method", ""), ("max_uses", 0), ("max_uses", True), ("supersedes", "?"), ("necessity_text", ""),
    ("note", "a key that is not known"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), BAD_VALUES)
def test_a_value_outside_the_schema_is_refused_though_the_firm_signed_it(key: str, value: Any) -> None:
    signed = w.signed(w.consent_record())
    assert consent.check_consent(signed, w.firm_keys(w.FIRM))
    odd = w.signed(w.consent_record() | {key: value})
    with pytest.raises(ConsentRejected):
        consent.check_consent(odd, w.firm_keys(w.FIRM))


@pytest.mark.parametrize("key", sorted(w.consent_record()))
def test_a_missing_key_is_refused_and_named(key: str) -> None:
    record = {name: value for name, value in w.consent_record().items() if name != key}
    with pytest.raises(ConsentRejected, match=f"^{key} "):
        consent.check_consent_record(record)


@pytest.mark.parametrize("key", sorted(w.revocation_record()))
def test_a_revocation_with_a_missing_key_is_refused(key: str) -> None:
    record = {name: value for name, value in w.revocation_record().items() if name != key}
    with pytest.raises(ConsentRejected):
        consent.check_revocation({"record": record, "signatures": []}, w.firm_keys(w.FIRM))


def test_an_import_of_many_is_one_leaf_over_the_whole_registry(provider: w.Provider) -> None:
    records = [w.signed(w.consent_record(firm, consent_id=f"consent-{i}"), firm) for i, firm in enumerate(FIRMS)]
    assert provider.register.import_records(records) == provider.register.epoch == 2
    [leaf] = leaves(provider)
    assert (leaf["kind"], leaf["epoch"], len(leaf["registry_root"])) == ("registry", 2, 64)
    assert set(provider.register.registry().consents) == {"consent-0", "consent-1"}


def test_an_import_of_one_names_its_record(provider: w.Provider) -> None:
    record = w.consent_record()
    provider.register.import_records([w.signed(record)])
    assert leaves(provider)[0]["record_hash"] == canonical.record_hash(record)


def _with_bad_signature(good: dict[str, Any]) -> dict[str, Any]:
    return {"record": good["record"], "signatures": [good["signatures"][0] | {"signature": "0" * 128}]}


BAD_LISTS: list[tuple[str, type[Exception], Callable[[dict[str, Any]], Any]]] = [
    ("a bad signature", SignatureRejected, _with_bad_signature),
    ("an id that is taken", ConsentRejected, lambda good: w.signed(w.consent_record(mode="PLAINTEXT"))),
    ("a revocation of nothing", ConsentRejected, lambda good: w.signed(w.revocation_record(consent_id="consent-7"))),
    ("an unregistered firm", ConsentRejected, lambda good: w.signed(w.consent_record("firm-9"), "firm-9")),
    ("something else", ConsentRejected, lambda good: {"record": []}),
    ("nothing", ConsentRejected, lambda good: "consent"),
]


@pytest.mark.parametrize(("why", "error", "bad"), BAD_LISTS, ids=[why for why, _, _ in BAD_LISTS])
def test_one_bad_record_keeps_the_whole_list_out(
    provider: w.Provider, why: str, error: type[Exception], bad: Callable[[dict[str, Any]], Any]
) -> None:
    good = w.signed(w.consent_record())
    with pytest.raises(error):
        provider.register.import_records([good, bad(good)])
    assert (provider.register.epoch, leaves(provider), provider.store.registry_records()) == (0, [], [])
    assert provider.register.import_records([good]) == 1


def test_a_ledger_that_fails_leaves_the_registry_as_it_was(
    provider: w.Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(provider.store, "append_leaves", fail)
    with pytest.raises(OSError, match="disk full"):
        provider.give(w.FIRM)
    assert provider.register.registry().consents == {}


def test_one_call_revokes_and_a_second_one_changes_nothing(provider: w.Provider) -> None:
    provider.give(w.FIRM, consent_id="consent-1")
    revocation = w.signed(w.revocation_record())
    assert provider.register.revoke(revocation) == 2
    assert provider.register.revoke(revocation) == 2
    assert provider.register.registry().ended == {"consent-1": "REVOKED"}
    assert [leaf["epoch"] for leaf in leaves(provider)] == [1, 2]


def test_only_the_subjects_own_key_revokes(provider: w.Provider) -> None:
    provider.give(w.FIRM, consent_id="consent-1")
    stolen = w.signed(w.revocation_record(signer_key=w.key_of(w.SOLE_TRADER).public_hex), w.SOLE_TRADER)
    with pytest.raises(ConsentRejected):
        provider.register.revoke(stolen)
    assert provider.register.registry().ended == {}


def test_a_register_over_an_old_store_knows_all_of_it(provider: w.Provider) -> None:
    provider.give(w.FIRM)
    fresh = consent.ConsentRegister(provider.store, provider.ledger)
    assert fresh.registry() == provider.register.registry()
    assert fresh.registry() is fresh.registry()


def test_a_store_of_yesterday_is_noticed(provider: w.Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    provider.give(w.FIRM)
    assert provider.register.epoch == 1
    monkeypatch.setattr(provider.store, "registry_epoch", lambda: 0)
    with pytest.raises(EvidenceRejected, match="shorter"):
        provider.register.registry()


def test_firm_keys_of_another_form_or_a_changed_key_are_refused(provider: w.Provider) -> None:
    for keys in ({"firm": "0" * 64}, {w.subject_of(w.FIRM): "0" * 64}, {w.subject_of("x1"): "F" * 64}):
        with pytest.raises(InputFault):
            provider.register.register_firm_keys(keys)


def test_a_withdrawal_waits_while_the_registry_is_held(provider: w.Provider) -> None:
    provider.give(w.FIRM, consent_id="consent-1")
    revocation = w.signed(w.revocation_record())
    with provider.register.held() as registry:
        withdrawal = threading.Thread(target=provider.register.revoke, args=(revocation,))
        withdrawal.start()
        withdrawal.join(timeout=0.2)
        assert withdrawal.is_alive() and provider.store.registry_epoch() == registry.epoch == 1
    withdrawal.join()
    assert provider.register.epoch == 2


def test_signed_bytes_are_read_only_in_their_canonical_form() -> None:
    signed = w.signed(w.consent_record())
    assert consent.decode_signed(canonical.encode(signed)) == signed
    with pytest.raises(EncodingRejected):
        consent.decode_signed(json.dumps(signed).encode())


def test_keys_of_a_store_that_named_none_are_named_once_at_the_next_start(tmp_path: Path) -> None:
    provider = w.Provider(tmp_path)
    provider.store.add_firm_keys(w.firm_keys(*FIRMS))
    for _ in range(2):
        provider.register.name_keys()
    (leaf,) = [leaf for leaf in map(canonical.decode, provider.store.leaves()) if leaf["kind"] == "firm-keys"]
    assert leaf["keys"] == len(FIRMS) and leaf["keys_root"] == keys_root(provider.store.firm_keys(), {})
    provider.store.close()
