"""The identity of a configured node, its keys opened under what `[keys]` names."""

from lianxin.parties.config import NodeConfig
from lianxin.parties.identity import Identity, load_identity
from lianxin.parties.keys import load_protection


def identity_of(config: NodeConfig, now: str | None = None) -> Identity:
    """Return the identity that a node's configuration names, as it is in force at `now`. Raises InputFault."""
    return load_identity(config.identity, lambda: load_protection(config), now)
