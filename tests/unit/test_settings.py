"""Settings: one object, built once. The error for a bad one names its variable."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError

from mendflow_server.settings import Settings, SettingsError, load_settings

if TYPE_CHECKING:
    from pathlib import Path


def test_an_argument_overrides_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MENDFLOW_DRAIN_TIMEOUT", "7")
    assert load_settings().drain_timeout == 7
    assert load_settings(drain_timeout=3).drain_timeout == 3
    assert load_settings(drain_timeout=None).drain_timeout == 7


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("DRAIN_TIMEOUT", "soon", "MENDFLOW_DRAIN_TIMEOUT='soon'"),
        ("DRAIN_TIMEOUT", "0", "MENDFLOW_DRAIN_TIMEOUT='0': Input should be greater than 0"),
        ("DRAIN_TIMEOUT", "nan", "MENDFLOW_DRAIN_TIMEOUT"),
        ("LOG_LEVEL", "loud", "MENDFLOW_LOG_LEVEL='loud'"),
        ("GRPC_ADDRESS", "50051", "must be HOST:PORT"),
        ("GRPC_ADDRESS", "127.0.0.1:70000", "must be HOST:PORT"),
        ("CRASH_BUDGET", "0", "MENDFLOW_CRASH_BUDGET='0'"),
        ("STORE_READING_CONNECTIONS", "0", "='0': Input should be greater than or equal to 1"),
        ("STORE_READING_CONNECTIONS", "101", "='101': Input should be less than or equal to 100"),
        ("STORE_CONNECT_TIMEOUT", "0", "='0': Input should be greater than or equal to 0.1"),
        ("STORE_CONNECT_TIMEOUT", "301", "='301': Input should be less than or equal to 300"),
        ("STORE_STATEMENT_TIMEOUT", "0.05", "='0.05': Input should be greater than or equal to 0.1"),
        ("STORE_STATEMENT_TIMEOUT", "inf", "MENDFLOW_STORE_STATEMENT_TIMEOUT='inf'"),
    ],
)
def test_a_bad_setting_names_its_variable(monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str) -> None:
    monkeypatch.setenv(f"MENDFLOW_{name}", value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert message in str(caught.value)


@pytest.mark.parametrize("address", ["0.0.0.0:50051", "[::]:50051", "example.org:1", "192.168.1.5:50051"])
def test_an_address_beyond_loopback_needs_insecure(address: str) -> None:
    with pytest.raises(SettingsError, match=r"there is no TLS.*--insecure"):
        load_settings(grpc_address=address)
    assert load_settings(grpc_address=address, insecure=True).grpc_address == address


@pytest.mark.parametrize(
    "address",
    ["", ":50051", "localhost", "[::1]", "::1:50051", "localhost:", "localhost:x", "localhost:65536", "localhost:-1",
     "localhost:\u0663", "localhost:+1", "[localhost]:1", "[]:1", "http://localhost:1", "unix:/x", " localhost:1"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["grpc_address", "http_address"])
def test_a_malformed_address_is_refused_with_its_form(name: str, address: str) -> None:
    with pytest.raises(SettingsError, match=r"HOST:PORT, as in 127\.0\.0\.1:50051 or \[::1\]:50051"):
        load_settings(**{name: address})


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:1", "[::1]:50051", "127.9.9.9:3"])
def test_loopback_is_served(address: str) -> None:
    assert load_settings(grpc_address=address).grpc_address == address


def test_the_path_of_a_password_does_not_depend_on_a_later_working_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_settings(store_password_file="a/b").store_password_file == str(tmp_path / "a/b")
    assert load_settings().store_password_file == ""


def test_every_setting_is_described() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_settings_cannot_be_changed() -> None:
    settings = load_settings()
    with pytest.raises(ValidationError):
        settings.drain_timeout = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "value"),
    [("thread_slots", 10**20), ("request_limit", 10**20), ("evict_after", 1e308), ("drain_timeout", 1e12)],
)
def test_a_setting_that_no_system_can_take_is_refused(name: str, value: float) -> None:
    with pytest.raises(SettingsError, match=f"MENDFLOW_{name.upper()}=.*less than or equal to"):
        load_settings(**{name: value})
