"""The certificate that a client is shown fits the name for which it asks, and is the one of the
moment at which its hello comes."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from aioquic.quic.configuration import QuicConfiguration

from quicbaton.cli.certificate import write_self_signed
from quicbaton.handshake import ByName, Certificate, Certificates, names_in, prepare
from tests.handshake.aioquic_pair import SERVER_CID, TOKEN, Pair


def meet(certificates: Certificates, server_name: str | None = "example.test") -> Pair:
    """A client that has said nothing yet, and its server."""
    pair = Pair(prepared=False, client={"server_name": server_name})
    prepare(pair.server, SERVER_CID, TOKEN, certificates=certificates)
    return pair


def made(folder: Path, *names: str) -> Certificate:
    folder.mkdir()
    files = write_self_signed(folder, datetime.now(UTC), names or ("localhost",))
    configuration = QuicConfiguration(is_client=False)
    configuration.load_cert_chain(files.certificate, files.key)
    return Certificate.of(configuration)


def test_a_certificate_that_was_replaced_is_shown_from_the_next_hello_on(tmp_path: Path) -> None:
    first, second = made(tmp_path / "first"), made(tmp_path / "second")
    certificates = Certificates(first)
    before, between, after = (meet(certificates) for _ in range(3))
    before.until_client_ready()
    assert before.client.tls._peer_certificate == first.leaf
    # The hello is there, the handshake is under way.
    between.connect()
    between.to_server(between.from_client())
    certificates.replace([second])
    between.until(lambda: between.client._handshake_complete)
    assert between.client.tls._peer_certificate == first.leaf
    after.until_client_ready()
    assert after.client.tls._peer_certificate == second.leaf


@pytest.mark.parametrize(
    ("server_name", "found"),
    [
        (None, "first"),
        ("", "first"),
        ("elsewhere.test", "first"),
        ("one.test", "one"),
        ("ONE.Test", "one"),
        ("www.one.test", "one"),
        # RFC 6125 §6.4.3: the leftmost label as a whole, and no other.
        ("a.www.one.test", "first"),
        (".one.test", "first"),
        ("*.one.test", "one"),
        ("two.test", "two"),
        # Both have it: the first is found, whether it has the name or a pattern for it.
        ("mail.one.test", "one"),
        ("www.two.test", "two"),
        ("::1", "two"),
    ],
)
def test_the_first_entry_that_fits_the_name_is_found(server_name: str | None, found: str) -> None:
    names = {
        "first": ["first.test"],
        "one": ["One.test", "*.one.test", "www.two.test.not"],
        "two": ["two.test", "mail.one.test", "www.two.test", "::1"],
        "three": ["*.two.test"],
    }
    by_name = ByName([(names[entry], entry) for entry in names])
    assert by_name.find(server_name) == found


def test_a_certificate_without_names_is_for_no_name(tmp_path: Path) -> None:
    assert names_in(Pair().server.configuration.certificate) == ["example.test"]
    assert names_in(made(tmp_path / "one", "one.test", "192.0.2.1").leaf) == [
        "one.test",
        "192.0.2.1",
    ]


@pytest.mark.parametrize(
    ("server_name", "number"), [("one.test", 0), ("www.two.test", 1), ("x.test", 0), (None, 0)]
)
def test_a_client_is_shown_the_certificate_that_fits_the_name_for_which_it_asks(
    tmp_path: Path, server_name: str | None, number: int
) -> None:
    both = made(tmp_path / "one", "one.test"), made(tmp_path / "two", "*.two.test")
    pair = meet(Certificates(*both), server_name)
    pair.until_client_ready()
    assert pair.client.tls._peer_certificate == both[number].leaf


def test_the_end_of_each_certificate_is_known_by_its_first_name(tmp_path: Path) -> None:
    one, two = (
        made(tmp_path / "one", "one.test", "www.one.test"),
        made(tmp_path / "two", "two.test"),
    )
    shown = Certificates(one, two)
    assert shown.ends == {
        name: int(each.leaf.not_valid_after_utc.timestamp())
        for name, each in (("one.test", one), ("two.test", two))
    }
    shown.replace([two])
    assert set(shown.ends) == {"two.test"}
