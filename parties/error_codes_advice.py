"""What to do about an error where its sentence does not say it, by the part of the program that it comes from."""

import re
from typing import NamedTuple

from lianxin.parties.error_codes import Entry


class Part(NamedTuple):
    """A part of the program, which modules are in it, and what helps there."""

    title: str
    modules: str
    advice: str


PARTS = (
    Part(
        "The program itself",
        "",
        "Run the command again with `--debug` and report what it shows; its use is in `lianxin --help`.",
    ),
    Part(
        "Configuration and files",
        r"parties/(config|cli|new_files|coding_rules|catalogue|desensitise|scorecard_|report|opening|error_codes)",
        "Look at the named file, line or option, mend it and run the command again; nothing was started. "
        "`lianxin COMMAND --help` has an example, and the keys are in [configuration](configuration.md).",
    ),
    Part(
        "Tables and firms' codes",
        r"parties/(records|identifiers|coding|source_quality|tree_columns|preparation|withheld)",
        "Mend the named column or line of the table; rows are counted from the line under the header. "
        "What a table must have is in [reference](reference.md).",
    ),
    Part(
        "Consents, objections and the gate",
        r"parties/(consent|objections|boundary|decision|retention|lineage|outputs|quota)",
        "Look at the rule in [rules](rules.md): a right is missing, over or used up. Ask for the consent or the "
        "approval that is missing; `lianxin consent list` and `lianxin boundary` show what there is.",
    ),
    Part(
        "Nodes, keys and certificates",
        r"parties/(node|control|identity|key|clock|software|watch|doctor|limits|operator|institutions|usage|fault|fail)",
        "Run `lianxin doctor` with the node's file: it names what is wrong with clock, disk, ports, certificates, keys "
        "and store, and says what to do.",
    ),
    Part(
        "Store and ledger",
        r"parties/(store|ledger|checkpoint|transcript|trace|sums_kept|plan_kept|commitments)",
        "Stop the node, keep a copy of its state folder, and check it with `lianxin ledger check`; go back to the last "
        "backup where the ledger does not verify.",
    ),
    Part(
        "Queries and scores",
        r"parties/(query|score)",
        "Check the standing agreement, its quota and the firms' consents, then ask again.",
    ),
    Part(
        "Evidence",
        r"parties/(auditor|pack_export|verdict)|crypto/(merkle|notes|snapshot|transcript|tiles|frontier|canonical)",
        "Nothing of this evidence is to be believed until its giver has explained it: ask for the pack again, and "
        "compare what both sides hold ([the auditor's checks](audit.md)).",
    ),
    Part(
        "Runs",
        r"parties/",
        "`lianxin platform status` and `lianxin bank status` show where a run stands on each node. Mend the cause that "
        "the sentence names, then launch the run again under another id.",
    ),
    Part(
        "The conversation with a peer",
        r"federation/",
        "A peer broke the protocol, is gone or cannot be reached. Compare the rule in [reference](reference.md#rules) "
        "with that node's log, and ask its operator; the run is launched again when both agree on the cause.",
    ),
    Part(
        "Numbers and proofs",
        r"crypto/",
        "A number, key or proof did not stand its check. Do not go on with it: ask the giver for it again; if it comes "
        "back the same, exclude the giver and keep the evidence.",
    ),
    Part(
        "Simulations",
        r"simulations/",
        "Only a simulation is concerned. Choose other options or an empty folder; `lianxin simulate COMMAND --help` "
        "has an example.",
    ),
)
_ADVISES = re.compile(
    r"(add|allow|ask|begin|check|choose|compare|copy|declare|delete|end|export|find|fix|free|get|give|go back|install|keep|"
    r"launch|leave|let|look|lower|make|mend|move|name|open|print|put|raise|read|remove|repair|restart|run|see|send|set|show|"
    r"sign|split|start|stop|take|try|turn|update|upgrade|use|wait|write)\b"
)
_LINK = re.compile(r"\[([^]]+)\]\(([^)]+)\)")


def part_of(entry: Entry) -> Part:
    """Return the part of the program that an error comes from."""
    named = (part for part in PARTS if part.modules and re.match(part.modules, entry.module))
    return PARTS[0] if not entry.module else next(named, PARTS[0])


def advice_of(entry: Entry) -> str:
    """Return what to do: the end of the sentence where that says it, else what helps in its part."""
    *_, last = re.split(r"; |, (?=ask )|: (?=ask )", entry.sentence)
    if _ADVISES.match(last) and last != entry.sentence:
        return f"{last[0].upper()}{last[1:].rstrip('.')}."
    return part_of(entry).advice


def without_links(text: str) -> str:
    """Return a text of the page for a terminal: the files under docs in place of links to them."""
    return _LINK.sub(r"\1 (docs/\2)", text)
