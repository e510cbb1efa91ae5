"""Which sum a message belongs to, what the signed contract makes of it, and the form in which a sum's values cross."""

import hashlib
import json
import re
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from lianxin.crypto import canonical
from lianxin.crypto.errors import CryptoError
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import PeerError
from lianxin.federation.network_terms import COUNTS, groups_in, least_of
from lianxin.federation.secure_sum import SumCheated, SumTerms, Vector, policy_threshold

TRAIN = "train"
KEYS, SHARES, AGREE, OPEN = "query.sumkeys", "query.sumshares", "query.sumagree", "query.sumopen"
SUM, SUMMAND, MASKED = "sum", "summand", "masked"
WORD = 64
_LABEL = re.compile(r"[a-z][a-z.]*(/(0|[1-9][0-9]{0,6})){3}")
Arrays = dict[str, np.ndarray]
Numbers = dict[str, int]
Texts = dict[str, str]


@dataclass(frozen=True)
class SumRequest:
    """Which sum a message belongs to: `label` is kind/round/attempt/group, `width` the ring's bits, `length` its values."""

    label: str
    banks: tuple[str, ...]
    group: int
    width: int
    length: int

    def to_text(self) -> str:
        """Return the request as it crosses."""
        return canonical.encode({**vars(self), "banks": list(self.banks)}).decode()

    @classmethod
    def from_text(cls, text: str) -> "SumRequest":
        """Return the request of a message. Raises SumCheated (SS01) where it is none."""
        try:
            said = canonical.decode_fragment(text.encode())
            request = cls(said["label"], tuple(said["banks"]), said["group"], said["width"], said["length"])
            fits = request._is_whole() and request.to_text() == text
        except (CryptoError, KeyError, TypeError, ValueError):
            fits = False
        if not fits:
            raise SumCheated("SS01", "describes a sum that is none")
        return request

    def _is_whole(self) -> bool:
        numbers = (self.group, self.width, self.length)
        if not all(type(number) is int for number in numbers) or not all(type(bank) is str for bank in self.banks):
            return False
        return (
            isinstance(self.label, str) and bool(_LABEL.fullmatch(self.label)) and self.label.endswith(f"/{self.group}")
        )

    @property
    def kind(self) -> str:
        """The kind of message whose values are summed."""
        return self.label.split("/")[0]

    @property
    def round(self) -> int:
        """The round whose values are summed."""
        return int(self.label.split("/")[1])

    @property
    def place(self) -> str:
        """What is opened once: kind/round, whatever the attempt and the group."""
        return f"{self.kind}/{self.round}"


class SumMemory(Protocol):
    """What a bank keeps durably of its sums; every call is on disk before it returns."""

    def reserve(self, label: str) -> bool:
        """Note that a label is used; return whether it was not before."""

    def opened(self, place: str) -> tuple[tuple[str, ...], str] | None:
        """Return (banks of the set, digest of the own value) that was opened at kind/round, if any was."""

    def note_opened(self, place: str, banks: tuple[str, ...], digest: str) -> None:
        """Note that a set is opened, before the opening leaves."""

    def gone(self) -> frozenset[str]:
        """Return the banks that a sum went without: they are in none after it."""

    def note_gone(self, banks: frozenset[str]) -> None:
        """Note the banks that are gone, before anything of the first sum without them leaves."""


class SumsInMemory:
    """A `SumMemory` that a restart loses: for simulations and tests."""

    def __init__(self) -> None:
        self._labels: set[str] = set()
        self._opened: dict[str, tuple[tuple[str, ...], str]] = {}
        self._gone = frozenset[str]()

    def reserve(self, label: str) -> bool:
        """Note that a label is used; return whether it was not before."""
        is_new = label not in self._labels
        self._labels.add(label)
        return is_new

    def opened(self, place: str) -> tuple[tuple[str, ...], str] | None:
        """Return what was opened at kind/round, if anything was."""
        return self._opened.get(place)

    def note_opened(self, place: str, banks: tuple[str, ...], digest: str) -> None:
        """Note that a set is opened."""
        self._opened[place] = (banks, digest)

    def gone(self) -> frozenset[str]:
        """Return the banks that a sum went without."""
        return self._gone

    def note_gone(self, banks: frozenset[str]) -> None:
        """Note the banks that are gone."""
        self._gone = banks


def terms_for(contract: RunContract, request: SumRequest) -> SumTerms:
    """Return the terms of a requested sum under the signed contract, for a bank and for the platform alike.

    The threshold is the policy's, never the platform's: of a network it is that of all banks of the run, of the whole group
    at `train` in groups, whoever is named. Raises SumCheated (SS01) for banks that are not the contract's, too few of them,
    or, at `train`, banks of different groups.
    """
    banks = set(request.banks)
    if not banks <= set(contract.banks):
        raise SumCheated("SS01", "wants a sum of other banks than the contract's")
    least = least_of(contract, whole_of(contract, request)) if contract.is_network else 2
    if len(banks) < least:
        raise SumCheated("SS01", f"wants a sum of {len(banks)} banks, and by the contract it is of {least} or more")
    threshold = least if contract.is_network else _star_threshold(contract, len(banks))
    return SumTerms(
        contract.run, contract.hash, request.label, tuple(sorted(request.banks)), threshold,
        request.width, request.length, {bank: contract.node_keys[bank] for bank in contract.banks},
    )  # fmt: skip


