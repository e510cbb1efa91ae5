"""Write the project's own full-size Paillier vectors: `python tests/make_vectors.py 2048`, and the same with 3072.

Keys come from the package, from one seed. Everything else in a file is computed here a second time: Paillier's scheme
as its paper writes it (EUROCRYPT 1999, section 4), with g = n + 1, λ = lcm(p-1, q-1), μ = L(g^λ mod n²)^-1 mod n, in
Python's own integers. A file is written only if this and the package agree on every number, and `phe` where it is
installed. Files change with the seed, the scheme or the stream of a key alone.
"""

import hashlib
import importlib
import importlib.util
import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lianxin.crypto import modulus_proof, paillier
from lianxin.crypto.randomness import Drbg

VECTORS = Path(__file__).resolve().parent / "vectors"
SEED = hashlib.sha256(b"lianxin/vectors/paillier/1").digest()
KEYS = 20
OWNER, PURPOSE, RUN = "bank-1", "vectors", "vector-run"
SESSION = b"bank-1 to platform-a, vector-run"
PROVENANCE = {
    "generator": "tests/make_vectors.py",
    "keys": "crypto.paillier.generate_secret_key under the seed's children (bits, number of the key)",
    "numbers": "textbook Paillier in Python integers; equal to crypto.paillier and to phe's raw operations",
    "seed": SEED.hex(),
}
# m_1 is random; m_2 takes one of these in turn, as a function of n
EDGES: tuple[Callable[[int], int], ...] = (
    lambda n: 0, lambda n: 1, lambda n: n - 1, lambda n: n // 2, lambda n: n // 2 + 1, lambda n: (1 << 64) - 1
)  # fmt: skip
Entry = dict[str, Any]


@dataclass(frozen=True)
class Textbook:
    """The scheme of the paper, as slow as it reads. Nothing of the package is used."""

    p: int
    q: int

    @property
    def n(self) -> int:
        return self.p * self.q

    @property
    def order(self) -> int:
        """λ, the order of the n-th residues' exponent."""
        return math.lcm(self.p - 1, self.q - 1)

    def log(self, u: int) -> int:
        """L(u) = (u - 1)/n."""
        return (u - 1) // self.n

    def encrypt(self, m: int, r: int) -> int:
        square = self.n**2
        return pow(self.n + 1, m, square) * pow(r, self.n, square) % square

    def decrypt(self, c: int) -> int:
        mu = pow(self.log(1 + self.order * self.n), -1, self.n)  # g^λ = 1 + λn mod n², the binomial theorem
        return self.log(pow(c, self.order, self.n**2)) * mu % self.n


def secret_key(bits: int, index: int) -> paillier.SecretKey:
    """Return the key of one vector; it takes seconds at these sizes."""
    return paillier.generate_secret_key(bits, OWNER, PURPOSE, RUN, Drbg(SEED).child("key", bits, index))


def entry_of(key: paillier.SecretKey, index: int) -> Entry:
    """Return one vector: two messages under two randomisers, the sum's ciphertext and a multiple's, in hex."""
    p, q = key.reveal_primes()
    book, n, drbg = Textbook(p, q), p * q, Drbg(SEED).child("case", key.public.bits, index)
    m = [drbg.below(n), EDGES[index % len(EDGES)](n)]
    r = [_unit(n, drbg), _unit(n, drbg)]
    k = drbg.bits(20 if index % 2 else 64)
    c = [book.encrypt(*pair) for pair in zip(m, r, strict=True)]
    total, multiple = c[0] * c[1] % n**2, pow(c[0], k, n**2)
    _check(key, book, m, r, c, total, multiple, k)
    numbers = {"p": p, "q": q, "n": n, "k": k, "sum": total, "multiple": multiple}
    lists = {"m": m, "r": r, "c": c}
    return {name: spell(v) for name, v in numbers.items()} | {
        name: [spell(v) for v in vs] for name, vs in lists.items()
    }


def _unit(n: int, drbg: Drbg) -> int:
    while math.gcd(r := drbg.between(1, n), n) != 1:
        pass
    return r


def _check(
    key: paillier.SecretKey, book: Textbook, m: list[int], r: list[int], c: list[int], total: int, multiple: int, k: int
) -> None:
    public, n = key.public, book.n
    assert [paillier.encrypt_with(public, *pair) for pair in zip(m, r, strict=True)] == c
    assert paillier.add(public, *c) == total and paillier.multiply(public, c[0], k) == multiple
    plain = [*m, sum(m) % n, m[0] * k % n]
    assert [book.decrypt(one) for one in (*c, total, multiple)] == plain
    assert paillier.Decryptor(key).decrypt_many([*c, total, multiple], Drbg(SEED)) == plain
    if importlib.util.find_spec("phe"):
        phe = importlib.import_module("phe")
        theirs = phe.PaillierPublicKey(n)
        assert [theirs.raw_encrypt(*pair) for pair in zip(m, r, strict=True)] == c
        opener = phe.PaillierPrivateKey(theirs, book.p, book.q)
        assert [opener.raw_decrypt(one) for one in (*c, total, multiple)] == plain


def spell(number: int) -> str:
    """Return a number in hex, a space after every 128 digits: tools that read lines fear long words."""
    return _grouped(f"{number:x}")


def read(text: str) -> int:
    """Return the number that `spell` wrote."""
    return int(text.replace(" ", ""), 16)


def _grouped(digits: str) -> str:
    return " ".join(digits[start : start + 128] for start in range(0, len(digits), 128))


