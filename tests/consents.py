"""A made-up provider with its firms' keys: consents, contracts and a gate for the tests, in one line each."""

from pathlib import Path
from typing import Any

from lianxin.crypto import signing
from lianxin.crypto.randomness import Drbg, derive_seed
from lianxin.parties import consent
from lianxin.parties.boundary import Boundary
from lianxin.parties.catalogue import load_draft
from lianxin.parties.decision import Registry, ReleaseRequest
from lianxin.parties.identifiers import subject_type_of
from lianxin.parties.ledger import Ledger
from lianxin.parties.store import Store

CATALOGUE = load_draft()
SECRET = b"s" * 32
NOW = "2026-06-01T00:00:00Z"
FIRM, SOLE_TRADER = "91110000600037341L", "92350100M000100Y43"
IDENTIFIERS = {"uscc", "contact_phone", "beneficial_owner", "legal_rep_name", "key_person_id_no", "operator_name"}
PERSON = {"separate_consent": True, "necessity_text": "to price the loan", "impact_text": "the loan may be refused"}


class Clock:
    """A clock that stands still until told otherwise."""

    def __init__(self, time: str = NOW) -> None:
        self.time = time

    def now(self) -> str:
        return self.time


def key_of(firm: str) -> signing.SigningKey:
    return signing.SigningKey.from_seed(derive_seed(SECRET, "firm", firm))


def subject_of(firm: str) -> str:
    return consent.subject_key(SECRET, firm)


def firm_keys(*firms: str) -> dict[str, str]:
    return {subject_of(firm): key_of(firm).public_hex for firm in firms}


def kinds_of(*firms: str) -> dict[str, str]:
    """Return which type of subject each of these is registered as; who is called a person is one."""
    return {subject_of(firm): "NP" if firm.startswith("person") else subject_type_of(firm) for firm in firms}


def consent_record(firm: str = FIRM, **changes: Any) -> dict[str, Any]:
    values = {
        "consent_id": "consent-1", "created_at": "2026-01-01T00:00:00Z", "subject_key": subject_of(firm),
        "subject_type": subject_type_of(firm), "signer_key": key_of(firm).public_hex, "provider": "platform-a",
        "recipient": "bank-1", "purpose": "P4", "fields": ["pwr_kwh_12m", "staff_count"], "mode": "SCORE_ONLY",
        "not_before": "2026-01-01T00:00:00Z", "expires_at": "2027-01-01T00:00:00Z", "catalogue_version": "draft",
        "notice_id": "notice-1", "notice_hash": "0" * 64,
    }  # fmt: skip
    return consent.make_consent(**(values | changes))


NOTICE = {
    "type": "notice", "version": 1, "notice_id": "notice-1", "language": "en", "who": "bank-1, 1 Main Street",
    "purpose": "to decide on a loan", "method": "one query", "kinds": "staff and electricity", "retention": "30 days",
    "rights": "withdraw at any time at the platform",
}  # fmt: skip
BANK_KEY = signing.SigningKey.from_seed(b"k" * 32)


def request_record(firm: str = FIRM, **changes: Any) -> dict[str, Any]:
    values = {
        "consent_id": "consent-1", "created_at": NOW, "subject_key": subject_of(firm),
        "subject_type": subject_type_of(firm), "requester": "bank-1", "key": BANK_KEY.public_hex,
        "provider": "platform-a", "recipient": "bank-1", "purpose": "P2", "fields": ["pwr_kwh_12m", "staff_count"],
        "mode": "PLAINTEXT", "not_before": NOW, "expires_at": "2026-06-30T00:00:00Z", "catalogue_version": "draft",
        "notice": NOTICE, "fetch": "ONETIME", "max_uses": 1, "data_life_days": 30,
    }  # fmt: skip
    return consent.make_request(**(values | changes))


def grantor_of(firm: str, **changes: Any) -> dict[str, Any]:
    kind = subject_type_of(firm) if firm in (FIRM, SOLE_TRADER) else "NP"
    role = {} if kind != "NP" else {"role": "legal_rep"}
    return consent.make_grantor(subject_of(firm), kind, key_of(firm).public_hex, **(role | changes))


