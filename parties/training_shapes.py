"""The shapes of a network's weights, its first weights, and what is made sure of weights that a peer sent: no torch here.

Weights travel and are kept as one flat array of float32, the parameters one after the other in the order of `shapes`,
each row by row. The first weights come from a seed by ChaCha20 and plain arithmetic, so that whoever knows the contract
draws the same, with or without torch.

Every model takes columns of numbers (`NumberField`: a normal score, and a flag where values are missing) and one place of
each text field:

- `logistic`: one weight a column, one a category, and a constant.
- `mlp`: all of them one beside the other (a category is a one among zeros) through hidden layers of ReLU.
- `tabular`: each category as a learnt vector of `embedding_width`; each number also by how far it lies beyond fixed
  thresholds, so that the first layer draws lines with bends (Gorishniy, Rubachev and Babenko 2022, section 3.1); hidden
  layers with LayerNorm and GELU. LayerNorm knows one row alone: batch statistics would be a further release, and have
  no per-row gradient.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lianxin.crypto.randomness import Drbg
from lianxin.federation.contract import NETWORK_MODELS, RunContract
from lianxin.federation.errors import InputFault, PeerError
from lianxin.parties.preparation import Preparation

Weights = NDArray[np.float32]
Shape = tuple[int, ...]
THRESHOLDS = (-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5)
_EMBEDDED = 0.1


@dataclass(frozen=True)
class NetworkSpec:
    """A network's shape: `numeric` columns of numbers, `categories` places of each text field, `hidden` layers' sizes."""

    model: str
    numeric: int
    categories: tuple[int, ...]
    hidden: tuple[int, ...]
    embedding_width: int

    def to_record(self) -> dict[str, Any]:
        """Return the shape as canonical-JSON values."""
        lists = {"categories": list(self.categories), "hidden": list(self.hidden)}
        return {"model": self.model, "numeric": self.numeric, "embedding_width": self.embedding_width, **lists}

    @classmethod
    def from_record(cls, record: Any) -> "NetworkSpec":
        """Return the shape that `to_record` wrote. Raises InputFault when the record is none."""
        try:
            spec = cls(**{**record, "categories": tuple(record["categories"]), "hidden": tuple(record["hidden"])})
            sizes = (*spec.categories, *spec.hidden, spec.embedding_width, spec.numeric + 1)
            are_lists = all(type(record[name]) is list for name in ("categories", "hidden"))
            known = (
                are_lists
                and spec.model in NETWORK_MODELS
                and all(type(size) is int and 1 <= size <= 1 << 16 for size in sizes)
            )
        except (KeyError, TypeError):
            known = False
        if not known:
            raise InputFault("the shape of a kept network is damaged; train the model again")
        return spec


def spec_of(contract: RunContract, preparation: Preparation) -> NetworkSpec:
    """Return the network that the contract's terms make of these inputs."""
    hidden = tuple(contract.record["hidden_units"])
    return NetworkSpec(contract.model, preparation.columns, preparation.sizes, hidden, contract.embedding_width)


def input_width(spec: NetworkSpec) -> int:
    """Return how many numbers go into the first layer."""
    if spec.model == "tabular":
        return spec.numeric * (1 + len(THRESHOLDS)) + len(spec.categories) * spec.embedding_width
    return spec.numeric + sum(spec.categories)


def shapes(spec: NetworkSpec) -> list[tuple[str, Shape]]:
    """Return name and shape of every parameter, in the order in which they travel; the last two are the head's."""
    found: list[tuple[str, Shape]] = []
    if spec.model == "tabular":
        for place, size in enumerate(spec.categories):
            found.append((f"embeddings.{place}.weight", (size, spec.embedding_width)))
    width = input_width(spec)
    for place, units in enumerate(() if spec.model == "logistic" else spec.hidden):
        found += [(f"layers.{place}.weight", (units, width)), (f"layers.{place}.bias", (units,))]
        found += [(f"norms.{place}.{part}", (units,)) for part in ("weight", "bias") if spec.model == "tabular"]
        width = units
    return [*found, ("head.weight", (1, width)), ("head.bias", (1,))]


def count(spec: NetworkSpec) -> int:
    """Return how many weights the network has."""
    return sum(int(np.prod(shape)) for _, shape in shapes(spec))


def flatten(arrays: Sequence[NDArray[Any]]) -> Weights:
    """Return the arrays' numbers one after the other, as float32."""
    return np.concatenate([np.asarray(array, dtype=np.float32).ravel() for array in arrays])


def unflatten(spec: NetworkSpec, weights: Weights) -> list[Weights]:
    """Return the parameters, copies in the order of `shapes`. ValueError when the length is another."""
    if weights.shape != (count(spec),):
        raise ValueError(f"{weights.shape} weights for a network of {count(spec)}")
    found, start = [], 0
    for _, shape in shapes(spec):
        end = start + int(np.prod(shape))
        found.append(weights[start:end].reshape(shape).astype(np.float32, copy=True))
        start = end
    return found


def initial(spec: NetworkSpec, seed: bytes) -> Weights:
    """Return the first weights, a function of the shape and the 32-byte seed alone.

    Layers are uniform in ±sqrt(6 / inputs) (He et al. 2015, 2.2), embeddings in ±0.1, LayerNorms at one, the head and all
    biases zero: the first predictions are one half, and no bank's first step depends on a draw of the head.
    """
    drbg = Drbg(seed)
    return flatten([_first(name, shape, drbg.child("initial", name)) for name, shape in shapes(spec)])


def _first(name: str, shape: Shape, drbg: Drbg) -> NDArray[np.float64]:
    kind, part = name.split(".")[0], name.rsplit(".", 1)[-1]
    if kind == "norms":
        return np.full(shape, 1.0 if part == "weight" else 0.0)
    if kind == "head" or part == "bias":
        return np.zeros(shape)
    bound = _EMBEDDED if kind == "embeddings" else float(np.sqrt(6.0 / shape[1]))
    drawn = np.frombuffer(drbg.bytes(4 * int(np.prod(shape))), dtype="<u4") / 2.0**31 - 1.0
    return (bound * drawn).reshape(shape)


def received_weights(spec: NetworkSpec, weights: Any) -> Weights:
    """Return weights that a peer sent, checked. Raises PeerError NN01 when dtype, length or a number is wrong."""
    if not isinstance(weights, np.ndarray) or weights.dtype != np.float32:
        raise PeerError("weights came in another type than float32; the round is refused", "NN01")
    if weights.shape != (count(spec),):
        wanted = count(spec)
        raise PeerError(f"weights came in another shape than the network's {wanted}; the round is refused", "NN01")
    if not np.isfinite(weights).all():
        raise PeerError("weights came with numbers that are none (NaN or infinite); the round is refused", "NN01")
    return weights.copy()


def weights_from_bytes(spec: NetworkSpec, data: bytes) -> Weights:
    """Return the weights of `bytes_of`, checked as `received_weights` does; nothing in the bytes is ever run."""
    if len(data) != 4 * count(spec):
        raise PeerError(f"weights came in another shape than the network's {count(spec)}; they are refused", "NN01")
    return received_weights(spec, np.frombuffer(data, dtype="<f4").astype(np.float32))


def bytes_of(weights: Weights) -> bytes:
    """Return the weights as little-endian float32 bytes, in their order."""
    return weights.astype("<f4").tobytes()


def digest(weights: Weights) -> str:
    """Return the SHA-256 over `bytes_of`, hex: what all parties of a run compare (`model_sha256`)."""
    return hashlib.sha256(bytes_of(weights)).hexdigest()
