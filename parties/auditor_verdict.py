"""What an auditor says in the end: checks, a verdict over them, and who did wrong as far as the evidence shows it."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice

from lianxin.parties.auditor_evidence import NOBODY, Finding, Record

FINDINGS_PER_CHECK = 50
OF_THE_RUN = "run"


@dataclass(frozen=True)
class Check:
    """One thing that was checked: `subject` is the party, `detail` says what was found, `remedy` what to ask whom.

    `leaf`, `rule`, `message` and `accused` are those of the `Finding`.
    """

    name: str
    subject: str
    ok: bool
    detail: str
    remedy: str = ""
    leaf: int = -1
    rule: str = ""
    message: str = ""
    accused: str = ""

    @property
    def told(self) -> str:
        """What was found, with what to ask whom."""
        return f"{self.detail}; {self.remedy}" if self.remedy else self.detail


@dataclass(frozen=True)
class Verdict:
    """All checks of one run's evidence; `run` is empty when no contract could be read.

    `missing` are the contract's parties of whom nothing was given, where that was allowed: what only their evidence
    could show was not checked.
    """

    run: str
    checks: tuple[Check, ...]
    missing: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return all(check.ok for check in self.checks)

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if not check.ok)

    @property
    def accused(self) -> list[tuple[str, str]]:
        """Each party that the evidence shows to have done wrong with the first sentence that says so, in order of checks."""
        found: dict[str, str] = {}
        for check in self.failures:
            if check.accused:
                found.setdefault(check.accused, check.detail)
        return list(found.items())

    @property
    def line(self) -> str:
        """The verdict in one line, with the run that it is on."""
        return f"{self._said}; run {self.run}" if self.run else self._said

    @property
    def _said(self) -> str:
        if not self.ok:
            named = ", ".join(party for party, _ in self.accused)
            count = "1 finding" if len(self.failures) == 1 else f"{len(self.failures)} findings"
            return f"NOT VERIFIED: {count}; accused: {named or 'nobody whom the evidence names'}"
        if not self.missing:
            return "verified"
        lost = ", ".join(self.missing)
        return f"verified, one side only: no evidence of {lost}; not checked: their ledgers, and whether they know each message"

    def to_record(self) -> Record:
        """Return the verdict as a canonical record."""
        checks = [asdict(check) for check in self.checks]
        accused = [{"party": party, "detail": detail} for party, detail in self.accused]
        return {
            "type": "verdict", "version": 1, "run": self.run, "ok": self.ok, "line": self.line, "accused": accused,
            "missing": list(self.missing), "checks": checks,
        }  # fmt: skip


def named(party: str, detail: str) -> str:
    """Return a sentence about a party that begins with its name, once."""
    return detail if detail.startswith(party) else f"{party}: {detail}"


def checked(name: str, subject: str, findings: Iterable[Finding], passed: str) -> list[Check]:
    """Return the failed checks of these findings, the first ones one by one; one that passed where there is none."""
    rest: Iterator[Finding] = iter(findings)
    shown = [_failed(name, subject, one) for one in islice(rest, FINDINGS_PER_CHECK)]
    if not shown:
        return [Check(name, subject, True, passed)]
    more = sum(1 for _ in rest)
    said = Check(name, subject, False, f"{more} more of this check at {subject}", "mend the ones above first")
    return shown + ([said] if more else [])


def _failed(name: str, subject: str, finding: Finding) -> Check:
    check = Check(name, subject, False, **asdict(finding))
    own = "" if subject == OF_THE_RUN else subject
    accused = {"": own, NOBODY: ""}.get(finding.accused, finding.accused)
    return Check(**(asdict(check) | {"accused": accused}))
