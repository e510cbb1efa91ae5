"""What an auditor checks of a bank's policy for unattended approval: that it is the one named, and admits the contract.

Where a policy approved, the leaf `approved` commits to it (`policy_hash`), and `policy.json` is its record. The limits are
judged again by `decision_policy`, the bank's own rule book. A platform's `policy.json` holds its quotas, which
`auditor_quotas` judges; here its hash is compared, and a platform that proposed a plan has to name one. Where a person
approved there is no policy to judge by.
"""

from collections.abc import Iterator

from lianxin.parties import decision_policy
from lianxin.parties.auditor_evidence import Evidence, Finding, Record, Run
from lianxin.parties.auditor_plan import approvals_with, document_findings

APPROVAL, PLATFORM = "approval-policy", "platform-policy"


def policy_findings(run: Run, own: Evidence) -> Iterator[Finding]:
    """Yield where a party's policy is not the one that its leaves name, or does not admit the contract that it approved."""
    named = approvals_with(run, own, "policy_hash")
    yield from document_findings(run, own, "policy", named)
    policy = own.documents.get("policy", {})
    is_platform = own.party == run.contract.get("platform")
    if is_platform:
        yield from _unnamed_findings(run, own, named)
    if not policy or not named:
        return
    wanted = PLATFORM if is_platform else APPROVAL
    if policy.get("type") != wanted or policy.get("party") != own.party:
        what = f"{own.party}, policy.json: it is no {wanted} of this party"
        yield Finding(what, f"ask {own.party} for the policy that was in force")
    elif wanted == APPROVAL:
        yield from _approval_findings(run, own, policy, named)


def _unnamed_findings(run: Run, own: Evidence, named: list[tuple[int, Record]]) -> Iterator[Finding]:
    """Yield where a platform proposed a plan and named no quotas with it: it has some, whoever approves."""
    for index, leaf in approvals_with(run, own, "plan_hash"):
        if leaf["event"] == "proposed" and (index, leaf) not in named:
            what = (
                f"{own.party}, leaf {index}: it names the plan that it proposed and no policy, which holds its quotas"
            )
            yield Finding(what, f"ask {own.party} for the quotas that were in force", index)


def _approval_findings(run: Run, own: Evidence, policy: Record, named: list[tuple[int, Record]]) -> Iterator[Finding]:
    rule, reason = _judged(run, own.party, policy)
    for index, leaf in named:
        if leaf["event"] != "approved" or not rule:
            continue
        what = f"{own.party}, leaf {index}: it approved a contract outside its policy: {reason} (rule {rule})"
        yield Finding(what, f"ask {own.party} who approved it, and by which policy", index, rule)


def _judged(run: Run, party: str, policy: Record) -> tuple[str, str]:
    if policy.get("operator") == run.contract.get("proposer", ""):
        return "R26", "the proposer may not approve"
    try:
        return decision_policy.judge_policy(run.contract, policy, party)
    except (KeyError, TypeError):
        return "P01", "the policy or the contract lacks what it is judged by"
