"""A secret key as the bytes of a file: it comes back for its own label and protection, and nothing else opens."""

import copy
import json
import pickle
import traceback
from base64 import urlsafe_b64decode
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st
from torture import cases

from lianxin.crypto import canonical, key_file, paillier
from lianxin.crypto.errors import CryptoError, KeyFileLocked, KeyFileRejected, KeyMisused
from lianxin.crypto.key_file import Label
from lianxin.crypto.randomness import Drbg

LABEL = Label("bank-1", "labels", "run-1")
SALT = bytes(range(16))
PASSPHRASE = "four canaries in one mine"
SECRET = bytes(range(100, 132))
KEY = paillier.generate_secret_key(256, *LABEL, Drbg(bytes(32)).child("test_key_file"))
P, Q = KEY.reveal_primes()
BY_KEY = key_file.protect_by_key(SECRET)
BY_PASSPHRASE = key_file.protect_by_passphrase(PASSPHRASE)
SAVED = key_file.seal_key(KEY, BY_KEY, SALT)
SAVED_BY_PASSPHRASE = key_file.seal_key(KEY, BY_PASSPHRASE, SALT)
CANARIES = [f"{P:x}", f"{Q:x}", str(P), str(Q), PASSPHRASE, SECRET.hex(), repr(SECRET)]


def altered(change: Callable[[dict[str, Any]], Any], data: bytes = SAVED) -> bytes:
    """Return the file after `change` to its outer record."""
    outer = canonical.decode(data)
    change(outer)
    return canonical.encode(outer)


def reencrypted(change: Callable[[dict[str, Any]], Any]) -> bytes:
    """Return the file after `change` to its inner record: what only the owner of the protection could write."""
    fernet = Fernet(BY_KEY.fresh(SALT).token_key)
    inner = canonical.decode(fernet.decrypt(canonical.decode(SAVED)["token"]))
    change(inner)
    token = fernet.encrypt_at_time(canonical.encode(inner), 0).decode()
    return altered(lambda outer: outer.update(token=token))


def respelt(token: str) -> str:
    """Return other text that a lenient decoder takes for the same bytes: the bits before the padding are not used."""
    last = max(place for place, letter in enumerate(token) if letter != "=")
    for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_":
        other = token[:last] + letter + token[last + 1 :]
        if other != token and urlsafe_b64decode(other) == urlsafe_b64decode(token):
            return other
    return token[:-1] + "\n" + token[-1]


@pytest.mark.parametrize(("data", "protection"), [(SAVED, BY_KEY), (SAVED_BY_PASSPHRASE, BY_PASSPHRASE)])
def test_a_saved_key_comes_back_for_its_label(data: bytes, protection: key_file.Protection) -> None:
    opened = key_file.open_key(data, protection, LABEL)
    assert opened.reveal_primes() == (P, Q) and opened.public == KEY.public


def test_the_passphrase_itself_opens_and_not_the_object_that_sealed() -> None:
    again = key_file.protect_by_passphrase(PASSPHRASE)
    assert key_file.open_key(SAVED_BY_PASSPHRASE, again, LABEL).reveal_primes() == (P, Q)


def test_a_saved_seed_comes_back_for_its_label_and_for_no_other_run() -> None:
    label = Label("bank-1", "run-seed", "run-1")
    kept = key_file.seal_seed(bytes(range(32)), label, BY_KEY, SALT)
    assert key_file.open_seed(kept, BY_KEY, label) == bytes(range(32))
    assert bytes(range(32)).hex().encode() not in kept
    with pytest.raises(KeyMisused, match="run run-1, asked for run run-2"):
        key_file.open_seed(kept, BY_KEY, label._replace(run="run-2"))


def test_a_seed_is_not_taken_for_a_key_nor_a_key_for_a_seed() -> None:
    kept = key_file.seal_seed(bytes(32), LABEL, BY_KEY, SALT)
    with pytest.raises(KeyFileRejected, match="no record of type paillier-key"):
        key_file.open_key(kept, BY_KEY, LABEL)
    with pytest.raises(KeyFileRejected, match="no record of type run-seed"):
        key_file.open_seed(SAVED, BY_KEY, LABEL)


def test_the_public_part_is_read_without_opening() -> None:
    saved = key_file.read_saved_key(SAVED_BY_PASSPHRASE)
    assert saved == (LABEL, 256, KEY.public.key_id, "passphrase")
    assert key_file.read_saved_key(SAVED).protection == "key file"
    assert key_file.salt_of(SAVED) == SALT


def test_one_key_saved_twice_gives_different_tokens() -> None:
    assert key_file.seal_key(KEY, BY_KEY, SALT) != SAVED


def test_the_time_of_writing_is_not_in_the_file() -> None:
    token = canonical.decode(SAVED)["token"]
    assert Fernet(BY_KEY.fresh(SALT).token_key).extract_timestamp(token) == 0


