"""Evidence of a run that never was, as large as asked: real signatures and ledgers of two parties, verified like any.

The mix is that of a scorecard's run: for every round each party releases the rows of a few hundred firms to the other, and ten
messages cross, each a leaf at both ends; now and then a firm withdraws its consent and is left out from then on. Heads are
signed every so many leaves, kept and cosigned by the other party. Everything is drawn from the seed, nothing is kept in memory
but the hashes of the leaves.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

from lianxin.crypto import canonical, merkle, notes, signing
from lianxin.parties import consent
from lianxin.parties.decision_consents import Registry, snapshot_root
from lianxin.parties.decision_signers import key_lines, keys_root
from lianxin.parties.ledger_witness import note_record, seconds_of

PARTIES = ("platform", "bank-a")
RUN, VERSION = "large-run-1", "lianxin 0.7.0"
FIRMS = 200
MESSAGES_A_ROUND = 10
LEAVES_A_ROUND = 2 * MESSAGES_A_ROUND + 2
LEAVES_A_HEAD = 3_000
ROUNDS_A_WITHDRAWAL = 400
_FIELDS = {party: [f"{party.replace('-', '_')}_field_{n}" for n in range(10)] for party in PARTIES}
_START = datetime(2026, 1, 5, 1, tzinfo=UTC)
_END = "2027-01-05T01:00:00Z"
_WRITER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True, check_circular=False)
_TYPES = ("ResidualShares", "MaskedResiduals", "MaskedGradient", "RoundNoted")
Record = dict[str, Any]
Say = Callable[[str], None]


@dataclass
class _Party:
    """One side as it goes along: its files, its ledger's tree, and the list of firms whose rows leave."""

    name: str
    peer: str
    key: signing.SigningKey
    files: dict[str, IO[bytes]]
    tree: merkle.MerkleTree = field(default_factory=merkle.MerkleTree)
    firms: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    root: str = ""
    records: list[Record] = field(default_factory=list)
    sent: tuple[int, str] = (0, "0" * 64)
    head: int = 0

    def write(self, name: str, line: bytes) -> None:
        self.files[name].write(line + b"\n")


