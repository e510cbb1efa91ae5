"""The transforms that a desensitisation policy can name, each with its parameters and its technique.

Every transform declares its family of GB/T 37964 (`TECHNIQUES`); two of the seven no transform here uses: encryption
that the owner can undo, and synthetic data. A new transform is a class here, a pure function in `desensitise_text` or
`desensitise_numbers`, and a line in docs/desensitisation.md.
"""

import unicodedata
from abc import abstractmethod
from collections.abc import Mapping
from decimal import Decimal
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from lianxin.crypto.randomness import Drbg, derive_seed
from lianxin.parties import desensitise_numbers as numbers
from lianxin.parties import desensitise_text as texts
from lianxin.parties.identifiers import normalise_identifier

Role = Literal["identifier", "quasi", "sensitive", "other"]
TECHNIQUES = (
    "statistics", "cryptography", "suppression", "pseudonymisation", "generalisation", "randomisation", "synthesis",
)  # fmt: skip
PSEUDONYM_DIGITS = 32
_MASKS = {
    "name": texts.mask_name, "phone": texts.mask_phone, "id_card": texts.mask_id_card, "account": texts.mask_account,
}  # fmt: skip


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _nfc(value: Any) -> Any:
    return unicodedata.normalize("NFC", value).strip() if isinstance(value, str) else value


Name = Annotated[str, BeforeValidator(_nfc), Field(min_length=1, max_length=200)]
Number = Annotated[Decimal, Field(max_digits=36, decimal_places=18)]


class Transform(Section):
    """One column's rule. `technique` is its family in GB/T 37964, "none" for a column that stays as it is."""

    technique: ClassVar[str] = "none"
    is_keyed: ClassVar[bool] = False
    column: Name
    role: Role
    transform: str

    @abstractmethod
    def apply(self, text: str, seed: bytes) -> str:
        """Return what may leave for one value that is not missing; "" suppresses it. `seed` is the column's own."""

    def written(self) -> str:
        """Return the transform as one text, such as region(digits=4)."""
        inside = ", ".join(f"{name}={_short(value)}" for name, value in self.parameters().items())
        return f"{self.transform}({inside})" if inside else self.transform

    def parameters(self) -> dict[str, Any]:
        """Return the parameters by name as texts, whole numbers, lists and objects."""
        given = self.model_dump(exclude={"column", "role", "transform"}, exclude_none=True)
        return {name: _canonical(value) for name, value in sorted(given.items())}


def _canonical(value: Any) -> Any:
    if isinstance(value, Decimal):
        return numbers.written(value)
    if isinstance(value, Mapping):
        return {name: sorted(texts.plain(one) for one in values) for name, values in value.items()}
    return [_canonical(one) for one in value] if isinstance(value, tuple | list) else value


def _short(value: Any) -> str:
    """Return a list or the names of an object joined by |: which values a level holds stays with the policy."""
    return "|".join(map(str, value)) if isinstance(value, list | dict) else str(value)


class Drop(Transform):
    """The column does not leave."""

    technique = "suppression"
    transform: Literal["drop"]

    def apply(self, text: str, seed: bytes) -> str:
        return texts.SUPPRESSED


class Keep(Transform):
    """The column leaves as it is; of an identifier, that makes the table grade 1."""

    transform: Literal["keep"]

    def apply(self, text: str, seed: bytes) -> str:
        return text


class Mask(Transform):
    """Stars in place of most of a name, telephone, identity card or account number (R33)."""

    technique = "suppression"
    transform: Literal["mask"]
    kind: Literal["name", "phone", "id_card", "account"]

    def apply(self, text: str, seed: bytes) -> str:
        return _MASKS[self.kind](text)


class Truncate(Transform):
    """The first characters of a longer text."""

    technique = "suppression"
    transform: Literal["truncate"]
    characters: int = Field(ge=1, le=100)

    def apply(self, text: str, seed: bytes) -> str:
        return texts.truncate(text, self.characters)


class Region(Transform):
    """Province (2 digits) or prefecture (4) of a region code."""

    technique = "generalisation"
    transform: Literal["region"]
    digits: Literal[2, 4] = 4

    def apply(self, text: str, seed: bytes) -> str:
        return texts.region(text, self.digits)


