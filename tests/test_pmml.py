"""PMML 4.4: an engine written from the standard (`pmml_engine`) scores what Lianxin wrote, and so does what is read back.

`ORDER` holds the children that PMML 4.4's schema wants, in its order, for each element that is used.
"""

import random
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from pmml_engine import NS, Engine, cards, made_up, row_of, scored_by_card
from torture import repeats

from lianxin.federation.errors import InputFault
from lianxin.federation.points import FeaturePoints
from lianxin.federation.reasons import Reason
from lianxin.parties.coding import BinSpec, fit_bins
from lianxin.parties.scorecard_card import Part
from lianxin.parties.scorecard_export import export_card, load_card
from lianxin.parties.scorecard_pmml import decimal

ORDER = {
    "PMML": ["Header", "DataDictionary", "Scorecard"],
    "Header": ["Extension", "Application"],
    "DataDictionary": ["DataField"],
    "DataField": ["Value"],
    "Scorecard": ["MiningSchema", "Output", "Characteristics"],
    "MiningSchema": ["MiningField"],
    "Output": ["OutputField"],
    "OutputField": ["Apply"],
    "Characteristics": ["Characteristic"],
    "Characteristic": ["Attribute"],
    "Attribute": ["SimplePredicate|CompoundPredicate|SimpleSetPredicate|True", "ComplexPartialScore"],
    "ComplexPartialScore": ["Apply"],
    "SimpleSetPredicate": ["Array"],
}
REQUIRED = {
    "PMML": {"version"}, "DataField": {"name", "optype", "dataType"}, "Value": {"value"}, "MiningField": {"name"},
    "Scorecard": {"functionName"}, "OutputField": {"name"}, "SimplePredicate": {"field", "operator"},
    "CompoundPredicate": {"booleanOperator"}, "SimpleSetPredicate": {"field", "booleanOperator"},
    "Array": {"type"}, "Apply": {"function"}, "FieldRef": {"field"}, "Extension": set(), "Application": {"name"},
}  # fmt: skip


# ---- the same scores


def test_an_engine_scores_every_row_as_the_card_does():
    draw = random.Random(11)
    for _ in repeats("pmml-engine", 60):
        card = made_up(draw)
        engine = Engine(export_card(card, "pmml", "0.4.0"))
        for row in (row_of(draw, card) for _ in range(20)):
            total, chance = engine.score(row)
            expected = scored_by_card(card, row)
            assert (total, round(chance * 10**6)) == expected, (row, card)


def test_a_card_from_pmml_scores_every_row_as_the_one_that_was_exported(tmp_path):
    draw = random.Random(12)
    for _ in repeats("pmml-round-trip", 60):
        card = made_up(draw)
        path = tmp_path / "card.pmml"
        path.write_bytes(export_card(card, "pmml", "0.4.0"))
        again = load_card(path)
        assert again.bank_only is None and again.joint.calibration == card.joint.calibration
        rows = [row_of(draw, card) for _ in range(20)]
        columns = {name: [row[name] for row in rows] for name in card.fields}
        points = [row["platform_points"] for row in rows]
        assert again.score(columns, points) == card.score(columns, points)


def test_a_row_without_platform_points_has_no_score_in_pmml_and_the_bank_only_card_has_one():
    card = cards(1)[0]
    row = row_of(random.Random(1), card) | {"platform_points": None}
    assert Engine(export_card(card, "pmml", "0")).score(row) is None
    total, _ = Engine(export_card(card.without_platform(), "pmml", "0")).score(row)
    (score,) = card.score({name: [row[name]] for name in card.fields}, [None])
    assert total == score.score


def test_the_mean_as_baseline_needs_the_rows_that_pmml_does_not_hold(tmp_path):
    card = cards(1)[0]
    (tmp_path / "card").write_bytes(export_card(card, "pmml", "0"))
    columns = {name: [None] for name in card.fields}
    assert card.score(columns, [0], against="mean")
    with pytest.raises(InputFault, match="use the JSON export"):
        load_card(tmp_path / "card").score(columns, [0], against="mean")


