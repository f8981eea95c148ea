"""Values of the standard OTEL_ variables that OpenTelemetry's SDK cannot take.

The SDK raises an exception at some bad values, logs a traceback at others, and aborts the process at a client's key
without a certificate. OpenTelemetry's specification says to ignore a bad value with a warning. `corrected` does that.
"""

from __future__ import annotations

import math
import os
import re
import ssl
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urlsplit

from mendflow.foreign_variables import note_ignored

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BatchLimits", "NotExported", "batch_limits", "compresses", "corrected", "endpoint", "variable"]

_GENERAL: Final = "OTEL_EXPORTER_OTLP_"
_TRACES: Final = "OTEL_EXPORTER_OTLP_TRACES_"
_CODES: Final = "OTEL_PYTHON_EXPORTER_OTLP_GRPC_RETRYABLE_ERROR_CODES"
_PROVIDERS: Final = (
    "OTEL_PYTHON_EXPORTER_OTLP_GRPC_TRACES_CREDENTIAL_PROVIDER",
    "OTEL_PYTHON_EXPORTER_OTLP_GRPC_CREDENTIAL_PROVIDER",
)
_METERS: Final = "OTEL_PYTHON_METER_PROVIDER"
_METRICS: Final = "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED"
_ATTRIBUTES: Final = "OTEL_RESOURCE_ATTRIBUTES"
_DETECTORS: Final = "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS"
#: A header as NAME=VALUE. gRPC takes these names, and values of printable ASCII characters.
_HEADER: Final = re.compile(r"\s*[A-Za-z0-9_.-]+\s*=[\x20-\x7e]*")
#: The value that a report shows instead of headers, which are often secret.
_HIDDEN: Final = "(hidden)"


class NotExported(Exception):
    """Spans cannot be exported. The reason is noted as an ignored variable."""


class BatchLimits(NamedTuple):
    """What the processor of batches takes: two numbers of spans, and milliseconds."""

    queue: int
    batch: int
    delay: int


def variable(name: str) -> str | None:
    """Return the value of a variable of traces, else of the general one; None if neither has a value."""
    return os.environ.get(_TRACES + name) or os.environ.get(_GENERAL + name)


def endpoint() -> str | None:
    """Return the receiver's host and port, as gRPC takes them; None if no variable has an address.

    Raise `NotExported` for an address that is not one.
    """
    address = variable("ENDPOINT")
    if not address:
        return None
    try:
        parts = urlsplit(address)
        _ = parts.port  # This raises ValueError for a bad port.
    except ValueError as error:
        name = (_TRACES if os.environ.get(f"{_TRACES}ENDPOINT") else _GENERAL) + "ENDPOINT"
        note_ignored(name, f"{error}", "spans are not exported")
        raise NotExported from None
    return parts.netloc or address


def compresses() -> bool:
    """Return whether spans are sent with gzip."""
    for prefix in (_TRACES, _GENERAL):
        chosen = os.environ.get(f"{prefix}COMPRESSION", "").strip().lower()
        if chosen in ("gzip", "none"):
            return chosen == "gzip"
        if chosen:
            _ignore(prefix, "COMPRESSION", "OTLP over gRPC takes gzip or none", "spans are sent without compression")
    return False


def batch_limits() -> BatchLimits:
    """Return the limits that the OTEL_BSP_ variables set."""
    queue = _count("OTEL_BSP_MAX_QUEUE_SIZE", 2048)
    default = min(512, queue)
    batch = _count("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", default)
    if batch > queue:
        note_ignored("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", f"it exceeds the queue's size, {queue}", f"{default} is used")
        batch = default
    return BatchLimits(queue, batch, _count("OTEL_BSP_SCHEDULE_DELAY", 5000))


