"""Training networks across banks: what a bank and a simulation call. Importing this needs torch (`lianxin[nn]`).

Shapes and updates stand in modules without torch, which a platform imports by themselves (`training_shapes`,
`training_updates`); nothing here reads or writes a file, and no bytes are ever unpickled.
"""

from lianxin.parties.training_engine import alone, generator_of
from lianxin.parties.training_local import (
    LocalOutcome,
    LocalSettings,
    log_loss,
    predict,
    settings_of,
    train_local,
)
from lianxin.parties.training_models import build, load, parameters_of, tensors_of, weights_of
from lianxin.parties.training_personal import Personalised, personalise, recommend
from lianxin.parties.training_shapes import (
    NetworkSpec,
    bytes_of,
    count,
    digest,
    flatten,
    initial,
    received_weights,
    shapes,
    spec_of,
    unflatten,
    weights_from_bytes,
)
from lianxin.parties.training_updates import dequantise, quantise, within_bound

__all__ = ["LocalOutcome", "LocalSettings", "NetworkSpec", "Personalised", "alone", "build", "bytes_of", "count",
           "dequantise", "digest", "flatten", "generator_of", "initial", "load", "log_loss", "parameters_of",
           "personalise", "predict", "quantise", "received_weights", "recommend", "settings_of", "shapes", "spec_of",
           "tensors_of", "train_local", "unflatten", "weights_from_bytes", "weights_of", "within_bound"]  # fmt: skip
