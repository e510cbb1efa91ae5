"""Differential privacy of a bank's training: what a contract's epsilon asks of it, and the budget that it is spent from.

    Mechanism: DP-SGD (Abadi et al., CCS 2016, algorithm 1), in each bank, on its own rows. A step draws each unit (a record,
    or all records of a firm) with the chance q, clips each unit's gradient to the norm C, and adds Gaussian noise of the
    deviation sigma C to their sum. Neighbouring tables differ by one unit that is there or not.
    Planning: T = rounds x local_epochs x ceil(1/q) steps with q = batch_rows/rows; sigma is the least, in thousandths, with
    which they keep (epsilon, delta) for the whole run (`training_private.least_noise`).
    Budget: epsilons and deltas of a table's runs add up (simple composition: Dwork & Roth 2014, theorem 3.16), whatever
    they train and whichever row they meet. A run is charged whole and once, on disk before anything is trained.
    Repeats: noise is a function of the run's secret seed, the round and what is trained on. So a round that is done again
    on the same weights and rows gives the same bytes and costs nothing; on others it is another training and is counted.

An attacker who sees every update, and who knows every other row, then learns little more of a unit than if it were not
there. What epsilon does not cover stands in docs/privacy.md.
"""

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lianxin.crypto import canonical
from lianxin.federation.contract import NETWORK_MODELS, RunContract
from lianxin.federation.errors import GateRefused, InputFault, RunStopped
from lianxin.federation.model import Clock
from lianxin.parties.clock import after
from lianxin.parties.config import PrivacySection
from lianxin.parties.preparation import Prepared
from lianxin.parties.store import Store

BUDGET = "privacy-budget"
_TRAININGS = "privacy-trainings/"
_MILLION = 10**6
_DELTA_PLACES = 12  # deltas are added up as whole numbers of 10^-12, the least a contract may name
_CHARGING = threading.Lock()  # a state folder belongs to one process


class Leaves(Protocol):
    """The ledger, as far as the budget writes to it."""

    def append(self, leaf_fields: Mapping[str, Any], operator: str | None = None) -> tuple[int, str]:
        """Append one leaf."""


@dataclass(frozen=True)
class PrivacySettings:
    """What DP-SGD runs with: (epsilon, delta) of the whole run, the unit (record, firm), the norm its gradient is clipped to.

    `noise_multiplier` is the noise's deviation over that norm, `sample_rate` the chance of a unit in a step, `steps` the
    steps of all rounds.
    """

    epsilon: float
    delta: float
    unit: str
    clip: float
    noise_multiplier: float
    sample_rate: float
    steps: int

    @property
    def noise_thousandths(self) -> int:
        """The noise multiplier as a whole number of thousandths, which it is."""
        return round(self.noise_multiplier * 1000)


def plan_privacy(contract: RunContract, rows: int) -> PrivacySettings | None:
    """Return what a bank with so many training rows trains with under this contract, None where it asks for no privacy.

    Raises InputFault where the extra `nn` is not installed, RunStopped (DP03) where the contract's epsilon and delta mean
    nothing on so few rows.
    """
    if not contract.epsilon_thousandths:
        return None
    require_extra()
    from lianxin.parties.training_private import least_noise

    rate = rate_millionths(contract.batch_rows, rows)
    steps = contract.rounds * steps_of(contract.local_epochs, rate / _MILLION)
    epsilon, delta = contract.epsilon_thousandths / 1000, 10.0**-contract.delta_exponent
    noise = least_noise(epsilon, delta, rate / _MILLION, steps)
    _check_sense(contract, rows, noise)
    clip = contract.clip_thousandths / 1000
    return PrivacySettings(epsilon, delta, contract.privacy_unit, clip, noise / 1000, rate / _MILLION, steps)


def require_extra() -> None:
    """Raise InputFault when torch or Opacus is not installed: a contract that asks for privacy is not trained without."""
    if find_spec("torch") is None or find_spec("opacus") is None:
        raise InputFault(
            "the contract asks for differential privacy, and torch and opacus are not installed here; install them with "
            "pip install 'lianxin[nn]'"
        )


