"""Notes, checkpoints and cosignatures: published examples come out as they stand, and nothing but the one form is read.

Published: the example of golang.org/x/mod/sumdb/note with its key, the example of C2SP tlog-cosignature, and a checkpoint
of a public test log with the cosignature of a public witness (remora.n621.de). Made by hand: the key ids and the signed
text of `test_a_note_is_signed_as_the_specification_says_by_hand`.
"""

import base64
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from torture import cases

from lianxin.crypto import notes, signing
from lianxin.crypto.errors import EncodingRejected, SignatureRejected

GO_SEED = base64.b64decode("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz")[1:]
GO_NOTE = (
    "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
).encode()
C2SP_COSIGNED = (
    "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
    "— example.com/behind-the-sofa "
    "Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
    "— witness.example.com/w1 "
    "jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n"
).encode()
PUBLIC_LOG = "arche2025h1.staging.ct.transparency.dev"
PUBLIC_COSIGNED = (
    f"{PUBLIC_LOG}\n1432088532\nU7WM79jrzyhGZ5/GUBTpM7NzwdyfFx61t3RovgcC4Ro=\n\n"
    f"— {PUBLIC_LOG} zTM8sQAAAZ5W0WdjBAMARjBEAiBjW5IQf9pvsYLfQFX6hoGREPMHbdQ3urbllzalApkptQIgIpwtEroeW2BXaHAI4kJXFbon5Ch9"
    "MNL5zRNZ55lvGt0=\n"
    f"— {PUBLIC_LOG} ui8GwCF1+kWqZrxGdhj4aX3gcw7XUlXQQabg/27lefwhUkzbC3NygNI75MdhL1bfTW9g8Ei59RA23oHP7Ry1k3ZFWwQ=\n"
    "— remora.n621.de "
    "2net5wAAAABqEiEgPlfF3V06o0Y+fHM+J5J9s27wgxxcOVSpZ/2g/KSiXCg9DEZI+aVCIobWX9sXTynk5XeU/zZ0WBxtqB0DrAWfBw==\n"
).encode()
PUBLIC_LOG_KEY = base64.b64decode("AU0vHmlGCS/PdN8b2OaGmKprLI8HKM+dJ472xgFYh15f")[1:].hex()
REMORA_KEY = base64.b64decode("BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2")[1:].hex()
KEY, WITNESS = (signing.SigningKey.from_seed(bytes([n]) * 32) for n in (1, 2))
HEAD = notes.Checkpoint("lianxin/bank-a", 7, bytes(range(32)), ("time 2026-05-01T08:00:00Z",))


def a_note() -> notes.Note:
    own = notes.sign(HEAD.text(), HEAD.origin, KEY)
    return notes.Note(HEAD.text(), (own,)).with_signatures(
        [notes.cosign(HEAD.text(), "lianxin/w", WITNESS, 1777622400)]
    )


def test_the_published_note_of_the_go_library_is_signed_and_read_byte_for_byte() -> None:
    key, text = signing.SigningKey.from_seed(GO_SEED), GO_NOTE.decode().rpartition("\n\n")[0] + "\n"
    assert notes.key_id("PeterNeumann", notes.ED25519, key.public_hex).hex() == "c74f20a3"
    assert notes.Note(text, (notes.sign(text, "PeterNeumann", key),)).encode() == GO_NOTE
    notes.verify(notes.parse_note(GO_NOTE), "PeterNeumann", key.public_hex)


@pytest.mark.parametrize("data", [GO_NOTE, C2SP_COSIGNED, PUBLIC_COSIGNED])
def test_published_notes_are_written_back_as_they_were(data: bytes) -> None:
    assert notes.parse_note(data).encode() == data


def test_a_public_log_and_a_public_witness_are_verified() -> None:
    note = notes.parse_note(PUBLIC_COSIGNED)
    assert notes.parse_checkpoint(note.text).size == 1432088532
    notes.verify(note, PUBLIC_LOG, PUBLIC_LOG_KEY)
    assert notes.verify_cosignature(note, "remora.n621.de", REMORA_KEY) == 0x6A122120
    other = notes.Note(note.text.replace("1432088532", "1432088533"), note.signatures)
    with pytest.raises(SignatureRejected):
        notes.verify(other, PUBLIC_LOG, PUBLIC_LOG_KEY)
    with pytest.raises(SignatureRejected):
        notes.verify_cosignature(other, "remora.n621.de", REMORA_KEY)