def full_record(*grantors: str, **changes: Any) -> dict[str, Any]:
    """Return a consent of version 2 by these grantors, the firm first."""
    names = grantors or (FIRM,)
    asked = request_record(names[0], **changes)
    flags = {"separate_consent": len(names) > 1, "written": len(names) > 1}
    return consent.answer_request(asked, [grantor_of(name) for name in names], NOW, **flags)


def signed_by(record: dict[str, Any], *firms: str) -> dict[str, Any]:
    """Return the record signed by each of these grantors under its own subject key."""
    return signing.sign_record(record, [(subject_of(firm), key_of(firm)) for firm in firms or (FIRM,)])


def asked(record: dict[str, Any]) -> dict[str, Any]:
    return signing.sign_record(record, [("bank-1", BANK_KEY)])


def act_record(make: Any, firm: str = FIRM, consent_id: str = "consent-1", **changes: Any) -> dict[str, Any]:
    named = {"subject_key": subject_of(firm), "signer_key": key_of(firm).public_hex, "at": NOW}
    return make(**(named | {"consent_id": consent_id} | changes))


def revocation_record(firm: str = FIRM, consent_id: str = "consent-1", **changes: Any) -> dict[str, Any]:
    values = {"subject_key": subject_of(firm), "signer_key": key_of(firm).public_hex, "revoked_at": NOW}
    return consent.make_revocation(**(values | {"consent_id": consent_id} | changes))


def signed(record: dict[str, Any], firm: str = FIRM) -> dict[str, Any]:
    return signing.sign_record(record, [("firm", key_of(firm))])


def registry_of(*records: dict[str, Any]) -> Registry:
    return Registry.from_records([{"record": record} for record in records], len(records), {}, verify=False)


def contract_of(**changes: Any) -> dict[str, Any]:
    listed = [
        {"provider": "platform-a", "field": name, "use": "identifier" if name in IDENTIFIERS else "feature"}
        for name in CATALOGUE
        if name != "biz_scope"
    ]
    return {
        "type": "run-contract", "version": 1, "run": "run-1", "purpose": "P4", "fields": listed,
        "parties": [{"party": "platform-a"}, {"party": "bank-1"}], "catalogues": {"platform-a": CATALOGUE.digest},
        "min_rows": 50, "min_bads": 10, "min_goods": 10,
        "created_at": "2026-05-01T00:00:00Z", "expires_at": "2026-07-01T00:00:00Z",
    } | changes  # fmt: skip


def request_of(*fields: str, **changes: Any) -> ReleaseRequest:
    values: dict[str, Any] = {
        "provider": "platform-a", "recipient": "bank-1", "purpose": "P4", "mode": "COMPUTE_ONLY", "step": "train",
    }  # fmt: skip
    return ReleaseRequest(**(values | changes), fields=fields)


class Provider:
    """A party with a store in `folder`, and every room between its table and the gate."""

    def __init__(
        self, folder: Path, *firms: str, high_water: bool = False, attesting: tuple[str, ...] | None = None
    ) -> None:
        self.clock = Clock()
        self.store = Store(folder / "store.db")
        self.key = signing.SigningKey.from_seed(b"n" * 32)
        self.ledger = Ledger(self.store, "platform-a", self.key, self.clock, "test", "operator-1")
        parties, catalogue = {"bank-1": BANK_KEY.public_hex, "platform-a": self.key.public_hex}, CATALOGUE
        admission = consent.Admission("platform-a", self.clock, parties, frozenset(attesting or ()), catalogue)
        self.register = consent.ConsentRegister(
            self.store, self.ledger, None if attesting is None else admission,
            folder / "high-water.json" if high_water else None,
        )  # fmt: skip
        self.register.register_firm_keys(firm_keys(*firms), kinds_of(*firms))
        self.register.keep_notice(NOTICE)
        self.boundary = self.gate(self.ledger)

    def gate(self, ledger: Any) -> Boundary:
        drbg = Drbg(b"d" * 32)
        return Boundary("platform-a", CATALOGUE, self.register, ledger, self.clock, SECRET, drbg)

    def give(self, firm: str, **changes: Any) -> int:
        changes = {"consent_id": f"consent-{firm[-8:].lower()}"} | changes
        return self.register.import_records([signed(consent_record(firm, **changes), firm)])
