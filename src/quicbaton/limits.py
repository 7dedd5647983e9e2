"""Every bound on what a peer can make us hold or do, each with its reason."""

from __future__ import annotations

from typing import Final

# --- transport --------------------------------------------------------------------------------

#: RFC 9000 §14.1: the smallest maximum datagram size; every path must carry it.
MIN_DATAGRAM_BYTES: Final = 1200
#: Ethernet's 1500 less IPv6 and UDP headers; the ceiling of our path MTU search.
MAX_DATAGRAM_BYTES: Final = 1452
#: One UDP segmentation offload send may carry 64 segments and 65,507 bytes (Linux udp.c).
MAX_TRAIN_PACKETS: Final = 44
MAX_TRAIN_BYTES: Final = 65_000
#: Trains one call may return: longer bursts overflow a client's default socket buffer (208 KiB).
MAX_TRAINS_PER_TURN: Final = 2

#: Disjoint ranges of received packet numbers remembered; older ones count as received.
MAX_RECEIVED_RANGES: Final = 256
#: Ranges we put into one ACK frame: more would crowd out data.
MAX_ACK_RANGES_SENT: Final = 64
#: RFC 9000 §13.2.2: an ACK at least for every second ack-eliciting packet; bulk receipt may wait
#: longer inside one read of the socket.
ACK_EVERY_PACKETS: Final = 2

#: Streams of one type a peer may have open at once, and bytes per stream and connection. The
#: windows grow by auto-tuning up to the maxima.
INITIAL_STREAM_WINDOW_BYTES: Final = 1 << 20
MAX_STREAM_WINDOW_BYTES: Final = 16 << 20
MAX_CONNECTION_WINDOW_BYTES: Final = 24 << 20
#: Disjoint segments kept per stream before the gap below them is filled: a peer that sends every
#: other byte would otherwise cost us an object per byte.
MAX_STREAM_SEGMENTS: Final = 4096
#: Buffered post-handshake CRYPTO bytes (RFC 9000 §7.5 requires 4096 at least).
MAX_CRYPTO_BUFFER_BYTES: Final = 65_536
#: Unsent DATAGRAM frames; the oldest goes first when full (RFC 9221 §5: they are unreliable).
MAX_QUEUED_DATAGRAMS: Final = 1024
#: Undelivered events before a connection is closed as overwhelmed.
MAX_QUEUED_EVENTS: Final = 65_536

#: Connection IDs that we offer to keep for the peer (active_connection_id_limit we send).
MAX_PEER_IDS: Final = 8
#: Connection IDs that we issue at most, whatever the peer's limit.
MAX_LOCAL_IDS: Final = 8
#: RFC 9000 §5.1.2: retirements outstanding before we close, "at least twice the limit".
MAX_PENDING_RETIREMENTS: Final = 4 * MAX_PEER_IDS
#: Paths with state at once: the active one, the previous one and probes.
MAX_PATHS: Final = 4
#: PATH_RESPONSEs owed at once (RFC 9000 §8.2.2 wants one each; a flood is cut here).
MAX_PENDING_PATH_RESPONSES: Final = 8

#: RFC 9000 §21.4: one packet number in about this many is skipped to catch optimistic ACKs.
SKIP_EVERY_PACKETS: Final = 4096
#: Skipped numbers remembered.
MAX_SKIPPED_NUMBERS: Final = 64

# --- baton ------------------------------------------------------------------------------------

#: A baton bigger than this is refused: its connection has more buffered than a handoff may hold.
MAX_BATON_BYTES: Final = 64 << 20
#: Seconds a baton may lie before `open` refuses it, and the skew allowed between clocks.
BATON_LIFETIME_S: Final = 120
BATON_CLOCK_SKEW_S: Final = 30
