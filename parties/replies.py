"""What both sides check in the named values that Flower's messages carry between them."""

import numpy as np

from lianxin.federation import apps
from lianxin.federation.errors import PeerError

Reply = tuple[apps.Arrays, apps.Numbers, apps.Texts]


def arrays_named(arrays: apps.Arrays, name: str) -> np.ndarray:
    """Return a named array of a reply. Raises PeerError (L04) when it is not there."""
    if name not in arrays:
        raise PeerError(f"a reply came without its '{name}'", "L04")
    return arrays[name]
