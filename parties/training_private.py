"""DP-SGD in a bank, with Opacus: per-unit gradients, clipping, noise, and the noise that a budget asks for.

    Abadi et al., CCS 2016, algorithm 1, with a unit that is a record or a firm. In each step:
    1. each unit is drawn with the chance q, independently (Poisson sampling, which the accountant assumes);
    2. Opacus gives the gradient of each row; rows of one unit are added up, so that a firm is one vector however many rows;
    3. the unit's vector is clipped to the norm C, the clipped ones are added up;
    4. Gaussian noise of the deviation sigma C is added to each coordinate, a step that drew nobody included;
    5. the sum over the *expected* number of units is the gradient of an ordinary SGD step.
    The mean loss that is told beside the update is one coordinate more of the same vector: a unit's loss, cut off at
    LOSS_CAP, is LOSS_SHARE of C at most, and the noise grows by sqrt(1 + LOSS_SHARE^2).

Randomness: who is drawn, and all noise, is ChaCha20 under the run's secret seed, the round, and what is trained on. torch's
generator is a Mersenne twister under 64 bits, whose outputs predict each other; Opacus' `secure_mode` wants torchcsprng,
which is no longer maintained. Its defence against reading the exact sum out of a float's last bits is kept: noise is half
the sum of four draws, after one that is thrown away (Holohan & Braghin, ESORICS 2021, section 5.1). Sums are float32, whose
rounding is not part of the proof.
"""

import logging
import math
import warnings
from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from opacus import GradSampleModule
from opacus.accountants import PRVAccountant
from opacus.accountants.analysis import rdp
from opacus.optimizers import DPOptimizer
from scipy.special import ndtri

from lianxin.crypto.randomness import Drbg, derive_seed
from lianxin.federation.errors import RunStopped
from lianxin.parties.preparation import Prepared
from lianxin.parties.privacy import PrivacySettings, steps_of, training_digest
from lianxin.parties.training_local import LocalSettings, row_losses

LOSS_CAP = 4.0
LOSS_SHARE = 0.2
_GRADIENTS_HELD = 1 << 24  # floats: 64 MB of per-row gradients at a time
_MOST_NOISE = 10**9  # thousandths
_MOST_STEPS_PRV, _LEAST_PRV = 100_000, 0.1  # beyond, the numerical bound's grid takes too much
_ORDERS = [*range(2, 33), 40, 48, 64, 96, 128, 256, 512]
Ints = NDArray[np.int64]
for _said in ("Optimal order is the", "Full backward hook is firing"):
    warnings.filterwarnings("ignore", message=_said)  # expected here, and no news for a node's operator
logging.getLogger("opacus.accountants.analysis.rdp").disabled = True  # single orders that its series has no sum for

# ---- accounting


def epsilon_of(noise: float, sample_rate: float, steps: int, delta: float) -> float:
    """Return the epsilon that so many steps have at `delta`: the numerical bound (Gopi, Lee & Wutschitz, NeurIPS 2021).

    Where its grid fails or would be too large, the bound by Renyi divergences (Mironov, Talwar & Zhang 2019), which is some
    percent looser. Both are upper bounds.
    """
    loose = _renyi(noise, sample_rate, steps, delta)
    if steps > _MOST_STEPS_PRV or not _LEAST_PRV <= loose < math.inf:
        return loose
    accountant = PRVAccountant()
    accountant.history = [(noise, sample_rate, steps)]
    try:
        with np.errstate(all="ignore"):
            return min(loose, float(accountant.get_epsilon(delta, eps_error=loose / 200)))
    except (RuntimeError, ValueError, MemoryError):
        return loose


def _renyi(noise: float, sample_rate: float, steps: int, delta: float) -> float:
    spent = rdp.compute_rdp(q=sample_rate, noise_multiplier=noise, steps=steps, orders=_ORDERS)
    epsilon, _ = rdp.get_privacy_spent(orders=_ORDERS, rdp=spent, delta=delta)
    return float(epsilon)


@lru_cache(maxsize=256)
def least_noise(epsilon: float, delta: float, sample_rate: float, steps: int) -> int:
    """Return the noise multiplier, in thousandths and rounded up, with which `steps` steps keep (epsilon, delta).

    Raises RunStopped (DP03) when no noise does.
    """
    loose = _least(lambda noise: _renyi(noise / 1000, sample_rate, steps, delta) <= epsilon)
    if loose > _MOST_NOISE:
        raise RunStopped("no noise keeps this epsilon (rule DP03); raise epsilon_thousandths or lower rounds")
    return _tightened(epsilon, delta, sample_rate, steps, loose)


