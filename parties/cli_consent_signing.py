"""Commands of whoever signs: make a key, read and sign a request, refuse, pause, resume."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lianxin.federation.errors import InputFault

if TYPE_CHECKING:
    from lianxin.crypto.signing import SigningKey

consent = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Consents: ask, sign, withdraw, keep, look.")
KeyFile = Annotated[Path, typer.Option("--key", help="The signer's key file.")]
Out = Annotated[Path, typer.Option("--out", help="The file to write.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]
Yes = Annotated[bool, typer.Option("--yes", help="Sign without being asked; by default nothing is signed unasked.")]
SignedFile = Annotated[Path, typer.Argument(help="A consent, or the request for one.")]


def tell(answer: Mapping[str, Any], as_json: bool, *sentences: str) -> None:
    """Print an answer as one JSON object, or these sentences."""
    if as_json:
        typer.echo(json.dumps({key: answer[key] for key in answer if key != "ok"}, ensure_ascii=False))
        return
    for sentence in sentences:
        typer.echo(sentence)


def _now() -> str:
    from lianxin.parties.clock import SystemClock

    return SystemClock().now()


def _agree(question: str, yes: bool) -> None:
    if not yes and typer.prompt(f'{question} Type "yes"', default="", show_default=False) != "yes":
        raise InputFault("nothing was signed")


@consent.command("key")
def key(out: Out, as_json: AsJson = False) -> None:
    """Make a signer's key; its public half is what the provider registers.

    Example: lianxin consent key --out firm.key
    """
    from lianxin.crypto.randomness import system_seed
    from lianxin.parties.consent_signing import make_firm_key

    public = make_firm_key(out, system_seed())
    tell({"public": public, "out": str(out)}, as_json, f"public key {public}", f"keep {out} to yourself")


@consent.command("sign")
def sign(
    file: SignedFile, out: Out,
    key_file: Annotated[Path | None, typer.Option("--key", help="The signer's key file.")] = None,
    is_attested: Annotated[bool, typer.Option("--attest", help="Attest an e-signature verified elsewhere.")] = False,
    identity: Annotated[Path | None, typer.Option("--identity", help="The attesting institution's folder.")] = None,
    evidence: Annotated[Path | None, typer.Option("--evidence", help="The evidence kept of that signature.")] = None,
    method: Annotated[str, typer.Option(help="How the signature was made and verified.")] = "electronic signature",
    is_separate: Annotated[bool, typer.Option("--separate", help="I consent to this separately, as a person.")] = False,
    is_written: Annotated[bool, typer.Option("--written", help="I consent to this in writing.")] = False,
    yes: Yes = False, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Read in plain words what would be given, then sign; a person named in a consent adds its signature in turn.

    Example: lianxin consent sign request.json --key firm.key --out consent.json
    """
    from lianxin.parties import consent_signing as desk

    signed = desk.read_signed(file)
    is_request = signed["record"]["type"] == "consent-request"
    record = desk.checked_request(signed) if is_request else signed["record"]
    if record["type"] not in ("consent-request", "consent") or (record["version"] == 1 and not is_request):
        raise InputFault(f"{file} holds neither a request nor a consent that waits for signatures")
    for line in desk.in_words(record):
        typer.echo(line, err=as_json)
    flags = {"is_separate": is_separate, "is_written": is_written}
    if is_attested:
        if identity is None or evidence is None or not is_request:
            raise InputFault("--attest needs a request, --identity and --evidence")
        _agree("Attest that the firm has signed this?", yes)
        made = desk.attest(record, _identity(identity), _bytes(evidence), method, _now(), **flags)
    else:
        own = _key(key_file)
        _agree("Sign?", yes)
        made = desk.give(record, own, _now(), **flags) if is_request else desk.add_signature(signed, own)
    desk.write_signed(out, made)
    missing = desk.missing_signatures(made)
    told = {"consent_id": made["record"]["consent_id"], "out": str(out), "missing_signatures": missing}
    tell(told, as_json, f"signed {out}" + (f"; {missing} more must sign" if missing else ""))


def _identity(folder: Path) -> Any:
    from lianxin.parties.identity import load_identity

    return load_identity(folder)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        raise InputFault(f"{path} cannot be read; check the path") from None


def _key(path: Path | None) -> "SigningKey":
    from lianxin.parties.consent_signing import load_firm_key

    if path is None:
        raise InputFault("--key is missing; name the signer's key file")
    return load_firm_key(path)


def sign_act(what: str, file: Path, key_file: Path | None, out: Path, as_json: bool, also: Sequence[str] = ()) -> None:
    """Write the signed revocation, pause, resume or refusal of what a file holds, and one for each consent id of `also`."""
    from lianxin.parties import consent_signing as desk

    record = desk.read_signed(file)["record"]
    if record["type"] not in ("consent", "consent-request"):
        raise InputFault(f"{file} holds no consent or request; name the file that you signed or were given")
    key, now, names = _key(key_file), _now(), [record["consent_id"], *also]
    desk.write_signed(out, *(desk.act(what, record | {"consent_id": name}, key, now) for name in names))
    told = {"consent_id": record["consent_id"], "record": what, "records": len(names), "out": str(out)}
    tell(told, as_json, f"wrote {out}; give it to {record['provider']}")


@consent.command("refuse")
def refuse(file: SignedFile, key_file: KeyFile, out: Out, as_json: AsJson = False) -> None:
    """Refuse a request; the same may not be asked of you again for 30 days.

    Example: lianxin consent refuse request.json --key firm.key --out refusal.json
    """
    sign_act("refusal", file, key_file, out, as_json)


@consent.command("pause")
def pause(file: SignedFile, key_file: KeyFile, out: Out, as_json: AsJson = False) -> None:
    """Pause your consent until you resume it.

    Example: lianxin consent pause consent.json --key firm.key --out pause.json
    """
    sign_act("pause", file, key_file, out, as_json)


@consent.command("resume")
def resume(file: SignedFile, key_file: KeyFile, out: Out, as_json: AsJson = False) -> None:
    """End your own pause of a consent.

    Example: lianxin consent resume consent.json --key firm.key --out resume.json
    """
    sign_act("resume", file, key_file, out, as_json)
