"""The catalogue as a value: what each field is, in whose class, and how it may leave (boundary.md, section 5).

Pure: standard library and `crypto` only, since the auditor reads catalogues with it. Where catalogues come from is in
`catalogue`; what a class means for a release is in `decision`. Columns of later versions are optional, so that the
catalogue in older evidence reads as it always did.
"""

import csv
import hashlib
import io
import re
from calendar import monthrange
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from lianxin.crypto.errors import CryptoError

Record = Mapping[str, Any]
SUBJECT_TYPES = ("ENT", "IND", "NP")
FIELD_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
CLASSES = ("PUB", "LIM", "BIZ", "PI", "SPI", "BAN")  # from the freest to the most guarded
LEGAL_BASES = ("consent", "contract", "statutory_duty", "emergency", "public_interest", "made_public")
SECRET_TESTS = frozenset({"not_public", "valuable", "kept_secret"})  # R39: all three, or it is no trade secret yet
_CHOICES = {
    "class": CLASSES,
    "id_role": ("DI", "QI", "SA", "NI"),
    "default_release": ("OPEN", "OPEN_NAME", "AUTH", "COMPUTE", "SEP", "SEP_WRITTEN", "NEVER"),
}
_OPTIONAL_CHOICES = {"legal_basis": ("", *LEGAL_BASES), "optional": ("", "y", "n"), "duty": ("", "y", "n")}
_PERIOD = re.compile(r"(\d{1,3})([dmy])", re.ASCII)
_STRICTER = {  # which releases are no more open than this one
    "OPEN": {"OPEN_NAME", "AUTH", "COMPUTE", "SEP", "SEP_WRITTEN"},
    "OPEN_NAME": {"AUTH", "COMPUTE", "SEP", "SEP_WRITTEN"},
    "AUTH": {"COMPUTE", "SEP", "SEP_WRITTEN"},
    "SEP": {"COMPUTE", "SEP_WRITTEN"},
}


class CatalogueRejected(CryptoError):
    """A catalogue's bytes cannot be used; the message names the line and the column."""


@dataclass(frozen=True, slots=True)
class Field:
    """One catalogue field; `transform` is what desensitises it when there is no authorisation.

    `expiry` ("", "5y", "3m", "0d") counts from the date in field `expiry_from` (R21); `is_optional`: a service must run
    without it (R05); `is_duty`: what a director or manager does in office (R19); `secret_tests`: which of R39's tests
    the provider has recorded, joined with |.
    """

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
    legal_basis: str = ""
    expiry: str = ""
    expiry_from: str = ""
    is_optional: bool = False
    is_duty: bool = False
    secret_tests: str = ""

    @classmethod
    def from_row(cls, row: Record) -> "Field":
        """Return the field of one checked row of a catalogue's CSV."""
        words = (row["field_name_en"], row["class"], row["id_role"], row["default_release"], row["subject_type"])
        texts = (row.get("field_name_zh", ""), row.get("category", ""), row.get("provider", ""))
        later = (row.get("legal_basis", ""), row.get("expiry", ""), row.get("expiry_from", ""))
        flags = (row.get("optional") == "y", row.get("duty") == "y", row.get("secret_tests", ""))
        transform = row.get("desens_if_no_auth") or "none"
        return cls(*words, *texts, row.get("verified") == "y", transform, *later, *flags)

    def concerns(self, subject_type: str) -> bool:
        """Return whether the catalogue declares this field for subjects of that type."""
        return subject_type in self.subject_type.split("|")

    @property
    def longest_days(self) -> int:
        """How many days `expiry` lasts at most, 0 without one: only for telling a shorter period from a longer one."""
        return int(self.expiry[:-1]) * {"d": 1, "m": 31, "y": 366}[self.expiry[-1]] if self.expiry else 0

    def has_expired(self, since: str, now: str) -> bool:
        """Return whether an item of this field that ended on `since` (a date) may no longer be told at `now` (R21).

        Without a date nothing has ended yet; a date that cannot be read counts as long ago.
        """
        if not self.expiry or not since.strip():
            return False
        try:
            return end_of(self.expiry, since.strip()[:10]) <= now[:10]
        except ValueError:
            return True


def end_of(period: str, since: str) -> str:
    """Return the date (YYYY-MM-DD) on which `period` ends that began on the date `since`. Raises ValueError."""
    found, start = _PERIOD.fullmatch(period), date.fromisoformat(since)
    if found is None:
        raise ValueError("a period is a number of days, months or years, such as 90d, 3m or 5y")
    number = int(found[1])
    if found[2] == "d":
        return (start + timedelta(days=number)).isoformat()
    months = start.month - 1 + number * (12 if found[2] == "y" else 1)
    year, month = start.year + months // 12, months % 12 + 1
    if year > date.max.year:
        raise ValueError("the period ends after the last year that can be written")
    return date(year, month, min(start.day, monthrange(year, month)[1])).isoformat()


def is_no_more_open(release: str, than: str) -> bool:
    """Return whether default release `release` lets nothing cross that `than` would not."""
    return release in ("NEVER", than) or release in _STRICTER.get(than, ())


class Catalogue(Mapping[str, Field]):
    """The fields by id, with the bytes that they were read from; `digest` is the SHA-256 of those bytes, hex.

    `version` is the one value of the column `catalogue_version`, empty without that column.
    """

    def __init__(self, fields: Mapping[str, Field], data: bytes, version: str = "") -> None:
        self._fields, self._data, self.version = dict(fields), data, version
        self.digest = hashlib.sha256(data).hexdigest()

    @classmethod
    def from_csv_bytes(cls, data: bytes) -> "Catalogue":
        """Return the catalogue in `data`; raise CatalogueRejected naming the first bad line and column."""
        try:
            reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
            return cls(*_read_fields(reader, data))
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


def _read_fields(reader: "csv.DictReader[str]", data: bytes) -> tuple[dict[str, Field], bytes, str]:
    for name in ("field_name_en", "subject_type", *_CHOICES):
        if name not in (reader.fieldnames or ()):
            raise CatalogueRejected(f"line 1 has no column {name}; add it to the header")
    fields: dict[str, Field] = {}
    version = ""
    for row in reader:
        _check_row(row, reader.line_num)
        if row["field_name_en"] in fields:
            raise CatalogueRejected(f"line {reader.line_num}, column field_name_en: this id appears twice")
        if fields and row.get("catalogue_version", "") != version:
            raise CatalogueRejected(f"line {reader.line_num}, column catalogue_version: a file has one version")
        version = row.get("catalogue_version", "")
        fields[row["field_name_en"]] = Field.from_row(row)
    return fields, data, version


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
    _check_later_columns(row, line)


def _check_later_columns(row: Record, line: int) -> None:
    for column, choices in _OPTIONAL_CHOICES.items():
        if row.get(column, "") not in choices:
            raise CatalogueRejected(f"line {line}, column {column}: choose one of {', '.join(filter(None, choices))}")
    expiry, source = row.get("expiry", ""), row.get("expiry_from", "")
    if expiry and not _PERIOD.fullmatch(expiry):
        raise CatalogueRejected(f"line {line}, column expiry: write a period such as 90d, 3m or 5y")
    if source and not FIELD_ID.fullmatch(source):
        raise CatalogueRejected(f"line {line}, column expiry_from: name a field of the catalogue")
    tests = row.get("secret_tests", "")
    if tests and not set(tests.split("|")) <= SECRET_TESTS:
        raise CatalogueRejected(f"line {line}, column secret_tests: join {', '.join(sorted(SECRET_TESTS))} with |")
