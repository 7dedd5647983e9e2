"""DNS over dedicated QUIC connections (RFC 9250): a protocol with an ALPN of its own that moves."""

import os

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import dns.zone
import msgspec
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import QuicEvent, StreamDataReceived, StreamReset

from quicbaton.asyncio import QuicConnectionProtocol

_ZONE = dns.zone.from_text(
    """
@     3600 IN SOA ns.example. hostmaster.example. 1 3600 600 86400 300
@     3600 IN NS  ns
ns    3600 IN A   192.0.2.1
www   3600 IN A   192.0.2.80
www   3600 IN AAAA 2001:db8::80
""",
    origin="example.",
)
_PID = dns.name.from_text("pid.example.")
#: RFC 9250 §4.3: DOQ_PROTOCOL_ERROR.
_PROTOCOL_ERROR = 0x2
#: RFC 9250 §4.2: the length of a message stands before it, as over TCP.
_LENGTH_BYTES = 2


def configure(configuration: QuicConfiguration) -> None:
    configuration.alpn_protocols = ["doq"]


class Server(QuicConnectionProtocol):
    """One connection: each query has a stream of its own."""

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self._queries: dict[int, bytes] = {}

    def export_state(self) -> bytes:
        """The queries that have not come whole: with these the next process goes on."""
        return msgspec.msgpack.encode(self._queries)

    def import_state(self, data: bytes) -> None:
        self._queries = msgspec.msgpack.decode(data, type=dict[int, bytes])

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, StreamReset):
            self._queries.pop(event.stream_id, None)
        elif isinstance(event, StreamDataReceived):
            query = self._queries.pop(event.stream_id, b"") + event.data
            if event.stream_id & 2 or len(query) > _LENGTH_BYTES + 0xFFFF:
                # RFC 9250 §4.3.3: a unidirectional stream is an error, too.
                self._quic.close(_PROTOCOL_ERROR, reason_phrase="no DNS query")
            elif event.end_stream:
                self._answer(event.stream_id, query)
            else:
                self._queries[event.stream_id] = query
            self.transmit()

    def _answer(self, stream_id: int, query: bytes) -> None:
        try:
            asked = dns.message.from_wire(query[_LENGTH_BYTES:])
            # RFC 9250 §4.2.1: the message ID is 0, since the stream says what is answered.
            if int.from_bytes(query[:_LENGTH_BYTES]) != len(query) - _LENGTH_BYTES or asked.id:
                raise dns.exception.FormError
        except (dns.exception.DNSException, ValueError):
            self._quic.close(_PROTOCOL_ERROR, reason_phrase="no DNS query")
            return
        answer = respond(asked).to_wire(prepend_length=True)
        self._quic.send_stream_data(stream_id, answer, end_stream=True)


def respond(asked: dns.message.Message) -> dns.message.Message:
    """The zone's records; `pid.example` is the process that answers."""
    answer = dns.message.make_response(asked)
    if len(asked.question) != 1:
        answer.set_rcode(dns.rcode.FORMERR)
        return answer
    (question,) = asked.question
    if not question.name.is_subdomain(_ZONE.origin):
        answer.set_rcode(dns.rcode.REFUSED)
        return answer
    answer.flags |= dns.flags.AA
    if question.name == _PID:
        text = f'"{os.getpid()}"'
        answer.answer.append(dns.rrset.from_text(_PID, 0, "IN", "TXT", text))
    elif (node := _ZONE.get_node(question.name)) is None:
        answer.set_rcode(dns.rcode.NXDOMAIN)
    elif found := node.get_rdataset(question.rdclass, question.rdtype):
        answer.answer.append(dns.rrset.from_rdata_list(question.name, found.ttl, found))
    return answer
