"""One digest over everything that crossed in a run, the same in whatever order threads sent it."""

import hashlib

from lianxin.crypto import canonical
from lianxin.crypto.transcript import TranscriptDigest
from lianxin.parties.store import Store


def transcript_digest(store: Store, run: str) -> str:
    """Return the transcript's SHA-256 over the envelopes of a run sorted by (conversation, sender, seq).

    An envelope counts by the SHA-256 of its canonical header, which holds its payload's hash, and its signature. The
    closing receipts are outside: they hold ledger heads, and leaves come in the order of threads. Raises
    TranscriptConflict when one place holds two.
    """
    digest = TranscriptDigest()
    for row in store.envelopes(run):
        if canonical.decode(row.header)["step"] == "contract.close":
            continue
        digest.add(row.conversation, row.sender, row.seq, hashlib.sha256(row.header + row.signature).digest())
    return digest.hexdigest()
