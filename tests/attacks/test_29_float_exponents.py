"""Row 29: a number that travels with its own exponent shows its size, and a sum that overflows shows itself too late.

Libraries that encrypt floats (python-paillier's caveats; its issues 74 and 110) choose an exponent for each number from
its magnitude and send it in clear beside the ciphertext; sums that pass a third of n are noticed at decryption, or wrap
around and are not. Ours are integers at one public scale of the contract, of one length on the wire; bounds are proved
before anything is encrypted (tests/test_overflow_proof.py walks the proof); and no float enters crypto/.
"""

import ast
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gmpy2
import numpy as np
import pytest
from conversations import contract_of
from torture import repeats

from lianxin.crypto import paillier
from lianxin.crypto.errors import PackingOverflow
from lianxin.crypto.packing import check_bounds
from lianxin.crypto.randomness import Drbg
from lianxin.federation import scorecard, wire

CRYPTO = Path(__file__).resolve().parents[2] / "crypto"
BASE_BITS, MANTISSA_BITS = 4, 53


def seeded(name: str) -> Drbg:
    return Drbg(bytes(32)).child("test_29_float_exponents", name)


KEY = paillier.generate_secret_key(256, "bank-a", "P4", "run-1", seeded("key"))
PUBLIC, N = KEY.public, KEY.public.n
ENCRYPTOR, DECRYPTOR = paillier.OwnerEncryptor(KEY), paillier.Decryptor(KEY)


@dataclass(frozen=True)
class EncryptedFloat:
    """The weak variant: a ciphertext of the mantissa, and its exponent to base 16 in clear."""

    ciphertext: int
    exponent: int


def encrypt_float(value: float, drbg: Drbg) -> EncryptedFloat:
    """Encode as such libraries do: the smallest exponent that keeps all 53 bits of this number."""
    exponent = (math.frexp(value)[1] - MANTISSA_BITS) // BASE_BITS
    return EncryptedFloat(ENCRYPTOR.encrypt(round(value * 2.0 ** (-BASE_BITS * exponent)), drbg), exponent)


def add_floats(left: EncryptedFloat, right: EncryptedFloat) -> EncryptedFloat:
    """Return the sum at the smaller exponent, to which the other mantissa is shifted."""
    low, high = sorted((left, right), key=lambda one: one.exponent)
    shifted = paillier.multiply(PUBLIC, high.ciphertext, 1 << BASE_BITS * (high.exponent - low.exponent))
    return EncryptedFloat(paillier.add(PUBLIC, low.ciphertext, shifted), low.exponent)


def decrypt_float(number: EncryptedFloat) -> float:
    mantissa = paillier.centred(DECRYPTOR.decrypt(number.ciphertext, seeded("open")), N)
    return float(mantissa * 16.0**number.exponent)


def seen_size(number: EncryptedFloat) -> float:
    """Return what anybody reads of |value| without a key: it is within a factor of 16 from here."""
    return 2.0 ** (BASE_BITS * number.exponent + MANTISSA_BITS - 1)


def test_the_exponent_beside_a_ciphertext_gives_the_size_of_every_number_without_a_key() -> None:
    drbg = seeded("sizes")
    for _ in range(200):
        value = (1 + drbg.below(10**6)) * 10.0 ** (drbg.below(12) - 6)
        number = encrypt_float(value, drbg)
        assert decrypt_float(number) == pytest.approx(value)
        assert seen_size(number) <= value < 16 * seen_size(number)


def test_the_exponent_of_a_sum_tells_that_a_tiny_number_is_in_it() -> None:
    drbg = seeded("sums")
    balance, another, tiny = (encrypt_float(value, drbg) for value in (51_730.0, 48_111.0, 1e-9))
    assert add_floats(balance, another).exponent == balance.exponent
    assert add_floats(balance, tiny).exponent == tiny.exponent < balance.exponent


def shares_on_the_wire(polynomial: tuple[float, float, float], score: float, label: int) -> bytes:
    """Return a row's encrypted residual shares as the bank sends them, at one scale whatever they are."""
    constants, slopes = scorecard.residual_shares(polynomial, np.array([score]), [label])
    cells = ENCRYPTOR.encrypt_many([*constants, *slopes], seeded("shares"))
    parts = [paillier.encode_ciphertexts(PUBLIC, [cell]) for cell in cells]
    return wire.ResidualShares(chunk=0, constants=parts[0], slopes=parts[1]).SerializeToString()


