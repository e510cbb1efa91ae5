"""Which class does a party's side of a run, by the contract's model.

The classes are loaded when a run begins: with them come Flower and what trains, which an idle node does not need.
"""

from typing import TYPE_CHECKING, Union

from lianxin.federation.channel import Link
from lianxin.federation.contract import RunContract
from lianxin.parties.bank_side import BankSide
from lianxin.parties.node import Node
from lianxin.parties.records import FirmTable, LoanTable

if TYPE_CHECKING:
    from lianxin.parties.platform_network import PlatformNetwork
    from lianxin.parties.platform_run import PlatformRun


def platform_run(node: Node, contract: RunContract, table: FirmTable) -> Union["PlatformRun", "PlatformNetwork"]:
    """Return the platform's side of a run of this contract's model."""
    if contract.is_network:
        from lianxin.parties.platform_network import PlatformNetwork

        return PlatformNetwork(node, contract)
    from lianxin.parties.platform_scorecard import PlatformScorecard
    from lianxin.parties.platform_trees import PlatformTrees

    kinds: dict[str, type[PlatformRun]] = {"scorecard": PlatformScorecard, "boosted_trees": PlatformTrees}
    return kinds[contract.model](node, contract, table)


def bank_run(node: Node, contract: RunContract, table: LoanTable, link: Link) -> BankSide:
    """Return a bank's side of a run of this contract's model. Raises InputFault for a network where torch is missing."""
    if contract.is_network:
        from lianxin.parties.bank_network import BankNetwork  # with torch, which no other run needs

        return BankNetwork(node, contract, table, link)
    from lianxin.parties.bank_scorecard import BankScorecard
    from lianxin.parties.bank_trees import BankTrees

    kinds = {"scorecard": BankScorecard, "boosted_trees": BankTrees}
    return kinds[contract.model](node, contract, table, link)
