"""What a gate is asked with: one type a subject, as many values a column as rows."""

from collections.abc import Mapping, Sequence
from typing import Any

from lianxin.federation.errors import InputFault
from lianxin.parties.decision import SUBJECT_TYPES, ReleaseRequest
from lianxin.parties.identifiers import subject_type_of


def types_of(firms: Sequence[str], subject_types: Sequence[str] | None) -> dict[str, str]:
    """Return each distinct firm's type, by default read off its identifier. Raises InputFault for types that do not fit."""
    if subject_types is None:
        return {firm: subject_type_of(firm) for firm in firms}
    if len(subject_types) != len(firms) or not set(subject_types) <= set(SUBJECT_TYPES):
        raise InputFault("a release needs one subject type a row, each of ENT, IND and NP")
    types = dict(zip(firms, subject_types, strict=True))
    if any(types[firm] != kind for firm, kind in zip(firms, subject_types, strict=True)):
        raise InputFault("two rows of one firm have different subject types; correct the table")
    return types


def check_shape(
    contract: Mapping[str, Any], request: ReleaseRequest, firms: Sequence[str], columns: Mapping[str, Sequence[Any]]
) -> None:
    """Raise InputFault when a requested column is missing or lengths differ."""
    identifiers = {listed["field"] for listed in contract.get("fields", ()) if listed["use"] == "identifier"}
    for name in request.fields:
        if name not in columns and name not in identifiers:
            raise InputFault(f"field {name} is requested and the table has no column of it; bind one or ask for less")
        if name in columns and len(columns[name]) != len(firms):
            raise InputFault(f"the column of field {name} has another number of rows than the list of firms")
