"""Two protocol machines joined in memory, and the small contract that tests of protocols use."""

from collections import deque
from typing import Any

from lianxin.crypto import paillier
from lianxin.crypto.pool import CountedPlaces, RandomiserPool
from lianxin.federation import binning
from lianxin.federation.contract import MODEL_TERMS, NETWORK_TERMS, VERSION, RunContract, parse_contract
from lianxin.federation.model import Provenance
from lianxin.federation.session import Role, Send

FORMS = {"masked": "MASKED", "summand": "AGGREGATE"}


def play(bank: Role[Any], platform: Role[Any]) -> tuple[Any, Any, list[tuple[str, Any]]]:
    """Return (the bank's result, the platform's result, the messages in order as (sender, message))."""
    roles = {"bank": bank, "platform": platform}
    inbox: dict[str, deque] = {"bank": deque(), "platform": deque()}
    wishes: dict[str, Any] = {}
    results: dict[str, Any] = {}
    said: list[tuple[str, Any]] = []

    def step(name: str, value: Any) -> None:
        try:
            wishes[name] = roles[name].send(value)
        except StopIteration as end:
            wishes[name] = None
            results[name] = end.value

    for name in roles:
        step(name, None)
    while len(results) < 2:
        moved = False
        for name, other in (("bank", "platform"), ("platform", "bank")):
            wish = wishes[name]
            if isinstance(wish, Send):
                inbox[other].append(wish.message)
                said.append((name, wish.message))
                step(name, None)
                moved = True
            elif wish is not None and inbox[name]:
                message = inbox[name].popleft()
                assert isinstance(message, wish.types), f"{name} got {type(message).__name__} in {wish.step}"
                step(name, message)
                moved = True
        assert moved or len(results) == 2, "both machines wait for each other"
    return results["bank"], results["platform"], said


def contract_of(banks: int = 1, **changes: Any) -> RunContract:
    """Return a valid contract between `platform-a` and that many banks, with `changes` to its terms."""
    names = [f"bank-{k + 1}" for k in range(banks)]
    record = {
        "type": "run-contract", "version": VERSION, "run": "test-run-1", "purpose": "P4", "platform": "platform-a",
        "proposer": "operator-1",
        "parties": [party(n, "platform" if n == "platform-a" else "bank") for n in ["platform-a", *names]],
        "fields": fields_of(names), "catalogues": {}, "forms": FORMS, "matching": "paillier", "model": "scorecard",
        "alignment": "shared", "on_loss": "rerun", "profile": "full_exponents", "key_bits": 2048, "rounds": 6,
        "spare_attempts": 3,
        "min_rows": 50, "min_bads": 5, "min_goods": 5, "min_intersection": 50, "min_banks": 1, "max_queries": 1024,
        "max_firms": 100_000,
        "max_rows": 1024, "max_bins": 8, "ridge_thousandths": 1000, "chunk_bytes": 128 * 1024,
        "points_to_double_odds": 20, **MODEL_TERMS, **NETWORK_TERMS,
        "step_deadline_s": 60, "created_at": "2026-01-01T00:00:00Z",
        "expires_at": "2026-12-31T00:00:00Z", "retain_until": "2027-01-31T00:00:00Z", "lawful_basis": "consent",
        "impact_assessment": "impact-1", "agreement": "agreement-1",
    }  # fmt: skip
    return parse_contract({**record, **changes})


def bank_keys(secret_key: paillier.SecretKey) -> binning.BankKeys:
    """Return a bank's training key with a pool whose places are counted in memory."""
    pool = RandomiserPool(paillier.OwnerEncryptor(secret_key), b"p" * 32, CountedPlaces(), capacity=1024)
    return binning.BankKeys(secret_key, pool)


def fields_of(banks: list[str]) -> list[dict[str, str]]:
    """Return a contract's fields: six features of the platform, a label and four features of each bank."""
    platform = [{"provider": "platform-a", "field": f"f{k}", "use": "feature"} for k in range(6)]
    own = [{"provider": bank, "field": f"g{k}", "use": "feature"} for bank in banks for k in range(4)]
    return [*platform, *own, *({"provider": bank, "field": "label_bad", "use": "label"} for bank in banks)]


def party(name: str, role: str) -> dict[str, str]:
    """Return a party entry whose node key is a placeholder of the right form."""
    return {"party": name, "role": role, "uri": f"spiffe://lianxin.test/{name}", "node_key": "00" * 32}


def right(provider: str, recipient: str) -> Provenance:
    """Return a release made up for tests of protocols, which do not look at it."""
    return Provenance("00" * 32, provider, recipient, "P4", "COMPUTE_ONLY", ("x",), 100, "00" * 32, "00" * 32, 1)
