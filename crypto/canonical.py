"""Canonical JSON: the one byte string of a record, so that two honest parties always sign and hash the same bytes.

RFC 8785, restricted to what needs no interpretation (docs/records.md): strings in NFC, booleans, integers below 2^53 in
absolute value, lists and objects; no floats, no null, no lone surrogates, at most `MAX_DEPTH` levels. Keys are sorted
by their UTF-16 code units. A record also has a `type` (text) and a `version` (integer from 1).

Decoding is the inverse of encoding and of nothing else: bytes that decode to a value whose encoding differs (spaces,
duplicate keys, `\\u0041`, `-0`, `1.0`) are refused, so no two byte strings stand for one record.
"""

import hashlib
import json
import sys
import unicodedata
from typing import Any, NoReturn

from lianxin.crypto.errors import EncodingRejected

INTEGER_LIMIT = 2**53
MAX_DEPTH = 32
_INTEGER_DIGITS = len(str(INTEGER_LIMIT))
_WRITER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False, check_circular=False)


def encode(record: dict[str, Any]) -> bytes:
    """Return the canonical bytes of `record`, which may also be a fragment (an object without type and version).

    Raises EncodingRejected when a value has no canonical form.
    """
    if not isinstance(record, dict):
        raise EncodingRejected("a record is an object; pass a dict")
    return _WRITER.encode(_canonical_object(record, MAX_DEPTH)).encode()


def decode(data: bytes) -> dict[str, Any]:
    """Return the record that `data` is the canonical encoding of.

    Raises EncodingRejected for any other bytes, and for an object without `type` and `version`.
    """
    record = decode_fragment(data)
    check_record(record)
    return record


def decode_fragment(data: bytes) -> dict[str, Any]:
    """Return the object that `data` is the canonical encoding of; `type` and `version` may be missing.

    Raises EncodingRejected for any other bytes.
    """
    try:
        value = json.loads(
            bytes(data).decode("utf-8"),
            object_pairs_hook=_object_of_distinct_keys,
            parse_int=_parse_integer,
            parse_float=_refuse_number,
            parse_constant=_refuse_number,
        )
    except (ValueError, RecursionError):
        raise EncodingRejected("the bytes are not UTF-8 JSON of a sane depth; send canonical JSON") from None
    if encode(value) != data:
        raise EncodingRejected("the bytes are not the canonical encoding of what they say; re-encode them (RFC 8785)")
    return value


def record_hash(record: dict[str, Any]) -> str:
    """Return the SHA-256 of the record's canonical bytes, in hex. Raises EncodingRejected as `encode` does."""
    return hashlib.sha256(encode(record)).hexdigest()


def check_record(record: dict[str, Any]) -> None:
    """Raise EncodingRejected unless `record` has a non-empty text `type` and an integer `version` of at least 1."""
    kind, version = record.get("type"), record.get("version")
    if not isinstance(kind, str) or not kind:
        raise EncodingRejected("a record has a text field `type`; this one does not")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise EncodingRejected("a record has an integer field `version` of at least 1; this one does not")


def _canonical(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return value if value.isascii() else _canonical_text(value)
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return _canonical_integer(value)
    if isinstance(value, dict):
        return _canonical_object(value, depth)
    if isinstance(value, list | tuple):
        _check_depth(depth)
        return [_canonical(item, depth - 1) for item in value]
    raise EncodingRejected(f"a value of type {type(value).__name__} has no canonical form; use text or an integer")


def _canonical_object(value: dict[str, Any], depth: int) -> dict[str, Any]:
    _check_depth(depth)
    try:
        is_plain = "".join(value).isascii()
    except TypeError:
        raise EncodingRejected("the keys of an object are text") from None
    keys = sorted(value) if is_plain else sorted(map(_canonical_text, value), key=_utf16_units)
    ordered = {}
    for key in keys:  # most values are plain text or small numbers: those need no walk
        item = value[key]
        kind = type(item)
        is_done = item.isascii() if kind is str else kind is int and -INTEGER_LIMIT < item < INTEGER_LIMIT
        ordered[key] = item if is_done else _canonical(item, depth - 1)
    return ordered


def _canonical_text(text: str) -> str:
    if text.isascii():
        return text
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise EncodingRejected("a text holds a lone surrogate, which UTF-8 cannot carry")
    if not unicodedata.is_normalized("NFC", text):
        raise EncodingRejected("a text is not in Unicode normal form C; normalise it before it is signed")
    return text


def _canonical_integer(value: int) -> int:
    if not -INTEGER_LIMIT < value < INTEGER_LIMIT:
        raise EncodingRejected("an integer is not below 2^53 in absolute value; write it as text")
    return int(value)


def _utf16_units(text: str) -> bytes:
    return text.encode("utf-16-be")


def _check_depth(depth: int) -> None:
    if depth <= 0:
        raise EncodingRejected(f"a record nests more than {MAX_DEPTH} levels deep")


def _object_of_distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = {sys.intern(key): _shared(item) for key, item in pairs}
    if len(value) != len(pairs):
        raise EncodingRejected("an object names one key twice")
    return value


def _shared(item: Any) -> Any:
    """Return short texts as one shared object: a registry holds the same names and times many thousand times."""
    if type(item) is str and len(item) <= 64:
        return sys.intern(item)
    return [_shared(one) for one in item] if type(item) is list else item


def _parse_integer(digits: str) -> int:
    if len(digits.lstrip("-")) > _INTEGER_DIGITS:
        raise EncodingRejected("an integer is not below 2^53 in absolute value; write it as text")
    return int(digits)


def _refuse_number(_digits: str) -> NoReturn:
    raise EncodingRejected("a number is not an integer; write it as text or in a smaller unit")
