"""What can go wrong between parties, and what a person is told: one sentence on what, where and what to do.

No message carries a record's value, a secret or text that a peer sent. Errors that cross a boundary carry their rule
id and nothing else.
"""

from collections.abc import Sequence


class LianxinError(Exception):
    """The root of the errors that a person sees as one sentence; `exit_code` is the command's.

    `code` is the sentence's code where another process has said it, else "" (parties/error_codes finds it).
    """

    exit_code = 1
    code = ""
    lines: Sequence[str]  # of a sentence that is told in several, such as a file's mistakes; there only where it is
    party = ""  # at whom and in which step a run failed, where that is known
    step = ""


class InputFault(LianxinError):
    """A file, flag or configuration that a person gave cannot be used; nothing was started or written."""

    exit_code = 2


class StillHeld(InputFault):
    """What a start needs is another process's: a port, a state folder, a database; nothing was started or written.

    That may be the node's own process of before, which is just ending: a start that is tried again may succeed.
    """

    exit_code = 3


class RunStopped(LianxinError):
    """A run ended by rule: too few rows, a refusal, an expired contract."""

    exit_code = 3


class ContractRefused(RunStopped):
    """A party refused the run contract."""


class PeerError(LianxinError):
    """A peer broke the protocol. `rule` is what it is told."""

    exit_code = 4

    def __init__(self, message: str, rule: str = "W00") -> None:
        super().__init__(message)
        self.rule = rule


class PeerGone(PeerError):
    """The peer's connection ended before its part was done: an outage, which says nothing of who the peer is."""

    exit_code = 3


class DeadlinePassed(PeerError):
    """The peer did not answer within the time that the step allows: an outage too."""

    exit_code = 3


class GuardRefused(LianxinError):
    """The wire guard found a message that may not cross; `rule` says why."""

    exit_code = 5

    def __init__(self, message: str, rule: str) -> None:
        super().__init__(message)
        self.rule = rule


class GateRefused(LianxinError):
    """The gate found no right for a release; `rule` says why."""

    exit_code = 5

    def __init__(self, message: str, rule: str) -> None:
        super().__init__(message)
        self.rule = rule


class EvidenceRejected(LianxinError):
    """Evidence does not verify; the message names the party, the leaf and the rule."""

    exit_code = 6
