"""`lianxin bench`: the figures are there, are numbers, and say what they are; a peer that is absent leaves null."""

import contextlib
import io
import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from lianxin.crypto import paillier
from lianxin.crypto.randomness import Drbg
from lianxin.federation.errors import InputFault
from lianxin.parties import cli
from lianxin.parties.identifiers import is_uscc
from lianxin.simulations import bench_machine, bench_matching, bench_plot, bench_promises, bench_report
from lianxin.simulations.bench_cipher import BareDecryption, Cipher
from lianxin.simulations.bench_kernels import make_kernels
from lianxin.simulations.bench_peers import Peers

PROMISED = (
    "encrypt_vs_phe", "encrypt_vs_pypaillier", "encrypt_short_vs_phe", "decrypt_vs_phe", "histogram_8_vs_nd",
    "histogram_32_vs_nd", "multiexp_20_vs_powers", "two_process_scaling", "two_process_ceiling", "key_bits",
    "exponent_bits", "machine",
    "encrypt_warm_pool_vs_phe", "encrypt_cold_pool_vs_phe", "decrypt_bare_vs_phe", "packed_values_per_ciphertext",
    "unit_us", "notes",
)  # fmt: skip
OVER_PEERS = {name for name in PROMISED if name.endswith(("_vs_phe", "_vs_pypaillier"))}
MATCHED = ("cpu_s", "wall_s", "bytes", "peak_mb", "correct", "cpu_s_by_side", "protocol", "key_bits", "exponent_bits")
SMALL = ("--rows", "300", "--repeat", "1")
FAKE_PEER = """#!{python}
import json, sys
told = {{"phe_peer": {{"peer": "phe", "version": "0", "arithmetic": "gmpy2 0", "key_bits": 2048, "exponent_bits": 2048,
                      "encrypt_s": 0.5, "decrypt_s": 0.25, "add_s": 0.001}},
        "pypaillier_peer": {{"peer": "pypaillier", "missing": "no"}},
        "openmined_psi_peer": {{"peer": "openmined-psi", "version": "0", "cpu_s": 1000.0}}}}
print(json.dumps(told[sys.argv[1].split("/")[-1].removesuffix(".py")]))
"""


def run_json(*words: str) -> dict[str, Any]:
    """Return the one object that a command prints."""
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.redirect_stderr(io.StringIO()) as told:
        code = cli.run([*words, "--json"])
    assert code == 0, told.getvalue()
    return json.loads(printed.getvalue())


def numbers_of(value: Any) -> list[float]:
    """Return every number in a record, at any depth."""
    if isinstance(value, Mapping):
        return [number for item in value.values() for number in numbers_of(item)]
    if isinstance(value, list):
        return [number for item in value for number in numbers_of(item)]
    return [float(value)] if isinstance(value, int | float) and not isinstance(value, bool) else []


def interpreter(folder: Path, text: str) -> Path:
    """Return an executable that stands in for the Python of a side environment."""
    path = folder / "python"
    path.write_text(text.format(python=sys.executable))
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """The record of a small run without peers."""
    return run_json("bench", "crypto", *SMALL)


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The record of a small run beside made-up peers, of which pypaillier is not installed."""
    peers = interpreter(tmp_path_factory.mktemp("peers"), FAKE_PEER)
    out = tmp_path_factory.mktemp("out")
    return run_json("bench", "crypto", *SMALL, "--peers", str(peers), "--out", str(out)) | {"out": str(out)}


@pytest.fixture(scope="module")
def ecdh(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The record of a small matching by ecdh beside a made-up openmined-psi."""
    peers = interpreter(tmp_path_factory.mktemp("peers"), FAKE_PEER)
    sizes = ("--queries", "200", "--rows", "1000", "--protocol", "ecdh")
    return run_json("bench", "matching", *sizes, "--peers", str(peers))


@pytest.fixture(scope="module")
def matched() -> dict[str, Any]:
    """The record of a small matching by paillier, without peers and with a worker a side."""
    return run_json("bench", "matching", "--queries", "64", "--rows", "200", "--protocol", "paillier", "--workers", "1")


# ---- the core


def test_the_core_prints_every_promised_key(alone):
    assert set(PROMISED) <= set(alone)


def test_every_own_figure_of_the_core_is_a_finite_positive_number(alone):
    own = [alone[name] for name in PROMISED if name not in OVER_PEERS]
    assert numbers_of(own) and all(math.isfinite(number) and number > 0 for number in numbers_of(own))


