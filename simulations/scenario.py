"""Scenarios: stories that a person can read and a machine can run, each with the verdict that its auditor must come to.

A scenario is a TOML file: `[scenario]` tells the story, `[world]` says which firms and banks are made up, `[terms]` what is
agreed, `[[event]]` what happens to honest parties (a consent withdrawn, a bank that falls silent), `[[cheat]]` what a
dishonest one does, `[expect]` how it ends, `[quick]` what is smaller where there is little time. The packaged ones lie in
`scenarios/`. Unknown keys and wrong types are refused in one sentence that names the file and the key.
"""

import tomllib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lianxin.federation.contract import MATCHING_PROTOCOLS, NETWORK_MODELS, PROFILES, TRAINED_MODELS
from lianxin.federation.errors import InputFault
from lianxin.parties.config import RunConfig
from lianxin.simulations.layout import Terms

PACKAGED = Path(__file__).with_name("scenarios")
VERIFIED, NOT_VERIFIED, STOPPED = "verified", "not verified", "stopped"
_OWN_SECTION = (
    "run",
    "proposer",
    "banks",
    "matching",
    "model",
    "profile",
    "key_bits",
    "rounds",
    "features",
    "identifiers",
)
_LAID_OVER = ("minimums", "model_terms")
_LONGEST = 1_000_000

Count = Annotated[int, Field(ge=1, le=1_000_000)]
Share = Annotated[int, Field(ge=0, le=1000)]
Party = Annotated[str, Field(pattern=r"^[a-z0-9-]{3,64}$")]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Told(_Section):
    """What the story is; `about_s` says about how many seconds it takes, 0 where nobody measured it."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{1,40}$")]
    title: Annotated[str, Field(min_length=3, max_length=120)]
    story: Annotated[str, Field(min_length=10, max_length=4000)]
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    about_s: Annotated[int, Field(ge=0)] = 0


class Expected(_Section):
    """How the story ends: the verdict, and where it is a bad one the party accused, the check that fails, the rule broken."""

    verdict: Literal["verified", "not verified", "stopped"]
    accused: Party | Literal[""] = ""
    check: Annotated[str, Field(max_length=40)] = ""
    rule: Annotated[str, Field(pattern=r"^([A-Z]{1,4}[0-9]{2,3})?$")] = ""


class World(_Section):
    """Which world is made up: firms of the platform, banks, loans of each; `columns` and `own_columns` keep only these
    fields of the platform's and the banks' tables, `fields` and `own_fields` count those of a wide world."""

    shape: Literal["province", "catering", "wide"]
    firms: Count
    banks: Annotated[int, Field(ge=1, le=60)]
    loans: Count
    fields: Annotated[int, Field(ge=0, le=500)] = 0
    own_fields: Annotated[int, Field(ge=0, le=500)] = 0
    columns: list[str] = []
    own_columns: list[str] = []


class TermsSection(_Section):
    """The keys of `layout.Terms`; what withdraws a consent is an event."""

    matching: Literal[MATCHING_PROTOCOLS] = "paillier"  # type: ignore[valid-type]
    model: Literal[TRAINED_MODELS] = "scorecard"  # type: ignore[valid-type]
    profile: Literal[tuple(PROFILES)] = "full_exponents"  # type: ignore[valid-type]
    key_bits: Annotated[int, Field(ge=2048, le=8192)] = 2048
    rounds: Annotated[int, Field(ge=1, le=200)] = 6
    consent_permille: Share = 1000
    outsider_permille: Share = 1000
    compute_only_permille: Share = 0
    score_consents: bool = False
    minimums: dict[str, int | str] = {}
    model_terms: dict[str, Any] = {}


class Revoked(_Section):
    """`firms` customers of the first bank withdraw their consent after a round."""

    kind: Literal["revoked"]
    firms: Annotated[int, Field(ge=1, le=1000)] = 1
    after_round: Annotated[int, Field(ge=1, le=200)] = 2


class Lost(_Section):
    """A bank falls silent in a round, once it has the platform's first message of it."""

    kind: Literal["lost"]
    party: Party
    round: Annotated[int, Field(ge=1, le=200)] = 2


