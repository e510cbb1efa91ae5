"""The model document: its headings, what it says of a run, and what it may never hold."""

import json
from types import SimpleNamespace

import pytest
import worlds
from test_report import Page
from worlds import ends, finished, province  # noqa: F401 - fixtures

from lianxin.crypto.signing import sign_record
from lianxin.federation.errors import PeerError
from lianxin.parties import cli
from lianxin.parties.agreement import encode_signed
from lianxin.parties.model_document import gather
from lianxin.parties.model_document_facts import MADE_UP, alarms
from lianxin.parties.model_document_sections import SECTIONS, _floor


def written(home, out, *more):
    assert cli.run(["bank", "document", "run-1", "--node", str(home / "node.toml"), "--out", str(out), *more]) == 0
    return out.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def document(finished, tmp_path_factory):  # noqa: F811
    return written(finished.layout.home(finished.banks[0]), tmp_path_factory.mktemp("document") / "d.html")


def test_it_has_the_headings_that_a_validator_looks_for(document):
    page = Page(document)
    assert [title for _, title, _ in SECTIONS] == [
        "1. Purpose and use", "2. Data and consents", "3. Method", "4. Assumptions and limits", "5. Development evidence",
        "6. Outcomes analysis", "7. Benchmarking and challenger", "8. Sensitivity", "9. Implementation",
        "10. Monitoring plan", "11. Governance and approvals", "12. Retirement",
    ]  # fmt: skip
    ids = [value for name, value in page.attributes if name == "id"]
    assert [anchor for anchor, _, _ in SECTIONS] == [
        one for one in ids if one in dict.fromkeys(a for a, _, _ in SECTIONS)
    ]
    assert "script" not in page.tags and not any(name in ("src", "onload") for name, _ in page.attributes)


def test_it_says_who_approved_and_under_which_contract(document, finished):  # noqa: F811
    page, bank = Page(document), finished.banks[0]
    contract = next(leaf for leaf in finished.leaves(bank, "contract") if leaf["event"] == "approved")
    assert contract["contract_hash"] in page.text
    assert next(row for row in page.rows if "approved" in row)[2:] == [
        contract["operator"], contract["proposer"], contract["approver"],
    ]  # fmt: skip
    assert "Independent validator" in page.text


def test_it_counts_consents_and_firms_as_the_ledger_does(document, finished):  # noqa: F811
    page, bank = Page(document), finished.banks[0]
    releases = finished.leaves(bank, "release")
    matching = next(leaf for leaf in releases if leaf["step"] == "matching.query")
    assert page.row("matching.query")[2:5] == ["1", f"{matching['rows']:,}", f"{matching['consents']:,}"]
    assert f"{matching['consents']:,} distinct consents of this bank's firms" in page.text


def test_it_prints_the_paired_interval_and_says_that_the_bads_are_too_few(document, finished):  # noqa: F811
    record = json.loads((finished.layout.run_state(finished.banks[0]) / "evaluation.json").read_text())
    test = record["levels"][0]["paired"][0]
    shown = f"{test['difference'] / 10**6:+.4f}".replace("-", "−")
    assert f"AUC of joint less bank-only on held-out rows: {shown}" in document
    assert "the interval is too wide to rank models by" in document
    assert "fitted on these rows" in document


def test_it_holds_no_firm_and_no_subject(document, finished):  # noqa: F811
    from lianxin.parties.records import read_table

    folder = finished.layout.run_state(finished.banks[0])
    subjects = json.loads((folder / "scores.json").read_text())["subjects"]
    firms = [one for bank in finished.layout.inputs.banks for one in read_table(bank.path).text(worlds.ID)]
    assert len(firms) > 100 and not any(one in document for one in (*firms, *subjects))


def test_it_is_the_same_each_time(document, finished, tmp_path):  # noqa: F811
    assert written(finished.layout.home(finished.banks[0]), tmp_path / "again.html") == document


def test_the_banks_own_words_stand_under_their_heading_escaped(finished, tmp_path):  # noqa: F811
    words = tmp_path / "words.toml"
    words.write_text('purpose = "Pricing of <b>small</b> loans."\n')
    page = written(finished.layout.home(finished.banks[0]), tmp_path / "d.html", "--words", str(words))
    assert '<p class="lead">Pricing of &lt;b&gt;small&lt;/b&gt; loans.</p>' in page
    words.write_text('purposes = "?"\n')
    home = finished.layout.home(finished.banks[0])
    arguments = ["bank", "document", "run-1", "--node", str(home / "node.toml"), "--out", str(tmp_path / "e.html")]
    assert cli.run([*arguments, "--words", str(words)]) == 2
    assert not (tmp_path / "e.html").exists()


