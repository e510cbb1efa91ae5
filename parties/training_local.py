"""One bank's training of one round, on its own rows: minibatch descent that stays near where it began.

Each epoch draws an order of the rows from the seed and takes steps of momentum over batches. With a proximal weight the
loss of a step has proximal/2 · ‖w − received‖² beside it (FedProx: Li et al. 2020, 4). What leaves is the change, scaled to
the norm bound. Same seed, rows and weights: same bytes, on one kind of processor and version of torch.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from lianxin.federation.contract import RunContract
from lianxin.federation.errors import RunStopped
from lianxin.parties.preparation import Prepared
from lianxin.parties.training_engine import alone, generator_of
from lianxin.parties.training_models import build, tensors_of, weights_of
from lianxin.parties.training_shapes import NetworkSpec, Weights
from lianxin.parties.training_updates import Floats, within_bound

if TYPE_CHECKING:
    from lianxin.parties.privacy import PrivacySettings

MOMENTUM = 0.9
_PREDICTED_ROWS = 8192


@dataclass(frozen=True)
class LocalSettings:
    """How a bank trains: `rate` and `proximal` as they are (no thousandths), `positive_weight` what a bad row counts,
    `head_alone` whether the layers below the last stay as they are."""

    epochs: int
    batch_rows: int
    rate: float
    proximal: float = 0.0
    norm_bound: float = 10.0
    privacy: "PrivacySettings | None" = None
    positive_weight: float = 1.0
    momentum: float = MOMENTUM
    head_alone: bool = False


def settings_of(contract: RunContract, privacy: "PrivacySettings | None" = None) -> LocalSettings:
    """Return the settings that the contract's terms give; the proximal term is FedProx's alone."""
    return LocalSettings(
        epochs=contract.local_epochs,
        batch_rows=contract.batch_rows,
        rate=contract.local_rate_millionths / 1e6,
        proximal=contract.proximal_thousandths / 1e3 if contract.strategy == "fedprox" else 0.0,
        norm_bound=contract.norm_bound_thousandths / 1e3,
        privacy=privacy,
        positive_weight=contract.positive_weight_permille / 1e3,
    )


@dataclass(frozen=True)
class LocalOutcome:
    """What training gave: `update` is the bounded change (float64), `weights` the received ones and it; `loss` is the mean
    log-loss a row over the last epoch's steps, `scaled` whether the norm bound was reached."""

    weights: Weights = field(repr=False)
    update: Floats = field(repr=False)
    loss: float
    rows: int
    steps: int
    scaled: bool


def train_local(
    spec: NetworkSpec, weights: Weights, prepared: Prepared, settings: LocalSettings, seed: bytes, round_number: int = 0
) -> LocalOutcome:
    """Return the outcome of training from `weights` on these rows.

    `seed` must be the same for each attempt at one round, and another in each round. Raises RunStopped where there is no
    row, or where training gave numbers that are none.
    """
    if not prepared.rows:
        raise RunStopped(f"no training row is left for round {round_number}; bring more rows or end the run")
    with alone():
        module = build(spec, weights)
        if settings.privacy is None:
            loss, steps = _epochs(module, prepared, settings, generator_of(seed, "order"))
        else:
            loss, steps = _private(module, prepared, settings, settings.privacy.sample_rate, seed)
        trained = weights_of(module, spec)
    _check_finite(trained, loss, round_number)
    update, scaled = within_bound(trained.astype(np.float64) - weights, settings.norm_bound)
    return LocalOutcome((weights + update).astype(np.float32), update, loss, prepared.rows, steps, scaled)


def _check_finite(weights: Weights, loss: float, round_number: int) -> None:
    if not (np.isfinite(weights).all() and np.isfinite(loss)):
        raise RunStopped(
            f"the local training of round {round_number} gave numbers that are none (NaN or infinite); nothing was sent, "
            "lower local_rate_millionths"
        )


