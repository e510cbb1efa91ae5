"""A node's secrets at rest: a Paillier key or a run's seed as bytes for a file, encrypted and bound to what it is for.

The **label** says whose it is and for what: (owner, purpose, run), to which a Paillier key is bound (protocols.md,
section 1). A sealed secret is two canonical JSON records (docs/records.md), one inside the other:

1. root = the key file's 32 bytes, or scrypt(passphrase, salt; n = 2^15, r = 8, p = 1) (RFC 7914);
   token key = HKDF-SHA-256(root, salt, "…/token") and check = HKDF-SHA-256(root, salt, "…/check") (RFC 5869).
2. inner = the secret numbers and the label; token = Fernet(token key, inner): AES-128-CBC, HMAC-SHA-256.
3. outer = type, version, label, public facts, the derivation's parameters, check, token.

Fernet has no associated data: what stands outside is believed only where it equals what was encrypted inside. `check`
tells a wrong passphrase from a damaged token; for guessing passphrases it is worth what the token's own HMAC is.
Whoever opens names the label that it expects. Parameters of scrypt are bounded on both sides before any memory is
taken. Fernet draws its IV from the operating system by itself; its time stamp is written as 0, this room has no clock.

Threat model: who copies the file without the passphrase or key file learns the outer record. Who also writes to the
disk can destroy a secret or bring back an older one with the same label, and cannot exchange one label for another.
"""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from lianxin.crypto import canonical
from lianxin.crypto.errors import EncodingRejected, KeyFileLocked, KeyFileRejected, KeyMisused, KeyRejected
from lianxin.crypto.paillier import SecretKey, secret_key_from_primes
from lianxin.crypto.randomness import SEED_BYTES

KEY_TYPE, SEED_TYPE, IDENTITY_TYPE, VERSION = "paillier-key", "run-seed", "identity-key", 1
SALT_BYTES = 16
SCRYPT_N = 1 << 15
SCRYPT_N_MOST = 1 << 17
MOST_BYTES = 1 << 16
MOST_BITS = 16384
_SCRYPT, _HKDF = "scrypt", "hkdf-sha256"
_DOMAIN = b"lianxin/key-file/1/"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,63}")
_BASE64URL = re.compile(r"(?:[A-Za-z0-9_-]{4})*(?:[A-Za-z0-9_-]{2}==|[A-Za-z0-9_-]{3}=)?")
_HEX = re.compile(r"(?:[0-9a-f]{2})+")
_LABEL = ("owner", "purpose", "run")
_PUBLIC: Mapping[str, Mapping[str, type]] = {KEY_TYPE: {"bits": int, "key_id": str}, SEED_TYPE: {}, IDENTITY_TYPE: {}}


class Label(NamedTuple):
    """What a secret is for: the party that owns it, one purpose, one run."""

    owner: str
    purpose: str
    run: str


class SavedKey(NamedTuple):
    """What the file of a Paillier key says to everybody: its label, size in bits, key id, and how it is protected."""

    label: Label
    bits: int
    key_id: str
    protection: str


@dataclass(frozen=True)
class Wrapping:
    """A derived key, its public check and the parameters that lead to it again."""

    parameters: Mapping[str, Any]
    check: str
    token_key: bytes = field(repr=False)


class Protection:
    """A passphrase or the 32 bytes of a key file, and the keys derived from it so far: scrypt runs once a salt.

    Shows nothing, is not copied or pickled. Not shared between threads without a lock.
    """

    __slots__ = ("_known", "_name", "_secret")

    def __init__(self, name: str, secret: bytes) -> None:
        self._name, self._secret = name, secret
        self._known: dict[tuple[str, int], Wrapping] = {}

    def __repr__(self) -> str:
        return "Protection(<secret>)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Protection is neither copied nor pickled; read the passphrase or key file again")

    def fresh(self, salt: bytes) -> Wrapping:
        """Return what new secrets are sealed under, with 16 bytes of `salt`, random or the one used before."""
        if len(salt) != SALT_BYTES:
            raise ValueError(f"a salt has {SALT_BYTES} bytes, this one {len(salt)}")
        cost = {"n": SCRYPT_N, "r": 8, "p": 1} if self._name == _SCRYPT else {}
        return self.derived({"name": self._name, "salt": salt.hex(), **cost})

    def derived(self, parameters: Mapping[str, Any]) -> Wrapping:
        """Return what parameters that passed `_check_parameters` lead to. KeyFileLocked for the other kind."""
        if parameters["name"] != self._name:
            kinds = {_SCRYPT: "a passphrase", _HKDF: "a key file"}
            raise KeyFileLocked(
                f"the file is protected by {kinds[parameters['name']]}, this node has {kinds[self._name]}; "
                "set [keys] to what protected it"
            )
        place = (parameters["salt"], parameters.get("n", 0))
        if place not in self._known:
            self._known[place] = self._derive(parameters)
        return self._known[place]

    def _derive(self, parameters: Mapping[str, Any]) -> Wrapping:
        salt, root = bytes.fromhex(parameters["salt"]), self._secret
        if self._name == _SCRYPT:
            root = Scrypt(salt, 32, parameters["n"], parameters["r"], parameters["p"]).derive(root)
        token_key, check = (HKDF(SHA256(), 32, salt, _DOMAIN + use).derive(root) for use in (b"token", b"check"))
        return Wrapping(dict(parameters), check[:16].hex(), urlsafe_b64encode(token_key))


