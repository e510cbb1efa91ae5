"""How an older store becomes one of this version: a function a step, all steps in one transaction.

A step brings a store from the version before to its own number. What is interrupted leaves the old store as it was; a newer
store is refused by its number, and nothing is changed in it.
"""

from collections.abc import Callable, Mapping

import sqlalchemy as sa

from lianxin.federation.errors import InputFault
from lianxin.parties import store_schema as schema

Step = Callable[[sa.Connection], None]


def to_2(connection: sa.Connection) -> None:
    """0.3: what limited consents were used for, the ledger's hashes in tiles, the types of registered keys."""
    _create(connection, 2)


def to_3(connection: sa.Connection) -> None:
    """0.4: the platform's part of each score that stands for a quarter."""
    _create(connection, 3)


def to_4(connection: sa.Connection) -> None:
    """0.7: what is kept of how a node is run."""
    _create(connection, 4)


STEPS: Mapping[int, Step] = {2: to_2, 3: to_3, 4: to_4}


def found_version(connection: sa.Connection) -> int | str | None:
    """Return the version of the store, None in an empty database, "none" where the tables are none of ours."""
    present = set(sa.inspect(connection).get_table_names())
    if not present:
        return None
    if schema.schema.name not in present:
        return "none"
    version = connection.scalar(sa.select(schema.schema.c.version))
    return "none" if version is None else int(version)


def migrate(connection: sa.Connection) -> int | None:
    """Make the tables of this version, in a new store or an older one; return the version that was there.

    Raises InputFault for a newer store, and for a database that is no store.
    """
    found = found_version(connection)
    if found is None:
        schema.metadata.create_all(connection)
    else:
        check_version(found)
        for version in range(int(found) + 1, schema.SCHEMA_VERSION + 1):
            STEPS[version](connection)
    if found != schema.SCHEMA_VERSION:
        connection.execute(sa.delete(schema.schema))
        connection.execute(sa.insert(schema.schema).values(version=schema.SCHEMA_VERSION))
    return found if isinstance(found, int) else None


def check_version(found: int | str) -> None:
    """Raise InputFault unless this program reads a store of version `found`."""
    if isinstance(found, str) or not 1 <= found <= schema.SCHEMA_VERSION:
        raise InputFault(
            f"the store has schema version {found}, this program reads {schema.SCHEMA_VERSION}; run the version that "
            "wrote it"
        )


def _create(connection: sa.Connection, version: int) -> None:
    tables = [table for table in schema.metadata.sorted_tables if table.info["since"] == version]
    schema.metadata.create_all(connection, tables)
