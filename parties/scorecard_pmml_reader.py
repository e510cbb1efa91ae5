"""Reading a scorecard back from PMML 4.4, of the form that `scorecard_pmml` writes, from a file that is not trusted.

The document is parsed by expat in pieces, within limits of size, depth and number of elements; a document type, and with
it every entity, is refused when it begins. Nothing is fetched. Attributes are read as predicates and tried in their
order on one value of every cell (each interval, category, special number, missing, any other), so that an edited file
scores as it says: PMML's truth has three values, and a comparison with a missing one is unknown.

Of the rest of the standard nothing is read, and a document that needs it is refused by name.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any
from xml.etree import ElementTree as ET
from xml.parsers import expat

from lianxin.federation.errors import InputFault
from lianxin.federation.points import POINT_LIMIT, FeaturePoints
from lianxin.federation.reasons import SUB_SCORE, Reason, plain_text
from lianxin.parties.coding import BinSpec
from lianxin.parties.records import MISSING_TEXTS
from lianxin.parties.scorecard_card import BILLION, MILLION, PLATFORM_POINTS, Calibration, Card, Part
from lianxin.parties.scorecard_pmml import CHANCE, NAMESPACE

LARGEST_BYTES = 16 * 1024 * 1024
DEEPEST, MOST_ELEMENTS, MOST_TESTS = 32, 200_000, 4_000_000
_PIECE = 64 * 1024
_OTHER = "\x00any other"  # no text of a document: XML has no zero byte
Element = ET.Element
Truth = bool | None


def parse(data: bytes) -> Element:
    """Return the document's root, names without their namespace. Raises InputFault for what is refused (see above)."""
    if len(data) > LARGEST_BYTES:
        raise InputFault(f"the PMML file is larger than {LARGEST_BYTES >> 20} MiB; a scorecard is not")
    tree, state = ET.TreeBuilder(), [0, 0]

    def start(name: str, attributes: dict[str, str]) -> None:
        state[0] += 1
        state[1] += 1
        if state[0] > DEEPEST or state[1] > MOST_ELEMENTS:
            raise InputFault("the PMML file is nested too deeply or has too many elements for a scorecard")
        tree.start(name.removeprefix(NAMESPACE + " "), attributes)

    def end(name: str) -> None:
        state[0] -= 1
        tree.end(name.removeprefix(NAMESPACE + " "))

    def refuse(*_: object) -> int:
        raise InputFault("the PMML file has a document type or entities; export it without them")

    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, tree.data
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = parser.ExternalEntityRefHandler = refuse
    try:
        for place in range(0, len(data), _PIECE):
            parser.Parse(data[place : place + _PIECE], False)
        parser.Parse(b"", True)
    except (expat.ExpatError, LookupError, ValueError):  # the latter two are encodings that expat does not know
        raise InputFault("the PMML file is no well-formed XML in UTF-8; export it again") from None
    return tree.close()


def from_pmml(data: bytes) -> Card:
    """Return the card of a PMML document. It holds no bank-only card, no codes of the platform and no rows a bin.

    Raises InputFault for a document that is none, is another model, or uses what this reader does not know.
    """
    root = parse(data)
    try:
        return _card(root)
    except (KeyError, ValueError, TypeError, IndexError, AttributeError, ArithmeticError):
        raise InputFault("the PMML file is no scorecard of the form that Lianxin writes; export it again") from None


def _card(root: Element) -> Card:
    if root.tag != "PMML" or root.get("version") != "4.4":
        raise InputFault(f"the file is no PMML 4.4 document in the namespace {NAMESPACE}")
    facts = {e.attrib["name"]: e.attrib["value"] for e in _one(root, "Header").findall("Extension")}
    model = _one(root, "Scorecard")
    types = {e.attrib["name"]: e for e in _one(root, "DataDictionary").findall("DataField")}
    own, platform = _characteristics(model, types)
    part = Part(
        _points(model.get("initialScore", "0")), platform[0], tuple(feature for _, _, feature in own),
        _calibration(_one(model, "Output"), int(facts["bad_rate_micro"])),
    )  # fmt: skip
    return Card(
        facts["run"], facts["bank"], facts["platform"], facts["contract"], facts["retain_until"],
        int(facts["points_to_double_odds"]), int(facts["base_score"]), int(facts["base_odds"]),
        tuple(spec for _, spec, _ in own), tuple(reason for reason, _, _ in own), (), platform[1], platform[1], part, None,
    )  # fmt: skip