def protect_by_passphrase(passphrase: str) -> Protection:
    """Return the protection of a passphrase, taken as UTF-8 and as it is. ValueError for an empty one."""
    if not passphrase:
        raise ValueError("an empty passphrase protects nothing")
    return Protection(_SCRYPT, passphrase.encode())


def protect_by_key(secret: bytes) -> Protection:
    """Return the protection of a key file's 32 random bytes. ValueError for another length."""
    if len(secret) != SEED_BYTES:
        raise ValueError(f"a key file holds {SEED_BYTES} bytes, this one {len(secret)}")
    return Protection(_HKDF, secret)


def seal_key(secret_key: SecretKey, protection: Protection, salt: bytes) -> bytes:
    """Return the bytes of a file for `secret_key`, bound to its owner, purpose and run."""
    public = secret_key.public
    p, q = (f"{prime:x}" for prime in secret_key.reveal_primes())
    facts = {"bits": public.bits, "key_id": public.key_id}
    label = Label(public.owner, public.purpose, public.run)
    return _seal(KEY_TYPE, label, facts, {"p": p, "q": q}, protection.fresh(salt))


def open_key(data: bytes, protection: Protection, expected: Label) -> SecretKey:
    """Return the key of a file, which must be for `expected`.

    Raises KeyMisused for another owner, purpose or run, KeyFileLocked for another passphrase or key file, and
    KeyFileRejected for everything that `seal_key` does not write.
    """
    outer = _read(data, KEY_TYPE)
    inner = _open(outer, protection, expected, {"p", "q"})
    p, q = (_prime(inner[name], outer["bits"]) for name in ("p", "q"))
    try:
        secret_key = secret_key_from_primes(p, q, *expected)
    except KeyRejected:
        raise KeyFileRejected("the file opens and its numbers are no key; restore it from a copy") from None
    if (secret_key.public.bits, secret_key.public.key_id) != (outer["bits"], outer["key_id"]):
        raise KeyFileRejected("the file opens and holds another key than it says; restore it from a copy")
    return secret_key


def seal_seed(seed: bytes, label: Label, protection: Protection, salt: bytes) -> bytes:
    """Return a run's 32-byte seed, from which its keys can be made again, sealed like a key."""
    return _seal(SEED_TYPE, label, {}, {"seed": seed.hex()}, protection.fresh(salt))


def open_seed(data: bytes, protection: Protection, expected: Label) -> bytes:
    """Return the seed that was sealed for `expected`. Raises as `open_key` does."""
    seed = bytes.fromhex(_hex(_open(_read(data, SEED_TYPE), protection, expected, {"seed"})["seed"]))
    if len(seed) != SEED_BYTES:
        raise KeyFileRejected(f"the record opens and holds no seed of {SEED_BYTES} bytes; restore it from a copy")
    return seed


def seal_identity(secret: bytes, label: Label, protection: Protection, salt: bytes) -> bytes:
    """Return the file of a node's signing key or TLS key (the bytes that its file would hold in clear)."""
    return _seal(IDENTITY_TYPE, label, {}, {"secret": secret.hex()}, protection.fresh(salt))


def open_identity(data: bytes, protection: Protection, expected: Label) -> bytes:
    """Return the bytes of the key that was sealed for `expected`. Raises as `open_key` does."""
    return bytes.fromhex(_hex(_open(_read(data, IDENTITY_TYPE), protection, expected, {"secret"})["secret"]))


def is_sealed_identity(data: bytes) -> bool:
    """Return whether a key's file holds a sealed key, as its first bytes say; whether it opens is another question."""
    return data.startswith(b'{"check":') and b'"type":"identity-key"' in data


def read_saved_key(data: bytes) -> SavedKey:
    """Return what a key's file says without opening it; nobody vouches for it. Raises KeyFileRejected."""
    outer = _read(data, KEY_TYPE)
    kind = "passphrase" if outer["kdf"]["name"] == _SCRYPT else "key file"
    return SavedKey(_label_of(outer), outer["bits"], outer["key_id"], kind)


def salt_of(data: bytes) -> bytes:
    """Return the salt under which a secret was sealed, so that one derivation serves many. Raises KeyFileRejected."""
    return bytes.fromhex(_read(data, KEY_TYPE)["kdf"]["salt"])


def _seal(kind: str, label: Label, facts: dict[str, Any], secret: dict[str, str], wrapping: Wrapping) -> bytes:
    if not all(_NAME.fullmatch(part) for part in label):
        raise ValueError("owner, purpose and run are 1 to 64 letters, digits, '.' and '-'")
    named = label._asdict()
    inner = canonical.encode({"type": kind + "-secret", "version": VERSION, **named, **secret})
    token = Fernet(wrapping.token_key).encrypt_at_time(inner, 0).decode("ascii")
    head = {"type": kind, "version": VERSION, **named, **facts}
    return canonical.encode({**head, "kdf": dict(wrapping.parameters), "check": wrapping.check, "token": token})


