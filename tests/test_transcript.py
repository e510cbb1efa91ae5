import hashlib
import itertools

import pytest

from lianxin.crypto.errors import CryptoError
from lianxin.crypto.transcript import TranscriptConflict, TranscriptDigest

ENVELOPES = [
    ("matching/a", "bank-a", 0, b"\x01" * 32),
    ("matching/a", "platform", 0, b"\x02" * 32),
    ("matching/a", "bank-a", 1, b"\x03" * 32),
    ("learning/a", "platform", 0, b"\x04" * 32),
]


def digest_of(envelopes: list) -> str:
    transcript = TranscriptDigest()
    for envelope in envelopes:
        transcript.add(*envelope)
    return transcript.hexdigest()


def test_the_order_of_arrival_does_not_matter() -> None:
    assert len({digest_of(list(order)) for order in itertools.permutations(ENVELOPES)}) == 1


def test_the_digest_is_the_one_that_the_docstring_defines() -> None:
    digest = hashlib.sha256()
    for part in (b"c", b"s", (5).to_bytes(8, "big"), b"\x07" * 32):
        digest.update(len(part).to_bytes(8, "big") + part)
    assert digest_of([("c", "s", 5, b"\x07" * 32)]) == digest.hexdigest()
    assert digest_of([]) == hashlib.sha256(b"").hexdigest()


def test_every_part_of_every_envelope_counts() -> None:
    changed = [("other", "bank-a", 0, b"\x01" * 32), ("matching/a", "bank-b", 0, b"\x01" * 32)]
    changed += [("matching/a", "bank-a", 9, b"\x01" * 32), ("matching/a", "bank-a", 0, b"\x09" * 32)]
    digests = {digest_of([one, *ENVELOPES[1:]]) for one in changed} | {digest_of(ENVELOPES[1:]), digest_of(ENVELOPES)}
    assert len(digests) == 6


def test_moving_a_letter_from_the_conversation_to_the_sender_changes_the_digest() -> None:
    assert digest_of([("ab", "c", 0, b"\x01" * 32)]) != digest_of([("a", "bc", 0, b"\x01" * 32)])


def test_one_envelope_twice_counts_once_and_two_at_one_place_are_refused() -> None:
    transcript = TranscriptDigest()
    transcript.add("c", "s", 0, b"\x01" * 32)
    transcript.add("c", "s", 0, b"\x01" * 32)
    assert len(transcript) == 1
    with pytest.raises(TranscriptConflict):
        transcript.add("c", "s", 0, b"\x02" * 32)
    assert issubclass(TranscriptConflict, CryptoError)
    assert transcript.hexdigest() == digest_of([("c", "s", 0, b"\x01" * 32)])


def test_a_hash_of_another_length_or_a_negative_number_is_a_mistake_of_ours() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        TranscriptDigest().add("c", "s", 0, b"\x01" * 31)
    with pytest.raises(ValueError, match="sequence number"):
        TranscriptDigest().add("c", "s", -1, b"\x01" * 32)
