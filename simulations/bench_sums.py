"""What a secure sum costs: CPU seconds of a bank and of the platform, and bytes of a bank, in memory on one core.

Every bank and the platform run in this process, one after the other, over made-up keys and values: CPU time is each one's
own. What signing of envelopes, ledgers and the network add is not in it. As many banks as the threshold allows are lost
after they shared, unless `lost` says otherwise: the platform's dearest case. The total is compared with the plain sum.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from lianxin.crypto.randomness import Drbg, derive_seed
from lianxin.crypto.signing import SigningKey
from lianxin.federation.errors import InputFault, RunStopped
from lianxin.federation.secure_sum import BankSum, PlatformSum, SumTerms, policy_threshold
from lianxin.simulations.bench_machine import describe_machine

Say = Callable[[str], None]
STAGES = ("keys", "shares", "masked", "agree", "open")
LEAST, MOST = 3, 64
_SEED = bytes(32)


@dataclass(frozen=True)
class Asked:
    """What is measured: `lost` banks leave after their shares, -1 for as many as the threshold allows."""

    banks: int = 40
    parameters: int = 100_000
    lost: int = -1


class _Meter:
    """CPU seconds and bytes by stage, of the banks one by one and of the platform."""

    def __init__(self) -> None:
        self.banks: dict[str, dict[str, float]] = {stage: {} for stage in STAGES}
        self.platform: dict[str, float] = {}
        self.sent = dict.fromkeys(STAGES, 0)

    def bank(self, stage: str, bank: str, work: Callable[[], Any]) -> Any:
        start = time.process_time()
        done = work()
        self.banks[stage][bank] = time.process_time() - start
        self.sent[stage] += _bytes_of(done)
        return done

    def lead(self, stage: str, work: Callable[[], Any]) -> Any:
        start = time.process_time()
        done = work()
        self.platform[stage] = time.process_time() - start
        return done


def _bytes_of(said: Any) -> int:
    if isinstance(said, dict):
        return sum(map(len, said.values()))
    return said.nbytes if isinstance(said, np.ndarray) else len(said)


def bench_sums(asked: Asked, say: Say) -> dict[str, Any]:
    """Return the figures of one sum as a JSON-ready record. Raises InputFault for sizes that cannot be."""
    if not LEAST <= asked.banks <= MOST or asked.parameters < 1:
        raise InputFault(f"a secure sum is measured with {LEAST} to {MOST} banks and at least one parameter")
    names = [f"bank-{number:02}" for number in range(1, asked.banks + 1)]
    keys = {name: SigningKey.from_seed(derive_seed(_SEED, "node-key", name)) for name in names}
    spare = asked.banks - policy_threshold(asked.banks)
    lost = spare if asked.lost < 0 else asked.lost
    if lost > spare:
        raise InputFault(f"of {asked.banks} banks at most {spare} can be lost; lower --lost")
    publics = {name: key.public_hex for name, key in keys.items()}
    terms = SumTerms("bench", "0" * 64, "train/1/0/0", tuple(names), asked.banks - spare, 64, asked.parameters, publics)
    meter = _Meter()
    total, values = _play(terms, keys, names[:lost], meter, say)
    if not np.array_equal(total, sum(values[name] for name in names[lost:])):
        raise RunStopped("a secure sum did not give the plain sum; the figures are void")
    return {"bench": "sums", "machine": describe_machine(), **vars(asked), "lost": lost, **_figures(meter, asked)}


def _play(
    terms: SumTerms, keys: Mapping[str, SigningKey], lost: list[str], meter: _Meter, say: Say
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    drbg, platform = Drbg(_SEED).child("bench-sums"), PlatformSum(terms)
    values = {
        name: np.frombuffer(drbg.child("values", name).bytes(8 * terms.length), dtype=np.uint64) for name in terms.banks
    }
    say("keys")
    banks = {name: BankSum(terms, name, keys[name], drbg.child("bank", name)) for name in terms.banks}
    sent: dict[str, Any] = {name: meter.bank("keys", name, bank.advertise) for name, bank in banks.items()}
    shown = meter.lead("keys", lambda: platform.keys(sent))
    say("shares")
    sent = {name: meter.bank("shares", name, partial(bank.share, shown)) for name, bank in banks.items()}
    boxes = meter.lead("shares", lambda: platform.boxes(sent))
    say("masked vectors")
    left = [name for name in terms.banks if name not in lost]
    sent = {name: meter.bank("masked", name, partial(banks[name].mask, boxes[name], values[name])) for name in left}
    included = meter.lead("masked", lambda: platform.masked(sent))
    sent = {name: meter.bank("agree", name, partial(banks[name].agree, included)) for name in left}
    sets = meter.lead("agree", lambda: platform.sets(sent))
    say("openings")
    sent = {name: meter.bank("open", name, partial(banks[name].open, sets)) for name in left}
    return meter.lead("open", lambda: platform.total(sent)), values


def _figures(meter: _Meter, asked: Asked) -> dict[str, Any]:
    stages = {stage: max(costs.values()) for stage, costs in meter.banks.items()}
    whole = {
        bank: sum(costs.get(bank, 0.0) for costs in meter.banks.values()) for bank in meter.banks["open"]
    }  # the banks that stayed to the end
    sent = sum(size / max(1, len(meter.banks[stage])) for stage, size in meter.sent.items())
    return {
        "bank_cpu_s": round(sum(whole.values()) / len(whole), 4), "bank_cpu_s_max": round(max(whole.values()), 4),
        "platform_cpu_s": round(sum(meter.platform.values()), 4),
        "bank_cpu_s_by_stage_max": {stage: round(cost, 4) for stage, cost in stages.items()},
        "platform_cpu_s_by_stage": {stage: round(cost, 4) for stage, cost in meter.platform.items()},
        "bank_bytes_sent": round(sent), "bank_bytes_beyond_vector": round(sent) - 8 * asked.parameters,
        "exact": True,
    }  # fmt: skip
