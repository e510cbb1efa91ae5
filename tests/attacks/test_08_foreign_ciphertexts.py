"""Row 8, on the wire: a ciphertext of one purpose is refused where another's is due, before anything is decrypted; so
is everything else that a peer may send malformed. Each refusal names what was expected and what came."""

from dataclasses import replace
from typing import Any

import pytest
from conversations import bank_keys, contract_of, play, right

from lianxin.crypto import modulus_proof, paillier
from lianxin.crypto.errors import CiphertextRejected, CryptoError, KeyRejected, PackingOverflow, ProofRejected
from lianxin.crypto.keyed_ciphertexts import KEY_TAG_BYTES, add_key_tag, decode_keyed, encode_keyed, strip_key_tag
from lianxin.crypto.packing import plan_layout
from lianxin.crypto.randomness import Drbg
from lianxin.federation import binning, key_exchange, matching, scorecard, wire
from lianxin.federation.errors import PeerError
from lianxin.federation.model import Released
from lianxin.federation.session import Send

FIRMS = tuple(f"firm-{number:03d}" for number in range(60))


@pytest.fixture
def nothing_is_decrypted(monkeypatch):
    """Fail the test if any ciphertext is decrypted."""

    def refuse(*_: Any) -> Any:
        raise AssertionError("something was decrypted")

    monkeypatch.setattr(paillier._CrtDecryption, "decrypt", refuse)


def side(seed: bytes, *ends: str) -> matching.Side:
    rows = Released(right(*ends), FIRMS, {})
    return matching.Side(contract_of(), "bank-1", rows, Drbg(seed * 32), charge=lambda queries: None)


def lying(role, kind, change):
    """Return `role`, whose messages of type `kind` are changed before they leave."""
    wish = next(role)
    while True:
        if isinstance(wish, Send) and isinstance(wish.message, kind):
            change(wish.message)
        try:
            wish = role.send((yield wish))
        except StopIteration as end:
            return end.value


def test_a_training_ciphertext_in_a_matching_query_is_refused_by_its_key(matching_key, bank_key):
    training = encode_keyed(bank_key.public, [5])

    def submit(message):
        message.ciphertexts = training + message.ciphertexts[len(training) :]

    bank = lying(matching.bank_role(side(b"b", "bank-1", "platform-a"), matching_key), wire.BankQueries, submit)
    with pytest.raises(CiphertextRejected) as refusal:
        play(bank, matching.platform_role(side(b"a", "platform-a", "bank-1")))
    assert bank_key.public.key_id[:16] in str(refusal.value) and matching_key.public.key_id[:16] in str(refusal.value)


@pytest.mark.usefixtures("nothing_is_decrypted")
def test_a_training_ciphertext_among_the_answers_is_not_decrypted(matching_key, bank_key):
    def submit(message):
        message.answers = add_key_tag(bank_key.public, message.answers[KEY_TAG_BYTES:])

    platform = lying(matching.platform_role(side(b"a", "platform-a", "bank-1")), wire.PlatformAnswers, submit)
    with pytest.raises(CiphertextRejected, match="for matching is due"):
        play(matching.bank_role(side(b"b", "bank-1", "platform-a"), matching_key), platform)


@pytest.mark.usefixtures("nothing_is_decrypted")
def test_without_the_tag_the_decryption_would_have_been_asked_for(matching_key, bank_key, monkeypatch):
    monkeypatch.setattr("lianxin.federation.askers.strip_key_tag", lambda public, data: data[KEY_TAG_BYTES:])

    def submit(message):
        message.answers = add_key_tag(bank_key.public, message.answers[KEY_TAG_BYTES:])

    platform = lying(matching.platform_role(side(b"a", "platform-a", "bank-1")), wire.PlatformAnswers, submit)
    with pytest.raises(AssertionError, match="something was decrypted"):
        play(matching.bank_role(side(b"b", "bank-1", "platform-a"), matching_key), platform)


@pytest.mark.parametrize("change", ["owner", "purpose", "run", "n"])
def test_a_key_that_differs_in_any_of_its_bindings_has_another_tag(bank_key, platform_key, change):
    value = platform_key.public.n if change == "n" else "another"
    other = replace(bank_key.public, **{change: value})
    data = encode_keyed(other, [7])
    assert decode_keyed(other, data) == [7]
    with pytest.raises(CiphertextRejected, match=f"under key {other.key_id[:16]} came where bank-1's key"):
        strip_key_tag(bank_key.public, data)


