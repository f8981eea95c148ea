"""The server's settings: one frozen object, built once; nothing else reads the environment.

Every setting is a variable ``MENDFLOW_…`` of the same name in capitals. What
is given to `load_settings` goes before the environment.
"""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

__all__ = ["Settings", "SettingsError", "load_settings"]

PREFIX = "MENDFLOW_"

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class SettingsError(Exception):
    """A setting is bad. The message names each variable, its value and what is allowed."""


class Settings(BaseSettings):
    """Everything that can be set."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    store: str = Field(
        "sqlite:///mendflow.db",
        description="Where workflows are kept: sqlite:///relative.db or sqlite:////absolute.db.",
    )
    grpc_address: str = Field("127.0.0.1:50051", description="Where gRPC is served, HOST:PORT. Port 0: any free one.")
    http_address: str = Field("127.0.0.1:3000", description="Where /health is served, HOST:PORT. Port 0: any free one.")
    insecure: bool = Field(
        default=False,
        description="Serve beyond loopback without TLS: whoever reaches the port can start and read every workflow.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The least level that is logged."
    )
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="auto: console on a terminal, JSON lines otherwise."
    )

    event_loop: Literal["auto", "asyncio", "uvloop"] = Field("auto", description="auto: uvloop where it is installed.")

    payload_limit: Count = Field(1 << 20, description="Bytes of an input, an output, a signal's data.")
    request_limit: Count = Field(4 << 20, description="Bytes of a request message.")
    history_limit: Annotated[int, Field(ge=100)] = Field(
        50_000, description="Events in one history; at this many a workflow fails."
    )
    batch_limit: Count = Field(1_000, description="Starts in one BatchStartWorkflows.")
    page_limit: Count = Field(1_000, description="Entries on a page.")
    untaken_signals_limit: Count = Field(1_000, description="Signals of one workflow that wait to be taken.")
    watch_limit: Count = Field(5_000, description="Watches open at once.")
    workflows_in_memory_limit: Count = Field(20_000, description="Workflows in memory at once.")
    labels_limit: Count = Field(32, description="Labels on one workflow.")
    workflow_id_length: Annotated[int, Field(ge=16, le=1_000)] = Field(200, description="Characters in a workflow id.")
    wait_limit: Seconds = Field(60.0, description="Seconds of the longest wait of StartWorkflow and GetWorkflow.")

    attempt_slots: Count = Field(1_000, description="Attempts of async def steps at once. What waits holds none.")
    thread_slots: Count = Field(32, description="Attempts of def steps at once.")
    attempt_timeout: Seconds = Field(60.0, description="Seconds an attempt may take, where its step does not say.")
    cancel_grace: Seconds = Field(
        5.0, description="Seconds a cancelled async attempt has to end before it is closed regardless."
    )
    cleanup_timeout: Seconds = Field(60.0, description="Seconds a cancelled workflow has for clean-up.")
    evict_after: Seconds = Field(3.0, description="Seconds a waiting workflow stays in memory.")
    crash_budget: Count = Field(
        3, description="Deaths of the server with one suspect alone after which it is quarantined."
    )

    watch_heartbeat: Seconds = Field(10.0, description="Seconds of silence after which a watch gets an empty frame.")
    drain_timeout: Seconds = Field(25.0, description="Seconds a drain may take.")
    commit_patience: Seconds = Field(5.0, description="Seconds a caller waits for a commit before UNAVAILABLE.")
    commit_age_limit: Seconds = Field(5.0, description="Seconds without a commit after which the server is not ready.")
    loop_lag_limit: Seconds = Field(
        2.0, description="Seconds the event loop may be late before the server is not ready."
    )
    liveness_limit: Seconds = Field(
        30.0,
        description="Seconds without a turn of the loop or a tick of the supervisor after which it is not alive.",
    )
    probe_interval: Seconds = Field(
        3.0, description="Seconds between the small writes that prove the store, and that renew this process's life."
    )
    good_probes: Count = Field(2, description="Good probes in a row after which the server is ready again.")

    @field_validator("grpc_address", "http_address")
    @classmethod
    def _address(cls, value: str) -> str:
        host, colon, port = value.rpartition(":")
        # Without its brackets an IPv6 host cannot be told from its port.
        bare = ":" in host and not (host.startswith("[") and host.endswith("]"))
        if not colon or not host or bare or not port.isdecimal() or int(port) > 65_535:  # noqa: PLR2004 - the last port
            msg = "must be HOST:PORT, as in 127.0.0.1:50051 or [::1]:50051"
            raise ValueError(msg)
        return value

    @model_validator(mode="after")
    def _loopback(self) -> Settings:
        for name in ("grpc_address", "http_address"):
            address: str = getattr(self, name)
            if not self.insecure and not _is_loopback(address.rpartition(":")[0]):
                msg = (
                    f"{PREFIX}{name.upper()}={address!r}: it is beyond loopback and there is no TLS: whoever reaches "
                    "it can start, read and end every workflow. To do it all the same, say --insecure or "
                    "MENDFLOW_INSECURE=1"
                )
                raise ValueError(msg)
        return self


def load_settings(**overrides: Any) -> Settings:
    """Answer the settings: what is given (not None), else the environment, else the defaults.

    Raises `SettingsError`.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        problems = []
        for each in error.errors():
            name = str(each["loc"][0]) if each["loc"] else ""
            message = each["msg"].removeprefix("Value error, ")
            problems.append(f"{PREFIX}{name.upper()}={each['input']!r}: {message}" if name else message)
        raise SettingsError("; ".join(problems)) from None


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
