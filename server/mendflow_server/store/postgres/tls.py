"""What to do about a failure of TLS with the database."""

from __future__ import annotations

import ssl
from typing import Final

__all__ = ["advice_of"]

_OTHER_HOST: Final = (
    "the database's certificate is for another host; use a host of the certificate in the store's URL, or give the "
    "database a certificate for this host"
)
#: By OpenSSL's number for the problem with a certificate.
_CERTIFICATE: Final = {
    9: "the database's certificate is not valid yet; check the clocks of both machines",
    10: "the database's certificate has expired; give the database a new one",
    23: "the database's certificate was revoked; give the database a new one",
    62: _OTHER_HOST,
    64: _OTHER_HOST,  # The host is an address.
}
_UNTRUSTED: Final = (
    "the database's certificate is not from an authority in sslrootcert; set sslrootcert in the store's URL to the "
    "certificate of the authority that signed it"
)
_NOT_OFFERED: Final = (
    "the database does not offer TLS, which sslmode in the store's URL demands; set ssl = on in postgresql.conf with "
    "ssl_cert_file and ssl_key_file, or use sslmode=disable if the network may read everything"
)
_FAILED: Final = (
    "TLS with the database failed; check sslmode, sslrootcert, sslcert and sslkey in the store's URL, and that sslkey "
    "belongs to sslcert"
)
_CLIENT_REFUSED: Final = (
    "the database does not accept the certificate of this server; set sslcert and sslkey in the store's URL to one "
    "from an authority in its ssl_ca_file"
)
_REVOCATION_LIST: Final = (
    "no list of revoked certificates fits the database's certificate; check sslcrl in the store's URL"
)
#: What alerts about this server's certificate say.
_ALERTS: Final = ("alert unknown ca", "alert bad certificate", "alert certificate", "alert unsupported certificate")


def advice_of(error: BaseException) -> str | None:
    """Return what happened and what to do; None for an error of another kind."""
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in (3, 12):
            return _REVOCATION_LIST
        return _CERTIFICATE.get(error.verify_code, _UNTRUSTED)
    words = str(error).lower().replace("_", " ")
    if isinstance(error, ssl.SSLError):
        return _CLIENT_REFUSED if any(alert in words for alert in _ALERTS) else _FAILED
    if isinstance(error, ConnectionError) and "rejected ssl upgrade" in words:
        return _NOT_OFFERED
    return None
