"""Signed notes, log checkpoints and witness cosignatures, as C2SP writes them down.

    note        = text "\\n" 1*signature-line                          signed-note
    signature   = "— " name " " base64(key id || signature) "\\n"      key id = SHA-256(name || "\\n" || kind || key)[:4]
    checkpoint  = origin "\\n" size "\\n" base64(root) "\\n" *(line "\\n")   tlog-checkpoint, the text of a note
    cosignature = timestamp (u64) || Ed25519("cosignature/v1\\ntime " timestamp "\\n" text)   tlog-cosignature, kind 0x04
    request     = "old " size "\\n" *(base64(hash) "\\n") "\\n" note     tlog-witness, add-checkpoint

Kind 0x01 is the log's own Ed25519 signature over the text. Parsing is the inverse of writing and of nothing else: a
note that would be written in other bytes (base64 with loose bits, a size with a leading zero, a missing line feed) is
refused. Nothing here draws, reads a clock or a file.
"""

import base64
import binascii
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TypeVar

from lianxin.crypto.errors import EncodingRejected, SignatureRejected
from lianxin.crypto.signing import SigningKey, verify_note

ED25519, COSIGNATURE = 0x01, 0x04
NOTE_LIMIT_BYTES = 16 * 1024
SIGNATURE_LIMIT = 80  # a platform and 64 banks, with witnesses beside them; within NOTE_LIMIT_BYTES
PROOF_LIMIT = 63
SIZE_LIMIT = 2**63
HASH_BYTES = KEY_BYTES = 32
ED25519_BYTES = 64
_KEY_ID_BYTES, _TIME_BYTES = 4, 8
_DASH = "\u2014 "
Parsed = TypeVar("Parsed")


@dataclass(frozen=True)
class NoteSignature:
    """One line of signature: the key's name, the four bytes of its id, and the signature's bytes."""

    name: str
    key_id: bytes
    signature: bytes = field(repr=False)

    def line(self) -> str:
        """Return the line, with its line feed."""
        return f"{_DASH}{self.name} {_base64(self.key_id + self.signature)}\n"


@dataclass(frozen=True)
class Note:
    """A text, which ends in a line feed, and its signatures in order; none of them is verified by being here."""

    text: str
    signatures: tuple[NoteSignature, ...]

    def encode(self) -> bytes:
        """Return the note's bytes."""
        return (self.text + "\n" + "".join(one.line() for one in self.signatures)).encode()

    def with_signatures(self, more: Sequence[NoteSignature]) -> "Note":
        """Return the note with `more` after its signatures, each in place of what it carried under that name and key id."""
        fresh = {(one.name, one.key_id) for one in more}
        return Note(self.text, (*(one for one in self.signatures if (one.name, one.key_id) not in fresh), *more))


@dataclass(frozen=True)
class Checkpoint:
    """A log's head: `origin` names the log, `size` counts its leaves, `root` is the 32-byte RFC 9162 root over them."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def text(self) -> str:
        """Return the text that is signed."""
        return "".join(f"{line}\n" for line in (self.origin, str(self.size), _base64(self.root), *self.extensions))


def log_name(party: str) -> str:
    """Return the name under which a party's ledger, and the party as a witness, signs notes."""
    return f"lianxin/{party}"


def key_id(name: str, kind: int, public_hex: str) -> bytes:
    """Return the four bytes by which a signature line names a key of this kind (ED25519, COSIGNATURE)."""
    return hashlib.sha256(name.encode() + b"\n" + bytes([kind]) + bytes.fromhex(public_hex)).digest()[:_KEY_ID_BYTES]


def sign(text: str, name: str, key: SigningKey) -> NoteSignature:
    """Return the log's own signature over a note's text."""
    return NoteSignature(name, key_id(name, ED25519, key.public_hex), key.sign_note(text.encode()))


def cosign(text: str, name: str, key: SigningKey, seconds: int) -> NoteSignature:
    """Return a witness's cosignature/v1 over a checkpoint's text, given at `seconds` after 1970-01-01 (UTC)."""
    if not 0 <= seconds < SIZE_LIMIT:
        raise ValueError("a cosignature's time is a number of seconds from 0 to 2^63 - 1")
    signature = key.sign_note(_cosigned(text, seconds))
    return NoteSignature(
        name, key_id(name, COSIGNATURE, key.public_hex), seconds.to_bytes(_TIME_BYTES, "big") + signature
    )


def verify(note: Note, name: str, public_hex: str) -> None:
    """Raise SignatureRejected unless the note carries the Ed25519 signature of this key under this name, once."""
    verify_note(public_hex, note.text.encode(), _own(note, name, ED25519, public_hex).signature)


def signed_alone(note: Note, name: str, public_hex: str) -> Note:
    """Return the note with no other line than the one that `verify` looks at, and that is to be verified before."""
    wanted = (name, key_id(name, ED25519, public_hex))
    return Note(note.text, tuple(one for one in note.signatures if (one.name, one.key_id) == wanted))


def verify_cosignature(note: Note, name: str, public_hex: str) -> int:
    """Return when this witness cosigned the note, in seconds after 1970-01-01 (UTC).

    Raises SignatureRejected unless the note carries its cosignature/v1, once, and it verifies.
    """
    stamped = _own(note, name, COSIGNATURE, public_hex).signature
    if len(stamped) != _TIME_BYTES + ED25519_BYTES:
        raise SignatureRejected("a cosignature is eight bytes of time and an Ed25519 signature")
    seconds = int.from_bytes(stamped[:_TIME_BYTES], "big")
    verify_note(public_hex, _cosigned(note.text, seconds), stamped[_TIME_BYTES:])
    return seconds


