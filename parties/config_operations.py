"""Sections of a node's configuration that say how it is run for years: where its store is, how many runs it leads, what a
peer may cost it, how it is watched.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from lianxin.parties.config_section import Section

MIB, GIB = 2**20, 2**30


class StoreSection(Section):
    """Where the node's memory is: a file in the state folder, or a database named by `url` (PostgreSQL)."""

    url: str = ""
    password_file: Path | None = None


class RunsSection(Section):
    """How many runs go on at once here, and how many may wait behind them."""

    at_once: int = Field(default=2, ge=1, le=16)
    queued: int = Field(default=64, ge=0, le=1024)


class LimitsSection(Section):
    """What one peer may cost this node, in bytes unless the name says otherwise; how to size it is in docs/limits.md."""

    message_bytes: int = Field(default=4 * MIB, ge=256 * 1024, le=4 * MIB)
    messages_per_s: int = Field(default=5_000, ge=10, le=1_000_000)
    message_burst: int = Field(default=50_000, ge=100, le=10_000_000)
    dials_per_minute: int = Field(default=600, ge=10, le=60_000)
    run_bytes: int = Field(default=64 * GIB, ge=MIB, le=2**50)
    day_bytes: int = Field(default=512 * GIB, ge=MIB, le=2**50)
    conversations: int = Field(default=32, ge=4, le=256)
    conversations_in_all: int = Field(default=512, ge=4, le=4096)
    connections_in_all: int = Field(default=512, ge=2, le=8192)
    run_disk_bytes: int = Field(default=128 * GIB, ge=MIB, le=2**50)
    free_disk_bytes: int = Field(default=GIB, ge=0, le=2**50)
    free_disk_permille: int = Field(default=50, ge=0, le=900)


class WatchSection(Section):
    """How the node is watched: the form of its log and from which level on; `host:port` where its metrics are read, a
    loopback address unless `metrics_public`."""

    log: Literal["text", "json"] = "text"
    level: Literal["debug", "info", "warning", "error"] = "info"
    metrics: str = ""
    metrics_public: bool = False


_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


def odd_addresses(listen: str | None, dialled: str | None, watch: WatchSection) -> Iterator[tuple[str, str]]:
    """Yield the key and the sentence of each address that is none, and of metrics that strangers could read."""
    for key, address in (("listen", listen), ("platform_address", dialled), ("watch.metrics", watch.metrics)):
        if address and not _is_address(address):
            yield key, "is to be host:port, with a port of 0 to 65535"
    host = watch.metrics.rpartition(":")[0]
    if _is_address(watch.metrics) and host not in _LOOPBACK and not watch.metrics_public:
        yield "watch.metrics", "is no loopback address; use 127.0.0.1, or set metrics_public = true behind a firewall"


def _is_address(text: str) -> bool:
    host, colon, port = text.rpartition(":")
    return bool(host and colon) and port.isascii() and port.isdigit() and int(port) < 1 << 16
