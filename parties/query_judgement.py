"""What the gate would say of each field of one firm by itself: read, not released, and no leaf is written.

The gate decides a release as a whole: one consent must cover all of its fields. A query asks field by field, so that each
is judged alone first and those of one right are released together. The gate decides again when it releases.
"""

from collections.abc import Mapping
from typing import Any

from lianxin.parties import decision
from lianxin.parties.boundary_uses import UseCount
from lianxin.parties.decision import Decision, ReleaseRequest
from lianxin.parties.identifiers import subject_type_of
from lianxin.parties.node import Node


def newest_grade(node: Node) -> str:
    """Return the hash of the newest measured grade of the node's policy, "" when it has none."""
    desensitiser = node.boundary.desensitiser
    return desensitiser.newest() if desensitiser is not None else ""


def judge(node: Node, contract: Mapping[str, Any], request: ReleaseRequest, firm: str, use: str) -> dict[str, Decision]:
    """Return the decision on each of the request's fields of one firm; `use` is what limited consents are asked for."""
    grades = node.boundary.desensitiser.grades if node.boundary.desensitiser is not None else {}
    kind, key, now = subject_type_of(firm), node.boundary.subject_key(firm), node.clock.now()
    with node.register.held() as registry:
        catalogue = node.boundary.catalogue_of(contract)
        fields = decision.decide_release(contract, catalogue, registry, request, now, grades)
        scope = registry.by_scope.get((key, request.recipient, request.purpose), ())
        uses = UseCount(node.store).others(registry, [consent.id for consent in scope], use)
        needed = frozenset(fields.needed_by(kind))
        allowed = {
            name: decision.decide_firm(
                key, (name,) if name in needed else (), request, registry, now, catalogue, kind, uses, grades
            )
            for name in fields.allowed
        }
    refused = {name: Decision(False, rule) for name, rule in fields.refused}
    return {name: {**allowed, **refused}[name] for name in request.fields}
