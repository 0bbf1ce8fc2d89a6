"""The files of TLS: which can be used, what is told of the others, and how changes are seen."""

import logging
import os
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from agent import clock
from agent.errors import SettingsError
from agent.link.tls import Tls
from tests.support.authority import Authority, Pair, encrypted, openssl

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates") / "ours")


@pytest.fixture(scope="module")
def client(ours: Authority) -> Pair:
    return ours.pair("rover")


@pytest.fixture(scope="module")
def other(ours: Authority) -> Pair:
    return ours.pair("other")


@pytest.fixture(autouse=True)
def _told(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.INFO, logger="agent"):
        yield


def read(ca_file: Path | None = None, cert_file: Path | None = None, key_file: Path | None = None) -> Tls:
    return Tls(ca_file=ca_file, cert_file=cert_file, key_file=key_file)


def joined(to: Path, *files: Path) -> Path:
    to.write_bytes(b"".join(file.read_bytes() for file in files))
    return to


# The context.


def test_certificate_and_name_are_checked_whatever_is_set(ours: Authority, client: Pair) -> None:
    for tls in (read(), read(ca_file=ours.cert, cert_file=client.cert, key_file=client.key)):
        context = tls.context()
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_the_rules_for_certificates_are_the_same_on_all_versions_of_python(ours: Authority) -> None:
    flags = read(ca_file=ours.cert).context().verify_flags
    assert flags == ssl.VERIFY_X509_TRUSTED_FIRST | ssl.VERIFY_X509_PARTIAL_CHAIN


def test_without_a_ca_file_the_system_s_list_counts_and_with_one_only_that(ours: Authority) -> None:
    expected = ssl.create_default_context().cert_store_stats()
    assert read().context().cert_store_stats() == expected
    assert read(ca_file=ours.cert).context().cert_store_stats()["x509"] == 1


def test_python_still_decodes_certificates_by_the_private_name_that_is_used(client: Pair) -> None:
    decoded = ssl._ssl._test_decode_cert(client.cert)  # type: ignore[attr-defined]
    assert decoded["subject"] == ((("commonName", "rover"),),)
    assert {"notBefore", "notAfter"} <= set(decoded)


def test_of_the_certificates_in_use_subject_and_end_are_told(ours: Authority, client: Pair, tmp_path: Path) -> None:
    second = Authority(tmp_path / "second")
    tls = read(
        ca_file=joined(tmp_path / "all.pem", ours.cert, second.cert),
        cert_file=joined(tmp_path / "chain.pem", client.cert, ours.cert),
        key_file=client.key,
    )
    assert [(one.what, one.subject) for one in tls.certificates] == [
        ("the client certificate", "rover"),
        ("the CA certificate", "ours"),
        ("the CA certificate", "second"),
    ]
    ends = clock.unix_ms() / 1000 + 365 * 86_400
    assert tls.certificates[0].not_after == pytest.approx(ends, abs=300)


def test_the_key_may_be_in_the_file_of_the_certificate(client: Pair, tmp_path: Path) -> None:
    for files in ((client.cert, client.key), (client.key, client.cert)):
        assert read(cert_file=joined(tmp_path / "both.pem", *files)).has_certificate


# What cannot be used.


def test_files_that_cannot_be_used_are_named_with_their_setting_and_the_reason(
    ours: Authority, client: Pair, other: Pair, tmp_path: Path
) -> None:
    der, broken, text = tmp_path / "client.der", tmp_path / "broken.pem", tmp_path / "text"
    openssl("x509", "-in", client.cert, "-outform", "DER", "-out", der)
    broken.write_text("-----BEGIN CERTIFICATE-----\nrubbish\n-----END CERTIFICATE-----\n")
    text.write_text("rubbish")
    locked = encrypted(client.key, tmp_path / "locked.key")
    for ca_file, cert_file, key_file, told in [
        (tmp_path / "none", None, None, f"cannot read broker.ca_file '{tmp_path}/none': No such file"),
        (tmp_path, None, None, f"cannot read broker.ca_file '{tmp_path}': Is a directory"),
        (Path("a\0b"), None, None, r"cannot read broker.ca_file 'a\x00b': embedded null byte"),
        (text, None, None, f"cannot use broker.ca_file {text}: there is no certificate in PEM format"),
        (broken, None, None, f"cannot use broker.ca_file {broken}: "),
        (client.key, None, None, f"cannot use broker.ca_file {client.key}: there is no certificate"),
        (ours.cert, der, client.key, f"cannot use broker.cert_file {der}: there is no certificate in PEM format"),
        (ours.cert, broken, client.key, f"cannot use broker.cert_file {broken} with its key: "),
        (ours.cert, client.cert, None, f"cannot use broker.cert_file {client.cert}: there is no private key in it,"),
        (ours.cert, client.cert, text, f"cannot use broker.key_file {text}: there is no private key in PEM format"),
        (ours.cert, client.cert, other.key, f"broker.key_file {other.key}: the key does not belong to the first"),
        (ours.cert, client.cert, locked, f"cannot use broker.key_file {locked}: the key has a passphrase"),
        (ours.cert, joined(tmp_path / "both", client.cert, locked), None, "both: the key has a passphrase"),
    ]:
        with pytest.raises(SettingsError) as caught:
            read(ca_file, cert_file, key_file)
        assert told in str(caught.value)