class CheatTable(BaseModel):
    """What a party does against the rules; the keys beside `kind` are that cheat's own."""

    model_config = ConfigDict(extra="allow", frozen=True)
    kind: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{1,40}$")]

    @property
    def options(self) -> Mapping[str, Any]:
        """Return the cheat's own keys."""
        return self.model_extra or {}


Event = Annotated[Revoked | Lost, Field(discriminator="kind")]


class Quick(_Section):
    """What is laid over the rest for the quick form; lists replace the whole list."""

    about_s: Annotated[int, Field(ge=0)] = 0
    world: dict[str, Any] = {}
    terms: dict[str, Any] = {}
    event: list[dict[str, Any]] | None = None
    cheat: list[dict[str, Any]] | None = None


class Scenario(_Section):
    """A whole scenario, checked."""

    scenario: Told
    expect: Expected
    world: World
    terms: TermsSection = TermsSection()
    event: list[Event] = []
    cheat: list[CheatTable] = []
    quick: Quick = Quick()

    @property
    def name(self) -> str:
        """The scenario's name."""
        return self.scenario.name

    @property
    def is_network(self) -> bool:
        """Whether a network is trained across the banks."""
        return self.terms.model in NETWORK_MODELS

    @cached_property
    def lost(self) -> list[Lost]:
        """The banks that fall silent."""
        return [event for event in self.event if isinstance(event, Lost)]

    def layout_terms(self, workers: int = 0) -> Terms:
        """Return what a folder is laid out with."""
        withdrawn = next((event for event in self.event if isinstance(event, Revoked)), None)
        told: dict[str, Any] = {}
        if withdrawn is not None:
            told = {"revoked_firms": withdrawn.firms, "revoke_after_round": withdrawn.after_round}
        return Terms(seed=self.scenario.seed, workers=workers, **told, **self.terms.model_dump())

    def at(self, is_quick: bool = False, seed: int | None = None) -> "Scenario":
        """Return the scenario, in its quick form or from another seed where asked. Raises InputFault as `load_scenario`."""
        record = self.to_record()
        if is_quick:
            record = _quick(record)
        if seed is not None:
            record["scenario"]["seed"] = seed
        return _checked(record, f"scenario {self.name}" + (", in its quick form" if is_quick else ""))

    def to_record(self) -> dict[str, Any]:
        """Return the scenario as JSON, from which `scenario_of` makes it again."""
        return self.model_dump(mode="json", exclude_none=True)


def _quick(record: dict[str, Any]) -> dict[str, Any]:
    over = record.pop("quick")
    for section in ("world", "terms"):
        own = record[section]
        laid = {name: {**own.get(name, {}), **over[section].get(name, {})} for name in _LAID_OVER if name in own}
        record[section] = {**own, **over[section], **laid}
    for part in ("event", "cheat"):
        record[part] = over.get(part, record[part])
    record["scenario"]["about_s"] = over["about_s"]
    return record


def packaged() -> list[str]:
    """Return the names of the packaged scenarios."""
    return sorted(path.stem for path in PACKAGED.glob("*.toml"))


def load_scenario(name: str | Path) -> Scenario:
    """Return a packaged scenario by its name, or the one in a TOML file by its path.

    Raises InputFault: no such name or file, a file that is no TOML (with its line), a key that is unknown, missing or of
    another type, terms that contradict each other. The quick form is checked too.
    """
    path = _path_of(name)
    found = _checked(_read(path), str(path))
    fast = _checked(_quick(found.to_record()), f"{path}, [quick]")
    _check_cheats(found, str(path))
    _check_cheats(fast, f"{path}, [quick]")
    return found


def _read(path: Path) -> dict[str, Any]:
    """Return the TOML at `path`. Raises InputFault for what is none."""
    try:
        if path.exists() and not path.is_file():
            raise InputFault(f"{path} is no file; give the TOML file of a scenario")
        with path.open("rb") as file:
            data = file.read(_LONGEST + 1)
        if len(data) > _LONGEST:
            raise InputFault(f"{path} has more than {_LONGEST} bytes; give the TOML file of a scenario")
        return tomllib.loads(data.decode())
    except (OSError, ValueError, RecursionError) as fault:
        raise InputFault(f"{path} {_unreadable(fault)}") from None


