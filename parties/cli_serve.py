"""Commands that run a node until it is stopped, and what a running node answers on its control socket."""

import logging
import signal
import threading
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lianxin.federation.errors import InputFault, LianxinError, RunStopped
from lianxin.parties.cli_boundary import act
from lianxin.parties.cli_nodes import Config, bank, platform, role_config
from lianxin.parties.control import ControlServer

if TYPE_CHECKING:
    from lianxin.federation.contract import RunContract
    from lianxin.parties.bank import BankNode
    from lianxin.parties.config import NodeConfig
    from lianxin.parties.node import Node
    from lianxin.parties.platform import PlatformNode

REQUESTS = {
    "backup": "store_backup", "keys": "key_rotation", "operator": "operator_desk", "runs": "run_queue", "watch": "watch",
}  # fmt: skip  # which module's `answer(served, request)` does what a command asks of a running node


def _further(served: Any, request: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the module behind a request answers. Raises ValueError for a request that none knows."""
    if request["do"] not in REQUESTS:
        raise ValueError("unknown request")
    answer: dict[str, Any] = import_module(f"lianxin.parties.{REQUESTS[request['do']]}").answer(served, request)
    return answer


def _until_stopped(stopped: threading.Event, closers: list[Callable[[], None]]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    stopped.wait()
    for close in closers:
        close()


def _planner(config: "NodeConfig") -> Callable[["RunContract"], dict[str, Any]]:
    def make(contract: "RunContract") -> dict[str, Any]:
        from lianxin.crypto.randomness import Drbg, system_seed
        from lianxin.federation import plan  # loaded when a run begins: an idle node does not need it
        from lianxin.federation.plan_costs_networks import measure_network_costs

        if config.simulation is not None or contract.is_standing:
            return plan.make_plan(contract, plan.reference_calibration(contract.key_bits))
        if contract.is_network:
            return plan.make_plan(contract, measure_network_costs(time.process_time_ns))
        calibration = plan.measure_calibration(contract.key_bits, Drbg(system_seed()), time.process_time_ns)
        return plan.make_plan(contract, calibration)

    return make


def _status(node: "Node", start: int, ended: Mapping[str, Any]) -> dict[str, Any]:
    missed, notes, following = node.notes.told(start)
    told = {"events": [(seconds, what) for seconds, what, _ in notes], "of_runs": [run for _, _, run in notes]}
    return {"party": node.party, **told, "ended": dict(ended), "missed": missed, "next": following}


Record = Annotated[Path | None, typer.Option(help="Keep every envelope here, for an auditor's replay of one side.")]


@platform.command("serve")
def platform_serve(config: Config, record: Record = None) -> None:
    """Run the platform's node until it is stopped.

    Example: lianxin platform serve platform.toml
    """
    from lianxin.federation import services
    from lianxin.federation.tls import LiveTls
    from lianxin.parties import key_rotation
    from lianxin.parties.key_expiry import refuse_expired
    from lianxin.parties.limits_node import Door
    from lianxin.parties.node import open_node
    from lianxin.parties.peer_trust import LivePins
    from lianxin.parties.platform import PlatformNode
    from lianxin.parties.watch import Watch
    from lianxin.parties.watch_health import ailments, own_pin

    settings = role_config(config, "platform")
    node = open_node(settings, record)
    refuse_expired(node.identity, node.clock.now())
    served, door = PlatformNode(node, _planner(settings)), Door(node)
    address = settings.listen or ""
    server = services.serve(
        address, LiveTls(lambda: node.identity.server_tls()), LivePins(lambda: node.identity.pinned_peers()),
        served.handle, **door.serve_options(),
        resume_window_s=settings.resume_window_s, is_serving=lambda: not ailments(node),
        own=LivePins(lambda: own_pin(node.identity)),
    )  # fmt: skip
    served.cut = server.cut
    watch, keys = Watch(served, lambda: server.conversations), key_rotation.attend(served)
    control = ControlServer(settings.state, lambda request: _platform_answer(served, request))
    served.take_up()
    typer.echo(f"{node.party} listens on {address}")
    watch.begin()
    _until_stopped(
        threading.Event(),
        [watch.end, keys, control.close, served.close, lambda: server.stop(0.0), door.close, node.close],
    )


def _platform_answer(served: "PlatformNode", request: Mapping[str, Any]) -> dict[str, Any]:
    if request["do"] == "consents":
        return _about_consents(served.node, request)
    if request["do"] == "boundary":
        return act(served.node, request)
    if request["do"] == "status":
        found = {"resumed": served.resumed, "under_way": sorted(served.lives), "connected": sorted(served.lobby)}
        return _status(served.node, int(request["from"]), served.ended) | found
    if request["do"] == "launch":
        from lianxin.federation.contract import NETWORK_MODELS
        from lianxin.parties.config import load_run

        terms = load_run(Path(request["config"]))
        if served.node.store.run(terms.run) is not None:
            raise InputFault(f"run {terms.run} exists already; choose another run id")
        start = served.node.noted
        before = served.submit(terms, request["operator"] or None)
        return {"run": terms.run, "from": start, "network": terms.model in NETWORK_MODELS, "before": before}
    if request["do"] == "end":
        return served.end(request["run"], request["operator"] or None)
    return _further(served, request)


@bank.command("serve")
def bank_serve(config: Config, record: Record = None) -> None:
    """Run a bank's node until it is stopped; it dials the platform and waits there for proposals.

    Example: lianxin bank serve a.toml
    """
    from lianxin.federation import services
    from lianxin.federation.tls import LiveTls
    from lianxin.parties import key_rotation
    from lianxin.parties.bank import BankNode
    from lianxin.parties.key_expiry import refuse_expired
    from lianxin.parties.limits_node import Door
    from lianxin.parties.node import open_node
    from lianxin.parties.watch import Watch

    settings = role_config(config, "bank")
    node = open_node(settings, record)
    refuse_expired(node.identity, node.clock.now())
    name = node.identity.platform()
    window_s, address = settings.resume_window_s, settings.platform_address or ""
    door = Door(node)
    tls = LiveTls(lambda: node.identity.client_tls(name))
    link = services.GrpcLink(address, tls, name, resume_window_s=window_s, toll=door.toll)
    served = BankNode(node, link)
    watch, keys = Watch(served, lambda: link.conversations), key_rotation.attend(served)
    control = ControlServer(settings.state, lambda request: _bank_answer(served, request))
    failure: list[LianxinError] = []
    stopped = threading.Event()
    threading.Thread(target=_hold, args=(served, failure, stopped), daemon=True).start()
    typer.echo(f"{node.party} dials {settings.platform_address}")
    watch.begin()
    _until_stopped(stopped, [watch.end, keys, control.close, served.close, door.close, node.close])
    if failure:
        raise failure[0]


def _hold(served: "BankNode", failure: list[LianxinError], stopped: threading.Event) -> None:
    """Serve until the node is closed; a platform that turns this bank away ends the node with its sentence."""
    try:
        served.serve()
    except LianxinError as fault:
        failure.append(fault)
    except Exception as fault:  # else the thread would end and the node stay, deaf and silent
        logging.getLogger("lianxin").exception("a fault in the lobby")
        failure.append(
            RunStopped(f"a fault of this program ({type(fault).__name__}) ended the node; report it with the log")
        )
    finally:
        stopped.set()


def _about_consents(node: "Node", request: Mapping[str, Any]) -> dict[str, Any]:
    from lianxin.parties.consent_desk import answer

    return answer(node, request)


def _bank_answer(served: "BankNode", request: Mapping[str, Any]) -> dict[str, Any]:
    if request["do"] == "consents":
        return _about_consents(served.node, request)
    if request["do"] == "boundary":
        return act(served.node, request)
    if request["do"] == "status":
        waiting = {
            run: {"contract": dict(pending.contract.record), "plan": dict(pending.plan)}
            for run, pending in served.pending.items()
        }
        found = {"waiting": waiting, "resumed": served.resumed, "road": served.road.told()}
        return _status(served.node, int(request["from"]), served.ended) | found
    if request["do"] == "decide":
        served.decide(request["run"], bool(request["yes"]), request["operator"])
        return {"run": request["run"]}
    if request["do"] == "query":
        from lianxin.parties.query_bank import agreement_for

        asker = agreement_for(served.standing, request["purpose"], request["run"])
        return {"answer": asker.ask(request["firms"], request["fields"], request["mode"], request["operator"])}
    if request["do"] in ("score", "models", "monitor"):
        from lianxin.parties.score_desk import answer

        return answer(served, request)
    return _further(served, request)