def write_evidence(folder: Path, leaves: int, seed: int, say: Say) -> int:
    """Write the evidence of about `leaves` leaves, both parties' together, under `folder`/parties; return how many they are."""
    rounds = max(1, leaves // LEAVES_A_ROUND)
    maker = _Maker(seed, rounds)
    with ExitStack() as stack:
        parties = [maker.party(stack, folder, name, PARTIES[1 - at]) for at, name in enumerate(PARTIES)]
        for party in parties:
            maker.open(party)
        for turn in range(1, rounds + 1):
            if turn % 1000 == 0:
                say(f"round {turn} of {rounds}")
            maker.play(parties, turn)
        for party in parties:
            maker.leaf(party, "contract", contract_hash=maker.contract_hash, event="finished", rule="")
            maker.mark(party)
            maker.sign_head(party, parties)
    return sum(party.tree.size for party in parties)


class _Maker:
    """Draws, signs and writes; time goes on by a second every fifty leaves."""

    def __init__(self, seed: int, rounds: int) -> None:
        self._seed, self._drawn, self._rounds = seed, 0, rounds
        self._keys = {name: signing.SigningKey.from_seed(self._bytes()) for name in PARTIES}
        self._firm_keys = {self._hex(): signing.SigningKey.from_seed(self._bytes()) for _ in range(FIRMS)}
        header = "field_name_en,class,subject_type,id_role,default_release\n"
        lines = (f"{name},BIZ,ENT,NI,AUTH\n" for names in _FIELDS.values() for name in names)
        self._catalogue = (header + "".join(lines)).encode()
        contract = self._contract()
        self.contract_hash = canonical.record_hash(contract)
        self._signed = signing.sign_record(contract, [(name, self._keys[name]) for name in PARTIES])

    def _bytes(self) -> bytes:
        self._drawn += 1
        return hashlib.sha256(f"lianxin/large/{self._seed}/{self._drawn}".encode()).digest()

    def _hex(self) -> str:
        return self._bytes().hex()

    def _now(self) -> str:
        return (_START + timedelta(seconds=self._drawn // 150)).strftime("%Y-%m-%dT%H:%M:%SZ")

    def _contract(self) -> Record:
        digest = hashlib.sha256(self._catalogue).hexdigest()
        return {
            "type": "run-contract", "version": 3, "run": RUN, "purpose": "P4", "platform": PARTIES[0],
            "proposer": "operator-li",
            "parties": [{"party": name, "role": name.split("-")[0], "uri": f"spiffe://bench/{name}",
                         "node_key": self._keys[name].public_hex} for name in PARTIES],
            "fields": [{"provider": name, "field": one, "use": "feature"} for name in PARTIES for one in _FIELDS[name]],
            "catalogues": dict.fromkeys(PARTIES, digest), "matching": "ecdh", "model": "scorecard", "rounds": self._rounds,
            "min_rows": 20, "created_at": "2026-01-01T00:00:00Z", "expires_at": _END, "retain_until": _END,
            "lawful_basis": "consent", "impact_assessment": "pia-1", "agreement": "agreement-1",
        }  # fmt: skip

    def party(self, stack: ExitStack, folder: Path, name: str, peer: str) -> _Party:
        """Return a party with its files open until the stack is left."""
        place = folder / "parties" / name / "evidence"
        place.mkdir(parents=True)
        (place / "contract.json").write_bytes(canonical.encode(self._signed) + b"\n")
        (place / "catalogue.csv").write_bytes(self._catalogue)
        names = (
            "ledger",
            "checkpoints",
            "witnessed",
            "registry",
            "firm_keys",
            "release_consents",
            "envelopes",
            "grades",
        )
        files: dict[str, IO[bytes]] = {one: stack.enter_context((place / f"{one}.jsonl").open("wb")) for one in names}
        return _Party(name, peer, self._keys[name], files)

    def open(self, party: _Party) -> None:
        """Write the keys and consents that a party starts with, and that it agreed."""
        keys = {subject: key.public_hex for subject, key in self._firm_keys.items()}
        for line in key_lines(keys, dict.fromkeys(keys, "ENT")):
            party.write("firm_keys", line)
        self.leaf(party, "firm-keys", run="", keys=len(keys), keys_root=keys_root(keys, dict.fromkeys(keys, "ENT")))
        self._register(party, [self._consent(party, subject) for subject in keys])
        party.firms = sorted(one["record"]["consent_id"] for one in party.records)
        for event in ("proposed", "approved"):
            self.leaf(
                party, "contract", contract_hash=self.contract_hash, event=event, rule="", operator="operator-wang"
            )

    def _consent(self, party: _Party, subject: str) -> Record:
        record = consent.make_consent(
            consent_id=f"consent-{self._hex()[:16]}", created_at="2026-01-01T00:00:00Z", subject_key=subject,
            subject_type="ENT", signer_key=self._firm_keys[subject].public_hex, provider=party.name, recipient=party.peer,
            purpose="P4", fields=sorted(_FIELDS[party.name]), mode="COMPUTE_ONLY", not_before="2026-01-02T00:00:00Z",
            expires_at="2026-12-01T00:00:00Z", catalogue_version="1", notice_id="notice-1", notice_hash="0" * 64,
        )  # fmt: skip
        return signing.sign_record(record, [("firm", self._firm_keys[subject])])

    def _register(self, party: _Party, records: list[Record]) -> None:
        for record in records:
            party.write("registry", canonical.encode(record))
        party.records += records
        root = merkle.root_of(map(canonical.encode, party.records)).hex()
        now = self._now()
        state = snapshot_root(Registry.from_signed(party.records), now)
        epoch = len(party.records)
        self.leaf(party, "registry", run="", epoch=epoch, registry_root=root, snapshot_at=now, snapshot_root=state)

    def _withdraw(self, party: _Party) -> None:
        gone = party.firms.pop(int.from_bytes(self._bytes()[:4]) % len(party.firms))
        party.gone.append(gone)
        party.root = ""
        subject = next(one["record"]["subject_key"] for one in party.records if one["record"].get("consent_id") == gone)
        key = self._firm_keys[subject]
        record = consent.make_revocation(
            consent_id=gone, subject_key=subject, revoked_at=self._now(), signer_key=key.public_hex
        )
        self._register(party, [signing.sign_record(record, [("firm", key)])])

    def leaf(self, party: _Party, kind: str, **fields: Any) -> bytes:
        """Write one leaf and return its line."""
        leaf = {
            "type": "leaf", "version": 1, "kind": kind, "time": self._now(), "run": RUN, "party": party.name,
            "operator": "operator-li", "code_version": VERSION, "salt": self._hex(), **fields,
        }  # fmt: skip
        line = _WRITER.encode(leaf).encode()
        party.write("ledger", line)
        party.tree.append(line)
        return line

    def play(self, parties: list[_Party], turn: int) -> None:
        """One round: both release their rows, messages go to and fro, heads are signed when they are due."""
        if turn % ROUNDS_A_WITHDRAWAL == 0 and len(parties[0].firms) > FIRMS // 2:
            self._withdraw(parties[turn // ROUNDS_A_WITHDRAWAL % 2])
        releases = {party.name: self._release(party, turn) for party in parties}
        for number in range(MESSAGES_A_ROUND):
            sender, recipient = parties[number % 2], parties[1 - number % 2]
            self._cross(sender, recipient, turn, number, releases[sender.name])
        for party in parties:
            if party.tree.size - party.head >= LEAVES_A_HEAD:
                self.sign_head(party, parties)

    def _release(self, party: _Party, turn: int) -> str:
        party.root = party.root or merkle.root_of(one.encode() for one in party.firms).hex()
        line = self.leaf(
            party, "release", provider=party.name, recipient=party.peer, purpose="P4", mode="COMPUTE_ONLY",
            step="round.residuals", round=turn, epoch=len(party.records), contract_hash=self.contract_hash,
            catalogue_hash=hashlib.sha256(self._catalogue).hexdigest(), fields=_FIELDS[party.name], refused=[], excluded=[],
            rows=len(party.firms), rows_root=self._hex(), consent_root=party.root, consents=len(party.firms),
        )  # fmt: skip
        name = hashlib.sha256(line).hexdigest()
        party.write("release_consents", _WRITER.encode({"release": name, "consents": party.firms}).encode())
        return name

    def _cross(self, sender: _Party, recipient: _Party, turn: int, number: int, release: str) -> None:
        seq, previous = sender.sent
        kind, size = _TYPES[number % len(_TYPES)], 100_000 + number
        said = {"conversation": f"vertical/{PARTIES[1]}/rounds", "step": "round.residuals", "round": turn, "seq": seq,
                "message_type": kind, "payload_hash": self._hex()}  # fmt: skip
        header = said | {
            "type": "envelope", "version": 1, "run": RUN, "sender": sender.name, "recipient": recipient.name,
            "previous": previous, "contract": self.contract_hash, "epoch": len(sender.records), "expires_at": _END,
            "payload_bytes": size,
        }  # fmt: skip
        data = _WRITER.encode(header).encode()
        digest = hashlib.sha256(data).hexdigest()
        sender.sent = (seq + 1, digest)
        line = b'{"header":' + data + b',"signature":"' + sender.key.sign("envelope", data).hex().encode() + b'"}'
        forms = [{"field": f"{kind}.first", "form": "CONTROL"}, {"field": f"{kind}.shares", "form": "CIPHERTEXT"}]
        leaf = said | {
            "message_hash": digest,
            "size_bytes": size,
            "forms": forms,
            "decision": "allow",
            "rule": "",
            "rows": 180,
        }
        for party, direction, releases in ((sender, "out", [release]), (recipient, "in", [])):
            self.leaf(party, "envelope", **leaf, direction=direction, peer=party.peer, releases=releases)
            party.write("envelopes", line)

    def mark(self, party: _Party) -> None:
        """Write which withdrawals touch the model."""
        root = merkle.root_of(one.encode() for one in sorted(party.gone)).hex()
        self.leaf(party, "model-marked", revocations=len(party.gone), consent_root=root, choice="none")

    def sign_head(self, party: _Party, parties: list[_Party]) -> None:
        """Sign the ledger's head; the other party keeps it and cosigns it."""
        head = notes.Checkpoint(
            notes.log_name(party.name), party.tree.size, party.tree.root(), (f"time {self._now()}",)
        )
        text = head.text()
        note = notes.Note(text, (notes.sign(text, head.origin, party.key),))
        witness = next(one for one in parties if one is not party)
        cosigned = notes.cosign(text, notes.log_name(witness.name), witness.key, seconds_of(self._now()))
        note = note.with_signatures([cosigned])
        party.write("checkpoints", canonical.encode(note_record(note)))
        witness.write("witnessed", canonical.encode(note_record(note)))
        party.head = party.tree.size


def keys_of(seed: int) -> Iterator[tuple[str, signing.SigningKey]]:
    """Yield each party's node key as `write_evidence` of the same seed draws it."""
    maker = _Maker(seed, 1)
    yield from ((name, maker._keys[name]) for name in PARTIES)