def _least(holds: Callable[[int], bool]) -> int:
    """Return the least whole number, up to half a percent, for which `holds`, which holds from some number on."""
    high = 500
    while not holds(high):
        high *= 2
        if high > _MOST_NOISE:
            return high
    low = high // 2 if high > 500 else 0
    while high - low > max(1, high // 200):
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _tightened(epsilon: float, delta: float, sample_rate: float, steps: int, high: int) -> int:
    """Return the noise that the numerical bound asks for, from one that keeps epsilon by the looser bound.

    Epsilon falls about as noise to a power, which two points tell; each guess is 0.3 % on the safe side.
    """
    at_high = epsilon_of(high / 1000, sample_rate, steps, delta)
    power = -1.2
    for _ in range(5):
        if at_high > 0.99 * epsilon or high < 10:
            break
        guess = max(1, min(high - 1, math.ceil(high * (epsilon * 0.997 / at_high) ** (1 / power))))
        found = epsilon_of(guess / 1000, sample_rate, steps, delta)
        if found > epsilon:
            power = min(-0.5, math.log(found / at_high) / math.log(guess / high))
            continue
        high, at_high = guess, found
    return high


# ---- training


def private_epochs(module: torch.nn.Module, prepared: Prepared, settings: LocalSettings, seed: bytes) -> float:
    """Train the module in place for the epochs of one round, and return the noised mean loss of a unit.

    `seed` is the secret one of (run, round): the same weights, rows and seed give the same bytes, and other weights or rows
    are noised independently. Called inside `training_models.alone`. Raises RunStopped when the firms of the rows are not
    said where a firm is the unit.
    """
    privacy = settings.privacy
    if privacy is None:
        raise ValueError("private_epochs is for settings with privacy")
    units = _Units(prepared, privacy.unit)
    drbg = Drbg(derive_seed(seed, "private", training_digest(_flat(module), prepared)))
    wrapped = GradSampleModule(module, loss_reduction="sum")
    try:
        rounds = _Rounds(wrapped, units, settings, privacy, drbg)
        return rounds.run(steps_of(settings.epochs, privacy.sample_rate))
    finally:
        wrapped.to_standard_module()


def _flat(module: torch.nn.Module) -> NDArray[np.float32]:
    return np.concatenate([one.detach().numpy().ravel() for one in module.parameters()]).astype(np.float32)


class _Units:
    """The rows in the order of their units: unit u has the rows from `starts[u]` up to `starts[u + 1]`."""

    def __init__(self, prepared: Prepared, unit: str) -> None:
        if unit == "firm" and prepared.firms is None:
            raise RunStopped("the contract protects firms and the rows do not say whose they are; nothing was trained")
        firms = np.arange(prepared.rows) if unit == "record" or prepared.firms is None else prepared.firms
        order = np.argsort(firms, kind="stable")
        _, counts = np.unique(firms, return_counts=True)
        self.count = len(counts)
        self.starts: Ints = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self.numbers = torch.from_numpy(prepared.numbers[order])
        self.categories = torch.from_numpy(prepared.categories[order])
        self.labels = torch.from_numpy(prepared.labels[order].astype(np.float32))

    def drawn(self, drbg: Drbg, rate: float) -> Ints:
        """Return the units that a step draws, each with the chance `rate`."""
        words = np.frombuffer(drbg.bytes(8 * self.count), dtype="<u8") >> np.uint64(11)
        return np.flatnonzero(words < np.uint64(round(rate * 2.0**53)))

    def chunks(self, drawn: Ints, most: int) -> Iterator[Ints]:
        """Yield the drawn units in pieces of at most `most` rows; a unit with more is a piece by itself."""
        sizes = self.starts[drawn + 1] - self.starts[drawn]
        start, held = 0, 0
        for place, size in enumerate(sizes.tolist()):
            if held and held + size > most:
                yield drawn[start:place]
                start, held = place, 0
            held += size
        if start < len(drawn):
            yield drawn[start:]

    def rows_of(self, units: Ints) -> tuple[Ints, Ints]:
        """Return the rows of these units, and for each row the place of its unit among them."""
        sizes = self.starts[units + 1] - self.starts[units]
        places = np.repeat(np.arange(len(units)), sizes)
        within = np.arange(len(places)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return np.repeat(self.starts[units], sizes) + within, places


class _UnitOptimizer(DPOptimizer):
    """Opacus' optimiser, with noise from ChaCha20 and gradients of whole units where it has those of rows."""

    def __init__(
        self, optimizer: torch.optim.Optimizer, drbg: Drbg, noise: float, clip: float, expected: float
    ) -> None:
        super().__init__(
            optimizer, noise_multiplier=noise, max_grad_norm=clip, expected_batch_size=1, loss_reduction="sum"
        )
        self._drbg, self._expected = drbg, expected

    def begin(self) -> None:
        """Forget the last step; a step that draws nobody sums to zero."""
        for parameter in self.params:
            parameter.grad_sample = None
            parameter.summed_grad = torch.zeros_like(parameter)

    def take(self, gradients: list[torch.Tensor]) -> None:
        """Clip these units' gradients (units x the parameter's shape, one a parameter) and add them to the step's sum."""
        for parameter, gradient in zip(self.params, gradients, strict=True):
            parameter.grad_sample = gradient
        self.clip_and_accumulate()
        for parameter in self.params:
            parameter.grad_sample = None

    def add_noise(self) -> None:
        """Put the noised sum over the expected number of units into each parameter's gradient."""
        deviation = self.noise_multiplier * self.max_grad_norm
        for parameter in self.params:
            noise = noise_of(self._drbg, parameter.numel(), deviation).reshape(tuple(parameter.shape))
            summed = parameter.summed_grad.double() + torch.from_numpy(noise)
            parameter.grad = (summed / self._expected).to(parameter.dtype)


def noise_of(drbg: Drbg, count: int, deviation: float) -> NDArray[np.float64]:
    """Return `count` Gaussian numbers of mean 0: each half the sum of four draws, after one that is thrown away."""
    _normals(drbg, 1)
    return _normals(drbg, 4 * count).reshape(4, count).sum(axis=0) * (deviation / 2)


def _normals(drbg: Drbg, count: int) -> NDArray[np.float64]:
    """Return standard normal numbers by the inverse of their distribution: a bit for the side, 63 for the tail's share."""
    words = np.frombuffer(drbg.bytes(8 * count), dtype="<u8")
    tails = ((words >> np.uint64(1)).astype(np.float64) + 0.5) * 2.0**-64
    numbers: NDArray[np.float64] = ndtri(tails) * np.where(words & np.uint64(1), 1.0, -1.0)
    return numbers


class _Rounds:
    """The steps of one round: what is trained, on what, with which noise."""

    def __init__(
        self, wrapped: GradSampleModule, units: _Units, settings: LocalSettings, privacy: PrivacySettings, drbg: Drbg
    ) -> None:
        self._wrapped, self._units, self._settings, self._privacy = wrapped, units, settings, privacy
        self._drbg, self._parameters = drbg, list(wrapped.parameters())
        self._noise = privacy.noise_multiplier * math.sqrt(1 + LOSS_SHARE**2)
        self._expected = privacy.sample_rate * units.count
        sgd = torch.optim.SGD(self._parameters, lr=settings.rate, momentum=settings.momentum)
        self._optimiser = _UnitOptimizer(sgd, drbg, self._noise, privacy.clip, self._expected)
        self._most_rows = max(1, _GRADIENTS_HELD // sum(one.numel() for one in self._parameters))

    def run(self, steps: int) -> float:
        """Run the steps and return the noised mean loss of a unit over them."""
        began = [one.detach().clone() for one in self._parameters]
        told = sum(self._step(began) for _ in range(steps))
        return told / (self._expected * steps)

    def _step(self, began: list[torch.Tensor]) -> float:
        self._optimiser.begin()
        loss = 0.0
        for units in self._units.chunks(self._units.drawn(self._drbg, self._privacy.sample_rate), self._most_rows):
            gradients, losses = self._of_units(units)
            self._optimiser.take(gradients)
            loss += float(losses.clamp(0.0, LOSS_CAP).sum())
        self._optimiser.add_noise()
        with torch.no_grad():
            for parameter, first in zip(self._parameters, began, strict=True):
                parameter.grad.add_(parameter.detach() - first, alpha=self._settings.proximal)
        self._optimiser.original_optimizer.step()
        return loss + float(noise_of(self._drbg, 1, self._noise * LOSS_CAP / LOSS_SHARE)[0])

    def _of_units(self, units: Ints) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Return each unit's summed gradient, a tensor a parameter, and its mean loss."""
        rows, places = self._units.rows_of(units)
        summed = [torch.zeros(len(units), *one.shape) for one in self._parameters]
        losses = torch.zeros(len(units))
        for start in range(0, len(rows), self._most_rows):
            piece = torch.from_numpy(rows[start : start + self._most_rows])
            at = torch.from_numpy(places[start : start + self._most_rows])
            row_losses = self._row_losses(piece)
            row_losses.sum().backward()
            losses.index_add_(0, at, row_losses.detach())
            for total, parameter in zip(summed, self._parameters, strict=True):
                total.index_add_(0, at, parameter.grad_sample)
                parameter.grad_sample, parameter.grad = None, None
        return summed, losses / torch.from_numpy(np.bincount(places, minlength=len(units)).astype(np.float32))

    def _row_losses(self, rows: torch.Tensor) -> torch.Tensor:
        units = self._units
        logits = self._wrapped(units.numbers[rows], units.categories[rows])
        return row_losses(logits, units.labels[rows], self._settings.positive_weight)
