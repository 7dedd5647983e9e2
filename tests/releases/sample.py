"""A connection of a release as it stood at one moment: both of its ends, each in a sealed baton.

A sample lives without the release that made it. Whoever reads it gets a client and a server that
go on with each other, and says whether every byte of every exchange arrives.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec

from quicbaton.http3 import H3Connection
from quicbaton.http3.events import DataReceived, HeadersReceived
from quicbaton.keys.key_ring import KeyRing
from quicbaton.testing import (
    CLIENT_ADDRESS,
    SERVER_ADDRESS,
    Cluster,
    Conditions,
    End,
    Entropy,
    Pair,
)
from quicbaton.testing.end import Direction

FOLDER: Final = Path(__file__).parent
SIZE: Final = 60_000
_DELAY_S: Final = 0.01


class Sample(msgspec.Struct, array_like=True):
    """`name` says what was going on, `now` what the clock of both ends showed, in seconds."""

    name: str
    release: str
    key: str  # a cluster's key file
    now: float
    client: bytes  # a baton
    server: bytes  # a baton
    #: Bytes of the body that its receiver had taken, by stream.
    received: dict[int, int]


def body(stream_id: int) -> bytes:
    """What is sent on a stream, by either side: no two pieces of it are alike."""
    return b"".join(b"%d:%08d;" % (stream_id, number) for number in range(SIZE))[:SIZE]


def request(method: bytes) -> list[tuple[bytes, bytes]]:
    return [
        (b":method", method),
        (b":scheme", b"https"),
        (b":authority", b"server.test"),
        (b":path", b"/a/path/of/some/length"),
        (b"cookie", b"c" * 50),
    ]


class Exchanges:
    """A pair whose client asks by HTTP/3 and whose server answers: a GET with `body`, a POST once
    it has all of `body`."""

    def __init__(self, pair: Pair, received: dict[int, int] | None = None) -> None:
        self.pair = pair
        #: Bytes of `body` that came, by stream, to whichever side they were for.
        self.received = dict(received or {})
        self.answered: set[int] = set()

    def ask(self, method: bytes) -> int:
        """Send a request; its stream."""
        http = self.pair.client.http
        assert http is not None
        stream_id: int = self.pair.client.connection.get_next_available_stream_id()
        http.send_headers(stream_id, request(method), end_stream=method == b"GET")
        if method == b"POST":
            http.send_data(stream_id, body(stream_id), end_stream=True)
        return stream_id

    def run(self, seconds: float) -> None:
        """Let time pass in small steps, both sides taking what comes."""
        for _ in range(round(seconds / 0.001)):
            self.pair.run(seconds=0.001)
            for end in (self.pair.server, self.pair.client):
                for event in end.take_events():
                    assert end.http is not None
                    for http_event in end.http.handle_event(event):
                        self._take(end, http_event)

    def _take(self, end: End, event: Any) -> None:
        stream_id = event.stream_id
        if isinstance(event, DataReceived):
            start = self.received.get(stream_id, 0)
            stop = start + len(event.data)
            assert event.data == body(stream_id)[start:stop], f"stream {stream_id} from {start}"
            self.received[stream_id] = stop
        if not event.stream_ended:
            assert isinstance(event, (DataReceived, HeadersReceived))
        elif end.side == "client":
            self.answered.add(stream_id)
        else:
            self._answer(stream_id, is_upload=isinstance(event, DataReceived))

    def _answer(self, stream_id: int, *, is_upload: bool) -> None:
        http = self.pair.server.http
        assert http is not None
        http.send_headers(stream_id, [(b":status", b"200")], end_stream=is_upload)
        if not is_upload:
            http.send_data(stream_id, body(stream_id), end_stream=True)


def take(exchanges: Exchanges, name: str, release: str) -> Sample:
    """Freeze both ends as they are; what is on its way between them is lost."""
    pair = exchanges.pair
    client, server = (
        pair.cluster.pack(end.connection, now=pair.now, http=end.http)
        for end in (pair.client, pair.server)
    )
    key = pair.cluster.ring.encode()
    return Sample(name, release, key, pair.now, client, server, exchanges.received)


def go_on(sample: Sample) -> Exchanges:
    """Both ends as new owners of theirs, and a link between them."""
    pair = Pair(Conditions(delay_s=_DELAY_S), seed=sample.name)
    pair.now = sample.now
    pair.cluster = Cluster(Entropy(f"{sample.name} goes on"))
    pair.cluster.ring = KeyRing.parse(sample.key)
    for side, address, baton in (
        ("client", CLIENT_ADDRESS, sample.client),
        ("server", SERVER_ADDRESS, sample.server),
    ):
        pair.replace(_end(pair, side, address, baton))  # type: ignore[arg-type]
    return Exchanges(pair, sample.received)


def _end(pair: Pair, side: Direction, address: Any, baton: bytes) -> End:
    end = End(
        side,
        "quicbaton",
        address,
        pair=pair,
        issuer=pair.cluster.new_worker(),
        entropy=Entropy(f"{side} goes on"),
    )
    unpacked = pair.cluster.unpack(
        baton,
        now=pair.now,
        http_class=H3Connection,
        on_crypto=end.on_crypto if side == "client" else None,
    )
    end.resume(unpacked.connection, unpacked.http, unpacked.application)
    return end


def read_all() -> list[Sample]:
    """Those of all releases, by release and name."""
    decoder = msgspec.msgpack.Decoder(Sample)
    return [decoder.decode(file.read_bytes()) for file in sorted(FOLDER.glob("*/*.sample"))]