def _unreadable(fault: Exception) -> str:
    if isinstance(fault, tomllib.TOMLDecodeError):
        return f"is no TOML: {fault}; mend that line"
    if isinstance(fault, UnicodeDecodeError):
        return "is no text; give the TOML file of a scenario"
    return "nests too deeply for a scenario" if isinstance(fault, RecursionError) else "cannot be read; check the path"


def _check_cheats(scenario: Scenario, source: str) -> None:
    """Raise InputFault naming the file, and the cheat that is none or has an option that is none."""
    if not scenario.cheat:
        return
    from lianxin.simulations.cheats import CHEATS

    for number, cheat in enumerate(scenario.cheat):
        key = f"{source}: cheat.{number}"
        if cheat.kind not in CHEATS:
            raise InputFault(f"{key}.kind: {cheat.kind} is no cheat; there are {', '.join(sorted(CHEATS))}")
        try:
            CHEATS[cheat.kind]({"seed": scenario.scenario.seed, **cheat.options})
        except InputFault as fault:
            raise InputFault(f"{key}: {fault}") from None


def scenario_of(record: Any) -> Scenario:
    """Return the scenario that RUN_DIR/scenario.json tells of. Raises InputFault where it is none."""
    return _checked(record, "scenario.json")


def _path_of(name: str | Path) -> Path:
    if isinstance(name, Path) or name.endswith(".toml") or "/" in name:
        return Path(name)
    if name not in packaged() and "\0" not in name and Path(name).exists():
        return Path(name)
    if name not in packaged():
        raise InputFault(
            f"no scenario is called {name}; there are {', '.join(packaged())}, or give the path of a TOML file"
        )
    return PACKAGED / f"{name}.toml"


def _checked(record: Any, source: str) -> Scenario:
    try:
        found = Scenario.model_validate(record)
    except ValidationError as fault:
        first = fault.errors()[0]
        key = _key(first["loc"])
        raise InputFault(f"{source}: {key}{_plain(first)}") from None
    wrong = _contradiction(found)
    if wrong:
        raise InputFault(f"{source}: {wrong}")
    return found


def _key(place: Sequence[int | str]) -> str:
    names = [str(one) for one in place if one not in ("revoked", "lost")]
    return ".".join(names) + ": " if names else ""


def _plain(error: Any) -> str:
    kinds = {
        "missing": "is missing; add it",
        "extra_forbidden": "is no key that a scenario has here; remove it or mend its spelling",
        "union_tag_invalid": 'kind is none of "revoked" and "lost"; mend it',
        "union_tag_not_found": 'kind is missing; give "revoked" or "lost"',
    }
    return kinds.get(error["type"], error["msg"][:1].lower() + error["msg"][1:] + "; mend it")


def _contradiction(found: Scenario) -> str:
    """Return what cannot be run as it stands and what to do, "" where nothing is wrong."""
    world, terms = found.world, found.terms
    banks = {f"bank-{number + 1}" for number in range(world.banks)}
    unknown = sorted(name for name in terms.minimums if name in _OWN_SECTION or name not in RunConfig.model_fields)
    if unknown:
        return f"terms.minimums.{unknown[0]}: is no minimum of a run; remove it or mend its spelling"
    if (world.shape == "wide") != (world.fields > 0 and world.own_fields > 0):
        return 'world.fields: only shape = "wide" has fields and own_fields, and it has both; add or remove them'
    strangers = [event.party for event in found.lost if event.party not in banks]
    if strangers:
        return f"event.party: {strangers[0]} is no bank of this world; its banks are bank-1 to bank-{world.banks}"
    if sum(isinstance(event, Revoked) for event in found.event) > 1:
        return "event: one event of kind revoked is enough; give it all the firms"
    if found.lost and found.is_network:
        return "event: a bank falls silent in a joint model's run only; remove the event, or choose another terms.model"
    needs = found.expect.verdict == STOPPED and not found.expect.rule
    return "expect.rule: a story that stops says by which rule; add it" if needs else ""
