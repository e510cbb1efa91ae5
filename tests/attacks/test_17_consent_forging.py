"""Attack 17: make the gate believe in a consent that the firm never gave.

The attacker holds everything but the firm's secret key: another firm's key, the firm's real consent, and the import
file. Each row of `FORGERIES` is a consent it hands in; each row of `MISUSES` a real consent used for something else;
each row of `TRICKS` bytes that a laxer reader takes for one. Every test first shows the attack succeeding where its
defence is off: signatures not verified, the live and scope rules not asked, plain JSON read, spellings not compared.
"""

import hmac
import json
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import consents as w
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lianxin.crypto import canonical
from lianxin.crypto.errors import CryptoError, EncodingRejected, SignatureRejected
from lianxin.federation.errors import GateRefused, InputFault
from lianxin.parties import consent, decision
from lianxin.parties.decision import ConsentRejected, Registry

VICTIM, THIEF = w.FIRM, "91110000MA00000000"
FIELDS = ("staff_count",)
COLUMNS = {name: [1] for name in w.CATALOGUE}
Signed = dict[str, Any]


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[w.Provider]:
    made = w.Provider(tmp_path, VICTIM, THIEF)
    yield made
    made.store.close()


def take(provider: w.Provider, *fields: str, **request: Any) -> tuple[str, ...]:
    asked = w.request_of(*(fields or FIELDS), **request)
    contract = w.contract_of(purpose=asked.purpose, parties=[{"party": n} for n in ("platform-a", "bank-1", "bank-2")])
    return provider.boundary.release(contract, asked, [VICTIM], COLUMNS).firms


def genuine() -> Signed:
    return w.signed(w.consent_record(fields=["pwr_kwh_12m"]), VICTIM)


def _altered(**changes: Any) -> Signed:
    real = genuine()
    return {"record": real["record"] | changes, "signatures": real["signatures"]}


def _signed_by_thief(**changes: Any) -> Signed:
    return w.signed(w.consent_record(VICTIM, **changes), THIEF)


FORGERIES: list[tuple[str, type[Exception], Callable[[], Signed]]] = [
    ("wrong key", SignatureRejected, _signed_by_thief),
    ("wrong key, named as signer", ConsentRejected,
     lambda: _signed_by_thief(signer_key=w.key_of(THIEF).public_hex)),
    ("wrong key, under the victim's name", SignatureRejected,
     lambda: {**_signed_by_thief(), "signatures": [
         _signed_by_thief()["signatures"][0] | {"key": w.key_of(VICTIM).public_hex}]}),
    ("the victim's signature and the thief's", SignatureRejected,
     lambda: {**_signed_by_thief(), "signatures": genuine()["signatures"] + _signed_by_thief()["signatures"]}),
    ("no signature", SignatureRejected, lambda: {**_signed_by_thief(), "signatures": []}),
    ("more fields under the real signature", SignatureRejected, lambda: _altered(fields=["staff_count"])),
    ("a longer life under the real signature", SignatureRejected,
     lambda: _altered(fields=["staff_count"], expires_at="2099-01-01T00:00:00Z")),
    ("another recipient under the real signature", SignatureRejected,
     lambda: {**w.signed(w.consent_record(recipient="bank-2")), "record": w.consent_record()}),
    ("a revocation's signature", SignatureRejected,
     lambda: {"record": w.consent_record(), "signatures": w.signed(w.revocation_record())["signatures"]}),
    ("a key that the schema does not know", ConsentRejected, lambda: w.signed(w.consent_record() | {"all": True})),
]  # fmt: skip


