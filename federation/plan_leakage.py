"""Who learns what at each step of a run: protocols.md, sections 3 to 5 and 7, for the terms of one contract.

Each entry says what the protocol shows to a side that follows it, and what the same side could read if it did not.
What a malicious side does is not prevented by a proof: it is found when the run is computed again from the committed
seeds (covert security), if somebody asks for that. The texts are for the people who approve a run.
"""

from collections.abc import Iterator
from dataclasses import asdict

from lianxin.crypto import paillier
from lianxin.federation.contract import RunContract
from lianxin.federation.plan_leakage_trees import advice_trees, learns_trees, not_protected_trees
from lianxin.federation.plan_terms import NETWORK_VALUES, NOTHING, OPEN_BITS, REPLAY, Learns, Terms
from lianxin.federation.scorecard import GRID, SIGNIFICANT_BITS
from lianxin.federation.selection import rows_readable

ROW_STATISTICS = ("AGGREGATE", "DESENSITISED", "PLAIN")


def learns(contract: RunContract) -> list[dict[str, str]]:
    """Return the entries {"who", "what", "step", "malicious"} of a contract, in the order of its steps."""
    terms = Terms(contract)
    parts: list[Iterator[Learns]] = [_agreement(terms), _matching(terms), _training_rows(terms)]
    if contract.model == "boosted_trees":
        parts += [learns_trees(terms), _learning_trees(terms)]
    else:
        parts += [_binning(terms), _selection(terms), _learning(terms), _rounds(terms), _points(terms)]
    parts.append(_closed())
    return [asdict(entry) for part in parts for entry in part]


def not_protected(contract: RunContract) -> list[str]:
    """Return what this run does not protect, a sentence each."""
    terms = Terms(contract)
    is_trees = contract.model == "boosted_trees"
    what = "joint boosted trees" if is_trees else "the joint scorecard"
    sentences = [
        f"The constructions of matching by Paillier and of {what} are composed here and have not yet been "
        "read by an outside cryptographer: this version makes no production claim.",
        "A party that leaves the protocol is stopped by no proof: what it could read stands beside each step and is "
        f"{REPLAY} from the seed and inputs that it committed to and opens to an auditor.",
        "No noise is added: repeated runs on the same rows add up, and no privacy budget beyond the sizes of the "
        "contract limits what the results together tell.",
        "The finished model is itself information: its leaves tell a bank what the platform's fields say of its firms."
        if is_trees
        else "The finished model is itself information: with its weights of evidence and weights the platform predicts "
        "labels as well as its own sub-score does.",
        "Wrong or invented data of a party's own is trained on as it is.",
        "Sizes, times and the order of messages are seen by whoever watches the network.",
    ]
    of_model = not_protected_trees(terms) if is_trees else _collusion(terms)
    return [*sentences, *_assumption(contract), *of_model]


def _assumption(contract: RunContract) -> Iterator[str]:
    if contract.exponents == "short":
        bits = paillier.short_exponent_bits(contract.key_bits)
        yield (
            f"Profile short_exponents: key owners encrypt with exponents of {bits} bits, which hides plaintexts only if "
            "short powers cannot be told from full ones; full_exponents needs no such assumption and takes twice the time."
        )


def _collusion(terms: Terms) -> Iterator[str]:
    if terms.banks == 1:
        bank = terms.contract.banks[0]
        yield f"With one bank there is no sum to hide in: {terms.platform} sees {bank}'s own counts and gradients."
    elif terms.banks == 2:
        yield f"With two banks, {terms.platform} together with one of them knows the other's counts and gradients."
    else:
        opens = terms.opening_banks
        yield (
            f"A sum of gradients is opened with at least {opens} of the {terms.banks} banks in it: {terms.platform} together "
            f"with {opens - 1} of them, saying that the rest are lost, knows another one's gradients; with {terms.banks - 1}, "
            "its counts too."
        )
        if terms.contract.on_loss == "rerun" and terms.contract.min_banks <= 2:
            yield (
                "After banks are lost the run may go on with two: "
                f"{terms.platform} together with one of them then knows the other's gradients."
            )


