"""Reason codes: which features cost a firm the most points, said without a value.

A feature's code is a letter for its party and its place among the party's features of the run contract, counted from 1:
`A-07` is the platform's seventh, `B-02` the bank's second. The contract is known to both, so a code crosses as one small
integer, and nothing else about the feature does: no value, no bin, no number of points. Only features on which
points were lost have a code (it is adverse, or it is none), most lost first, and equal losses in the order of the names.

Where both parties have codes, the platform's come as a list in its order, without the losses behind them. The bank
knows what the firm lost on the platform's sub-score as a whole; the k-th of the platform's codes can have lost at most
a k-th of it, and takes its place in the common order with that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lianxin.federation.contract import RunContract
from lianxin.federation.errors import InputFault

PLATFORM_LETTER, BANK_LETTER = "A", "B"
TOP = 4
SUB_SCORE = "A-00"
SUB_SCORE_TEXT = "the credit platform's score as a whole"
_CODE_LIMIT = 10_000
_TEXT_LIMIT = 200


@dataclass(frozen=True)
class Reason:
    """One entry of a code table: the number that crosses, the code that is printed, the field, a plain text."""

    number: int
    code: str
    field: str
    text: str

    def to_record(self) -> dict[str, Any]:
        """Return the entry as canonical-JSON values."""
        return {"number": self.number, "code": self.code, "field": self.field, "text": self.text}


def reason_codes(points_lost: Mapping[str, int], top: int = TOP) -> list[str]:
    """Return the names with the most points lost, at most `top`, the worst first; nothing that lost none."""
    adverse = [(-lost, name) for name, lost in points_lost.items() if lost > 0]
    return [name for _, name in sorted(adverse)[:top]]


def reason_table(contract: RunContract, party: str, texts: Mapping[str, str] | None = None) -> tuple[Reason, ...]:
    """Return a party's code table: an entry for every feature that the contract lists, kept by the model or not.

    `texts` has the plain words of a field; a field without any is called by its id.
    """
    letter = PLATFORM_LETTER if party == contract.platform else BANK_LETTER
    names = texts or {}
    return tuple(
        Reason(number, f"{letter}-{number:02d}", field, plain_text(names.get(field) or field))
        for number, field in enumerate(contract.fields_of(party, "feature"), start=1)
    )


def read_reasons(entries: Sequence[Mapping[str, Any]]) -> tuple[Reason, ...]:
    """Return the code table in a model record; raises InputFault when it is none."""
    try:
        table = tuple(Reason(e["number"], e["code"], e["field"], e["text"]) for e in entries)
        known = all(type(r.number) is int and 0 < r.number < _CODE_LIMIT for r in table)
        known = known and all(isinstance(t, str) for r in table for t in (r.code, r.field, r.text))
        known = known and len({r.number for r in table}) == len(table) == len({r.field for r in table})
    except (KeyError, TypeError):
        known = False
    if not known:
        raise InputFault("a model's table of reason codes is damaged; train the model again")
    return table


def numbers_of(fields: Sequence[str], table: Sequence[Reason]) -> list[int]:
    """Return the number of each field's code: what a platform sends with a score."""
    place = {reason.field: reason.number for reason in table}
    return [place[field] for field in fields]


def codes_of(numbers: Sequence[int], table: Sequence[Reason]) -> list[str]:
    """Return the codes of numbers that a platform sent. 0 stands for no code; a number without an entry is left out."""
    place = {reason.number: reason.code for reason in table}
    return [place[number] for number in numbers if number in place]


def merged_codes(
    own_lost: Mapping[str, int], platform_codes: Sequence[str], platform_lost: int, top: int = TOP
) -> list[str]:
    """Return the codes of both parties in one order: see above for the place of the platform's.

    `own_lost` maps the bank's codes to the points lost, `platform_lost` is what the sub-score lost as a whole. Without
    any code of the platform the loss has the code `A-00`. An own code stands before one of the platform at equal losses.
    """
    listed = list(dict.fromkeys(platform_codes))[:TOP] or [SUB_SCORE]
    places = [(-platform_lost / k, 1, f"{k:03d}", code) for k, code in enumerate(listed, start=1) if platform_lost > 0]
    places += [(-float(lost), 0, code, code) for code, lost in own_lost.items() if lost > 0]
    return [code for *_, code in sorted(places)[:top]]


def plain_text(text: str) -> str:
    """Return a text as one printable line of at most 200 characters."""
    return "".join(c if c.isprintable() else " " for c in text)[:_TEXT_LIMIT].strip()
