"""What a field made of other fields is (R34): as guarded as its most guarded input, unless a named rule lowers it.

Sources: JR/T 0197 and GB/T 43697: derived data may move level, and confidentiality decides when in doubt. Two rules
lower a class to LIM: `aggregate-20`, a statistic over at least 20 rows, and `grade-4`, a table that was desensitised
and measured at grade 4. A prohibited input is never lowered. Pure, as `decision` is.
"""

from collections.abc import Mapping, Sequence

from lianxin.parties.decision_catalogue import CLASSES, CatalogueRejected, Field, is_no_more_open

LEAST_AGGREGATE = 20
LOWERED_BY: Mapping[str, str] = {
    "aggregate-20": f"a statistic over at least {LEAST_AGGREGATE} rows",
    "grade-4": "a desensitised table with a measured grade of 4",
}
_ROLES = ("NI", "QI", "SA", "DI")


def derive_field(id: str, inputs: Sequence[Field], by: str = "") -> Field:
    """Return the catalogue field of something computed from `inputs`; `by` is empty or a rule of `LOWERED_BY`.

    Class, role and release are the strictest of the inputs (two releases of which neither is stricter: never). Raises
    CatalogueRejected without inputs or for an unknown rule: what cannot be classed is not used (R13).
    """
    if not inputs or by not in ("", *LOWERED_BY):
        raise CatalogueRejected(f"a derived field has inputs, and is lowered by {', '.join(LOWERED_BY)} or nothing")
    class_ = max((one.class_ for one in inputs), key=CLASSES.index)
    release = _strictest([one.default_release for one in inputs])
    role = max((one.id_role for one in inputs), key=_ROLES.index)
    transform = inputs[0].transform if len({one.transform for one in inputs}) == 1 else "drop"
    if by and class_ != "BAN" and CLASSES.index(class_) > CLASSES.index("LIM"):
        class_, release, role = "LIM", "NEVER" if release == "NEVER" else "AUTH", "NI"
    aged = min((one for one in inputs if one.expiry), key=lambda one: one.longest_days, default=None)
    expiry = (aged.expiry, aged.expiry_from) if aged else ("", "")
    provider = inputs[0].provider if len({one.provider for one in inputs}) == 1 else ""
    basis = inputs[0].legal_basis if len({one.legal_basis for one in inputs}) == 1 else "consent"
    texts = ("", "derived", provider, False, transform, basis)
    return Field(id, class_, role, release, _subjects(inputs), *texts, *expiry)


def _strictest(releases: Sequence[str]) -> str:
    return next((one for one in releases if all(is_no_more_open(one, other) for other in releases)), "NEVER")


def _subjects(inputs: Sequence[Field]) -> str:
    """Every input's subject types, and natural persons' as soon as one input may be about one."""
    types = [kind for kind in ("ENT", "IND") if all(one.concerns(kind) for one in inputs)]
    is_person = not types or any(one.concerns("NP") for one in inputs)
    return "|".join([*types, *(["NP"] if is_person else [])])