@pytest.mark.rule("R37")
@pytest.mark.parametrize(("why", "error", "forge"), FORGERIES, ids=[why for why, _, _ in FORGERIES])
def test_a_forged_consent_is_not_imported_and_opens_nothing(
    provider: w.Provider, why: str, error: type[Exception], forge: Callable[[], Signed]
) -> None:
    unverified = Registry.from_records([forge()], 1, {}, verify=False)
    subject, request = w.subject_of(VICTIM), w.request_of(*FIELDS)
    assert decision.decide_firm(subject, FIELDS, request, unverified, w.NOW, w.CATALOGUE).consents == ("consent-1",)
    with pytest.raises(error):
        provider.register.import_records([forge()])
    with pytest.raises(GateRefused):
        take(provider)
    assert provider.register.epoch == 0


MISUSES: list[tuple[str, str, dict[str, Any], tuple[str, ...], dict[str, Any]]] = [
    ("wrong recipient", "R39", {}, FIELDS, {"recipient": "bank-2"}),
    ("other purpose", "R39", {}, FIELDS, {"purpose": "P5"}),
    ("superset of fields", "R03", {}, (*FIELDS, "total_assets"), {}),
    ("wider mode", "R03", {}, FIELDS, {"mode": "PLAINTEXT"}),
    ("expired", "R38", {"expires_at": "2026-05-31T23:59:59Z"}, FIELDS, {}),
    ("expired this second", "R38", {"expires_at": w.NOW}, FIELDS, {}),
    ("not yet begun", "R38", {"not_before": "2026-06-01T00:00:01Z"}, FIELDS, {}),
    ("signed by an agent without power", "R37", {"signer_role": "agent"}, FIELDS, {}),
]


@pytest.mark.rule("R03")
@pytest.mark.parametrize(("why", "rule", "given_", "fields", "asked"), MISUSES, ids=[row[0] for row in MISUSES])
def test_a_real_consent_opens_nothing_that_it_does_not_name(
    provider: w.Provider,
    monkeypatch: pytest.MonkeyPatch,
    why: str,
    rule: str,
    given_: dict[str, Any],
    fields: tuple[str, ...],
    asked: dict[str, Any],
) -> None:
    provider.give(VICTIM, **given_)
    with pytest.raises(GateRefused) as refusal:
        take(provider, *fields, **asked)
    assert refusal.value.rule == rule
    monkeypatch.setattr(decision.Judge, "decide_firm", lambda *_: decision.Decision(True, "CONSENT"))
    assert take(provider, *fields, **asked) == (VICTIM,)


def _twice(data: bytes) -> bytes:
    return data.replace(b'"mode":"SCORE_ONLY"', b'"mode":"SCORE_ONLY","mode":"PLAINTEXT"')


def _decomposed(_: bytes) -> bytes:
    named = w.consent_record(withdrawal_method="Café 信用")
    text = json.dumps({"record": named, "signatures": []}, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return unicodedata.normalize("NFD", text).encode()


TRICKS: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("one key twice", _twice),
    ("NFD text", _decomposed),
    ("spaces", lambda data: data.replace(b":", b": ", 1)),
    ("an escape", lambda data: data.replace(b"bank-1", b"\\u0062ank-1")),
    ("another order of keys", lambda data: json.dumps(dict(reversed(json.loads(data).items()))).encode()),
    ("a float", lambda data: data.replace(b'"version":1', b'"version":1.0')),
    ("a trailing line", lambda data: data + b"\n"),
]


@pytest.mark.parametrize(("why", "trick"), TRICKS, ids=[why for why, _ in TRICKS])
def test_bytes_that_read_as_a_consent_but_are_not_its_encoding_are_refused(
    why: str, trick: Callable[[bytes], bytes]
) -> None:
    tricked = trick(canonical.encode(w.signed(w.consent_record())))
    assert json.loads(tricked)["record"]["type"] == "consent"
    with pytest.raises(EncodingRejected):
        consent.decode_signed(tricked)


def test_a_key_twice_would_widen_the_mode_of_a_reader_that_takes_the_last() -> None:
    tricked = _twice(canonical.encode(w.signed(w.consent_record())))
    assert json.loads(tricked)["record"]["mode"] == "PLAINTEXT"


