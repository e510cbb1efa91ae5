"""A model of a bank's own from the federated one, kept only where rows held back say that it is better.

`head` trains the last layer again on the bank's own rows, `fine_tune` all weights at a lower rate. Both judge each epoch
by the mean log-loss of the validation rows and keep the best one; the federated weights stand as epoch 0, so what is kept
is never worse on those rows. One linear model over banks whose charge-off rates differ threefold loses to local ones:
this is the answer to that.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from lianxin.crypto.randomness import derive_seed
from lianxin.federation.errors import RunStopped
from lianxin.parties.preparation import Prepared
from lianxin.parties.training_local import LocalSettings, log_loss, train_local
from lianxin.parties.training_shapes import NetworkSpec, Weights

EPOCHS = 10
LOWER_RATE = 0.2
LOCAL, FEDERATED, PERSONALISED = "local", "federated", "personalised"
_PREFERRED = (FEDERATED, PERSONALISED, LOCAL)


@dataclass(frozen=True)
class Personalised:
    """The weights that are kept; `kept` is `head`, `fine_tune`, or `none` for the federated ones, `note` says why."""

    weights: Weights = field(repr=False)
    kept: str
    epochs: int
    federated_loss: float | None
    loss: float | None
    note: str


def personalise(
    spec: NetworkSpec,
    weights: Weights,
    prepared: Prepared,
    validation: Prepared,
    settings: LocalSettings,
    how: str,
    seed: bytes,
) -> Personalised:
    """Return the best of the federated weights and those of up to ten epochs on `prepared`, by `validation`'s log-loss.

    `how` is `none`, `head` or `fine_tune`. Without validation rows of both classes the federated weights are kept.
    """
    before = log_loss(spec, weights, validation)
    if how == "none" or before is None or len(set(validation.labels.tolist())) < 2 or not prepared.rows:
        return Personalised(weights, "none", 0, before, before, _why_not(how))
    best, best_loss, best_epoch = weights, before, 0
    for epoch, tried in enumerate(_epochs(spec, weights, prepared, settings, how, seed), start=1):
        loss = log_loss(spec, tried, validation)
        if loss is not None and loss < best_loss:
            best, best_loss, best_epoch = tried, loss, epoch
    if not best_epoch:
        note = "no epoch on own rows was better on the validation rows; the federated model is kept"
        return Personalised(weights, "none", 0, before, before, note)
    return Personalised(
        best, how, best_epoch, before, best_loss, f"better on the validation rows after {best_epoch} epochs"
    )


def _why_not(how: str) -> str:
    if how == "none":
        return "the contract asks for no personal model"
    return "too few rows were held back to judge a personal model; the federated model is kept"


def _epochs(
    spec: NetworkSpec, weights: Weights, prepared: Prepared, settings: LocalSettings, how: str, seed: bytes
) -> list[Weights]:
    """Return the weights after each epoch, fewer where training ran away."""
    gentle = replace(
        settings,
        epochs=1,
        rate=settings.rate * LOWER_RATE,
        proximal=0.0,
        norm_bound=float("inf"),
        privacy=None,
        head_alone=how == "head",
    )
    now, found = weights, list[Weights]()
    for epoch in range(EPOCHS):
        try:
            now = train_local(spec, now, prepared, gentle, derive_seed(seed, how, epoch)).weights
        except RunStopped:
            break
        found.append(now)
    return found


def recommend(losses: Mapping[str, float | None]) -> str:
    """Return which of `local`, `federated`, `personalised` a bank should use: the lowest log-loss on its validation rows.

    Equal ones go to federated first, then personalised; without any figure it is federated.
    """
    known = {name: loss for name in _PREFERRED if (loss := losses.get(name)) is not None}
    return min(known, key=lambda name: known[name]) if known else FEDERATED