def rate_millionths(batch_rows: int, rows: int) -> int:
    """Return the chance with which a step draws a unit, in millionths: batch_rows of the bank's rows, rounded up."""
    return min(_MILLION, -(-batch_rows * _MILLION // max(1, rows)))


def steps_of(epochs: int, sample_rate: float) -> int:
    """Return how many steps so many epochs have: in each, a unit is drawn once or a little more on average."""
    return epochs * -(-_MILLION // round(sample_rate * _MILLION))


def _check_sense(contract: RunContract, rows: int, noise_thousandths: int) -> None:
    if 10**contract.delta_exponent <= rows:
        raise RunStopped(
            f"delta is 10^-{contract.delta_exponent} and this bank trains on {rows} rows, so that a whole row may be told "
            f"(rule DP03); raise delta_exponent to {len(str(rows))} or more"
        )
    drawn, noise = min(contract.batch_rows, rows), noise_thousandths / 1000
    if noise > drawn:
        raise RunStopped(
            f"an epsilon of {contract.epsilon_thousandths / 1000:g} over {contract.rounds} rounds on {rows} rows needs noise "
            f"of {noise:.0f} times a row's largest gradient, more than the {drawn} rows of a step bring together (rule DP03); "
            "raise epsilon_thousandths or batch_rows, or lower rounds or local_epochs"
        )


def training_digest(weights: NDArray[np.float32], prepared: Prepared) -> str:
    """Return the SHA-256, hex, of what a training depends on beside its seed: the weights it begins with and its rows."""
    digest = hashlib.sha256(b"lianxin/training\x00")
    firms = np.zeros(0) if prepared.firms is None else prepared.firms
    arrays: Sequence[tuple[Any, str]] = (
        (weights, "<f4"), (prepared.numbers, "<f4"), (prepared.categories, "<i8"), (prepared.labels, "<i8"), (firms, "<i8"),
    )  # fmt: skip
    for array, form in arrays:
        digest.update(repr(np.shape(array)).encode() + np.ascontiguousarray(array, dtype=form).tobytes())
    return digest.hexdigest()


class PrivacyBudget:
    """What the runs of a bank's table have spent of its epsilon and delta. Safe between threads and across restarts."""

    def __init__(self, store: Store, clock: Clock, config: PrivacySection, ledger: Leaves) -> None:
        self._store, self._clock, self._config, self._ledger = store, clock, config, ledger

    def charge(self, contract: RunContract, settings: PrivacySettings, rows: int) -> PrivacySettings:
        """Spend a run's whole epsilon and delta, and return the settings that it trains with.

        A run that was charged before is not charged again, and goes on with the settings of then, whatever rows have left.
        What is spent is on disk, and its leaf in the ledger, before this returns. Raises GateRefused (DP01), having spent
        nothing, when less is left than the run asks for.
        """
        with _CHARGING:
            spent = spent_of(self._store)
            known = next((one for one in spent if one["run"] == contract.run), None)
            if known is None:
                left = self._check_left(contract, counted_of(spent, self._config, self._clock.now()))
                known = self._entry(contract, settings, rows, left)
                self._keep([*spent, known])
            if not known["told"]:
                self._tell(known)
                self._keep([*(one for one in spent if one is not known), known | {"told": True}])
        return _settings_of(contract, known["leaf"])

    def begin_training(self, contract: RunContract, round_number: int, digest: str) -> int:
        """Note that a round is trained on what `digest` names, and return how many different trainings the run has had.

        The same round on the same weights and rows is one training, however often it is done. Raises GateRefused (DP02),
        nothing being trained, when the run would have more of them than the rounds that it was charged for.
        """
        name, had = f"{round_number}/{digest}", 0

        def add(kept: bytes | None) -> bytes:
            nonlocal had
            known = list(canonical.decode(kept)["trainings"]) if kept else []
            known += [] if name in known else [name]
            had = len(known)
            if had > contract.rounds:
                raise GateRefused(
                    f"run {contract.run} was charged for {contract.rounds} trainings and is asked for another one, on other "
                    "weights or rows than before (rule DP02); nothing was trained: launch a new run",
                    "DP02",
                )
            return canonical.encode({"type": "privacy-trainings", "version": 1, "trainings": known})

        self._store.change_setting(_TRAININGS + contract.run, add)
        return had

    def report(self) -> dict[str, Any]:
        """Return budget, runs and what is left; a run that is out of the window is listed and does not count."""
        return report_of(spent_of(self._store), self._config, self._clock.now())

    def _check_left(self, contract: RunContract, counted: list[dict[str, Any]]) -> int:
        epsilon, delta = left_of(counted, self._config)
        left = epsilon - contract.epsilon_thousandths
        if left < 0 or delta < 10 ** (_DELTA_PLACES - contract.delta_exponent):
            raise GateRefused(
                f"the run asks for epsilon {contract.epsilon_thousandths / 1000:g} and delta 10^-{contract.delta_exponent}; "
                f"epsilon {epsilon / 1000:g} and delta {delta / 10**_DELTA_PLACES:.3g} are left of this table's budget (rule "
                "DP01); nothing was trained: see `lianxin bank privacy`, ask for less, or let [privacy] allow more",
                "DP01",
            )
        return left

    def _entry(self, contract: RunContract, settings: PrivacySettings, rows: int, left: int) -> dict[str, Any]:
        leaf = {
            "kind": "privacy", "run": contract.run, "contract_hash": contract.hash, "unit": settings.unit,
            "epsilon_thousandths": contract.epsilon_thousandths, "delta_exponent": contract.delta_exponent,
            "rows": rows, "noise_thousandths": settings.noise_thousandths, "steps": settings.steps,
            "sample_rate_millionths": round(settings.sample_rate * _MILLION), "left_thousandths": left,
            "days": self._config.days,
        }  # fmt: skip
        return {
            "run": contract.run, "time": self._clock.now(), "told": False, "from": self._store.next_position(), "leaf": leaf,
        }  # fmt: skip

    def _tell(self, entry: Mapping[str, Any]) -> None:
        """Write the run's leaf, unless a node that stopped just then has written it."""
        since = map(json.loads, self._store.leaves(entry["from"]))
        if not any((leaf["kind"], leaf["run"]) == ("privacy", entry["run"]) for leaf in since):
            self._ledger.append(entry["leaf"])

    def _keep(self, spent: list[dict[str, Any]]) -> None:
        self._store.put_setting(BUDGET, canonical.encode({"type": BUDGET, "version": 1, "spent": spent}))


def _settings_of(contract: RunContract, leaf: Mapping[str, Any]) -> PrivacySettings:
    epsilon, delta = contract.epsilon_thousandths / 1000, 10.0**-contract.delta_exponent
    noise, rate = leaf["noise_thousandths"] / 1000, leaf["sample_rate_millionths"] / _MILLION
    clip = contract.clip_thousandths / 1000
    return PrivacySettings(epsilon, delta, leaf["unit"], clip, noise, rate, leaf["steps"])


def spent_of(store: Store) -> list[dict[str, Any]]:
    """Return what was spent, an entry a run in the order in which they were charged."""
    kept = store.setting(BUDGET)
    return list(canonical.decode(kept)["spent"]) if kept else []


def counted_of(spent: list[dict[str, Any]], config: PrivacySection, now: str) -> list[dict[str, Any]]:
    """Return the entries that count now: all of them, or those of the last `days` where the section names a window."""
    return [one for one in spent if not config.days or one["time"] > after(now, -config.days)]


def left_of(counted: list[dict[str, Any]], config: PrivacySection) -> tuple[int, int]:
    """Return what is left: thousandths of epsilon, and delta in 10^-12."""
    epsilon = sum(one["leaf"]["epsilon_thousandths"] for one in counted)
    delta = sum(10 ** (_DELTA_PLACES - one["leaf"]["delta_exponent"]) for one in counted)
    return config.epsilon_thousandths - epsilon, 10 ** (_DELTA_PLACES - config.delta_exponent) - delta


def report_of(spent: list[dict[str, Any]], config: PrivacySection, now: str) -> dict[str, Any]:
    """Return the budget, each run with what it spent, and what is left, in thousandths of epsilon and 10^-12 of delta."""
    counted = counted_of(spent, config, now)
    names = ("unit", "epsilon_thousandths", "delta_exponent", "rows", "noise_thousandths", "steps")
    runs = [
        {"run": one["run"], "time": one["time"], "counts": one in counted} | {name: one["leaf"][name] for name in names}
        for one in spent
    ]
    epsilon, delta = left_of(counted, config)
    return {
        "budget": {"epsilon_thousandths": config.epsilon_thousandths, "delta_exponent": config.delta_exponent,
                   "days": config.days},
        "runs": runs, "left_thousandths": epsilon, "left_delta_e12": delta,
    }  # fmt: skip


def open_runs(store: Store) -> list[str]:
    """Return the runs of networks that this bank has agreed to without differential privacy: no budget bounds them."""
    contracts = [canonical.decode_fragment(row.contract).get("record", {}) for row in store.runs() if row.contract]
    networks = (one for one in contracts if one.get("model") in NETWORK_MODELS)
    return [one["run"] for one in networks if not one.get("epsilon_thousandths", 0)]
