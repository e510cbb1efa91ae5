"""Where a catalogue comes from: the packaged draft, a party's own file, or the columns of its own table.

A catalogue gives every field a class, an identifier role and a default release (boundary.md, section 5); a field
without a class never crosses (R13). The packaged draft is a draft: its classes are a proposal, and only the headings
that its `verified` column marks were seen in a source. What a province adds or tightens is in `catalogue_additions`.
"""

import csv
import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path

from lianxin.federation.errors import InputFault
from lianxin.parties.catalogue_additions import merge_additions
from lianxin.parties.decision import Catalogue, CatalogueRejected, Field
from lianxin.parties.decision_catalogue import SECRET_TESTS

__all__ = [
    "bind_columns",
    "generated_catalogue",
    "lint",
    "load_catalogue",
    "load_draft",
    "load_merged",
    "merge_additions",
    "undated",
    "untested",
]

_DRAFT = "catalogue_draft.csv"
_HEADER = (
    "category", "item", "field_name_en", "field_name_zh", "class", "subject_type", "provider", "notes", "verified",
    "id_role", "default_release", "desens_if_no_auth", "legal_basis",
)  # fmt: skip
_GENERATED = {
    "category": "own table", "item": "generated", "class": "BIZ", "subject_type": "ENT|IND", "verified": "n",
    "id_role": "NI", "default_release": "COMPUTE", "desens_if_no_auth": "drop", "legal_basis": "consent",
}  # fmt: skip
_RELEASES = {
    "PUB": {"OPEN"},
    "LIM": {"OPEN", "AUTH", "COMPUTE", "NEVER"},
    "BIZ": {"AUTH", "COMPUTE", "NEVER"},
    "PI": {"OPEN_NAME", "AUTH", "COMPUTE", "SEP", "SEP_WRITTEN", "NEVER"},
    "SPI": {"COMPUTE", "SEP", "SEP_WRITTEN", "NEVER"},
    "BAN": {"NEVER"},
}


def load_draft() -> Catalogue:
    """Return the packaged draft catalogue."""
    return Catalogue.from_csv_bytes(resources.files("lianxin.parties").joinpath(_DRAFT).read_bytes())


def load_catalogue(path: Path) -> Catalogue:
    """Return the catalogue in the CSV file at `path`; raises InputFault naming the file, the line and the column."""
    try:
        return Catalogue.from_csv_bytes(path.read_bytes())
    except OSError:
        raise InputFault(f"{path} cannot be read; check the path of the catalogue") from None
    except CatalogueRejected as fault:
        raise InputFault(f"{path}: {fault}") from None


def load_merged(path: Path | None, additions: Sequence[Path] = ()) -> Catalogue:
    """Return the catalogue at `path` (the packaged draft without one) with the additions merged in, in their order.

    Raises InputFault naming the file, and the line and the column that cannot be used or the contradiction that it makes;
    so it does for a field of the first catalogue whose release is more open than its class may be.
    """
    merged = load_catalogue(path) if path else load_draft()
    for entry in merged.values():
        if fault := _release_fault(entry):
            raise InputFault(f"{path}: field {entry.id}: {fault}")
    for addition in additions:
        known = set(lint(merged))
        try:
            merged = merge_additions(merged, load_catalogue(addition))
        except CatalogueRejected as fault:
            raise InputFault(f"{addition}: {fault}") from None
        for finding in lint(merged):
            if finding not in known:
                raise InputFault(f"{addition}: merged in, field {finding}")
    return merged


