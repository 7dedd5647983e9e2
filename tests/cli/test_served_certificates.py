"""A server shows what its certificate files hold, as they change."""

from __future__ import annotations

import datetime
import json
import os
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from quicbaton.cli import proof, user_state
from quicbaton.cli.certificate import LOCAL_NAMES, CertificateFiles, replace_self_signed
from quicbaton.cli.certificate import write_self_signed as write
from quicbaton.cli.options.serve import TlsOptions
from quicbaton.cli.reporter import Reporter
from quicbaton.cli.served_certificates import ServedCertificates
from quicbaton.errors import ConfigurationError
from quicbaton.reasons import Reason

NOW = datetime.datetime.now(datetime.UTC)


def options(*files: CertificateFiles, client_ca: Path | None = None) -> TlsOptions:
    return TlsOptions(
        cert=tuple(each.certificate for each in files),
        key=tuple(each.key for each in files),
        client_ca=client_ca,
    )


class Looked:
    """Certificates that are looked at whenever a test says so, and what was reported."""

    def __init__(
        self, *files: CertificateFiles, over_tcp: bool = False, client_ca: Path | None = None
    ) -> None:
        self._out = StringIO()
        reporter = Reporter(as_json=True, out=self._out)
        self.served = ServedCertificates(options(*files, client_ca=client_ca), "", reporter)
        self.served.begin(over_tcp=over_tcp)

    async def look(self, times: int = 1) -> list[dict[str, Any]]:
        """What is reported meanwhile."""
        self._out.seek(0)
        self._out.truncate()
        for _ in range(times):
            await self.served.look()
        return [json.loads(line) for line in self._out.getvalue().splitlines()]

    def shows(self, files: CertificateFiles, number: int = 0) -> bool:
        """Whether that one of its certificates is the one in these files."""
        shown = self.served.for_quic.all[number]
        assert shown.key.public_key() == shown.leaf.public_key()
        return shown.leaf == x509.load_pem_x509_certificate(files.certificate.read_bytes())


@pytest.fixture
def files(tmp_path: Path) -> CertificateFiles:
    """Those that a server has been started with."""
    return folder_with_certificate(tmp_path / "served")


@pytest.fixture
def renewed(tmp_path: Path) -> CertificateFiles:
    return folder_with_certificate(tmp_path / "renewed")


def folder_with_certificate(
    folder: Path, made: datetime.datetime = NOW, names: tuple[str, ...] = LOCAL_NAMES
) -> CertificateFiles:
    folder.mkdir()
    return write(folder, made, names)


async def test_a_renewed_certificate_is_shown_when_both_files_are_there(
    files: CertificateFiles, renewed: CertificateFiles
) -> None:
    looked = Looked(files)
    assert looked.shows(files)
    before = folder_copy(files)
    files.certificate.write_bytes(renewed.certificate.read_bytes())
    assert await looked.look() == []
    assert looked.shows(before)
    renewed.key.replace(files.key)
    (event,) = await looked.look(3)
    assert event["event"] == "certificate_changed"
    assert event["certificate"] == str(files.certificate)
    assert looked.shows(files)


def folder_copy(files: CertificateFiles) -> CertificateFiles:
    """The files as they are now."""
    folder = files.certificate.parent.with_name("before")
    folder.mkdir()
    copy = CertificateFiles(folder / "cert.pem", folder / "key.pem")
    copy.certificate.write_bytes(files.certificate.read_bytes())
    copy.key.write_bytes(files.key.read_bytes())
    return copy


