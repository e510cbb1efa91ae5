"""What an auditor finds of scores: a use named twice, a release that serves several answers, more scores than rows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import scoring_world
from evidence_lists import listed
from hypothesis import given
from hypothesis import strategies as st
from scoring_world import AGREEMENT, BANK, PLATFORM, Scene
from torture import cases

from lianxin.federation import scoring
from lianxin.parties import auditor, auditor_scores, score_platform
from lianxin.parties.auditor_evidence import Evidence, Run

own = scoring_world.own


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The evidence of an agreement under which three requests were answered, two in one conversation."""
    with scoring_world.running(scoring_world.lay(tmp_path_factory.mktemp("honest"))) as scene:
        known, (silent,) = scene.fresh(2), scene.silent()
        scene.ask(*known, silent, scoring_world.STRANGER)
        scene.ask(known[0])
        scene.asker._hang_up()
        scene.ask(silent)
        return scene.end()


def read(folder: Path) -> Run:
    evidence = {path.name: listed(path) for path in (folder / "parties").iterdir()}
    contract = evidence[PLATFORM].contract["record"]
    return Run(contract, "", {entry["party"]: entry["node_key"] for entry in contract["parties"]}, evidence)


def found(run: Run) -> list[str]:
    return [one.detail for party in (PLATFORM, BANK) for one in auditor_scores.score_findings(run, run.evidence[party])]


def of(evidence: Evidence, kind: str, **named: Any) -> list[dict[str, Any]]:
    leaves = [leaf for leaf in evidence.leaves if leaf.get("kind") == kind and leaf.get("run") == AGREEMENT]
    return [leaf for leaf in leaves if named.items() <= leaf.items()]


def releases(run: Run) -> list[dict[str, Any]]:
    return of(run.evidence[PLATFORM], "release", step="scoring.answer")


def answers(run: Run) -> list[dict[str, Any]]:
    return of(run.evidence[PLATFORM], "envelope", direction="out", message_type="ScoreReply")


def scored(run: Run) -> list[dict[str, Any]]:
    return of(run.evidence[BANK], "scored")


def drop(run: Run, party: str, leaf: dict[str, Any]) -> None:
    leaf["kind"] = "nothing"


def test_honest_evidence_has_no_finding(honest: Path) -> None:
    run = read(honest)
    assert auditor.verify_run(honest).ok and found(run) == []
    assert [leaf["scores"] for leaf in scored(run)] == [2, 1, 0] == [leaf["rows"] for leaf in releases(run)]
    assert len({leaf["conversation"] for leaf in answers(run)}) == 2


def test_an_auditor_of_another_model_is_not_asked_about_scores(honest: Path) -> None:
    run = read(honest)
    scored(run)[0]["scores"] = 7
    run.contract["model"] = "field_query"
    assert found(run) == []


OTHER = "scoring/bank-1/7"
LIES: dict[str, tuple[Callable[[Run], Any], str]] = {
    "a use of another name": (lambda r: releases(r)[1].update(use="fixed"), "counts its use under another name"),
    "no use": (lambda r: releases(r)[1].pop("use"), "counts its use under another name"),
    "another bank's request": (
        lambda r: releases(r)[1].update(query=f"{AGREEMENT}.bank-2.0.1", use=f"{AGREEMENT}.bank-2.0.1"),
        "names no request of its recipient"),
    "a number in another spelling": (
        lambda r: releases(r)[1].update(query=f"{AGREEMENT}.bank-1.0.01", use=f"{AGREEMENT}.bank-1.0.01"),
        "names no request of its recipient"),
    "a request twice": (
        lambda r: releases(r)[1].update({key: releases(r)[0][key] for key in ("use", "query")}), "not the only one"),
    "nobody asked": (lambda r: drop(r, PLATFORM, of(r.evidence[PLATFORM], "score")[0]), "has not one leaf in front"),
    "asked twice": (
        lambda r: of(r.evidence[PLATFORM], "score")[0].update(score=of(r.evidence[PLATFORM], "score")[1]["score"]),
        "has not one leaf in front"),
    "more firms than were asked for": (
        lambda r: of(r.evidence[PLATFORM], "score")[0].update(firms=3), "3 were asked for, 2 of them known"),
    "rows of unknown firms": (
        lambda r: of(r.evidence[PLATFORM], "score")[0].update(unknown=3), "lets 2 of 4 firms go; 4 were asked for, 1"),
    "firms that were left out and not counted": (lambda r: releases(r)[0].update(excluded=[]), "lets 2 of 2 firms go"),
    "an earlier answer's release": (
        lambda r: answers(r)[1].update(releases=answers(r)[0]["releases"]), "under a release that an earlier answer"),
    "two releases": (
        lambda r: answers(r)[1].update(releases=answers(r)[1]["releases"] * 2), "not behind one release for scores"),
    "no release": (lambda r: answers(r)[1].update(releases=[]), "not behind one release for scores"),
    "scores in another message": (
        lambda r: answers(r)[1].update(message_type="Status"), "not behind one release for scores"),
    "answers in another order": (
        lambda r: (answers(r)[0].update(releases=answers(r)[1]["releases"]),
                   answers(r)[1].update(releases=read_again(r)[0])), "of another request than the one due"),
    "an answer in another conversation": (
        lambda r: answers(r)[0].update(conversation=OTHER), "of another request than the one due"),
    "more scores than rows": (lambda r: scored(r)[1].update(scores=2), "2 scores came under a release of 1 rows"),
    "fewer scores than rows": (lambda r: scored(r)[0].update(scores=1), "1 scores came under a release of 2 rows"),
    "scores under another release": (
        lambda r: scored(r)[1].update(release=scored(r)[0]["release"]), "did not make for their request"),
    "scores that are not counted": (lambda r: drop(r, BANK, scored(r)[0]), "not one leaf says how many"),
    "scores that are counted twice": (
        lambda r: scored(r)[0].update(score=scored(r)[1]["score"]), "not one leaf says how many"),
    "a count of nothing": (
        lambda r: scored(r)[2].update(score=f"{AGREEMENT}.bank-1.0.2"), "of an answer that never came"),
    "fewer firms named": (
        lambda r: of(r.evidence[BANK], "release", step="scoring.ask")[0].update(rows=3), "another number of firms"),
}  # fmt: skip