def _private(
    module: torch.nn.Module, prepared: Prepared, settings: LocalSettings, sample_rate: float, seed: bytes
) -> tuple[float, int]:
    from lianxin.parties.privacy import steps_of
    from lianxin.parties.training_private import private_epochs  # Opacus is imported where it is used

    return private_epochs(module, prepared, settings, seed), steps_of(settings.epochs, sample_rate)


def _epochs(
    module: torch.nn.Module, prepared: Prepared, settings: LocalSettings, generator: torch.Generator
) -> tuple[float, int]:
    """Train the module in place; return the last epoch's mean loss and the number of steps."""
    numbers, categories, labels = tensors_of(prepared)
    parameters = list((module.get_submodule("head") if settings.head_alone else module).parameters())
    start = [parameter.detach().clone() for parameter in parameters]
    speeds = [torch.zeros_like(parameter) for parameter in parameters]
    loss_sum, steps = 0.0, 0
    for _ in range(settings.epochs):
        loss_sum = 0.0
        for rows in torch.randperm(prepared.rows, generator=generator).split(settings.batch_rows):
            loss = row_losses(module(numbers[rows], categories[rows]), labels[rows], settings.positive_weight).mean()
            aim = loss + proximity(parameters, start, settings.proximal)
            descend(parameters, speeds, torch.autograd.grad(aim, parameters), settings)
            loss_sum += float(loss.detach()) * len(rows)
            steps += 1
    return loss_sum / prepared.rows, steps


def descend(
    parameters: list[torch.nn.Parameter],
    speeds: list[torch.Tensor],
    gradients: tuple[torch.Tensor, ...],
    settings: LocalSettings,
) -> None:
    """Take a step of descent with momentum, in place: v becomes momentum·v + g, w becomes w - rate·v.

    These two lines stand for torch.optim, whose import takes longer than the training of a small bank.
    """
    with torch.no_grad():
        for parameter, speed, gradient in zip(parameters, speeds, gradients, strict=True):
            parameter.sub_(speed.mul_(settings.momentum).add_(gradient), alpha=settings.rate)


def row_losses(logits: torch.Tensor, labels: torch.Tensor, positive_weight: float) -> torch.Tensor:
    """Return each row's log-loss, a bad row's times `positive_weight`."""
    return torch.nn.functional.binary_cross_entropy_with_logits(
        logits, labels, pos_weight=torch.tensor(positive_weight), reduction="none"
    )


def proximity(parameters: list[torch.nn.Parameter], start: list[torch.Tensor], weight: float) -> torch.Tensor:
    """Return weight/2 · ‖w − start‖² (FedProx), 0 without weight."""
    if not weight:
        return torch.zeros(())
    squares = [((now - then) ** 2).sum() for now, then in zip(parameters, start, strict=True)]
    return weight / 2 * torch.stack(squares).sum()


def log_odds(spec: NetworkSpec, weights: Weights, prepared: Prepared) -> NDArray[np.float64]:
    """Return the network's log-odds of being bad, one a row."""
    with alone(), torch.no_grad():
        module = build(spec, weights).eval()
        numbers, categories, _ = tensors_of(prepared)
        parts = [
            module(numbers[start : start + _PREDICTED_ROWS], categories[start : start + _PREDICTED_ROWS])
            for start in range(0, prepared.rows, _PREDICTED_ROWS)
        ]
        return torch.cat(parts).numpy().astype(np.float64) if parts else np.zeros(0)


def predict(spec: NetworkSpec, weights: Weights, prepared: Prepared) -> NDArray[np.float64]:
    """Return the probability of being bad, one a row."""
    return 0.5 * (1.0 + np.tanh(0.5 * log_odds(spec, weights, prepared)))


def log_loss(spec: NetworkSpec, weights: Weights, prepared: Prepared, positive_weight: float = 1.0) -> float | None:
    """Return the mean log-loss of these rows, None without a row. It is what rounds are judged by."""
    if not prepared.rows:
        return None
    odds = log_odds(spec, weights, prepared)
    bad = prepared.labels == 1
    losses = np.logaddexp(0.0, np.where(bad, -odds, odds)) * np.where(bad, positive_weight, 1.0)
    return float(losses.mean())
