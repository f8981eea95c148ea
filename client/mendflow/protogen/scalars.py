"""Scalar values, and their conversion between JSON and a message."""

from __future__ import annotations

import base64
import binascii
import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import pydantic
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import EncodedBytes
from pydantic.json_schema import GenerateJsonSchema
from pydantic.types import Base64Encoder, Base64UrlEncoder

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "BOOL",
    "BYTES",
    "DOUBLE",
    "DURATION",
    "INT64",
    "STRING",
    "TIMESTAMP",
    "NotConvertible",
    "Scalar",
    "scalar_of",
]


class NotConvertible(Exception):
    """A value cannot be converted. ``places`` is the path to it, the outermost place first."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.places: list[int | str] = []

    def inside(self, place: int | str) -> NotConvertible:
        """Add the enclosing place to the path, and return this error."""
        self.places.insert(0, place)
        return self


@dataclass(frozen=True, eq=False)
class Scalar:
    """One kind of scalar value.

    ``read`` converts a message's value to JSON, and ``write`` converts a JSON value to the message's. Both raise
    `NotConvertible`.
    """

    #: The type's name in a .proto file.
    proto: str
    read: Callable[[Any], Any]
    write: Callable[[Any], Any]

    @property
    def is_message(self) -> bool:
        """True if protobuf represents it as a well-known message."""
        return "." in self.proto


_DATETIME: Final = pydantic.TypeAdapter(datetime)
_TIMEDELTA: Final = pydantic.TypeAdapter(timedelta)
_SECONDS_A_DAY: Final = 86_400
_LONGEST: Final = 315_576_000_000
_NANOS: Final = 1_000_000_000


def _same(value: Any) -> Any:
    return value


def _is(kind: type) -> Callable[[Any], Any]:
    def write(value: Any) -> Any:
        if type(value) is not kind:
            raise NotConvertible(f"must be a {kind.__name__} in JSON, not a {type(value).__name__}")
        return value

    return write


def _read_double(value: float) -> float:
    if not math.isfinite(value):
        raise NotConvertible(f"{value} is not a JSON number")
    return value


def _write_double(value: Any) -> float:
    if type(value) not in (int, float):
        raise NotConvertible(f"must be a number in JSON, not a {type(value).__name__}")
    try:
        return float(value)
    except OverflowError:
        raise NotConvertible("exceeds the range of a double") from None


def _write_int(value: Any) -> int:
    if type(value) is not int:
        raise NotConvertible(f"must be an int in JSON, not a {type(value).__name__}")
    if not -(1 << 63) <= value < 1 << 63:
        raise NotConvertible(f"{value:.3e} exceeds 64 bits" if abs(value) < 1 << 900 else "exceeds 64 bits")
    return value


def _read_timestamp(value: Timestamp) -> str:
    try:
        text: str = value.ToJsonString()
    except ValueError as error:
        raise NotConvertible(str(error)) from error
    return text


def _write_timestamp(value: Any) -> Timestamp:
    moment = _parsed(_DATETIME, value)
    if moment.tzinfo is None:
        raise NotConvertible("must have a time zone to be a Timestamp")
    timestamp = Timestamp()
    try:
        timestamp.FromDatetime(moment)
        timestamp.ToJsonString()
    except (ValueError, OverflowError) as error:
        raise NotConvertible(str(error)) from error
    return timestamp


def _read_duration(value: Duration) -> str:
    seconds, nanos = value.seconds, value.nanos
    if abs(seconds) > _LONGEST or abs(nanos) >= _NANOS or seconds * nanos < 0:
        raise NotConvertible("is not a valid Duration")
    sign = "-" if seconds < 0 or nanos < 0 else ""
    days, rest = divmod(abs(seconds), _SECONDS_A_DAY)
    return f"{sign}P{days}DT{rest}.{abs(nanos):09d}S"


def _write_duration(value: Any) -> Duration:
    span = _parsed(_TIMEDELTA, value)
    duration = Duration()
    try:
        duration.FromTimedelta(span)
        duration.ToJsonString()
    except (ValueError, OverflowError) as error:
        raise NotConvertible(str(error)) from error
    return duration


def _parsed(adapter: pydantic.TypeAdapter[Any], value: Any) -> Any:
    try:
        return adapter.validate_python(value)
    except pydantic.ValidationError as error:
        raise NotConvertible(error.errors(include_url=False)[0]["msg"]) from error


def _read_text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise NotConvertible("has bytes that are not UTF-8; annotate them as pydantic.Base64Bytes") from None


def _write_text(value: Any) -> bytes:
    text: str = _is(str)(value)
    return text.encode()


def _bytes(encode: Callable[[bytes], bytes], decode: Callable[[bytes], bytes]) -> Scalar:
    def write(value: Any) -> bytes:
        try:
            return decode(_write_text(value))
        except binascii.Error as error:
            raise NotConvertible(str(error)) from error

    return Scalar("bytes", lambda value: encode(value).decode(), write)


STRING: Final = Scalar("string", _same, _is(str))
INT64: Final = Scalar("int64", _same, _write_int)
DOUBLE: Final = Scalar("double", _read_double, _write_double)
BOOL: Final = Scalar("bool", _same, _is(bool))
BYTES: Final = Scalar("bytes", _read_text, _write_text)
TIMESTAMP: Final = Scalar("google.protobuf.Timestamp", _read_timestamp, _write_timestamp)
DURATION: Final = Scalar("google.protobuf.Duration", _read_duration, _write_duration)
_BASE64: Final = _bytes(base64.b64encode, base64.b64decode)
_BASE64URL: Final = _bytes(base64.urlsafe_b64encode, base64.urlsafe_b64decode)
_ENCODERS: Final[dict[Any, Scalar]] = {Base64Encoder: _BASE64, Base64UrlEncoder: _BASE64URL}
_BY_JSON: Final = {"string": STRING, "integer": INT64, "number": DOUBLE, "boolean": BOOL}


def scalar_of(schema: Any, config: Any) -> Scalar | None:
    """Return the scalar for a pydantic core schema and a model's config, or None if the schema is not a scalar."""
    kind = schema["type"]
    if kind == "bytes" and "serialization" not in schema:
        return _plain_bytes(config)
    if kind in ("datetime", "timedelta") and "serialization" not in schema:
        return _temporal(schema, config)
    encoder = getattr(schema.get("function", {}).get("function"), "__self__", None)
    if kind == "function-after" and isinstance(encoder, EncodedBytes):
        return _ENCODERS.get(encoder.encoder)
    written, read = _json_kinds(schema, "serialization"), _json_kinds(schema, "validation")
    # Serialization must write one kind of scalar, and validation must accept that kind.
    return _BY_JSON.get(next(iter(written))) if len(written) == 1 and written <= read else None


def _plain_bytes(config: Any) -> Scalar | None:
    modes = config.get("ser_json_bytes", "utf8"), config.get("val_json_bytes", "utf8")
    # pydantic's "base64" is the URL-safe variant.
    return {("utf8", "utf8"): BYTES, ("base64", "base64"): _BASE64URL}.get(modes)


def _temporal(schema: Any, config: Any) -> Scalar | None:
    if config.get("ser_json_temporal", "iso8601") != "iso8601":
        return None
    if schema["type"] == "timedelta":
        return DURATION
    return STRING if schema.get("tz_constraint") == "naive" else TIMESTAMP


def _json_kinds(schema: Any, mode: Any) -> set[str]:
    try:
        return _kinds(GenerateJsonSchema(by_alias=True).generate(schema, mode=mode))
    except (pydantic.errors.PydanticUserError, KeyError, ValueError, TypeError):
        return set()


def _kinds(schema: Any) -> set[str]:
    if "anyOf" in schema:
        return set().union(*(_kinds(part) for part in schema["anyOf"]))
    kind = schema.get("type", "?")
    return {kind} if isinstance(kind, str) else {"?"}
