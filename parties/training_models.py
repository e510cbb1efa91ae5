"""The three networks in torch, made from flat weights and read back into them (`training_shapes` says what they are)."""

import numpy as np
import torch
from numpy.typing import NDArray

from lianxin.parties.preparation import Prepared
from lianxin.parties.training_shapes import THRESHOLDS, NetworkSpec, Weights, flatten, input_width, shapes, unflatten

Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class Linear(torch.nn.Module):
    """`logistic`: numbers and one-hot categories through one layer."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.sizes = spec.categories
        self.layers = torch.nn.ModuleList()
        self.head = torch.nn.Linear(input_width(spec), 1)

    def inputs(self, numbers: torch.Tensor, categories: torch.Tensor) -> torch.Tensor:
        """Return rows x inputs of the first layer."""
        hot = [torch.nn.functional.one_hot(categories[:, place], size) for place, size in enumerate(self.sizes)]
        return torch.cat([numbers, *(one.to(numbers.dtype) for one in hot)], dim=1)

    def forward(self, numbers: torch.Tensor, categories: torch.Tensor) -> torch.Tensor:
        """Return the log-odds of being bad, one a row."""
        return self.head(self.inputs(numbers, categories)).squeeze(1)


class Perceptron(Linear):
    """`mlp`: hidden layers of ReLU before the head."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__(spec)
        widths = (input_width(spec), *spec.hidden)
        self.layers.extend(torch.nn.Linear(above, below) for above, below in zip(widths, spec.hidden, strict=False))
        self.head = torch.nn.Linear(widths[-1], 1)

    def hidden(self, place: int, values: torch.Tensor) -> torch.Tensor:
        """Return the values behind hidden layer `place`."""
        return torch.relu(self.layers[place](values))

    def forward(self, numbers: torch.Tensor, categories: torch.Tensor) -> torch.Tensor:
        """Return the log-odds of being bad, one a row."""
        values = self.inputs(numbers, categories)
        for place in range(len(self.layers)):
            values = self.hidden(place, values)
        return self.head(values).squeeze(1)


class Tabular(Perceptron):
    """`tabular`: embedded categories, numbers with bends, LayerNorm and GELU."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__(spec)
        self.embeddings = torch.nn.ModuleList(torch.nn.Embedding(n, spec.embedding_width) for n in spec.categories)
        self.norms = torch.nn.ModuleList(torch.nn.LayerNorm(units) for units in spec.hidden)
        self.register_buffer("thresholds", torch.tensor(THRESHOLDS), persistent=False)

    def inputs(self, numbers: torch.Tensor, categories: torch.Tensor) -> torch.Tensor:
        """Return rows x inputs: numbers, what lies beyond each threshold, embeddings."""
        thresholds = self.get_buffer("thresholds")
        beyond = torch.relu((numbers.unsqueeze(2) - thresholds) * thresholds.sign().where(thresholds != 0, 1.0))
        embedded = [embed(categories[:, place]) for place, embed in enumerate(self.embeddings)]
        return torch.cat([numbers, beyond.flatten(1), *embedded], dim=1)

    def hidden(self, place: int, values: torch.Tensor) -> torch.Tensor:
        """Return the values behind hidden layer `place`."""
        return torch.nn.functional.gelu(self.norms[place](self.layers[place](values)))


_MODELS = {"logistic": Linear, "mlp": Perceptron, "tabular": Tabular}


def build(spec: NetworkSpec, weights: Weights) -> torch.nn.Module:
    """Return the network with these weights (`unflatten`'s ValueError when they do not fit)."""
    with torch.device("meta"):  # nothing is drawn: every parameter is given
        module = _MODELS[spec.model](spec)
    module = module.to_empty(device="cpu")
    if spec.model == "tabular":
        module.get_buffer("thresholds").copy_(torch.tensor(THRESHOLDS))
    load(module, spec, weights)
    return module


def load(module: torch.nn.Module, spec: NetworkSpec, weights: Weights) -> None:
    """Put the flat weights into the module's parameters."""
    parameters = dict(module.named_parameters())
    with torch.no_grad():
        for (name, _), array in zip(shapes(spec), unflatten(spec, weights), strict=True):
            parameters[name].copy_(torch.from_numpy(array))


def parameters_of(module: torch.nn.Module, spec: NetworkSpec) -> list[Weights]:
    """Return the module's parameters as float32 copies, in the order of `shapes`."""
    parameters = dict(module.named_parameters())
    return [parameters[name].detach().numpy().astype(np.float32, copy=True) for name, _ in shapes(spec)]


def weights_of(module: torch.nn.Module, spec: NetworkSpec) -> Weights:
    """Return the module's parameters as one flat array."""
    return flatten(parameters_of(module, spec))


def tensors_of(prepared: Prepared) -> Tensors:
    """Return numbers (float32), categories (int64) and labels (float32) as tensors."""
    labels: NDArray[np.float32] = prepared.labels.astype(np.float32)
    return torch.from_numpy(prepared.numbers), torch.from_numpy(prepared.categories), torch.from_numpy(labels)