SPELLINGS = [
    ("lower case", VICTIM.lower()),
    ("full width", "９" + VICTIM[1:]),
    ("blank at the end", VICTIM + "\u3000"),
]


@pytest.mark.parametrize(("why", "spelling"), SPELLINGS, ids=[why for why, _ in SPELLINGS])
def test_a_second_spelling_of_the_code_would_be_a_subject_that_the_thief_can_sign_for(
    provider: w.Provider, why: str, spelling: str
) -> None:
    naive = hmac.digest(w.SECRET, spelling.encode(), "sha256").hex()
    assert naive != w.subject_of(VICTIM)
    with pytest.raises(InputFault):
        w.subject_of(spelling)
    size = provider.ledger.size
    with pytest.raises(InputFault):
        provider.boundary.release(w.contract_of(), w.request_of(*FIELDS), [spelling], COLUMNS)
    assert provider.ledger.size == size


def test_a_look_alike_code_is_another_firm_whose_consent_opens_nothing_of_the_victims(provider: w.Provider) -> None:
    look_alike = "\u0417" + VICTIM[1:]
    provider.register.register_firm_keys({w.subject_of(look_alike): w.key_of(THIEF).public_hex})
    record = w.consent_record(look_alike, signer_key=w.key_of(THIEF).public_hex, subject_type="ENT")
    assert provider.register.import_records([w.signed(record, THIEF)]) == 1
    with pytest.raises(GateRefused):
        take(provider)
    moved = w.signed(record | {"subject_key": w.subject_of(VICTIM), "consent_id": "consent-2"}, THIEF)
    with pytest.raises(ConsentRejected):
        provider.register.import_records([moved])


def test_a_look_alike_field_is_refused_by_the_schema() -> None:
    with pytest.raises(ConsentRejected, match=r"^fields"):
        w.consent_record(fields=["st\u0430ff_count"])


REAL = canonical.encode(w.signed(w.consent_record(max_uses=3, **w.PERSON)))
KEYS = w.firm_keys(VICTIM)
values = st.none() | st.booleans() | st.integers(-2, 2**54) | st.text(max_size=12) | st.lists(st.text(max_size=8))
edits = st.tuples(st.integers(0, len(REAL) - 1), st.integers(0, 2), st.binary(min_size=1, max_size=3))


def _is_accepted(data: bytes) -> bool:
    try:
        consent.check_consent(consent.decode_signed(data), KEYS)
    except CryptoError:
        return False
    return True


@settings(max_examples=1000, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(edits, min_size=1, max_size=3))
def test_no_change_of_bytes_leaves_a_consent_that_verifies(changes: list[tuple[int, int, bytes]]) -> None:
    data = REAL
    for place, removed, inserted in changes:
        data = data[:place] + inserted + data[place + removed :]
    assert _is_accepted(REAL)
    assert not _is_accepted(data) or data == REAL or _differs_in_signer_only(data)


def _differs_in_signer_only(data: bytes) -> bool:
    """Return whether only the signer's id, a label that no rule reads, is another; `data` was accepted."""
    changed, real = json.loads(data), json.loads(REAL)
    return (
        changed["record"] == real["record"]
        and [{**entry, "signer": "firm"} for entry in changed["signatures"]] == real["signatures"]
    )


@settings(max_examples=1000, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from([*sorted(json.loads(REAL)["record"]), "extra"]), values, st.booleans())
def test_what_verifies_re_encodes_to_the_bytes_that_were_signed(key: str, value: Any, is_dropped: bool) -> None:
    signed = json.loads(REAL)
    if is_dropped:
        signed["record"].pop(key, None)
    else:
        signed["record"][key] = value
    try:
        record = consent.check_consent(signed, KEYS)
    except CryptoError:
        return
    assert canonical.encode({"record": record, "signatures": signed["signatures"]}) == REAL