def generated_catalogue(columns: Mapping[str, str], authorised: Collection[str] = ()) -> Catalogue:
    """Return a catalogue of a user's own columns (field id to provider): trade secrets in compute mode only, or by their
    firm's authorisation where the field is among `authorised`, as the platform's are in a run of trees.

    The strictest class that joint modelling allows stands in until the owner gives a better one. Raises InputFault
    for an id that no catalogue can hold.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, _HEADER, restval="", lineterminator="\n")
    writer.writeheader()
    for field_id, provider in columns.items():
        release = {"default_release": "AUTH"} if field_id in authorised else {}
        writer.writerow({**_GENERATED, **release, "field_name_en": field_id, "provider": provider})
    try:
        return Catalogue.from_csv_bytes(text.getvalue().encode())
    except CatalogueRejected as fault:
        raise InputFault(f"the columns make no catalogue: {fault}; rename the column") from None


def bind_columns(columns: Iterable[str], catalogue: Catalogue, bindings: Mapping[str, str]) -> dict[str, str]:
    """Return the field id of each column: the one that `bindings` names, else the field of the column's own name.

    Raises InputFault for a column without a class (R13), a binding of no column, and two columns of one field.
    """
    columns = list(columns)
    for column in bindings:
        if column not in columns:
            raise InputFault(f"a binding names column {column}, which the table does not have; correct the binding")
    bound: dict[str, str] = {}
    for column in columns:
        field_id = bindings.get(column, column)
        if field_id not in catalogue:
            raise InputFault(f"column {column} has no class (R13); bind it to a catalogue field or leave it out")
        if field_id in bound.values():
            raise InputFault(f"column {column} is the second one of field {field_id}; keep one of the two")
        bound[column] = field_id
    return bound


def lint(catalogue: Catalogue) -> list[str]:
    """Return one sentence for each field whose columns contradict each other, in file order."""
    findings: list[str] = []
    spelled: dict[str, str] = {}
    for entry in catalogue.values():
        findings += [f"{entry.id}: {fault}" for fault in (*_faults(entry), *_duty_faults(entry, catalogue))]
        twin = spelled.setdefault(entry.id.casefold(), entry.id)
        if twin != entry.id:
            findings.append(f"{entry.id}: the id differs from {twin} by upper and lower case only; rename one")
    return findings


def _release_fault(entry: Field) -> str:
    if entry.default_release in _RELEASES[entry.class_]:
        return ""
    allowed = ", ".join(sorted(_RELEASES[entry.class_]))
    return f"class {entry.class_} may not have default release {entry.default_release}; use {allowed}"


def _faults(entry: Field) -> list[str]:
    faults = [fault] if (fault := _release_fault(entry)) else []
    if entry.default_release == "NEVER" and entry.transform != "drop":
        faults.append("a field that is never released has the transform drop")
    if entry.default_release == "SEP_WRITTEN" and not (entry.concerns("NP") or entry.concerns("IND")):
        faults.append("a written consent is a natural person's; name NP or IND in subject_type")
    return faults


def _duty_faults(entry: Field, catalogue: Catalogue) -> list[str]:
    """What the law asks of a field and its columns do not answer: basis, end of storage, identity, office."""
    faults = []
    is_released = entry.default_release != "NEVER"
    if entry.class_ in ("PI", "SPI") and is_released and not entry.legal_basis:
        faults.append("personal information needs a legal_basis; name one (PIPL 13)")
    if entry.class_ == "BIZ" and entry.legal_basis == "made_public":
        faults.append("what is made public is no trade secret; use class PUB or another legal_basis")
    if entry.id_role == "DI" and entry.default_release == "OPEN" and entry.class_ != "PUB":
        faults.append("a direct identifier is open only where the law publishes it; use class PUB or another release")
    if entry.expiry_from and (not entry.expiry or entry.expiry_from not in catalogue):
        faults.append("expiry_from names no field of this catalogue, or there is no expiry; give both or neither")
    if entry.is_duty and entry.default_release != "OPEN_NAME":
        faults.append("what is published of an office has the default release OPEN_NAME; correct duty or the release")
    return faults


def untested(catalogue: Catalogue) -> list[str]:
    """Return the trade secrets for which the provider has not recorded all three tests of R39, in file order."""
    secrets = (entry for entry in catalogue.values() if entry.class_ == "BIZ")
    return [entry.id for entry in secrets if set(entry.secret_tests.split("|")) != SECRET_TESTS]


def undated(catalogue: Catalogue) -> list[str]:
    """Return the fields that expire (R21) and name no date to count from: their provider drops them by hand."""
    return [entry.id for entry in catalogue.values() if entry.expiry and not entry.expiry_from]