def test_an_edited_attribute_counts(tmp_path):
    """What is read is the attributes themselves, not a copy of the card beside them."""
    spec = BinSpec("numeric", (2.0,), (), (0, 1, 0))
    card = replace(cards(1)[0], bins=(spec,), reasons=(Reason(1, "B-01", "a", "a"),))
    part = replace(card.joint, features=(FeaturePoints("a", (5, -7), (1, 1)),))
    card = replace(card, joint=part, bank_only=None)
    data = export_card(card, "pmml", "0").replace(b'partialScore="-7"', b'partialScore="-9"')
    (tmp_path / "card").write_bytes(data)
    again = load_card(tmp_path / "card")
    assert again.score({"a": [3.0]}, [0])[0].score == card.score({"a": [3.0]}, [0])[0].score - 2


# ---- the standard's form


def test_the_elements_stand_in_the_schemas_order_with_what_it_requires():
    for card in cards(40):
        root = ET.fromstring(export_card(card, "pmml", "0.4.0"))
        assert root.tag == f"{NS}PMML" and root.get("version") == "4.4"
        for element in root.iter():
            name = element.tag.removeprefix(NS)
            assert element.tag.startswith(NS) and set(element.attrib) >= REQUIRED.get(name, set())
            if name in ORDER:
                _in_order(name, [child.tag.removeprefix(NS) for child in element])


def _in_order(name: str, children: list[str]) -> None:
    places = [next((k for k, names in enumerate(ORDER[name]) if child in names.split("|")), -1) for child in children]
    assert -1 not in places and places == sorted(places), (name, children)


def test_names_are_distinct_and_every_field_is_declared_before_its_use():
    for card in cards(20):
        root = ET.fromstring(export_card(card, "pmml", "0.4.0"))
        declared = [f.attrib["name"] for f in root.iter(f"{NS}DataField")]
        outputs = [f.attrib["name"] for f in root.iter(f"{NS}OutputField")]
        assert len({*declared, *outputs}) == len(declared) + len(outputs)
        assert int(root.find(f"{NS}DataDictionary").attrib["numberOfFields"]) == len(declared)
        used = {e.attrib["field"] for e in root.iter() if "field" in e.attrib}
        assert used <= {*declared, "score"}
        for characteristic in root.iter(f"{NS}Characteristic"):
            assert {"reasonCode", "baselineScore"} <= set(characteristic.attrib)
            assert len({e.attrib["field"] for e in characteristic.iter() if "field" in e.attrib}) == 1


def test_every_characteristic_ends_in_an_attribute_for_whatever_is_left():
    """No value is without an attribute: the engine above never met one, and the reader proves it cell by cell."""
    for card in cards(30):
        draw = random.Random(5)
        engine = Engine(export_card(card, "pmml", "0"))
        assert all(engine.score(row_of(draw, card)) is not None for _ in range(10))


def test_a_decimal_is_exact():
    assert [decimal(v, 10**6) for v in (0, 1, -1, 1_500_000, -12_000_001)] == [
        "0.000000", "0.000001", "-0.000001", "1.500000", "-12.000001",
    ]  # fmt: skip


def test_what_xml_cannot_hold_is_refused_by_name():
    card = cards(1)[0]
    bad = replace(card, reasons=(replace(card.reasons[0], text="a\x00b"), *card.reasons[1:]))
    with pytest.raises(InputFault, match="control character"):
        export_card(bad, "pmml", "0")
    assert export_card(bad, "csv", "0")
    nothing = replace(card, bins=(), reasons=(), joint=Part(1, 0, (), card.joint.calibration))
    with pytest.raises(InputFault, match="nothing to export"):
        export_card(nothing, "pmml", "0")


def test_bins_that_the_owner_fitted_go_through(tmp_path):
    draw = random.Random(3)
    values: list[Any] = [draw.choice([None, 0, 0, 0, draw.gauss(0, 3)]) for _ in range(2000)]
    spec = fit_bins(values, 8, 50)
    base = cards(1)[0]
    feature = FeaturePoints("a", tuple(range(spec.count)), (1,) * spec.count)
    card = replace(base, bins=(spec,), reasons=(Reason(1, "B-01", "a", "a"),), bank_only=None,
                   joint=replace(base.joint, features=(feature,)))  # fmt: skip
    (tmp_path / "card").write_bytes(export_card(card, "pmml", "0"))
    again, zeros = load_card(tmp_path / "card"), [0] * len(values)
    assert again.score({"a": values}, zeros) == card.score({"a": values}, zeros)
