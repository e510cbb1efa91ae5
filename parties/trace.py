"""The trace of a session: a leaf for every envelope at both ends, and where it is asked for the envelope itself.

The leaf is durable before the sender's bytes leave and before the receiver acts (boundary.md, section 6). It holds
digests, forms and the ids of the releases behind the message, never a value.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lianxin.federation import wire
from lianxin.federation.model import Provenance
from lianxin.parties.ledger import Ledger
from lianxin.parties.ledger_commit import Preface, envelope_row
from lianxin.parties.limits_disk import LEAF_BYTES, DiskGuard, DiskShort
from lianxin.parties.store_ledger import StandingRow


class LedgerTrace:
    """Writes each crossing to the ledger; with `recording`, keeps the bytes too, for replay."""

    def __init__(
        self,
        ledger: Ledger,
        recording: Path | None = None,
        watch: Callable[[int, str, str], None] | None = None,
        disk: DiskGuard | None = None,
    ) -> None:
        self._ledger, self._recording, self.disk = ledger, recording, disk
        self._watch = watch or (lambda _size, _direction, _peer: None)

    def crossed(
        self,
        direction: str,
        peer: str,
        opened: wire.Opened,
        crossings: Sequence[wire.Crossing],
        rights: Sequence[Provenance],
        envelope: bytes,
    ) -> None:
        """Append the envelope's leaf; see `federation.session.Trace`. Raises DiskShort when there is no room for it."""
        header = dict(opened.header)
        if self.disk is not None and not _is_ending(header):
            self.disk.charge(header["run"], LEAF_BYTES + (len(envelope) if self._recording is not None else 0))
        forms = {crossing.name: crossing.form for crossing in crossings}
        leaf: dict[str, Any] = {
            "kind": "envelope", "run": header["run"], "direction": direction, "peer": peer,
            **{name: header[name] for name in ("conversation", "step", "round", "seq", "message_type", "payload_hash")},
            "message_hash": opened.message_hash, "size_bytes": header["payload_bytes"],
            "forms": [{"field": name, "form": form} for name, form in sorted(forms.items())],
            "releases": [right.release_id for right in rights],
            "rows": max((right.rows for right in rights), default=0), "decision": "allow", "rule": "",
        }  # fmt: skip
        if direction == "out" and not set(forms.values()) <= wire.FREE_FORMS:
            self._ledger.check_witnessed(leaf)
        self._append(leaf, opened.encoded, opened.signature)
        if self._recording is not None and envelope:
            self._keep(header, envelope)
        self._watch(header["payload_bytes"], direction, peer)

    def short_of_disk(self) -> str:
        """Return why no new run may begin for want of disk (rule L15), "" when one may."""
        try:
            if self.disk is not None:
                self.disk.check_start()
        except DiskShort as short:
            return str(short)
        return ""

    def _append(self, leaf: dict[str, Any], header: bytes, signature: bytes) -> None:
        self._ledger.append_envelope(leaf, header, signature)

    def holding(self) -> "HoldingTrace":
        """Return a trace to the same ledger that holds back the leaf of what came in; for one conversation's thread."""
        return HoldingTrace(self._ledger, self._recording, self._watch, self.disk)

    def _keep(self, header: dict[str, Any], envelope: bytes) -> None:
        assert self._recording is not None
        folder = self._recording / header["run"] / header["conversation"].replace("/", "_")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / f"{header['sender']}-{header['seq']:06d}.envelope"
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(envelope)

    def refused(self, run: str, peer: str, rule: str, step: str, message_hash: str | None) -> None:
        """Append a refusal leaf."""
        leaf = {"kind": "refusal", "run": run, "peer": peer, "rule": rule, "step": step}
        self._ledger.append(leaf | ({"message_hash": message_hash} if message_hash else {}))


def _is_ending(header: Mapping[str, Any]) -> bool:
    """Return whether an envelope tells of a run's end: that is told and kept however little room is left."""
    return header["step"] == "contract.close" or header["message_type"] == "Refusal"


class HoldingTrace(LedgerTrace):
    """A trace whose leaf of what came in goes to disk with the release that answers it, in front of it.

    Nothing is done about a message before that; where there is no release, `settle` writes the leaf by itself.
    """

    _held: tuple[dict[str, Any], bytes, bytes] | None = None
    standing: tuple[StandingRow, ...] = ()  # what the next message out gives, kept in the transaction of its leaf

    def _append(self, leaf: dict[str, Any], header: bytes, signature: bytes) -> None:
        self.settle()
        if leaf["direction"] == "in":
            self._held = leaf, header, signature
        else:
            standing, self.standing = self.standing, ()
            self._ledger.append_envelope(leaf, header, signature, {"standing": standing})

    def preface(self, leaf: Mapping[str, Any], operator: str | None = None) -> Preface:
        """Return what goes in front of a release: what is held back, then a leaf of `operator` (None: the node's).

        Once it is written, call `written`. The release goes on in the next message out, whose leaf waits for the disk.
        """
        if self._held is None:
            return Preface(((leaf, operator),), late_mark=True, goes_on=True)
        came, header, signature = self._held
        both = (came, None), (leaf, operator)
        return Preface(both, envelope_row("in", header, signature), late_mark=True, goes_on=True)

    def written(self) -> None:
        """Hold nothing back any more: it is written."""
        self._held = None

    def settle(self) -> None:
        """Write the leaf that is held back, if there is one."""
        held, self._held = self._held, None
        if held is not None:
            super()._append(*held)

    def refused(self, run: str, peer: str, rule: str, step: str, message_hash: str | None) -> None:
        """See `LedgerTrace.refused`; what came in before is written first."""
        self.settle()
        super().refused(run, peer, rule, step, message_hash)
