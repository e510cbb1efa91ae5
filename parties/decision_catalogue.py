"""The catalogue as a value: what each field is, in whose class, and how it may leave (boundary.md, section 5).

Pure: standard library and `crypto` only, since the auditor reads catalogues with it. Where catalogues come from is in
`catalogue`; what a class means for a release is in `decision`.
"""

import csv
import hashlib
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lianxin.crypto.errors import CryptoError

Record = Mapping[str, Any]
SUBJECT_TYPES = ("ENT", "IND", "NP")
FIELD_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
_CHOICES = {
    "class": ("PUB", "LIM", "BIZ", "PI", "SPI", "BAN"),
    "id_role": ("DI", "QI", "SA", "NI"),
    "default_release": ("OPEN", "OPEN_NAME", "AUTH", "COMPUTE", "SEP", "SEP_WRITTEN", "NEVER"),
}


class CatalogueRejected(CryptoError):
    """A catalogue's bytes cannot be used; the message names the line and the column."""


@dataclass(frozen=True, slots=True)
class Field:
    """One catalogue field; `transform` is what desensitises it when there is no authorisation."""

    id: str
    class_: str
    id_role: str
    default_release: str
    subject_type: str
    name_zh: str = ""
    category: str = ""
    provider: str = ""
    verified: bool = False
    transform: str = "none"

    @classmethod
    def from_row(cls, row: Record) -> "Field":
        """Return the field of one checked row of a catalogue's CSV."""
        words = (row["field_name_en"], row["class"], row["id_role"], row["default_release"], row["subject_type"])
        texts = (row.get("field_name_zh", ""), row.get("category", ""), row.get("provider", ""))
        return cls(*words, *texts, row.get("verified") == "y", row.get("desens_if_no_auth") or "none")

    def concerns(self, subject_type: str) -> bool:
        """Return whether the catalogue declares this field for subjects of that type."""
        return subject_type in self.subject_type.split("|")


class Catalogue(Mapping[str, Field]):
    """The fields by id, with the bytes that they were read from; `digest` is the SHA-256 of those bytes, hex."""

    def __init__(self, fields: Mapping[str, Field], data: bytes) -> None:
        self._fields, self._data = dict(fields), data
        self.digest = hashlib.sha256(data).hexdigest()

    @classmethod
    def from_csv_bytes(cls, data: bytes) -> "Catalogue":
        """Return the catalogue in `data`; raise CatalogueRejected naming the first bad line and column."""
        try:
            reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
            return cls(_read_fields(reader), data)
        except (UnicodeDecodeError, csv.Error):
            raise CatalogueRejected("the catalogue is no well-formed CSV in UTF-8; export it again") from None

    def to_csv_bytes(self) -> bytes:
        """Return the very bytes that this catalogue was read from."""
        return self._data

    def __getitem__(self, field_id: str) -> Field:
        return self._fields[field_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Catalogue) and other.digest == self.digest

    def __hash__(self) -> int:
        return hash(self.digest)


def _read_fields(reader: "csv.DictReader[str]") -> dict[str, Field]:
    for name in ("field_name_en", "subject_type", *_CHOICES):
        if name not in (reader.fieldnames or ()):
            raise CatalogueRejected(f"line 1 has no column {name}; add it to the header")
    fields: dict[str, Field] = {}
    for row in reader:
        _check_row(row, reader.line_num)
        if row["field_name_en"] in fields:
            raise CatalogueRejected(f"line {reader.line_num}, column field_name_en: this id appears twice")
        fields[row["field_name_en"]] = Field.from_row(row)
    return fields


def _check_row(row: Record, line: int) -> None:
    if None in row or None in row.values():
        raise CatalogueRejected(f"line {line} has another number of columns than the header")
    subjects = row["subject_type"].split("|")
    if not FIELD_ID.fullmatch(row["field_name_en"]):
        raise CatalogueRejected(f"line {line}, column field_name_en: use 1 to 64 ASCII letters, digits, _ . or -")
    for column, choices in _CHOICES.items():
        if row[column] not in choices:
            raise CatalogueRejected(f"line {line}, column {column}: choose one of {', '.join(choices)}")
    if len(set(subjects)) < len(subjects) or not set(subjects) <= set(SUBJECT_TYPES):
        raise CatalogueRejected(f"line {line}, column subject_type: join distinct ENT, IND, NP with |")
