"""Secure sums in memory: real banks and a real platform, and a way to lose, bend or keep any message of any stage."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lianxin.crypto.randomness import Drbg
from lianxin.crypto.signing import SigningKey
from lianxin.federation.secure_sum import BankSum, PlatformSum, SumTerms, policy_threshold

RUN, CONTRACT = "run-1", "c" * 64
STAGES = ("keys", "shares", "masked", "agree", "open")
Bend = Callable[[str, Any], Any]


def names_of(banks: int) -> tuple[str, ...]:
    """Return ids whose order as texts is their order as numbers."""
    return tuple(f"bank-{number:02}" for number in range(1, banks + 1))


def signing_key(bank: str) -> SigningKey:
    return SigningKey.from_seed(bank.encode().ljust(32, b"."))


def terms_of(banks: int | Sequence[str], /, **changes: Any) -> SumTerms:
    """Return the terms of a sum of that many banks, with `changes`."""
    names = names_of(banks) if isinstance(banks, int) else tuple(banks)
    known = {bank: signing_key(bank).public_hex for bank in {*names, *names_of(12)}}
    terms = {
        "run": RUN, "contract_hash": CONTRACT, "label": "train/1/0/0", "banks": names,
        "threshold": policy_threshold(len(names)), "width_bits": 64, "length": 5, "node_keys": known,
    }  # fmt: skip
    return SumTerms(**{**terms, **changes})


def values_of(terms: SumTerms, seed: int = 0) -> dict[str, list[int]]:
    """Return random values in the ring for each bank, one of them the largest that there is."""
    drbg = Drbg(bytes(32)).child("sums_world", seed, terms.width_bits)
    return {bank: [2**terms.width_bits - 1, *(drbg.bits(terms.width_bits) for _ in range(terms.length - 1))]
            for bank in terms.banks}  # fmt: skip


def plain_sum(terms: SumTerms, values: Mapping[str, Sequence[int]], included: Sequence[str]) -> list[int]:
    columns = zip(*(values[bank] for bank in included), strict=True)
    return [sum(column) % 2**terms.width_bits for column in columns]


class Sums:
    """A platform and its banks; `lost` maps a stage to the banks that do not come through it, in memory and in order.

    `bend` maps a stage to what is done to a bank's reply before the platform sees it, `twist` to what is done to what a
    bank gets.
    """

    def __init__(
        self, terms: SumTerms, values: Mapping[str, Sequence[int]] | None = None,
        lost: Mapping[str, Sequence[str]] | None = None, bend: Mapping[str, Bend] | None = None,
        twist: Mapping[str, Bend] | None = None, seed: int = 0,
    ) -> None:  # fmt: skip
        self.terms, self.values = terms, values or values_of(terms)
        self.lost, self.bend, self.twist = lost or {}, bend or {}, twist or {}
        drbg = Drbg(bytes(32)).child("sums", seed)
        self.banks = {bank: BankSum(terms, bank, signing_key(bank), drbg.child(bank)) for bank in terms.banks}
        self.platform = PlatformSum(terms)
        self.sent: dict[str, dict[str, Any]] = {}

    def _ask(self, stage: str, got: Mapping[str, Any], answer: Callable[[str, Any], Any]) -> dict[str, Any]:
        lost, bend = self.lost.get(stage, ()), self.bend.get(stage, lambda _bank, reply: reply)
        twist = self.twist.get(stage, lambda _bank, message: message)
        replies = {bank: answer(bank, twist(bank, message)) for bank, message in got.items() if bank not in lost}
        self.sent[stage] = {bank: bend(bank, reply) for bank, reply in replies.items()}
        return self.sent[stage]

    def until_masked(self) -> list[str]:
        """Play the first three stages; return U3."""
        keys = self.platform.keys(self._ask("keys", dict.fromkeys(self.banks), lambda b, _: self.banks[b].advertise()))
        boxes = self.platform.boxes(
            self._ask("shares", {b: keys for b in self.sent["keys"]}, lambda b, got: self.banks[b].share(got))
        )
        masked = self._ask("masked", boxes, lambda b, got: self.banks[b].mask(got, self.in_ring(b)))
        return self.platform.masked(masked)

    def in_ring(self, bank: str) -> Any:
        values = self.values[bank]
        return np.array(values, dtype=np.uint64) if self.terms.width_bits == 64 else list(values)

    def run(self) -> list[int]:
        """Play all stages; return the total as integers."""
        included = self.until_masked()
        sets = self.platform.sets(
            self._ask("agree", {b: included for b in included}, lambda b, got: self.banks[b].agree(got))
        )
        openings = self._ask("open", {b: sets for b in self.sent["agree"]}, lambda b, got: self.banks[b].open(got))
        return [int(value) for value in self.platform.total(openings)]

    def expected(self) -> list[int]:
        """Return the plain sum over the banks whose vectors are in."""
        return plain_sum(self.terms, self.values, self.platform.contributors)


def digest_of(banks: int) -> dict[str, Any]:
    """Return what a sum under fixed keys gives: the total, and SHA-256 of the masked vectors and of the openings.

    One bank in four is lost before its vector, as far as the threshold allows; the generator of tests/vectors.
    """
    terms = terms_of(banks, width_bits=64, length=4)
    spare = banks - terms.threshold
    gone = terms.banks[::4][:spare]
    sums = Sums(terms, lost={"masked": gone}, seed=7)
    total = sums.run()
    assert total == sums.expected()
    masked = b"".join(sums.sent["masked"][bank].astype("<u8").tobytes() for bank in sums.platform.contributors)
    opened = b"".join(sums.sent["open"][bank] for bank in sums.platform.contributors)
    return {
        "banks": banks, "threshold": terms.threshold, "lost": len(gone), "total": [str(value) for value in total],
        "masked_sha256": hashlib.sha256(masked).hexdigest(), "openings_sha256": hashlib.sha256(opened).hexdigest(),
    }  # fmt: skip
