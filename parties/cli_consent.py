"""Commands of an operator about a node's registry of consents; those of whoever signs are in `cli_consent_signing`."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from lianxin.federation.errors import EvidenceRejected, GateRefused, InputFault
from lianxin.parties.cli_consent_signing import AsJson, Out, SignedFile, consent, sign_act, tell

NodeFile = Annotated[Path, typer.Option("--node", help="The node's TOML file; the node may be running.")]
Firm = Annotated[str, typer.Option("--firm", help="The firm's or person's code, as in the node's table.")]
Purpose = Annotated[str, typer.Option("--purpose", help="P1 to P8.")]
Recipient = Annotated[str, typer.Option("--recipient", help="The one party that would receive.")]
Fields = Annotated[str, typer.Option("--fields", help="Catalogue ids, joined by commas.")]
Mode = Annotated[str, typer.Option("--mode", help="COMPUTE_ONLY, SCORE_ONLY, DESENSITISED or PLAINTEXT.")]
DEADLINE_S = 600.0


def _at_node(config: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answer of a node: of the running one through its socket, else of this process that opens it."""
    from lianxin.parties.config import load_node
    from lianxin.parties.consent_desk import answer
    from lianxin.parties.control import SOCKET, ask
    from lianxin.parties.node import open_node

    settings = load_node(config)
    if (settings.state / SOCKET).exists():
        with suppress(InputFault):  # nobody serves the socket: `open_node` goes on, or says that a node runs
            return ask(settings.state, {"do": "consents", **request}, deadline_s=DEADLINE_S)
    node = open_node(settings)
    try:
        return answer(node, request)
    finally:
        node.close()


