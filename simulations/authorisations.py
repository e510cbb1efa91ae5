"""Synthetic authorisations: a key for every firm and the consents that it signs, all from one seed.

Only simulations make these: in life a firm signs with its own key. One consent names one provider and one recipient;
most cover compute and score, a few compute only, and some firms give none. For boosted trees the platform's firms agree to
mode DESENSITISED in place of score: the bank learns on which side of a model's cuts a firm lies. So do the bank's firms where
nodes are shown: the platform learns on which side of the bank's own cuts they lie.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lianxin.crypto import canonical
from lianxin.crypto.randomness import Drbg, derive_seed
from lianxin.crypto.signing import SigningKey, sign_record
from lianxin.parties.clock import after
from lianxin.parties.consent import make_consent, make_revocation, subject_key
from lianxin.parties.decision import Catalogue
from lianxin.parties.decision_purposes import PURPOSES
from lianxin.parties.identifiers import subject_type_of

PERSONAL = ("PI", "SPI")
SCORED = ("P2", "P3")  # the purposes of scores: loan approval, monitoring
_NOTICE = "Data of this firm are used, encrypted, to train a credit model jointly with the named institution."
_IMPACTS = {
    "SCORE_ONLY": "The data stay encrypted; a sub-score in points is delivered to the named bank only.",
    "DESENSITISED": "The recipient learns, of the few cuts that a model uses, on which side of each the trader lies.",
}
_PERMILLE = 1000


@dataclass(frozen=True)
class Authorisation:
    """What firms are asked for: data of `provider` for `recipient`. Shares are per thousand firms; `insiders` are the
    recipient's customers, every other firm is an outsider. `mode` is what a consent covers that is not compute only."""

    provider: str
    recipient: str
    fields: tuple[str, ...]
    insiders: frozenset[str]
    insider_permille: int
    outsider_permille: int
    compute_only_permille: int
    mode: str = "SCORE_ONLY"

    def permille(self, firm: str) -> int:
        """Return how many of a thousand firms like this one give the consent."""
        return self.insider_permille if firm in self.insiders else self.outsider_permille


class FirmKeys:
    """Every firm's Ed25519 key, a function of (seed, identifier)."""

    def __init__(self, seed: bytes) -> None:
        self._seed = seed
        self._keys: dict[str, SigningKey] = {}

    def of(self, firm: str) -> SigningKey:
        """Return the firm's key."""
        if firm not in self._keys:
            self._keys[firm] = SigningKey.from_seed(derive_seed(self._seed, "firm-key", firm))
        return self._keys[firm]


def issue(
    asked: Authorisation,
    firms: Sequence[str],
    secret: bytes,
    catalogue: Catalogue,
    keys: FirmKeys,
    seed: bytes,
    now: str,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (firm, signed consent) of the `firms` that give one, in order; `secret` is the provider's subject secret."""
    drbg = Drbg(derive_seed(seed, "consents", asked.provider, asked.recipient))
    enterprise = tuple(f for f in asked.fields if f not in catalogue or catalogue[f].class_ not in PERSONAL)
    scope = hashlib.sha256(f"{asked.provider}/{asked.recipient}".encode()).hexdigest()[:16]
    for number, firm in enumerate(firms):
        is_given, is_compute = (
            drbg.below(_PERMILLE) < asked.permille(firm),
            drbg.below(_PERMILLE) < asked.compute_only_permille,
        )
        if not is_given:
            continue
        kind, key = subject_type_of(firm), keys.of(firm)
        record = make_consent(
            consent_id=f"c-{scope}-{number:06d}", created_at=now,
            subject_key=subject_key(secret, firm), subject_type=kind, signer_key=key.public_hex,
            provider=asked.provider, recipient=asked.recipient, purpose="P4",
            fields=enterprise if kind == "ENT" else asked.fields, mode="COMPUTE_ONLY" if is_compute else asked.mode,
            not_before=now, expires_at=after(now, 180), catalogue_version=catalogue.digest[:16], notice_id="notice-p4-zh-1",
            notice_hash=hashlib.sha256(_NOTICE.encode()).hexdigest(), **_person(asked.mode) if kind != "ENT" else {},
        )  # fmt: skip
        yield firm, sign_record(record, [(record["subject_key"], key)])


def _person(mode: str) -> dict[str, Any]:
    return {
        "separate_consent": True, "written": True,
        "necessity_text": "A sole trader's public data are its own; the model needs them to assess its credit.",
        "impact_text": _IMPACTS[mode],
    }  # fmt: skip


def score_consents(given: dict[str, Any], key: SigningKey, is_trees: bool) -> Iterator[dict[str, Any]]:
    """Yield the signed consents to scores of an enterprise that gave this one to training: once for P2, as often as P3 allows.

    The mode is SCORE_ONLY, DESENSITISED where the model is of boosted trees.
    """
    for purpose in SCORED:
        listed = PURPOSES[purpose]
        record = make_consent(
            consent_id=f"{given['consent_id']}-{purpose.lower()}", created_at=given["created_at"],
            subject_key=given["subject_key"], subject_type=given["subject_type"], signer_key=given["signer_key"],
            provider=given["provider"], recipient=given["recipient"], purpose=purpose, fields=given["fields"],
            mode="DESENSITISED" if is_trees else "SCORE_ONLY", not_before=given["not_before"],
            expires_at=after(given["not_before"], min(listed.days, 30)), catalogue_version=given["catalogue_version"],
            notice_id="notice-scores", notice_hash=hashlib.sha256(b"scores").hexdigest(), max_uses=listed.uses,
        )  # fmt: skip
        yield sign_record(record, [(record["subject_key"], key)])


def revoke(signed: dict[str, Any], keys: FirmKeys, firm: str, now: str) -> dict[str, Any]:
    """Return the firm's signed revocation of one of its consents."""
    record, key = signed["record"], keys.of(firm)
    ended = make_revocation(
        consent_id=record["consent_id"], subject_key=record["subject_key"], revoked_at=now, signer_key=key.public_hex
    )
    return sign_record(ended, [(record["subject_key"], key)])


def write_records(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Write records a line each, canonical, one at a time."""
    with path.open("wb") as file:
        for record in records:
            file.write(canonical.encode(record) + b"\n")