def _star_threshold(contract: RunContract, banks: int) -> int:
    """Return how many of the banks must stay: the policy's, and as many as the contract goes on with."""
    return banks if contract.on_loss == "stop" else max(policy_threshold(banks), min(contract.min_banks, banks))


def whole_of(contract: RunContract, request: SumRequest) -> tuple[str, ...]:
    """Return the banks of which those of a network's sum are a part: a group at `train`, all banks at anything else.

    Raises SumCheated (SS01) for banks of different groups.
    """
    if contract.groups == 1 or request.kind != TRAIN:
        return contract.banks
    for group in groups_in(contract):
        if set(request.banks) <= set(group):
            return group
    raise SumCheated("SS01", "wants a sum of banks that the contract puts into different groups")


def gone_with(contract: RunContract, request: SumRequest, gone: frozenset[str]) -> frozenset[str]:
    """Return the banks that are gone once a network's bank takes part in this sum; `gone` are those before it.

    A bank that one sum went without is in none after it, so that nobody is subtracted to and fro. Raises SumCheated (SS01)
    where one is named again.
    """
    if back := sorted(gone & set(request.banks)):
        raise SumCheated("SS01", f"wants {back[0]} in a sum again, after one without it")
    return gone | (set(whole_of(contract, request)) - set(request.banks))


# ---- what is asked


def question_of(kind: str, round_number: int, arrays: Arrays, numbers: Numbers, texts: Texts) -> str:
    """Return the SHA-256, in hex, of what a bank is asked for its vector: every value but the sum's own texts.

    Arrays count by type, shape and little-endian bytes. Banks sign it with the set that they open.
    """
    said = {
        "type": "sum-question", "version": 1, "kind": kind, "round": round_number,
        "numbers": {name: str(value) for name, value in numbers.items()},
        "content": content_of(kind, arrays, texts),
    }  # fmt: skip
    return hashlib.sha256(canonical.encode(said)).hexdigest()


def content_of(kind: str, arrays: Arrays, texts: Texts) -> str:
    """Return the SHA-256, in hex, of what a value is computed from, whatever the round; "" where nothing came with it."""
    own = {name: text for name, text in texts.items() if not name.startswith(SUM)}
    if not arrays and not own:
        return ""
    family = next((which for which in COUNTS if kind.startswith(which)), kind)
    said = {
        "type": "sum-content", "version": 1, "kind": family, "texts": own,
        "arrays": {name: _array_digest(values) for name, values in arrays.items()},
    }  # fmt: skip
    return hashlib.sha256(canonical.encode(said)).hexdigest()


def _array_digest(values: np.ndarray) -> str:
    values = np.ascontiguousarray(values)
    head = f"{values.dtype.name}/{'x'.join(map(str, values.shape))}/".encode()
    return hashlib.sha256(head + values.astype(values.dtype.newbyteorder("<")).tobytes()).hexdigest()


# ---- what crosses


def vector_of(array: np.ndarray, width: int) -> Vector:
    """Return the ring's vector of an array that crossed: int64 (two's complement) or uint64, shape (length,), for 64 bits;
    uint8, shape (length, ⌈W/8⌉), little-endian, for other widths. Raises PeerError (SS05) for anything else."""
    if width == WORD and array.ndim == 1 and array.dtype in (np.int64, np.uint64):
        return np.ascontiguousarray(array).view(np.uint64)
    size = (width + 7) // 8
    if width == WORD or array.dtype != np.uint8 or array.ndim != 2 or array.shape[1] != size:
        raise PeerError("a vector of a sum came in another type or shape than its ring's", "SS05")
    data = array.tobytes()
    return [int.from_bytes(data[at : at + size], "little") for at in range(0, len(data), size)]


def array_of(vector: Vector, width: int) -> np.ndarray:
    """Return a ring's vector as it crosses; `vector_of` is its inverse."""
    if width == WORD:
        return np.asarray(vector, dtype=np.uint64)
    size = (width + 7) // 8
    data = b"".join(int(value).to_bytes(size, "little") for value in vector)
    return np.frombuffer(data, dtype=np.uint8).reshape(len(vector), size)


def boxes_to_text(boxes: Mapping[str, bytes]) -> str:
    """Return sealed boxes by bank as they cross."""
    return json.dumps({name: b64encode(boxes[name]).decode() for name in sorted(boxes)})


def boxes_from_text(text: str) -> dict[str, bytes]:
    """Return sealed boxes by bank. Raises PeerError (SS03) for a text that is none."""
    try:
        said = json.loads(text)
        return {str(name): b64decode(box, validate=True) for name, box in said.items()}
    except (AttributeError, TypeError, ValueError, RecursionError):
        raise PeerError("the boxes of a secure sum came in a form that is none", "SS03") from None


def text_of(texts: Texts, name: str) -> str:
    """Return a named text of a message. Raises PeerError (L04) where it is not there."""
    if name not in texts:
        raise PeerError(f"a message of a secure sum came without its '{name}'", "L04")
    return texts[name]


def list_of(texts: Texts, name: str) -> list[str]:
    """Return a named list of texts. Raises PeerError (SS01) where it is none."""
    try:
        said: Any = json.loads(text_of(texts, name))
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, list) or not all(isinstance(one, str) for one in said):
        raise PeerError(f"'{name}' of a secure sum is no list of texts", "SS01")
    return said
