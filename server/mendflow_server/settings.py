"""The server's settings: one frozen object, built once. Nothing else reads the environment.

Each setting is also an environment variable: ``MENDFLOW_`` and the setting's name in capitals. An argument of
`load_settings` overrides the variable.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from mendflow.addresses import split_address

__all__ = ["Settings", "SettingsError", "load_settings"]

PREFIX = "MENDFLOW_"

#: 100 years, in seconds; longer times do not fit into timers.
LONGEST = 36_525 * 86_400
#: The largest number that the operating system and gRPC take everywhere.
MOST = 2**31 - 1

Seconds = Annotated[float, Field(gt=0, le=LONGEST, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=MOST)]


#: The value of a time that has no limit.
FOREVER = "forever"


def _limit(value: object) -> object:
    return None if value == FOREVER else value


class SettingsError(Exception):
    """A setting is not valid. The message names each variable, its value and what is allowed."""


class Settings(BaseSettings):
    """All settings, each with its default."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    store: str = Field(
        "sqlite:///mendflow.db",
        description="URL of the store: sqlite:///relative.db, sqlite:////absolute.db or "
        "postgresql://USER:PASSWORD@HOST:PORT/DATABASE.",
        repr=False,  # It may have a password.
    )
    store_password_file: str = Field(
        "",
        description="Path of a file with the database's password. The server reads it at each connect, so a new "
        "password needs no restart. It goes before a password in the URL and in PGPASSWORD.",
    )
    store_reading_connections: Annotated[int, Field(ge=1, le=100)] = Field(
        3,
        description="Number of the connections to a database that read. The server has three more: for its locks, for "
        "commits and for notices between replicas.",
    )
    store_connect_timeout: Annotated[float, Field(ge=0.1, le=300, allow_inf_nan=False)] = Field(
        5.0, description="Maximum time to connect to one host of the database, in seconds."
    )
    store_statement_timeout: Annotated[float, Field(ge=0.1, le=3_600, allow_inf_nan=False)] = Field(
        15.0,
        description="Time after which the database cancels a statement of the server, in seconds. The server waits one "
        "second longer for an answer.",
    )
    grpc_address: str = Field(
        "127.0.0.1:50051", description="Address of the gRPC server, HOST:PORT. Port 0 stands for any free port."
    )
    http_address: str = Field(
        "127.0.0.1:3000",
        description="Address of the HTTP server with /health, HOST:PORT. Port 0 stands for any free port.",
    )
    insecure: bool = Field(
        default=False,
        description="Serve beyond loopback without TLS. Anyone who reaches the port can start, read and end workflows.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Lowest level that is logged: debug, info, warning or error."
    )
    log_format: Literal["auto", "json", "console"] = Field(
        "auto",
        description="Format of the log: json, console or auto (console on a terminal, else JSON lines).",
    )

    event_loop: Literal["auto", "asyncio", "uvloop"] = Field(
        "auto", description="Event loop: asyncio, uvloop or auto (uvloop where it is installed)."
    )

    payload_limit: Count = Field(
        1 << 20, description="Maximum size of an input, an output or a signal's data, in bytes."
    )
    request_limit: Count = Field(4 << 20, description="Maximum size of a request message, in bytes.")
    history_limit: Annotated[int, Field(ge=100)] = Field(
        50_000, description="Maximum number of events in one history. A workflow that reaches the limit fails."
    )
    batch_limit: Count = Field(1_000, description="Maximum number of starts in one BatchStartWorkflows request.")
    page_limit: Count = Field(1_000, description="Maximum number of entries on a page.")
    untaken_signals_limit: Count = Field(
        1_000, description="Maximum number of signals that one workflow has not taken yet."
    )
    watch_limit: Count = Field(5_000, description="Maximum number of open watches.")
    workflows_in_memory_limit: Count = Field(20_000, description="Maximum number of workflows in memory.")
    labels_limit: Count = Field(32, description="Maximum number of labels on one workflow.")
    workflow_id_length: Annotated[int, Field(ge=16, le=1_000)] = Field(
        200, description="Maximum number of characters in a workflow_id."
    )
    wait_limit: Seconds = Field(60.0, description="Maximum wait of StartWorkflow and GetWorkflow, in seconds.")

    attempt_slots: Count = Field(
        1_000, description="Maximum number of concurrent attempts of async def steps. A waiting workflow holds no slot."
    )
    thread_slots: Count = Field(
        32,
        description=(
            "Maximum number of concurrent attempts of def steps. Each has a thread. "
            "Up to as many threads with hung code hold none."
        ),
    )
    attempt_timeout: Seconds = Field(60.0, description="Timeout of an attempt whose step sets none, in seconds.")
    cancel_grace: Seconds = Field(
        5.0, description="Time for a cancelled async attempt to end before the server closes it, in seconds."
    )
    cleanup_timeout: Seconds = Field(60.0, description="Time for the clean-up of a cancelled workflow, in seconds.")
    evict_after: Seconds = Field(
        3.0, description="Time after which a waiting workflow is evicted from memory, in seconds."
    )
    crash_budget: Count = Field(
        3, description="Crashes of the server, with one suspect running alone, after which the suspect is quarantined."
    )

    retention: Annotated[float | None, Field(gt=0, allow_inf_nan=False), BeforeValidator(_limit)] = Field(
        2_592_000.0,
        description="Time for which a workflow is kept after its end, in seconds (30 days), or forever. "
        "`@workflow(retention=…)` overrides it.",
    )

    watch_heartbeat: Seconds = Field(
        10.0, description="Silence after which a watch receives an empty frame, in seconds."
    )
    drain_timeout: Seconds = Field(25.0, description="Maximum duration of a drain, in seconds.")
    exit_timeout: Seconds = Field(
        8.0, description="Time that the process has to end after a drain, before it ends itself, in seconds."
    )
    commit_patience: Seconds = Field(
        5.0, description="Time that a caller waits for a commit before it receives UNAVAILABLE, in seconds."
    )
    commit_age_limit: Seconds = Field(
        5.0, description="Age of an uncommitted batch at which the server is not ready, in seconds."
    )
    loop_lag_limit: Seconds = Field(
        2.0, description="Lag of the event loop at which the server is not ready, in seconds."
    )
    liveness_limit: Seconds = Field(
        30.0,
        description="Pause of the event loop or the supervisor after which the server is not alive, in seconds.",
    )
    probe_interval: Seconds = Field(
        3.0,
        description="Interval of the writes that test the store and record that this process is alive, in seconds.",
    )
    build: str = Field(
        "",
        max_length=100,
        description="Name of the served code. Replicas on PostgreSQL whose names differ may run different code. If "
        "it is empty, a hash of the served modules' files.",
    )
    lease: Seconds = Field(
        10.0,
        description="Time after which other replicas on PostgreSQL take over the workflows of one that does not renew "
        "its lease, in seconds. MENDFLOW_PROBE_INTERVAL is the interval of the renewals.",
    )
    good_probes: Count = Field(
        2, description="Successful health probes in a row after which the server is ready again."
    )

    @field_validator("store_password_file")
    @classmethod
    def _absolute(cls, value: str) -> str:
        # A step may change the working directory, and the file is read again later.
        return str(Path(value).absolute()) if value else value

    @field_validator("grpc_address", "http_address")
    @classmethod
    def _address(cls, value: str) -> str:
        try:
            split_address(value)
        except ValueError as error:
            msg = f"{error}; must be HOST:PORT, as in 127.0.0.1:50051 or [::1]:50051"
            raise ValueError(msg) from None
        return value

    @model_validator(mode="after")
    def _loopback(self) -> Settings:
        for name in ("grpc_address", "http_address"):
            address: str = getattr(self, name)
            if not self.insecure and not _is_loopback(split_address(address)[0]):
                msg = (
                    f"{PREFIX}{name.upper()}={address!r}: must be a loopback address, since there is no TLS and "
                    "anyone who reaches the address can start, read and end workflows; to serve it anyway, set "
                    "--insecure or MENDFLOW_INSECURE=1"
                )
                raise ValueError(msg)
        return self


def load_settings(**overrides: Any) -> Settings:
    """Return the settings: an override that is not None, else the environment variable, else the default.

    Raise `SettingsError` when a value is not valid.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        problems = []
        for each in error.errors():
            name = str(each["loc"][0]) if each["loc"] else ""
            message = each["msg"].removeprefix("Value error, ")
            if each["type"] == "extra_forbidden":  # Only the caller's code can give one.
                problems.append(f"{name}={each['input']!r}: there is no setting with this name")
                continue
            problems.append(f"{PREFIX}{name.upper()}={each['input']!r}: {message}" if name else message)
        raise SettingsError("; ".join(problems)) from None


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
