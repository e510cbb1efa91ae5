"""What an auditor checks of one party's messages: signed headers, their order, their terms, the releases behind them.

Whether the other end knows each of them is `auditor_receipts`'s part.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from lianxin.crypto import canonical, signing
from lianxin.crypto.errors import CryptoError
from lianxin.parties.auditor_evidence import HEADER, Evidence, Finding, Record, Run, fits

GENESIS = "0" * 64
FREE_FORMS = frozenset({"CONTROL", "PUBLIC"})
ROW_MODES = frozenset({"COMPUTE_ONLY", "SCORE_ONLY", "DESENSITISED", "PLAINTEXT", "SPLITS"})
FITTING_MODES = {  # the auditor's own copy of what a sender's session keeps to (docs/crossings.md)
    "AGGREGATE": frozenset({"AGGREGATE"}), "DESENSITISED": frozenset({"DESENSITISED", "PLAINTEXT"}),
    "PLAIN": frozenset({"PLAINTEXT"}),
}  # fmt: skip
END_EVENTS = frozenset({"finished", "failed", "ended"})
SCORE_STEPS = frozenset({"scoring.points", "scoring.answer"})
SPLIT_STEPS = frozenset({"boosting.histogram", "boosting.split", "boosting.score", "scoring.answer"})
ROW_FORMS = frozenset({"PSEUDONYM", "CIPHERTEXT", "DESENSITISED", "PLAIN"})  # these say something of rows, one by one


def envelope_findings(run: Run, own: Evidence) -> Iterator[Finding]:
    """Yield the envelope leaves that are not backed by a header signed by its sender."""
    crossings, envelopes = own.crossings(run.id), own.records["envelopes"]
    if len(crossings) != len(envelopes):
        yield Finding(
            f"{own.party}: {len(crossings)} leaves of envelopes and {len(envelopes)} envelopes",
            f"ask {own.party} for the headers of all that crossed",
        )
    for (index, leaf), envelope in zip(crossings, envelopes, strict=False):
        reason = _envelope_fault(run, own, leaf, envelope)
        if reason:
            yield Finding(f"{own.party}, leaf {index}: {reason}", f"ask {own.party} and {leaf['peer']} for the header")


def _envelope_fault(run: Run, own: Evidence, leaf: Record, envelope: Record) -> str:
    header: Any = envelope.get("header")
    if not fits(header, HEADER) or header.get("type") != "envelope":
        return "the envelope's header is malformed"
    data = canonical.encode(header)
    if hashlib.sha256(data).hexdigest() != leaf["message_hash"]:
        return "the header is not the one whose hash the leaf holds"
    try:
        signature = bytes.fromhex(envelope.get("signature", ""))
        signing.verify(run.node_keys.get(header["sender"], ""), "envelope", data, signature)
    except (CryptoError, ValueError, TypeError):
        return "the header is not signed by its sender's node key"
    ends = (own.party, leaf["peer"]) if leaf["direction"] == "out" else (leaf["peer"], own.party)
    shared = ("conversation", "step", "round", "seq", "message_type", "payload_hash")
    if (header["sender"], header["recipient"]) != ends or any(header[name] != leaf[name] for name in shared):
        return "the leaf says something else than the signed header"
    return ""


def sequence_findings(run: Run, own: Evidence) -> Iterator[Finding]:
    """Yield the gaps in a sender's numbers and chain of hashes within a conversation."""
    ends: dict[tuple[str, str], tuple[int, str]] = defaultdict(lambda: (0, GENESIS))
    for header in own.headers():
        place = (header["conversation"], header["sender"])
        seq, previous = ends[place]
        if (header["seq"], header["previous"]) != (seq, previous):
            what = f"{place[1]}'s envelope {header['seq']} does not follow its envelope {seq - 1}"
            yield Finding(f"{own.party}, {place[0]}: {what}", f"ask {place[1]} for what it sent in between")
        ends[place] = (header["seq"] + 1, canonical.record_hash(header))


