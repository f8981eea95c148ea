"""Whether a gRPC target is on this host's loopback interface."""

from __future__ import annotations

import ipaddress

__all__ = ["NO_PROXY", "is_loopback"]

#: The channel option that keeps a proxy variable (http_proxy, https_proxy, grpc_proxy) from taking a channel's calls.
#: A proxy would look for the server on its own loopback interface. curl and Go leave such calls to the host too.
NO_PROXY = ("grpc.enable_http_proxy", 0)


def is_loopback(target: str) -> bool:
    """Return whether a target such as HOST:PORT or dns:///HOST:PORT names a loopback or an unspecified address."""
    for scheme in ("dns:", "ipv4:", "ipv6:"):
        target = target.removeprefix(scheme)
    # An authority may stand between the slashes: dns://SERVER/HOST:PORT.
    target = target.rpartition("/")[2]
    return all(_is_loopback_host(_host(address)) for address in target.split(","))


def _host(address: str) -> str:
    if address.startswith("["):
        return address[1:].partition("]")[0]
    # More than one colon: an IPv6 address without a port.
    return address.partition(":")[0] if address.count(":") == 1 else address


def _is_loopback_host(host: str) -> bool:
    name = host.lower().removesuffix(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None) or address
    return bool(mapped.is_loopback or mapped.is_unspecified)
