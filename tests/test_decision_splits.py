"""The rule book in mode SPLITS: on which side of a model's cuts a firm lies is told by consent, not by a measured grade."""

from typing import Any

import consents as w
import pytest
from test_decision import PHONE, graded, outcome

CUT = {"request": {"mode": "SPLITS"}}
REFUSALS = [
    ("R03", "sides of a cut by a consent to a score", {"fields": ("staff_count",), **CUT, "consents": [{}]}),
    ("R39", "sides of a cut by a grade and no consent",
     {**graded("staff_count"), "request": {"mode": "SPLITS", "grade": "g"}}),
    ("R39", "sides of a cut of a compute-only secret",
     {"fields": ("pwr_kwh_12m",), **CUT, "consents": [{"mode": "PLAINTEXT"}]}),
    ("R12", "sides of a cut of a compute-only sensitive field", {"fields": ("key_person_id_no",), **CUT}),
    ("R02", "sides of a cut of an unpublished open field without consent", {"fields": ("size_class",), **CUT}),
    ("R09", "sides of a cut of personal information without separate consent",
     {"fields": ("contact_phone",), **CUT, "consents": [{**PHONE, "mode": "DESENSITISED"}]}),
    ("R04", "sides of a cut after a withdrawal",
     {"fields": ("staff_count",), **CUT, "consents": [{"mode": "DESENSITISED"}], "more": [w.revocation_record()]}),
]  # fmt: skip
RIGHTS = [
    ("OPEN", "sides of a cut of a published field", {"fields": ("est_date",), **CUT}),
    ("CONSENT", "sides of a cut by a consent to the desensitised mode, without a grade",
     {"fields": ("staff_count", "size_class"), **CUT,
      "consents": [{"mode": "DESENSITISED", "fields": ["size_class", "staff_count"]}]}),
    ("CONSENT", "sides of a cut of a person's phone by separate consent",
     {"fields": ("contact_phone",), **CUT, "consents": [{**w.PERSON, **PHONE, "mode": "DESENSITISED"}]}),
]  # fmt: skip


@pytest.mark.rule("R02", "R03", "R04", "R09", "R12", "R39")
@pytest.mark.parametrize(("rule", "why", "case"), REFUSALS, ids=[why for _, why, _ in REFUSALS])
def test_sides_of_cuts_without_a_right_are_refused_by_their_rule(rule: str, why: str, case: dict[str, Any]) -> None:
    assert outcome(case) == (False, rule)


@pytest.mark.rule("R19", "R22")
@pytest.mark.parametrize(("right", "why", "case"), RIGHTS, ids=[why for _, why, _ in RIGHTS])
def test_sides_of_cuts_with_a_right_are_allowed_by_it(right: str, why: str, case: dict[str, Any]) -> None:
    assert outcome(case) == (True, right)