def bad_ciphertexts(entry: Entry) -> list[dict[str, str]]:
    """Return numbers that are no ciphertext under the vector's key, each with the words that refuse it."""
    p, q, n, good = (read(entry[name]) for name in ("p", "q", "n", "sum"))
    outside, factor = "is outside", "shares a factor"
    named = [
        ("zero", 0, outside), ("n squared", n * n, outside), ("n squared plus one", n * n + 1, outside),
        ("the widest that fits", (1 << 8 * ((2 * n.bit_length() + 7) // 8)) - 1, outside), ("n", n, factor),
        ("n squared less n", n * n - n, factor), ("p", p, factor), ("a multiple of p squared", 7 * p * p, factor),
        ("a good one times q", good * q % (n * n), factor),
        ("the textbook form with r = p", (1 + 5 * n) * pow(p, n, n * n) % (n * n), factor),
    ]  # fmt: skip
    return [{"name": name, "c": spell(c), "reason": reason} for name, c, reason in named]


def proof_file(entry: Entry) -> dict[str, Any]:
    """Return a proof of the vector's modulus and what an attacker makes of it: bytes put in at places, and the refusal."""
    p, q = read(entry["p"]), read(entry["q"])
    key = paillier.secret_key_from_primes(p, q, OWNER, PURPOSE, RUN)
    n, size = key.public.n, key.public.bits // 8
    proof = modulus_proof.prove_modulus(key, SESSION, Drbg(SEED).child("modulus-proof"))
    verify_plainly(n, proof, SESSION)
    last, step = len(proof) - 2 * size - 1, 2 * size + 1
    x = int.from_bytes(proof[size : 2 * size], "big")
    z = int.from_bytes(proof[2 * size : 3 * size], "big")
    square = next(w for w in range(4, 10**6) if math.isqrt(w) ** 2 == w)
    wide = {name: value.to_bytes(size, "big") for name, value in {
        "zero": 0, "n": n, "p": 2 * p, "square": square, "x + 1": x + 1, "z": n - z,
    }.items()}  # fmt: skip
    changes = [
        ("w = 0", 0, wide["zero"], "outside"),
        ("w = n", 0, wide["n"], "outside"),
        ("w shares a factor with n", 0, wide["p"], "shares a factor"),
        ("w is a square, of Jacobi symbol 1", 0, wide["square"], "no Jacobi symbol"),
        ("x = 0", size, wide["zero"], "outside"),
        ("x = n", size, wide["n"], "outside"),
        ("x + 1", size, wide["x + 1"], "fourth root of round 0"),
        ("the negative of z", 2 * size, wide["z"], "n-th root of round 0"),
        ("the other bits in the last round", last + 2 * size, bytes([proof[-1] ^ 1]), "fourth root of round 79"),
        ("bits above 3", size + step - 1, b"\x04", "from 0 to 3"),
        ("round 1 in place of round 0", size, proof[size + step : size + 2 * step], "fourth root of round 0"),
    ]
    return {
        "provenance": PROVENANCE | {"numbers": "the proof verifies in the package and in Python integers"},
        "n": spell(n), "session": SESSION.hex(), "proof": _grouped(proof.hex()),
        "bad": [{"name": a, "at": b, "bytes": _grouped(c.hex()), "reason": d} for a, b, c, d in changes],
        "other_session": {"session": (SESSION + b"'").hex(), "reason": "session differs"},
    }  # fmt: skip


def verify_plainly(n: int, proof: bytes, session: bytes, rounds: int = modulus_proof.ROUNDS) -> None:
    """Assert the equations of CGGMP21's Π^mod for the first `rounds`, from the bytes on, in Python integers."""
    size = (n.bit_length() + 7) // 8
    w = int.from_bytes(proof[:size], "big")
    assert n % 2 == 1 and jacobi(w, n) == -1
    state = hashlib.shake_256(b"lianxin/modulus-proof\x00")
    for part in (session, n.to_bytes(size, "big"), w.to_bytes(size, "big")):
        state.update(len(part).to_bytes(8, "big") + part)
    stream = state.digest(modulus_proof.ROUNDS * (size + 16))
    for k in range(rounds):
        y = int.from_bytes(stream[k * (size + 16) : (k + 1) * (size + 16)], "big") % n
        start = size + k * (2 * size + 1)
        x = int.from_bytes(proof[start : start + size], "big")
        z = int.from_bytes(proof[start + size : start + 2 * size], "big")
        a, b = divmod(proof[start + 2 * size], 2)
        assert pow(z, n, n) == y and pow(x, 4, n) == (-1) ** a * w**b * y % n


def jacobi(a: int, n: int) -> int:
    """Return the Jacobi symbol (a|n) for odd n > 0, by quadratic reciprocity."""
    a, sign = a % n, 1
    while a:
        while a % 2 == 0:
            a, sign = a // 2, -sign if n % 8 in (3, 5) else sign
        a, n, sign = n, a, -sign if a % 4 == n % 4 == 3 else sign
        a %= n
    return sign if n == 1 else 0


def make(bits: int) -> None:
    """Write the files of one size."""
    entries = []
    for index in range(KEYS):
        entries.append(entry_of(secret_key(bits, index), index))
        print(f"{bits}: {index + 1} of {KEYS}", flush=True)
    record = {"provenance": PROVENANCE, "bits": bits, "keys": entries, "bad": bad_ciphertexts(entries[0])}
    _write(VECTORS / f"paillier_{bits}.json", record)
    if bits == 2048:
        _write(VECTORS / "modulus_proof_2048.json", proof_file(entries[0]))


def _write(path: Path, record: dict[str, Any]) -> None:
    path.write_text(json.dumps(record, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    VECTORS.mkdir(exist_ok=True)
    make(int(sys.argv[1]))