def term_findings(run: Run, own: Evidence) -> Iterator[Finding]:
    """Yield the envelopes outside the contract: another run, another contract, a round too many, too late."""
    contract = run.contract
    last = turns_of(contract) + 1  # the evaluation comes after the rounds; a round that is run again keeps its number
    for header in own.headers():
        broken = {
            "names another run": header["run"] != run.id,
            "names another contract": header["contract"] != run.contract_hash,
            f"is of round {header['round']}, the contract allows {last}": not 0 <= header["round"] <= last,
            "outlives the contract": header["expires_at"] > contract["expires_at"],
        }
        for what in (text for text, holds in broken.items() if holds):
            where = f"{own.party}, {header['conversation']}, envelope {header['seq']} of {header['sender']}"
            yield Finding(f"{where} {what}", f"ask {header['sender']} under which terms it sent it")
    for index, leaf in own.crossings(run.id):
        if not leaf["time"] < contract["expires_at"]:
            yield Finding(f"{own.party}, leaf {index}: crossed after the contract's end", f"ask {own.party} why")
    yield from _split_findings(run, own)


def turns_of(contract: Record) -> int:
    """Return how many rounds, of a scorecard or trees, a contract allows."""
    trees = contract.get("trees")
    return trees if contract.get("model") == "boosted_trees" and isinstance(trees, int) else contract["rounds"]


def _split_findings(run: Run, own: Evidence) -> Iterator[Finding]:
    """Yield the peers to whom sides of more distinct cuts were told than the contract's `split_bits`."""
    told, most = Counter[str](), run.contract.get("split_bits", 0)
    for _, leaf in own.of_kind("split-bits", run.id):
        told[leaf["peer"]] += leaf["bits"]
    for peer, bits in sorted(told.items()):
        if not isinstance(most, int) or bits > most:
            what = f"sides of {bits} cuts were told to {peer}, the contract allows {most}"
            yield Finding(f"{own.party}: {what}", f"ask {own.party} by which terms")
    yield from _uncounted_findings(run, own)


def _uncounted_findings(run: Run, own: Evidence) -> Iterator[Finding]:
    """Yield the first message to each peer with sides of a cut that no earlier leaf counts.

    With hidden nodes each message is a new cut; with shown ones a cut may come again, but not before one was counted.
    """
    counted, told, is_hidden = Counter[str](), Counter[str](), run.contract.get("nodes") == "hidden"
    leaves = sorted([*own.of_kind("split-bits", run.id), *own.crossings(run.id)], key=lambda pair: pair[0])
    for index, leaf in leaves:
        peer = leaf["peer"]
        if leaf["kind"] == "split-bits":
            counted[peer] += leaf["bits"]
        elif leaf["direction"] == "out" and leaf["message_type"] == "SplitBits":
            told[peer] += 1
            if counted[peer] < (told[peer] if is_hidden else 1):
                what = f"sides of a cut were told to {peer} that no earlier split-bits leaf counts"
                yield Finding(f"{own.party}, leaf {index}: {what}", f"ask {own.party} what it told")
                counted[peer] = len(leaves)


