"""Under which keys a party signs the heads of its ledger, and under which its earlier heads stand.

From the leaf that names a new node key on, every head carries the signatures of both keys, as long as the old one is held:
peers and contracts that know only the old key verify the same note as those that know the new one (docs/keys.md).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lianxin.crypto import notes
from lianxin.crypto.errors import SignatureRejected
from lianxin.crypto.notes import Checkpoint, Note
from lianxin.crypto.signing import SigningKey
from lianxin.parties.ledger_witness import has_cosigned, head_of


@dataclass(frozen=True)
class LedgerKeys:
    """`signing` are the keys that sign, the one in force first; `known` all public halves that this party ever had."""

    signing: tuple[SigningKey, ...] = field(repr=False)
    known: tuple[str, ...]

    @classmethod
    def of(cls, key: "SigningKey | LedgerKeys") -> "LedgerKeys":
        """Return a single key as the keys of a ledger."""
        return key if isinstance(key, LedgerKeys) else cls((key,), (key.public_hex,))

    def signed(self, head: Checkpoint) -> Note:
        """Return the note of a head under every key that signs."""
        return Note(head.text(), tuple(notes.sign(head.text(), head.origin, key) for key in self.signing))

    def head_of(self, record: Mapping[str, Any], party: str) -> Checkpoint:
        """Return the head in a kept line that one of the known keys signed. Raises as `ledger_witness.head_of`."""
        for public in self.known[1:]:
            try:
                return head_of(record, party, public)
            except SignatureRejected:
                continue
        return head_of(record, party, self.known[0])

    def has_cosigned(self, note: Note, party: str) -> bool:
        """Return whether a note carries a cosignature of one of the known keys."""
        return any(has_cosigned(note, party, public) for public in self.known)
