"""What both sides check in the named values that Flower's messages carry between them."""

from typing import Any

import numpy as np

from lianxin.crypto import canonical
from lianxin.crypto.errors import CryptoError
from lianxin.crypto.signing import verify_by
from lianxin.federation import apps
from lianxin.federation.contract import RunContract
from lianxin.federation.errors import PeerError
from lianxin.federation.star import MaskAgreement

Reply = tuple[apps.Arrays, apps.Numbers, apps.Texts]


def counts_of(arrays: apps.Arrays) -> list[int]:
    """Return a reply's masked counts. Raises PeerError (L04) unless they are a list of whole numbers mod 2^64."""
    values = arrays_named(arrays, "masked_counts")
    if values.ndim != 1 or values.dtype != np.uint64:
        raise PeerError("a reply's masked counts are no list of 64-bit whole numbers", "L04")
    return [int(v) for v in values]


def arrays_named(arrays: apps.Arrays, name: str) -> np.ndarray:
    """Return a named array of a reply. Raises PeerError (L04) when it is not there."""
    if name not in arrays:
        raise PeerError(f"a reply came without its '{name}'", "L04")
    return arrays[name]


def read_agreement(text: str, bank: str, contract: RunContract) -> dict[str, Any]:
    """Return a bank's signed agreement key after checking who signed it, for which run. Raises PeerError (A01)."""
    try:
        signed = canonical.decode_fragment(text.encode())
        record = verify_by(signed, contract.node_keys[bank])
        fits = (record["type"], record["run"], record["contract"], record["party"]) == (
            "agreement-key", contract.run, contract.hash, bank,
        )  # fmt: skip
        MaskAgreement.check_key(bytes.fromhex(record["key"]))
    except (CryptoError, KeyError, ValueError, TypeError):
        fits = False
    if not fits:
        raise PeerError(f"{bank}'s agreement key is not signed by it for this run", "A01")
    return signed
