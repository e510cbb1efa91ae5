"""The report as HTML: escaping, numbers, tables and the one stylesheet. Everything that enters a page enters here.

Names of parties, fields and rules come from other organisations, so `text` is the only way from a value to markup: it
escapes, and shows characters that do not print (among them the ones that reverse the reading direction) as U+FFFD.
The page carries a policy that forbids scripts and any load from elsewhere, in case an escape is ever missed.
"""

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real

from lianxin.parties.language import page_told

DASH = "–"
UNPRINTABLE = "\ufffd"
NAMED = {"malicious": "what a malicious side could read", "ok": "passed"}


@dataclass(frozen=True)
class Part:
    """A section of the page: its anchor, its heading and its finished inner HTML."""

    anchor: str
    title: str
    body: str


def plain(value: object) -> str:
    """Return a value as one line of readable text without control characters: `–` for None, 4 digits for a float."""
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Real):
        return f"{float(value):.4g}"
    if isinstance(value, Mapping):
        return "; ".join(f"{plain(key)}: {plain(item)}" for key, item in value.items()) or DASH
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(plain(item) for item in value) or DASH
    return "".join(character if character.isprintable() else UNPRINTABLE for character in str(value))


def text(value: object) -> str:
    """Return `plain(value)` escaped for HTML, also inside attributes."""
    return html.escape(plain(value), quote=True)


def figure_number(value: object, signed: bool = False) -> str:
    """Return an AUC, KS or difference with four decimals, `–` for anything that is not a number."""
    if isinstance(value, bool) or not isinstance(value, Real) or value != value:
        return DASH
    return f"{float(value):+.4f}".replace("-", "−") if signed else f"{float(value):.4f}".replace("-", "−")


def size(value: object) -> str:
    """Return a number of bytes in decimal units, other values as `plain` shows them."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return plain(value)
    amount = float(value)
    for unit in ("bytes", "kB", "MB", "GB"):
        if amount < 1000 or unit == "GB":
            return f"{amount:,.0f} {unit}" if unit == "bytes" else f"{amount:,.1f} {unit}"
        amount /= 1000
    raise AssertionError("the last unit has no upper end")


def duration(value: object) -> str:
    """Return a number of seconds as a person reads it, other values as `plain` shows them."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return plain(value)
    if value < 120:
        return f"{float(value):.1f} s"
    minutes, seconds = divmod(round(float(value)), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {seconds} s"


def paragraph(content: str, kind: str = "") -> str:
    """Return finished HTML as a paragraph of a class of the stylesheet."""
    return f'<p class="{kind}">{content}</p>' if kind else f"<p>{content}</p>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = (), caption: str = "") -> str:
    """Return a table of finished cells; `numbers` are the places of right-aligned columns.

    A wide table scrolls by itself on a narrow screen; its caption stands above and does not.
    """
    right = set(numbers)
    lines = "".join(_row("td", row, right) for row in rows)
    title = paragraph(caption, "caption") if caption else ""
    shape = ' class="narrow"' if len(head) <= 2 else ""
    lines = f"<thead>{_row('th', head, right)}</thead><tbody>{lines}</tbody>"
    return f'{title}<div class="scroll" tabindex="0"><table{shape}>{lines}</table></div>'


def _row(cell: str, contents: Sequence[str], right: set[int]) -> str:
    scope = ' scope="col"' if cell == "th" else ""
    cells = (
        f"<{cell}{scope}{' class=n' if place in right else ''}>{content}</{cell}>"
        for place, content in enumerate(contents)
    )
    return f"<tr>{''.join(cells)}</tr>"


def records(items: Sequence[object], known: Sequence[str]) -> str:
    """Return a table of mappings: the `known` keys that occur, in that order, then any others; text items fill one."""
    mappings = [item if isinstance(item, Mapping) else {"note": item} for item in items]
    present = dict.fromkeys(key for item in mappings for key in item)
    keys = [key for key in known if key in present] + [key for key in present if key not in known]
    numeric = {key for key in keys if all(_is_number(item.get(key)) for item in mappings)}
    head = [text(heading(key)) for key in keys]
    rows = [[text(item.get(key)) for key in keys] for item in mappings]
    return table(head, rows, [place for place, key in enumerate(keys) if place and key in numeric])


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, Real) and not isinstance(value, bool))


def facts(pairs: Iterable[tuple[str, object]]) -> str:
    """Return a definition list of the pairs whose value is given."""
    lines = "".join(
        f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in pairs if value not in (None, "")
    )
    return f"<dl>{lines}</dl>" if lines else ""


def heading(key: object) -> str:
    """Return a key of the summary as a heading: underscores to spaces, first letter upper."""
    words = NAMED.get(str(key), plain(key).replace("_", " "))
    return words[:1].upper() + words[1:]


def page(title: str, header: str, parts: Sequence[Part]) -> str:
    """Return the whole document; `title` is raw text, the rest is finished HTML."""
    links = " ".join(f'<a href="#{part.anchor}">{text(part.title)}</a>' for part in parts)
    sections = "".join(
        f'<section id="{part.anchor}"><h2>{text(part.title)}</h2>{part.body}</section>\n' for part in parts
    )
    return page_told(
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{STYLE}</style></head>\n<body><main>\n"
        f"<header>{header}</header>\n{f'<nav>{links}</nav>' if parts else ''}\n{sections}</main></body></html>\n"
    )


