"""A node's notes and its log: bounded, a line an event, and without any text that nobody foresaw."""

import io
import json
import logging
import re

import pytest
from torture import repeats

from lianxin.crypto.randomness import Drbg
from lianxin.parties import watch_log
from lianxin.parties.event_ring import EventRing

# ---- notes


def test_positions_of_notes_never_change_and_who_fell_behind_is_told():
    ring, said = EventRing(5), []
    draws = Drbg(b"r" * 32)
    for number in repeats("notes in a ring", 1000):
        ring.add(float(number), f"note {number}")
        said.append(f"note {number}")
        start = draws.below(number + 3)
        missed, notes, following = ring.page(start)
        kept = said[max(start, len(said) - 5) :]
        assert [what for _, what in notes] == kept == [what for _, what in ring.since(start)]
        assert missed == max(0, len(said) - 5 - start) and following == max(start, len(said))
    assert ring.noted == len(said) and ring.first == len(said) - 5


# ---- the log


@pytest.fixture
def written():
    """Two logs of one node: text and JSON, and a clock that is set by hand."""
    clock, streams = [0.0], {form: io.StringIO() for form in ("text", "json")}
    handlers = [
        watch_log.open_log(form, "info", "bank-a", stream, lambda: clock[0]) for form, stream in streams.items()
    ]
    yield clock, streams
    for handler in handlers:
        watch_log.close_log(handler)


def test_an_event_is_one_line_with_its_name_run_and_level(written):
    _, streams = written
    watch_log.log_note("bank-a", "run run-1 failed: the platform went away\nwhile it ran")
    watch_log.log_event("bank-a", "refusal", "warning", "run-1", {"rule": "S03", "peer": "platform"})
    first, second = map(json.loads, streams["json"].getvalue().splitlines())
    assert (first["event"], first["run"], first["level"], first["party"]) == (
        "run-failed",
        "run-1",
        "warning",
        "bank-a",
    )
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", first["time"])
    assert (second["rule"], second["peer"], second["event"]) == ("S03", "platform", "refusal")
    lines = streams["text"].getvalue().splitlines()
    assert len(lines) == 2 and "warning bank-a run-1 run-failed run run-1 failed" in lines[0] and "rule=S03" in lines[1]


def test_a_fault_is_written_without_its_text(written):
    _, streams = written
    plain, control = io.StringIO(), logging.getLogger("somebody else's log")
    handler = logging.StreamHandler(plain)
    control.addHandler(handler)
    firm = "91630000MA7500001X"
    try:
        {}[firm]
    except KeyError:
        logging.getLogger("lianxin").exception("a fault in run %s", "run-1")
        control.exception("a fault")
    finally:
        control.removeHandler(handler)
    told = json.loads(streams["json"].getvalue())
    assert told["event"] == "fault" and told["level"] == "error" and "KeyError" in told["trace"]
    assert firm not in streams["json"].getvalue() + streams["text"].getvalue()
    assert firm in plain.getvalue()  # which is what any other log would have written


def test_what_repeats_is_written_five_times_a_minute_and_then_counted(written):
    clock, streams = written
    for _ in range(100):
        watch_log.log_event("bank-a", "refusal", "warning", "", {"what": "refusal I05"})
    assert len(streams["json"].getvalue().splitlines()) == 5
    watch_log.log_event("bank-a", "refusal", "warning", "", {"what": "refusal I06"})
    clock[0] = 61.0
    watch_log.log_event("bank-a", "refusal", "warning", "", {"what": "refusal I05"})
    *_, other, last = map(json.loads, streams["json"].getvalue().splitlines())
    assert other["what"] == "refusal I06" and "left_out" not in other
    assert last["what"] == "refusal I05" and last["left_out"] == 95


def test_repeats_of_many_kinds_are_kept_in_bounded_memory():
    repeated = watch_log.Repeats(lambda: 0.0)
    for number in range(5 * watch_log.MOST_KEYS):
        repeated.filter(logging.makeLogRecord({"msg": f"event {number}", "levelno": 20}))
    assert len(repeated._seen) == watch_log.MOST_KEYS


def test_a_level_above_an_events_keeps_it_out_and_no_log_means_no_line(capsys):
    stream = io.StringIO()
    handler = watch_log.open_log("text", "warning", "bank-a", stream)
    watch_log.log_note("bank-a", "connected")
    watch_log.log_note("bank-a", "lost bank-2")
    watch_log.close_log(handler)
    watch_log.log_note("bank-a", "lost bank-3")
    assert len(stream.getvalue().splitlines()) == 1 and "bank-lost" in stream.getvalue()
    assert capsys.readouterr().err == ""