def test_the_published_cosignature_is_of_the_time_that_the_specification_names() -> None:
    signature = notes.parse_note(C2SP_COSIGNED).signatures[1]
    assert int.from_bytes(signature.signature[:8], "big") == 1679315147


def test_a_note_is_signed_as_the_specification_says_by_hand() -> None:
    raw = Ed25519PrivateKey.from_private_bytes(bytes([2]) * 32)
    public = raw.public_key().public_bytes_raw()
    text = "lianxin/bank-a\n7\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\ntime 2026-05-01T08:00:00Z\n"
    assert HEAD.text() == text
    cosignature = notes.cosign(text, "lianxin/w", WITNESS, 1777622400)
    assert cosignature.key_id == hashlib.sha256(b"lianxin/w\n\x04" + public).digest()[:4]
    signed = raw.sign(b"cosignature/v1\ntime 1777622400\n" + text.encode())
    assert cosignature.signature == (1777622400).to_bytes(8, "big") + signed
    line = base64.b64encode(cosignature.key_id + cosignature.signature).decode()
    assert cosignature.line() == f"— lianxin/w {line}\n"


BAD_NOTES = {
    "no signature": b"text\n\n",
    "no blank line": "text\n— a AAAAAAAA\n".encode(),
    "no last line feed": a_note().encode()[:-1],
    "a carriage return": a_note().encode().replace(b"\n", b"\r\n"),
    "a hyphen for the dash": a_note().encode().replace("—".encode(), b"-"),
    "a name with plus": a_note().encode().replace(b"lianxin/w", b"lianxin+w"),
    "no name": "text\n\n—  AAAAAAAA\n".encode(),
    "base64 with loose bits": "text\n\n— a AAAAAAB=\n".encode(),
    "base64 without padding": "text\n\n— a AAAAAAA\n".encode(),
    "a key id and nothing more": "text\n\n— a AAAAAA==\n".encode(),
    "not utf-8": b"\xff\n\n" + a_note().signatures[0].line().encode(),
    "too long": b"a" * notes.NOTE_LIMIT_BYTES + a_note().encode(),
    "too many signatures": HEAD.text().encode()
    + b"\n"
    + a_note().signatures[0].line().encode() * (notes.SIGNATURE_LIMIT + 1),
    "a text without its line feed": ("text\n— a AAAAAAAA\n").encode(),
}


@pytest.mark.parametrize("data", BAD_NOTES.values(), ids=BAD_NOTES)
def test_bytes_that_are_not_the_one_form_of_a_note_are_refused(data: bytes) -> None:
    with pytest.raises(EncodingRejected):
        notes.parse_note(data)


BAD_HEADS = {
    "two lines": "a\n1\n",
    "an empty origin": "\n1\n" + HEAD.text().split("\n")[2] + "\n",
    "a leading zero": HEAD.text().replace("\n7\n", "\n07\n"),
    "a sign": HEAD.text().replace("\n7\n", "\n+7\n"),
    "another script's digit": HEAD.text().replace("\n7\n", "\n٧\n"),
    "too large": HEAD.text().replace("\n7\n", f"\n{2**63}\n"),
    "a short root": "a\n7\nAAAA\n",
    "an empty extension": HEAD.text() + "\n",
    "no last line feed": HEAD.text()[:-1],
}


@pytest.mark.parametrize("text", BAD_HEADS.values(), ids=BAD_HEADS)
def test_a_text_that_is_not_the_one_form_of_a_checkpoint_is_refused(text: str) -> None:
    assert notes.parse_checkpoint(HEAD.text()) == HEAD
    with pytest.raises(EncodingRejected):
        notes.parse_checkpoint(text)


