"""Explain PostgreSQL's errors, and translate them to the store's.

No exception of asyncpg leaves this package. PostgreSQL's own words are repeated, because they never have a password.
"""

from __future__ import annotations

from typing import Final

import asyncpg

from mendflow_server.store.errors import (
    CommitUnknown,
    StoreDamaged,
    StoreError,
    StoreRefused,
    StoreUnavailable,
    malformed_value,
)
from mendflow_server.store.postgres.tls import advice_of

#: Everything that a call of asyncpg may raise.
FAILURES: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)

#: What to do about a condition, by SQLSTATE, or by its class of two characters.
_ADVICE: Final = {
    "08": "the connection was lost; check that PostgreSQL runs and is reachable",
    "28P01": "PostgreSQL refused the password; check the user and the password in the store's URL, in "
    "MENDFLOW_STORE_PASSWORD_FILE, PGPASSWORD or PGPASSFILE",
    "28": "PostgreSQL refused the login; check the user in the store's URL, pg_hba.conf, and sslmode, sslcert and "
    "sslkey if it demands TLS",
    "3D000": "the database does not exist; create it, or correct its name in the store's URL",
    "3F000": "the schema does not exist; create it, or correct search_path in the store's URL",
    "25006": "the database is read-only, as a standby is; use the primary, or make the database writable",
    "25P03": "the database ended a transaction that this server did not continue; check whether this machine is "
    "overloaded",
    "42501": "the user of the store may not do this; grant it CREATE and USAGE on the schema, or make it the owner",
    "42P01": "a table of the store is missing; restore a backup",
    "53100": "the disk of the database is full; free some space",
    "53200": "the database is out of memory; give it more, or lower its limits",
    "53300": "the database has too many connections; raise max_connections or the CONNECTION LIMIT of the "
    "role or database, or close some",
    "53": "the database lacks resources; check its log",
    "57014": "the database cancelled the statement; find what blocks it in pg_stat_activity, or raise "
    "MENDFLOW_STORE_STATEMENT_TIMEOUT",
    "55P03": "another transaction holds a lock for too long; find it in pg_stat_activity",
    "57P01": "the database ended the connection; check that PostgreSQL runs",
    "57P02": "the database crashed; check its log",
    "57P03": "the database is starting, stopping or recovering; wait, or check its log",
    "58": "the database has a problem with its disk; check its log",
    "XX001": "the database is damaged; stop the server and restore a backup",
    "XX002": "an index of the database is damaged; stop the server, and REINDEX or restore a backup",
}

_NO_PRIMARY: Final = (
    "no host of the store's URL that answers can be written; start the primary, promote a standby, or correct the "
    "hosts and target_session_attrs in the store's URL"
)
_DAMAGED: Final = frozenset({"XX001", "XX002"})
#: Conditions that do not pass without an operator. The server refuses to start with them.
_LASTING: Final = ("28", "3D", "3F", "42", "0A")
#: Conditions caused by the statement's values.
_BY_CALLER: Final = ("22", "23")
#: After these a statement may be repeated at once: another transaction was in the way.
_REPEATABLE: Final = frozenset({"40001", "40P01"})
#: With these the database ends the connection. It may have committed before.
_ENDING: Final = ("08", "57P0")


def code_of(error: BaseException) -> str:
    """Return the SQLSTATE of an error; empty if it has none."""
    return str(getattr(error, "sqlstate", None) or "")


def explain(error: BaseException, place: str) -> str:
    """Return a message with what happened to the store and what to do."""
    state = code_of(error)
    words = " ".join(str(error).split()) or type(error).__name__
    advice = _ADVICE.get(state) or _ADVICE.get(state[:2])
    if advice is None and not isinstance(error, asyncpg.PostgresError):
        if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
            return f"store {place}: {_NO_PRIMARY}"
        if isinstance(error, TimeoutError):
            advice = (
                "the database did not answer in time; check that it runs, is reachable and is not overloaded, and that "
                "a standby of its synchronous_standby_names answers"
            )
            return f"store {place}: {advice}"
        if (of_tls := advice_of(error)) is not None:
            advice = of_tls
        elif isinstance(error, ConnectionRefusedError | FileNotFoundError):
            advice = "no database answers there; start PostgreSQL, or correct the host and the port in the store's URL"
        elif isinstance(error, OSError):
            advice = "cannot reach the database; check that it runs, and the host and the port in the store's URL"
        else:
            advice = _ADVICE["08"]
    return f"store {place}: {advice} ({words})" if advice else f"store {place}: {words}"


def is_repeatable(error: BaseException) -> bool:
    """Return whether the transaction failed only because of another one, and may be repeated at once."""
    return code_of(error) in _REPEATABLE


def by_caller(error: BaseException) -> bool:
    """Return whether the values of the statement caused the error."""
    # For a value that it cannot encode asyncpg raises an error of its own, without a state.
    own = isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError)
    return own or code_of(error).startswith(_BY_CALLER)


def is_harmless(error: BaseException) -> bool:
    """Return whether the connection is still usable after this error."""
    if by_caller(error):
        return True
    state = code_of(error)
    return isinstance(error, asyncpg.PostgresError) and not state.startswith(_ENDING) and state != "25006"


def unavailable(error: Exception, place: str) -> StoreError:
    """Return the store's error for one that was raised before anything was changed."""
    if by_caller(error):
        return malformed_value(place, error)
    message = explain(error, place)
    return StoreDamaged(message) if code_of(error) in _DAMAGED else StoreUnavailable(message)


def translate(error: Exception, place: str) -> StoreError:
    """Return the store's error for one that a write raised."""
    if by_caller(error) or (isinstance(error, asyncpg.PostgresError) and not code_of(error).startswith(_ENDING)):
        return unavailable(error, place)
    return CommitUnknown(f"commit outcome unknown: {explain(error, place)}")


def translate_at_open(error: BaseException, place: str) -> StoreError:
    """Return the store's error for one that was raised while the store was opened."""
    message = explain(error, place)
    return StoreRefused(message) if code_of(error).startswith(_LASTING) else StoreUnavailable(message)
