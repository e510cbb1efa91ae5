"""docs/leakage.md says what the plan says: its tables and prices are made from the plan of a sample contract.

Run as a program, this file writes the generated parts of the document anew.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from conversations import contract_of
from test_plan import plan_of, sample, scoring_agreement

from lianxin.federation.plan_scoring import scoring_plan

LEAKAGE = Path(__file__).resolve().parents[1] / "docs" / "leakage.md"


def network_sample(**terms):
    """Ten banks, thirty fields and an MLP of two layers, judged on a seventh of each bank's rows."""
    banks = [f"bank-{k + 1}" for k in range(10)]
    fields = [{"provider": bank, "field": f"g{n}", "use": "feature"} for bank in banks for n in range(30)]
    network = {"model": "mlp", "hidden_units": [64, 32], "rounds": 20, "max_rows": 30_000, "validation_permille": 150}
    return contract_of(10, **{"fields": fields, "min_banks": 7, "max_loss_rise_permille": 20, **network, **terms})


def table(entries):
    lines = ["| step | who | learns | a malicious side |", "|---|---|---|---|"]
    return lines + [f"| `{e['step']}` | {e['who']} | {e['what']} | {e['malicious']} |" for e in entries]


def differing(changed, base):
    return [entry for entry in changed["learns"] if entry not in base["learns"]]


def generated_parts():
    base, one, two, ecdh = (plan_of(c) for c in (sample(3), sample(1), sample(2), sample(3, matching="ecdh")))
    trees = {"model": "boosted_trees", "max_bins": 32}
    shown, hidden = (plan_of(sample(1, nodes=nodes, **trees)) for nodes in ("shown", "hidden"))
    selected = plan_of(sample(1, max_vif_hundredths=500))
    network, private = (plan_of(network_sample(epsilon_thousandths=epsilon)) for epsilon in (0, 2000))
    platform_alone = [[e for e in differing(p, base) if e["step"] == "learning.exchange"] for p in (one, two)]
    return {
        "three-banks": table(base["learns"]),
        "two-banks": table(platform_alone[1]),
        "one-bank": table(platform_alone[0]),
        "ecdh": table(differing(ecdh, base)),
        "selection": table([e for e in selected["learns"] if e["step"].startswith("selection")]),
        "trees-shown": table(differing(shown, one)),
        "trees-hidden": table(differing(hidden, shown)),
        "trees-not-protected": bullets(shown["not_protected"], base["not_protected"]),
        "scoring": table(scoring_plan(scoring_agreement())["learns"]),
        "networks": table(network["learns"]),
        "networks-private": bullets(private["not_protected"], network["not_protected"]),
        "networks-not-protected": bullets(network["not_protected"]),
        "not-protected": bullets(base["not_protected"]),
        "costs": costs(base),
        "costs-trees": costs(shown, hidden),
        "costs-networks": costs(network),
    }


def bullets(sentences, known=()):
    return [f"- {sentence}" for sentence in sentences if sentence not in known]


def costs(*plans):
    head = ["| party | sends | computes | ends after |", "|---|---|---|---|"]
    for made in plans:
        nodes = f", nodes {made['budgets']['nodes']}" if "nodes" in made["budgets"] else ""
        for total in made["totals"]:
            sent, cpu, wall = total["bytes_sent"] / 1e6, total["cpu_us"] / 1e6, total["wall_us"] / 1e6
            head.append(f"| {total['party']}{nodes} | {sent:.1f} MB | {cpu:.0f} s | {wall:.0f} s |")
    return head


def with_parts(document):
    for name, lines in generated_parts().items():
        block = "\n".join([f"<!-- generated: {name} -->", *lines, "<!-- end -->"])
        start = document.index(f"<!-- generated: {name} -->")
        document = document[:start] + block + document[document.index("<!-- end -->", start) + len("<!-- end -->") :]
    return document


def test_the_leakage_document_says_what_the_plan_says():
    document = LEAKAGE.read_text(encoding="utf-8")
    assert document == with_parts(document), (
        "run `python tests/test_plan_document.py` to write the generated parts anew"
    )


if __name__ == "__main__":
    LEAKAGE.write_text(with_parts(LEAKAGE.read_text(encoding="utf-8")), encoding="utf-8")
