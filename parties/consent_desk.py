"""What an operator asks of a node's registry: take in, list, show, check, ask a firm, prove, write out.

Each question is a request of plain values and has one answer, whether a running node is asked through its socket or the
command opens the node itself. No answer holds an identifier; a subject is named by the first 12 digits of its key.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lianxin.crypto import canonical
from lianxin.crypto.errors import CryptoError
from lianxin.crypto.signing import sign_record
from lianxin.federation.errors import InputFault
from lianxin.parties import decision
from lianxin.parties.clock import after
from lianxin.parties.config import OPERATOR
from lianxin.parties.consent_proof import make_consent_proof, verify_consent_proof
from lianxin.parties.consent_records import make_request
from lianxin.parties.consent_schema import check_notice
from lianxin.parties.consent_signing import read_all_signed
from lianxin.parties.decision_consents import STATES
from lianxin.parties.identifiers import (
    check_uscc,
    is_code_shaped,
    is_id_card,
    is_uscc,
    normalise_identifier,
    subject_type_of,
)
from lianxin.parties.ledger_proof import prove_leaf
from lianxin.parties.lineage import mark_models

if TYPE_CHECKING:
    from lianxin.parties.node import Node

PAGE = 500
SHOWN = 12
_CHECKED_DAYS = 1
Request = Mapping[str, Any]
Answer = dict[str, Any]


def answer(node: "Node", request: Request) -> Answer:
    """Return the answer to one request; `what` names it. Raises InputFault with one sentence for what is refused."""
    questions: dict[str, Callable[[Node, Request], Answer]] = {
        "import": _import, "revoke": _revoke, "register": _register, "list": _list, "show": _show, "check": _check,
        "request": _ask_firm, "prove": _prove, "export": _export, "notice": _keep_notice,
    }  # fmt: skip
    try:
        return questions[request["what"]](node, request)
    except CryptoError as fault:
        raise InputFault(f"{str(fault).rstrip('.')}; nothing was written") from None


def _import(node: "Node", request: Request) -> Answer:
    taken = {}
    for name in request["files"]:
        before = node.register.epoch
        try:
            taken[name] = node.register.import_lines(_lines(Path(name)), node.executor) - before
        except CryptoError as fault:
            done = f"; {len(taken)} files before it were taken" if taken else ""
            raise InputFault(f"{name}: {str(fault).rstrip('.')}; nothing of this file was taken{done}") from None
    mark_models(node)
    return {"taken": taken, "epoch": node.register.epoch}


def _revoke(node: "Node", request: Request) -> Answer:
    """Take in one revocation or several, and say which consents of the same scope count as before."""
    revocations = read_all_signed(Path(request["file"]))
    node.register.revoke(*revocations)
    mark_models(node)
    names = [signed["record"]["consent_id"] for signed in revocations]
    registry, now = node.register.registry(), node.clock.now()
    live = sorted({one for name in names for one in registry.live_beside(name, now)})
    return {"consent_id": names[0], "revoked": names, "state": "REVOKED", "epoch": registry.epoch, "still_live": live}


def _register(node: "Node", request: Request) -> Answer:
    """Register a key for the subject of an identifier, which says what type of subject it is."""
    firm, operator = _identifier(request["firm"]), str(request.get("operator", "")) or node.config.operator
    if re.fullmatch(OPERATOR, operator) is None:
        raise InputFault("an operator's name is 3 to 64 of a-z, 0-9, '.' and '-'; say who registers with --operator")
    key, kind = node.boundary.subject_key(firm), _kind_of(firm)
    node.register.register_firm_keys({key: request["key"]}, {key: kind}, operator)
    return {"subject": key[:SHOWN], "subject_key": key, "subject_type": kind}


def _keep_notice(node: "Node", request: Request) -> Answer:
    return {"notice_hash": node.register.keep_notice(_notice(Path(request["file"])))}


def _list(node: "Node", request: Request) -> Answer:
    now, wanted, start = node.clock.now(), request["state"], request["from"]
    if wanted and wanted not in STATES:
        raise InputFault(f"--state is none of {', '.join(STATES)}; name one of them")
    with node.register.held() as registry:
        names = [*registry.consents, *(name for name in registry.asked if name not in registry.consents)]
        page = list(islice(names, start, start + PAGE))
        used = {name: len(uses) for name, uses in node.store.uses(page).items()}
        rows = [_row(registry, name, now, used.get(name, 0)) for name in page]
    shown = [row for row in rows if wanted in ("", row["state"])]
    return {"consents": shown, "next": start + len(page), "total": len(names), "epoch": registry.epoch}


def _row(registry: decision.Registry, name: str, now: str, used: int) -> Answer:
    row: Answer = {"consent_id": name, "state": registry.state_of(name, now, used)}
    consent = registry.consents.get(name)
    if consent is None:
        (subject, recipient, purpose), expires_at, _ = registry.asked[name]
        scope = {"recipient": recipient, "purpose": purpose, "expires_at": expires_at}
        return row | {"subject": subject[:SHOWN]} | scope
    told = ("recipient", "purpose", "mode", "fields", "not_before", "expires_at", "max_uses")
    terms = {key: consent.terms[key] for key in told if key in consent.terms}
    return row | {"subject": consent.subject[:SHOWN], "uses": used} | terms


def _show(node: "Node", request: Request) -> Answer:
    name, found = request["id"], []
    wanted = b'"consent_id":"' + name.encode() + b'"'
    for line in node.store.iterate_registry():
        if wanted in line:
            found.append(canonical.decode_fragment(line)["record"])
    found = [record for record in found if record["consent_id"] == name]
    if not found:
        raise InputFault("the registry has no consent or request of that id; `lianxin consent list` shows them")
    used = len(node.store.uses([name]).get(name, ()))
    state = node.register.registry().state_of(name, node.clock.now(), used)
    return {"consent_id": name, "state": state, "uses": used, "records": [_shortened(record) for record in found]}


def _shortened(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _shortened(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [_shortened(item) for item in value]
    return value[:SHOWN] if key == "subject_key" else value


def _check(node: "Node", request: Request) -> Answer:
    """Say what the gate would, under an agreement in force that lists these fields: this is no release."""
    firm, now = _identifier(request["firm"]), node.clock.now()
    kind, subject = _kind_of(firm), node.boundary.subject_key(firm)
    contract = _standing(node, request, now)
    asked = decision.ReleaseRequest(
        node.party, request["recipient"], request["purpose"], request["mode"], "check", tuple(request["fields"])
    )
    with node.register.held() as registry:
        scope = (subject, request["recipient"], request["purpose"])
        uses = {one.id: len(node.store.uses([one.id]).get(one.id, ())) for one in registry.by_scope.get(scope, ())}
        consents = [{"consent_id": name, "state": registry.state_of(name, now, used)} for name, used in uses.items()]
        fields = [_decided(node, asked, name, contract, registry, now, kind, subject, uses) for name in asked.fields]
    return {"subject": subject[:SHOWN], "subject_type": kind, "at": now, "fields": fields, "consents": consents}


def _standing(node: "Node", request: Request, now: str) -> Answer:
    listed = [{"provider": node.party, "field": name, "use": "identifier"} for name in request["fields"]]
    roles = {
        node.party: node.identity.role,
        request["recipient"]: "bank" if node.identity.role == "platform" else "platform",
    }
    return {
        "type": "run-contract", "version": 3, "purpose": request["purpose"], "fields": listed, "model": "field_query",
        "parties": [{"party": party, "role": role} for party, role in roles.items()], "lawful_basis": "consent",
        "agreement": "checked", "impact_assessment": "checked", "catalogues": {node.party: node.catalogue.digest},
        "created_at": now, "expires_at": after(now, _CHECKED_DAYS),
    }  # fmt: skip


def _decided(
    node: "Node", asked: decision.ReleaseRequest, name: str, contract: Answer, registry: decision.Registry, now: str,
    kind: str, subject: str, uses: Mapping[str, int],
) -> Answer:  # fmt: skip
    decided = decision.decide_field(name, asked, contract, node.catalogue, now)
    if decided.allow and (decided.needs_consent or kind != "ENT"):
        decided = decision.decide_firm(subject, (name,), asked, registry, now, node.catalogue, kind, uses)
    told = {"right": decided.rule} if decided.allow else {"rule": decided.rule}
    return {"field": name, "allow": decided.allow, **told, "consents": list(decided.consents)}


def _ask_firm(node: "Node", request: Request) -> Answer:
    """Make, keep and write the signed request by which a firm is asked for a consent (R06, R17)."""
    now, firm, terms = node.clock.now(), _identifier(request["firm"]), dict(request["terms"])
    notice = _notice(Path(request["notice"]))
    days, out = terms.pop("days"), Path(request["out"])
    record = make_request(
        requester=node.party, key=node.identity.signing_key.public_hex, notice=notice, provider=node.party,
        subject_key=node.boundary.subject_key(firm), subject_type=_kind_of(firm), created_at=now, not_before=now,
        expires_at=after(now, days), catalogue_version=node.catalogue.digest[:16], **_persons(node, request), **terms,
    )  # fmt: skip
    signed = sign_record(record, [(node.party, node.identity.signing_key)])
    _write_new(out, [canonical.encode(signed)])
    node.register.import_records([signed])
    return {"consent_id": record["consent_id"], "state": "REQUESTED", "out": str(out)}


def _persons(node: "Node", request: Request) -> Answer:
    subjects = {node.boundary.subject_key(_identifier(name)): role for name, role in request["persons"]}
    if any(_kind_of(_identifier(name)) == "ENT" for name, _ in request["persons"]):
        raise InputFault("--person names an enterprise; a natural person signs for a person's own data (R09)")
    keys = node.store.firm_keys_of(subjects)
    if len(keys) < len(subjects):
        raise InputFault("a person who is to sign has no registered key; use `lianxin consent register` first")
    persons = [{"subject_key": one, "role": role, "key": keys[one]} for one, role in subjects.items()]
    return {"persons": persons} if persons else {}


def _notice(path: Path) -> Answer:
    try:
        notice: Answer = json.loads(path.read_bytes())
        check_notice(notice)
    except OSError:
        raise InputFault(f"{path} cannot be read; check the path of the notice") from None
    except ValueError:
        raise InputFault(f"{path} is no JSON; see docs/records.md, notice") from None
    except CryptoError as fault:
        raise InputFault(f"{path}: {str(fault).rstrip('.')}; mend the notice") from None
    return notice


def _prove(node: "Node", request: Request) -> Answer:
    """Prove a consent's state, or that there is none, under a head that this node signs now."""
    now, name = node.clock.now(), request["id"]
    made, index = node.register.published(now)
    node.ledger.checkpoint()
    proof = make_consent_proof(name, made.prove(name), prove_leaf(node.store, node.party, index))
    shown = verify_consent_proof(proof, node.identity.signing_key.public_hex)
    told = {"state": shown.state, "record_hash": shown.record_hash} if shown.state else {}
    found = {"consent_id": name, "present": bool(shown.state), "at": shown.at, "leaf": index}
    return found | {"snapshot_root": made.root.hex(), **told, "proof": proof}