STYLE = """
:root{--ink:#1d2530;--soft:#5b6675;--line:#d9dee5;--wash:#f5f7f9;--alarm:#a3261b;--watch:#8a5a0b;--fine:#1f6b45;
--sans:"Helvetica Neue",Helvetica,Arial,"PingFang SC","Hiragino Sans GB","Microsoft YaHei","Noto Sans CJK SC",
"Noto Sans SC","Source Han Sans SC","WenQuanYi Micro Hei",sans-serif;
--serif:Georgia,"Times New Roman","Songti SC",STSong,"Noto Serif CJK SC","Source Han Serif SC",SimSun,serif}
*{box-sizing:border-box}
body{margin:0;background:#fff;color:var(--ink);font:15px/1.55 var(--sans);-webkit-text-size-adjust:100%}
main{max-width:1000px;margin:0 auto;padding:2.2rem 1.4rem 4rem}
h1,h2,h3{font-family:var(--serif);font-weight:600;line-height:1.25;overflow-wrap:anywhere}
h1{font-size:1.9rem;margin:.2rem 0 .8rem}
h2{font-size:1.25rem;margin:2.8rem 0 .6rem;padding-top:.7rem;border-top:1px solid var(--line)}
h3{font-size:1rem;margin:1.5rem 0 .4rem}
p{margin:.5rem 0;max-width:46rem;overflow-wrap:anywhere}
.notice{font-weight:700;border-left:4px solid #b7791f;background:#fdf7ea;padding:.6rem .9rem;max-width:none;
margin:0 0 1.4rem}
.lead{font-family:var(--serif);font-size:1.12rem;line-height:1.6}
.reason,figcaption,.caption,.small{color:var(--soft);font-size:.86rem}
.reason{font-style:italic}
nav{margin:1.2rem 0 0;font-size:.86rem;display:flex;flex-wrap:wrap;gap:.2rem 1.1rem}
nav a{color:#1f4e8c;text-decoration:none}
nav a:hover{text-decoration:underline}
dl{display:grid;grid-template-columns:repeat(auto-fill,minmax(215px,1fr));gap:.6rem 1.4rem;margin:.9rem 0}
dt{color:var(--soft);font-size:.78rem}
dd{margin:0;overflow-wrap:anywhere}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:.7rem;margin:1rem 0}
.cards div{background:var(--wash);border-top:3px solid var(--c,#5b6675);padding:.6rem .8rem}
.cards b{display:block;font:600 1.55rem/1.2 var(--serif);font-variant-numeric:tabular-nums}
.cards span{color:var(--soft);font-size:.82rem}
.scroll{overflow-x:auto;margin:.8rem 0}
table{border-collapse:collapse;width:100%;font-size:.88rem;font-variant-numeric:tabular-nums}
.caption{margin:1.3rem 0 0;max-width:none}
.caption b{color:var(--ink)}
.caption+.scroll{margin-top:.3rem}
.narrow{width:auto;min-width:18rem}
th,td{text-align:left;vertical-align:top;padding:.34rem .7rem .34rem 0;border-bottom:1px solid var(--line)}
th{font-weight:600;color:var(--soft);font-size:.8rem;border-bottom-color:#aab4c0}
th:last-child,td:last-child{padding-right:.1rem}
.n{text-align:right;white-space:nowrap}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(290px,1fr));gap:1rem 1.6rem;margin:1rem 0}
.banks{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,430px),1fr));gap:1rem 2rem}
.banks .plots{grid-template-columns:repeat(auto-fit,minmax(200px,1fr));gap:.4rem .8rem;margin:0}
.banks h3{font-family:var(--sans);font-size:.9rem}
.wideplot{overflow-x:auto}
.wideplot svg{min-width:540px}
figure{margin:0;break-inside:avoid}
figure svg{display:block;width:100%;height:auto}
figure svg text{font-family:var(--sans)!important}
figcaption{margin-top:.2rem}
.key{display:flex;flex-wrap:wrap;gap:.15rem 1.1rem;font-size:.86rem;margin:.4rem 0}
.key i{display:inline-block;width:1.7rem;border-top:3px solid var(--c);margin-right:.4rem;vertical-align:middle}
.woe{display:grid;grid-template-columns:repeat(auto-fill,minmax(290px,1fr));gap:1.2rem 2rem;align-items:start}
.woe div.scroll{margin:.2rem 0}
.woe h3{font-family:var(--sans);font-size:.9rem;margin:.2rem 0}
.woe h3 small{font-weight:400;color:var(--soft)}
.woe article{break-inside:avoid;min-width:0}
.bar{display:inline-block;position:relative;width:90px;height:.62rem;background:var(--wash)}
.bar i{position:absolute;top:0;bottom:0}
.form{display:inline-block;font-size:.74rem;letter-spacing:.03em;padding:0 .4rem;border:1px solid #aab4c0;
border-radius:2px;color:var(--soft);white-space:nowrap}
.form.open{color:var(--alarm);border-color:var(--alarm)}
.form.watch{color:var(--watch);border-color:var(--watch)}
.good{color:var(--fine);font-weight:700}
.bad{color:var(--alarm);font-weight:700}
.watched{color:var(--watch);font-weight:700}
code{font:.82rem/1.4 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}
@media (max-width:560px){main{padding:1.2rem .9rem 3rem}h1{font-size:1.5rem}.lead{font-size:1.03rem}}
@media print{@page{margin:16mm}body{font-size:10.5pt}main{padding:0;max-width:none}nav{display:none}
h2,h3{break-after:avoid}tr{break-inside:avoid}.scroll{overflow:visible}
*{-webkit-print-color-adjust:exact;print-color-adjust:exact}}
"""