# ---- refusals


@pytest.mark.parametrize(
    ("expected", "words"),
    [
        (LABEL._replace(owner="bank-2"), "owner bank-1, asked for owner bank-2"),
        (LABEL._replace(purpose="matching"), "purpose labels, asked for purpose matching"),
        (LABEL._replace(run="run-2"), "run run-1, asked for run run-2"),
    ],
)
def test_a_key_of_another_owner_purpose_or_run_is_refused_by_name(expected: Label, words: str) -> None:
    with pytest.raises(KeyMisused, match=words):
        key_file.open_key(SAVED, BY_KEY, expected)


@pytest.mark.parametrize("name", LABEL._fields)
def test_a_label_rewritten_outside_does_not_turn_a_key_to_another_use(name: str) -> None:
    data = altered(lambda outer: outer.update({name: "other-1"}))
    with pytest.raises(KeyFileRejected, match=f"another {name} outside than inside"):
        key_file.open_key(data, BY_KEY, LABEL._replace(**{name: "other-1"}))


def test_another_passphrase_or_key_file_is_told_from_a_damaged_token() -> None:
    for data, protection in (
        (SAVED, key_file.protect_by_key(bytes(32))),
        (SAVED_BY_PASSPHRASE, key_file.protect_by_passphrase(PASSPHRASE + "s")),
    ):
        with pytest.raises(KeyFileLocked, match="another passphrase or key file protects"):
            key_file.open_key(data, protection, LABEL)
    with pytest.raises(KeyFileRejected, match="damaged") as caught:
        key_file.open_key(altered(lambda outer: outer.update(token=outer["token"][::-1])), BY_KEY, LABEL)
    assert not isinstance(caught.value, KeyFileLocked)


@pytest.mark.parametrize(
    ("data", "protection", "words"),
    [
        (SAVED, BY_PASSPHRASE, "by a key file, this node has a passphrase"),
        (SAVED_BY_PASSPHRASE, BY_KEY, "by a passphrase, this node has a key file"),
    ],
)
def test_the_other_kind_of_protection_is_named(data: bytes, protection: key_file.Protection, words: str) -> None:
    with pytest.raises(KeyFileLocked, match=words):
        key_file.open_key(data, protection, LABEL)


