"""Unified social credit codes (GB 32100-2015) and how an identifier is written before anything is derived from it.

A code has 18 characters over an alphabet of 31 (no I, O, S, V, Z): register department, entity type, six digits of
region (GB/T 2260), the nine characters of the organisation code (GB 11714, the ninth is its own check) and a check
character (boundary.md, section 4). Codes are public and can be listed: a code is never a secret and a bare hash of one
hides nothing. `92…` is a sole trader, whose data fall under the rules for natural persons. Citizens' numbers (GB 11643)
and legal entity identifiers (ISO 17442) are checked here too; neither is matched on.
"""

import unicodedata
from collections.abc import Iterable
from datetime import datetime
from operator import mul

from lianxin.federation.errors import InputFault

ALPHABET = "0123456789ABCDEFGHJKLMNPQRTUWXY"
DEPARTMENTS = "123456789ANY"
_CODE_WEIGHTS = (1, 3, 9, 27, 19, 26, 16, 17, 20, 29, 25, 13, 8, 24, 10, 30, 28)
_ORGANISATION_WEIGHTS = (3, 7, 9, 10, 5, 8, 4, 2)
_LETTERS = frozenset(ALPHABET)
_VALUES = {character: value for value, character in enumerate(ALPHABET)}
_ORGANISATION_VALUES = {character: int(character, 36) for character in ALPHABET}
_LENGTH = 18
_USCC_SHARE = 0.9
_CARD_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_LEI_LENGTH = 20
_LEI_LETTERS = frozenset("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ")


class IdentifierFault(InputFault):
    """An identifier is not well-formed; the message names the rule, never the code."""


def check_uscc(code: str) -> None:
    """Raise IdentifierFault unless `code`, already normalised, is a well-formed code with both checks right."""
    if len(code) != _LENGTH:
        raise IdentifierFault(f"a unified social credit code has {_LENGTH} characters, this one {len(code)}")
    if not _LETTERS.issuperset(code):
        place = next(number for number, character in enumerate(code, start=1) if character not in _LETTERS)
        raise IdentifierFault(f"character {place} is not in the alphabet of GB 32100-2015")
    if code[0] not in DEPARTMENTS:
        raise IdentifierFault("character 1 names no register department of GB 32100-2015")
    if not code[2:8].isdecimal():
        raise IdentifierFault("characters 3 to 8 are not the six digits of a region")
    if code[16] != _organisation_check(code[8:16]):
        raise IdentifierFault("character 17 is not the check character of the organisation code (GB 11714)")
    if code[17] != _code_check(code[:17]):
        raise IdentifierFault("character 18 is not the check character of the code (GB 32100-2015)")


def is_uscc(code: str) -> bool:
    """Return whether `check_uscc` accepts `code`."""
    try:
        check_uscc(code)
    except IdentifierFault:
        return False
    return True


def uscc_from(department: str, entity_type: str, region: str, org8: str) -> str:
    """Return the code of these parts with both check characters computed; raises IdentifierFault on a bad part."""
    parts = ((department, 1), (entity_type, 1), (region, 6), (org8, 8))
    if any(len(part) != size for part, size in parts) or not set(org8) <= set(ALPHABET):
        raise IdentifierFault("a code is made of 1, 1, 6 and 8 characters of the alphabet of GB 32100-2015")
    stem = department + entity_type + region + org8 + _organisation_check(org8)
    if not set(stem) <= set(ALPHABET):
        raise IdentifierFault("the parts of a code use the alphabet of GB 32100-2015 only")
    code = stem + _code_check(stem)
    check_uscc(code)
    return code


def _code_check(stem: str) -> str:
    total = sum(map(mul, map(_VALUES.__getitem__, stem), _CODE_WEIGHTS))
    return ALPHABET[-total % 31]


def _organisation_check(org8: str) -> str:
    total = sum(map(mul, map(_ORGANISATION_VALUES.__getitem__, org8), _ORGANISATION_WEIGHTS))
    return "0123456789X"[-total % 11]


def normalise_identifier(text: str) -> str:
    """Return `text` in NFKC without outer blanks; 18 ASCII letters and digits, the shape of a code, in upper case."""
    plain = unicodedata.normalize("NFKC", text).strip()
    return plain.upper() if is_code_shaped(plain) else plain


def is_code_shaped(text: str) -> bool:
    """Return whether a text has a code's 18 ASCII letters and digits, whatever its checks say."""
    return len(text) == _LENGTH and text.isascii() and text.isalnum()


def subject_type_of(identifier: str) -> str:
    """Return "NP" for a citizen's number that is no code, "IND" for a sole trader's code (`92…`), "ENT" for any other.

    Both checks of a code hold of about one citizen's number in 340; such a one is taken for the code.
    """
    if not is_code_shaped(identifier):
        return "ENT"
    if identifier[:17].isdecimal() and is_id_card(identifier) and not is_uscc(identifier):
        return "NP"
    return "IND" if identifier.startswith("92") else "ENT"


def check_id_card(number: str) -> None:
    """Raise IdentifierFault unless `number` is a citizen's number of GB 11643: 17 digits and the right check character."""
    if len(number) != _LENGTH or not (number[:17].isascii() and number[:17].isdecimal()):
        raise IdentifierFault("a citizen's number has 17 digits and a check character (GB 11643)")
    if not _is_day(number[6:14]):
        raise IdentifierFault("characters 7 to 14 of a citizen's number are no date of birth (GB 11643)")
    total = sum(int(digit) * weight for digit, weight in zip(number, _CARD_WEIGHTS, strict=False))
    if number[17] != "10X98765432"[total % 11]:
        raise IdentifierFault("character 18 is not the check character of a citizen's number (GB 11643)")


def is_id_card(number: str) -> bool:
    """Return whether `check_id_card` accepts `number`."""
    try:
        check_id_card(number)
    except IdentifierFault:
        return False
    return True


def check_lei(code: str) -> None:
    """Raise IdentifierFault unless `code` is a legal entity identifier of ISO 17442: 18 letters or digits, 2 check digits."""
    if len(code) != _LEI_LENGTH or not _LEI_LETTERS.issuperset(code) or not code[18:].isdecimal():
        raise IdentifierFault("a legal entity identifier has 18 capital letters or digits and two check digits")
    if int("".join(str(int(character, 36)) for character in code)) % 97 != 1:
        raise IdentifierFault("the check digits of a legal entity identifier do not fit it (ISO 17442)")


def _is_day(digits: str) -> bool:
    try:
        return datetime.strptime(digits, "%Y%m%d") is not None
    except ValueError:
        return False


def identifiers_are_uscc(sample: Iterable[str]) -> bool:
    """Return whether at least 90 % of `sample` (normalised) are 18 characters of the alphabet; checks do not count."""
    sizes = [len(identifier) == _LENGTH and set(identifier) <= set(ALPHABET) for identifier in sample]
    return bool(sizes) and sum(sizes) >= _USCC_SHARE * len(sizes)
