"""Matching between two processes, measured: `lianxin bench matching`.

1. Made-up firms with valid codes, half of the queries shared; a trial network's keys in a temporary folder.
2. The platform's process listens, the bank's dials, both run the production roles (`bench_side`).
3. Both results are compared with the plain intersection of the two lists, in one order on both sides.
4. For ecdh, openmined-psi over the same lists before and after, where `--peers` has it; then it and both sides stay on
   one core, on equal terms: two busy threads of one core cost each other CPU time.

`cpu_s` is user and system time of both sides with their workers, `wall_s` from the bank's dialling to the later result,
`bytes` all envelopes both ways (TLS and HTTP/2 not counted), `peak_mb` the sum of the highest resident sizes of a
side's processes.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lianxin.crypto import group, psi_paillier
from lianxin.federation.contract import MATCHING_PROTOCOLS
from lianxin.federation.errors import InputFault, RunStopped
from lianxin.federation.matching import padded
from lianxin.parties.clock import SystemClock
from lianxin.parties.identifiers import ALPHABET, uscc_from
from lianxin.parties.identity import load_identity, make_network
from lianxin.simulations.bench_contract import BANK, LEAST_SHARED, PLATFORM, make_contract
from lianxin.simulations.bench_machine import check_processes_can_be_read, describe_machine, pinned
from lianxin.simulations.bench_peers import Peers
from lianxin.simulations.bench_side import digest_of
from lianxin.simulations.world import REGIONS

ROAD = "gRPC with mutual TLS 1.3 over loopback, one process a side"
_NUMBERS = len(ALPHABET) ** 5
_STEP = 7_368_787  # no multiple of 31: numbers do not repeat before all of them were used
_SEED = "6c69616e78696e2f62656e63682f6d61746368696e672f736565642f76312f2f"
_STOP_S = 10.0
Say = Callable[[str], None]


@dataclass(frozen=True)
class Asked:
    """What was asked for: sizes, protocol, key bits and workers a side; `pinned` keeps everything on one core."""

    queries: int
    rows: int
    protocol: str
    bits: int
    workers: int
    pinned: bool = False

    @property
    def shared(self) -> int:
        """How many firms both sides hold: half of the queries, and no fewer than a contract's minimum."""
        return min(max(self.queries // 2, LEAST_SHARED), self.queries, self.rows)


def check_asked(asked: Asked) -> None:
    """Raise InputFault for a protocol or sizes that cannot be measured."""
    if asked.protocol not in MATCHING_PROTOCOLS:
        raise InputFault(f"--protocol is {' or '.join(MATCHING_PROTOCOLS)}, got {asked.protocol}")
    if min(asked.queries, asked.rows) < LEAST_SHARED:
        raise InputFault(
            f"--queries and --rows are at least {LEAST_SHARED}: a contract stops a run that shares fewer firms"
        )
    check_processes_can_be_read()


def bench_matching(asked: Asked, peers: Peers, say: Say) -> dict[str, Any]:
    """Return the figures of one matching. Raises InputFault for what cannot be asked, RunStopped when a side ends."""
    check_asked(asked)
    with tempfile.TemporaryDirectory(prefix="lianxin-bench-") as name:
        folder = Path(name)
        say("making firms and keys")
        shared = _write_firms(folder, asked)
        compared = asked.protocol == "ecdh" and peers.python is not None
        with pinned() if asked.pinned or compared else nullcontext() as core:
            before = _peer_cpu_s(folder, peers, say) if compared else None
            told = _run_sides(folder, asked, say)
            after = _peer_cpu_s(folder, peers, say) if compared else None
        record = _record(asked, told, digest_of(sorted(shared))) | {"core": core}
        if asked.protocol == "ecdh":
            record["cpu_vs_openmined"] = _over(before, after, record["cpu_s"])
    return record | {"machine": describe_machine(), "peers": peers.told, "notes": peers.notes}


def firm_code(number: int) -> str:
    """Return the number-th made-up firm's unified code; different numbers give different codes."""
    digits, rest = "", number * _STEP % _NUMBERS
    for _ in range(5):
        rest, digit = divmod(rest, len(ALPHABET))
        digits += ALPHABET[digit]
    return uscc_from("9", "1", REGIONS[number % len(REGIONS)], "QH0" + digits)


def _write_firms(folder: Path, asked: Asked) -> list[str]:
    """Write each side's firms, one a line, and return the ones that both hold."""
    known = [firm_code(number) for number in range(asked.rows)]
    others = [firm_code(asked.rows + number) for number in range(asked.queries - asked.shared)]
    shared = known[: asked.shared]
    (folder / f"{PLATFORM}.firms").write_text("\n".join(known))
    (folder / f"{BANK}.firms").write_text("\n".join(others + shared))
    return shared


def _run_sides(folder: Path, asked: Asked, say: Say) -> dict[str, dict[str, Any]]:
    settings = _write_settings(folder, asked)
    with ExitStack() as running:
        platform = running.enter_context(_side(folder, PLATFORM, settings))
        port = next(_events(folder, PLATFORM, platform, "port"))["port"]
        bank = running.enter_context(_side(folder, BANK, settings, f"127.0.0.1:{port}"))
        told: dict[str, dict[str, Any]] = {}
        for event in _events(folder, BANK, bank, "used"):
            if "bytes" in event:
                say(f"{event['bytes'] / 1e6:.1f} MB crossed")
            told[BANK] = told.get(BANK, {}) | event
        (told[PLATFORM],) = _events(folder, PLATFORM, platform, "used")
    return told


def _write_settings(folder: Path, asked: Asked) -> Path:
    network = folder / "network"
    make_network(network, PLATFORM, [BANK], None, SystemClock(), 2)
    keys = {party: load_identity(network / party).signing_key.public_hex for party in (PLATFORM, BANK)}
    sizes = {"max_queries": padded(asked.queries), "max_firms": padded(asked.rows)}
    terms = {"matching": asked.protocol, "key_bits": asked.bits, **sizes}
    settings = {
        "network": str(network), "contract": dict(make_contract(keys, **terms).record), "seed": _SEED,
        "workers": asked.workers, "firms": {party: str(folder / f"{party}.firms") for party in keys},
    }  # fmt: skip
    path = folder / "settings.json"
    path.write_text(json.dumps(settings))
    return path


@contextmanager
def _side(folder: Path, party: str, *arguments: Path | str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "lianxin.simulations.bench_side", party, *map(str, arguments)]
    with (folder / f"{party}.log").open("w") as log:
        side = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL, text=True)
    try:
        yield side
        with suppress(subprocess.TimeoutExpired):
            side.wait(_STOP_S)
    finally:
        _end(side)


def _end(side: subprocess.Popen[str]) -> None:
    """Ask a side that still runs to stop, with its workers; then make it."""
    side.terminate()
    try:
        side.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        side.kill()
        side.wait()
    assert side.stdout is not None
    side.stdout.close()


def _events(folder: Path, party: str, side: subprocess.Popen[str], last: str) -> Iterator[dict[str, Any]]:
    """Yield what a side tells, up to the event that has `last`. Raises RunStopped when it ends before."""
    assert side.stdout is not None
    for line in side.stdout:
        event = json.loads(line)
        yield event
        if last in event:
            return
    words = (folder / f"{party}.log").read_text(errors="replace").strip().splitlines()
    raise RunStopped(f"the side of {party} ended before its result: {words[-1] if words else 'it said nothing'}")


def _record(asked: Asked, told: Mapping[str, Mapping[str, Any]], shared_sha256: str) -> dict[str, Any]:
    used = {"bank": told[BANK]["used"], "platform": told[PLATFORM]["used"]}
    return {
        "bench": "matching", "protocol": asked.protocol, "queries": asked.queries, "rows": asked.rows,
        "key_bits": _key_bits(asked), "exponent_bits": _exponents(asked),
        "workers": asked.workers, "road": ROAD,
        "cpu_s": round(sum(side["cpu_s"] for side in used.values()), 2),
        "cpu_s_by_side": {name: round(side["cpu_s"], 2) for name, side in used.items()},
        "wall_s": round(max(side["end"] for side in used.values()) - used["bank"]["start"], 2),
        "bytes": sum(side["bytes_out"] for side in used.values()),
        "peak_mb": {name: round(side["peak_mb"], 1) for name, side in used.items()},
        "matched": asked.shared, "correct": is_correct(used, shared_sha256),
        "key_generation_s": told[BANK]["key_generation_s"],
    }  # fmt: skip


def is_correct(used: Mapping[str, Mapping[str, Any]], shared_sha256: str) -> bool:
    """Return whether both sides found the firms whose sorted list has that digest, and in one order."""
    found = {side["set_sha256"] for side in used.values()}
    return found == {shared_sha256} and len({side["order_sha256"] for side in used.values()}) == 1


def _key_bits(asked: Asked) -> int:
    """Return the length of the modulus, or for ecdh of the group's order."""
    return asked.bits if asked.protocol == "paillier" else group.ORDER.bit_length()


def _exponents(asked: Asked) -> dict[str, int]:
    if asked.protocol == "ecdh":
        return {"group": _key_bits(asked)}
    return {"owner_full": asked.bits // 2, "answer": psi_paillier.EXPONENT_BOUND.bit_length()}


def _peer_cpu_s(folder: Path, peers: Peers, say: Say) -> float | None:
    """Return openmined-psi's CPU seconds, client and server, over the same firms; None where it is not there."""
    say("openmined-psi on the same firms")
    files = (str(folder / f"{BANK}.firms"), str(folder / f"{PLATFORM}.firms"))
    told = peers.run("openmined-psi", "--client", files[0], "--server", files[1])
    return None if told is None else float(told["cpu_s"])


def _over(before: float | None, after: float | None, ours: float) -> float | None:
    """Return the mean of the peer's two runs, one on either side of ours, over ours."""
    return None if before is None or after is None else round((before + after) / 2 / ours, 3)
