"""A small store with something in every table, and an empty state to restore it into."""

from pathlib import Path

import consents as w
from stores import Place

from lianxin.crypto import canonical, signing
from lianxin.parties.config import NodeConfig
from lianxin.parties.ledger import Ledger
from lianxin.parties.store import Store
from lianxin.parties.store_restore import Owner

KEY = signing.SigningKey.from_seed(b"n" * 32)  # that of `consents.Provider`
PARTY, NOTE, MARK = "platform-a", {"kind": "note", "run": ""}, "high-water.json"
FIELDS = ("staff_count",)


def config_of(state: Path, url: str = "") -> NodeConfig:
    return NodeConfig(
        role="platform", operator="operator-1", identity=state.parent / "id", state=state, listen="127.0.0.1:1",
        store={"url": url},  # type: ignore[arg-type]
    )  # fmt: skip


def owner(accept_loss: str = "", operator: str = "operator-1") -> Owner:
    return Owner(PARTY, KEY, w.Clock(), operator, accept_loss)


def ledger_in(store: Store) -> Ledger:
    return Ledger(store, PARTY, KEY, w.Clock(), "test", "operator-1")


def filled(place: Place, leaves: int = 600) -> Store:
    """Return a store with something in every table that a backup has to carry."""
    store = Store(place)
    ledger = ledger_in(store)
    ledger.append_many({**NOTE, "n": n} for n in range(leaves))
    ledger.append_registry([signing.sign_record({"type": "consent", "version": 1}, [("firm", KEY)])])
    ledger.append_release({"kind": "release", "run": "run-1"}, ["c-1"], [("c-1", "run-1")], {"a": b"\x00\xff"})
    store.add_firm_keys({"ab": "cd"})
    contract = canonical.encode(signing.sign_record({"type": "run-contract", "version": 1}, [("p", KEY)]))
    store.put_run("run-1", "running", contract)
    store.put_run("run-2", "standing", contract)
    store.reserve("query/run-2", 7)
    store.add_witnessed("bank-1", b"{}")
    ledger.checkpoint()
    return store


def state_of(folder: Path) -> Path:
    """Return a state folder with saved keys and a run's files."""
    for name in (
        "keys/run-1/labels.json",
        "runs/run-1/model.json",
        "runs/run-1/checkpoint",
        "runs/run-1/model.json.new",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder
