"""A network across banks under stock Flower: what its ServerApp leads and what each simulated bank does.

The nodes are those of any simulation: laid out in a folder from the banks' tables, each with its keys, its consents, its
gate and its ledger; the contract is drafted, approved and signed as ever. The messages alone take Flower's road
(`federation.stock`), so that no transcript is kept and no envelope is signed. The same tables, seed and terms give the
same weights as a run over our own road.

All banks are served by one worker process (`client-resources-num-cpus` at least half of `init-args-num-cpus`, above it):
the state of a secret sum lives in the process that began it, and a bank's folder is open in one process at a time.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lianxin.crypto import canonical
from lianxin.federation import stock
from lianxin.federation.channel import Link
from lianxin.federation.contract import RunContract, decode_contract
from lianxin.federation.errors import InputFault, PeerError
from lianxin.federation.federated import NetworkStrategy
from lianxin.parties.agreement import (
    approve,
    check_proposal,
    draft_contract,
    join_signatures,
    judge_by_policy,
    open_contract,
)
from lianxin.parties.bank import write_result
from lianxin.parties.bank_side import BankSide
from lianxin.parties.config import load_node, load_run
from lianxin.parties.node import open_node
from lianxin.parties.platform_network import PlatformNetwork
from lianxin.parties.records import load_loan_table, read_table
from lianxin.parties.run_kinds import bank_run
from lianxin.simulations.layout import RUN, Layout, Terms, check_out, choose_catalogue, lay_out
from lianxin.simulations.tables import check_network_inputs

RESULT = "flower.json"
Config = Mapping[str, Any]
GridOf = Callable[[Sequence[str], float], stock.StockGrid]


class NoLink(Link):
    """A link that nothing may use: a network speaks through Flower alone."""

    def open(self, conversation: str, run: str) -> Any:
        """Raises PeerError: there is no such road here."""
        raise PeerError(f"conversation {conversation} has no road under stock Flower", "S01")

    def close(self) -> None:
        """Nothing to let go of."""


def lay(config: Config) -> Layout:
    """Lay a run out as the app's configuration says. Raises InputFault naming what cannot be used."""
    folder = _folder(config)
    check_out(folder)
    tables = [Path(part.strip()) for part in str(config.get("tables", "")).split(",") if part.strip()]
    if missing := [path for path in tables if not path.is_file()]:
        raise InputFault(f"{missing[0]} is no file; give the banks' tables in run-config tables, comma-separated")
    terms, chosen = _terms(config), {name: str(config[name]) or None for name in ("split", "loan-id")}
    least = 2 if terms.model_terms["aggregation"] == "clear" else 3
    inputs, _ = check_network_inputs(
        tables, str(config["id"]), str(config["label"]), chosen["split"], chosen["loan-id"], least
    )
    return lay_out(folder, inputs, terms, choose_catalogue(inputs, None, False))


def _folder(config: Config) -> Path:
    if not config.get("folder"):
        raise InputFault("say where the run is to be kept: --run-config \"folder='/a/new/folder'\"")
    return Path(str(config["folder"])).expanduser()


def _terms(config: Config) -> Terms:
    try:
        further = json.loads(str(config["terms"]) or "{}")
        if not isinstance(further, dict):
            raise ValueError
    except ValueError:
        raise InputFault(
            'run-config terms is a JSON object of the contract\'s terms, such as {"batch_rows": 128}'
        ) from None
    named = {name: str(config[name]) for name in ("strategy", "aggregation")}
    return Terms(seed=int(config["seed"]), model=str(config["model"]), rounds=int(config["rounds"]),
                 model_terms={**named, **further})  # fmt: skip


def lead(grid_of: GridOf, config: Config) -> None:
    """Lay out, agree and lead a run as its platform; write `flower.json` beside the parties.

    Raises the LianxinError that ended it.
    """
    layout = lay(config)
    party, *_ = layout.parties
    node = open_node(load_node(layout.home(party) / "node.toml"))
    try:
        run = load_run(layout.folder / "run.toml")
        contract = draft_contract(run, node.identity, node.catalogue.digest, node.clock.now())
        grid = grid_of(contract.banks, float(contract.step_deadline_s))
        signed = _agree(contract, grid, (party, node.identity.signing_key))
        node.store.put_run(contract.run, "running", signed)
        node.contract_event(contract.run, contract.hash, "signed", operator=node.config.operator)
        work = PlatformNetwork(node, contract)
        stock.start(NetworkStrategy(contract, work), grid)
        node.store.set_run_state(contract.run, "finished", "")
        _keep(layout.folder, node.run_folder(contract.run), work)
    finally:
        node.close()


