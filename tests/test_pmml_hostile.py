"""A PMML file from anywhere: refused in bounded memory, by one sentence, unless it is a scorecard of the known form."""

import random
import resource
from dataclasses import replace
from typing import Any
from unittest import mock
from xml.etree import ElementTree as ET

import pytest
from pmml_engine import cards
from torture import repeats

from lianxin.federation.errors import InputFault
from lianxin.federation.points import FeaturePoints
from lianxin.federation.reasons import Reason
from lianxin.parties import scorecard_pmml_reader as reader
from lianxin.parties.coding import BinSpec
from lianxin.parties.scorecard_card import Calibration, Card, Part
from lianxin.parties.scorecard_export import export_card, load_card

# ---- hostile files


BOMB = (
    '<?xml version="1.0"?><!DOCTYPE PMML [<!ENTITY a "0000000000"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    "<PMML>&b;</PMML>"
)
HOSTILE = {
    "entities": BOMB.encode(),
    "external": b'<!DOCTYPE PMML SYSTEM "file:///etc/passwd"><PMML/>',
    "parameter": b'<!DOCTYPE PMML [<!ENTITY % x SYSTEM "http://127.0.0.1:9/x"> %x;]><PMML/>',
    "deep": b"<PMML>" * 5000,
    "many": b"<PMML>" + b"<x/>" * (reader.MOST_ELEMENTS + 1) + b"</PMML>",
    "open": b"<PMML>",
    "text": b"<PMML version='4.4'>",
    "namespace": b'<PMML xmlns="http://www.dmg.org/PMML-4_2" version="4.2"/>',
    "empty": b'<PMML version="4.4" xmlns="http://www.dmg.org/PMML-4_4"/>',
    "utf7": b'<?xml version="1.0" encoding="utf-7"?><PMML/>',
    "null": b"<PMML>\x00</PMML>",
    "huge": b"<PMML>" + b" " * reader.LARGEST_BYTES + b"</PMML>",
}


@pytest.mark.parametrize("case", sorted(HOSTILE))
def test_a_hostile_file_is_refused_in_bounded_memory(case, tmp_path):
    (tmp_path / "card.pmml").write_bytes(HOSTILE[case])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputFault) as refused:
        load_card(tmp_path / "card.pmml")
    assert "passwd" not in str(refused.value) and len(str(refused.value)) < 200
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024  # KiB


def test_without_the_refusal_of_document_types_the_entities_grow():
    assert len(BOMB) < 200

    class Trusting:
        """An expat parser whose handlers for document types and entities are never set."""

        def __init__(self, inner: Any) -> None:
            object.__setattr__(self, "inner", inner)

        def __setattr__(self, name: str, value: Any) -> None:
            if name not in ("StartDoctypeDeclHandler", "EntityDeclHandler", "ExternalEntityRefHandler"):
                setattr(self.inner, name, value)

        def Parse(self, data: bytes, final: bool) -> None:
            self.inner.Parse(data, final)

    create = reader.expat.ParserCreate
    with mock.patch.object(reader.expat, "ParserCreate", lambda **options: Trusting(create(**options))):
        root = reader.parse(BOMB.encode())
    assert root.text == "0" * 100
    with pytest.raises(InputFault, match="document type"):
        reader.parse(BOMB.encode())


def test_a_characteristic_of_too_many_values_and_predicates_is_refused_soon():
    card = cards(1)[0]
    spec = BinSpec("numeric", tuple(float(k) for k in range(2500)), (), (*range(2501), 0))
    feature = FeaturePoints("a", tuple(range(2501)), (1,) * 2501)
    wide = replace(card, bins=(spec,), reasons=(Reason(1, "B-01", "a", "a"),), bank_only=None,
                   joint=replace(card.joint, features=(feature,)))  # fmt: skip
    data = export_card(wide, "pmml", "0")
    with pytest.raises(InputFault, match="more values and predicates"):
        reader.from_pmml(data)


