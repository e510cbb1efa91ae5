"""Every error a person can see has a code, found again from what was caught, with an entry on one page."""

import json
import re
import threading

import generate_errors
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torture import cases

from lianxin.crypto.errors import CryptoError, EncodingRejected
from lianxin.federation.errors import InputFault, LianxinError, PeerError, RunStopped
from lianxin.parties import cli, config, control, error_codes
from lianxin.parties.error_codes import Entry, code_of, entries, is_said_by
from lianxin.parties.error_codes_advice import advice_of, part_of

ROOT = generate_errors.ROOT


@pytest.fixture(scope="module")
def generated() -> tuple[str, str]:
    return generate_errors.generated()


def test_each_place_that_makes_an_error_has_a_code_and_the_page_is_fresh(generated: tuple[str, str]) -> None:
    advice = "run `python tests/generate_errors.py`: a sentence was added, changed or taken away"
    assert (ROOT / "parties" / "error_codes.csv").read_text(encoding="utf-8") == generated[0], advice
    assert (ROOT / "docs" / "errors.md").read_text(encoding="utf-8") == generated[1], advice


def test_a_code_is_given_once_and_the_page_has_an_anchor_for_each() -> None:
    codes = [entry.code for entry in entries()]
    assert len(codes) == len(set(codes)) > 1000
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r'<a id="(lx-[0-9]{4})">', page)) == sorted(code.lower() for code in codes)


def test_every_entry_says_what_to_do() -> None:
    assert [entry.code for entry in entries() if len(advice_of(entry)) < 7 or not part_of(entry).title] == []


MADE = Entry("", "parties/walk", "open_door Door.open", "InputFault", "", "{} is no door; choose one of {}")


def coded(*made: Entry, known: tuple[Entry, ...] = ()) -> dict[str, str]:
    """Return the sentences by code as the generator assigns them, without the general ones."""
    return {one.code: one.sentence for one in generate_errors.assign(known, made) if one.module}


def test_a_sentence_keeps_its_code_when_its_module_is_split_or_its_words_change_a_little() -> None:
    known = (MADE._replace(code="LX-1007"),)
    moved = MADE._replace(module="parties/walk_doors", functions="Doors.open")
    reworded = MADE._replace(sentence="{} is not a door; choose one of {}")
    assert coded(moved, known=known) == {"LX-1007": MADE.sentence}
    assert coded(reworded, known=known) == {"LX-1007": reworded.sentence}


def test_a_code_whose_sentence_is_gone_is_kept_and_never_given_again() -> None:
    other = MADE._replace(sentence="the cellar holds no more than {} barrels", functions="fill")
    assert coded(other, known=(MADE._replace(code="LX-1007"),)) == {"LX-1007": MADE.sentence, "LX-1008": other.sentence}
    gone = [one for one in generate_errors.assign((MADE._replace(code="LX-1007"),), []) if one.module]
    assert [(one.code, one.functions) for one in gone] == [("LX-1007", "")]


def told(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = cli.run(arguments)
    return code, capsys.readouterr().err.strip()


def code_in(said: str) -> str:
    found = re.search(r" \((LX-[0-9]{4})\)$", said, re.M)
    assert found, said
    return found.group(1)


def test_a_mistake_is_told_with_its_code_and_the_code_explains_it(tmp_path, capsys) -> None:
    broken = tmp_path / "node.toml"
    broken.write_text('role = "postman"\n')
    exit_code, said = told(["bank", "serve", str(broken)], capsys)
    entry = error_codes.explain(code_in(said))
    assert exit_code == 2 and entry.module == "parties/config" and entry.kind in ("InputFault", "ConfigMistakes")
    assert cli.run(["explain", entry.code.lower(), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["code"] == entry.code and shown["what_to_do"] and shown["page"].endswith(f"#{entry.code.lower()}")


def test_what_typer_and_this_program_get_wrong_has_a_code_too(capsys, monkeypatch) -> None:
    assert code_in(told(["bank", "serv"], capsys)[1]) == error_codes.USAGE
    monkeypatch.setattr(cli, "require_parser", lambda: 1 / 0)
    exit_code, said = told(["--version"], capsys)
    assert exit_code == 1 and code_in(said) == error_codes.FAULT_OF_OURS


def test_an_unknown_code_is_refused_without_being_repeated(capsys) -> None:
    exit_code, said = told(["explain", "LX-zzzz"], capsys)
    assert exit_code == 2 and "zzzz" not in said and code_in(said)


def test_a_code_crosses_the_control_socket(tmp_path) -> None:
    def refuse(_request: object) -> dict[str, str]:
        return config.load_node(tmp_path / "missing.toml")  # type: ignore[return-value]

    server = control.ControlServer(tmp_path, refuse)
    try:
        with pytest.raises(LianxinError) as caught:
            control.ask(tmp_path, {"do": "look"})
    finally:
        server.close()
    with pytest.raises(InputFault) as direct:
        config.load_node(tmp_path / "missing.toml")
    assert caught.value.code == code_of(direct.value) != ""


def test_a_sentence_that_lost_its_class_on_the_way_keeps_its_code() -> None:
    sentence = next(one for one in entries() if one.kind == "RunStopped" and one.words > 40 and one.functions)
    text = sentence.sentence.replace("{}", "x")
    assert code_of(LianxinError(text)) in {one.code for one in entries() if is_said_by(one.sentence, text)}


@pytest.mark.parametrize("kind", [InputFault, RunStopped, PeerError, CryptoError, EncodingRejected])
def test_a_sentence_that_nobody_wrote_down_gets_the_code_of_its_class(kind: type[Exception]) -> None:
    assert code_of(kind("zzz")).startswith("LX-00")


def test_what_is_no_error_of_ours_gets_no_code_and_no_second_error() -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise ValueError("not even this")

    assert code_of(Odd()) == "" and code_of(KeyError("x")) == ""


@cases(1000, per_example=20)
@given(st.lists(st.text("ab;{} ", max_size=6), min_size=1, max_size=5), st.text("ab; ", max_size=30))
def test_a_template_is_matched_as_a_pattern_would_match_it(parts: list[str], message: str) -> None:
    fixed = [part.replace("{", "").replace("}", "") for part in parts]
    pattern = re.compile(".*".join(map(re.escape, fixed)), re.S)
    assert is_said_by("{}".join(fixed), message) == (pattern.fullmatch(message) is not None)
    assert is_said_by("{}".join(fixed), message.join(fixed))


def test_every_entry_is_found_by_its_own_sentence() -> None:
    """Where words tell an error at all: its sentence with values leads to a code with that very sentence."""
    told = [entry for entry in entries() if entry.words >= 20 and entry.functions][::7]
    lost = []
    for entry in told:
        found = code_of(LianxinError(entry.sentence.replace("{}", "x")))
        if error_codes.explain(found).sentence != entry.sentence:
            lost.append((entry.code, found))
    assert len(lost) * 50 < len(told), lost  # the few are two sentences of which one, filled in, is the other


def test_codes_are_found_from_many_threads_at_once() -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(code_of(InputFault("zzz")))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(found) == {"LX-0011"}
