"""A bank's scorecard as PMML 4.4 (Data Mining Group), model element Scorecard, for the bank's own decision engine.

One characteristic a feature, one for the platform's sub-score, which the engine gets as the field `platform_points`:

    total = initialScore + Σ partial scores;  the platform's part is ⌊(multiplier · platform_points + 500,000) / 10^6⌋

An attribute is a bin, or a part of one: engines take the first attribute that holds, so special numbers come first, then
missing, then intervals (low < x ≤ high) or sets of categories, and the bin of all other categories last. Categories that
a PMML array cannot hold without doubt (quotes, backslashes, outer blanks) are compared one by one. A row without
`platform_points` meets no attribute and has no score, as the standard says: export the bank-only card beside it.

Reason codes are those of the card; PMML also ranks characteristics that lost nothing, the card does not. The output
field `probability_of_default` is 1 / (1 + e^-(a + b·score)).
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from xml.etree import ElementTree as ET

from lianxin.federation.errors import InputFault
from lianxin.federation.points import FeaturePoints
from lianxin.federation.reasons import SUB_SCORE, SUB_SCORE_TEXT, TOP, Reason
from lianxin.parties.coding import BinSpec
from lianxin.parties.records import MISSING_TEXTS
from lianxin.parties.scorecard_card import BILLION, MILLION, PLATFORM_POINTS, Calibration, Card

NAMESPACE = "http://www.dmg.org/PMML-4_4"
CHANCE = "probability_of_default"
SCALE_FACTS = (
    "run",
    "bank",
    "platform",
    "contract",
    "retain_until",
    "points_to_double_odds",
    "base_score",
    "base_odds",
)
_NOT_XML = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_DOUBTFUL = re.compile(r"[\"\\\t\n]|^\s|\s$|^$")
Element = ET.Element


def to_pmml(card: Card, version: str) -> bytes:
    """Return the card's joint part as a PMML document in UTF-8; `version` is this program's.

    Raises InputFault for a card without a characteristic and for text that XML cannot hold.
    """
    if not card.reasons and not card.joint.multiplier_micro:
        raise InputFault(f"the scorecard of run {card.run} has no feature and no sub-score; there is nothing to export")
    root = Element("PMML", {"xmlns": NAMESPACE, "version": "4.4"})
    root.append(_header(card, version))
    root.append(_dictionary(card))
    root.append(_scorecard(card))
    for element in root.iter():
        for text in (element.text or "", *element.attrib.values()):
            if _NOT_XML.search(text):
                raise InputFault(
                    f"the scorecard of run {card.run} has a control character in a text; export it as JSON"
                )
    ET.indent(root)
    return b'<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="utf-8") + b"\n"


def _add(parent: Element, tag: str, **attributes: object) -> Element:
    return ET.SubElement(parent, tag, {name: str(value) for name, value in attributes.items()})


def _header(card: Card, version: str) -> Element:
    header = Element("Header", {"description": f"Scorecard of {card.bank}, run {card.run}; higher is safer"})
    for name in SCALE_FACTS:
        _add(header, "Extension", extender="lianxin", name=name, value=getattr(card, name))
    bad_rate = card.joint.calibration.bad_rate_micro
    _add(header, "Extension", extender="lianxin", name="bad_rate_micro", value=bad_rate)
    _add(header, "Application", name="Lianxin", version=version.removeprefix("lianxin "))
    return header


def _dictionary(card: Card) -> Element:
    with_platform = bool(card.joint.multiplier_micro)
    dictionary = Element("DataDictionary", {"numberOfFields": str(len(card.reasons) + with_platform)})
    if with_platform:
        _add(dictionary, "DataField", name=PLATFORM_POINTS, displayName=SUB_SCORE_TEXT, optype="continuous",
             dataType="integer")  # fmt: skip
    for reason, spec in zip(card.reasons, card.bins, strict=True):
        kind = ("continuous", "double") if spec.kind == "numeric" else ("categorical", "string")
        entry = _add(dictionary, "DataField", name=reason.field, displayName=reason.text, optype=kind[0],
                     dataType=kind[1])  # fmt: skip
        for text in MISSING_TEXTS:
            _add(entry, "Value", value=text, property="missing")
    return dictionary


def _scorecard(card: Card) -> Element:
    part = card.joint
    model = Element("Scorecard", {
        "modelName": f"{card.run}-{card.bank}", "functionName": "regression", "algorithmName": "weight of evidence",
        "initialScore": str(part.base_points), "useReasonCodes": "true", "reasonCodeAlgorithm": "pointsBelow",
        "baselineMethod": "max",
    })  # fmt: skip
    schema = _add(model, "MiningSchema")
    if part.multiplier_micro:
        _add(schema, "MiningField", name=PLATFORM_POINTS, usageType="active", missingValueTreatment="returnInvalid",
             invalidValueTreatment="returnInvalid")  # fmt: skip
    for name in card.fields:
        _add(schema, "MiningField", name=name, usageType="active", invalidValueTreatment="asMissing")
    model.append(_output(part.calibration, len(card.fields) + bool(part.multiplier_micro)))
    characteristics = _add(model, "Characteristics")
    if part.multiplier_micro:
        characteristics.append(_platform_part(part.multiplier_micro, card.platform_best))
    for reason, spec, feature in zip(card.reasons, card.bins, part.features, strict=True):
        characteristics.append(_characteristic(reason, spec, feature))
    return model


def _output(calibration: Calibration, characteristics: int) -> Element:
    output = Element("Output")
    _add(output, "OutputField", name="score", optype="continuous", dataType="double", feature="predictedValue")
    chance = _add(
        output, "OutputField", name=CHANCE, optype="continuous", dataType="double", feature="transformedValue"
    )
    intercept, slope = decimal(-calibration.intercept_micro, MILLION), decimal(-calibration.slope_nano, BILLION)
    exponent = _apply("+", _constant(intercept), _apply("*", _constant(slope), _field("score")))
    chance.append(_apply("/", _constant("1"), _apply("+", _constant("1"), _apply("exp", exponent))))
    for rank in range(1, min(TOP, characteristics) + 1):
        _add(output, "OutputField", name=f"reason_{rank}", rank=rank, feature="reasonCode", optype="categorical",
             dataType="string")  # fmt: skip
    return output


def decimal(value: int, scale: int) -> str:
    """Return value / scale, a power of ten, as an exact decimal."""
    digits = len(str(scale)) - 1
    whole, rest = divmod(abs(value), scale)
    return f"{'-' if value < 0 else ''}{whole}.{rest:0{digits}d}"


def _apply(function: str, *arguments: Element) -> Element:
    element = Element("Apply", {"function": function})
    element.extend(arguments)
    return element


def _constant(text: str) -> Element:
    element = Element("Constant", {"dataType": "double"})
    element.text = text
    return element


def _field(name: str) -> Element:
    return Element("FieldRef", {"field": name})


def _platform_part(multiplier_micro: int, best: int) -> Element:
    element = Element(
        "Characteristic",
        {"name": f"{PLATFORM_POINTS}_part", "reasonCode": SUB_SCORE, "baselineScore": str(best)},
    )
    attribute = _add(element, "Attribute")
    _add(attribute, "SimplePredicate", field=PLATFORM_POINTS, operator="isNotMissing")
    product = _apply("*", _constant(str(multiplier_micro)), _field(PLATFORM_POINTS))
    halved = _apply("+", product, _constant(str(MILLION // 2)))
    _add(attribute, "ComplexPartialScore").append(_apply("floor", _apply("/", halved, _constant(str(MILLION)))))
    return element


def _characteristic(reason: Reason, spec: BinSpec, feature: FeaturePoints) -> Element:
    element = Element(
        "Characteristic",
        {"name": f"{reason.field}_part", "reasonCode": reason.code, "baselineScore": str(feature.best)},
    )
    for bin_, predicate in _attributes(reason.field, spec):
        _add(element, "Attribute", partialScore=feature.points[bin_]).append(predicate)
    return element


def _attributes(name: str, spec: BinSpec) -> Iterator[tuple[int, Element]]:
    """Yield (bin, predicate) in the order in which an engine has to try them."""
    values = len(spec.uppers if spec.kind == "numeric" else spec.categories)
    missing = values + 1
    for bin_, places in _by_bin(spec, range(missing + 1, len(spec.groups))):
        yield bin_, _any([_simple(name, "equal", repr(spec.special[p - missing - 1])) for p in places])
    yield spec.groups[missing], _simple(name, "isMissing")
    if spec.kind == "numeric":
        for bin_, places in _by_bin(spec, range(missing)):
            yield bin_, _any([_interval(name, spec, run) for run in _runs(places)])
        return
    for bin_, places in _by_bin(spec, range(values)):
        yield bin_, _any(list(_categories(name, [spec.categories[p] for p in places])))
    yield spec.groups[values], Element("True")


def _by_bin(spec: BinSpec, cells: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
    for bin_ in sorted({spec.groups[cell] for cell in cells}):
        yield bin_, [cell for cell in cells if spec.groups[cell] == bin_]


def _runs(cells: Sequence[int]) -> list[list[int]]:
    groups = itertools.groupby(enumerate(cells), lambda pair: pair[1] - pair[0])
    return [[cell for _, cell in run] for _, run in groups]


def _interval(name: str, spec: BinSpec, run: Sequence[int]) -> Element:
    low = [_simple(name, "greaterThan", repr(spec.uppers[run[0] - 1]))] if run[0] else []
    high = [_simple(name, "lessOrEqual", repr(spec.uppers[run[-1]]))] if run[-1] < len(spec.uppers) else []
    return _compound("and", [*low, *high]) if low or high else _simple(name, "isNotMissing")


def _categories(name: str, texts: Sequence[str]) -> Iterator[Element]:
    plain = [text for text in texts if not _DOUBTFUL.search(text)]
    if plain:
        element = Element("SimpleSetPredicate", {"field": name, "booleanOperator": "isIn"})
        _add(element, "Array", n=len(plain), type="string").text = " ".join(f'"{text}"' for text in plain)
        yield element
    for text in texts:
        if text not in plain:
            yield _simple(name, "equal", text)


def _any(predicates: Sequence[Element]) -> Element:
    return _compound("or", predicates)


def _compound(operator: str, predicates: Sequence[Element]) -> Element:
    if len(predicates) == 1:
        return predicates[0]
    element = Element("CompoundPredicate", {"booleanOperator": operator})
    element.extend(predicates)
    return element


def _simple(name: str, operator: str, value: str | None = None) -> Element:
    return Element(
        "SimplePredicate", {"field": name, "operator": operator} | ({} if value is None else {"value": value})
    )
