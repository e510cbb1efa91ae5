"""The steps of a run: which messages may cross in each, and which conversation carries them.

A message type is allowed only in the steps that list it (boundary.md, section 1); the guard reads this table on both
ends and the auditor's plan is generated from it.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """`conversation` is the kind of stream; `messages` are the message types that may cross."""

    conversation: str
    messages: frozenset[str]


def _step(conversation: str, *messages: str) -> Step:
    return Step(conversation, frozenset({*messages, "Refusal"}))


STEPS: Mapping[str, Step] = {
    "contract.agree": _step("contracts", "Proposal", "Approval", "SignedContract"),
    "contract.close": _step("contracts", "RunStatus", "RunClosed"),
    "learning.exchange": _step("learning", "LearningMessage"),
    "matching.open": _step("matching", "BankOpening", "PlatformOpening"),
    "matching.commit": _step("matching", "BankCommitment"),
    "matching.query": _step(
        "matching", "BankQueries", "PlatformAnswers", "BankBlindedElements", "PlatformEvaluatedElements"
    ),
    "matching.compare": _step("matching", "PlatformTags"),
    "matching.share": _step("matching", "BankMatches", "PlatformMatchesNoted"),
    "binning.rows": _step("vertical", "TrainingRows", "TrainingRowsNoted"),
    "binning.keys": _step("vertical", "TrainingKey"),
    "binning.count": _step("vertical", "EncryptedLabels", "LabelHistogram", "HistogramNoted"),
    "binning.masks": _step("vertical", "MaskSet", "MaskSums", "MaskTotals"),
    "round.rows": _step("vertical", "LiveRows"),
    "round.range": _step("vertical", "ScoreRange", "RangeChoice"),
    "round.residuals": _step("vertical", "ResidualShares", "MaskedResiduals"),
    "round.gradient": _step("vertical", "MaskedGradient", "RoundNoted"),
    "scoring.points": _step("vertical", "ScorePoints", "PointsNoted"),
    "selection.products": _step("vertical", "OwnColumns", "CrossProducts", "OwnCorrelations"),
    "selection.verdict": _step("vertical", "SelectionVerdict", "SelectionNoted"),
    "boosting.open": _step("vertical", "TrainingKey", "TreeFeatures"),
    "boosting.gradients": _step("vertical", "TreeOpening", "TreeGradients"),
    "boosting.histogram": _step("vertical", "TreeNodes", "NodeHistograms"),
    "boosting.split": _step("vertical", "SplitChoice", "SplitBits", "TreeGrown"),
    "boosting.score": _step("vertical", "CutBits", "CutBitsNoted"),
    "scoring.ask": _step("scoring", "ScoreRequest"),
    "scoring.answer": _step("scoring", "ScoreReply"),
    "query.ask": _step("query", "QueryRequest"),
    "query.answer": _step("query", "QueryReply"),
}
