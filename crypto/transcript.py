"""The digest of a run's messages: one hash that both ends, and a replay, must agree on.

Each envelope has a place (conversation, sender, seq) and a SHA-256. The transcript digest is

    SHA-256( for each place in ascending order:  lp(conversation) lp(sender) lp(seq) lp(envelope hash) )

with lp(x) = 8-byte big-endian length of x followed by x, and seq as 8 bytes. Messages of several conversations
interleave differently from run to run; sorting makes the digest a function of what was said, not of when it arrived.
"""

import hashlib

from lianxin.crypto.errors import CryptoError

HASH_BYTES = 32
_SEQ_BYTES = 8


class TranscriptConflict(CryptoError):
    """One place of a transcript is claimed by two different envelopes."""


class TranscriptDigest:
    """Collects envelope hashes in any order; adding the same envelope twice changes nothing."""

    def __init__(self) -> None:
        self._envelopes: dict[tuple[bytes, bytes, bytes], bytes] = {}

    def __len__(self) -> int:
        return len(self._envelopes)

    def add(self, conversation: str, sender: str, seq: int, envelope_sha256: bytes) -> None:
        """Record the 32-byte hash of the envelope at (conversation, sender, seq).

        Raises TranscriptConflict when another envelope is at that place, ValueError for a hash of another length or a
        sequence number outside [0, 2^64).
        """
        if len(envelope_sha256) != HASH_BYTES:
            raise ValueError(f"an envelope's hash has {HASH_BYTES} bytes, this one {len(envelope_sha256)}")
        if not 0 <= seq < 2 ** (8 * _SEQ_BYTES):
            raise ValueError(f"a sequence number is in [0, 2^64), not {seq}")
        place = (conversation.encode(), sender.encode(), seq.to_bytes(_SEQ_BYTES, "big"))
        if self._envelopes.setdefault(place, bytes(envelope_sha256)) != envelope_sha256:
            raise TranscriptConflict(f"two different envelopes claim sequence number {seq} of one conversation")

    def hexdigest(self) -> str:
        """Return the transcript's SHA-256 in hex."""
        digest = hashlib.sha256()
        for place in sorted(self._envelopes):
            for part in (*place, self._envelopes[place]):
                digest.update(len(part).to_bytes(8, "big") + part)
        return digest.hexdigest()
