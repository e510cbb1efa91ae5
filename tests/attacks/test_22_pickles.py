"""Attack 22: bytes that are code once somebody unpickles them (CVE-2025-32434, CVE-2026-24747), in every input slot.

The canary writes a file when it is unpickled. It is put, bare and as numpy and torch write it, wherever a peer's or a
kept file's bytes are read: each slot refuses it in words, and the file is never there. The controls unpickle it, and it is.
"""

import base64
import gzip
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array

from lianxin.crypto import canonical, key_file, notes
from lianxin.crypto.errors import CryptoError
from lianxin.federation import grid, strategies, wire
from lianxin.federation.contract import decode_contract
from lianxin.federation.errors import LianxinError
from lianxin.federation.secure_sum_request import boxes_from_text, vector_of
from lianxin.parties import checkpoint, training
from lianxin.parties.preparation import Preparation
from lianxin.parties.records import read_table

SPEC = training.NetworkSpec("mlp", 2, (3,), (4,), 2)
LABEL = key_file.Label("bank-1", "labels", "run-1")


class Canary:
    """Whoever unpickles it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def as_numpy(canary: Canary) -> bytes:
    out = io.BytesIO()
    np.save(out, np.array([canary], dtype=object), allow_pickle=True)
    return out.getvalue()


def as_torch(canary: Canary) -> bytes:
    out = io.BytesIO()
    torch.save({"weights": canary}, out)
    return out.getvalue()


def padded(canary: Canary) -> bytes:
    """Return a pickle as long as the network's weights, so that no check of the length is what refuses it."""
    data = pickle.dumps(canary, protocol=0)
    return data + b"\xff" * (4 * training.count(SPEC) - len(data))


FORMS: dict[str, Callable[[Canary], bytes]] = {
    "pickle": pickle.dumps, "numpy": as_numpy, "torch": as_torch, "padded": padded,
}  # fmt: skip


def table(ending: str) -> Callable[[bytes, Path], object]:
    def read(data: bytes, folder: Path) -> object:
        path = folder / f"table{ending}"
        path.write_bytes(gzip.compress(data) if ending.endswith("gz") else data)
        return read_table(path).column("a")

    return read


def kept(data: bytes, folder: Path) -> object:
    (folder / checkpoint.FILE).write_bytes(data)
    return checkpoint.read(folder, "run-1")


def array(dtype: str) -> Callable[[bytes, Path], object]:
    entry = SimpleNamespace(dtype=dtype, shape=[3], data=b"")
    return lambda data, _: grid._array(SimpleNamespace(**{**vars(entry), "data": data}))


def objects(data: bytes, _: Path) -> object:
    return training.received_weights(SPEC, np.array([data] * training.count(SPEC), dtype=object))


def moments(data: bytes, _: Path) -> object:
    return strategies._read({"shape": [3], "float32": base64.b64encode(data).decode()})


SLOTS: dict[str, Callable[[bytes, Path], object]] = {
    "weights as bytes": lambda data, _: training.weights_from_bytes(SPEC, data),
    "weights as an array of bytes": lambda data, _: training.received_weights(
        SPEC, np.frombuffer(data, dtype=np.uint8)
    ),
    "weights as objects": objects,
    "an array of float32": array("float32"),
    "an array of objects": array("object"),
    "an array of a pickled type": array("O"),
    "a Flower array": lambda data, _: training.received_weights(
        SPEC, Array("object", (1,), "numpy.ndarray", data).numpy()
    ),
    "a vector of a sum": lambda data, _: vector_of(np.frombuffer(data, dtype=np.uint8), 64),
    "boxes of a sum": lambda data, _: boxes_from_text(data.decode("latin-1")),
    "a preparation": lambda data, _: Preparation.received(data, []),
    "a preparation's field": lambda data, _: Preparation.received(
        {"type": "preparation", "version": 1, "numbers": [data], "texts": []}, []
    ),
    "a network's shape": lambda data, _: training.NetworkSpec.from_record({**SPEC.to_record(), "hidden": data}),
    "a strategy's moments": moments,
    "an envelope": lambda data, _: wire.unseal(data),
    "a contract": lambda data, _: decode_contract(data),
    "a record": lambda data, _: canonical.decode(data),
    "a checkpoint": kept,
    "a head of a ledger": lambda data, _: notes.parse_note(data),
    "a kept key": lambda data, _: key_file.open_key(data, key_file.protect_by_key(b"k" * 32), LABEL),
    "a table": table(".csv"),
    "a compressed table": table(".csv.gz"),
    "a Parquet table": table(".parquet"),
}


@pytest.mark.parametrize("form", sorted(FORMS))
@pytest.mark.parametrize("slot", sorted(SLOTS))
def test_a_pickle_in_an_input_slot_is_refused_and_never_runs(slot: str, form: str, tmp_path: Path) -> None:
    canary = Canary(tmp_path / "ran")
    with pytest.raises((LianxinError, CryptoError, ValueError)) as refused:
        SLOTS[slot](FORMS[form](canary), tmp_path)
    assert not canary.path.exists()
    assert str(canary.path) not in str(refused.value) and (
        slot == "a Flower array" or type(refused.value) is not ValueError
    )


CONTROLS: dict[str, Callable[[bytes], object]] = {
    "pickle": pickle.loads,
    "numpy": lambda data: np.load(io.BytesIO(data), allow_pickle=True),
    "torch": lambda data: torch.load(io.BytesIO(data), weights_only=False),
    "padded": pickle.loads,
}


@pytest.mark.parametrize("form", sorted(FORMS))
def test_the_canary_runs_where_somebody_does_unpickle_it(form: str, tmp_path: Path) -> None:
    canary = Canary(tmp_path / "ran")
    CONTROLS[form](FORMS[form](canary))
    assert canary.path.exists()


def test_pinned_torch_is_past_the_versions_that_run_what_they_load() -> None:
    assert tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2]) >= (2, 10)
