"""The purposes P1..P8 as data: what may be asked for each, whether names may appear, and how long a consent may last.

A request is fields for a purpose (Personal Information Protection Law 6, rule R01): a class or a category that the
purpose does not list is refused, whatever a contract or a consent says. Training (P4) is not approval (P2): each has a
code of its own. The ceilings on a consent's length and number of uses are this program's own choice, not the law's;
they are judged when a consent is submitted. Pure: standard library only, since the auditor decides with it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

_FIRM, _ALL = frozenset({"PUB", "LIM", "BIZ"}), frozenset({"PUB", "LIM", "BIZ", "PI", "SPI"})
_MATCHING = frozenset(
    f"C{number:02}" for number in (1, 3, 6, 7, *range(13, 22), 24)
)  # what a loan product asks of a firm


@dataclass(frozen=True, slots=True)
class Purpose:
    """One purpose. `categories` are the first words of catalogue categories, None for every one; `names`: may published
    names of persons appear (R11); `duty`: is what a director does in office no personal information here (R19);
    `persons`: may a natural person's row be released (R29); `days` and `uses` (0: unlimited) are a consent's ceilings.
    """

    code: str
    title: str
    classes: frozenset[str]
    days: int
    uses: int = 0
    names: bool = False
    duty: bool = False
    persons: bool = True
    categories: frozenset[str] | None = None

    def admits(self, class_: str, category: str = "") -> bool:
        """Return whether fields of this class and category may be asked for at all."""
        words = category.split()
        is_listed = self.categories is None or (words[0] if words else "") in self.categories
        return class_ in self.classes and is_listed


_LISTED = (
    Purpose("P1", "pre-loan examination", _ALL, days=30, names=True, duty=True),
    Purpose("P2", "loan approval", _ALL, days=30, uses=1, names=True, duty=True),
    Purpose("P3", "post-loan monitoring", _ALL - {"SPI"}, days=1200, uses=40, names=True, duty=True),
    Purpose("P4", "joint model training", _ALL, days=730),
    Purpose("P5", "model validation", _ALL, days=365),
    Purpose("P6", "product matching", _FIRM, days=180, categories=_MATCHING),
    Purpose("P7", "statistics and feedback", _FIRM, days=365, persons=False),
    Purpose("P8", "objection handling", _ALL, days=90, uses=20, names=True, duty=True),
)
PURPOSES: Mapping[str, Purpose] = {purpose.code: purpose for purpose in _LISTED}


def ceiling_fault(record: Mapping[str, Any]) -> str:
    """Return one sentence saying how a consent lasts longer or is used oftener than its purpose allows, else "".

    Read are `purpose`, `not_before`, `expires_at` and `max_uses`; total: what cannot be read is a fault.
    """
    purpose = PURPOSES.get(_text(record, "purpose"))
    if purpose is None:
        return f"purpose is none of {', '.join(PURPOSES)}; name one of them"
    length = _length(record)
    if length is None or length <= timedelta(0):
        return "not_before and expires_at are not two times in this order; write YYYY-MM-DDTHH:MM:SSZ"
    if length > timedelta(days=purpose.days):
        return f"a consent for {purpose.code} lasts at most {purpose.days} days; bring expires_at nearer to not_before"
    return _uses_fault(record.get("max_uses", 0), purpose)


def check_ceiling(record: Mapping[str, Any]) -> str:
    """Return the rule that a consent beyond its purpose's ceilings breaks: R01 (no such purpose), R38, or ""."""
    if not ceiling_fault(record):
        return ""
    return "R38" if _text(record, "purpose") in PURPOSES else "R01"


def _uses_fault(uses: Any, purpose: Purpose) -> str:
    if type(uses) is not int or uses < 0:
        return "max_uses is no count; leave it out or write a whole number from 1"
    if purpose.uses and not 1 <= uses <= purpose.uses:
        return f"a consent for {purpose.code} is for at most {purpose.uses} uses; set max_uses accordingly"
    return ""


def _text(record: Mapping[str, Any], key: str) -> str:
    value = record.get(key)
    return value if isinstance(value, str) else ""


def _length(record: Mapping[str, Any]) -> timedelta | None:
    try:
        begin, end = (
            datetime.strptime(_text(record, key), "%Y-%m-%dT%H:%M:%SZ") for key in ("not_before", "expires_at")
        )
    except ValueError:
        return None
    return end - begin
