"""What a platform does about runs that were under way when it was killed, and about banks that missed a run's end.

A bank is told the end of a run in its lobby. One that is not there is told when it next comes: until it has confirmed,
the store remembers that it has not been told.
"""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from lianxin.crypto.errors import CryptoError
from lianxin.federation import wire
from lianxin.federation.channel import Channel
from lianxin.federation.contract import RunContract, decode_contract
from lianxin.federation.errors import LianxinError, RunStopped
from lianxin.federation.network_terms import can_go_on
from lianxin.federation.session import PeerRefused, Session
from lianxin.parties import checkpoint
from lianxin.parties.active_run import ActiveRun
from lianxin.parties.agreement import open_contract
from lianxin.parties.institutions import check_institutions
from lianxin.parties.lobby import RunTalk
from lianxin.parties.node import Node
from lianxin.parties.run_ending import carry_out
from lianxin.parties.run_remedies import failed
from lianxin.parties.runs_left import RULE, Ended, check_goes_on, end_left

ATTEMPTS = 1000
CLOSE_DEADLINE_S = 30.0
_ENDED = ("finished", "failed")


def taken_up(node: Node, runs: dict[str, ActiveRun], ended: Ended) -> list[RunContract]:
    """Return the contracts of the runs to go on with, each put into `runs`; those that cannot go on end as failed."""
    going = []
    for row in node.store.runs():
        if row.state == "proposed":
            _end_proposed(node, decode_contract(row.contract), ended)
        elif row.state == "running":
            contract = open_contract(row.contract)
            going += [contract] if take_up(node, contract, runs, ended) else []
    return going


def _end_proposed(node: Node, contract: RunContract, ended: Ended) -> None:
    run = contract.run
    why = f"this node was stopped before every bank had signed run {run}; launch it anew under another id"
    node.store.set_run_state(run, "failed", RULE)
    node.contract_event(run, contract.hash, "failed", RULE)
    ended[run] = failed(run, RunStopped(why), node.party, contract.banks, "contract.agree", RULE)
    node.say(f"run {run} failed: {why}")


def take_up(node: Node, contract: RunContract, runs: dict[str, ActiveRun], ended: Ended) -> bool:
    """Put a run that was left into `runs`, to be led on from its checkpoint; return False where it cannot go on and ends."""
    from lianxin.parties.platform_network import PlatformNetwork  # Flower is loaded when a run begins, not before

    run = contract.run
    try:
        check_goes_on(node, contract)
        check_institutions(node, contract)
        work = PlatformNetwork(node, contract)
        kept = checkpoint.read(node.run_folder(run), run)
        if kept is not None:
            work.restore(kept)
    except (LianxinError, CryptoError) as fault:
        untold(node, contract)
        end_left(node, contract, str(fault), ended)
        return False
    work.first_attempt = (node.store.reserve(f"resumed/{run}", 1) + 1) * ATTEMPTS
    runs[run] = ActiveRun(work, again=True)
    node.say(f"run {run} is resumed at round {work.next_round}")
    return True


def may_miss(contract: RunContract, absent: Sequence[str]) -> bool:
    """Return whether a run that is resumed goes on without these banks by its contract."""
    return contract.on_loss == "rerun" and can_go_on(contract, set(contract.banks) - set(absent))


def has_ended(node: Node, run: str) -> bool:
    """Return whether a run is over here; a bank that does not know it yet is told in its lobby."""
    row = node.store.run(run)
    return row is not None and row.state in _ENDED


# ---- the end, told to each bank


def _key(run: str, bank: str) -> str:
    return f"untold/{bank}/{run}"


def untold(node: Node, contract: RunContract) -> None:
    """Note that no bank of a run knows its end yet."""
    for bank in () if contract.is_standing else contract.banks:
        node.store.put_setting(_key(contract.run, bank), b"1")


def _told(node: Node, run: str, bank: str) -> None:
    """Note that a bank has confirmed the end of a run."""
    node.store.delete_setting(_key(run, bank))


