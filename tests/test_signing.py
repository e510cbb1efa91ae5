import copy
import json
import pickle
from collections.abc import Callable

import pytest

from lianxin.crypto import signing
from lianxin.crypto.errors import SignatureRejected

A, B, C = (signing.SigningKey.from_seed(bytes([n]) * 32) for n in (1, 2, 3))
RECORD = {"type": "run-contract", "version": 1, "run": "run-1"}
KEYS = {"bank-a": A.public_hex, "platform": B.public_hex}
SIGNED = signing.sign_record(RECORD, [("bank-a", A), ("platform", B)])
PRIME = 2**255 - 19


def test_the_key_and_signature_are_those_of_rfc_8032() -> None:
    key = signing.SigningKey.from_seed(
        bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    )
    assert key.public_hex == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"


def test_a_record_that_all_expected_signers_signed_is_returned() -> None:
    assert signing.verify_signed(SIGNED, KEYS) == RECORD
    assert signing.verify_by(signing.sign_record(RECORD, [("bank-a", A)]), A.public_hex) == RECORD


def _with(change: Callable[[dict], None]) -> dict:
    signed = copy.deepcopy(SIGNED)
    change(signed)
    return signed


def _swap_signers(signed: dict) -> None:
    first, second = signed["signatures"]
    first["signer"], second["signer"] = second["signer"], first["signer"]


def _sign_as_another_type(signed: dict) -> None:
    signed["signatures"][0]["signature"] = A.sign("consent", signing.canonical.encode(RECORD)).hex()


BAD = {
    "a changed record": _with(lambda s: s["record"].update(run="run-2")),
    "another type": _with(lambda s: s["record"].update(type="consent")),
    "a signature under another domain": _with(_sign_as_another_type),
    "a missing signature": _with(lambda s: s["signatures"].pop()),
    "a signature too many": _with(lambda s: s["signatures"].append(C.sign_record(RECORD, "bank-c"))),
    "one signer twice": _with(lambda s: s["signatures"].append(s["signatures"][0])),
    "one signer for two": _with(lambda s: s["signatures"].__setitem__(1, s["signatures"][0])),
    "signers swapped": _with(_swap_signers),
    "a foreign key": _with(lambda s: s["signatures"].__setitem__(0, C.sign_record(RECORD, "bank-a"))),
    "upper-case hex": _with(lambda s: s["signatures"][0].update(signature=s["signatures"][0]["signature"].upper())),
    "a short signature": _with(lambda s: s["signatures"][0].update(signature="00")),
    "an extra key in an entry": _with(lambda s: s["signatures"][0].update(alg="none")),
    "an extra key": _with(lambda s: s.update(note="x")),
    "no signatures": _with(lambda s: s.update(signatures=[])),
    "a record with a float": _with(lambda s: s["record"].update(x=1.5)),
    "a record without version": _with(lambda s: s["record"].pop("version")),
    "signatures that are no list": _with(lambda s: s.update(signatures={})),
}


@pytest.mark.parametrize("signed", BAD.values(), ids=BAD)
def test_anything_but_exactly_the_expected_signatures_is_refused(signed: dict) -> None:
    with pytest.raises(SignatureRejected):
        signing.verify_signed(signed, KEYS)


def test_no_expected_signer_means_no_valid_record() -> None:
    with pytest.raises(SignatureRejected):
        signing.verify_signed({"record": RECORD, "signatures": []}, {})


def test_a_signature_is_bound_to_its_domain_and_its_bytes() -> None:
    signature = A.sign("envelope", b"bytes")
    signing.verify(A.public_hex, "envelope", b"bytes", signature)
    for domain, data in (("leaf", b"bytes"), ("envelope", b"byte"), ("envelop", b"e\x00bytes")):
        with pytest.raises(SignatureRejected):
            signing.verify(A.public_hex, domain, data, signature)


def test_no_single_flipped_bit_of_a_signature_verifies() -> None:
    signature = A.sign("envelope", b"bytes")
    for bit in range(512):
        flipped = bytearray(signature)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(SignatureRejected):
            signing.verify(A.public_hex, "envelope", b"bytes", bytes(flipped))


def test_a_domain_cannot_smuggle_the_separator() -> None:
    with pytest.raises(ValueError, match="domain"):
        A.sign("envelope\x00x", b"")


def _small_order_keys() -> list[str]:
    y8 = signing._ORDER_8_Y
    ys = [0, 1, PRIME - 1, y8, PRIME - y8, PRIME, PRIME + 1]
    return [(y | sign << 255).to_bytes(32, "little").hex() for y in ys for sign in (0, 1)]


@pytest.mark.parametrize("public_hex", _small_order_keys())
def test_a_key_of_small_order_or_out_of_range_is_refused(public_hex: str) -> None:
    with pytest.raises(SignatureRejected, match="small order"):
        signing.verify(public_hex, "envelope", b"any", bytes(64))


def test_without_that_check_one_signature_fits_every_message_under_the_identity_key() -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    identity = (1).to_bytes(32, "little")
    forged = identity + bytes(32)
    for message in (b"one", b"two"):
        Ed25519PublicKey.from_public_bytes(identity).verify(forged, message)
        with pytest.raises(SignatureRejected):
            signing.verify(identity.hex(), "envelope", message, forged)


def test_the_y_of_order_eight_doubles_thrice_to_the_identity() -> None:
    d, y = -121665 * pow(121666, -1, PRIME) % PRIME, signing._ORDER_8_Y
    root = (y * y - 1) * pow(d * y * y + 1, -1, PRIME) % PRIME
    x = pow(root, (PRIME + 3) // 8, PRIME)
    x = x if x * x % PRIME == root else x * pow(2, (PRIME - 1) // 4, PRIME) % PRIME
    assert x * x % PRIME == root
    for _ in range(3):
        assert (x, y) != (0, 1)
        k = d * x * x * y * y % PRIME
        x, y = 2 * x * y * pow(1 + k, -1, PRIME) % PRIME, (y * y + x * x) * pow(1 - k, -1, PRIME) % PRIME
    assert (x, y) == (0, 1)


@pytest.mark.parametrize("public_hex", ["", "zz" * 32, "00", A.public_hex.upper(), A.public_hex + "00", "ff" * 32])
def test_text_that_is_no_public_key_is_refused(public_hex: str) -> None:
    with pytest.raises(SignatureRejected):
        signing.verify(public_hex, "envelope", b"", bytes(64))


def test_a_secret_key_has_no_text_and_is_not_pickled() -> None:
    seed = bytes(range(32))
    key = signing.SigningKey.from_seed(seed)
    assert seed.hex() not in repr(key) + str(key) + json.dumps(sorted(vars(key)))
    with pytest.raises(TypeError):
        pickle.dumps(key)
    with pytest.raises(ValueError, match="32 bytes"):
        signing.SigningKey.from_seed(seed[:31])
