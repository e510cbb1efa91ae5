"""The ristretto255 group against RFC 9496 and RFC 9380, its laws as properties, and every encoding that it refuses."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from torture import cases

from lianxin.crypto import group
from lianxin.crypto.errors import GroupElementRejected

SCALARS = st.integers(min_value=1, max_value=group.ORDER - 1)

# RFC 9496, appendix A.1: the generator times 1 to 5.
MULTIPLES = [
    "e2f2ae0a6abc4e71a884a961c500515f58e30b6aa582dd8db6a65945e08d2d76",
    "6a493210f7499cd17fecb510ae0cea23a110e8d5b901f8acadd3095c73a3b919",
    "94741f5d5d52755ece4f23f044ee27d5d1ea1e2bd196b462166b16152a9d0259",
    "da80862773358b466ffadfe0b3293ab3d9fd53c5ea6c955358f568322daf6a57",
    "e882b131016b52c1d3337080187cf768423efccbb517bb495ab812c4160ff44e",
]
# RFC 9380, appendix K.3 (SHA-512, 38-byte DST).
EXPANDER_DST = b"QUUX-V01-CS02-with-expander-SHA512-256"
EXPANSIONS = [
    (b"", 32, "6b9a7312411d92f921c6f68ca0b6380730a1a4d982c507211a90964c394179ba"),
    (b"abc", 32, "0da749f12fbe5483eb066a5f595055679b976e93abe9be6f0f6318bce7aca8dc"),
    (b"abcdef0123456789", 32, "087e45a86e2939ee8b91100af1583c4938e0f5fc6c9db4b107b83346bc967f58"),
    (
        b"",
        128,
        "41b037d1734a5f8df225dd8c7de38f851efdb45c372887be655212d07251b921b052b62eaed99b46f72f2ef4cc96bfaf"
        "254ebbbec091e1a3b9e4fb5e5b619d2e0c5414800a1d882b62bb5cd1778f098b8eb6cb399d5d9d18f5d5842cf5d13d7e"
        "b00a7cff859b605da678b318bd0e65ebff70bec88c753b159a805d2c89c55961",
    ),
]
FIELD_PRIME = 2**255 - 19
BAD_ELEMENTS = {
    "the identity": bytes(32),
    "31 bytes": bytes(31),
    "33 bytes": bytes.fromhex(MULTIPLES[0]) + b"\x00",
    "nothing": b"",
    "the field prime itself": FIELD_PRIME.to_bytes(32, "little"),
    "a field element that is not reduced": (FIELD_PRIME + 2).to_bytes(32, "little"),
    "a negative field element": (1).to_bytes(32, "little"),
    "all bits set": b"\xff" * 32,
    "a set top bit": bytes.fromhex(MULTIPLES[0][:-2] + "f6"),
}


@pytest.mark.parametrize("index", range(5))
def test_multiples_of_the_generator_are_those_of_the_rfc(index: int) -> None:
    assert group.base_multiply(index + 1).hex() == MULTIPLES[index]


@pytest.mark.parametrize(("message", "length", "expected"), EXPANSIONS)
def test_message_expansion_gives_the_bytes_of_the_rfc(message: bytes, length: int, expected: str) -> None:
    assert group.expand_message_xmd(message, EXPANDER_DST, length).hex() == expected


def test_a_long_domain_tag_is_hashed_before_use() -> None:
    assert group.expand_message_xmd(b"m", b"d" * 256, 64) != group.expand_message_xmd(b"m", b"d" * 255, 64)


@pytest.mark.parametrize("length", [0, -1, 255 * 64 + 1])
def test_message_expansion_refuses_a_length_outside_its_range(length: int) -> None:
    with pytest.raises(ValueError, match="bytes"):
        group.expand_message_xmd(b"", EXPANDER_DST, length)


@cases(per_example=4)
@given(SCALARS, SCALARS)
def test_multiplication_distributes_over_addition(one: int, other: int) -> None:
    for left, right in ((one, other), (one, one), (-one, other), (one * other, other)):
        total = group.add(group.base_multiply(left), group.base_multiply(right))
        expected = bytes(32) if (left + right) % group.ORDER == 0 else group.base_multiply(left + right)
        assert total == expected


@cases()
@given(SCALARS, SCALARS)
def test_multiplications_commute_and_undo_each_other(left: int, right: int) -> None:
    element = group.multiply(left, group.base_multiply(right))
    assert element == group.multiply(right, group.base_multiply(left))
    assert group.multiply(pow(left, -1, group.ORDER), element) == group.base_multiply(right)


def test_opposite_elements_add_up_to_the_identity() -> None:
    assert group.add(group.base_multiply(7), group.base_multiply(-7)) == bytes(32)


@pytest.mark.parametrize("scalar", [0, group.ORDER, -group.ORDER])
def test_a_scalar_that_is_zero_modulo_the_order_is_refused(scalar: int) -> None:
    with pytest.raises(GroupElementRejected, match="zero"):
        group.base_multiply(scalar)
    with pytest.raises(GroupElementRejected, match="zero"):
        group.multiply(scalar, group.base_multiply(1))


@pytest.mark.parametrize("element", BAD_ELEMENTS.values(), ids=BAD_ELEMENTS.keys())
def test_a_bad_element_is_refused_wherever_one_is_taken(element: bytes) -> None:
    with pytest.raises(GroupElementRejected):
        group.check_element(element)
    with pytest.raises(GroupElementRejected):
        group.multiply(2, element)


@pytest.mark.parametrize("element", list(BAD_ELEMENTS.values())[1:], ids=list(BAD_ELEMENTS)[1:])
def test_addition_refuses_a_bad_operand_on_either_side(element: bytes) -> None:
    with pytest.raises(GroupElementRejected):
        group.add(element, group.base_multiply(1))
    with pytest.raises(GroupElementRejected):
        group.add(group.base_multiply(1), element)


def test_elements_of_the_group_pass_the_check() -> None:
    for index in range(1, 100):
        group.check_element(group.hash_to_group(str(index).encode(), b"test"))


@cases(per_example=4)
@given(st.binary(max_size=64))
def test_hashing_separates_domains(start: bytes) -> None:
    for message in (start, start + b"\x00", b"\x00" + start, start + start + b"\x01"):
        assert group.hash_to_group(message, b"one") != group.hash_to_group(message, b"two")
        assert group.hash_to_scalar(message, b"one") != group.hash_to_scalar(message, b"two")
        assert 0 <= group.hash_to_scalar(message, b"one") < group.ORDER


@cases(per_example=5)  # a case is a scalar that is inverted
@given(st.lists(SCALARS, min_size=5, max_size=20))
@example([])
def test_batch_inversion_equals_one_inversion_each(scalars: list[int]) -> None:
    assert group.batch_invert(scalars) == [pow(scalar, -1, group.ORDER) for scalar in scalars]


@pytest.mark.parametrize("scalars", [[0], [3, 0, 5], [3, group.ORDER]])
def test_batch_inversion_refuses_a_zero_anywhere(scalars: list[int]) -> None:
    with pytest.raises(ZeroDivisionError):
        group.batch_invert(scalars)
