"""The contract of a benchmark: one bank, one platform, made-up fields, and the sizes that were asked for."""

from collections.abc import Mapping
from typing import Any

from lianxin.federation.contract import MODEL_TERMS, NETWORK_TERMS, VERSION, RunContract, parse_contract
from lianxin.federation.model import Provenance
from lianxin.parties.agreement import FORMS

RUN, PURPOSE = "bench-run", "P4"
PLATFORM, BANK = "platform-a", "bank-1"
LEAST_SHARED = 50
DEADLINE_S = 86_400
_UNSIGNED = "00" * 32


def make_contract(node_keys: Mapping[str, str] | None = None, **terms: Any) -> RunContract:
    """Return a contract between `platform-a` and `bank-1` with `terms` in place of the usual ones.

    `node_keys` gives each party's Ed25519 key in hex where envelopes are to be signed. Raises PeerError for terms that
    no contract may have.
    """
    keys = node_keys or {}
    fields = [{"provider": PLATFORM, "field": f"f{k}", "use": "feature"} for k in range(23)]
    record = {
        "type": "run-contract", "version": VERSION, "run": RUN, "purpose": PURPOSE, "platform": PLATFORM,
        "proposer": "operator-1", "fields": [*fields, {"provider": BANK, "field": "label_bad", "use": "label"}],
        "parties": [
            {"party": party, "role": role, "uri": f"spiffe://lianxin.test/{party}", "node_key": keys.get(party, _UNSIGNED)}
            for party, role in ((PLATFORM, "platform"), (BANK, "bank"))
        ],
        "catalogues": {}, "forms": dict(FORMS), "matching": "paillier", "model": "scorecard", "alignment": "shared",
        "on_loss": "stop", "profile": "full_exponents", "key_bits": 2048, "rounds": 6, "spare_attempts": 3,
        "min_rows": 50, "min_bads": 5, "min_goods": 5, "min_intersection": LEAST_SHARED, "min_banks": 1,
        "max_queries": 1024, "max_firms": 100_000, "max_rows": 1024, "max_bins": 8, "ridge_thousandths": 1000,
        "chunk_bytes": 128 * 1024, "points_to_double_odds": 20, "step_deadline_s": DEADLINE_S,
        "created_at": "2026-01-01T00:00:00Z", "expires_at": "2026-12-31T00:00:00Z",
        "retain_until": "2026-12-31T00:00:00Z", "lawful_basis": "consent", "impact_assessment": "bench-impact",
        "agreement": "bench-agreement", **MODEL_TERMS, **NETWORK_TERMS,
    }  # fmt: skip
    return parse_contract({**record, **terms})


def made_up_right(provider: str, recipient: str, rows: int) -> Provenance:
    """Return the release that would stand behind `rows` real rows; these are nobody's."""
    roots = (_UNSIGNED, _UNSIGNED)
    return Provenance(_UNSIGNED, provider, recipient, PURPOSE, "COMPUTE_ONLY", ("uscc",), rows, *roots, 1)
