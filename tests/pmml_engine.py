"""A PMML engine of its own, written from the standard, and made-up cards with rows that lie on and beside their edges.

It shares nothing with the package: it walks the XML as an engine does, attribute by attribute, with three-valued
predicates.
"""

import math
import random
import shlex
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree as ET

from lianxin.federation.points import FeaturePoints
from lianxin.federation.reasons import Reason
from lianxin.parties.coding import BinSpec
from lianxin.parties.scorecard_card import Calibration, Card, Part
from lianxin.parties.scorecard_pmml import NAMESPACE

NS = "{" + NAMESPACE + "}"
TEXTS = ("shop", "farm shop", 'in "quotes"', "back\\slash", " blank ", "中文", "<&>'", "a,b", "x" * 70)


# ---- an engine, from the standard


class Engine:
    """Scores one row at a time: `score(row)` is (total, chance of default), None where the standard has no score."""

    def __init__(self, data: bytes) -> None:
        root = ET.fromstring(data)
        self.model = root.find(f"{NS}Scorecard")
        self.types = {f.attrib["name"]: f for f in root.iter(f"{NS}DataField")}
        self.schema = {f.attrib["name"]: f for f in root.iter(f"{NS}MiningField")}

    def score(self, row: dict[str, Any]) -> tuple[float, float] | None:
        values = {name: self._value(name, row.get(name)) for name in self.schema}
        if any(v is None and self.schema[n].get("missingValueTreatment") == "returnInvalid" for n, v in values.items()):
            return None
        total = float(self.model.get("initialScore", "0"))
        for characteristic in self.model.iter(f"{NS}Characteristic"):
            attribute = next((a for a in characteristic if _holds(a[0], values) is True), None)
            if attribute is None:
                return None
            found = attribute.find(f"{NS}ComplexPartialScore")
            total += float(attribute.attrib["partialScore"]) if found is None else _apply(found[0], values)
        (chance,) = [f for f in self.model.iter(f"{NS}OutputField") if f.get("feature") == "transformedValue"]
        return total, _apply(chance[0], {"score": total})

    def _value(self, name: str, value: Any) -> Any:
        entry = self.types[name]
        if value is None or str(value) in [v.get("value") for v in entry if v.get("property") == "missing"]:
            return None
        if entry.get("optype") == "categorical":
            return str(value)
        is_number = isinstance(value, (int, float)) and not math.isnan(value)
        return float(value) if is_number else None  # invalidValueTreatment="asMissing"


def _holds(predicate: ET.Element, values: dict[str, Any]) -> bool | None:
    kind = predicate.tag.removeprefix(NS)
    if kind == "True":
        return True
    if kind == "CompoundPredicate":
        parts = [_holds(p, values) for p in predicate]
        if predicate.get("booleanOperator") == "or":
            return True if True in parts else None if None in parts else False
        return False if False in parts else None if None in parts else True
    value, operator = values[predicate.attrib["field"]], predicate.get("operator")
    if operator in ("isMissing", "isNotMissing"):
        return (value is None) == (operator == "isMissing")
    if value is None:
        return None
    if kind == "SimpleSetPredicate":
        assert predicate.get("booleanOperator") == "isIn" and predicate[0].get("type") == "string"
        texts = shlex.split(predicate[0].text or "")
        assert len(texts) == int(predicate[0].attrib["n"])
        return value in texts
    other = predicate.attrib["value"] if isinstance(value, str) else float(predicate.attrib["value"])
    return {"equal": value == other, "greaterThan": value > other, "lessOrEqual": value <= other}[operator]


def _apply(expression: ET.Element, values: dict[str, Any]) -> float:
    kind = expression.tag.removeprefix(NS)
    if kind == "Constant":
        return float(expression.text)
    if kind == "FieldRef":
        return float(values[expression.attrib["field"]])
    functions: dict[str, Callable[..., float]] = {
        "+": lambda a, b: a + b, "*": lambda a, b: a * b, "/": lambda a, b: a / b, "floor": math.floor, "exp": math.exp,
    }  # fmt: skip
    return functions[expression.attrib["function"]](*(_apply(e, values) for e in expression))


# ---- made-up cards


def made_up(draw: random.Random) -> Card:
    specs = [_numeric(draw) if draw.random() < 0.6 else _text(draw) for _ in range(draw.randint(1, 5))]
    names = [f"field {k}" if k % 2 else f"域{k}" for k in range(len(specs))]
    features = tuple(
        FeaturePoints(name, tuple(draw.randint(-90, 90) for _ in range(spec.count)), (1,) * spec.count)
        for name, spec in zip(names, specs, strict=True)
    )
    line = Calibration(draw.randint(-9_000_000, 9_000_000), draw.randint(-60_000_000, -1), draw.randint(1, 999_999))
    multiplier = draw.choice([draw.randint(1, 2_500_000), 1_000_000, 500_000, -draw.randint(1, 900_000)])
    joint = Part(draw.randint(-500, 900), multiplier, features, line)
    reasons = tuple(Reason(k, f"B-{k:02d}", name, f"text & <{k}>") for k, name in enumerate(names, start=1))
    return Card("run-1", "bank-1", "platform", "ab" * 32, "2027-01-01T00:00:00Z", 20, 600, 50, tuple(specs), reasons, (),
                30, 5, joint,
                replace(joint, multiplier_micro=0))  # fmt: skip


def _numeric(draw: random.Random) -> BinSpec:
    uppers = tuple(
        sorted({draw.choice([draw.uniform(-9, 9), float(draw.randint(-3, 3))]) for _ in range(draw.randint(0, 6))})
    )
    special = tuple(draw.sample([-999.0, 0.0, 0.1, -1.0, 1e-9], draw.choice([0, 0, 1, 2])))
    return BinSpec("numeric", uppers, (), _groups(draw, len(uppers) + 2 + len(special)), special)


def _text(draw: random.Random) -> BinSpec:
    categories = tuple(draw.sample(TEXTS, draw.randint(0, 6)))
    return BinSpec("text", (), categories, _groups(draw, len(categories) + 2))


def _groups(draw: random.Random, cells: int) -> tuple[int, ...]:
    drawn = [draw.randrange(max(1, cells - 1)) for _ in range(cells)]
    order = list(dict.fromkeys(drawn))
    return tuple(order.index(g) for g in drawn)


def row_of(draw: random.Random, card: Card) -> dict[str, Any]:
    row: dict[str, Any] = {"platform_points": draw.randint(-461, 461)}
    for name, spec in zip(card.fields, card.bins, strict=True):
        edges = [*spec.uppers, *spec.special]
        near = [f(e) for e in edges for f in (float, _up, lambda v: math.nextafter(v, -math.inf))]
        choices = [None, draw.uniform(-12, 12), 1e300, -1e300, *near]
        row[name] = draw.choice(choices if spec.kind == "numeric" else [None, *TEXTS, "unseen", "中文 "])
    return row


def _up(value: float) -> float:
    return math.nextafter(value, math.inf)


def scored_by_card(card: Card, row: dict[str, Any]) -> tuple[int, int]:
    (score,) = card.score({name: [row[name]] for name in card.fields}, [row["platform_points"]])
    return score.score, score.pd_micro


def cards(count: int, seed: int = 7) -> list[Card]:
    draw = random.Random(seed)
    return [made_up(draw) for _ in range(count)]
