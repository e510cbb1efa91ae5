"""Whether a measured grade lets a field cross desensitised (R22): the one judgement of grade records, gate and auditor's.

A grade record says what a provider's table was worth after a policy's transforms, under one sharing model (GB/T 42460,
annex D): no class of equal rows above the model's threshold, and an overall risk of at most one in twenty. A recipient
that is a party to a contract is served by the models `agreement` and `public`. Pure, as `decision` is.

The measure assumes that nobody is told whose a row is. An answer to a query names the firm, so that a column which the
measure left out is that firm's own: by name (step `query.answer`) leave only the columns that were measured as quasi-
identifiers, whose value every firm of a class shares (the record's `quasi`). And a value that is kept as it is was not
desensitised, whatever grade the table has, unless the law publishes it (docs/adr/0009).
"""

from collections.abc import Mapping

from lianxin.parties.decision_catalogue import Record

HIGHEST_RISK_PPM = 50_000  # 0.05
SHARED_WITH_A_PARTY = ("agreement", "public")
DROPPED = "drop"  # a column that the policy drops is nothing that could cross
KEPT = "keep"
BY_NAME = "query.answer"


def transform_of(
    field_id: str, provider: str, grade: str, grades: Mapping[str, Record] | None, class_: str = "", step: str = ""
) -> str:
    """Return the transform by which the field may cross under the grade of hash `grade`; "" when R22 refuses it.

    Refused are no grade, one not accepted, of another provider or without the field, and a sharing model that does not
    fit; a field not of `class_` PUB that is kept as it is; at `step` `query.answer`, a field that the grade did not
    measure as a quasi-identifier. `grades` maps the hash of each record to the record; total for records of any content.
    """
    record = (grades or {}).get(grade) if grade else None
    if not isinstance(record, Mapping) or not _is_accepted(record) or record.get("provider") != provider:
        return ""
    fields = record.get("fields")
    transform = fields.get(field_id) if isinstance(fields, Mapping) else None
    if not isinstance(transform, str) or transform == DROPPED or (transform == KEPT and class_ != "PUB"):
        return ""
    return transform if step != BY_NAME or _is_shared(field_id, record) else ""


def _is_shared(field_id: str, record: Record) -> bool:
    """Whether the grade says that a whole class of rows has each value of the field."""
    quasi = record.get("quasi")
    return isinstance(quasi, list | tuple) and field_id in quasi


def _is_accepted(record: Record) -> bool:
    risk, above = record.get("risk_ppm"), record.get("classes_above_ppm")
    is_low = type(risk) is int and 0 <= risk <= HIGHEST_RISK_PPM and type(above) is int and above == 0
    is_grade = record.get("type") == "desensitisation-grade" and record.get("accepted") is True
    return is_grade and is_low and record.get("model") in SHARED_WITH_A_PARTY
