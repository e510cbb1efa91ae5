"""Matching by RFC 9497 OPRF: the RFC's own vectors, plain set intersection, and every message that it refuses."""

import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from torture import cases

from lianxin.crypto import group, psi_ecdh
from lianxin.crypto.errors import EncodingRejected, GroupElementRejected, MatchingAborted
from lianxin.crypto.randomness import Drbg

VECTORS = Path(__file__).resolve().parents[1].parent / "shared" / "vectors" / "rfc9497_voprf.json"
SID = bytes(range(64))
NAMES = st.integers(0, 40).map(lambda number: b"firm-%d" % number)
ASKED, FIRMS = st.sets(NAMES, min_size=5, max_size=25), st.sets(NAMES, max_size=25)


def match(bank: list[bytes], platform: list[bytes], sid: bytes = SID, seed: bytes = bytes(32)) -> set[bytes]:
    """Run both roles over encoded messages and return the firms that the bank finds."""
    drbg = Drbg(seed)
    oprf_key = psi_ecdh.draw_oprf_key(drbg.child("platform"))
    inputs = [psi_ecdh.bound_identifier(sid, firm) for firm in bank]
    blinds, blinded = psi_ecdh.blind_queries(inputs, drbg.child("bank"))
    received = psi_ecdh.decode_elements(psi_ecdh.encode_elements(blinded))
    evaluated = psi_ecdh.evaluate_blinded(oprf_key, received)
    outputs = psi_ecdh.finalize(inputs, blinds, psi_ecdh.decode_elements(psi_ecdh.encode_elements(evaluated)))
    tags = psi_ecdh.evaluator_tags(oprf_key, [psi_ecdh.bound_identifier(sid, firm) for firm in platform])
    return {firm for firm, output in zip(bank, outputs, strict=True) if psi_ecdh.tag_of(output) in set(tags)}


def rfc_suite() -> dict[str, Any]:
    if not VECTORS.exists():
        pytest.skip("shared/vectors is not beside the checkout")
    suites = json.loads(VECTORS.read_text())
    return next(suite for suite in suites if suite["identifier"] == "ristretto255-SHA512" and suite["mode"] == 0)


def test_the_key_of_the_rfc_is_derived_from_its_seed() -> None:
    suite = rfc_suite()
    key = psi_ecdh.derive_oprf_key(bytes.fromhex(suite["seed"]), bytes.fromhex(suite["keyInfo"]))
    assert key.to_bytes(32, "little").hex() == suite["skSm"]


@pytest.mark.parametrize("index", [0, 1])
def test_every_step_gives_the_bytes_of_the_rfc(index: int) -> None:
    suite = rfc_suite()
    vector = suite["vectors"][index]
    oprf_key = int.from_bytes(bytes.fromhex(suite["skSm"]), "little")
    blind, one = int.from_bytes(bytes.fromhex(vector["Blind"]), "little"), bytes.fromhex(vector["Input"])
    blinded = psi_ecdh._blind_with(one, blind)
    assert blinded.hex() == vector["BlindedElement"]
    evaluated = psi_ecdh.evaluate_blinded(oprf_key, [blinded])
    assert evaluated[0].hex() == vector["EvaluationElement"]
    output = psi_ecdh.finalize([one], [blind], evaluated)[0]
    assert output.hex() == vector["Output"]
    assert psi_ecdh.evaluator_tags(oprf_key, [one]) == [psi_ecdh.tag_of(output)] == [output[:16]]


def test_the_vectors_of_the_rfc_are_all_used() -> None:
    assert len(rfc_suite()["vectors"]) == 2


@cases(per_example=5)  # a case is a firm that is asked for
@given(ASKED, FIRMS, st.binary(min_size=32, max_size=32))
@example(set(), {b"firm-1"}, bytes(32))
@example({b"firm-1"}, {b"firm-1"}, bytes(32))
def test_matching_finds_the_plain_set_intersection(bank: set[bytes], platform: set[bytes], seed: bytes) -> None:
    assert match(sorted(bank), sorted(platform), seed=seed) == bank & platform


def test_tags_of_another_session_never_match() -> None:
    oprf_key, firm, other_sid = 12345, b"firm", bytes(64)
    here, there = (psi_ecdh.evaluator_tags(oprf_key, [psi_ecdh.bound_identifier(s, firm)]) for s in (SID, other_sid))
    assert here != there


def test_one_firm_is_never_blinded_to_one_element_twice() -> None:
    _, blinded = psi_ecdh.blind_queries([b"firm"] * 300, Drbg(bytes(32)))
    assert len(set(blinded)) == 300


def test_a_wrong_blind_gives_a_tag_that_does_not_match() -> None:
    drbg = Drbg(bytes(32))
    (blind,), blinded = psi_ecdh.blind_queries([b"firm"], drbg)
    evaluated = psi_ecdh.evaluate_blinded(7, blinded)
    tag = psi_ecdh.evaluator_tags(7, [b"firm"])[0]
    assert psi_ecdh.tag_of(psi_ecdh.finalize([b"firm"], [blind], evaluated)[0]) == tag
    assert psi_ecdh.tag_of(psi_ecdh.finalize([b"firm"], [blind + 1], evaluated)[0]) != tag


def test_the_bytes_are_the_same_without_and_with_workers() -> None:
    firms = [b"firm-%d" % number for number in range(2100)]
    _, blinded = psi_ecdh.blind_queries(firms, Drbg(bytes(32)))
    inline = psi_ecdh.evaluate_blinded(99, blinded), psi_ecdh.evaluator_tags(99, firms)
    with ProcessPoolExecutor(2) as executor:
        assert (
            psi_ecdh.evaluate_blinded(99, blinded, executor),
            psi_ecdh.evaluator_tags(99, firms, executor),
        ) == inline


BAD_ELEMENTS = {
    "identity": (bytes(32), GroupElementRejected),
    "not canonical": (b"\xff" * 32, GroupElementRejected),
    "negative": ((1).to_bytes(32, "little"), GroupElementRejected),
    "one byte short": (group.base_multiply(1)[:-1], EncodingRejected),
    "one byte over": (group.base_multiply(1) + b"\x00", EncodingRejected),
}


@pytest.mark.parametrize(("data", "error"), BAD_ELEMENTS.values(), ids=BAD_ELEMENTS.keys())
def test_a_bad_element_is_refused_by_the_decoder(data: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        psi_ecdh.decode_elements(group.base_multiply(5) + data)


@pytest.mark.parametrize("element", [bytes(32), b"\xff" * 32, b""])
def test_a_bad_element_is_refused_by_both_roles_even_past_the_decoder(element: bytes) -> None:
    with pytest.raises(GroupElementRejected):
        psi_ecdh.evaluate_blinded(7, [element])
    with pytest.raises(GroupElementRejected):
        psi_ecdh.finalize([b"firm"], [3], [element])


def test_answers_that_do_not_pair_with_the_queries_end_the_session() -> None:
    with pytest.raises(MatchingAborted, match="2 queries were sent and 1 answers came"):
        psi_ecdh.finalize([b"a", b"b"], [2, 3], [group.base_multiply(1)])


def test_inputs_of_the_wrong_size_are_refused() -> None:
    with pytest.raises(ValueError, match="64 bytes"):
        psi_ecdh.bound_identifier(b"short", b"firm")
    with pytest.raises(ValueError, match="65535 bytes"):
        psi_ecdh.blind_queries([bytes(2**16)], Drbg(bytes(32)))
    with pytest.raises(ValueError, match="32 bytes"):
        psi_ecdh.derive_oprf_key(b"short", b"")