def test_rows_of_any_size_have_one_scale_and_one_length_on_our_wire() -> None:
    lengths = set()
    for polynomial in ((0.5, 0.2, 0.0), (1e-9, 1e-12, 1e-12), (1.0, 0.28, 0.045)):
        for score, label in ((0.0, 0), (16.0, 1), (-16.0, 0), (1e-7, 1)):
            lengths.add(len(shares_on_the_wire(polynomial, score, label)))
    assert len(lengths) == 1
    fields = {field.name for field in wire.ResidualShares.DESCRIPTOR.fields}
    assert fields == {"chunk", "constants", "slopes"}


def test_a_sum_past_half_of_n_wraps_to_the_other_sign_without_a_word_where_bounds_are_not_proved() -> None:
    drbg, largest = seeded("wrap"), N // 2
    total = ENCRYPTOR.encrypt(largest, drbg)
    assert paillier.centred(DECRYPTOR.decrypt(total, drbg), N) == largest
    total = paillier.add(PUBLIC, total, ENCRYPTOR.encrypt(1, drbg))
    assert paillier.centred(DECRYPTOR.decrypt(total, drbg), N) == -largest


def test_bounds_that_would_wrap_are_refused_before_encryption(monkeypatch: pytest.MonkeyPatch) -> None:
    scorecard.plan_layouts(contract_of())
    monkeypatch.setattr(scorecard, "SLOPE_BITS", 2000)
    monkeypatch.setattr(scorecard, "RESIDUAL_BITS", 2016)
    with pytest.raises(PackingOverflow, match="does not fit 2048"):
        scorecard.plan_layouts(contract_of())


def test_no_random_value_in_its_bounds_is_refused_and_none_outside_is_taken() -> None:
    drbg, bound = seeded("bounds"), 1 << 90
    for _ in repeats("values at a declared bound"):
        sign, past = 1 - 2 * drbg.below(2), drbg.below(1 << 20)
        check_bounds([sign * (bound - past)], bound)
        with pytest.raises(PackingOverflow, match="value 0 exceeds"):
            check_bounds([sign * (bound + 1 + past)], bound)


# ---- the gate: no float in crypto/


INEXACT = {"math", "statistics", "decimal", "fractions", "random"}


def floats_of(text: str) -> Iterator[str]:
    """Yield every place of a module that makes, takes or computes with a float."""
    for node in ast.walk(ast.parse(text)):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Constant) and isinstance(node.value, float | complex):
            yield f"{line}: a float literal"
        if isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div):
            yield f"{line}: a division that is not exact"
        if isinstance(node, ast.Name | ast.Attribute):
            name = node.id if isinstance(node, ast.Name) else node.attr
            if name in {"float", "complex", "mpfr", "mpc"} or name.startswith(("float16", "float32", "float64")):
                yield f"{line}: {name}"
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        if any(name.split(".")[0] in INEXACT for name in names) and not _takes_integers_only(node):
            yield f"{line}: a module of floats"


def _takes_integers_only(node: ast.AST) -> bool:
    exact = {"prod", "isqrt", "gcd", "lcm", "comb"}
    return isinstance(node, ast.ImportFrom) and {a.name for a in node.names} <= exact


@pytest.mark.parametrize("path", sorted(CRYPTO.glob("*.py")), ids=lambda path: path.stem)
def test_no_float_enters_the_room_of_mathematics(path: Path) -> None:
    assert list(floats_of(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("breaks", "keeps"),
    [
        ("x = 1.5", "x = 15"),
        ("x = a / b", "x = a // b"),
        ("x /= 2", "x //= 2"),
        ("x = float(y)", "x = int(y)"),
        ("def f(x: float) -> int: ...", "def f(x: int) -> int: ..."),
        ("import numpy as np\nx.astype(np.float64)", "import numpy as np\nx.astype(np.int64)"),
        ("from math import log", "from math import prod"),
        ("import math", "import hashlib"),
        ("x = gmpy2.mpfr(y)", "x = gmpy2.mpz(y)"),
        ("from decimal import Decimal", "from math import gcd, isqrt"),
    ],
)
def test_the_gate_catches_a_planted_float_and_lets_its_neighbour_stand(breaks: str, keeps: str) -> None:
    assert list(floats_of(breaks)) and not list(floats_of(keeps))


def test_a_mantissa_of_the_weak_variant_is_what_the_other_library_encrypts() -> None:
    phe = pytest.importorskip("phe", reason="the optional extra `phe` is not installed")
    theirs, drbg = phe.PaillierPublicKey(N), seeded("phe")
    for value in (1.0, 0.1, 51_730.25, 1e-9, 3e12):
        number = theirs.encrypt(value)
        assert number.exponent == encrypt_float(value, drbg).exponent
        assert gmpy2.gcd(number.ciphertext(be_secure=False), N) == 1