def read_again(run: Run) -> list[str]:
    return [run.evidence[PLATFORM].release_id(run.evidence[PLATFORM].leaves.index(releases(run)[0]))]


@pytest.mark.parametrize("lie", LIES)
def test_each_lie_is_found(honest: Path, lie: str) -> None:
    run = read(honest)
    tell, what = LIES[lie]
    tell(run)
    assert any(what in one for one in found(run)), found(run)


def test_an_answer_that_was_cut_off_needs_no_count_where_it_is_the_last_of_its_conversation(honest: Path) -> None:
    for place, is_excused in ((0, False), (1, True), (2, True)):
        run = read(honest)
        conversation = answers(run)[place]["conversation"]
        drop(run, BANK, scored(run)[place])
        assert len(found(run)) == 1
        noted = scored(run)[0] | {"kind": "refusal", "peer": PLATFORM, "rule": "Q05", "conversation": conversation}
        run.evidence[BANK].leaves.append(noted)
        assert (found(run) == []) is is_excused


# ---- lies of a running platform, and what lets them through


def same_use(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let one name stand on every release, so that a limited consent is never used up."""
    gate = scene.platform.node.boundary
    release = gate.release
    monkeypatch.setattr(gate, "release", lambda *a, **named: release(*a, **{**named, "use": "fixed"}))
    (firm,) = scene.silent()
    scene.consent(firm, max_uses=1)
    assert [scene.has(firm) for _ in range(3)] == [True] * 3


def same_release(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer each request by the first one's release."""
    kept: list[scoring.Answer] = []
    answer = scene.desk._answer_request

    def again(talk: Any, asked: scoring.Asked) -> scoring.Answer:
        kept.extend([] if kept else [answer(talk, asked)])
        return kept[0]

    monkeypatch.setattr(scene.desk, "_answer_request", again)
    (firm,) = scene.silent()
    scene.consent(firm, max_uses=1)
    assert [scene.has(firm) for _ in range(3)] == [True] * 3


def more_scores(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send scores of all firms under a release of one."""
    records = score_platform._records
    monkeypatch.setattr(scoring, "_check_rows", lambda *_: None)
    monkeypatch.setattr(score_platform, "_records", lambda firms, _live, *more: records(firms, set(firms), *more))
    parts = scene.ask(*scene.fresh(), *scene.silent(3)).by_firm.values()
    assert all(given is not None and given[0] is not None for given in parts)


@pytest.mark.parametrize(("lie", "party"), [(same_use, PLATFORM), (same_release, PLATFORM), (more_scores, BANK)])
def test_a_platform_that_gives_more_scores_than_consents_allow_does_not_verify(
    own: Scene, monkeypatch: pytest.MonkeyPatch, lie: Callable[[Scene, pytest.MonkeyPatch], None], party: str
) -> None:
    lie(own, monkeypatch)
    audit = own.end()
    failed = {(one.name, one.subject) for one in auditor.verify_run(audit).failures}
    assert ("scores", party) in failed and {name for name, _ in failed} == {"scores"}
    monkeypatch.setitem(auditor.PARTY_CHECKS, "scores", lambda run, own: iter(()))
    assert auditor.verify_run(audit).ok  # nothing else would have told


@given(st.lists(st.sampled_from(["a", "b", "c", "\ud800"]), max_size=12), st.integers(-1, 12), st.integers(1, 3))
@cases(100)
def test_leaves_are_found_by_what_they_name(names: list[str], after: int, most: int) -> None:
    named = auditor_scores._Named(enumerate(names))
    for name in ("a", "b", "\ud800", "none"):
        assert named.of(name, after, most) == [at for at, one in enumerate(names) if one == name and at > after][:most]
