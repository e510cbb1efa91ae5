"""What an operator copies from docs/deploy: hardened units that systemd takes, a container without rights, alerts."""

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

DEPLOY = ROOT / "docs" / "deploy"
UNITS = ["lianxin-bank.service", "lianxin-platform.service"]
PROGRAM = "/opt/lianxin/bin/lianxin"
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
METRIC = re.compile(r"lianxin_[a-z_]+")
MUST = {
    "NoNewPrivileges": "yes", "ProtectSystem": "strict", "ProtectHome": "yes", "PrivateTmp": "yes", "PrivateDevices": "yes",
    "StateDirectory": "lianxin", "StateDirectoryMode": "0700", "UMask": "0077", "LimitCORE": "0", "Restart": "on-failure",
    "Type": "notify", "NotifyAccess": "main", "RestrictSUIDSGID": "yes", "LockPersonality": "yes", "User": "lianxin",
    "CapabilityBoundingSet": "", "SystemCallArchitectures": "native",
}  # fmt: skip
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None, comment_prefixes="#")
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string((DEPLOY / name).read_text(encoding="utf-8"))
    return parser


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_runs_its_node_without_rights_and_starts_it_again(name):
    service = unit(name)["Service"]
    assert {key: service.get(key) for key in MUST} == MUST
    role = name.removeprefix("lianxin-").removesuffix(".service")
    assert service["ExecStart"] == f"{PROGRAM} {role} serve /etc/lianxin/node.toml"
    assert int(service["WatchdogSec"]) >= 30 and unit(name)["Install"]["WantedBy"] == "multi-user.target"
    assert "@resources" not in service["SystemCallFilter"]  # the node takes its own core dumps away by setrlimit


@needs_systemd
@pytest.mark.parametrize("name", UNITS)
def test_systemd_takes_the_unit(name, tmp_path):
    (tmp_path / "lianxin").write_text("#!/bin/sh\n")
    (tmp_path / "lianxin").chmod(0o755)
    text = (DEPLOY / name).read_text(encoding="utf-8").replace(PROGRAM, str(tmp_path / "lianxin"))
    (tmp_path / name).write_text(text)
    ended = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / name)], capture_output=True, text=True, timeout=60
    )
    about_ours = [line for line in ended.stderr.splitlines() if "lianxin" in line]
    assert ended.returncode == 0 and about_ours == [], ended.stderr


@needs_systemd
@pytest.mark.parametrize("name", UNITS)
def test_the_unit_is_hardened_as_systemd_scores_it(name):
    command = ["systemd-analyze", "security", "--offline=yes", "--threshold=20", "--no-pager", str(DEPLOY / name)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stdout[-400:] + ended.stderr  # 2.0 of 10 or less, "OK"


def directives() -> list[tuple[str, str]]:
    lines = (DEPLOY / "Containerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    return [tuple(line.split(None, 1)) for line in lines if line.strip() and not line.startswith("#")]  # type: ignore[misc]


def test_the_container_is_pinned_small_and_without_rights():
    found = directives()
    names = [name for name, _ in found]
    assert set(names) <= {
        "FROM", "WORKDIR", "COPY", "RUN", "LABEL", "ENV", "USER", "VOLUME", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT",
        "CMD",
    }  # fmt: skip
    images = [value.split()[0] for name, value in found if name == "FROM"]
    assert all(re.search(r":\d+\.\d+\S*-slim", image) for image in images) and len(images) == 2
    user = next(value for name, value in found if name == "USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    assert names.index("USER") > len(names) - 1 - names[::-1].index(
        "RUN"
    )  # nothing is installed as that user, all before
    assert names.count("HEALTHCHECK") == names.count("ENTRYPOINT") == names.count("STOPSIGNAL") == 1
    assert next(value for name, value in found if name == "ENTRYPOINT").startswith("[")  # signals reach the node itself


def test_the_container_holds_no_secret_and_names_no_other_source():
    text = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
    copied = " ".join(value for name, value in directives() if name == "COPY")
    assert not re.search(r"node\.toml|identity|\.key\b|\.pem\b|state", copied)
    assert not re.search(r"password|secret|token|--index|--extra|http://(?!' )|https://", text, re.IGNORECASE)
    assert not re.search(r"\bADD\b|curl|wget|sudo|chmod 777", text)
    for line in (value for name, value in directives() if name == "COPY" and "--from" not in value):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source


def exposed() -> set[str]:
    code = (ROOT / "parties" / "watch_figures.py").read_text(encoding="utf-8")
    return set(METRIC.findall(code))


def test_every_alert_asks_for_metrics_that_exist_and_says_what_to_do():
    groups = yaml.safe_load((DEPLOY / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) == len({rule["alert"] for rule in rules}) > 10
    for rule in rules:
        assert set(METRIC.findall(rule["expr"])) <= exposed(), rule["alert"]
        assert rule["labels"]["severity"] in ("page", "ticket") and rule["annotations"]["summary"].endswith(".")


def test_every_metric_is_in_the_operators_table_and_none_besides():
    assert exposed() == set(METRIC.findall(OPERATIONS))


def test_files_that_operations_names_are_there():
    for target in re.findall(r"\]\((deploy/[^)]+)\)", OPERATIONS):
        assert (ROOT / "docs" / Path(target)).is_file()
