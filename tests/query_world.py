"""A platform and two banks with a standing agreement, in memory or as processes; firms consent in one line each."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import worlds

from lianxin.crypto import canonical
from lianxin.crypto.signing import sign_record
from lianxin.federation.channel import MemoryNetwork
from lianxin.federation.contract import RunContract
from lianxin.parties import cli_serve
from lianxin.parties.bank import BankNode
from lianxin.parties.clock import after
from lianxin.parties.config import load_node, load_run
from lianxin.parties.consent import make_consent, make_revocation
from lianxin.parties.control import ControlServer
from lianxin.parties.identifiers import subject_type_of
from lianxin.parties.node import Node, open_node, simulated_seed
from lianxin.parties.platform import PlatformNode
from lianxin.parties.records import read_table
from lianxin.simulations.authorisations import FirmKeys
from lianxin.simulations.layout import PROPOSER, Layout
from lianxin.simulations.runner import collect_evidence, reference_plan
from lianxin.simulations.tables import Inputs, check_inputs, write_table
from lianxin.simulations.world import make_province

BANK, OTHER, PLATFORM, RUN = "bank-1", "bank-2", "platform", "queries-1"
ASKER = "operator-zhao"
OPEN, LIMITED, SECRET, COMPUTE = "reg_capital", "utility_continuity_m", "total_assets", "pwr_kwh_12m"
FIELDS = (OPEN, LIMITED, SECRET, COMPUTE)
PENALTY, PENALTY_DAY = "penalty_type", "penalty_date"  # of each second firm long ago
OFFERED = (*FIELDS, PENALTY)
STRANGER = "91110000600037341L"  # a valid code of a firm that nobody here knows
SOON_S = 15.0
POLICY = {
    "policy": {"project": "queries", "model": "agreement"},
    "field": [
        {"column": "uscc", "role": "identifier", "transform": "drop"},
        {"column": OPEN, "role": "other", "transform": "drop"},
        {"column": LIMITED, "role": "other", "transform": "drop"},
        {"column": SECRET, "role": "quasi", "transform": "band", "edges": [500_000]},
        {"column": COMPUTE, "role": "other", "transform": "drop"},
    ],
}


def tables(folder: Path, firms: int = 260) -> Inputs:
    """Write a province whose firms have an open field, a limited one, a trade secret and one that is never shown."""
    province = make_province(5, folder, firms=firms, banks=2, loans=100)
    frame = read_table(province.platform).frame
    cycle = {SECRET: [750_000, 250_000], PENALTY: ["fine", "warning"], PENALTY_DAY: ["2015-03-01", "2025-03-01"]}
    made = {name: [values[row % 2] for row in range(frame.height)] for name, values in cycle.items()}
    write_table(province.platform, {name: frame[name].to_list() for name in ("uscc", OPEN, LIMITED, COMPUTE)} | made)
    for bank in province.banks:
        own = read_table(bank).frame
        write_table(bank, {name: own[name].to_list() for name in ("uscc", "label_bad", "split", "loan_rate")})
    return check_inputs(province.platform, list(province.banks), "uscc", "label_bad", "split")


def lay(folder: Path, inputs: Inputs, address: str = "127.0.0.1:7443", purpose: str = "P2", **terms: Any) -> Layout:
    """Lay a network out with an agreement beside its run; few firms have consented to anything."""
    layout = worlds.lay(folder, inputs, address, consent_permille=1, outsider_permille=1, revoked_firms=0)
    write_agreement(layout, purpose=purpose, **terms)
    for bank in layout.parties[1:]:
        worlds.edit_toml(
            layout.home(bank) / "node.toml", lambda content: content["policy"].update(purposes=["P2", "P3"])
        )
    (layout.home(PLATFORM) / "policy.toml").write_text(tomli_w.dumps(POLICY))
    worlds.edit_toml(
        layout.home(PLATFORM) / "node.toml", lambda content: content["data"].update(desensitisation="policy.toml")
    )
    return layout


def write_agreement(layout: Layout, run: str = RUN, **terms: Any) -> Path:
    """Write the agreement's terms and return where they lie."""
    content = {
        "run": run, "proposer": PROPOSER, "purpose": "P2", "model": "field_query", "impact_assessment": "impact-1",
        "agreement": "agreement-1", "features": list(OFFERED), "step_deadline_s": 20, "days": 60,
        "banks": {bank: {"identifiers": ["uscc"]} for bank in layout.parties[1:]},
    } | terms  # fmt: skip
    path = layout.folder / f"{run}.toml"
    path.write_text(tomli_w.dumps(content))
    return path