@pytest.mark.parametrize("broken", ["another's key", "half a file", "no file"])
async def test_files_that_stay_broken_are_reported_once_and_the_old_certificate_stays(
    files: CertificateFiles, renewed: CertificateFiles, broken: str
) -> None:
    looked = Looked(files, over_tcp=True)
    before = folder_copy(files)
    shown_over_tcp = looked.served.for_tcp
    if broken == "another's key":
        files.key.write_bytes(renewed.key.read_bytes())
    elif broken == "half a file":
        files.certificate.write_bytes(renewed.certificate.read_bytes()[:100])
    else:
        files.key.unlink()
    (event,) = await looked.look(4)
    assert event["event"] == "certificate_refused"
    assert str(files.key) in event["message"]
    assert looked.shows(before)
    assert looked.served.for_tcp is shown_over_tcp
    renewed.key.replace(files.key)
    renewed.certificate.replace(files.certificate)
    (event,) = await looked.look(2)
    assert event["event"] == "certificate_changed"
    assert looked.shows(files)
    assert looked.served.for_tcp is not shown_over_tcp


async def test_files_that_break_again_are_reported_again(
    files: CertificateFiles, renewed: CertificateFiles
) -> None:
    looked = Looked(files)
    good = files.key.read_bytes()
    for _ in range(2):
        files.key.write_bytes(renewed.key.read_bytes())
        assert [event["event"] for event in await looked.look(3)] == ["certificate_refused"]
        files.key.write_bytes(good)
        assert await looked.look(2) == []


async def test_a_link_that_is_swapped_to_broken_files_and_back_is_reported_each_time(
    tmp_path: Path, files: CertificateFiles, renewed: CertificateFiles
) -> None:
    renewed.key.write_bytes(files.key.read_bytes())
    link, new = tmp_path / "current", tmp_path / "new"
    link.symlink_to(files.certificate.parent)
    looked = Looked(CertificateFiles(link / "cert.pem", link / "key.pem"))
    for _ in range(2):
        for target, told in ((renewed, ["certificate_refused"]), (files, [])):
            new.symlink_to(target.certificate.parent)
            os.replace(new, link)
            assert [event["event"] for event in await looked.look(3)] == told
            assert looked.shows(files)


async def test_a_swapped_link_above_the_files_is_a_change(
    tmp_path: Path, files: CertificateFiles, renewed: CertificateFiles
) -> None:
    """As a Kubernetes secret is renewed; certbot swaps links in the place of the files."""
    link = tmp_path / "..data"
    link.symlink_to(files.certificate.parent)
    looked = Looked(CertificateFiles(link / "cert.pem", link / "key.pem"))
    new = tmp_path / "..data_tmp"
    new.symlink_to(renewed.certificate.parent)
    os.replace(new, link)
    (event,) = await looked.look(2)
    assert event["event"] == "certificate_changed"
    assert looked.shows(renewed)


async def test_files_that_are_written_again_as_they_were_are_no_news(
    files: CertificateFiles,
) -> None:
    looked = Looked(files)
    files.certificate.write_bytes(files.certificate.read_bytes())
    assert await looked.look(3) == []
    assert looked.shows(files)


async def test_a_certificate_that_has_expired_is_not_shown(
    tmp_path: Path, files: CertificateFiles
) -> None:
    looked = Looked(files)
    before = folder_copy(files)
    replace_self_signed(files, NOW - datetime.timedelta(days=14), LOCAL_NAMES)
    (event,) = await looked.look(4)
    assert event["code"] == Reason.CERTIFICATE_DATES
    assert looked.shows(before)