def _one(parent: Element, tag: str) -> Element:
    found = parent.findall(tag)
    if len(found) != 1:
        raise InputFault(f"the PMML file has {len(found)} elements {tag} where a scorecard has one")
    return found[0]


def _points(text: str) -> int:
    value = Decimal(text)
    if value != value.to_integral_value() or abs(value) > POINT_LIMIT:
        raise InputFault("the PMML file has points that are not whole numbers of a sensible size")
    return int(value)


def _characteristics(
    model: Element, types: Mapping[str, Element]
) -> tuple[list[tuple[Reason, BinSpec, FeaturePoints]], tuple[int, int]]:
    """Return the own characteristics, and (multiplier, best points) of the platform's, 0 and 0 without one."""
    own, platform = [], (0, 0)
    for number, element in enumerate(_one(model, "Characteristics").findall("Characteristic"), start=1):
        if element.get("reasonCode") == SUB_SCORE:
            platform = (_multiplier(element), _points(element.get("baselineScore", "0")))
        else:
            own.append(_own(number, element, types))
    return own, platform


def _multiplier(element: Element) -> int:
    attribute = _one(element, "Attribute")
    predicate, score = _one(attribute, "SimplePredicate"), _one(attribute, "ComplexPartialScore")
    multiplier, half, million = _numbers(score)
    shape = [e.get("function") or e.get("field") for e in score.iter() if e.tag in ("Apply", "FieldRef")]
    known = shape == ["floor", "/", "+", "*", PLATFORM_POINTS] and [half, million] == [
        Decimal(MILLION // 2),
        Decimal(MILLION),
    ]
    if not known or predicate.get("operator") != "isNotMissing":
        raise InputFault(f"the PMML file computes the part of {PLATFORM_POINTS} in another way than Lianxin does")
    return _points_of(multiplier)


def _numbers(element: Element) -> list[Decimal]:
    return [Decimal((e.text or "").strip()) for e in element.iter("Constant")]


def _points_of(value: Decimal) -> int:
    if value != value.to_integral_value() or abs(value) >= 1 << 53:
        raise InputFault("the PMML file has a multiplier that is no whole number of millionths")
    return int(value)


def _calibration(output: Element, bad_rate_micro: int) -> Calibration:
    (field,) = [e for e in output.findall("OutputField") if e.get("name") == CHANCE]
    one, also_one, intercept, slope = _numbers(field)
    shape = [e.get("function") or e.get("field") for e in field.iter() if e.tag in ("Apply", "FieldRef")]
    if shape != ["/", "+", "exp", "+", "*", "score"] or not one == also_one == Decimal(1):
        raise InputFault("the PMML file computes the chance of default in another way than Lianxin does")
    return Calibration(_points_of(-intercept * MILLION), _points_of(-slope * BILLION), bad_rate_micro)


def _own(number: int, element: Element, types: Mapping[str, Element]) -> tuple[Reason, BinSpec, FeaturePoints]:
    attributes = [(_predicate(a), _points(a.attrib["partialScore"])) for a in element.findall("Attribute")]
    (name,) = {e.attrib["field"] for e in element.iter() if "field" in e.attrib}
    kind = "numeric" if types[name].get("optype") == "continuous" else "text"
    absent = {e.get("value") for e in types[name].findall("Value") if e.get("property") == "missing"}
    if absent - set(MISSING_TEXTS):
        raise InputFault("the PMML file calls other values missing than an empty cell and NA")
    spec, points = _bins(name, kind, element, attributes)
    text = plain_text(types[name].get("displayName") or name)
    reason = Reason(number, element.attrib["reasonCode"], name, text)
    return reason, spec, FeaturePoints(name, points, (0,) * len(points))


Predicate = Callable[[Any], Truth]


def _bins(
    name: str, kind: str, element: Element, attributes: Sequence[tuple[Predicate, int]]
) -> tuple[BinSpec, tuple[int, ...]]:
    """Return the bins that the attributes amount to, each with its own number of points."""
    if kind == "numeric":
        uppers = sorted({_number(value) for value in _values(element, "greaterThan", "lessOrEqual")})
        special = sorted({_number(value) for value in _values(element, "equal")})
        cells: list[Any] = [*uppers, math.inf, None, *special]
        between = _clear_of(uppers, special)
        cells[: len(between)] = between
        shape = BinSpec(kind, tuple(uppers), (), (), tuple(special))
    else:
        categories = tuple(sorted({*_values(element, "equal"), *_set_texts(element)}))
        cells, shape = [*categories, _OTHER, None], BinSpec(kind, (), categories, ())
    if len(cells) * sum(1 for _ in element.iter()) > MOST_TESTS:
        raise InputFault(
            f"in the PMML file the characteristic of {name} has more values and predicates than a scorecard"
        )
    earned = [_first(name, attributes, cell) for cell in cells]
    order = list(dict.fromkeys(earned))
    groups = tuple(order.index(points) for points in earned)
    return replace(shape, groups=groups), tuple(order)


def _clear_of(uppers: Sequence[float], special: Sequence[float]) -> list[float]:
    """Return a value inside each interval that is no special number."""
    found = []
    lows = [-math.inf, *uppers]
    for low, high in zip(lows, [*uppers, math.inf], strict=True):
        value = high
        while value in special:
            value = math.nextafter(value, -math.inf)
        if value <= low and low != -math.inf:
            value = high  # nothing but special numbers is in it
        found.append(value)
    return found


def _first(name: str, attributes: Sequence[tuple[Predicate, int]], value: Any) -> int:
    for predicate, points in attributes:
        if predicate(value) is True:
            return points
    raise InputFault(f"in the PMML file the characteristic of {name} leaves values without an attribute")


def _values(element: Element, *operators: str) -> Iterator[str]:
    for simple in element.iter("SimplePredicate"):
        if simple.get("operator") in operators:
            yield simple.attrib["value"]


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("an edge is a finite number")
    return value


def _set_texts(element: Element) -> list[str]:
    return [text for array in element.iter("Array") for text in _array(array)]


def _array(array: Element) -> list[str]:
    """Return the texts of a PMML string array: in quotes, a quote inside behind a backslash, or bare."""
    text, found, place = array.text or "", list[str](), 0
    while place < len(text):
        if text[place].isspace():
            place += 1
            continue
        if text[place] != '"':
            end = next((k for k in range(place, len(text)) if text[k].isspace()), len(text))
            found.append(text[place:end])
            place = end + 1
            continue
        end = place + 1
        while text[end] != '"':
            end += 2 if text[end] == "\\" else 1
        found.append(text[place + 1 : end].replace('\\"', '"'))
        place = end + 1
    return found


def _predicate(attribute: Element) -> Predicate:
    (element,) = [e for e in attribute if e.tag != "Extension"]
    return _read_predicate(element)


def _read_predicate(element: Element) -> Predicate:
    if element.tag == "True":
        return lambda value: True
    if element.tag == "SimpleSetPredicate" and element.get("booleanOperator") == "isIn":
        texts = frozenset(_array(_one(element, "Array")))
        return lambda value: None if value is None else value in texts
    if element.tag == "CompoundPredicate" and element.get("booleanOperator") in ("and", "or"):
        return _compound(element.attrib["booleanOperator"] == "and", [_read_predicate(e) for e in element])
    if element.tag == "SimplePredicate":
        return _simple(element.attrib["operator"], element.get("value", ""))
    raise InputFault(f"the PMML file has a predicate {plain_text(element.tag)[:40]}, which this reader does not know")


def _compound(is_and: bool, parts: Sequence[Predicate]) -> Predicate:
    def holds(value: Any) -> Truth:
        found = [part(value) for part in parts]
        if (not is_and) in found:
            return not is_and
        return None if None in found else is_and

    return holds


def _simple(operator: str, text: str) -> Predicate:
    if operator in ("isMissing", "isNotMissing"):
        return lambda value: (value is None) == (operator == "isMissing")
    tests: dict[str, Callable[[Any], bool]] = {
        "equal": lambda value: value == text if isinstance(value, str) else value == float(text),
        "greaterThan": lambda value: value > float(text),
        "lessOrEqual": lambda value: value <= float(text),
    }
    if operator not in tests:
        raise InputFault("the PMML file compares values in a way that this reader does not know")
    return lambda value: None if value is None else tests[operator](value)
