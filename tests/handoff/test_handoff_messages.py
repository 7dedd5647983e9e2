"""Messages and their framing: a sent message arrives, a malformed one is a PeerError."""

import contextlib

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quicbaton.errors import PeerError
from quicbaton.handoff.messages import (
    CODEC,
    PROTOCOL_VERSION,
    Abort,
    Accept,
    Baton,
    ClaimRequest,
    Closed,
    Committed,
    Cutover,
    CutoverAck,
    Descriptors,
    HandoffMessage,
    Hello,
    Load,
    Message,
    Moved,
    MovedAck,
    Offer,
    OpenStream,
    Precopied,
    Precopy,
    PrecopyEnd,
    ProxiedTrain,
    Ready,
    Refuse,
    RelayedDatagram,
    Resumed,
    Stray,
    StreamBytes,
    StreamCredit,
    StreamOpened,
    StreamReset,
    StreamsCut,
    StreamStop,
    Taken,
    Toss,
    decode,
    encode,
    shared_formats,
)
from quicbaton.limits import MAX_HANDOFF_MESSAGE_BYTES

CID, HANDOFF, BATON_ID, DIGEST = b"connection", b"h" * 16, b"b" * 16, b"d" * 32

EXAMPLES: list[Message] = [
    Hello(PROTOCOL_VERSION, "node-1", 4711, (1, 2)),
    Offer(
        *(CID, HANDOFF, 3, 70_000, 2, "node-1/4711", ""),
        *(("192.0.2.1", 443), True, b"store"),
    ),
    Accept(CID, HANDOFF, False),
    Refuse(CID, HANDOFF, "no_room", "full"),
    Descriptors(CID, HANDOFF, 3),
    Baton(CID, HANDOFF, b"sealed" * 1000),
    Ready(CID, HANDOFF, BATON_ID, DIGEST),
    Committed(CID, HANDOFF, 4, BATON_ID, DIGEST, 1500),
    Taken(CID, HANDOFF, 4),
    Resumed(CID, HANDOFF, 1500),
    Abort(CID, HANDOFF, "deadline", "too late"),
    ClaimRequest(CID, HANDOFF, BATON_ID, DIGEST),
    Stray(CID, HANDOFF, b"\x40" * 1200, ("::1", 4433, 0, 0), (), 2, 123_456_789),
    Cutover(CID, HANDOFF),
    CutoverAck(CID, HANDOFF),
    Closed(CID, HANDOFF),
    Moved(CID, HANDOFF, "node-2"),
    MovedAck(CID, HANDOFF),
    ProxiedTrain(CID, HANDOFF, b"\x40" * 1200, 1200, ("192.0.2.7", 4433), ("192.0.2.1", 443), 0),
    StreamBytes(CID, HANDOFF, 4, b"body", True),
    StreamCredit(CID, HANDOFF, 4, 65_536),
    StreamReset(CID, HANDOFF, 4, 7),
    StreamStop(CID, HANDOFF, 4, 7),
    OpenStream(CID, HANDOFF, 7, True),
    StreamOpened(CID, HANDOFF, 15, 7),
    RelayedDatagram(CID, HANDOFF, b"payload"),
    StreamsCut(CID, HANDOFF, "deadline"),
    Load("node-1", 40, 1000),
    Precopy(b"p" * 16, 4, 65_536, b"body"),
    PrecopyEnd(b"p" * 16),
    Precopied(b"p" * 16, True),
    Toss(b"\x40" * 1200, ("::1", 4433, 0, 0), (), 1),
]


def body(message: Message) -> bytes:
    return encode(message)[4:]


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_message_survives_encoding(message: Message) -> None:
    assert decode(body(message)) == message


