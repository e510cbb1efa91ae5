"""A party's statement that it goes over to another key, as one signed record that its peers and an auditor verify alike.

    record  = {type: key-rotation, version: 1, party, number, what, old, new, certificate, starts, until, made_at, previous}
    what    = `tls`: old and new are the SHA-256 of a certificate's DER bytes, `certificate` the new one in PEM
              `node`: old and new are Ed25519 public keys, `certificate` is empty
    signed  by the node key in force before; a new node key signs as well, which proves that the party holds it.

A party numbers its statements from 1, and each names the hash of the one before (64 zeros before the first), so that an
older one cannot be shown again and none is left out. From `starts` on the party uses what is new; until `until` a peer
takes both. Who stole a node key can announce another one with it: what the chain shows is that whoever held the old
key named the new one, no more, which is why a peer is revoked by hand (docs/keys.md). Nothing here reads a clock.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from lianxin.crypto import canonical, signing
from lianxin.crypto.errors import SignatureRejected

TYPE, VERSION = "key-rotation", 1
TLS, NODE = "tls", "node"
GENESIS = "0" * 64
CERTIFICATE_LIMIT = 8192
_TEXTS = ("party", "what", "old", "new", "certificate", "starts", "until", "made_at", "previous")
_HEX = re.compile(r"[0-9a-f]{64}")
_TIME = re.compile(r"[0-9]{4}(-[0-9]{2}){2}T[0-9]{2}(:[0-9]{2}){2}Z")


@dataclass(frozen=True)
class Rotation:
    """One statement, see the module; times are `YYYY-MM-DDTHH:MM:SSZ`, which order as texts do."""

    party: str
    number: int
    what: str
    old: str
    new: str
    certificate: str
    starts: str
    until: str
    made_at: str
    previous: str

    def record(self) -> dict[str, Any]:
        """Return the record that is signed."""
        return {"type": TYPE, "version": VERSION, "number": self.number} | {
            name: getattr(self, name) for name in _TEXTS
        }

    @property
    def hash(self) -> str:
        """The hash by which the next statement names this one."""
        return canonical.record_hash(self.record())


def sign(rotation: Rotation, old: signing.SigningKey, new: signing.SigningKey | None = None) -> dict[str, Any]:
    """Return the signed statement; `old` is the node key in force, `new` the one that a rotation of node keys names."""
    signers = [(rotation.party, old)] + ([(_newcomer(rotation.party), new)] if new is not None else [])
    return signing.sign_record(rotation.record(), signers)


def verify(signed: Mapping[str, Any], node_key: str) -> Rotation:
    """Return the statement that the holder of `node_key` signed, and of a node key's rotation the new one's as well.

    Raises SignatureRejected for another signer or a record that is no statement.
    """
    rotation = read(signed)
    keys = {rotation.party: node_key}
    if rotation.what == NODE:
        keys[_newcomer(rotation.party)] = rotation.new
        if rotation.old != node_key:
            raise SignatureRejected("a rotation of a node key names another old key than the one in force")
    signing.verify_signed(signed, keys)
    return rotation


def read(signed: Mapping[str, Any]) -> Rotation:
    """Return what a statement says; nobody vouches for it yet. Raises SignatureRejected where it is none."""
    record = signed.get("record") if isinstance(signed, Mapping) else None
    if not isinstance(record, dict) or set(record) != {"type", "version", "number", *_TEXTS}:
        raise _no_statement()
    if (record["type"], record["version"]) != (TYPE, VERSION) or not all(
        isinstance(record[one], str) for one in _TEXTS
    ):
        raise _no_statement()
    rotation = Rotation(number=record["number"], **{name: record[name] for name in _TEXTS})
    if not _is_well_formed(rotation):
        raise _no_statement()
    return rotation


def _is_well_formed(said: Rotation) -> bool:
    is_numbered = type(said.number) is int and 0 < said.number < 2**31
    is_hex = all(_HEX.fullmatch(one) for one in (said.old, said.new, said.previous)) and said.old != said.new
    is_timed = all(_is_time(one) for one in (said.made_at, said.starts, said.until))
    fits = said.what in (TLS, NODE) and bool(said.certificate) == (said.what == TLS)
    in_order = said.made_at <= said.starts <= said.until
    return bool(
        is_numbered and is_hex and is_timed and fits and in_order and len(said.certificate) <= CERTIFICATE_LIMIT
    )


def _is_time(text: str) -> bool:
    """Return whether a text is a time of this format that a calendar has."""
    try:
        return bool(_TIME.fullmatch(text)) and datetime.fromisoformat(text) is not None
    except ValueError:
        return False


def _newcomer(party: str) -> str:
    return f"{party}/new"


def _no_statement() -> SignatureRejected:
    return SignatureRejected("what was given is no statement of a key's rotation of this version")


@dataclass(frozen=True)
class Chain:
    """A party's keys in their order: the first certificate and node key, and the statements since, in their order.

    `root` is the hash of the introduction with which the chain begins, "" where it begins with `peers.json`.
    """

    party: str
    certificate_sha256: str
    node_key: str
    steps: tuple[Rotation, ...] = ()
    number: int = 0
    last: str = GENESIS
    root: str = ""

    def values(self, what: str) -> list[str]:
        """Return every value of this kind, the newest last."""
        first = self.certificate_sha256 if what == TLS else self.node_key
        return [first, *(step.new for step in self.steps if step.what == what)]

    def in_force(self, what: str, now: str) -> str:
        """Return what the party itself uses at `now`."""
        begun = [step.new for step in self.steps if step.what == what and step.starts <= now]
        return begun[-1] if begun else self.values(what)[0]

    def accepted(self, what: str, now: str) -> tuple[str, ...]:
        """Return what is taken as the party's at `now`: the newest, and one before it until its overlap ends."""
        found, steps = self.values(what), [step for step in self.steps if step.what == what]
        return tuple(one for n, one in enumerate(found) if n == len(steps) or now < steps[n].until)

    def followed_by(self, signed: Mapping[str, Any]) -> "Chain":
        """Return the chain with one more statement. Raises SignatureRejected unless it is the next one of this party."""
        said = read(signed)
        if said.party != self.party:
            raise SignatureRejected(f"the statement is of another party than {self.party}")
        if said.number != self.number + 1 or said.previous != self.last:
            raise SignatureRejected(
                f"statement {said.number} of {self.party} is not the next after its number {self.number}: an older one was "
                "shown again, or one between is missing"
            )
        if said.old != self.values(said.what)[-1]:
            raise SignatureRejected(f"statement {said.number} of {self.party} replaces another key than its newest")
        verify(signed, self.values(NODE)[-1])
        return replace(self, steps=(*self.steps, said), number=said.number, last=said.hash)