def _open(outer: Mapping[str, Any], protection: Protection, expected: Label, secret: set[str]) -> dict[str, Any]:
    label = _label_of(outer)
    for name, found, asked in zip(_LABEL, label, expected, strict=True):
        if found != asked:
            raise KeyMisused(f"the saved secret is for {name} {found}, asked for {name} {asked}; each serves one alone")
    wrapping = protection.derived(outer["kdf"])
    if wrapping.check != outer["check"]:
        raise KeyFileLocked("another passphrase or key file protects the file; set [keys] to the one that did")
    try:
        inner = canonical.decode(Fernet(wrapping.token_key).decrypt(outer["token"]))
    except (InvalidToken, EncodingRejected):
        raise KeyFileRejected("the encrypted part is damaged; restore the file from a copy") from None
    if inner["type"] != outer["type"] + "-secret" or set(inner) != {"type", "version", *_LABEL, *secret}:
        raise KeyFileRejected("the file opens and holds something else; restore it from a copy")
    differs = [name for name in ("version", *_LABEL) if inner[name] != outer[name]]
    if differs:
        raise KeyFileRejected(f"the file says another {differs[0]} outside than inside: it was altered; restore it")
    return inner


def _read(data: bytes, kind: str) -> dict[str, Any]:
    """Return the outer record, its form checked. Raises KeyFileRejected."""
    if len(data) > MOST_BYTES:
        raise KeyFileRejected(f"the file has {len(data)} bytes, a saved key has at most {MOST_BYTES}; restore it")
    try:
        outer = canonical.decode(data)
    except EncodingRejected:
        raise KeyFileRejected("the file is cut short or damaged: no canonical JSON; restore it from a copy") from None
    if outer["type"] != kind:
        raise KeyFileRejected(f"the file is no record of type {kind}; restore it from a copy")
    if outer["version"] != VERSION:
        raise KeyFileRejected(f"the file has version {outer['version']}, this program reads {VERSION}; update it")
    forms = {"type": str, "version": int, **dict.fromkeys(_LABEL, str), **_PUBLIC[kind]}
    forms |= {"kdf": dict, "check": str, "token": str}
    if set(outer) != set(forms) or any(type(outer[name]) is not form for name, form in forms.items()):
        raise KeyFileRejected("the file lacks a field of a saved key or has one too many; restore it from a copy")
    if not all(_NAME.fullmatch(outer[name]) for name in _LABEL) or outer.get("bits", 0) > MOST_BITS:
        raise KeyFileRejected("the file names an owner, purpose, run or size that no saved key has; restore it")
    if not _is_token(outer["token"]):
        raise KeyFileRejected("the encrypted part is damaged; restore the file from a copy")
    _check_parameters(outer["kdf"])
    return outer


def _is_token(text: str) -> bool:
    """Return whether `text` is the one base64url spelling of its bytes: the decoder skips what is no letter of it."""
    return bool(_BASE64URL.fullmatch(text)) and urlsafe_b64encode(urlsafe_b64decode(text)).decode() == text


def _check_parameters(kdf: Mapping[str, Any]) -> None:
    """Raise KeyFileRejected unless these are parameters that this version writes, or up to four times as dear."""
    plain = {"name", "salt"}
    salt = kdf.get("salt")
    is_salt = isinstance(salt, str) and len(salt) == 2 * SALT_BYTES and _HEX.fullmatch(salt)
    names = plain if kdf.get("name") == _HKDF else plain | {"n", "r", "p"}
    if not is_salt or kdf.get("name") not in (_SCRYPT, _HKDF) or set(kdf) != names:
        raise KeyFileRejected("the file names no key derivation of this program; restore it from a copy")
    if kdf["name"] == _HKDF:
        return
    n, is_plain = kdf["n"], type(kdf["r"]) is type(kdf["p"]) is int and (kdf["r"], kdf["p"]) == (8, 1)
    if type(n) is not int or not SCRYPT_N <= n <= SCRYPT_N_MOST or n & (n - 1) or not is_plain:
        raise KeyFileRejected(
            f"the file asks for scrypt outside n = {SCRYPT_N} to {SCRYPT_N_MOST}, r = 8, p = 1: too cheap to protect "
            "or made to take all memory; restore it from a copy"
        )


def _label_of(record: Mapping[str, Any]) -> Label:
    return Label(*(record[name] for name in _LABEL))


def _prime(text: Any, bits: int) -> int:
    if not isinstance(text, str) or not re.fullmatch(r"[1-9a-f][0-9a-f]*", text) or 4 * len(text) > bits + 4:
        raise KeyFileRejected("the file opens and its numbers are not written as a key's; restore it from a copy")
    return int(text, 16)


def _hex(text: Any) -> str:
    if not isinstance(text, str) or not _HEX.fullmatch(text):
        raise KeyFileRejected("the record opens and its secret is no lower-case hex; restore it from a copy")
    return text