BAD_FILES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "cut short or damaged"),
    "the first half": (SAVED[: len(SAVED) // 2], "cut short or damaged"),
    "a byte too many": (SAVED + b"\n", "cut short or damaged"),
    "indented by hand": (json.dumps(json.loads(SAVED), indent=1).encode(), "cut short or damaged"),
    "far too long": (b" " * (key_file.MOST_BYTES + 1), "at most 65536"),
    "another record": (altered(lambda r: r.update(type="consent")), "no record of type paillier-key"),
    "a later version": (altered(lambda r: r.update(version=2)), "version 2, this program reads 1"),
    "without a token": (altered(lambda r: r.pop("token")), "lacks a field"),
    "with one field more": (altered(lambda r: r.update(note="x")), "one too many"),
    "a token that is no text": (altered(lambda r: r.update(token=["x"])), "lacks a field"),
    "a token that is no token": (altered(lambda r: r.update(token="x")), "encrypted part is damaged"),
    "a token with a letter outside its alphabet": (altered(lambda r: r.update(token="é")), "encrypted part is damaged"),
    "a token with a space in it": (altered(lambda r: r.update(token=" " + r["token"])), "encrypted part is damaged"),
    "a token in another spelling": (
        altered(lambda r: r.update(token=respelt(r["token"]))),
        "encrypted part is damaged",
    ),
    "an owner with a path": (altered(lambda r: r.update(owner="../x")), "no saved key has"),
    "a modulus of a million bits": (altered(lambda r: r.update(bits=10**6)), "no saved key has"),
    "another size": (altered(lambda r: r.update(bits=258)), "another key than it says"),
    "another key id": (altered(lambda r: r.update(key_id="00" * 32)), "another key than it says"),
    "no derivation": (altered(lambda r: r.update(kdf={})), "no key derivation"),
    "an unknown derivation": (altered(lambda r: r["kdf"].update(name="md5")), "no key derivation"),
    "a short salt": (altered(lambda r: r["kdf"].update(salt="00")), "no key derivation"),
    "a salt that is no hex": (altered(lambda r: r["kdf"].update(salt="zz" * 16)), "no key derivation"),
    "p that is no prime": (reencrypted(lambda r: r.update(p=f"{P + 2:x}")), "its numbers are no key"),
    "p twice": (reencrypted(lambda r: r.update(q=r["p"])), "its numbers are no key"),
    "the primes of another key": (reencrypted(lambda r: r.update(p="17", q="3b")), "another key than it says"),
    "p in capitals": (reencrypted(lambda r: r.update(p=r["p"].upper())), "not written as a key's"),
    "p with a leading zero": (reencrypted(lambda r: r.update(p="0" + r["p"])), "not written as a key's"),
    "p as a number": (reencrypted(lambda r: r.update(p=17)), "not written as a key's"),
    "p of a million digits": (reencrypted(lambda r: r.update(p="f" * 30_000)), "not written as a key's"),
    "an inner record of another type": (reencrypted(lambda r: r.update(type="x")), "holds something else"),
    "an inner record without q": (reencrypted(lambda r: r.pop("q")), "holds something else"),
    "an inner record of another version": (reencrypted(lambda r: r.update(version=2)), "another version outside"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_is_no_saved_key_is_refused_for_its_reason(name: str) -> None:
    data, words = BAD_FILES[name]
    with pytest.raises(KeyFileRejected, match=words):
        key_file.open_key(data, BY_KEY, LABEL)


DEAR_OR_CHEAP = {
    "a memory bomb in n": {"n": 1 << 40},
    "a memory bomb in r": {"r": 1 << 20},
    "a time bomb in p": {"p": 1 << 20},
    "n under the floor": {"n": 1 << 14},
    "n no power of two": {"n": (1 << 15) + 1},
    "n a truth value": {"n": True},
    "p a truth value": {"p": True},
    "n negative": {"n": -(1 << 15)},
    "n as text": {"n": "32768"},
    "r of 1": {"r": 1},
}


@pytest.mark.parametrize("name", DEAR_OR_CHEAP)
def test_absurd_parameters_are_refused_before_scrypt_takes_memory(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_file, "Scrypt", lambda *_: pytest.fail("scrypt was called"))
    data = altered(lambda outer: outer["kdf"].update(DEAR_OR_CHEAP[name]), SAVED_BY_PASSPHRASE)
    with pytest.raises(KeyFileRejected, match="outside n = 32768 to 131072"):
        key_file.open_key(data, key_file.protect_by_passphrase(PASSPHRASE), LABEL)


def test_scrypt_runs_at_its_floor_or_above_and_once_for_all_keys_of_a_salt(monkeypatch: pytest.MonkeyPatch) -> None:
    derive, costs = key_file.Scrypt, []

    def counting(salt: bytes, length: int, n: int, r: int, p: int) -> Any:
        costs.append((n, r, p))
        return derive(salt, length, n, r, p)

    monkeypatch.setattr(key_file, "Scrypt", counting)
    protection = key_file.protect_by_passphrase(PASSPHRASE)
    for _ in range(3):
        key_file.open_key(key_file.seal_key(KEY, protection, SALT), protection, LABEL)
    assert costs == [(1 << 15, 8, 1)]


@cases()
@given(st.data())
def test_a_file_with_any_byte_changed_is_refused_by_name(data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(SAVED) - 1))
    changed = bytearray(SAVED)
    changed[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(KeyFileRejected):
        key_file.open_key(bytes(changed), BY_KEY, LABEL)


@pytest.mark.parametrize("part", ["", "a/b", "..", "a" * 65, "é"])
def test_a_key_whose_label_has_no_place_in_a_file_is_not_sealed(part: str) -> None:
    named = paillier.secret_key_from_primes(P, Q, "bank-1", part, "run-1")
    with pytest.raises(ValueError, match="letters, digits"):
        key_file.seal_key(named, BY_KEY, SALT)


def test_an_empty_passphrase_a_short_key_and_a_short_salt_are_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        key_file.protect_by_passphrase("")
    with pytest.raises(ValueError, match="32 bytes, this one 31"):
        key_file.protect_by_key(bytes(31))
    with pytest.raises(ValueError, match="16 bytes, this one 3"):
        key_file.seal_key(KEY, BY_KEY, bytes(3))


# ---- nothing secret shows


def test_no_secret_number_or_word_is_in_a_file() -> None:
    for data in (SAVED, SAVED_BY_PASSPHRASE):
        assert not [canary for canary in CANARIES if canary.encode() in data]


def test_a_protection_and_what_it_derives_show_nothing_and_are_not_copied() -> None:
    for protection in (BY_KEY, BY_PASSPHRASE):
        wrapping = protection.fresh(SALT)
        for shown in (repr(protection), str(protection), repr(wrapping), f"{[protection]}"):
            assert wrapping.token_key.decode() not in shown
            assert not [canary for canary in CANARIES if canary in shown]
        for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError):
                duplicate(protection)


@pytest.mark.parametrize("name", BAD_FILES)
def test_no_refusal_shows_a_secret_in_its_words_or_in_what_led_to_it(name: str) -> None:
    try:
        key_file.open_key(BAD_FILES[name][0], BY_KEY, LABEL)
    except CryptoError as fault:
        shown = "".join(traceback.format_exception(fault))
    assert not [canary for canary in CANARIES if canary in shown]
    assert SAVED.decode()[100:200] not in shown