def advice(contract: RunContract) -> list[str]:
    """Return which of the advised sizes the contract's own sizes cannot keep, a sentence each; empty is good.

    Of a scorecard, below; of trees, see `plan_leakage_trees.advice_trees`.
    The advice is T·d_A + ΣK_j <= N/10 for the platform and T·d_B <= rows/10 for a bank (protocols.md, section 5), with
    N all banks' training rows when the platform sees sums only. Correlations across the parties count towards both.
    """
    terms = Terms(contract)
    if contract.model == "boosted_trees":
        return list(advice_trees(terms))
    seen = [(terms.platform, terms.numbers_to_platform, contract.max_rows * terms.banks)]
    seen += [(bank, terms.numbers_to(bank) + terms.correlations(bank), contract.max_rows) for bank in contract.banks]
    return [
        f"{party} sees up to {numbers} numbers, which asks for {10 * numbers} training rows, and the contract allows "
        f"{rows}: take fewer features, bins or rounds"
        for party, numbers, rows in seen
        if 10 * numbers > rows
    ]


def _agreement(terms: Terms) -> Iterator[Learns]:
    yield Learns("every party", "the contract: parties, field names and sizes of all", "contract.agree", NOTHING)


def _matching(terms: Terms) -> Iterator[Learns]:
    contract, platform, bank = terms.contract, terms.platform, terms.each_bank
    yield Learns(bank, f"the padded number of {platform}'s firms", "matching.open", NOTHING)
    yield Learns(platform, f"the padded number of {terms.that_bank}'s firms", "matching.open", NOTHING)
    hidden = (
        "nothing: blinded group elements, uniform whatever the firm is"
        if contract.matching == "ecdh"
        else "nothing: encryptions under a key of the bank's, bound to this run"
    )
    yield Learns(
        platform, "nothing: one root that binds the bank to all its queries before it sees an answer",
        "matching.commit", NOTHING,
    )  # fmt: skip
    yield Learns(platform, hidden, "matching.query", "answers wrongly without being noticed; " + REPLAY)
    yield Learns(
        bank,
        "one pseudo-random value for each firm that it asks about",
        "matching.query",
        f"asks about any firm, with or without consent: up to {contract.max_queries} in a matching session, all chosen "
        "before the first answer and charged to one quota over its runs",
    )
    yield Learns(
        bank,
        f"which of its firms {platform} has, also when the run then stops under {contract.min_intersection} firms",
        "matching.compare",
        NOTHING,
    )
    yield Learns(
        platform,
        f"which of its firms are {terms.that_bank}'s customers (shared alignment)",
        "matching.share",
        "declares firms that it holds nothing about, to learn whose customers they are; found only by opening its root",
    )


def _training_rows(terms: Terms) -> Iterator[Learns]:
    platform, bank = terms.platform, terms.each_bank
    yield Learns(platform, "how many training rows each matched firm has, which may be none", "binning.rows", NOTHING)
    yield Learns(bank, f"which of these rows have no live consent at {platform}", "binning.rows", NOTHING)


def _binning(terms: Terms) -> Iterator[Learns]:
    contract, platform, bank = terms.contract, terms.platform, terms.each_bank
    yield Learns("both sides", "public keys, each with a proof of its form", "binning.keys", NOTHING)
    yield Learns(platform, "nothing: labels stay encrypted under the bank's key", "binning.count", NOTHING)
    yield Learns(
        bank,
        f"rows and bads of its own in each unnamed bin of {terms.features} features, at most {contract.max_bins} each",
        "binning.count",
        f"gives rows a bit each of the {OPEN_BITS} that the platform does not hide and reads their bins; {REPLAY}",
    )
    yield Learns(
        "both sides",
        "nothing: sums under uniform masks",
        "binning.masks",
        "the bank takes other sums than its features': see round.residuals",
    )