def _agree(contract: RunContract, grid: stock.StockGrid, own: Any) -> bytes:
    proposal = canonical.encode(dict(contract.record)).decode()
    approvals = grid.ask(stock.PROPOSE, {"contract": proposal})
    signed = join_signatures(contract, own, {bank: said["approval"].encode() for bank, said in approvals.items()})
    grid.ask(stock.SIGNED, {"contract": signed.decode()})
    return signed


def _keep(folder: Path, state: Path, work: PlatformNetwork) -> None:
    record = work.model_record()
    assert record is not None
    (state / "model.json").write_text(json.dumps(record, ensure_ascii=False))
    told = {name: record[name] for name in ("run", "model", "model_sha256", "curve", "rolled_back")}
    (folder / RESULT).write_text(json.dumps(told | {"metrics": work.metrics}, indent=1, sort_keys=True))


class BankSeat:
    """One simulated bank in a worker process of Flower's."""

    def __init__(self, home: Path) -> None:
        self.node = open_node(load_node(home / "node.toml"))
        self.party = self.node.party
        data = self.node.config.data
        assert data.label is not None and data.table is not None
        self.label = data.label
        self.table = load_loan_table(read_table(data.table, data.columns), data.id, data.label, data.split, data.loan_id)
        self._approved = ""
        self._work: BankSide | None = None
        self._app: Any = None

    @property
    def app(self) -> Any:
        """The bank's ClientApp. Raises PeerError (C05) before the contract carries every signature."""
        if self._app is None:
            raise PeerError("the platform asked for a step of a run that is not signed", "C05")
        return self._app

    def propose(self, contract: str) -> str:
        """Return the bank's signature on a contract. Raises PeerError with the rule by which it refuses."""
        read = decode_contract(contract.encode())
        verdict = check_proposal(read, self.node.identity, set(self.table.columns), self.label, self.node.clock.now())
        policy = self.node.config.policy
        if not verdict.rule and policy is not None:
            verdict = judge_by_policy(read, policy, self.party)
        if verdict.rule:
            raise PeerError(f"{self.party} refuses the contract: {verdict.reason}", verdict.rule)
        self._approved = read.hash
        self.node.contract_event(
            read.run, read.hash, "approved", operator=self.node.config.operator, proposer=read.proposer
        )
        return approve(read, self.party, self.node.identity.signing_key).decode()

    def signed(self, contract: str) -> None:
        """Take up the run. Raises PeerError (C05) for another contract than the one approved."""
        read = open_contract(contract.encode())
        if read.hash != self._approved:
            raise PeerError("the platform signed another contract than the one approved", "C05")
        self.node.store.put_run(read.run, "running", contract.encode())
        self.node.contract_event(read.run, read.hash, "signed")
        self._work = bank_run(self.node, read, self.table, NoLink())
        self._app = self._work.client_app()

    def close(self) -> None:
        """Keep the bank's models and let its folder go."""
        if self._work is not None and self._work.result:
            write_result(self.node, self._work)
            self.node.store.set_run_state(RUN, "finished", "")
        self.node.close()


def take_seat(node_config: Config, run_config: Config) -> BankSeat:
    """Open the bank of a partition: its place in the sorted party ids. Raises InputFault when there is none."""
    folder, place = _folder(run_config), int(node_config.get("partition-id", -1))
    homes = sorted(path.parent for path in (folder / "parties").glob("*/consents.jsonl"))
    if not 0 <= place < len(homes):
        raise InputFault(f"partition {place} has no bank; start as many nodes as there are tables ({len(homes)})")
    return BankSeat(homes[place])


server_app = stock.make_stock_server(lead)
client_app = stock.StockClient(take_seat)