def test_a_withdrawal_and_a_missing_evaluation_stand_above_the_title(finished, tmp_path):  # noqa: F811
    home = worlds.copy_of(finished, tmp_path / "run") / "parties" / finished.banks[0]
    folder = home / "state" / "runs" / "run-1"
    mark = {"type": "model-touched", "version": 1, "run": "run-1", "revocations": 3, "choice": "keep", "operator": "li",
            "marked_at": "2026-01-06T00:00:00Z"}  # fmt: skip
    (folder / "touched.json").write_text(json.dumps(mark))
    (folder / "evaluation.json").unlink()
    page = written(home, tmp_path / "d.html")
    head = page[: page.index("<h1>")]
    assert "3 consents behind this model were withdrawn after it was trained; the choice on record is: keep." in head
    assert "no evaluation on file" in head


@pytest.mark.parametrize(
    ("run", "sentence"),
    [("run-9", "knows no run of that name"), ("../etc", "knows no run of that name")],
    ids=["unknown", "no-id"],
)
def test_a_run_that_is_not_there_is_refused_in_one_sentence(finished, tmp_path, capsys, run, sentence):  # noqa: F811
    home = finished.layout.home(finished.banks[0])
    assert cli.run(["bank", "document", run, "--node", str(home / "node.toml"), "--out", str(tmp_path / "d.html")]) == 2
    assert sentence in capsys.readouterr().err and not (tmp_path / "d.html").exists()


def test_a_model_that_was_deleted_has_no_document(finished, tmp_path, capsys):  # noqa: F811
    home = worlds.copy_of(finished, tmp_path / "run") / "parties" / finished.banks[0]
    (home / "state" / "runs" / "run-1" / "model.json").unlink()
    assert (
        cli.run(["bank", "document", "run-1", "--node", str(home / "node.toml"), "--out", str(tmp_path / "d.html")])
        == 2
    )
    assert "its retention has passed, or it was dropped" in capsys.readouterr().err


def test_a_run_whose_contract_its_parties_did_not_all_sign_has_no_document(ends, tmp_path):  # noqa: F811
    signed = encode_signed(sign_record(dict(ends.contract.record), [("bank-1", ends.bank.key)]))
    row, folder = SimpleNamespace(contract=signed, state="finished"), tmp_path / "runs" / "test-run-1"
    folder.mkdir(parents=True)
    (folder / "model.json").write_text('{"type": "bank-model"}')
    store = SimpleNamespace(run=lambda _run: row, leaves=list, release_consents=dict)
    with pytest.raises(PeerError) as refused:
        gather(store, tmp_path, "bank-1", "test-run-1")
    assert refused.value.rule == "C05"


def test_a_simulated_model_carries_the_banner_and_is_judged_by_the_clock_of_its_node(document):
    assert MADE_UP in Page(document).text and "its contract is over" not in document
    facts = SimpleNamespace(
        is_simulated=False, now="2031-01-01T00:00:00Z", state="finished", mark={"revocations": 0}, evaluation={"levels": []},
        contract=SimpleNamespace(retain_until="2030-01-01T00:00:00Z"),
    )  # fmt: skip
    assert alarms(facts) == [
        "This model was to be kept until 2030-01-01T00:00:00Z and its contract is over; train a new one."
    ]
    facts.now = "2029-01-01T00:00:00Z"
    assert alarms(facts) == []


@pytest.mark.parametrize(("bads", "low", "words"), [
    (40, 640_000, "have 40 bads, and below 100"), (400, 640_000, "below 0.6400"), (400, 430_000, "below 0.5000"),
])  # fmt: skip
def test_a_trigger_is_never_below_chance_and_never_from_too_few_bads(bads, low, words):
    level = {"rows": 2000, "bads": bads, "models": [{"model": "joint", "auc": {"low": low}}]}
    assert words in _floor(level)
    assert "no threshold" in _floor(None) and ("no threshold" in _floor(level)) == (bads < 100)


def test_the_document_says_which_chances_it_evaluates(document):
    text = Page(document).text
    assert (
        "points mean odds of" in text and "Joint, the card" in text and "fitted anew on the whole-point score" in text
    )
