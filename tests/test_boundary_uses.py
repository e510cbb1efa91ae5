"""Uses of a consent with a limit: one a named use, kept with the leaf, and found again in a store of an earlier version."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import consents as w
import pytest

from lianxin.crypto import canonical
from lianxin.federation.errors import GateRefused
from lianxin.federation.model import Released
from lianxin.parties.boundary_uses import UseCount
from lianxin.parties.consent import ConsentRegister
from lianxin.parties.ledger import Ledger

FIRM = "firm-a"


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[w.Provider]:
    made = w.Provider(tmp_path, FIRM)
    yield made
    made.store.close()


def ask(provider: w.Provider, run: str = "run-1", **named: str) -> Released:
    contract, request = w.contract_of(run=run), w.request_of("staff_count")
    return provider.boundary.release(contract, request, [FIRM], {"staff_count": [7]}, **named)


def is_refused(provider: w.Provider, run: str = "run-1", **named: str) -> bool:
    with pytest.raises(GateRefused) as refusal:
        ask(provider, run, **named)
    return refusal.value.rule == "R38"


@pytest.mark.rule("R38")
def test_two_requests_of_one_run_are_two_uses_of_a_consent_that_allows_one(provider: w.Provider) -> None:
    provider.give(FIRM, max_uses=1)
    ask(provider, use="request-1")
    assert is_refused(provider, use="request-2") and is_refused(provider)


def test_one_request_may_take_several_releases_and_is_one_use(provider: w.Provider) -> None:
    provider.give(FIRM, max_uses=1)
    assert ask(provider, use="request-1").firms == ask(provider, use="request-1").firms == (FIRM,)


def test_without_the_count_a_consent_for_one_use_would_serve_twice(
    provider: w.Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.give(FIRM, max_uses=1)
    ask(provider, use="request-1")
    assert is_refused(provider, use="request-2")
    monkeypatch.setattr(UseCount, "others", lambda *_: {})
    assert ask(provider, use="request-2").firms == (FIRM,)


def test_the_leaf_names_the_use_and_the_request_only_where_they_are_given(provider: w.Provider) -> None:
    provider.give(FIRM)
    ask(provider)
    ask(provider, use="request-1-0", query="request-1")
    plain, named = (leaf for leaf in map(canonical.decode, provider.store.leaves()) if leaf["kind"] == "release")
    assert not {"use", "query", "grade", "disputed", "expired"} & set(plain)
    assert (named["use"], named["query"]) == ("request-1-0", "request-1")


def test_the_use_is_kept_in_the_transaction_of_its_leaf(provider: w.Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    provider.give(FIRM, max_uses=1)
    append = provider.store.append_leaves

    def broken(*parts: Any, **beside: Any) -> None:
        append(*parts, **{**beside, "registry": [object()]})

    monkeypatch.setattr(provider.store, "append_leaves", broken)
    size = provider.store.leaf_count()
    with pytest.raises(Exception):  # noqa: B017 - whatever the database says of a value that it cannot keep
        provider.ledger.append_release(
            {"kind": "release", "run": "run-1"}, ["consent-firm-a"], [("consent-firm-a", "x")]
        )
    assert provider.store.leaf_count() == size and provider.store.uses(["consent-firm-a"]) == {}


def test_a_consent_without_a_limit_leaves_no_trace_of_its_uses(provider: w.Provider) -> None:
    provider.give(FIRM)
    ask(provider)
    assert provider.store.uses(["consent-firm-a"]) == {}


def test_a_store_of_an_earlier_version_has_its_uses_read_off_the_ledger_once(
    provider: w.Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.give(FIRM, max_uses=2)
    monkeypatch.setattr("lianxin.parties.boundary.uses_of", lambda *_: [])  # 0.2 kept none
    monkeypatch.setattr(UseCount, "others", lambda *_: {})
    ask(provider, "run-1")
    ask(provider, "run-1")
    monkeypatch.undo()
    assert provider.store.uses(["consent-firm-a"]) == {}
    ask(provider, "run-2")
    assert provider.store.uses(["consent-firm-a"]) == {"consent-firm-a": {"run-1", "run-2"}}
    assert is_refused(provider, "run-3")


def test_a_restarted_gate_counts_what_was_used_before(provider: w.Provider) -> None:
    provider.give(FIRM, max_uses=1)
    ask(provider, use="request-1")
    provider.ledger = Ledger(provider.store, "platform-a", provider.key, provider.clock, "test", "operator-1")
    provider.register = ConsentRegister(provider.store, provider.ledger)
    provider.boundary = provider.gate(provider.ledger)
    assert is_refused(provider, use="request-2")
