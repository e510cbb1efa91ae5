"""Sections of a node's configuration that say how it is run for years: where its store is, how many runs it leads, what a
peer may cost it, how it is watched.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field

from lianxin.parties.config_section import Section


class StoreSection(Section):
    """Where the node's memory is: a file in the state folder, or a database named by `url` (PostgreSQL)."""

    url: str = ""
    password_file: Path | None = None


class RunsSection(Section):
    """How many runs go on at once here, and how many may wait behind them."""

    at_once: int = Field(default=2, ge=1, le=16)
    queued: int = Field(default=64, ge=0, le=1024)


class LimitsSection(Section):
    """What one peer may cost this node."""


class WatchSection(Section):
    """How the node is watched: the form of its log, and where its metrics are read."""

    log: Literal["text", "json"] = "text"
    metrics: str = ""