BAD_CHUNKS = {
    "shorter by a byte": (lambda data, n: data[:-1], "no whole number of ciphertexts of 512 bytes"),
    "a number of at least n²": (
        lambda data, n: data[:8] + b"\xff" * 512 + data[520:],
        r"ciphertext 0 is outside \(0, n²\)",
    ),
    "zero": (lambda data, n: data[:8] + bytes(512) + data[520:], r"ciphertext 0 is outside \(0, n²\)"),
    "a multiple of n": (lambda data, n: data[:8] + n.to_bytes(512, "big") + data[520:], "ciphertext 0 shares a factor"),
    "no tag at all": (lambda data, n: data[8:], "under key"),
    "nothing": (lambda data, n: b"", "under key  came where"),
}


@pytest.mark.usefixtures("nothing_is_decrypted")
@pytest.mark.parametrize("bad", BAD_CHUNKS)
def test_a_label_histogram_that_is_malformed_is_refused_by_name_and_nothing_of_it_is_decrypted(
    bad, bank_key, platform_key
):
    contract = contract_of()
    layouts, keys = scorecard.plan_layouts(contract), bank_keys(bank_key)
    change, said = BAD_CHUNKS[bad]
    work = binning.Work(contract, layouts, "bank-1", Drbg(b"b" * 32), ())
    other = binning.Work(contract, layouts, "bank-1", Drbg(b"a" * 32), ())
    columns = binning.Columns(([0, 1] * 50,), (2,))

    def spoil(message):
        message.ciphertexts = change(message.ciphertexts, bank_key.public.n)

    platform = lying(binning.platform_count_role(other, bank_key.public, columns), wire.LabelHistogram, spoil)
    with pytest.raises(CiphertextRejected, match=said):
        play(binning.bank_count_role(work, keys, [0, 1] * 50), platform)


def test_a_reordered_or_repeated_chunk_is_refused_with_both_numbers(bank_key):
    contract = contract_of(chunk_bytes=64 * 1024)
    layouts = scorecard.plan_layouts(contract)
    work = binning.Work(contract, layouts, "bank-1", Drbg(b"b" * 32), ())
    other = binning.Work(contract, layouts, "bank-1", Drbg(b"a" * 32), ())
    rows = 2 * work.chunk_rows(1)
    for number in (1, 5):
        bank = lying(
            binning.bank_count_role(work, bank_keys(bank_key), [0, 1] * (rows // 2)),
            wire.EncryptedLabels,
            lambda message, number=number: setattr(message, "chunk", number),
        )
        with pytest.raises(PeerError, match=f"chunk {number} where 0 was due") as refusal:
            play(
                bank,
                binning.platform_count_role(other, bank_key.public, binning.Columns(([0, 1] * (rows // 2),), (2,))),
            )
        assert refusal.value.rule == "S05"


def test_a_key_of_another_purpose_owner_or_contract_brings_no_proof_that_holds(bank_key):
    contract = contract_of()
    modulus, proof = key_exchange.announce_key(contract, bank_key, Drbg(b"k" * 32))
    key_exchange.received_key(contract, "bank-1", "labels", modulus, proof)
    for wrong in (
        (contract, "bank-1", "matching"),
        (contract, "bank-2", "labels"),
        (contract_of(rounds=7), "bank-1", "labels"),
    ):
        with pytest.raises(ProofRejected):
            key_exchange.received_key(*wrong, modulus, proof)


def test_a_modulus_under_the_floor_or_another_size_than_agreed_is_refused_with_both_sizes(bank_key):
    small = paillier.generate_secret_key(1024, "bank-1", "labels", "test-run-1", Drbg(b"s" * 32))
    proof = modulus_proof.prove_modulus(small, b"s" * 64, Drbg(b"k" * 32))
    with pytest.raises(KeyRejected, match=r"2048.*1024|1024.*2048"):
        modulus_proof.check_public_key(small.public, proof, b"s" * 64, bits=2048)
    proof = modulus_proof.prove_modulus(bank_key, b"s" * 64, Drbg(b"k" * 32))
    with pytest.raises(KeyRejected, match=r"3072.*2048|2048.*3072"):
        modulus_proof.check_public_key(bank_key.public, proof, b"s" * 64, bits=3072)


def test_sizes_that_overflow_are_refused_before_anything_is_encrypted():
    with pytest.raises(PackingOverflow, match="does not fit 2048"):
        plan_layout(1 << 2040, 2048)


def test_every_refusal_is_one_sentence_without_a_number_that_was_sent(matching_key, bank_key):
    number = int.from_bytes(b"\x7b" * 511, "big")
    for data in (number.to_bytes(512, "big")[:-1], bytes(512), (bank_key.public.n).to_bytes(512, "big")):
        with pytest.raises(CryptoError) as refusal:
            paillier.decode_ciphertexts(bank_key.public, data)
        assert "\n" not in str(refusal.value) and str(number)[:20] not in str(refusal.value)
