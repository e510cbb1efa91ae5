"""Codes: the two vectors of the standard, their neighbours, and what a refusal may say."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lianxin.parties import identifiers
from lianxin.parties.identifiers import (
    ALPHABET,
    DEPARTMENTS,
    IdentifierFault,
    check_id_card,
    check_lei,
    check_uscc,
    identifiers_are_uscc,
    is_uscc,
    normalise_identifier,
    subject_type_of,
    uscc_from,
)

VECTORS = ("91110000600037341L", "91350100M000100Y43")


@pytest.mark.parametrize("code", VECTORS)
def test_a_published_code_is_accepted_and_rebuilt_from_its_parts(code: str) -> None:
    check_uscc(code)
    assert uscc_from(code[0], code[1], code[2:8], code[8:16]) == code


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("91110000600037341", "has 18 characters, this one 17"),
        ("", "has 18 characters, this one 0"),
        ("9111000060003734IL", "character 17 is not in the alphabet"),
        ("B1110000600037341L", "no register department"),
        ("91A10000600037341L", "six digits of a region"),
        ("91110000600037342L", "character 17 is not the check"),
        ("91110000600037341M", "character 18 is not the check"),
        ("91110000600037341l", "character 18 is not in the alphabet"),
        ("91１10000600037341L", "character 3 is not in the alphabet"),
    ],
)
def test_a_bad_code_is_refused_for_its_reason_and_never_shown(code: str, reason: str) -> None:
    with pytest.raises(IdentifierFault, match=reason) as refusal:
        check_uscc(code)
    assert not code or code not in str(refusal.value)
    assert not is_uscc(code)


@settings(deadline=None)
@given(place=st.integers(0, 17), character=st.sampled_from(ALPHABET), code=st.sampled_from(VECTORS))
def test_changing_any_one_character_is_noticed(place: int, character: str, code: str) -> None:
    changed = code[:place] + character + code[place + 1 :]
    assert is_uscc(changed) == (changed == code)


@settings(deadline=None)
@given(
    department=st.sampled_from(DEPARTMENTS),
    kind=st.sampled_from(ALPHABET),
    region=st.text("0123456789", min_size=6, max_size=6),
    org8=st.text(ALPHABET, min_size=8, max_size=8),
)
def test_every_code_that_is_made_is_valid(department: str, kind: str, region: str, org8: str) -> None:
    code = uscc_from(department, kind, region, org8)
    assert is_uscc(code) and code[:16] == department + kind + region + org8


@pytest.mark.parametrize("parts", [("99", "1", "630100", "MA000000"), ("9", "1", "63010", "MA000000")])
def test_a_code_is_not_made_of_parts_of_another_size(parts: tuple[str, str, str, str]) -> None:
    with pytest.raises(IdentifierFault):
        uscc_from(*parts)


def test_a_code_is_not_made_of_letters_outside_the_alphabet() -> None:
    with pytest.raises(IdentifierFault, match="alphabet"):
        uscc_from("9", "1", "630100", "MAIOZSV0")


def test_full_width_blanks_and_lower_case_of_a_code_are_normalised() -> None:
    assert normalise_identifier(" ９１110000600037341l\u3000") == VECTORS[0]


def test_an_identifier_that_is_no_code_keeps_its_case() -> None:
    assert normalise_identifier(" Firm-a1 ") == "Firm-a1"


@settings(deadline=None)
@given(st.text(max_size=24))
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = normalise_identifier(text)
    assert normalise_identifier(once) == once


def test_a_sole_traders_code_makes_its_subject_a_natural_person() -> None:
    trader = uscc_from("9", "2", "630104", "MA000001")
    assert subject_type_of(trader) == "IND"
    assert [subject_type_of(other) for other in (VECTORS[0], "92", "F000001")] == ["ENT", "ENT", "ENT"]


@pytest.mark.rule("R09")
def test_a_citizens_number_is_a_persons_and_no_enterprises() -> None:
    assert subject_type_of("11010519491231002X") == subject_type_of("440524188001010014") == "NP"
    assert subject_type_of("110105194912310021") == "ENT"  # the check character is wrong: it is some other identifier


def test_both_checks_of_a_code_hold_of_few_citizens_numbers() -> None:
    """Such a number is taken for the code that it is as well; it is one in 341 (11 by 31)."""
    both = numbers = 0
    for serial in range(1000):
        for day in range(1, 21):
            stem = f"350102199103{day:02}{serial:03}"
            total = sum(int(digit) * weight for digit, weight in zip(stem, identifiers._CARD_WEIGHTS, strict=True))
            number = stem + "10X98765432"[total % 11]
            numbers += 1
            both += identifiers.is_uscc(number)
            assert subject_type_of(number) == ("ENT" if identifiers.is_uscc(number) else "NP")
    assert numbers == 20_000 and 0 < both < numbers / 200


def test_nine_codes_in_ten_identifiers_make_a_column_of_codes() -> None:
    assert identifiers_are_uscc([VECTORS[0]] * 9 + ["F1"])
    assert not identifiers_are_uscc([VECTORS[0]] * 8 + ["F1"] * 2)
    assert not identifiers_are_uscc([])


def test_a_column_of_codes_is_recognised_by_shape_so_that_wrong_checks_are_reported() -> None:
    assert identifiers_are_uscc(["911100006000373400"])


@pytest.mark.parametrize("department", ["A", "N", "Y"])
def test_the_register_departments_with_a_letter_are_departments(department: str) -> None:
    assert is_uscc(uscc_from(department, "1", "630100", "MA000000"))
    with pytest.raises(IdentifierFault, match="register department"):
        uscc_from("B", "1", "630100", "MA000000")


CARDS = ["11010519491231002X"]


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        ("110105194912310021", "character 18"),
        ("11010519491331002X", "date of birth"),
        ("11010519491231002x", "character 18"),
        ("1101051949123100", "17 digits"),
        ("１1010519491231002X", "17 digits"),
        ("", "17 digits"),
    ],
)
def test_a_citizens_number_is_checked_and_never_shown(number: str, reason: str) -> None:
    check_id_card("11010519491231002X")
    with pytest.raises(IdentifierFault, match=reason) as refusal:
        check_id_card(number)
    assert not number or number not in str(refusal.value)


@settings(deadline=None)
@given(st.integers(0, 16), st.sampled_from("0123456789"))
def test_one_wrong_digit_of_a_citizens_number_is_noticed(place: int, digit: str) -> None:
    number = CARDS[0][:place] + digit + CARDS[0][place + 1 :]
    if number != CARDS[0]:
        with pytest.raises(IdentifierFault):
            check_id_card(number)


@pytest.mark.parametrize(
    "code", ["5493001KJTIIGC8Y1R13", "5493001kjtiigc8y1r12", "5493001KJTIIGC8Y1R1", "", "5493001KJTIIGC8Y1RAA"]
)
def test_a_legal_entity_identifier_is_checked(code: str) -> None:
    check_lei("5493001KJTIIGC8Y1R12")
    with pytest.raises(IdentifierFault):
        check_lei(code)
