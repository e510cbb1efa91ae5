"""Every decoder of crypto/ fed random and spoilt bytes: it gives back what encodes to the same bytes, or its own errors.

Half of the inputs are random bytes, half are good encodings with a few bytes flipped, lost, doubled, moved or replaced by
edge values. A torture feeds each decoder for LIANXIN_FUZZ_SECONDS.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from torture import fuzz_rounds

from lianxin.crypto import canonical, group, keyed_ciphertexts, modulus_proof, paillier, psi_ecdh, psi_paillier
from lianxin.crypto.errors import (
    CiphertextRejected,
    EncodingRejected,
    GroupElementRejected,
    ProofRejected,
)
from lianxin.crypto.randomness import Drbg


def seeded(name: str) -> Drbg:
    return Drbg(bytes(32)).child("test_decoders", name)


KEY = paillier.generate_secret_key(256, "bank-a", "P4", "run-1", seeded("key"))
PUBLIC = KEY.public
SESSION = b"bank-a to platform, run-1"
PROOF = modulus_proof.prove_modulus(KEY, SESSION, seeded("proof"))
CIPHERTEXTS = paillier.OwnerEncryptor(KEY).encrypt_many(range(8), seeded("ciphertexts"))
ELEMENTS = [group.base_multiply(k) for k in range(1, 9)]
RECORD = {"type": "leaf", "version": 1, "name": "联信", "rows": [1, -2, {"a": True}], "empty": {}, "text": 'a"\\\n'}


@dataclass(frozen=True)
class Decoder:
    """A decoder, its inverse, good encodings to spoil, and the only errors that it may raise."""

    decode: Callable[[bytes], Any]
    encode: Callable[[Any], bytes]
    good: tuple[bytes, ...]
    errors: tuple[type[Exception], ...]


DECODERS = {
    "paillier.decode_ciphertexts": Decoder(
        lambda data: paillier.decode_ciphertexts(PUBLIC, data),
        lambda value: paillier.encode_ciphertexts(PUBLIC, value),
        tuple(paillier.encode_ciphertexts(PUBLIC, CIPHERTEXTS[:k]) for k in (0, 1, 8)),
        (CiphertextRejected,),
    ),
    "keyed_ciphertexts.decode_keyed": Decoder(
        lambda data: keyed_ciphertexts.decode_keyed(PUBLIC, data),
        lambda value: keyed_ciphertexts.encode_keyed(PUBLIC, value),
        tuple(keyed_ciphertexts.encode_keyed(PUBLIC, CIPHERTEXTS[:k]) for k in (0, 1, 8)),
        (CiphertextRejected,),
    ),
    "psi_paillier.decode_answers": Decoder(
        lambda data: psi_paillier.decode_answers(PUBLIC, data),
        lambda value: psi_paillier.encode_answers(PUBLIC, value),
        tuple(
            psi_paillier.encode_answers(PUBLIC, list(zip(CIPHERTEXTS, ELEMENTS, strict=True))[:k]) for k in (0, 1, 4)
        ),
        (EncodingRejected, CiphertextRejected, GroupElementRejected),
    ),
    "psi_paillier.decode_tags": Decoder(
        psi_paillier.decode_tags, psi_paillier.encode_tags, (b"", bytes(16), bytes(range(64))), (EncodingRejected,)
    ),
    "psi_ecdh.decode_elements": Decoder(
        psi_ecdh.decode_elements,
        psi_ecdh.encode_elements,
        tuple(psi_ecdh.encode_elements(ELEMENTS[:k]) for k in (0, 1, 8)),
        (EncodingRejected, GroupElementRejected),
    ),
    "canonical.decode": Decoder(
        canonical.decode,
        canonical.encode,
        (canonical.encode(RECORD), canonical.encode({"type": "x", "version": 1})),
        (EncodingRejected,),
    ),
    "canonical.decode_fragment": Decoder(
        canonical.decode_fragment, canonical.encode, (canonical.encode(RECORD), b"{}"), (EncodingRejected,)
    ),
    "modulus_proof.decode_proof": Decoder(
        lambda data: modulus_proof.decode_proof(PUBLIC.n, data),
        lambda value: modulus_proof.encode_proof(PUBLIC.n, value),
        (PROOF,),
        (ProofRejected,),
    ),
}
EDGES = (
    b"\x00",
    b"\xff",
    b"\x80",
    b"\x7f",
    b'"',
    b"{",
    b"}",
    b"[",
    b",",
    b"\\u0000",
    b"1e9",
    b"-0",
    b"\xc3\x28",
    bytes(32),
)


def spoil(data: bytes, drbg: Drbg) -> bytes:
    """Return `data` after one to four changes."""
    spoilt = bytearray(data)
    for _ in range(1 + drbg.below(4)):
        at, end = sorted((drbg.below(len(spoilt) + 1), drbg.below(len(spoilt) + 1)))
        match drbg.below(6):
            case 0 if at < len(spoilt):
                spoilt[at] ^= 1 << drbg.below(8)
            case 1:
                del spoilt[at : at + 1 + drbg.below(40)]
            case 2:
                spoilt[at:at] = spoilt[at:end][:100]
            case 3:
                spoilt[at:at] = EDGES[drbg.below(len(EDGES))]
            case 4:
                edge = EDGES[drbg.below(len(EDGES))]
                spoilt[at : at + len(edge)] = edge
            case _:
                spoilt = spoilt[at:] + spoilt[:at]
    return bytes(spoilt)


def an_input(decoder: Decoder, drbg: Drbg) -> bytes:
    """Return random bytes, of a good length or any, or a good encoding that is spoilt."""
    good = decoder.good[drbg.below(len(decoder.good))]
    kind = drbg.below(4)
    if kind == 0:
        return drbg.bytes(drbg.below(300))
    return drbg.bytes(len(good)) if kind == 1 else spoil(good, drbg)


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_takes_only_what_encodes_to_the_same_bytes_and_raises_only_its_own_errors(name: str) -> None:
    decoder, drbg = DECODERS[name], seeded(name)
    refused = 0
    for _ in fuzz_rounds(f"bytes fed to {name}"):
        data = an_input(decoder, drbg)
        try:
            value = decoder.decode(data)
        except decoder.errors:
            refused += 1
        else:
            assert decoder.encode(value) == data
    assert refused > 100


@pytest.mark.parametrize("name", DECODERS)
def test_a_good_encoding_is_taken_and_read_to_its_end(name: str) -> None:
    decoder = DECODERS[name]
    for data in decoder.good:
        assert decoder.encode(decoder.decode(data)) == data
        with pytest.raises(decoder.errors):
            decoder.decode(data + b"\x00")


def test_a_spoilt_proof_never_verifies() -> None:
    drbg, refused = seeded("spoilt proofs"), 0
    modulus_proof.verify_modulus(PUBLIC.n, PROOF, SESSION)
    for _ in fuzz_rounds("spoilt proofs, verified"):
        data = spoil(PROOF, drbg)
        if data != PROOF:
            with pytest.raises(ProofRejected):
                modulus_proof.verify_modulus(PUBLIC.n, data, SESSION)
            refused += 1
    assert refused > 900


def test_no_refusal_repeats_the_bytes_that_were_sent() -> None:
    secret = b"91110000600037341L"
    for name, decoder in DECODERS.items():
        drbg = seeded(f"echo {name}")
        for _ in range(50):
            data = bytearray(an_input(decoder, drbg))
            data[len(data) // 2 : len(data) // 2] = secret
            try:
                decoder.decode(bytes(data))
            except decoder.errors as refusal:
                assert secret.decode() not in str(refusal)
