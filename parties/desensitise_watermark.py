"""Canary rows: which recipient a leaked table was given to (JR/T 0223, annex D; R35).

1. owner -> recipient: beside the table's rows, `count` rows that belong to nobody. A canary's pseudonyms are
   HMAC(key, project, recipient, column's place, number), written like every other pseudonym; its other cells are those of a row
   of the table, drawn by the same key, so that no statistic and no class tells it apart. Places are drawn too.
2. owner, later: computes the canaries' pseudonyms of each recipient again and looks for them in what leaked.

One found is proof enough: a pseudonym has 128 bits, so that nobody holds one by chance. Canaries are not counted in the
grade, and the report says how many there are. Not covered: a leak without its pseudonym columns, and recipients of one
project who compare their tables, since a row that only one of them has may be a canary.
"""

from collections.abc import Mapping, Sequence

from lianxin.crypto.randomness import Drbg, derive_seed
from lianxin.federation.errors import InputFault
from lianxin.parties.desensitise_policy import Policy
from lianxin.parties.desensitise_transforms import PSEUDONYM_DIGITS, Pseudonym

MOST_CANARIES = 1000
MOST_MARKED = 4


def pseudonym_columns(policy: Policy) -> list[str]:
    """Return the columns that a canary can be told by."""
    return [rule.column for rule in policy.rules if isinstance(rule, Pseudonym)][:MOST_MARKED]


def with_canaries(
    policy: Policy, left: Mapping[str, Sequence[str]], key: bytes, recipient: str, count: int
) -> dict[str, tuple[str, ...]]:
    """Return the transformed columns with `count` canary rows of this recipient among them.

    Raises InputFault for a policy without a pseudonym, and for more canaries than one in ten rows.
    """
    marked = [name for name in pseudonym_columns(policy) if name in left]
    rows = len(next(iter(left.values()), ()))
    if not marked:
        raise InputFault("a watermark needs a column with the transform pseudonym; this policy has none")
    if not 1 <= count <= min(MOST_CANARIES, rows // 10):
        raise InputFault(f"a watermark has 1 to {MOST_CANARIES} canary rows and at most a tenth of the table's")
    drbg = Drbg(derive_seed(key, "canary-rows", policy.project, recipient))
    models = [drbg.below(rows) for _ in range(count)]
    order = list(range(rows + count))
    places = sorted(_places(order, count, drbg))
    result = {}
    for name, column in left.items():
        is_marked = name in marked
        tags = canary_tags(key, policy.project, recipient, marked.index(name), count) if is_marked else []
        result[name] = _spread(column, tags if is_marked else [column[row] for row in models], places)
    return result


def canary_tags(key: bytes, project: str, recipient: str, place: int, count: int) -> list[str]:
    """Return the pseudonyms of a recipient's canaries in the table's pseudonym column number `place`."""
    seed = derive_seed(key, "canary", project, recipient, place)
    return [derive_seed(seed, number).hex()[:PSEUDONYM_DIGITS] for number in range(count)]


def trace(
    columns: Mapping[str, Sequence[object]], key: bytes, project: str, recipients: Sequence[str]
) -> dict[str, int]:
    """Return how many canaries of each recipient are in a leaked table, whatever its columns are called by now."""
    tags = {
        tag: (recipient, place, number)
        for recipient in recipients
        for place in range(MOST_MARKED)
        for number, tag in enumerate(canary_tags(key, project, recipient, place, MOST_CANARIES))
    }
    hits = {tags[tag] for column in columns.values() for cell in column if (tag := str(cell).strip().lower()) in tags}
    return {name: len({number for recipient, _, number in hits if recipient == name}) for name in recipients}


def _places(order: list[int], count: int, drbg: Drbg) -> list[int]:
    """Return `count` distinct places of `order`, drawn without repetition."""
    for place in range(count):
        other = drbg.between(place, len(order))
        order[place], order[other] = order[other], order[place]
    return order[:count]


def _spread(column: Sequence[str], own: Sequence[str], places: Sequence[int]) -> tuple[str, ...]:
    result: list[str] = []
    for done, (place, cell) in enumerate(zip(places, own, strict=True)):
        result += [*column[len(result) - done : place - done], cell]
    return (*result, *column[len(result) - len(places) :])
