"""Transforms of text: masks, truncation, codes to their upper levels, dates to periods, values to few levels.

Each takes one value as text and returns what may leave. The empty text stands for "suppressed": a value that has not
the shape that its transform is for leaves nothing, whatever it holds. No function raises for a value, and none passes
a value through that it did not understand. Values are read in NFKC, so that full-width digits are digits.

Masks follow JR/T 0171 and JR/T 0223 (R33): name 张*, telephone 138****1234, identity card 6 + 8 stars + 4, account or
code the last 4. A name shows its first character and one star whatever its length, and never the middle dot of a
transcribed name, which would tell the bearer's origin.
"""

import datetime
import re
import unicodedata
from collections.abc import Mapping

SUPPRESSED = ""
_DOTS_AND_JOINTS = frozenset("·•‧・.-' ")
_PHONE_MARKS = str.maketrans("", "", " -()")
_COUNTRY = re.compile(r"(?:\+|00)?86(?=1[3-9]\d{9}$)", re.ASCII)
_DATE = re.compile(
    r"(\d{4})(?:-(\d{1,2})-(\d{1,2})|/(\d{1,2})/(\d{1,2})|(\d{2})(\d{2})|年(\d{1,2})月(\d{1,2})日)", re.ASCII
)
_TIME_OF_DAY = re.compile(r"[T ]\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?(Z|[+-]\d{2}:?\d{2})?$", re.ASCII)
_INDUSTRY = re.compile(r"([A-T])?(\d{2})\d{0,2}", re.ASCII)
_SECTIONS = {
    "A": (1, 5), "B": (6, 12), "C": (13, 43), "D": (44, 46), "E": (47, 50), "F": (51, 52), "G": (53, 60),
    "H": (61, 62), "I": (63, 65), "J": (66, 69), "K": (70, 70), "L": (71, 72), "M": (73, 75), "N": (76, 79),
    "O": (80, 82), "P": (83, 83), "Q": (84, 85), "R": (86, 90), "S": (91, 96), "T": (97, 97),
}  # fmt: skip
_SECTION_OF = {division: letter for letter, (first, last) in _SECTIONS.items() for division in range(first, last + 1)}


def plain(text: str) -> str:
    """Return `text` in NFKC without outer blanks: how every transform reads a value."""
    return text.strip() if text.isascii() else unicodedata.normalize("NFKC", text).strip()


def mask_name(text: str) -> str:
    """Return the first character and one star (张*); suppressed unless it is a name of two letters or more."""
    name = plain(text)
    letters = [character for character in name if character not in _DOTS_AND_JOINTS]
    is_name = len(letters) >= 2 and name[0] == letters[0] and all(map(_is_letter, letters))
    return f"{name[0]}*" if is_name else SUPPRESSED


def _is_letter(character: str) -> bool:
    return unicodedata.category(character)[0] in "LM"


def mask_phone(text: str) -> str:
    """Return 138****1234: the first 3 and last 4 of 11 to 15 digits, the last 2 of 7 to 10; suppressed otherwise."""
    digits = _COUNTRY.sub("", plain(text).translate(_PHONE_MARKS).removeprefix("+"))
    if not (digits.isascii() and digits.isdecimal() and 7 <= len(digits) <= 15):
        return SUPPRESSED
    return f"{digits[:3]}****{digits[-4:]}" if len(digits) >= 11 else f"****{digits[-2:]}"


def mask_id_card(text: str) -> str:
    """Return 6 + 8 stars + 4 of an 18-character identity number, 6 + 6 stars + 3 of an old one; suppressed otherwise."""
    number = plain(text).upper()
    if not number.isascii():
        return SUPPRESSED
    if len(number) == 18 and number[:17].isdecimal() and number[17] in "0123456789X":
        return f"{number[:6]}{'*' * 8}{number[14:]}"
    return f"{number[:6]}{'*' * 6}{number[12:]}" if len(number) == 15 and number.isdecimal() else SUPPRESSED


def mask_account(text: str) -> str:
    """Return **** and the last 4 of 8 to 34 letters and digits (an account, a firm's code); suppressed otherwise."""
    number = plain(text).translate(_PHONE_MARKS).upper()
    is_account = number.isascii() and number.isalnum() and 8 <= len(number) <= 34
    return f"****{number[-4:]}" if is_account else SUPPRESSED


def truncate(text: str, characters: int) -> str:
    """Return the first `characters`; a value that is no longer than that would stay whole and is suppressed."""
    value = plain(text)
    return value[:characters] if len(value) > characters else SUPPRESSED


def region(text: str, digits: int) -> str:
    """Return the first 2 or 4 of the six digits of a region (GB/T 2260); suppressed otherwise."""
    code = plain(text)
    return code[:digits] if len(code) == 6 and code.isascii() and code.isdecimal() else SUPPRESSED


def industry(text: str, characters: int) -> str:
    """Return the section letter (1) or the two digits of the division (2) of an industry code (GB/T 4754-2017).

    Suppressed: a division that no section has, a letter that is not its section, any other shape.
    """
    found = _INDUSTRY.fullmatch(plain(text).upper())
    section = _SECTION_OF.get(int(found[2])) if found else None
    if found is None or section is None or found[1] not in (None, section):
        return SUPPRESSED
    return section if characters == 1 else found[2]


def date(text: str, period: str) -> str:
    """Return the month (2024-03), quarter (2024-Q1) or year of a date; suppressed unless it is a day that exists.

    Read are 2024-03-09, 2024/3/9, 20240309, 2024年3月9日, each with or without a time of day.
    """
    found = _DATE.fullmatch(_TIME_OF_DAY.sub("", plain(text)))
    if found is None:
        return SUPPRESSED
    year, month, number = (int(part) for part in found.groups() if part)
    try:
        day = datetime.date(year, month, number)
    except ValueError:
        return SUPPRESSED
    quarter = (day.month + 2) // 3
    return {"month": f"{day.year:04}-{day.month:02}", "quarter": f"{day.year:04}-Q{quarter}"}.get(
        period, f"{day.year:04}"
    )


def coarsen(text: str, level_of: Mapping[str, str]) -> str:
    """Return the level that `level_of` names for the value; a value that it does not list is suppressed."""
    return level_of.get(plain(text), SUPPRESSED)
