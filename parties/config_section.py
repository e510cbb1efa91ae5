"""What every section of a configuration file is: frozen, and no key that it does not know."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A table of a TOML file."""

    model_config = ConfigDict(extra="forbid", frozen=True)
