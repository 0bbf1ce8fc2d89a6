"""Certificates for tests, made by openssl: an authority, and what it signs."""

import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.support.child import program

CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
CONFIG = """\
[ca]
default_ca = all
[all]
database = {folder}/index.txt
new_certs_dir = {folder}
serial = {folder}/serial
default_md = sha256
policy = any
copy_extensions = copy
unique_subject = no
[any]
commonName = supplied
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A certificate and its private key, each in a file of its own."""

    cert: Path
    key: Path


class Authority:
    """A certificate authority in a folder of its own; `cert` is its certificate, valid for `days`."""

    def __init__(self, folder: Path, *, days: int = 3650) -> None:
        folder.mkdir()
        self._folder = folder
        self.cert = folder / "ca.pem"
        self._key = folder / "ca.key"
        (folder / "index.txt").touch()
        (folder / "serial").write_text("01\n", encoding="ascii")
        self._config = folder / "ca.cnf"
        self._config.write_text(CONFIG.format(folder=folder), encoding="ascii")
        openssl(
            "req", "-x509", *CURVE, "-nodes", "-keyout", self._key, "-out", self.cert,
            "-days", str(days), "-subj", f"/CN={folder.name}",
            "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign",
        )  # fmt: skip

    def pair(
        self,
        name: str,
        *,
        names: str = "DNS:localhost,IP:127.0.0.1",
        starts: timedelta = timedelta(days=-1),
        ends: timedelta = timedelta(days=365),
    ) -> Pair:
        """Make a certificate with this subject and these names, which starts and ends so long from now."""
        pair = Pair(cert=self._folder / f"{name}.pem", key=self._folder / f"{name}.key")
        request = self._folder / f"{name}.csr"
        openssl(
            "req", "-new", *CURVE, "-nodes", "-keyout", pair.key, "-out", request,
            "-subj", f"/CN={name}", "-addext", f"subjectAltName={names}",
        )  # fmt: skip
        openssl(
            "ca", "-batch", "-config", self._config, "-cert", self.cert, "-keyfile", self._key, "-notext",
            "-startdate", _date(starts), "-enddate", _date(ends), "-in", request, "-out", pair.cert,
        )  # fmt: skip
        return pair


def encrypted(key: Path, to: Path) -> Path:
    """Write the key with a passphrase."""
    openssl("pkey", "-in", key, "-aes256", "-passout", "pass:secret", "-out", to)
    return to


def openssl(*arguments: str | Path) -> None:
    done = subprocess.run(
        (program("openssl", package="openssl"), *arguments),
        check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def _date(ahead: timedelta) -> str:
    return f"{datetime.now(UTC) + ahead:%Y%m%d%H%M%SZ}"
