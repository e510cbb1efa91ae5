"""Every rule of the gate as data: what it asks, where the law says so, and which module or command keeps it here.

A rule that no program can keep says what a person does instead. docs/rules.md is made of this table and of the tests
that are marked with each rule; a rule that names a module and has no such test fails the build. Law is paraphrased for
programmers: nothing here is legal advice. PIPL is the Personal Information Protection Law, ND the Network Data Security
Management Regulation, DSL the Data Security Law, CRR the Credit Reporting Industry Regulation.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. `where` names modules or commands that keep it; where it is empty, `instead` is what a person does."""

    id: str
    what: str
    source: str
    where: tuple[str, ...] = ()
    instead: str = ""


_DECIDES, _SCHEMA = "parties/decision.py", "parties/consent_schema.py"
_OURS = "this program's own"
_LISTED = (
    Rule("R01", "A field is asked for one purpose, and only where that purpose's list and the contract have it.",
         "PIPL 6", (_DECIDES, "parties/decision_purposes.py")),
    Rule("R02", "Something must make the processing lawful; without a consent, only what needs none crosses, and no score.",
         "PIPL 13", (_DECIDES, "federation/contract.py")),
    Rule("R03", "A consent is never widened: another field, mode or purpose is another consent.",
         "PIPL 14", (_DECIDES, "parties/decision_consents.py")),
    Rule("R04", "After a withdrawal nothing new crosses; what was released before stays provable.",
         "PIPL 15, 47", (_DECIDES, "parties/boundary.py")),
    Rule("R05", "Who declines unneeded data is served all the same: one refused field refuses no other.",
         "PIPL 16", (_DECIDES, "parties/catalogue.py")),
    Rule("R06", "A consent binds the text of a notice that says who, why, how, what, how long and which rights.",
         "PIPL 17; ND 21", (_SCHEMA,)),
    Rule("R07", "What was derived is kept no longer than agreed, and then deleted with a trace.",
         "PIPL 19", ("parties/retention.py",)),
    Rule("R08", "Parties have a written agreement on their duties, and the contract names it.",
         "PIPL 20, 21; ND 12", (_DECIDES, "federation/contract.py")),
    Rule("R09", "Personal information goes to one named recipient under a separate consent, and no further.",
         "PIPL 23", (_DECIDES, _SCHEMA)),
    Rule("R10", "A decision made by machine is explained, and a person can be asked for instead.",
         "PIPL 24", instead="Nothing here decides on a loan. The bank gives reasons and a human review with its decision."),
    Rule("R11", "A published name is no join key and no feature; it appears for the purposes that are about its bearer.",
         "PIPL 27", (_DECIDES,)),
    Rule("R12", "Sensitive personal information needs a separate consent that tells necessity and impact.",
         "PIPL 28-30", (_DECIDES,)),
    Rule("R13", "What has no class is not used.", "PIPL 51", (_DECIDES, "parties/catalogue.py")),
    Rule("R14", "De-identified is not anonymous: the word is given to an accepted public release alone.",
         "PIPL 73", ("parties/desensitise.py",)),
    Rule("R15", "A run names the impact assessment that was made before it.",
         "PIPL 55, 56", (_DECIDES, "federation/contract.py")),
    Rule("R16", "Records of what was provided are kept, longer than any law of these asks: evidence for five years.",
         "ND 12", ("parties/retention.py",)),
    Rule("R17", "Who has refused is not asked again for the same until the cool-down ends.",
         "ND 22(5)", ("parties/decision_consents.py",)),
    Rule("R18", "The operator of a platform reads no trade secret and no personal information as held.",
         "DSL 38, 40; ND 16", (_DECIDES,)),
    Rule("R19", "What law publishes needs no consent, and what a director does in office is not personal here.",
         "CRR 13", (_DECIDES,)),
    Rule("R20", "Some things are never collected; a person's wealth and taxes only by written consent.",
         "CRR 14", (_DECIDES,)),
    Rule("R21", "Negative information ends: a person's after five years, a penalty's after its term, a listing's at its end.",
         "CRR 16; provincial rules; rules on publishing penalties and on defaulters",
         ("parties/boundary_values.py", "parties/decision_catalogue.py")),
    Rule("R22", "A transform is desensitisation when its measured risk is accepted, for the sharing model that applies.",
         "GB/T 42460, annex D", (_DECIDES, "parties/decision_grades.py", "parties/desensitise.py")),
    Rule("R23", "Transforms are named by technique and judged by k-anonymity, l-diversity and t-closeness.",
         "GB/T 37964", ("parties/desensitise.py",)),
    Rule("R24", "The key behind pseudonyms stays with the owner and differs for each project and recipient.",
         "GB/T 37964; GB/T 39725, 10.2", ("parties/boundary_grades.py",)),
    Rule("R25", "A person's values are shown as held under a written consent only.", "CRR 18, 20", (_DECIDES,)),
    Rule("R26", "Every access names the operator; who proposes does not approve.",
         "CRR 22", ("parties/agreement.py", "parties/ledger.py")),
    Rule("R27", "A disputed value is marked while it is examined, and withheld when the answer is late.",
         "CRR 25; provincial rules", ("parties/objections.py", "parties/boundary_values.py")),
    Rule("R28", "A query's record says when, who asked, who authorised and by what proof, and is kept five years.",
         "Shenzhen credit regulation 45", ("parties/ledger.py",)),
    Rule("R29", "A natural person's row is in no statistics release: it is given by authorised query alone.",
         "Shandong credit regulation 20", (_DECIDES,)),
    Rule("R30", "What a model was trained on can be traced to the consents behind it.",
         "Credit Reporting Business Measures", ("parties/lineage.py",)),
    Rule("R31", "Credit services are bought from licensed parties, and used as agreed.",
         "Credit Reporting Business Measures 5, 7, 20", instead="The operator checks the licence before it approves a party; "
         "a consent may carry the number."),
    Rule("R32", "Parties know each other, and every message is authenticated, ordered and traceable.",
         "JR/T 0196-2020, 7.5, 7.6", ("federation/session.py", "federation/admission.py")),
    Rule("R33", "What is displayed is masked: names, telephone, identity and account numbers.",
         "JR/T 0171", ("parties/desensitise.py",)),
    Rule("R34", "What is derived is as guarded as its most guarded input, unless a named rule lowers it.",
         "JR/T 0197; GB/T 43697, annex I", ("parties/decision_derived.py", "parties/catalogue_additions.py")),
    Rule("R35", "A desensitised file carries a mark by which a leaked copy names its recipient.",
         "JR/T 0223-2021", ("parties/desensitise.py",)),
    Rule("R36", "A consent is an act: nothing is ticked beforehand.", "GB/T 35273-2020, 3.6, 9.2", (_SCHEMA,)),
    Rule("R37", "A signature counts by a key of the signer alone, who has the power to sign, over the very bytes.",
         "Electronic Signature Law 13, 14", (_DECIDES, "parties/decision_signers.py")),
    Rule("R38", "A right has a requester, a resource, a time and a count; outside them it is none.",
         "BFIA interoperability specification", (_DECIDES, "parties/decision_consents.py")),
    Rule("R39", "A trade secret leaves by its firm's authorisation or desensitised.",
         "Anti-Unfair Competition Law 9", (_DECIDES, "parties/catalogue.py")),
    Rule("OUT-ROWS", "A statistic covers at least the contract's number of firms.", _OURS, ("parties/boundary.py",)),
    Rule("OUT-BADS", "A statistic of labels covers at least the contract's numbers of bads and goods.", _OURS,
         ("parties/boundary.py",)),
    Rule("OUT-DIFF", "Two statistics for one recipient may not differ by a few firms.", _OURS, ("parties/outputs.py",)),
    Rule("OUT-BUDGET", "One recipient gets so many statistics of the same fields in a period.", _OURS, ("parties/outputs.py",)),
    Rule("G01", "No field crosses without a declared form.", _OURS, ("federation/wire.py",)),
    Rule("G02", "A message crosses in its own steps.", _OURS, ("federation/wire.py",)),
    Rule("G03", "Unknown fields do not cross.", _OURS, ("federation/wire.py",)),
    Rule("G04", "Values cross behind a release in a mode that fits their form.", _OURS, ("federation/session.py",)),
    Rule("G05", "A named value has the form that the contract gives it.", _OURS, ("federation/wire.py",)),
    Rule("G06", "Bytes are canonical and within their bounds.", _OURS, ("federation/wire.py",)),
    Rule("T01", "The gate does not decide by a clock that is behind its own ledger.", _OURS, ("parties/boundary_clock.py",)),
    Rule("M04", "A bank asks for so many firms in matching, over all runs.", _OURS, ("parties/quota.py",)),
    Rule("M05", "A bank is bound to its queries before it sees an answer.", _OURS, ("crypto/query_commitment.py",)),
    Rule("Q01", "A bank asks for so many firms by field query in a period.", _OURS, ("parties/quota.py",)),
    Rule("BQ01", "A bank is told the sides of so many distinct cuts of tree models in a period, over all runs.", _OURS,
         ("parties/quota.py",)),
)  # fmt: skip
RULES: Mapping[str, Rule] = {rule.id: rule for rule in _LISTED}
