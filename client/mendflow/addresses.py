"""The addresses of servers: what each side accepts."""

from __future__ import annotations

import ipaddress
import re
from typing import Final

__all__ = ["TARGET_FORMS", "check_target", "names_replicas", "split_address"]

#: What a client accepts, for messages.
TARGET_FORMS: Final = "HOST:PORT, [IPV6]:PORT, dns:///HOST:PORT, unix:PATH or, for replicas, ipv4:IP:PORT,IP:PORT"
#: gRPC's schemes for addresses without a name. Only they can name several servers.
_FAMILIES: Final = {"ipv4": (ipaddress.IPv4Address, "IPv4"), "ipv6": (ipaddress.IPv6Address, "IPv6")}
_LAST_PORT: Final = 65_535
_HOST: Final = re.compile(r"[A-Za-z0-9._-]+")
_PORT: Final = re.compile(r"[0-9]{1,5}")
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(//.*|.*)", re.DOTALL)


def split_address(address: str) -> tuple[str, int]:
    """Return the host, without brackets, and the port of HOST:PORT or [IPV6]:PORT. Raise ValueError."""
    host, colon, port = address.rpartition(":")
    if not colon or port.endswith("]"):
        raise ValueError("has no port; add one, as in 127.0.0.1:50051 or [::1]:50051")
    if not host:
        raise ValueError("has no host; name one, as in 127.0.0.1:50051")
    bracketed = host.startswith("[") and host.endswith("]")
    if ":" in host and not bracketed:
        # The port cannot be distinguished from the last part of an IPv6 address.
        raise ValueError("has several colons; write an IPv6 address in brackets, as in [::1]:50051")
    if not _PORT.fullmatch(port) or int(port) > _LAST_PORT:
        raise ValueError(f"has the port {port!r}, which must be a number up to {_LAST_PORT}")
    if bracketed:
        host = host[1:-1]
        if not _is_ipv6(host):
            raise ValueError(f"has {host!r} in brackets, which must be an IPv6 address, as in [::1]:50051")
    elif not _HOST.fullmatch(host):
        raise ValueError(f"has the host {host!r}, which must consist of A-Z a-z 0-9 . _ -")
    return host, int(port)


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def check_target(target: str) -> str:
    """Return the address of a server that a client calls. Raise ValueError with the accepted forms."""
    try:
        _check(target)
    except ValueError as error:
        raise ValueError(f"server address {target!r} {error}; use {TARGET_FORMS}") from None
    return target


def _check(target: str) -> None:
    given: object = target
    if not isinstance(given, str):
        raise ValueError("is not a string")  # noqa: TRY004 - every malformed address is a ValueError
    if not target:
        raise ValueError("is empty")
    if target.startswith("unix:"):
        _check_socket(target.removeprefix("unix:"))
        return
    scheme = _SCHEME.fullmatch(target)
    if scheme is not None and scheme[1] in _FAMILIES:
        for each in scheme[2].split(","):
            _check_literal(each, scheme[1])
        return
    if "," in target:
        raise ValueError("names several servers; write their addresses as ipv4:127.0.0.1:1,127.0.0.1:2")
    if scheme is not None and scheme[1] == "dns":
        address = target.removeprefix("dns:").removeprefix("///")
    elif scheme is not None and scheme[2].startswith("//"):
        raise ValueError(f"has the scheme {scheme[1]}://, which the client does not support")
    else:
        address = target
    _check_address(address)


def _check_address(address: str) -> str:
    """Return the host."""
    host, port = split_address(address)
    if port == 0:
        raise ValueError("has the port 0, at which no server listens")
    return host


def _check_literal(address: str, scheme: str) -> None:
    family, name = _FAMILIES[scheme]
    host = _check_address(address)
    try:
        family(host)
    except ValueError:
        raise ValueError(f"has {host!r} after {scheme}:, which must be an {name} address") from None


def names_replicas(target: str) -> bool:
    """Return whether a target that `check_target` accepts names several servers."""
    return target.startswith(("ipv4:", "ipv6:")) and "," in target


def _check_socket(path: str) -> None:
    if not path or path.endswith("/"):
        raise ValueError("names no socket")
    if "\0" in path:
        raise ValueError("has the character NUL in its path")
    if path.startswith("//") and not path.startswith("///"):
        raise ValueError(
            "has a host before its path; write an absolute path after unix:// or a relative one after unix:"
        )