def _selection(terms: Terms) -> Iterator[Learns]:
    """Only where the contract has columns of the two sides correlated (a limit on variance inflation)."""
    if not terms.contract.max_vif_hundredths:
        return
    platform, alter = terms.platform, f"answers wrongly and has features taken out; {REPLAY}"
    yield Learns(platform, "nothing: the bank's columns stay encrypted under its key", "selection.products", alter)
    for name in terms.contract.banks:
        yield Learns(
            name,
            f"correlations of its own {terms.own(name) - 1} features with {terms.features} unnamed ones of {platform}'s, and "
            f"of these among themselves: {terms.correlations(name)} numbers",
            "selection.products",
            f"gives rows numbers of their own and reads what {rows_readable(terms.contract, name)} rows hold in each "
            f"feature; {REPLAY}",
        )
    yield Learns(
        platform,
        "the variance inflation of each of its features, and which ones should go",
        "selection.verdict",
        NOTHING,
    )


def _learning_trees(terms: Terms) -> Iterator[Learns]:
    what = f"how many trees {terms.that_bank} keeps, and when it stops"
    yield Learns(terms.platform, what, "learning.exchange", NOTHING)
    yield from _figures(terms)


def _learning(terms: Terms) -> Iterator[Learns]:
    yield Learns(terms.platform, _sums_seen(terms), "learning.exchange", _labels_read(terms))
    if terms.banks > 1:
        yield Learns(
            "each bank",
            "which banks take part in each round, and which are in its sum",
            "learning.exchange",
            "nothing further: a bank that is left out of a sum has its masks revealed, never its values or its keys",
        )
    yield from _figures(terms)


def _figures(terms: Terms) -> Iterator[Learns]:
    forms = terms.contract.record["forms"].items()
    figures = sorted(name for name, form in forms if form in ROW_STATISTICS and name not in NETWORK_VALUES)
    if figures:
        what = f"{terms.that_bank}'s own figures: {', '.join(figures)}"
        yield Learns(terms.platform, what, "learning.exchange", NOTHING)


def _sums_seen(terms: Terms) -> str:
    rounded = f"rounded to {SIGNIFICANT_BITS} significant bits"
    seen = f"goods and bads a bin, and in each round {terms.features} gradient entries {rounded}"
    if terms.banks == 1:
        return f"{terms.contract.banks[0]}'s own {seen}: with one bank nothing hides them"
    if terms.banks == 2:
        return f"{seen}, summed over the two banks; together with one bank, the other's own"
    few = terms.opening_banks
    banks = f"{few}" if few == terms.banks else f"{few} to {terms.banks}"
    return f"{seen}, summed over {banks} banks, one bank's only with {few - 1} others that are in the sum"


def _labels_read(terms: Terms) -> str:
    in_rounds = terms.rounds * terms.features
    counted = terms.labels_by_bins
    return f"makes bins of one row and reads up to {counted} labels by counts and {in_rounds} in the rounds; {REPLAY}"


def _rounds(terms: Terms) -> Iterator[Learns]:
    platform, bank = terms.platform, terms.each_bank
    yield Learns("both sides", "which training rows have lost their consent at the other side", "round.rows", NOTHING)
    yield Learns(bank, f"mean and spread of {platform}'s scores, on a grid of {GRID}", "round.range", NOTHING)
    yield Learns(platform, f"mean and spread of the joint scores, on a grid of {GRID}", "round.range", NOTHING)
    yield Learns(platform, "nothing: the bank's residual shares stay encrypted", "round.residuals", NOTHING)
    for name in terms.contract.banks:
        yield Learns(
            name,
            f"its own gradient, {terms.own(name)} entries a round, {terms.numbers_to(name)} in all; no row's residual",
            "round.residuals",
            f"reads up to {terms.numbers_to(name)} of {platform}'s scores of single rows; {REPLAY}",
        )
    yield Learns(bank, "nothing: uniformly masked sums, opened by the platform alone", "round.gradient", NOTHING)


def _points(terms: Terms) -> Iterator[Learns]:
    yield Learns(
        terms.each_bank,
        f"{terms.platform}'s sub-score, in whole points, of each matched firm whose consent has score mode",
        "scoring.points",
        "keeps the points and sets them against what else it knows of the firm",
    )


def _closed() -> Iterator[Learns]:
    yield Learns("every party", "how the run ended, and the other ledgers' signed heads", "contract.close", NOTHING)
