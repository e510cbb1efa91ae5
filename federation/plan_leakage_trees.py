"""Who learns what when boosted trees are grown: protocols.md, section 6, for the terms of one contract.

The entries stand between those of matching and of the run's end, which `plan_leakage` gives for every model.
"""

from collections.abc import Iterator

from lianxin.federation.plan_terms import NOTHING, REPLAY, Learns, Terms

_ORACLE = (
    "makes sums up, such as one row's counted many times, and reads a label from whether the bank cuts there: the bank holds "
    "what it cuts against the sides and ends the run, but its choices of that level are known by then; columns that are false "
    f"in sums and sides alike, and false sums where nothing is cut, are {REPLAY}"
)


def learns_trees(terms: Terms) -> Iterator[Learns]:
    """Yield what the two sides of one ensemble learn, in the order of its steps."""
    contract, platform, bank = terms.contract, terms.platform, terms.each_bank
    is_shown = contract.nodes == "shown"
    yield Learns(bank, f"bins and kinds of {terms.features} unnamed features of {platform}'s", "boosting.open", NOTHING)
    yield Learns(platform, f"{terms.that_bank}'s public key, with a proof of its form", "boosting.open", NOTHING)
    yield Learns("both sides", "which training rows have lost their consent at the other side", "round.rows", NOTHING)
    yield Learns(
        platform,
        "which training rows and features each tree draws; gradients and curvatures stay encrypted under the bank's key; rows "
        "that no tree draws are the bank's for validation, or were set aside when others left",
        "boosting.gradients",
        NOTHING,
    )
    yield _nodes(terms) if is_shown else _hidden_nodes(terms)
    yield Learns(
        bank,
        f"rows, gradient and curvature of each unnamed bin of {terms.features} features, at most {contract.max_bins} each, "
        f"in each node of each tree: up to {terms.numbers_to_bank_of_trees} sums; one over few rows can name the rows",
        "boosting.histogram",
        "gives rows numbers of their own in place of gradients and reads in which bin of each feature they lie, of up to "
        f"{terms.rows_taggable} rows; {REPLAY}",
    )
    yield _cuts(terms, is_shown)
    rows = "each of the node's rows is" if is_shown else "every training row is, whichever node it is in"
    yield Learns(
        bank,
        f"for each cut of {platform}'s that it chooses, on which side {rows}: over the run the sides of at most "
        f"{contract.split_bits} different cuts a row; what sums tell comes on top",
        "boosting.split",
        f"chooses cuts for what they tell of a firm and not for their gain, within the same {contract.split_bits} cuts",
    )
    yield Learns(
        bank,
        f"the sides of at most {contract.split_bits} cuts of {platform}'s for each matched firm whose consent allows it",
        "boosting.score",
        "keeps the sides and sets them against what else it knows of the firm",
    )


def _nodes(terms: Terms) -> Learns:
    return Learns(
        terms.platform,
        f"which training rows lie in each node that {terms.that_bank} asks about, hence which rows its trees hold alike, "
        f"cuts on {terms.that_bank}'s own features among them",
        "boosting.histogram",
        f"sets up to {terms.nodes_of_trees} sets of rows against each other and guesses the labels of rows that end "
        f"together; {_ORACLE}",
    )


def _hidden_nodes(terms: Terms) -> Learns:
    return Learns(
        terms.platform, "how many levels are asked for; in which node a row lies stays encrypted", "boosting.histogram",
        _ORACLE,
    )  # fmt: skip


def _cuts(terms: Terms, is_shown: bool) -> Learns:
    order = "and to which node each belongs" if is_shown else "in no order, each once"
    return Learns(
        terms.platform,
        f"which of its bins {terms.that_bank}'s trees cut at, {order}",
        "boosting.split",
        NOTHING,
    )


def not_protected_trees(terms: Terms) -> Iterator[str]:
    """Yield what an ensemble does not protect, a sentence each."""
    contract, platform = terms.contract, terms.platform
    yield (
        f"Every bank holds the sides of up to {contract.split_bits} cuts for each of its matched firms: row values, made "
        f"coarse, that need the firm's consent to desensitised release. Cuts close together pin a value down; "
        "`split_bits` is the one limit on that."
    )
    yield (
        "Sums over small cells tell a bank which rows are in them. Gradient and curvature differ from row to row, the bank "
        "knows each row's, and every level has cells of few rows: their sums often fit one set of rows only, whose bin the "
        f"bank has then read. That a cell under {contract.min_rows} rows is merged before it is looked at is the bank's own "
        "rule, which nobody but the bank can keep. `split_bits` bounds the sides, and says nothing of sums."
    )
    if contract.nodes == "shown":
        yield (
            f"Nodes are shown: {platform} sees which rows a bank's trees put together, which follows labels and the bank's "
            "own features. `hidden` keeps this from it, at several times the price."
        )
    yield (
        f"What a bank cuts answers what {platform} puts before it, with shown and with hidden nodes. A platform that leaves "
        "the protocol can lay out a node so that the bank's choice is one row's label. It is caught at the end of that level, "
        "once the choice is known."
    )
    yield (
        f"Sets of rows of two trees are the same or {contract.min_rows} firms apart, and so are shown nodes of one tree that "
        "overlap. That holds for two sets: sums of three and more can still be set against each other."
    )
    yield "Early stopping, the number of trees and the size of each node's answer are seen by both sides."


def advice_trees(terms: Terms) -> Iterator[str]:
    """Yield the advised sizes that the contract's own cannot keep: a node's sums need rows behind them."""
    contract = terms.contract
    smallest = contract.max_rows >> contract.depth
    if smallest < contract.min_rows:
        yield (
            f"depth {contract.depth} over at most {contract.max_rows} training rows leaves {smallest} rows a leaf, under "
            f"the contract's {contract.min_rows}: take less depth, or the trees stop early"
        )
