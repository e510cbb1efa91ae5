"""Row 8: a ciphertext or a key of one purpose used in the other, so that one step decrypts what another must not show.

The platform keeps what it saw in one conversation and hands it in where the bank decrypts for it. In training the bank
returns (for one bank, in the clear) the sum of a plaintext's slots; in matching it says which tags its plaintext leads
to. Both are decryption oracles for anything under the same key. So a key serves one (owner, purpose, run), by its id:
a ciphertext that says under which key it stands, a key with its proof and a key in a file are refused by name under
another. A platform that lies about the id gains nothing either: the moduli differ, and a number of one key says nothing
when it is opened under the next. Each attack is run against a bank that has one key for both, too.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conversations import contract_of

from lianxin.crypto import group, key_file, paillier, psi_paillier
from lianxin.crypto.errors import CiphertextRejected, KeyMisused, ProofRejected
from lianxin.crypto.key_file import Label
from lianxin.crypto.keyed_ciphertexts import add_key_tag, encode_keyed, strip_key_tag
from lianxin.crypto.randomness import Drbg
from lianxin.federation import binning, key_exchange, matching, rounds, scorecard
from lianxin.federation.errors import RunStopped
from lianxin.parties.keys import KeyStore

CONTRACT = contract_of()
LAYOUTS = scorecard.plan_layouts(CONTRACT)
SID = bytes(range(64))
FIRMS = [b"91110000%010d" % number for number in range(2000)]
SECRETS = FIRMS[17:23]  # what the bank asks for; none of them need be among the platform's firms
LABELS = [1, 0, 0, 1, 1, 0, 1, 0, 0, 1]
PROTECTION = key_file.protect_by_key(bytes(32))


def seeded(name: str) -> Drbg:
    return Drbg(bytes(32)).child("test_08_key_purposes", name)


def gradient_answers(key: paillier.SecretKey, cs: list[int]) -> list[int]:
    """Return what a bank with this training key lets go for gradient sums whose platform claims that key for them."""
    return opened_in_training(key, encode_keyed(key.public, cs))


def opened_in_training(key: paillier.SecretKey, data: bytes) -> list[int]:
    """Return what the bank's own code makes of a platform's gradient sums, as they cross."""
    work = binning.Work(CONTRACT, LAYOUTS, "bank-1", seeded("work"), ())
    turn: Any = SimpleNamespace(work=work, keys=SimpleNamespace(secret_key=key, decryptor=paillier.Decryptor(key)))
    return [scorecard.rounded(total, LAYOUTS) for total in rounds._slot_sums(turn, data)]


def firms_read_in_training(
    matching_key: paillier.SecretKey, training_key: paillier.SecretKey
) -> tuple[list[bytes], int]:
    """Return the firms that the platform names after it hands the bank's matching queries in as gradient sums, and how
    many sums the bank opened: under another modulus a number that happens to be too large is refused before."""
    scalars = [psi_paillier.identifier_scalar(SID, firm) for firm in SECRETS]
    encryptor = paillier.OwnerEncryptor(matching_key)
    queries = psi_paillier.encrypt_queries(encryptor, scalars, seeded("queries"))
    answers = gradient_answers(training_key, [c for c in queries if c < training_key.public.n_squared])
    layout = LAYOUTS.residual
    guesses = {
        scorecard.rounded(rounds._slot_sum(psi_paillier.identifier_scalar(SID, firm), layout), LAYOUTS): firm
        for firm in FIRMS
    }
    return [guesses[answer] for answer in answers if answer in guesses], len(answers)


def labels_read_in_matching(
    training_key: paillier.SecretKey, matching_key: paillier.SecretKey
) -> tuple[list[int], int]:
    """Return the labels that the platform names after it hands shares of the first round in as matching answers, and
    how many answers the bank opened.

    All scores are 0 then, so that the share of a row has one of two values, and each leads to a tag.
    """
    polynomial, zeros = scorecard.residual_polynomial(0, 4), np.zeros(len(LABELS))
    constants, _ = scorecard.residual_shares(polynomial, zeros, LABELS)
    shifts = [LAYOUTS.residual.shift(row) for row in range(len(LABELS))]
    shares = [constant << shift for constant, shift in zip(constants, shifts, strict=True)]
    cs = paillier.OwnerEncryptor(training_key).encrypt_many(shares, seeded("shares"))
    both = [scorecard.residual_shares(polynomial, zeros[:1], [label])[0][0] for label in (0, 1)]
    read, opened = [], 0
    for c, shift in zip(cs, shifts, strict=True):
        scalars = [(value << shift) % training_key.public.n % group.ORDER for value in both]
        tags = psi_paillier.evaluator_tags(SID, 0, scalars)
        answered = tags_answered(matching_key, c)
        opened += len(answered)
        read += [tags.index(tag) for tag in answered if tag in tags]
    return read, opened


def tags_answered(key: paillier.SecretKey, c: int) -> list[bytes]:
    """Return the tag to which a bank with this matching key brings an answer whose platform claims that key for it."""
    if c >= key.public.n_squared:
        return []
    return opened_in_matching(key, as_answer(key, c))


def as_answer(key: paillier.SecretKey, c: int) -> bytes:
    """Return a platform's answer with this number and g, as it crosses, under the id of `key`."""
    return add_key_tag(key.public, psi_paillier.encode_answers(key.public, [(c, group.base_multiply(1))]))


