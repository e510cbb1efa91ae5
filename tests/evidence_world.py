"""A two-party run in little, with real stores, ledgers and signatures; `lies` replace what an honest party would do."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lianxin.crypto import canonical, merkle, signing
from lianxin.parties import auditor, consent
from lianxin.parties.decision_signers import keys_root
from lianxin.parties.ledger import Ledger, Witness
from lianxin.parties.store import Store

RUN, PLATFORM, BANK = "run-1", "platform", "bank-a"
NOW = "2026-05-01T08:00:00Z"
CATALOGUE = (
    b"field_name_en,class,subject_type,id_role,default_release\n"
    b"revenue,BIZ,ENT,NI,AUTH\nregion,PUB,ENT,QI,OPEN\ngenes,BAN,NP,SA,NEVER\nbad_flag,LIM,ENT,SA,OPEN\n"
)
FIELDS = [(PLATFORM, "revenue"), (PLATFORM, "region"), (PLATFORM, "genes"), (BANK, "bad_flag")]
KEYS = {name: signing.SigningKey.from_seed(bytes([n]) * 32) for n, name in enumerate((PLATFORM, BANK, "stranger"))}
FIRMS = {f"{n:064x}": signing.SigningKey.from_seed(bytes([100 + n]) * 32) for n in range(5)}


@dataclass
class SetClock:
    """A clock that shows what it was set to."""

    time: str = NOW

    def now(self) -> str:
        return self.time


def a_contract(**changes: Any) -> dict[str, Any]:
    digest = hashlib.sha256(CATALOGUE).hexdigest()
    record = {
        "type": "run-contract",
        "version": 3,
        "run": RUN,
        "purpose": "P4",
        "platform": PLATFORM,
        "parties": [{"party": p, "role": p[:4], "node_key": KEYS[p].public_hex} for p in (PLATFORM, BANK)],
        "fields": [{"provider": p, "field": f, "use": "feature"} for p, f in FIELDS],
        "catalogues": {PLATFORM: digest, BANK: digest},
        "rounds": 3,
        "spare_attempts": 1,
        "min_rows": 4,
        "created_at": "2026-01-01T00:00:00Z",
        "expires_at": "2026-12-31T00:00:00Z",
        "retain_until": "2027-06-30T00:00:00Z",
        "lawful_basis": "consent",
        "impact_assessment": "pia-1",
        "agreement": "agreement-1",
        **changes,
    }
    return signing.sign_record(record, [(p, KEYS[p]) for p in (PLATFORM, BANK)])


def a_consent(number: int, signer: signing.SigningKey | None = None, **changes: Any) -> dict[str, Any]:
    subject = f"{number:064x}"
    record = consent.make_consent(
        **{
            "consent_id": f"consent-{number}",
            "created_at": "2026-01-01T00:00:00Z",
            "subject_key": subject,
            "subject_type": "ENT",
            "signer_key": FIRMS[subject].public_hex,
            "provider": PLATFORM,
            "recipient": BANK,
            "purpose": "P4",
            "fields": ["revenue", "region"],
            "mode": "COMPUTE_ONLY",
            "not_before": "2026-01-02T00:00:00Z",
            "expires_at": "2026-12-01T00:00:00Z",
            "catalogue_version": "1",
            "notice_id": "notice-1",
            "notice_hash": "0" * 64,
            **changes,
        }
    )
    return signing.sign_record(record, [("firm", signer or FIRMS[subject])])


def a_revocation(number: int) -> dict[str, Any]:
    subject = f"{number:064x}"
    key = FIRMS[subject]
    record = consent.make_revocation(
        consent_id=f"consent-{number}", subject_key=subject, revoked_at=NOW, signer_key=key.public_hex
    )
    return signing.sign_record(record, [("firm", key)])


@dataclass
class Party:
    name: str
    store: Store
    ledger: Ledger
    witness: Witness
    clock: SetClock
    last: dict[tuple[str, str], tuple[int, str]] = field(default_factory=dict)

    def log(self, kind: str, **fields: Any) -> None:
        self.ledger.append({"kind": kind, "run": RUN, **fields})

    def release(self, consents: list[str], listed: list[str] | None = None, **changes: Any) -> str:
        leaf = {
            "kind": "release",
            "run": RUN,
            "provider": self.name,
            "purpose": "P4",
            "mode": "COMPUTE_ONLY",
            "step": "binning.count",
            "round": 0,
            "epoch": self.store.registry_epoch(),
            "contract_hash": canonical.record_hash(a_contract()["record"]),
            "catalogue_hash": hashlib.sha256(CATALOGUE).hexdigest(),
            "refused": [],
            "excluded": [],
            "rows_root": "0" * 64,
            "rows": max(4, len(consents)),
            "consent_root": merkle.root_of(one.encode() for one in sorted(consents)).hex(),
            "consents": len(consents),
            **changes,
        }
        return self.ledger.append_release(leaf, consents if listed is None else listed)[1]


@dataclass
class World:
    """The parties of one run; `story` plays it, with `lies` in place of what an honest party would do."""

    folder: Path
    lies: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.parties = {name: self._party(name) for name in (PLATFORM, BANK)}

    def _party(self, name: str) -> Party:
        store = Store(self.folder / f"{name}.db")
        clock = SetClock()
        ledger = Ledger(store, name, KEYS[name], clock, "lianxin 0.3.0", "operator-1")
        return Party(name, store, ledger, Witness(store, name, KEYS[name]), clock)

    def cross(self, sender: str, recipient: str, kind: str, forms: str, releases: list[str], **how: Any) -> None:
        """Send one envelope: header and signature at the sender, leaves at both ends, except as `how` says."""
        chain = self.parties[sender].last
        conversation = how.get("header", {}).get("conversation", "vertical/a")
        seq, previous = chain.get((conversation, recipient), (0, "0" * 64))
        header = {
            "type": "envelope",
            "version": 1,
            "run": RUN,
            "conversation": conversation,
            "step": "binning.count",
            "round": 0,
            "seq": seq,
            "sender": sender,
            "recipient": recipient,
            "previous": previous,
            "contract": canonical.record_hash(a_contract()["record"]),
            "epoch": 0,
            "expires_at": a_contract()["record"]["expires_at"],
            "message_type": kind,
            "payload_hash": "0" * 64,
            "payload_bytes": 10,
            **how.get("header", {}),
        }
        data = canonical.encode(header)
        signature = KEYS[how.get("signer", sender)].sign("envelope", data)
        chain[conversation, recipient] = (header["seq"] + 1, hashlib.sha256(data).hexdigest())
        leaf = {name: header[name] for name in ("conversation", "step", "round", "seq", "message_type", "payload_hash")}
        leaf |= {"kind": "envelope", "run": RUN, "message_hash": hashlib.sha256(data).hexdigest(), "size_bytes": 10}
        leaf |= {"forms": [{"field": f"{kind}.value", "form": forms}], "decision": "allow", "rule": ""}
        leaf |= {"rows": how.get("rows", 5)} | how.get("leaf", {})
        if "out" not in how.get("unlogged", ()):
            out = {**leaf, "direction": "out", "peer": recipient, "releases": releases}
            self.parties[sender].ledger.append_envelope(out, data, signature)
        if "in" not in how.get("unlogged", ()):
            arrived = {**leaf, "direction": "in", "peer": sender, "releases": []}
            self.parties[recipient].ledger.append_envelope(arrived, data, signature)
        if "refused" in how:
            self.parties[recipient].log(
                "refusal", peer=sender, rule="G02", step=header["step"], message_hash=hash_of(data)
            )

    def story(self) -> Path:
        lies, platform, bank = self.lies, self.parties[PLATFORM], self.parties[BANK]
        for party in (platform, bank):
            self._agree(party)
        keys = {subject: key.public_hex for subject, key in FIRMS.items()}
        platform.store.add_firm_keys(keys)
        if lies.get("keys", {}) is not None:
            platform.log("firm-keys", **(key_leaf(keys) | lies.get("keys", {})))
        platform.ledger.append_registry(lies.get("consents", [a_consent(n) for n in range(4)]))
        platform.ledger.append_registry([lies.get("last consent", a_consent(4))])
        platform.ledger.append_registry([a_revocation(4)])
        platform.ledger.checkpoint()
        if "before release" in lies:
            lies["before release"](self)
        used = {"consents": [f"consent-{n}" for n in range(4)], "recipient": BANK, "fields": ["revenue", "region"]}
        used |= {"refused": [{"field": "genes", "rule": "R20"}]}
        right = platform.release(**(used | lies.get("release", {})))
        label = bank.release(
            [], recipient=PLATFORM, fields=["bad_flag"], **({"mode": "AGGREGATE"} | lies.get("label", {}))
        )
        self.cross(BANK, PLATFORM, "LabelHistogram", "AGGREGATE", [label], **lies.get("aggregate", {}))
        behind = lies.get("releases", [right])
        self.cross(PLATFORM, BANK, "EncryptedLabels", "CIPHERTEXT", behind, **lies.get("ciphertext", {}))
        if "after release" in lies:
            lies["after release"](self)
        self.cross(PLATFORM, BANK, "RunStatus", "CONTROL", [], **lies.get("status", {}))
        bank.witness.keep(platform.ledger.checkpoint(), PLATFORM, KEYS[PLATFORM].public_hex)
        platform.witness.keep(bank.ledger.checkpoint(), BANK, KEYS[BANK].public_hex)
        for party in (platform, bank):
            for event in (lies.get("end", "finished"), "archived"):
                party.log("contract", contract_hash=canonical.record_hash(a_contract()["record"]), event=event, rule="")
        if "after end" in lies:
            lies["after end"](self)
        for party in (platform, bank):
            party.ledger.export(self.folder / "run" / "parties" / party.name)
        return self.folder / "run"

    def _agree(self, party: Party) -> None:
        contract = a_contract()
        party.store.put_run(RUN, "signed", canonical.encode(contract))
        party.store.put_setting("catalogue", CATALOGUE)
        digest = canonical.record_hash(contract["record"])
        event = "approved" if party.name == BANK else "signed"
        party.log("contract", contract_hash=digest, event=self.lies.get("agreement", event), rule="")


def key_leaf(keys: dict[str, str]) -> dict[str, Any]:
    return {"keys": len(keys), "keys_root": keys_root(keys, {})}


def failed(run: Path, **options: Any) -> dict[str, str]:
    """What each failed check says, by its name."""
    found: dict[str, str] = {}
    for check in auditor.verify_run(run, **options).failures:
        found[check.name] = f"{found.get(check.name, '')}{check.detail}; {check.remedy}. "
    return found


def hash_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