@consent.command("register")
def register(
    config: NodeFile, firm: Firm, public: Annotated[str, typer.Option("--public", help="Its public key, 64 hex digits.")],
    operator: Annotated[str, typer.Option(help="Who registers it; named in the ledger, by default the node's.")] = "",
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Register a signer's public key at a provider, once; check first, by your own means, whose it is.

    Example: lianxin consent register --node platform.toml --firm 91110000600037341L --public 1f0c... --operator li
    """
    answer = _at_node(config, {"what": "register", "firm": firm, "key": public, "operator": operator})
    tell(answer, as_json, f"registered for subject {answer['subject']}, {answer['subject_type']}")


@consent.command("notice")
def notice(
    file: Annotated[Path, typer.Argument(help="The notice, JSON: who, purpose, method, kinds, retention, rights.")],
    config: NodeFile, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Put a notice on file at a provider, for consents that were given on it without a request.

    Example: lianxin consent notice notice.json --node platform.toml
    """
    answer = _at_node(config, {"what": "notice", "file": str(file.resolve())})
    tell(answer, as_json, f"notice {answer['notice_hash']} is on file")


@consent.command("request")
def request(
    config: NodeFile, firm: Firm, recipient: Recipient, purpose: Purpose, fields: Fields, mode: Mode, out: Out,
    notice: Annotated[Path, typer.Option("--notice", help="The notice, JSON: who, purpose, method, kinds, retention, rights.")],
    consent_id: Annotated[str, typer.Option("--id", help="The consent's id, new and of your choice.")],
    days: Annotated[int, typer.Option(help="How long it would last, from now.", min=1)] = 30,
    uses: Annotated[int, typer.Option(help="How often it may be used; 0 for no limit.", min=0)] = 1,
    data_life_days: Annotated[int, typer.Option(help="How long the recipient keeps what it got.", min=0)] = 30,
    frequency: Annotated[str, typer.Option(help="daily, weekly, monthly, quarterly or yearly; without it once.")] = "",
    necessity: Annotated[str, typer.Option(help="Why sensitive data are needed.")] = "",
    impact: Annotated[str, typer.Option(help="What it means for the person.")] = "",
    application: Annotated[str, typer.Option(help="The business that it is for.")] = "",
    person: Annotated[list[str] | None, typer.Option("--person", help="CODE:ROLE of a person who signs too.")] = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Ask a firm for a consent: keep the request, signed by the node, and write it for the firm to read and sign.

    Example: lianxin consent request --node p.toml --firm 91110000600037341L --recipient bank-a --purpose P2
    --fields staff_count --mode PLAINTEXT --notice notice.json --id c-1 --out request.json
    """
    given = {"max_uses": uses, "frequency": frequency, "necessity_text": necessity, "impact_text": impact}
    terms = {
        "consent_id": consent_id, "recipient": recipient, "purpose": purpose, "fields": _split(fields), "mode": mode,
        "fetch": "PERIODIC" if frequency else "ONETIME", "data_life_days": data_life_days, "days": days,
        **{name: value for name, value in (given | {"application_ref": application}).items() if value},
    }  # fmt: skip
    asked = {
        "what": "request",
        "firm": firm,
        "terms": terms,
        "notice": str(notice.resolve()),
        "out": str(out.resolve()),
    }
    answer = _at_node(config, asked | {"persons": [_person(one) for one in person or []]})
    tell(answer, as_json, f"{consent_id} is requested; give {out} to the firm")


def _person(text: str) -> list[str]:
    code, _, role = text.rpartition(":")
    if not code:
        raise InputFault("--person is CODE:ROLE, with a role such as legal_rep or shareholder")
    return [code, role]


def _split(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


@consent.command("revoke")
def revoke(
    file: SignedFile,
    config: Annotated[
        Path | None, typer.Option("--node", help="The provider's node: FILE is a signed revocation.")
    ] = None,
    key_file: Annotated[
        Path | None, typer.Option("--key", help="The signer's key: FILE is the consent to end.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Where --key writes the signed revocation.")] = None,
    also: Annotated[list[str] | None, typer.Option(help="The id of one more consent to end, with --key.")] = None,
    as_json: AsJson = False,
) -> None:
    """Withdraw a consent: the firm signs the revocation of it with --key; a provider takes one in with --node.

    A revocation ends one consent: the provider says which older ones for the same recipient and purpose still live.

    Example: lianxin consent revoke consent.json --key firm.key --out revocation.json --also c-0
    """
    if (key_file is None) == (config is None) or (key_file is None) != (out is None):
        raise InputFault("give --key and --out to sign a revocation, or --node to take a signed one in")
    if config is None:
        sign_act("revocation", file, key_file, out or file, as_json, also or ())
        return
    if also:
        raise InputFault("--also goes with --key: only the signer can end its other consents")
    answer = _at_node(config, {"what": "revoke", "file": str(file.resolve())})
    lines = [f"{name} is revoked; nothing is released by it from here on" for name in answer["revoked"]]
    lines += [f"{name} of the same subject, recipient and purpose is still live" for name in answer["still_live"]]
    tell(answer, as_json, *lines)


@consent.command("import")
def import_files(
    config: NodeFile,
    files: Annotated[list[Path], typer.Argument(help="Signed records, a line each; each file wholly or not at all.")],
    as_json: AsJson = False,
) -> None:
    """Take signed consents, revocations, refusals and pauses into a node's registry.

    Example: lianxin consent import consents.jsonl --node platform.toml
    """
    answer = _at_node(config, {"what": "import", "files": [str(path.resolve()) for path in files]})
    tell(answer, as_json, *(f"{count} from {Path(name).name}" for name, count in answer["taken"].items()))


@consent.command("grant")
def grant(file: SignedFile, config: NodeFile, as_json: AsJson = False) -> None:
    """Take one signed consent into a node's registry, and say in which state it is.

    Example: lianxin consent grant consent.json --node platform.toml
    """
    from lianxin.parties.consent_signing import missing_signatures, read_signed

    signed = read_signed(file)
    if signed["record"]["type"] != "consent":
        raise InputFault(f"{file} holds no consent; `lianxin consent import` takes other records")
    if missing := missing_signatures(signed):
        raise InputFault(f"{missing} of its grantors have still to sign {file}; hand it on to them")
    _at_node(config, {"what": "import", "files": [str(file.resolve())]})
    answer = _at_node(config, {"what": "show", "id": signed["record"]["consent_id"]})
    told = {"consent_id": answer["consent_id"], "state": answer["state"]}
    tell(told, as_json, f"{answer['consent_id']} is {answer['state']}")


@consent.command("show")
def show(
    consent_id: Annotated[str, typer.Argument(help="The consent's id.")], config: NodeFile, as_json: AsJson = False
) -> None:
    """Show a consent: its state, its terms and every record about it.

    Example: lianxin consent show c-1 --node platform.toml
    """
    answer = _at_node(config, {"what": "show", "id": consent_id})
    lines = [f"{consent_id} is {answer['state']}, used {answer['uses']} times"]
    for record in answer["records"]:
        lines += [
            f"{record['type']}:",
            *(f"  {name}: {_text(value)}" for name, value in record.items() if name != "type"),
        ]
    tell(answer, as_json, *lines)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@consent.command("list")
def list_all(
    config: NodeFile,
    state: Annotated[str, typer.Option(help="Only those in this state, such as ACTIVE.")] = "",
    as_json: AsJson = False,
) -> None:
    """List a node's consents and requests with their states; subjects by the first digits of their keys.

    Example: lianxin consent list --node platform.toml --state ACTIVE
    """
    rows, start, answer = list[Any](), 0, dict[str, Any]()
    while start < answer.get("total", 1):
        answer = _at_node(config, {"what": "list", "state": state, "from": start})
        start = answer["next"]
        rows += answer["consents"]
    words = ("consent_id", "state", "subject", "recipient", "purpose", "mode", "expires_at")
    lines = ["  ".join(str(row.get(name, "-")) for name in words) for row in rows]
    tell({"consents": rows, "epoch": answer["epoch"]}, as_json, *lines, f"{len(rows)} consents and requests")


@consent.command("check")
def check(
    firm: Annotated[str, typer.Argument(help="The firm's code.")],
    config: NodeFile, fields: Fields, purpose: Purpose, recipient: Recipient, mode: Mode = "PLAINTEXT",
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Say what the gate would answer and by which rule, under an agreement that lists these fields; nothing is released.

    Example: lianxin consent check 91110000600037341L --fields staff_count --purpose P2 --recipient bank-a --node platform.toml
    """
    asked = {"what": "check", "firm": firm, "fields": _split(fields), "purpose": purpose}
    answer = _at_node(config, asked | {"recipient": recipient, "mode": mode})
    lines = [f"{one['field']}: " + _verdict(one) for one in answer["fields"]]
    lines += [f"consent {one['consent_id']} is {one['state']}" for one in answer["consents"]]
    tell(answer, as_json, *lines)
    refused = [one["rule"] for one in answer["fields"] if not one["allow"]]
    if refused:
        raise GateRefused(f"the gate would refuse {len(refused)} of {len(answer['fields'])} fields", refused[0])


def _verdict(one: Mapping[str, Any]) -> str:
    return (
        f"would cross ({one['right']} {' '.join(one['consents'])})".replace(" )", ")") if one["allow"] else one["rule"]
    )


@consent.command("prove")
def prove(
    consent_id: Annotated[str, typer.Argument(help="The consent's id, known or not.")], config: NodeFile, out: Out,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Write the proof that a consent is in the registry now, and in which state, or that it is not: a leaf and its head.

    Example: lianxin consent prove c-1 --node platform.toml --out proof.json
    """
    from lianxin.parties.consent_signing import write_signed

    answer = _at_node(config, {"what": "prove", "id": consent_id})
    write_signed(out, answer["proof"])
    how = f"is there, {answer['state']}" if answer["present"] else "is not there"
    tell(answer, as_json, f"{consent_id} {how} at {answer['at']}; snapshot {answer['snapshot_root']}")


@consent.command("verify-proof")
def verify_proof(
    file: Annotated[Path, typer.Argument(help="A proof that `lianxin consent prove` wrote.")],
    key: Annotated[str, typer.Option("--key", help="The provider's node key, in hex.")],
    as_json: AsJson = False,
) -> None:
    """Check a proof of a consent with nothing but the provider's node key.

    Example: lianxin consent verify-proof proof.json --key 3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29
    """
    from lianxin.crypto import canonical
    from lianxin.crypto.errors import CryptoError
    from lianxin.parties.consent_proof import verify_consent_proof

    try:
        shown = verify_consent_proof(canonical.decode_fragment(file.read_bytes().removesuffix(b"\n")), key)
    except OSError:
        raise InputFault(f"{file} cannot be read; check the path") from None
    except CryptoError as fault:
        raise EvidenceRejected(f"{file}: {fault}") from None
    how = f"was {shown.state}, record {shown.record_hash}" if shown.state else "was not in the registry"
    tell(shown._asdict() | {"ok": True}, as_json, f"{shown.consent_id} {how} at {shown.at}, says {shown.party}")


@consent.command("export")
def export(config: NodeFile, out: Out, as_json: AsJson = False) -> None:
    """Write a node's whole registry, a signed record a line, in its order.

    Example: lianxin consent export --node platform.toml --out registry.jsonl
    """
    answer = _at_node(config, {"what": "export", "out": str(out.resolve())})
    tell(answer, as_json, f"{answer['records']} records in {out}")