def opened_in_matching(key: paillier.SecretKey, data: bytes) -> list[bytes]:
    """Return the tags that a bank with this matching key makes of a platform's answers."""
    answers = psi_paillier.decode_answers(key.public, strip_key_tag(key.public, data))
    return psi_paillier.finish_queries(SID, paillier.Decryptor(key), answers, seeded("finish"))


def as_key_for(purpose: str, key: paillier.SecretKey) -> paillier.SecretKey:
    """Return the same primes under another purpose: the key of a bank that does not keep purposes apart."""
    return paillier.secret_key_from_primes(*key.reveal_primes(), key.public.owner, purpose, key.public.run)


def test_with_one_key_for_both_the_platform_reads_whom_the_bank_asked_for(matching_key: paillier.SecretKey) -> None:
    assert firms_read_in_training(matching_key, as_key_for(binning.LABEL_PURPOSE, matching_key)) == (
        SECRETS,
        len(SECRETS),
    )


def test_with_a_key_for_each_a_query_handed_in_as_a_gradient_names_nobody(
    matching_key: paillier.SecretKey, bank_key: paillier.SecretKey
) -> None:
    read, opened = firms_read_in_training(matching_key, bank_key)
    assert read == [] and opened > 0


def test_with_one_key_for_both_the_platform_reads_labels_through_matching(bank_key: paillier.SecretKey) -> None:
    assert labels_read_in_matching(bank_key, as_key_for(matching.PURPOSE, bank_key)) == (LABELS, len(LABELS))


def test_with_a_key_for_each_a_share_handed_in_as_an_answer_leads_to_neither_tag(
    matching_key: paillier.SecretKey, bank_key: paillier.SecretKey
) -> None:
    read, opened = labels_read_in_matching(bank_key, matching_key)
    assert read == [] and opened > 0


@pytest.mark.parametrize("honest_purpose", ["labels", "matching"])
def test_a_ciphertext_of_one_purpose_is_refused_in_the_other_by_its_keys_id(
    honest_purpose: str, matching_key: paillier.SecretKey, bank_key: paillier.SecretKey
) -> None:
    keys = {"labels": bank_key, "matching": matching_key}
    honest = keys.pop(honest_purpose)
    (other,) = keys.values()
    c = paillier.encrypt_with(honest.public, 7, 3)
    receive = {
        "labels": lambda key: opened_in_training(key, encode_keyed(honest.public, [c])),
        "matching": lambda key: opened_in_matching(key, as_answer(honest, c)),
    }
    assert receive[honest_purpose](honest)
    ids = f"under key {honest.public.key_id[:16]} came where bank-1's key {other.public.key_id[:16]}"
    with pytest.raises(CiphertextRejected, match=f"{ids} for {other.public.purpose} is due"):
        receive[other.public.purpose](other)


def test_a_key_has_another_id_under_every_owner_purpose_and_run(bank_key: paillier.SecretKey) -> None:
    n, owner, purpose, run = (getattr(bank_key.public, name) for name in ("n", "owner", "purpose", "run"))
    labels = [(owner, purpose, run), (owner, "matching", run), (owner, purpose, "run-2"), ("bank-2", purpose, run)]
    assert len({paillier.PublicKey(n, *label).key_id for label in labels}) == len(labels)


