"""Which class does a party's side of a run, by the contract's model."""

from collections.abc import Mapping

from lianxin.federation.channel import Link
from lianxin.federation.contract import RunContract
from lianxin.parties.bank_run import BankRun
from lianxin.parties.bank_scorecard import BankScorecard
from lianxin.parties.bank_side import BankSide
from lianxin.parties.bank_trees import BankTrees
from lianxin.parties.node import Node
from lianxin.parties.platform_network import PlatformNetwork
from lianxin.parties.platform_run import PlatformRun
from lianxin.parties.platform_scorecard import PlatformScorecard
from lianxin.parties.platform_trees import PlatformTrees
from lianxin.parties.records import FirmTable, LoanTable

_PLATFORM: Mapping[str, type[PlatformRun]] = {"scorecard": PlatformScorecard, "boosted_trees": PlatformTrees}
_BANK: Mapping[str, type[BankRun]] = {"scorecard": BankScorecard, "boosted_trees": BankTrees}


def platform_run(node: Node, contract: RunContract, table: FirmTable) -> PlatformRun | PlatformNetwork:
    """Return the platform's side of a run of this contract's model."""
    if contract.is_network:
        return PlatformNetwork(node, contract)
    return _PLATFORM[contract.model](node, contract, table)


def bank_run(node: Node, contract: RunContract, table: LoanTable, link: Link) -> BankSide:
    """Return a bank's side of a run of this contract's model. Raises InputFault for a network where torch is missing."""
    if contract.is_network:
        from lianxin.parties.bank_network import BankNetwork  # with torch, which no other run needs

        return BankNetwork(node, contract, table, link)
    return _BANK[contract.model](node, contract, table, link)