def test_without_peers_their_figures_are_null_and_a_note_says_why(alone):
    assert {alone[name] for name in OVER_PEERS} == {None}
    assert any("--peers" in note for note in alone["notes"])


def test_figures_name_the_lengths_of_key_and_exponents(alone):
    assert alone["key_bits"] == 2048
    assert alone["exponent_bits"] == {
        "owner_full": [1024, 1024], "owner_short": [448, 448], "evaluator": [512, 512, 512, 512, 128],
    }  # fmt: skip


def test_a_figure_against_a_peer_is_its_time_over_ours(beside):
    assert beside["encrypt_vs_phe"] == pytest.approx(0.5e6 / beside["unit_us"]["encrypt"], rel=0.02)
    assert beside["decrypt_vs_phe"] == pytest.approx(0.25e6 / beside["unit_us"]["decrypt"], rel=0.02)


def test_a_figure_against_a_plain_loop_of_a_histogram_is_our_time_over_its(beside):
    whole = beside["whole_s"]
    ratio = whole["histogram_8"] / whole["histogram_8_plain"]
    assert beside["histogram_8_vs_nd"] == pytest.approx(ratio, rel=1e-2)
    ratio = whole["multiexp_20_plain"] / whole["multiexp_20"]
    assert beside["multiexp_20_vs_powers"] == pytest.approx(ratio, rel=1e-2)


def test_a_figure_is_the_median_over_rounds_so_that_a_slow_stretch_leaves_it_alone():
    samples = bench_machine.Samples()
    for theirs, ours in ((4.0, 2.0), (400.0, 200.0), (6.0, 2.0)):
        samples.next_round()
        samples.add("theirs", theirs)
        samples.add("ours", ours)
    assert samples.ratio("theirs", "ours") == 2.0
    assert samples.medians() == {"theirs": 6.0, "ours": 2.0}
    assert samples.ratio("theirs", "nobody's") is None


def test_scaling_is_the_smallest_of_the_kernels(beside):
    assert set(beside["scaling"]) == {"histogram_8", "histogram_32", "multiexp_20"}
    assert beside["two_process_scaling"] == min(beside["scaling"].values())


def test_a_peer_that_is_not_installed_is_null_while_the_other_is_measured(beside):
    assert beside["encrypt_vs_pypaillier"] is None and beside["encrypt_vs_phe"] is not None
    assert "pypaillier: it is not installed in the environment of --peers" in beside["notes"]


def test_bare_decryption_agrees_with_the_protected_one(bank_key):
    c = paillier.OwnerEncryptor(bank_key).encrypt(-12345, Drbg(b"d" * 32))
    bare = BareDecryption(*bank_key.reveal_primes())
    assert bare.decrypt(c) == paillier.Decryptor(bank_key).decrypt(c, Drbg(b"e" * 32))


def test_a_warm_pool_and_a_cold_one_encrypt_the_same_messages(bank_key):
    cipher = Cipher(bank_key, Drbg(b"c" * 32))
    cipher.fill_pool()
    assert (cipher.warm.ready, cipher.cold.ready) == (128, 0)
    for pool in ("encrypt_warm_pool", "encrypt_cold_pool"):
        work, operations = cipher.works()[pool]
        assert cipher.decryptor.decrypt_many(work()[:3], cipher.drbg) == [0, 1, 2] and operations == 128


def test_the_kernels_compute_what_the_plain_loops_compute(bank_key):
    kernels = make_kernels(bank_key.public, [3, 5, 7], 40, Drbg(b"k" * 32))
    assert kernels.multi_exponentiation() == kernels.power_each()
    parts = [part() for part in kernels.plain_halves()["multiexp_20"]]
    assert parts[0] * parts[1] % int(bank_key.public.n_squared) == kernels.power_each()
    first = kernels.histogram(8)[0]
    expected = [1] * 8
    for code, c in zip(kernels.codes[8][0], kernels.ciphertexts, strict=True):
        expected[code] = expected[code] * c % int(bank_key.public.n_squared)
    assert first == expected


# ---- peers


def test_no_peer_is_asked_without_an_interpreter():
    peers = Peers(None)
    assert peers.run("phe", "--bits", "2048") is None and len(peers.notes) == 1


