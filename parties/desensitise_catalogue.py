"""Policy and catalogue: whether a policy calls a column what it is, and a first policy for the owner to review.

Roles come from the catalogue's identifier role, transforms from its class, its release and its advice for fields that
nobody authorised. A column that the catalogue does not know is dropped. Edges of bands are taken from the values and
rounded to two significant digits, so that no edge is somebody's exact figure; values are listed only for columns that
have three or fewer. The result names the table's columns by `schema_hash`: with another column it is refused.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Any

import tomli_w

from lianxin.federation.errors import InputFault
from lianxin.parties.decision import Catalogue, Field
from lianxin.parties.desensitise import as_text
from lianxin.parties.desensitise_numbers import number, written
from lianxin.parties.desensitise_policy import Policy, schema_hash
from lianxin.parties.desensitise_text import date, industry, plain, region
from lianxin.parties.desensitise_transforms import Drop

_ROLES = {"DI": "identifier", "QI": "quasi", "SA": "sensitive", "NI": "other"}
_BANDS = 5
_MOST_LEVELS = 3
_LEAST_OF_A_LEVEL = 20
_EDGE = Context(prec=2, rounding=ROUND_HALF_EVEN)
_PLAIN_NUMBER_SHARE = 10  # one value in ten may be no number
DROP = {"transform": "drop"}
_ALLOWED = {
    "DI": ("identifier",),
    "QI": ("identifier", "quasi"),
    "SA": ("identifier", "quasi", "sensitive"),
    "NI": ("identifier", "quasi", "sensitive", "other"),
}


def check_roles(policy: Policy, catalogue: Catalogue) -> None:
    """Raise InputFault for a column that stays and is called less than the catalogue's field of its name is.

    A field that is never released is dropped; a direct identifier is no quasi-identifier, and so on downwards.
    """
    for rule in policy.rules:
        field = catalogue.get(rule.column)
        if field is None or isinstance(rule, Drop):
            continue
        if field.class_ == "BAN" or field.default_release == "NEVER":
            raise InputFault(f"column {rule.column} is never released in the catalogue (R20); drop it")
        if rule.role not in _ALLOWED[field.id_role]:
            wanted = _ROLES[field.id_role]
            raise InputFault(
                f"column {rule.column} is {wanted} in the catalogue, {rule.role} in the policy; correct it"
            )


def suggest_policy(
    catalogue: Catalogue, columns: Mapping[str, Sequence[object]], project: str = "name-the-project",
    model: str = "agreement",
) -> str:  # fmt: skip
    """Return a policy's TOML text with an entry for every column. Raises InputFault for a table without columns."""
    if not columns:
        raise InputFault("the table has no column to suggest anything for")
    head = {"project": project, "model": model, "schema_hash": schema_hash(list(columns))}
    fields = [_entry(name, values, catalogue.get(name)) for name, values in columns.items()]
    return _NOTE + tomli_w.dumps({"policy": head, "field": fields})


_NOTE = """# A suggestion from the catalogue. Read every entry: what a column may tell of whom, nobody else knows.
# Measure it with `lianxin desensitise --report-only` before it is used.

"""


def _entry(name: str, values: Sequence[object], field: Field | None) -> dict[str, Any]:
    if field is None:
        return {"column": name, "role": "other", **DROP}
    texts = [text for value in values if (text := as_text(value))]
    return {"column": name, "role": _ROLES[field.id_role], **_transform(field, texts)}


def _transform(field: Field, texts: Sequence[str]) -> dict[str, Any]:
    """Return the transform of a known field; what cannot be coarsened by a rule is dropped."""
    advice = field.transform
    if field.class_ == "BAN" or field.default_release == "NEVER" or advice == "drop" or not texts:
        return DROP
    if field.id_role == "DI":
        return {"transform": "pseudonym"} if field.id == "uscc" else DROP
    if advice.startswith("coarsen"):
        return _levels(texts) or _bands(texts, _MOST_LEVELS) or DROP
    if field.id_role == "QI" or advice != "none":
        return _generalised(field, texts)
    return {"transform": "keep"}


def _generalised(field: Field, texts: Sequence[str]) -> dict[str, Any]:
    if all(region(text, 4) for text in texts) and "region" in field.id:
        return {"transform": "region", "digits": 4}
    if all(industry(text, 1) for text in texts) and "industry" in field.id:
        return {"transform": "industry", "characters": 1}
    if all(date(text, "year") for text in texts):
        return {"transform": "date", "period": "year"}
    return _bands(texts, _BANDS) or _levels(texts) or DROP


def _bands(texts: Sequence[str], bands: int) -> dict[str, Any]:
    """Return bands of about equally many values, {} when the column is not numeric or has too few values."""
    values = sorted(value for text in texts if (value := number(text)) is not None)
    if len(values) * _PLAIN_NUMBER_SHARE < len(texts) * (_PLAIN_NUMBER_SHARE - 1):
        return {}
    cuts = [values[len(values) * place // bands] for place in range(1, bands)]
    edges = sorted({_EDGE.plus(cut) for cut in cuts})
    edges = [edge for edge in edges if values[0] < edge <= values[-1]]
    return {"transform": "band", "edges": [_toml(edge) for edge in edges]} if edges else {}


def _toml(edge: Decimal) -> int | str:
    text = written(edge)
    return int(text) if text.lstrip("-").isdecimal() and len(text) < 16 else text


def _levels(texts: Sequence[str]) -> dict[str, Any]:
    """Return each value as its own level where there are at most three, none of them rare; else {}."""
    counts = Counter(map(plain, texts))
    if len(counts) > _MOST_LEVELS or min(counts.values()) < _LEAST_OF_A_LEVEL:
        return {}
    return {"transform": "coarsen", "levels": {value: [value] for value in sorted(counts)}}