class Industry(Transform):
    """Section (1 character) or division (2) of an industry code."""

    technique = "generalisation"
    transform: Literal["industry"]
    characters: Literal[1, 2] = 1

    def apply(self, text: str, seed: bytes) -> str:
        return texts.industry(text, self.characters)


class Date(Transform):
    """Month, quarter or year of a day."""

    technique = "generalisation"
    transform: Literal["date"]
    period: Literal["month", "quarter", "year"]

    def apply(self, text: str, seed: bytes) -> str:
        return texts.date(text, self.period)


class Coarsen(Transform):
    """A few levels, each of the values listed for it; others are suppressed."""

    technique = "generalisation"
    transform: Literal["coarsen"]
    levels: dict[Name, tuple[str, ...]] = Field(min_length=1, max_length=50)

    @model_validator(mode="after")
    def _each_value_once(self) -> "Coarsen":
        listed = [texts.plain(value) for values in self.levels.values() for value in values]
        if len(set(listed)) < len(listed):
            raise ValueError("levels list a value twice")
        return self

    @cached_property
    def _level_of(self) -> dict[str, str]:
        return {texts.plain(value): level for level, values in self.levels.items() for value in values}

    def apply(self, text: str, seed: bytes) -> str:
        return texts.coarsen(text, self._level_of)


class Band(Transform):
    """The band of a number between rising edges."""

    technique = "generalisation"
    transform: Literal["band"]
    edges: tuple[Number, ...] = Field(min_length=1, max_length=100)

    @model_validator(mode="after")
    def _edges_rise(self) -> "Band":
        if any(low >= high for low, high in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError("edges do not rise")
        return self

    def apply(self, text: str, seed: bytes) -> str:
        return numbers.band(text, self.edges)


class Clip(Transform):
    """A number no lower than `low` and no higher than `high`: bottom and top code."""

    technique = "generalisation"
    transform: Literal["clip"]
    low: Number | None = None
    high: Number | None = None

    @model_validator(mode="after")
    def _has_a_bound(self) -> "Clip":
        if self.low is None and self.high is None:
            raise ValueError("give low, high or both")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError("low is not below high")
        return self

    def apply(self, text: str, seed: bytes) -> str:
        return numbers.clip(text, self.low, self.high)


class Round(Transform):
    """The nearest multiple of `step`."""

    technique = "generalisation"
    transform: Literal["round"]
    step: Number = Field(gt=0)

    def apply(self, text: str, seed: bytes) -> str:
        return numbers.round_to(text, self.step)


class Noise(Transform):
    """A number in whole steps with Laplace or Gaussian noise of `scale` steps; no differential privacy is claimed."""

    technique = "randomisation"
    is_keyed = True
    transform: Literal["noise"]
    kind: Literal["laplace", "gaussian"] = "laplace"
    step: Number = Field(gt=0)
    scale: int = Field(ge=1, le=10**6)

    def apply(self, text: str, seed: bytes) -> str:
        value = numbers.number(text)
        drbg = Drbg(derive_seed(seed, "" if value is None else numbers.written(value)))
        return numbers.add_noise(text, self.kind, self.step, self.scale, drbg)


class Pseudonym(Transform):
    """HMAC-SHA-256 of the normalised value under the owner's key, project and column; 32 hex digits (R24)."""

    technique = "pseudonymisation"
    is_keyed = True
    transform: Literal["pseudonym"]

    def apply(self, text: str, seed: bytes) -> str:
        return derive_seed(seed, normalise_identifier(text)).hex()[:PSEUDONYM_DIGITS]


class Aggregate(Transform):
    """One statistic of the column for each group of rows, to `digits` significant digits; no row leaves."""

    technique = "statistics"
    transform: Literal["aggregate"]
    statistic: Literal["sum", "mean"] = "mean"
    digits: int = Field(default=3, ge=1, le=9)

    def apply(self, text: str, seed: bytes) -> str:
        return texts.SUPPRESSED


Rule = Annotated[
    Drop | Keep | Mask | Truncate | Region | Industry | Date | Coarsen | Band | Clip | Round | Noise | Pseudonym
    | Aggregate,
    Field(discriminator="transform"),
]  # fmt: skip