def closing_sessions(
    node: Node, contract: RunContract, sessions: Mapping[str, Session], lobby: Mapping[str, Channel]
) -> Mapping[str, Session]:
    """Return where each bank that is here is told the end: the session of the agreement, a fresh one where it is gone."""
    if contract.is_standing:
        return sessions
    here = {bank: lobby[bank] for bank in contract.banks if bank in lobby}
    kept = {bank: one for bank, one in sessions.items() if here.get(bank) in (one.channel, None)}
    return kept | {bank: _fresh(node, contract, ch) for bank, ch in sorted(here.items()) if bank not in kept}


def _fresh(node: Node, contract: RunContract, channel: Channel) -> Session:
    number = node.store.reserve(f"contracts/{channel.peer}/{contract.run}", 1) + 1
    return node.session(contract, channel, f"contracts/{channel.peer}/{number}")


def tell_ends(node: Node, channel: Channel) -> None:
    """Tell a bank that came to the lobby how runs ended that it has not confirmed yet."""
    prefix = _key("", channel.peer)
    for run in [key.removeprefix(prefix) for key in node.store.settings_under(prefix)]:
        row = node.store.run(run)
        if row is None or row.state not in _ENDED or b'"signatures"' not in row.contract:
            continue
        contract = open_contract(row.contract)
        if contract.expires_at <= node.clock.now():
            _told(node, run, channel.peer)  # the bank has ended it by itself
            continue
        tell_end(node, contract, {channel.peer: _fresh(node, contract, channel)}, row.state, row.note)
        carry_out(node, run, [("the evidence", partial(node.export, run))])  # it has what was said just now


def tell_end(node: Node, contract: RunContract, sessions: Mapping[str, Session], state: str, rule: str) -> None:
    """Tell these banks how a run ended, and take each one's confirmation with its ledger's head; not one that is revoked."""
    sessions = {bank: one for bank, one in sessions.items() if one.peer not in node.identity.revoked}
    heads = {session.peer: node.head(session.peer) for session in sessions.values()}  # one head for all
    told = dict[str, Session]()
    for session in sessions.values():
        try:
            status = wire.RunStatus(state=state, rule=rule, checkpoint=heads[session.peer])
            session.send(status, "contract.close")
            told[session.peer] = session
        except LianxinError:
            node.say(f"{session.peer} could not be told the end of {contract.run}")
        except Exception:
            _log_fault(node, contract, session)
    for bank, session in told.items():
        try:
            _take_late(session)
            closed: Any = session.receive("contract.close", (wire.RunClosed,), CLOSE_DEADLINE_S)
            node.keep_head(closed.checkpoint, bank, contract.node_keys[bank])
            node.take_answer(closed.cosignature, bank, contract.node_keys[bank])
            _told(node, contract.run, bank)
        except (LianxinError, CryptoError):
            node.say(f"{bank} did not confirm the end of {contract.run}")
        except Exception:
            _log_fault(node, contract, session)


def _log_fault(node: Node, contract: RunContract, session: Session) -> None:
    """Say that a fault here kept one bank from being told, and hang up on it: when it dials again it is told anew."""
    logging.getLogger("lianxin").exception("a fault while %s was told the end of run %s", session.peer, contract.run)
    node.say(f"a fault of this program kept the end of {contract.run} from {session.peer}; it is told when it dials again")
    session.channel.close("a fault of this program")


def _take_late(session: Session) -> None:
    """Take what a bank had said in the agreement before it heard the end: its approval, or its refusal."""
    talk = getattr(session, "channel", None)
    while isinstance(talk, RunTalk) and talk.next_step(CLOSE_DEADLINE_S) == "contract.agree":
        try:
            session.receive("contract.agree", (wire.Approval,), CLOSE_DEADLINE_S)
        except PeerRefused:
            continue


__all__ = ["closing_sessions", "has_ended", "may_miss", "take_up", "taken_up", "tell_end", "tell_ends", "untold"]
