import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torture import cases

from lianxin.crypto import canonical
from lianxin.crypto.errors import EncodingRejected

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=8).map(
    lambda text: unicodedata.normalize("NFC", text)
)
INTEGERS = st.integers(-(2**53) + 1, 2**53 - 1)
VALUES = st.recursive(
    TEXT | INTEGERS | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
RECORDS = st.dictionaries(TEXT, VALUES, max_size=4).map(lambda d: {**d, "type": "leaf", "version": 1})


def variants(record: dict) -> list[dict]:
    """Return the record, and four others: its keys in the other order, and it inside another record, in a list, deeper."""
    frame = {"type": "leaf", "version": 1}
    turned = dict(reversed(record.items()))
    return [
        record,
        turned,
        {**frame, "inner": record},
        {**frame, "inner": [turned, record]},
        {**frame, "deeper": {"inner": {"": record}}},
    ]


@cases(per_example=5)
@given(RECORDS)
def test_decoding_undoes_encoding(record: dict) -> None:
    for one in variants(record):
        assert canonical.decode(canonical.encode(one)) == one


@cases(per_example=8)
@given(RECORDS, st.lists(st.integers(0, 1 << 16), min_size=8, max_size=8))
def test_bytes_that_decode_re_encode_to_the_same_bytes(record: dict, flips: list[int]) -> None:
    encoded = canonical.encode(record)
    for flip in flips:
        changed = bytearray(encoded)
        changed[flip // 8 % len(changed)] ^= 1 << flip % 8
        try:
            decoded = canonical.decode(bytes(changed))
        except EncodingRejected:
            continue
        assert canonical.encode(decoded) == bytes(changed)


def test_keys_are_sorted_by_utf_16_units_and_text_is_escaped_as_in_rfc_8785() -> None:
    record = {"\ufb33": 1, "\U0001f600": 2, "€": 3, "\r": 4, "1": 5, "\x80": 6, "ö": '\x0f\n"\\/\x7f'}
    expected = '{"\\r":4,"1":5,"\x80":6,"ö":"\\u000f\\n\\"\\\\/\x7f","€":3,"😀":2}'
    with pytest.raises(EncodingRejected):
        canonical.encode(record)  # U+FB33 is a composition exclusion: not in NFC
    del record["\ufb33"]
    assert canonical.encode(record) == expected.encode()
    assert canonical.encode({"￼": 1, "😀": 2}) == '{"😀":2,"￼":1}'.encode()


GOOD = b'{"a":1,"type":"leaf","version":1}'
BAD_BYTES = {
    "a duplicate key": b'{"a":1,"a":1,"type":"leaf","version":1}',
    "a space": b'{"a": 1,"type":"leaf","version":1}',
    "keys out of order": b'{"type":"leaf","a":1,"version":1}',
    "an escaped letter": b'{"a":"\\u0041","type":"leaf","version":1}',
    "a float": b'{"a":1.5,"type":"leaf","version":1}',
    "an exponent": b'{"a":1e3,"type":"leaf","version":1}',
    "a whole float": b'{"a":1.0,"type":"leaf","version":1}',
    "negative zero": b'{"a":-0,"type":"leaf","version":1}',
    "null": b'{"a":null,"type":"leaf","version":1}',
    "NaN": b'{"a":NaN,"type":"leaf","version":1}',
    "2^53": b'{"a":9007199254740992,"type":"leaf","version":1}',
    "minus 2^53": b'{"a":-9007199254740992,"type":"leaf","version":1}',
    "five thousand digits": b'{"a":' + b"9" * 5000 + b',"type":"leaf","version":1}',
    "a decomposed letter": '{"a":"e\u0301","type":"leaf","version":1}'.encode(),
    "a decomposed key": '{"e\u0301":1,"type":"leaf","version":1}'.encode(),
    "a lone surrogate": b'{"a":"\\ud800","type":"leaf","version":1}',
    "invalid UTF-8": b'{"a":"\xff","type":"leaf","version":1}',
    "a byte order mark": b"\xef\xbb\xbf" + GOOD,
    "a line end": GOOD + b"\n",
    "two objects": GOOD + GOOD,
    "a list": b'["leaf",1]',
    "nothing": b"",
    "too many levels": b'{"a":' + b"[" * 40 + b"]" * 40 + b',"type":"leaf","version":1}',
    "ten thousand levels": b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b',"type":"leaf","version":1}',
    "no type": b'{"a":1,"version":1}',
    "no version": b'{"a":1,"type":"leaf"}',
    "version true": b'{"a":1,"type":"leaf","version":true}',
    "version zero": b'{"a":1,"type":"leaf","version":0}',
    "an empty type": b'{"a":1,"type":"","version":1}',
}


@pytest.mark.parametrize("data", BAD_BYTES.values(), ids=BAD_BYTES)
def test_bytes_that_are_not_the_one_encoding_are_refused(data: bytes) -> None:
    assert canonical.decode(GOOD)["a"] == 1
    with pytest.raises(EncodingRejected):
        canonical.decode(data)


def test_a_fragment_needs_no_type_but_is_held_to_the_same_bytes() -> None:
    assert canonical.decode_fragment(b'{"a":1}') == {"a": 1}
    with pytest.raises(EncodingRejected):
        canonical.decode_fragment(b'{"a":1,"a":1}')


@pytest.mark.parametrize("value", [1.0, None, b"x", 2**53, {1: 2}, "e\u0301", {"a": {1}}], ids=repr)
def test_values_without_a_canonical_form_are_refused(value: object) -> None:
    with pytest.raises(EncodingRejected):
        canonical.encode({"a": value})


def test_a_refusal_never_repeats_the_value() -> None:
    with pytest.raises(EncodingRejected) as refused:
        canonical.decode(b'{"secret-91110000600037341L":1.5}')
    assert "91110000600037341L" not in str(refused.value)


def test_a_plain_json_parser_would_take_what_is_refused_here() -> None:
    taken = [name for name, data in BAD_BYTES.items() if _is_json(data)]
    assert len(taken) > 15


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True