def _export(node: "Node", request: Request) -> Answer:
    out = Path(request["out"])
    count = _write_new(out, node.store.iterate_registry())
    return {"out": str(out), "records": count}


def _write_new(path: Path, lines: Iterable[bytes]) -> int:
    """Write lines to a new file, whole or not at all, and return how many. Raises InputFault when it is there already."""
    draft, count = path.with_name(path.name + ".new"), 0
    if path.exists():
        raise InputFault(f"{path} exists already; choose another name")
    try:
        with draft.open("wb") as file:
            for line in lines:
                file.write(line + b"\n")
                count += 1
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError:
        raise InputFault(f"{path} cannot be written; check the folder") from None
    finally:
        draft.unlink(missing_ok=True)
    return count


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            yield from (line.rstrip(b"\n") for line in file)
    except OSError:
        raise InputFault(f"{path} cannot be read; check the path") from None


def _kind_of(identifier: str) -> str:
    return "NP" if is_id_card(identifier) and not is_uscc(identifier) else subject_type_of(identifier)


def _identifier(text: str) -> str:
    plain = normalise_identifier(text)
    if is_code_shaped(plain) and not is_id_card(plain):
        check_uscc(plain)
    if not plain:
        raise InputFault("a firm's code is empty; give it as it stands in the node's table")
    return plain