def corrected() -> dict[str, str | None]:
    """Return the variables that the SDK cannot take, with values that it can. Raise `NotExported`."""
    found: dict[str, str | None] = {"OTEL_BSP_EXPORT_TIMEOUT": None}  # The SDK reads it and does not use it.
    for prefix in (_TRACES, _GENERAL):
        _check(found, prefix, "TIMEOUT", _seconds, "the limit is 10 s")
        _check(found, prefix, "INSECURE", _boolean, "the endpoint's scheme decides")
        _check(found, prefix, "HEADERS", _headers, "spans are sent without these headers", hidden=True)
        _check(found, prefix, "CERTIFICATE", _roots, "the system's certificates are used")
        _check_client(found, prefix)
    for name in _PROVIDERS:
        if os.environ.get(name) and not _installed("opentelemetry_otlp_credential_provider", os.environ[name]):
            note_ignored(name, "no such provider is installed", "spans are not exported")
            raise NotExported
    _check(found, "", _CODES, _codes, "OpenTelemetry's own list is used")
    _check(found, "", _METRICS, _boolean, "there are no such metrics")
    _check(found, "", _METERS, _meters, "there are no such metrics")
    _check_list(found, _ATTRIBUTES, _is_attribute, "attributes have the form NAME=VALUE")
    _check_list(
        found, _DETECTORS, lambda name: name == "*" or _installed("opentelemetry_resource_detector", name), "unknown"
    )
    return found


def _check(
    found: dict[str, str | None],
    prefix: str,
    name: str,
    problem_of: Callable[[str], str],
    instead: str,
    *,
    hidden: bool = False,
) -> None:
    value = os.environ.get(prefix + name)
    if value is None:
        return
    problem = problem_of(value) if value.strip() else ""
    if problem:
        _ignore(prefix, name, problem, instead, _HIDDEN if hidden else None)
    if problem or not value.strip():
        found[prefix + name] = None  # By the specification, an empty variable is none at all.


def _check_client(found: dict[str, str | None], prefix: str) -> None:
    """Check the client's key and certificate, which need each other."""
    names = [f"{prefix}CLIENT_KEY", f"{prefix}CLIENT_CERTIFICATE"]
    key, certificate = (os.environ.get(name) for name in names)
    if not key and not certificate:
        return
    problem = ""
    if not key or not certificate:
        problem = f"{names[1] if key else names[0]} is missing"
    else:
        try:
            # The password keeps OpenSSL from asking for one at the terminal.
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key, password="")
        except (OSError, ValueError) as error:
            problem = f"the certificate and the key cannot be used: {error}"
    if problem:
        note_ignored(names[0] if key else names[1], problem, "the client shows no certificate")
        found.update(dict.fromkeys(names))


def _check_list(found: dict[str, str | None], name: str, is_good: Callable[[str], bool], problem: str) -> None:
    items = [item for item in os.environ.get(name, "").split(",") if item.strip()]
    good = [item for item in items if is_good(item.strip())]
    if good != items:
        left = ",".join(good)
        bad = ", ".join(repr(item) for item in items if item not in good)
        note_ignored(name, f"{bad}: {problem}", f"{left} is used" if left else "none is used")
    if name in os.environ:
        found[name] = ",".join(good) or None


def _ignore(prefix: str, name: str, problem: str, instead: str, value: str | None = None) -> None:
    if prefix == _TRACES and os.environ.get(_GENERAL + name):
        instead = f"{_GENERAL}{name} holds"
    note_ignored(prefix + name, problem, instead, value=value)


def _count(name: str, default: int) -> int:
    value = os.environ.get(name, "").strip()
    if value.isascii() and value.isdecimal() and int(value):
        return int(value)
    if value:
        note_ignored(name, "it must be a positive number", f"{default} is used")
    return default


def _seconds(value: str) -> str:
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    return "" if 0 < seconds < math.inf else "it must be a positive number of seconds"


def _boolean(value: str) -> str:
    return "" if value.strip().lower() in ("true", "false") else "it must be true or false"


def _headers(value: str) -> str:
    good = all(_HEADER.fullmatch(item) for item in value.split(",") if item.strip())
    return "" if good else "headers have the form NAME=VALUE,NAME=VALUE, in ASCII"


def _roots(value: str) -> str:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(value)
    except (OSError, ValueError) as error:
        return f"the certificates cannot be used: {error}"
    return ""


def _codes(value: str) -> str:
    import grpc  # noqa: PLC0415 - only where the variable is set

    unknown = [
        code.strip() for code in value.split(",") if code.strip().upper() not in {"", *grpc.StatusCode.__members__}
    ]
    return f"gRPC has no code {', '.join(unknown)}" if unknown else ""


def _meters(value: str) -> str:
    return "" if _installed("opentelemetry_meter_provider", value) else "no such provider is installed"


def _is_attribute(item: str) -> bool:
    return bool(item.partition("=")[0].strip()) and "=" in item


def _installed(group: str, name: str) -> bool:
    return bool(entry_points(group=group, name=name))