async def test_a_certificate_of_tomorrow_is_shown_from_tomorrow_on(
    files: CertificateFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = Looked(files)
    replace_self_signed(files, NOW + datetime.timedelta(days=1), LOCAL_NAMES)
    (event,) = await looked.look(4)
    assert event["code"] == Reason.CERTIFICATE_DATES

    class Tomorrow(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:  # type: ignore[override]
            return NOW + datetime.timedelta(days=1)

    monkeypatch.setattr(proof.datetime, "datetime", Tomorrow)
    (event,) = await looked.look(4)
    assert event["event"] == "certificate_changed"
    assert looked.shows(files)


async def test_a_certificate_that_was_made_here_is_renewed_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    looked = Looked()
    files = user_state.local_certificate("")
    names = [str(name) for name in _names(files)]
    # It has grown old meanwhile.
    replace_self_signed(files, NOW - datetime.timedelta(days=12), names)
    (old, new) = await looked.look(2)
    assert old["not_after"] < new["not_after"]
    assert looked.shows(files)
    assert await looked.look(2) == []


def _names(files: CertificateFiles) -> list[Any]:
    certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
    extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return [name.value for name in extension.value]


async def test_each_certificate_changes_alone(
    tmp_path: Path, files: CertificateFiles, renewed: CertificateFiles
) -> None:
    second = folder_with_certificate(tmp_path / "second", names=("second.test",))
    looked = Looked(files, second, over_tcp=True)
    before = folder_copy(files)
    files.key.write_bytes(renewed.key.read_bytes())
    newer = folder_with_certificate(tmp_path / "newer", names=("second.test",))
    over_tcp = looked.served.for_tcp
    newer.certificate.replace(second.certificate)
    newer.key.replace(second.key)
    told = [(event["event"], event["certificate"]) for event in await looked.look(3)]
    assert sorted(told) == [
        ("certificate_changed", str(second.certificate)),
        ("certificate_refused", str(files.certificate)),
    ]
    assert looked.shows(before, 0)
    assert looked.shows(second, 1)
    assert looked.served.for_tcp is not over_tcp


async def test_a_changed_authority_of_clients_is_a_change(
    tmp_path: Path, files: CertificateFiles, renewed: CertificateFiles
) -> None:
    authorities = tmp_path / "ca.pem"
    authorities.write_bytes(files.certificate.read_bytes())
    looked = Looked(files, over_tcp=True, client_ca=authorities)
    before, over_tcp = looked.served.for_quic.clients, looked.served.for_tcp
    authorities.write_text("no certificate")
    (event,) = await looked.look(3)
    assert event["event"] == "certificate_refused"
    assert str(authorities) in event["message"]
    assert looked.served.for_quic.clients == before
    authorities.write_bytes(renewed.certificate.read_bytes())
    (event,) = await looked.look(2)
    assert event["event"] == "certificate_changed"
    assert looked.served.for_quic.clients is not None
    assert looked.served.for_quic.clients.authorities == renewed.certificate.read_bytes()
    assert looked.served.for_tcp is not over_tcp


def test_a_program_that_brings_its_certificate_does_not_turn_off_the_question_for_the_client_s(
    files: CertificateFiles, renewed: CertificateFiles
) -> None:
    given = options(files, client_ca=files.certificate)
    served = ServedCertificates(given, "", Reporter(as_json=True, out=StringIO()))
    served.configuration.load_cert_chain(renewed.certificate, renewed.key)
    served.begin(over_tcp=False)
    assert served.for_quic.clients is not None


async def test_a_certificate_that_a_program_brings_is_its_own_to_change(
    files: CertificateFiles, renewed: CertificateFiles
) -> None:
    served = ServedCertificates(options(files), "", Reporter(as_json=True, out=StringIO()))
    served.configuration.load_cert_chain(renewed.certificate, renewed.key)
    served.begin(over_tcp=False)
    own = served.configuration.certificate
    newer = folder_with_certificate(files.certificate.parent.with_name("newer"))
    newer.certificate.replace(files.certificate)
    newer.key.replace(files.key)
    await served.look()
    assert served.for_quic.all[0].leaf is own


def test_a_key_under_a_password_is_refused(files: CertificateFiles) -> None:
    key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"a password"),
    )
    files.key.write_bytes(pem)
    with pytest.raises(ConfigurationError, match="without a password"):
        Looked(files)


def test_a_server_does_not_start_with_files_that_do_not_fit(
    files: CertificateFiles, renewed: CertificateFiles
) -> None:
    renewed.key.replace(files.key)
    with pytest.raises(ConfigurationError) as refused:
        Looked(files, over_tcp=True)
    assert refused.value.code is Reason.CERTIFICATE_KEY