def parse_note(data: bytes) -> Note:
    """Return the note that `data` is the encoding of. Raises EncodingRejected for any other bytes."""
    text, _, signed = _utf8(data).rpartition("\n\n")
    note = Note(text + "\n", parse_signatures(signed))
    return _if_it_writes_back(note, Note.encode, data)


def parse_signatures(lines: str) -> tuple[NoteSignature, ...]:
    """Return the signatures of one or more signature lines. Raises EncodingRejected for anything else."""
    parts = lines.split("\n")
    if parts.pop() or not 0 < len(parts) <= SIGNATURE_LIMIT:
        raise EncodingRejected(f"a note ends in 1 to {SIGNATURE_LIMIT} signature lines; this one does not")
    return tuple(map(_parse_signature, parts))


def parse_checkpoint(text: str) -> Checkpoint:
    """Return the checkpoint that a note's text says. Raises EncodingRejected when it says none."""
    lines = text.removesuffix("\n").split("\n")
    if len(lines) < 3 or not all(lines):
        raise EncodingRejected("a checkpoint is an origin, a size and a root, a line each")
    root = _unbase64(lines[2])
    if len(root) != HASH_BYTES:
        raise EncodingRejected(f"a checkpoint's root has {HASH_BYTES} bytes")
    head = Checkpoint(lines[0], _size(lines[1]), root, tuple(lines[3:]))
    return _if_it_writes_back(head, Checkpoint.text, text)


def make_request(old: int, proof: Sequence[bytes], note: Note) -> bytes:
    """Return what a log shows its witness: the size that the witness knows, a consistency proof from it, the note."""
    lines = [f"old {old}", *map(_base64, proof), "", ""]
    return "\n".join(lines).encode() + note.encode()


def parse_request(data: bytes) -> tuple[int, list[bytes], Note]:
    """Return the size, the proof and the note of a request. Raises EncodingRejected for any other bytes."""
    head, _, rest = _utf8(data).partition("\n\n")
    first, *lines = head.split("\n")
    if not first.startswith("old ") or len(lines) > PROOF_LIMIT:
        raise EncodingRejected("a request to a witness begins with `old` and a size, and at most 63 hashes")
    proof = [_unbase64(line) for line in lines]
    if any(len(one) != HASH_BYTES for one in proof):
        raise EncodingRejected(f"every hash of a consistency proof has {HASH_BYTES} bytes")
    parsed = _size(first.removeprefix("old ")), proof, parse_note(rest.encode())
    return _if_it_writes_back(parsed, lambda one: make_request(*one), data)


def _own(note: Note, name: str, kind: int, public_hex: str) -> NoteSignature:
    wanted = (name, key_id(name, kind, public_hex))
    found = [one for one in note.signatures if (one.name, one.key_id) == wanted]
    if len(found) != 1:
        raise SignatureRejected("a note carries no signature, or more than one, of the key that is expected")
    return found[0]


def _cosigned(text: str, seconds: int) -> bytes:
    return f"cosignature/v1\ntime {seconds}\n{text}".encode()


def _parse_signature(line: str) -> NoteSignature:
    dash, name, value = line[:2], *line[2:].partition(" ")[::2]
    data = _unbase64(value)
    if dash != _DASH or not name or "+" in name or any(map(str.isspace, name)) or len(data) <= _KEY_ID_BYTES:
        raise EncodingRejected("a signature line is a dash, a key's name without spaces or plus, and base64")
    return NoteSignature(name, data[:_KEY_ID_BYTES], data[_KEY_ID_BYTES:])


def _utf8(data: bytes) -> str:
    if len(data) > NOTE_LIMIT_BYTES:
        raise EncodingRejected(f"a note has at most {NOTE_LIMIT_BYTES} bytes, this one {len(data)}")
    try:
        text = bytes(data).decode()
    except UnicodeDecodeError:
        raise EncodingRejected("a note is UTF-8 text") from None
    if any(one < " " and one != "\n" for one in text):
        raise EncodingRejected("a note holds no control characters but line feeds")
    return text


def _size(digits: str) -> int:
    is_plain = digits.isascii() and digits.isdigit() and len(digits) <= len(str(SIZE_LIMIT))
    if not is_plain or str(int(digits)) != digits or int(digits) >= SIZE_LIMIT:
        raise EncodingRejected("a size is a decimal number below 2^63 without leading zeroes")
    return int(digits)


def parse_size(data: bytes) -> int:
    """Return the size that a witness names when it cannot cosign: one decimal line. Raises EncodingRejected otherwise."""
    text = _utf8(data)
    return _if_it_writes_back(_size("".join(takewhile(str.isdigit, text))), lambda size: f"{size}\n", text)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _unbase64(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise EncodingRejected("a line that should be base64 is none") from None
    if _base64(data) != text:
        raise EncodingRejected("a line of base64 is not in its one form")
    return data


def _if_it_writes_back(value: Parsed, write: Callable[[Parsed], object], data: object) -> Parsed:
    if write(value) != data:
        raise EncodingRejected("a note is not in the one form that it would be written in")
    return value
