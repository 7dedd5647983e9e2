"""What is read of a ClientHello before TLS, against what aioquic's TLS reads in it."""

from __future__ import annotations

import pytest
from aioquic import tls
from aioquic._buffer import Buffer, BufferReadError
from hypothesis import example, given
from hypothesis import strategies as st

from quicbaton.handshake.hello import Glimpse, glimpse
from tests.handshake.aioquic_pair import Pair

_TICKETS = st.lists(
    st.tuples(st.binary(min_size=1, max_size=300), st.integers(0, 0xFFFF_FFFF)), max_size=3
)
_NAMES = st.none() | st.text(
    st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=60
)


def hello(
    name: str | None,
    tickets: list[tuple[bytes, int]],
    *,
    others: list[tuple[int, bytes]],
    session_id: bytes,
) -> bytes:
    message = tls.ClientHello(
        random=bytes(32),
        legacy_session_id=session_id,
        cipher_suites=[0x1301, 0x1302],
        legacy_compression_methods=[0],
        alpn_protocols=["h3"],
        key_share=[(0x1D, bytes(32))],
        psk_key_exchange_modes=[1],
        server_name=name,
        signature_algorithms=[0x0403],
        supported_groups=[0x1D],
        supported_versions=[0x0304],
        other_extensions=others,
        pre_shared_key=tls.OfferedPsks(tickets, [bytes(32)] * len(tickets)) if tickets else None,
    )
    buffer = Buffer(capacity=8192)
    tls.push_client_hello(buffer, message)
    return buffer.data


def as_tls_reads(message: bytes) -> Glimpse:
    read = tls.pull_client_hello(Buffer(data=message))
    offered = read.pre_shared_key
    first = 0 if offered is None or not offered.identities else offered.identities[0][1]
    return Glimpse(read.server_name, first)


@given(
    _NAMES,
    _TICKETS,
    st.lists(
        st.tuples(st.sampled_from([0x39, 0x0A0A, 0x2A2A]), st.binary(max_size=50)), max_size=3
    ),
    st.binary(max_size=32),
)
def test_it_says_what_tls_will_read(
    name: str | None,
    tickets: list[tuple[bytes, int]],
    others: list[tuple[int, bytes]],
    session_id: bytes,
) -> None:
    message = hello(name, tickets, others=others, session_id=session_id)
    assert glimpse(message) == as_tls_reads(message) == (name, tickets[0][1] if tickets else 0)


@given(st.data())
def test_a_broken_hello_is_no_error_here(data: st.DataObject) -> None:
    message = bytearray(
        hello("example.test", [(b"ticket", 7)], others=[(0x39, b"abc")], session_id=b"")
    )
    for _ in range(data.draw(st.integers(1, 4))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    del message[data.draw(st.integers(1, len(message))) :]
    glimpse(bytes(message))


@given(st.binary(max_size=200))
@example(b"")
@example(bytes(41))
def test_any_bytes_are_no_error_here(message: bytes) -> None:
    glimpse(message)


def test_a_name_that_is_not_ascii_is_none() -> None:
    message = hello("example.test", [], others=[], session_id=b"")
    message = message.replace(b"example.test", b"ex\xe4mple.test")
    with pytest.raises((tls.AlertDecodeError, BufferReadError)):
        as_tls_reads(message)
    assert glimpse(message) == (None, 0)


def test_a_hello_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[tls.ClientHello] = []
    pull = tls.pull_client_hello

    def count(buffer: Buffer) -> tls.ClientHello:
        parsed.append(pull(buffer))
        return parsed[-1]

    for module in ("aioquic.tls", "quicbaton.handshake.preparation"):
        monkeypatch.setattr(f"{module}.pull_client_hello", count, raising=False)
    pair = Pair()
    pair.until_server_ready()
    assert len(parsed) == 1
    assert pair.server.tls._server_name == "example.test"
