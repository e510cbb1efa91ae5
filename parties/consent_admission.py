"""What a provider takes into its registry now: its own consents, in time, within their ceilings, signed by who may sign.

An auditor, and an import of older evidence, ask for less: signatures and the registry's own order. These are the checks
of the day on which a record comes in: another provider, out of time, from the future, over its purpose's ceilings, fields
that the purpose never uses (R01), older than a withdrawal of the same scope (a copy of yesterday), an attestation by an
institution that was not given that power (R37), or terms that the gate could not keep.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from lianxin.federation.model import Clock
from lianxin.parties.clock import FORMAT
from lianxin.parties.consent_import import Checked
from lianxin.parties.decision import PURPOSES, Catalogue, ConsentRejected, Registry
from lianxin.parties.decision_purposes import ceiling_fault
from lianxin.parties.decision_signers import party_subject

SKEW_S = 30
_TIMES = ("created_at", "revoked_at", "at")


@dataclass(frozen=True)
class Admission:
    """Whose registry it is, what the time is, and whose word it takes.

    `parties` are the node keys of this network's parties, this one included; `attesting` those whose attestation of a
    firm's electronic signature counts as that signature.
    """

    provider: str
    clock: Clock
    parties: Mapping[str, str] = field(default_factory=dict)
    attesting: frozenset[str] = frozenset()
    catalogue: Catalogue | None = None

    def now(self) -> str:
        """Return the time by which records are judged."""
        return self.clock.now()

    def party_keys(self) -> dict[str, str]:
        """Return the keys of the parties as the register of keys holds them."""
        return {party_subject(party, key): key for party, key in self.parties.items()}

    def check(self, checked: Checked, registry: Registry, now: str) -> None:
        """Raise ConsentRejected unless this record may come in now."""
        record = checked.essence
        if record.get("provider", self.provider) != self.provider:
            raise ConsentRejected(f"a consent names another provider than {self.provider}; import it there")
        if any(record.get(name, "") > _later(now) for name in _TIMES):
            raise ConsentRejected("a record is from the future; set the clock of the machine that made it")
        if record.get("expires_at", now + "~") <= now:
            raise ConsentRejected("a consent or request has expired already (R38); ask for a new one")
        attesting = record.get("attested_by") or record.get("attestation", {}).get("institution", "")
        if attesting and attesting not in self.attesting:
            raise ConsentRejected(
                "an institution attests that has no such power here; name it in [data] attesting (R37)"
            )
        if "data_from" in record or "data_to" in record:
            raise ConsentRejected(
                "a range of data_from and data_to is asked for, which no gate here keeps; leave it out"
            )
        if "frequency" in record and "max_uses" not in record:
            raise ConsentRejected("a frequency is kept by counting uses; give max_uses with it")
        if record["type"] == "consent":
            self._check_consent(record, registry)

    def _check_consent(self, record: Mapping[str, Any], registry: Registry) -> None:
        if fault := ceiling_fault(record):
            raise ConsentRejected(fault)
        scope = (record["subject_key"], record["recipient"], record["purpose"])
        if record["created_at"] < registry.stops.get(scope, ""):
            raise ConsentRejected("a consent is older than the subject's last withdrawal or refusal of the same (R04)")
        if record["version"] > 1 and self.catalogue is not None:
            _check_fields(record["fields"], record["purpose"], self.catalogue)


def _later(now: str) -> str:
    return (datetime.strptime(now, FORMAT) + timedelta(seconds=SKEW_S)).strftime(FORMAT)


def _check_fields(fields: Iterable[str], purpose: str, catalogue: Catalogue) -> None:
    for name in fields:
        entry = catalogue.get(name)
        if entry is None or not PURPOSES[purpose].admits(entry.class_, entry.category):
            raise ConsentRejected(
                f"field {name} is not in the catalogue or never used for {purpose} (R01); leave it out"
            )