# ---- a key that is announced


@pytest.mark.parametrize(("purpose", "other"), [("labels", "matching"), ("matching", "labels")])
def test_a_key_announced_for_one_purpose_is_refused_in_the_other(
    purpose: str, other: str, bank_key: paillier.SecretKey, matching_key: paillier.SecretKey
) -> None:
    key = {"labels": bank_key, "matching": matching_key}[purpose]
    modulus, proof = key_exchange.announce_key(CONTRACT, key, seeded("announce"))
    assert key_exchange.received_key(CONTRACT, "bank-1", purpose, modulus, proof) == key.public
    with pytest.raises(ProofRejected, match="session differs"):
        key_exchange.received_key(CONTRACT, "bank-1", other, modulus, proof)


def test_without_the_purpose_in_the_proofs_session_a_training_key_would_pass_in_matching(
    bank_key: paillier.SecretKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        key_exchange, "proof_session", lambda contract, owner, purpose: f"{contract.hash}{owner}".encode()
    )
    modulus, proof = key_exchange.announce_key(CONTRACT, bank_key, seeded("announce"))
    assert key_exchange.received_key(CONTRACT, "bank-1", "matching", modulus, proof).n == bank_key.public.n


@pytest.mark.parametrize(
    ("terms", "owner"), [({"run": "test-run-2"}, "bank-1"), ({"rounds": 5}, "bank-1"), ({}, "bank-2")]
)
def test_a_key_announced_in_one_run_or_by_one_bank_is_refused_in_another(
    terms: dict[str, Any], owner: str, bank_key: paillier.SecretKey
) -> None:
    modulus, proof = key_exchange.announce_key(CONTRACT, bank_key, seeded("announce"))
    with pytest.raises(ProofRejected, match="session differs"):
        key_exchange.received_key(contract_of(**terms), owner, "labels", modulus, proof)


# ---- a key in a file


@pytest.mark.parametrize(("purpose", "other"), [("labels", "matching"), ("matching", "labels")])
def test_a_saved_key_is_not_opened_for_another_purpose(
    purpose: str, other: str, bank_key: paillier.SecretKey, matching_key: paillier.SecretKey
) -> None:
    key = {"labels": bank_key, "matching": matching_key}[purpose]
    label, saved = Label("bank-1", purpose, "test-run-1"), key_file.seal_key(key, PROTECTION, bytes(16))
    assert key_file.open_key(saved, PROTECTION, label).public == key.public
    with pytest.raises(KeyMisused, match=f"purpose {purpose}, asked for purpose {other}"):
        key_file.open_key(saved, PROTECTION, label._replace(purpose=other))


def swapped(folder: Path, matching_key: paillier.SecretKey) -> tuple[KeyStore, Path]:
    """Return a bank's keys after somebody who can write to its disk put the matching key in the training key's place."""
    store = KeyStore(folder, "bank-1", PROTECTION)
    store.paillier_key("matching", "test-run-1", 2048, lambda: matching_key)
    place = folder / "keys" / "test-run-1"
    (place / "labels.json").write_bytes((place / "matching.json").read_bytes())
    return store, place / "labels.json"


def test_a_matching_key_put_in_the_training_keys_place_stops_the_run(
    tmp_path: Path, matching_key: paillier.SecretKey
) -> None:
    store, _ = swapped(tmp_path, matching_key)
    with pytest.raises(RunStopped, match="for purpose matching, asked for purpose labels"):
        store.paillier_key("labels", "test-run-1", 2048, lambda: pytest.fail("a key was made"))


def test_a_node_that_takes_a_files_own_word_trains_with_the_matching_key_and_shows_whom_it_asked_for(
    tmp_path: Path, matching_key: paillier.SecretKey
) -> None:
    _, place = swapped(tmp_path, matching_key)
    saved = place.read_bytes()
    taken = key_file.open_key(saved, PROTECTION, key_file.read_saved_key(saved).label)
    assert firms_read_in_training(matching_key, as_key_for("labels", taken)) == (SECRETS, len(SECRETS))
