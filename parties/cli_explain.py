"""`lianxin explain`: what an error's code, or a rule of a log, stands for, and what to do about it."""

import json
from typing import Annotated

import typer

PAGE = "docs/errors.md"


def explain(
    code: Annotated[str, typer.Argument(help="A code from an error's end, such as LX-1001, or a rule, such as R02.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what an error's code stands for: its sentence, its class, its rule and what to do; or what a rule refuses.

    Example: lianxin explain LX-0002
    """
    from lianxin.parties.rule_words import words_of

    if words_of(code.upper()):
        _explain_rule(code.upper(), as_json)
        return
    from lianxin.parties.error_codes import explain as found
    from lianxin.parties.error_codes_advice import advice_of, part_of, without_links

    entry = found(code)
    told = {
        "code": entry.code, "sentence": entry.sentence.replace("{}", "…"), "class": entry.kind, "rule": entry.rule,
        "part": part_of(entry).title, "what_to_do": without_links(advice_of(entry)), "page": f"{PAGE}#{entry.code.lower()}",
        "is_in_use": bool(entry.functions or not entry.module),
    }  # fmt: skip
    if as_json:
        typer.echo(json.dumps(told))
        return
    rule = f", rule {entry.rule}" if entry.rule else ""
    typer.echo(
        f"{entry.code} ({entry.kind}{rule}): {told['sentence']}\nWhat to do: {told['what_to_do']}\nMore: {told['page']}"
    )


def _explain_rule(rule: str, as_json: bool) -> None:
    from lianxin.parties.rule_words import explained

    told = explained(rule)
    if as_json:
        typer.echo(json.dumps(told, ensure_ascii=False))
        return
    asks = f"It asks: {told['asks']} ({told['source']})\n" if told["asks"] else ""
    codes = f"Said by: {', '.join(told['codes'])}\n" if told["codes"] else ""
    more = " and ".join(told["pages"])
    typer.echo(f"{rule} (rule): {told['words']}\n{asks}What to do: {told['what_to_do']}\n{codes}More: {more}")