def test_a_signature_of_another_kind_name_key_or_text_is_refused() -> None:
    note = a_note()
    notes.verify(note, HEAD.origin, KEY.public_hex)
    assert notes.verify_cosignature(note, "lianxin/w", WITNESS.public_hex) == 1777622400
    longer = notes.Note(note.text + "more\n", note.signatures)
    for bad, name, key in (
        (note, "lianxin/bank-b", KEY), (note, HEAD.origin, WITNESS), (note, "lianxin/w", WITNESS), (longer, HEAD.origin, KEY),
        (notes.Note(note.text, note.signatures[:1] * 2), HEAD.origin, KEY),
    ):  # fmt: skip
        with pytest.raises(SignatureRejected):
            notes.verify(bad, name, key.public_hex)
    with pytest.raises(SignatureRejected):
        notes.verify_cosignature(note, HEAD.origin, KEY.public_hex)
    moved = notes.NoteSignature("lianxin/w", note.signatures[1].key_id, bytes(8) + note.signatures[1].signature[8:])
    with pytest.raises(SignatureRejected):  # the time is signed too
        notes.verify_cosignature(notes.Note(note.text, (note.signatures[0], moved)), "lianxin/w", WITNESS.public_hex)


def test_a_head_cosigned_by_as_many_banks_as_a_run_may_have_is_read() -> None:
    banks = [f"lianxin/{'b' * 61}{number:03d}" for number in range(64)]  # the longest names
    cosigned = [notes.cosign(HEAD.text(), bank, WITNESS, 1777622400) for bank in banks]
    note = notes.Note(HEAD.text(), (notes.sign(HEAD.text(), HEAD.origin, KEY),)).with_signatures(cosigned)
    assert notes.parse_note(note.encode()) == note and len(note.signatures) == 65


def test_a_signature_on_a_note_is_none_on_a_record_and_the_other_way_round() -> None:
    data = b'{"type":"x","version":1}'
    with pytest.raises(SignatureRejected):
        signing.verify(KEY.public_hex, "x", data, KEY.sign_note(data))
    with pytest.raises(SignatureRejected):
        signing.verify_note(KEY.public_hex, b"lianxin/x\x00" + data, KEY.sign("x", data))
    with pytest.raises(ValueError, match="control characters"):
        KEY.sign_note(b"lianxin/x\x00" + data)


def test_a_request_to_a_witness_is_read_as_it_was_written_and_in_no_other_form() -> None:
    request = notes.make_request(3, [bytes(32), bytes([1]) * 32], a_note())
    assert request.startswith(b"old 3\nAAAA")
    assert notes.parse_request(request) == (3, [bytes(32), bytes([1]) * 32], a_note())
    assert notes.parse_request(notes.make_request(0, [], a_note()))[1] == []
    for bad in (
        request.replace(b"old 3", b"old 03"), request.replace(b"old", b"new"), request[6:],
        b"old 3\nAAAA\n\n" + a_note().encode(),
        notes.make_request(1, [bytes(32)] * 64, a_note()), request[:-1],
    ):  # fmt: skip
        with pytest.raises(EncodingRejected):
            notes.parse_request(bad)
    assert notes.parse_size(b"12\n") == 12
    for bad in (b"12", b"012\n", b"12\n\n", b"", b"x\n"):
        with pytest.raises(EncodingRejected):
            notes.parse_size(bad)


@given(st.binary(max_size=200), st.integers(0, 400), st.integers(0, 255))
@cases()
def test_a_note_with_any_byte_changed_is_refused_or_reads_as_what_it_now_says(noise: bytes, at: int, byte: int) -> None:
    data = bytearray(a_note().encode())
    data[at % len(data)] = byte
    for bent in (bytes(data), noise, bytes(data) + noise):
        try:
            note = notes.parse_note(bent)
        except EncodingRejected:
            continue
        assert note.encode() == bent
        if bent != a_note().encode():
            with pytest.raises(SignatureRejected):
                notes.verify(note, HEAD.origin, KEY.public_hex)
                notes.verify_cosignature(note, "lianxin/w", WITNESS.public_hex)