@dataclass
class Network:
    """The nodes of a layout in this process, each with its control socket."""

    layout: Layout
    platform: PlatformNode
    banks: dict[str, BankNode]
    keys: FirmKeys
    threads: list[threading.Thread] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)

    @property
    def firms(self) -> list[str]:
        """The platform's enterprises, in the order of its table."""
        return [firm for firm in self.platform.table.identifiers if subject_type_of(firm) == "ENT"]

    def fresh(self, count: int = 1) -> list[str]:
        """Return enterprises that no test before asked for here."""
        found = [firm for firm in self.firms if firm not in self.taken][:count]
        self.taken.update(found)
        return found

    @property
    def trader(self) -> str:
        """One of the platform's sole traders."""
        return next(firm for firm in self.platform.table.identifiers if subject_type_of(firm) == "IND")

    def node(self, party: str) -> Node:
        return self.platform.node if party == PLATFORM else self.banks[party].node

    def agree(self, run: str = RUN) -> RunContract:
        """Launch the agreement and wait until both banks keep it."""
        self.platform.launch(load_run(self.layout.folder / f"{run}.toml"))
        wait_for(lambda: all(run in bank.standing for bank in self.banks.values()))
        return self.platform.desks[run].contract

    def consent(self, firm: str, provider: str = PLATFORM, recipient: str = BANK, **changes: Any) -> dict[str, Any]:
        """Let a firm consent at `provider`, by default to one plaintext look at a field; return the record."""
        node, key = self.node(provider), self.keys.of(firm)
        now = node.clock.now()
        person = {"separate_consent": True, "written": True, "necessity_text": "to lend", "impact_text": "a loan"}
        record = make_consent(**{
            "consent_id": f"c-{node.register.epoch}-{provider}", "created_at": now, "subject_type": subject_type_of(firm),
            "subject_key": node.boundary.subject_key(firm), "signer_key": key.public_hex, "provider": provider,
            "recipient": recipient, "purpose": "P2", "fields": [LIMITED, SECRET], "mode": "PLAINTEXT", "not_before": now,
            "expires_at": after(now, 20), "max_uses": 1, "catalogue_version": "draft", "notice_id": "n-1",
            "notice_hash": "0" * 64, **(person if subject_type_of(firm) == "IND" else {}), **changes,
        })  # fmt: skip
        node.register.register_firm_keys({record["subject_key"]: key.public_hex})
        node.register.import_records([sign_record(record, [(record["subject_key"], key)])])
        return record

    def revoke(self, record: dict[str, Any], firm: str) -> None:
        """Let a firm withdraw a consent."""
        key, node = self.keys.of(firm), self.node(record["provider"])
        revocation = make_revocation(
            consent_id=record["consent_id"], subject_key=record["subject_key"], revoked_at=node.clock.now(),
            signer_key=key.public_hex,
        )  # fmt: skip
        node.register.revoke(sign_record(revocation, [(record["subject_key"], key)]))

    def ask(
        self, *firms: str, fields: tuple[str, ...] = FIELDS, mode: str = "plaintext", run: str = RUN
    ) -> dict[str, Any]:
        """Return what the bank is answered."""
        return self.banks[BANK].standing[run].ask(firms, fields, mode, ASKER)

    def leaves(self, party: str, kind: str, run: str = RUN) -> list[dict[str, Any]]:
        leaves = [canonical.decode(leaf) for leaf in self.node(party).store.leaves()]
        return [leaf for leaf in leaves if leaf["kind"] == kind and leaf["run"] == run]

    def advance(self, days: int) -> None:
        """Move every node's clock."""
        for party in self.layout.parties:
            self.node(party).clock._local.advance(days * 86_400)  # type: ignore[attr-defined]

    def end(self, run: str = RUN) -> None:
        """End the agreement, wait until the banks have, and gather the evidence."""
        self.platform.end(run)
        wait_for(lambda: all(bank.ended.get(run, {}).get("state") == "finished" for bank in self.banks.values()))
        gather(self.layout, run)


def gather(layout: Layout, run: str = RUN) -> None:
    """Put each node's evidence of a run where an auditor looks for it."""
    for party in layout.parties:
        folder = layout.run_state(party).parent
        (folder / run).rename(folder / layout.run_state(party).name)
    collect_evidence(layout)


def wait_for(holds: Any, deadline_s: float = SOON_S) -> None:
    """Wait until `holds()`, or fail."""
    until = time.monotonic() + deadline_s
    while not holds():
        assert time.monotonic() < until, "it did not come about in time"
        time.sleep(0.02)


@contextmanager
def running(layout: Layout) -> Iterator[Network]:
    """Open the nodes of a layout in this process and let them go at the end."""
    with ExitStack() as open_things:
        opened = {party: open_node(load_node(layout.home(party) / "node.toml")) for party in layout.parties}
        for node in opened.values():
            open_things.callback(node.close)
        leader = PlatformNode(opened[PLATFORM], reference_plan)
        road = MemoryNetwork(leader.handle, PLATFORM)
        banks = {party: BankNode(opened[party], road.link(party)) for party in layout.parties[1:]}
        threads = [threading.Thread(target=bank.serve, daemon=True) for bank in banks.values()]
        for thread in threads:
            open_things.callback(thread.join, SOON_S)
        for end in (road, *banks.values(), leader):
            open_things.callback(end.close)
        answerers = {PLATFORM: lambda request: cli_serve._platform_answer(leader, request)}
        answerers |= {name: lambda request, b=bank: cli_serve._bank_answer(b, request) for name, bank in banks.items()}
        for party, answer in answerers.items():
            open_things.callback(ControlServer(layout.home(party) / "state", answer).close)
        for thread in threads:
            thread.start()
        yield Network(layout, leader, banks, FirmKeys(simulated_seed(layout.terms.seed)), threads)


def forms(answer: dict[str, Any], place: int = 0) -> dict[str, str]:
    """Return field to "form value-or-rule" of one firm in an answer."""
    fields = answer["firms"][place]["fields"]
    return {one["field"]: f"{one['form']} {one['rule'] or one['value']}" for one in fields}


@pytest.fixture(scope="module")
def tables_of_module(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """The tables of one module's networks; a module names this fixture `tables`."""
    return tables(tmp_path_factory.mktemp("tables"))


@pytest.fixture(scope="module")
def shared(tables: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """A network with one agreement, for tests that each take firms of their own (`fresh`)."""
    with running(lay(tmp_path_factory.mktemp("shared") / "run", tables)) as network:
        network.agree()
        yield network