@pytest.mark.parametrize(
    ("prints", "note"),
    [
        ('print("hello")', "phe: its script printed no JSON object"),
        ("raise SystemExit(3)", "phe: its script printed no JSON object"),
        ('print("[1]")', "phe: its script printed no JSON object"),
        ('print(\'{{"arithmetic": "Python"}}\')', "phe: it ran without gmpy2"),
    ],
)
def test_a_peer_that_tells_nothing_usable_is_null_with_a_note_and_is_asked_once(tmp_path, prints, note):
    asked = f'open("{tmp_path}/asked", "a").write("x")'
    peers = Peers(interpreter(tmp_path, f"#!{{python}}\n{asked}\n{prints}\n"))
    assert peers.run("phe") is None and peers.run("phe") is None
    assert len(peers.notes) == 1 and peers.notes[0].startswith(note)
    assert (tmp_path / "asked").read_text() == "x"


def test_a_file_that_no_system_starts_is_no_interpreter(tmp_path):
    peers = Peers(interpreter(tmp_path, "\x7fno program"))
    with pytest.raises(InputFault, match="cannot be started"):
        peers.run("phe")


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("phe_peer", ("--bits", "2048")),
        ("pypaillier_peer", ("--bits", "2048")),
        ("openmined_psi_peer", ("--client", os.devnull, "--server", os.devnull)),
    ],
)
def test_a_peer_script_without_its_library_says_that_it_is_missing(script, arguments):
    path = ROOT / "simulations" / "peers" / f"{script}.py"
    command = [sys.executable, "-I", "-S", path, *arguments, "--json"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "missing" in json.loads(ended.stdout)


# ---- matching


def test_matching_by_ecdh_prints_its_figures_and_is_correct(ecdh):
    assert {*MATCHED, "cpu_vs_openmined"} <= set(ecdh)
    assert ecdh["correct"] is True and ecdh["matched"] == 100
    assert all(number > 0 for number in numbers_of([ecdh[name] for name in MATCHED]))


def test_ecdh_against_openmined_is_its_cpu_time_over_ours(ecdh):
    assert ecdh["cpu_vs_openmined"] == pytest.approx(1000 / ecdh["cpu_s"], rel=1e-2)


def test_matching_by_paillier_prints_its_figures_and_is_correct(matched):
    assert set(MATCHED) <= set(matched)
    assert matched["correct"] is True and matched["matched"] == 50 and matched["key_bits"] == 2048
    assert all(number > 0 for number in numbers_of([matched[name] for name in MATCHED]))


def test_a_sides_memory_counts_its_workers(ecdh, matched):
    assert matched["peak_mb"]["bank"] > 1.3 * ecdh["peak_mb"]["bank"]


def test_a_result_is_correct_only_as_the_plain_set_in_one_order():
    right = {"set_sha256": "a", "order_sha256": "b"}
    assert bench_matching.is_correct({"bank": right, "platform": right}, "a")
    assert not bench_matching.is_correct({"bank": right, "platform": right}, "c")
    assert not bench_matching.is_correct({"bank": right, "platform": {**right, "set_sha256": "c"}}, "a")
    assert not bench_matching.is_correct({"bank": right, "platform": {**right, "order_sha256": "c"}}, "a")


def test_a_side_that_dies_ends_the_command_with_its_last_words(tmp_path, monkeypatch, capfd):
    dying = interpreter(tmp_path, "#!{python}\nimport sys\nsys.exit('the disk is full')\n")
    monkeypatch.setattr(bench_matching.sys, "executable", str(dying))
    assert cli.run(["bench", "matching", "--queries", "64", "--rows", "64", "--json"]) == 3
    shown = capfd.readouterr()
    assert "platform-a ended before its result: the disk is full" in shown.err and shown.out == ""


def test_made_up_firms_have_valid_codes_and_none_comes_twice():
    codes = [bench_matching.firm_code(number) for number in range(500)]
    assert len(set(codes)) == 500 and all(is_uscc(code) for code in codes)


# ---- the machine


def test_a_pinned_process_may_run_everywhere_again_afterwards():
    before = os.sched_getaffinity(0)
    with bench_machine.pinned() as core:
        assert os.sched_getaffinity(0) == {core}
    assert os.sched_getaffinity(0) == before


def test_a_tree_of_processes_holds_a_child_and_what_it_used():
    spin = "import time\nwhile time.process_time() < 0.3: pass\nprint(1, flush=True)\ninput()"
    alone, used = bench_machine.tree_peak_mb(os.getpid()), bench_machine.tree_cpu_s(os.getpid())
    with subprocess.Popen([sys.executable, "-c", spin], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdout.readline() == b"1\n"
        assert child.pid in bench_machine.process_tree(os.getpid())
        assert bench_machine.tree_peak_mb(os.getpid()) > alone + 3
        assert bench_machine.tree_cpu_s(os.getpid()) > used + 0.2
        child.communicate(b"\n")


# ---- the report


def record_of(**figures: Any) -> dict[str, Any]:
    """A record of the core at the promised setting, with some of its figures."""
    machine = {
        "processor": "a <processor>",
        "cores": 2,
        "system": "s",
        "python": "3",
        "arithmetic": "g",
        "libraries": {},
    }
    return {
        "bench": "crypto", "key_bits": 2048, "rows": 30_000, "exponent_bits": {"owner_full": [1024, 1024]},
        "scaling": {}, "unit_us": {}, "whole_s": {}, "peers": {}, "notes": [], "machine": machine, **figures,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("figure", "value", "verdict"),
    [
        ("encrypt_vs_phe", 16.0, "reached"),
        ("encrypt_vs_phe", 15.9, "not reached"),
        ("encrypt_vs_phe", None, "not measured"),
        ("histogram_8_vs_nd", 0.4, "reached"),
        ("histogram_8_vs_nd", 0.41, "not reached"),
    ],
)
def test_a_promise_is_kept_at_its_bar_and_not_beyond_it(figure, value, verdict):
    (kept,) = [one for one in bench_promises.kept_by(record_of(**{figure: value})) if one.promise.path == (figure,)]
    assert kept.verdict == verdict


def test_a_promise_says_nothing_of_another_setting():
    assert list(bench_promises.kept_by(record_of(key_bits=3072))) == []
    kernels = [one.promise.path for one in bench_promises.kept_by(record_of(rows=300))]
    assert ("encrypt_vs_phe",) in kernels and ("histogram_8_vs_nd",) not in kernels


def test_the_plot_draws_a_bar_for_every_measured_promise():
    kept = list(bench_promises.kept_by(record_of(encrypt_vs_phe=20.0, decrypt_vs_phe=0.5)))
    svg = bench_plot.margins_svg(kept)
    assert svg.startswith("<svg") and "20x" in svg and "(promised ≥ 0.6x)" in svg and "histogram" not in svg
    assert bench_plot.margins_svg(list(bench_promises.kept_by(record_of()))) == ""


def test_the_page_escapes_what_it_shows():
    shown = bench_report.render([record_of(encrypt_vs_phe=20.0)])
    assert "a &lt;processor&gt;" in shown and "<processor>" not in shown


def test_a_folder_keeps_the_printed_object_and_a_page_of_all_that_lies_there(beside, tmp_path):
    out = Path(beside["out"])
    assert json.loads((out / "bench.json").read_text()) == {name: beside[name] for name in beside if name != "out"}
    assert "Paillier core, 2048-bit keys" in (out / bench_report.PAGE).read_text()


def test_a_folder_with_something_else_in_place_of_a_record_is_refused(tmp_path):
    (tmp_path / "matching-ecdh.json").write_text("{}")
    with pytest.raises(InputFault, match="is no record of a benchmark"):
        bench_report.write_report(tmp_path, record_of())


# ---- wrong input


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("crypto", "--peers", "/nowhere/python"), "--peers names the Python interpreter"),
        (("crypto", "--bits", "1024"), "--bits is an even number from 2048"),
        (("crypto", "--rows", "3"), "3 is not in the range"),
        (("crypto", "--repeat", "0"), "0 is not in the range"),
        (("crypto", "--out", "/dev/null/x"), "cannot be made a folder"),
        (("matching", "--queries", "99", "--rows", "99", "--protocol", "hash"), "--protocol is paillier or ecdh"),
        (("matching", "--queries", "99", "--rows", "99", "--peers", "/"), "--peers names the Python interpreter"),
        (("matching", "--queries", "9", "--rows", "99"), "9 is not in the range"),
        (("matching", "--rows", "99"), "Missing option '--queries'"),
    ],
)
def test_a_wrong_word_is_one_sentence_before_anything_is_measured(words, sentence, capfd):
    assert cli.run(["bench", *words, "--json"]) == 2
    shown = capfd.readouterr()
    assert sentence in shown.err.replace("\n", " ") and "Traceback" not in shown.err and shown.out == ""