EDITS = {
    "operator": (b'operator="lessOrEqual"', b'operator="lessThan"', "compares values"),
    "predicate": (b"<True />", b"<False />", "predicate False"),
    "uncovered": (b"<True />", b'<SimplePredicate field="word" operator="equal" value="z" />', "leaves values"),
    "fraction": (b'initialScore="538"', b'initialScore="538.5"', "not whole"),
    "vast": (b'initialScore="538"', b'initialScore="1e99"', "not whole numbers"),
    "nan": (b'value="4.3"', b'value="nan"', "no scorecard of the form"),
    "infinite": (b'value="4.3"', b'value="1e999"', "no scorecard of the form"),
    "formula": (b'function="floor"', b'function="ceil"', "in another way"),
    "chance": (b'function="exp"', b'function="ln"', "chance of default in another way"),
    "missing": (b'value="NA"', b'value="-1"', "calls other values missing"),
    "twice": (b"</Characteristics>", b"</Characteristics><Characteristics/>", "2 elements Characteristics"),
    "fact": (b'name="bad_rate_micro"', b'name="other"', "no scorecard of the form"),
    "quote": (b'"shop"</Array>', b'"shop</Array>', "no scorecard of the form"),
    "multiplier": (b">1402480<", b">14024.5<", "no whole number of millionths"),
    "two-fields": (b'field="word" operator="isMissing"', b'field="number" operator="isMissing"', "no scorecard"),
}


def plain_card() -> Card:
    number, word = BinSpec("numeric", (4.3,), (), (0, 1, 0)), BinSpec("text", (), ("shop",), (0, 1, 1))
    features = (FeaturePoints("number", (5, -7), (1, 1)), FeaturePoints("word", (3, 0), (1, 1)))
    part = Part(538, 1_402_480, features, Calibration(18_399_637, -37_573_321, 147_783))
    reasons = (Reason(1, "B-01", "number", "a number"), Reason(2, "B-02", "word", "a word"))
    return Card(
        "run-1",
        "bank-1",
        "platform",
        "ab" * 32,
        "2027-01-01T00:00:00Z",
        20,
        600,
        50,
        (number, word),
        reasons,
        (),
        36,
        7,
        part,
        None,
    )


@pytest.mark.parametrize("case", sorted(EDITS))
def test_a_document_that_needs_more_than_this_reader_knows_is_refused_by_name(case):
    data, (old, new, words) = export_card(plain_card(), "pmml", "0"), EDITS[case]
    assert old in data
    with pytest.raises(InputFault, match=words):
        reader.from_pmml(data.replace(old, new))


def test_other_ways_of_writing_the_same_card_are_read():
    data = export_card(plain_card(), "pmml", "0")
    bare = data.replace(b'"shop"</Array>', b"shop</Array>").replace(b'initialScore="538"', b'initialScore="538.0"')
    extended = bare.replace(b'<Attribute partialScore="5">', b'<Attribute partialScore="5"><Extension name="x"/>')
    utf16 = data.decode().replace('encoding="UTF-8"', 'encoding="UTF-16"').encode("utf-16")
    values = {"number": [1.0, 9.0, None], "word": ["shop", "mill", None]}
    expected = plain_card().score(values, [1, 2, 3])
    for document in (data, extended, utf16):
        assert reader.from_pmml(document).score(values, [1, 2, 3]) == expected


def test_random_damage_ends_in_a_card_or_in_one_sentence():
    data, draw = bytearray(export_card(plain_card(), "pmml", "0")), random.Random(2)
    for _ in repeats("pmml-damage", 1500):
        broken = bytearray(data)
        for _ in range(draw.randint(1, 3)):
            place = draw.randrange(len(broken))
            broken[place : place + draw.randint(0, 4)] = draw.randbytes(draw.randint(0, 3))
        try:
            reader.from_pmml(bytes(broken))
        except InputFault as fault:
            assert len(str(fault)) < 300


def test_the_array_reader_reads_what_the_standard_says():
    element = ET.Element("Array")
    for text, expected in {
        '"a" "b c"': ["a", "b c"], "a  b\n c": ["a", "b", "c"], r'"say \"hi\""': ['say "hi"'], "": [], '""': [""],
    }.items():  # fmt: skip
        element.text = text
        assert reader._array(element) == expected