def test_a_key_with_a_passphrase_never_asks_on_the_terminal(client: Pair, tmp_path: Path) -> None:
    key = encrypted(client.key, tmp_path / "locked.key")
    (tmp_path / "roamd.toml").write_text(
        f'device_id = "rover"\n[broker]\nurls = "mqtts://localhost"\ncert_file = "{client.cert}"\nkey_file = "{key}"\n'
    )
    leader, follower = os.openpty()
    try:
        done = subprocess.run(
            (shutil.which("setsid") or "setsid", "--ctty", "--wait",
             sys.executable, "-m", "agent", "run", "--config", tmp_path / "roamd.toml"),
            stdin=follower, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False,
        )  # fmt: skip
    finally:
        os.close(leader)
        os.close(follower)
    assert done.returncode == 78
    assert done.stderr.startswith(f"roamd: cannot use broker.key_file {key}: the key has a passphrase")


# Changes.


def test_files_that_stay_as_they_are_give_the_same_context(ours: Authority, client: Pair) -> None:
    tls = read(ca_file=ours.cert, cert_file=client.cert, key_file=client.key)
    assert tls.context() is tls.context()


def test_a_file_that_was_replaced_gives_a_new_context_at_the_next_connection(
    ours: Authority, client: Pair, other: Pair, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = joined(tmp_path / "both.pem", client.cert, client.key)
    tls = read(ca_file=ours.cert, cert_file=file)
    before = tls.context()
    joined(tmp_path / "new.pem", other.cert, other.key).replace(file)
    after = tls.context()
    assert after is not before
    assert after is tls.context()
    assert tls.certificates[0].subject == "other"
    assert caplog.text.count("the certificates were read again") == 1


def test_a_bad_file_keeps_what_was_read_before_and_is_told_once_for_each_change(
    client: Pair, other: Pair, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cert, key = shutil.copy(client.cert, tmp_path / "c.pem"), shutil.copy(client.key, tmp_path / "c.key")
    tls = read(cert_file=cert, key_file=key)
    before = tls.context()
    shutil.copy(other.cert, cert)
    for _ in range(3):
        assert tls.context() is before
    assert caplog.text.count("the key does not belong to the first certificate in") == 1
    assert caplog.text.count("; the certificates that were read before stay in use") == 1
    assert tls.certificates[0].subject == "rover"
    key.unlink()
    assert tls.context() is before
    assert tls.context() is before
    assert caplog.text.count("No such file") == 1
    shutil.copy(other.key, key)
    assert tls.context() is not before
    assert tls.certificates[0].subject == "other"


def test_a_reload_reads_the_files_again_though_they_look_as_before(ours: Authority) -> None:
    tls = read(ca_file=ours.cert)
    before = tls.context()
    tls.reload()
    assert tls.context() is not before


# Certificates that end soon.


def test_certificates_that_end_soon_are_told_once(
    ours: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = ours.pair("ending", starts=timedelta(days=-300), ends=timedelta(days=7))
    short = Authority(tmp_path / "short", days=1)
    later = clock.unix_ms() + 2 * 86_400_000
    monkeypatch.setattr(clock, "unix_ms", lambda: later)
    tls = read(ca_file=short.cert, cert_file=pair.cert, key_file=pair.key)
    for _ in range(3):
        tls.context()
        tls.remind()
    assert caplog.text.count("the client certificate (ending) expires in 5 days, on ") == 1
    assert caplog.text.count("the CA certificate (short) has expired on ") == 1


def test_a_connection_that_stays_up_for_days_is_reminded_too(
    ours: Authority, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = ours.pair("later", starts=timedelta(days=-300), ends=timedelta(days=40))
    tls = read(cert_file=pair.cert, key_file=pair.key)
    tls.context()
    later = clock.unix_ms() + 11 * 86_400_000
    monkeypatch.setattr(clock, "unix_ms", lambda: later)
    tls.remind()
    assert "expires" not in caplog.text
    an_hour_later = clock.monotonic() + 3601
    monkeypatch.setattr(clock, "monotonic", lambda: an_hour_later)
    tls.remind()
    tls.remind()
    assert caplog.text.count("the client certificate (later) expires in 29 days") == 1