def right_findings(run: Run, own: Evidence) -> Iterator[Finding]:
    """Yield the envelopes that carry values without an earlier release of this party, in a fitting mode, to their
    recipient."""
    releases: dict[str, tuple[int, Record]] = {}
    for index, leaf in own.of_kind("release", run.id):
        releases.setdefault(own.release_id(index), (index, leaf))  # equal leaves have one id
    for index, leaf in own.crossings(run.id):
        if leaf["direction"] != "out":
            continue
        behind = [releases.get(one, (len(own.leaves), {})) for one in leaf["releases"]]
        needs_right = any(one["form"] not in FREE_FORMS for one in leaf["forms"])
        is_right = all(at < index and release.get("recipient") == leaf["peer"] for at, release in behind)
        if not is_right or (needs_right and not behind):
            what = f"a {leaf['message_type']} left without an earlier release to {leaf['peer']} (rule G04)"
            yield Finding(f"{own.party}, leaf {index}: {what}", f"ask {own.party} by which right it left")
            continue
        if not _is_of_round(leaf, [release for _, release in behind]):
            what = f"a {leaf['message_type']} of round {leaf['round']} left behind no release for that round (rule G04)"
            yield Finding(f"{own.party}, leaf {index}: {what}", f"ask {own.party} by which right it left")
        modes = {release.get("mode") for _, release in behind}
        for form in sorted({one["form"] for one in leaf["forms"]}):
            if not fits_mode(form, leaf["step"], modes):
                what = f"a {leaf['message_type']} left as {form} behind a release in another mode (rule G04)"
                yield Finding(f"{own.party}, leaf {index}: {what}", f"ask {own.party} by which right it left")


def _is_of_round(leaf: Record, behind: list[Record]) -> bool:
    """Return whether a message that says something of rows in a round stands behind a release for that round and step group
    alone: consents are asked anew in each. Which rows are live is said for whatever the round computes."""
    if not leaf["round"] or not any(one["form"] in ROW_FORMS for one in leaf["forms"]):
        return True
    group = leaf["step"].split(".")[0]
    rows = [release for release in behind if release.get("mode") in ROW_MODES]
    return all(
        release.get("round") == leaf["round"]
        and (leaf["step"] == "round.rows" or str(release.get("step")).split(".")[0] == group)
        for release in rows
    )


def fits_mode(form: str, step: str, modes: set[Any]) -> bool:
    """Return whether one of the releases' `modes` lets values of `form` cross in `step`."""
    fitting = FITTING_MODES.get(form, ROW_MODES)
    is_score = form == "DESENSITISED" and step in SCORE_STEPS and "SCORE_ONLY" in modes
    is_split = form == "DESENSITISED" and step in SPLIT_STEPS and "SPLITS" in modes
    return form in FREE_FORMS or is_score or is_split or bool(modes & fitting)


def minimum_findings(run: Run, own: Evidence) -> Iterator[Finding]:
    """Yield the aggregates, released or sent, over fewer rows than the contract's minimum."""
    minimum = run.contract["min_rows"]
    for index, leaf in own.of_kind("release", run.id):
        if leaf["mode"] == "AGGREGATE" and leaf["rows"] < minimum:
            yield _too_few(own, index, leaf["rows"], minimum)
    for index, leaf in own.crossings(run.id):
        rows = leaf.get("rows", 0)
        is_aggregate = any(one["form"] == "AGGREGATE" for one in leaf["forms"])
        if is_aggregate and isinstance(rows, int) and 0 < rows < minimum:
            yield _too_few(own, index, rows, minimum)


def _too_few(own: Evidence, index: int, rows: int, minimum: int) -> Finding:
    what = f"an aggregate over {rows} rows, the contract's minimum is {minimum} (rule OUT-ROWS)"
    return Finding(f"{own.party}, leaf {index}: {what}", f"ask {own.party} why the statistic left")


def end_findings(run: Run, own: Evidence) -> Iterator[Finding]:
    """Yield the releases and the values sent after this party's own ledger says that the run had ended."""
    events = own.of_kind("contract", run.id)
    end = next((index for index, leaf in events if leaf["event"] in END_EVENTS), len(own.leaves))
    for index, _ in own.of_kind("release", run.id):
        if index > end:
            yield Finding(
                f"{own.party}, leaf {index}: a release after the run's end", f"ask {own.party} for what it was"
            )
    for index, leaf in own.crossings(run.id):
        has_values = any(one["form"] not in FREE_FORMS for one in leaf["forms"])
        if index > end and leaf["direction"] == "out" and has_values:
            what = f"a {leaf['message_type']} with values left after the run's end"
            yield Finding(f"{own.party}, leaf {index}: {what}", f"ask {own.party} by which right it left")
