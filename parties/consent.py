"""A firm's authorisation as a record: made, checked, kept in an append-only registry, and withdrawn by one call.

A consent names one provider, one recipient, one purpose, one mode and a sorted list of fields; it is immutable, so
that widening any of them is a new consent (Personal Information Protection Law 14, 15, 17, 23; rules R03, R04, R06,
R09, R37). This is the door to what the other modules do: `consent_schema` says what a record may hold,
`consent_records` makes records, `consent_import` verifies lists of them, `consent_admission` judges what comes in now,
`consent_register` keeps them, `consent_high_water` notices an older copy, `decision_consents` says in which state they are.
"""

import hashlib
import hmac
from functools import lru_cache

from lianxin.federation.errors import InputFault
from lianxin.parties.consent_admission import Admission
from lianxin.parties.consent_records import (
    answer_request,
    make_consent,
    make_grantor,
    make_pause,
    make_refusal,
    make_request,
    make_revocation,
)
from lianxin.parties.consent_register import ConsentRegister, check_consent, check_revocation, decode_signed
from lianxin.parties.consent_schema import check_any_record, check_consent_record, check_notice
from lianxin.parties.identifiers import normalise_identifier

__all__ = [
    "Admission",
    "ConsentRegister",
    "answer_request",
    "check_any_record",
    "check_consent",
    "check_consent_record",
    "check_notice",
    "check_revocation",
    "decode_signed",
    "make_consent",
    "make_grantor",
    "make_pause",
    "make_refusal",
    "make_request",
    "make_revocation",
    "subject_key",
]


@lru_cache(maxsize=262_144)  # the gate asks for the same firms in every round
def subject_key(subject_secret: bytes, identifier: str) -> str:
    """Return the hex HMAC-SHA-256 of a normalised identifier under the provider's subject secret.

    Raises InputFault when the identifier is not in its normal form: two spellings must not be two subjects.
    """
    if identifier != normalise_identifier(identifier):
        raise InputFault("an identifier is not in its normal form; normalise it before its subject key is derived")
    return hmac.digest(subject_secret, identifier.encode(), hashlib.sha256).hex()