def test_every_kind_of_message_has_an_example() -> None:
    assert {type(message) for message in EXAMPLES} == set(Message.__args__)


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_missing_surplus_and_truncated_fields_are_refused(message: Message) -> None:
    fields = msgspec.msgpack.decode(body(message))
    for wrong in (fields[:-1], [*fields, 0]):
        with pytest.raises(PeerError):
            decode(msgspec.msgpack.encode(wrong))
    whole = body(message)
    for end in range(min(len(whole), 64)):
        with pytest.raises(PeerError):
            decode(whole[:end])
    with pytest.raises(PeerError):
        decode(whole + b"\x00")


@pytest.mark.parametrize(
    "wrong",
    [
        Accept(b"", HANDOFF, False),
        Accept(CID, b"short", False),
        Committed(CID, HANDOFF, 0, BATON_ID, DIGEST, 0),
        Committed(CID, HANDOFF, 1 << 62, BATON_ID, DIGEST, 0),
        Committed(CID, HANDOFF, 1, BATON_ID, DIGEST, -1),
        Stray(CID, HANDOFF, b"", (), (), 4, 0),
        Stray(CID, HANDOFF, b"", (), (), 0, -1),
        Offer(CID, HANDOFF, 1, 1, 1, "", "", (), False, b"s" * 17),
        Refuse(CID, HANDOFF, "", "no code"),
    ],
)
def test_values_out_of_range_are_refused(wrong: Message) -> None:
    with pytest.raises(PeerError) as caught:
        decode(body(wrong))
    assert caught.value.code == "malformed_message"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_noise_is_a_message_or_a_peer_error(noise: bytes) -> None:
    with contextlib.suppress(PeerError):
        decode(noise)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(EXAMPLES), max_size=8), st.lists(st.integers(1, 4000), max_size=60))
def test_reader_gives_the_messages_however_the_stream_is_cut(
    messages: list[Message], cuts: list[int]
) -> None:
    stream = b"".join(encode(message) for message in messages)
    reader = CODEC.reader()
    read: list[Message] = []
    for cut in cuts:
        read += reader.feed(stream[:cut])
        stream = stream[cut:]
    read += reader.feed(stream)
    assert read == messages


def test_reader_leaves_what_nobody_took_to_others() -> None:
    reader = CODEC.reader()
    assert next(reader.feed(encode(EXAMPLES[0]) + b"others'")) == EXAMPLES[0]
    assert reader.rest == b"others'"


def test_reader_refuses_an_announced_length_before_any_of_it_is_buffered() -> None:
    with pytest.raises(PeerError) as caught:
        list(CODEC.reader().feed((MAX_HANDOFF_MESSAGE_BYTES + 1).to_bytes(4, "big")))
    assert caught.value.code == "message_too_long"


def test_message_beyond_the_limit_is_not_parsed() -> None:
    with pytest.raises(PeerError) as caught:
        decode(bytes(MAX_HANDOFF_MESSAGE_BYTES + 1))
    assert caught.value.code == "message_too_long"


def test_message_that_no_reader_would_take_is_not_sent() -> None:
    with pytest.raises(PeerError) as caught:
        encode(Baton(CID, HANDOFF, bytes(MAX_HANDOFF_MESSAGE_BYTES)))
    assert caught.value.code == "message_too_long"


def test_handoff_ids_and_batons_stay_out_of_logs() -> None:
    for message in EXAMPLES:
        if not isinstance(message, HandoffMessage):
            continue
        assert "hhhh" not in repr(message)
        assert "sealed" not in repr(message)


def test_sides_of_a_link_agree_on_version_and_formats() -> None:
    ours = Hello(PROTOCOL_VERSION, "a", 1, (1, 2))
    assert shared_formats(ours, Hello(PROTOCOL_VERSION, "b", 2, (2, 3))) == {2}
    with pytest.raises(PeerError) as caught:
        shared_formats(ours, Hello(PROTOCOL_VERSION + 1, "b", 2, (2,)))
    assert caught.value.code == "version_mismatch"
    with pytest.raises(PeerError) as caught:
        shared_formats(ours, Hello(PROTOCOL_VERSION, "b", 2, (3,)))
    assert caught.value.code == "format_mismatch"
