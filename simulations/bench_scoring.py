"""How fast joint scoring is: `lianxin bench scoring`. A platform and a bank, each a process of its own, over gRPC on loopback.

Everything is on: mutual TLS, the gate at both ends, consents with a limit and the count of their uses, both ledgers with
every leaf on disk before its message leaves, the schedule of 5 ms. Batches are of 1,000 firms, scored to the end, the bank's
own card included; single requests are one firm each, from the call at the bank to the platform's part in its hands. Single
requests wait for the disk four times, so the disk's own rate is measured beside them.
"""

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lianxin.federation import services
from lianxin.federation.errors import InputFault, LianxinError, RunStopped
from lianxin.federation.field_query import FIRMS_A_REQUEST
from lianxin.parties.bank import BankNode
from lianxin.parties.config import load_node
from lianxin.parties.control import ask
from lianxin.parties.node import Node, open_node
from lianxin.parties.records import load_firm_table, read_table
from lianxin.parties.score_bank import BankScores
from lianxin.simulations.bench_ledger import flush_rate
from lianxin.simulations.bench_machine import describe_machine
from lianxin.simulations.layout import RUN, Layout
from lianxin.simulations.runner import free_address
from lianxin.simulations.scoring_scene import AGREEMENT, consented, make_scene, silent

PURPOSE = "P3"
OPERATOR = "operator-bench"
WARM_UP = 20
START_S, STOP_S = 60.0, 10.0
Say = Callable[[str], None]


@dataclass(frozen=True)
class Asked:
    """What is measured: firms of the platform, single requests, batches of 1,000."""

    firms: int = 3_000
    singles: int = 500
    batches: int = 5


def bench_scoring(asked: Asked, folder: Path | None, say: Say) -> dict[str, Any]:
    """Return the record of one measurement, in a folder of its own that is gone afterwards. Raises InputFault, RunStopped."""
    if asked.firms < 3 * FIRMS_A_REQUEST // 2:
        raise InputFault("a batch of 1,000 firms with their consents takes at least 1,500 firms; raise --firms")
    with tempfile.TemporaryDirectory(dir=folder, prefix="lianxin-bench-") as made, ExitStack() as running:
        place = Path(made)
        flushes = flush_rate(place / "flushes")
        say("tables, model and consents")
        layout = make_scene(place, asked.firms, PURPOSE, address=free_address())
        running.enter_context(_platform(layout))
        bank = running.enter_context(_bank(layout))
        _launch(layout, bank)
        table = load_firm_table(read_table(layout.inputs.platform.file), layout.inputs.id_column)
        single = _singles(bank, table.identifiers, asked.singles, say)
        batch = _batches(bank, consented(table.identifiers), asked.batches, say)
    return {
        "bench": "scoring", "firms": asked.firms, "purpose": PURPOSE, "road": "gRPC, mutual TLS 1.3, loopback",
        **single, **batch, "flushes_per_s": flushes, "machine": describe_machine(),
    }  # fmt: skip


def _singles(bank: BankNode, firms: Sequence[str], count: int, say: Say) -> dict[str, Any]:
    """Time single requests, every other one about a firm without consent; the first ones are not counted."""
    asker, some = _asker(bank), zip(consented(firms), silent(firms), strict=False)
    wanted = [firm for pair in some for firm in pair]
    say(f"{count} single requests")
    times = []
    for place in range(WARM_UP + count):
        begun = time.perf_counter()
        asker.parts([wanted[place % len(wanted)]], [RUN], OPERATOR)
        times.append(time.perf_counter() - begun)
    ranked = sorted(times[WARM_UP:])
    names = {"single_p50_ms": 0.5, "single_p99_ms": 0.99}
    found = {
        name: round(ranked[min(int(len(ranked) * share), len(ranked) - 1)] * 1e3, 2) for name, share in names.items()
    }
    return {"singles": count, **found}


def _batches(bank: BankNode, firms: Sequence[str], count: int, say: Say) -> dict[str, Any]:
    asker, rows = _asker(bank), [{"firm": firm} for firm in firms[:FIRMS_A_REQUEST]]
    scored, begun = 0, time.perf_counter()
    for number in range(count):
        say(f"batch {number + 1} of {count}")
        answer = bank.scorer.score(asker, rows, "", OPERATOR)
        scored += sum(one["platform"] == "score" for one in answer["firms"])
    spent = time.perf_counter() - begun
    if scored != count * len(rows):
        raise RunStopped(f"{scored} of {count * len(rows)} firms had a joint score; the figures are void")
    return {"batches": count, "batch_firms": len(rows), "firms_per_s": round(count * len(rows) / spent)}


def _asker(bank: BankNode) -> BankScores:
    asker = bank.standing[AGREEMENT]
    assert isinstance(asker, BankScores)
    return asker


# ---- the two processes


@contextmanager
def _platform(layout: Layout) -> Iterator[None]:
    party = layout.parties[0]
    home = layout.home(party)
    command = [sys.executable, "-m", "lianxin.parties.cli", "platform", "serve", str(home / "node.toml")]
    with (home / "node.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    try:
        _wait_for(lambda: _is_up(home / "state", process, home / "node.log"), "the platform's node did not start")
        yield
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
        process.kill()
        process.wait()


def _is_up(state: Path, process: "subprocess.Popen[bytes]", log: Path) -> bool:
    if process.poll() is not None:
        words = log.read_text(errors="replace").strip().splitlines()
        raise RunStopped(f"the platform's node ended at its start: {words[-1] if words else 'it said nothing'}")
    try:
        ask(state, {"do": "status", "from": 0})
    except LianxinError:
        return False
    return True


@contextmanager
def _bank(layout: Layout) -> Iterator[BankNode]:
    node: Node = open_node(load_node(layout.home(layout.parties[1]) / "node.toml"))
    config, platform = node.config, layout.parties[0]
    link = services.GrpcLink(config.platform_address or "", node.identity.client_tls(platform), platform)
    bank = BankNode(node, link)
    thread = threading.Thread(target=bank.serve, daemon=True)
    thread.start()
    try:
        yield bank
    finally:
        bank.close()
        thread.join(STOP_S)
        node.close()


def _launch(layout: Layout, bank: BankNode) -> None:
    state = layout.home(layout.parties[0]) / "state"
    ask(state, {"do": "launch", "config": str(layout.folder / f"{AGREEMENT}.toml"), "operator": ""})
    _wait_for(lambda: AGREEMENT in bank.standing, "the bank did not take up the scoring agreement")


def _wait_for(holds: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + START_S
    while not holds():
        if time.monotonic() > until:
            raise RunStopped(f"{what} within {START_S:.0f} s")
        time.sleep(0.05)
