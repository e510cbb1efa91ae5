"""How torch runs here: alone, on one thread, deterministically, and from generators of its own.

`alone` holds what torch keeps for a whole process: number of threads and deterministic kernels. A simulation's nodes are
threads of one process, so they train one after the other; whatever was set before is set again afterwards. torch's global
generator is neither seeded nor drawn from.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from lianxin.crypto.randomness import derive_seed
from lianxin.federation.errors import InputFault

try:
    import torch
except ImportError as missing:
    raise InputFault("networks across banks need torch, which is not installed: pip install 'lianxin[nn]'") from missing

_ALONE = threading.RLock()


@contextmanager
def alone() -> Iterator[None]:
    """Hold torch for this thread, on one processor thread and with deterministic kernels alone; re-entrant."""
    with _ALONE:
        threads, strict = torch.get_num_threads(), torch.get_deterministic_debug_mode()
        torch.set_num_threads(1)
        torch.set_deterministic_debug_mode("error")  # use_deterministic_algorithms, without the compiler it imports
        try:
            yield
        finally:
            torch.set_deterministic_debug_mode(strict)
            torch.set_num_threads(threads)


def generator_of(seed: bytes, *labels: str | int) -> torch.Generator:
    """Return torch's generator for this seed and purpose; never the global one."""
    return torch.Generator().manual_seed(int.from_bytes(derive_seed(seed, "torch", *labels)[:8], "big") >> 1)
