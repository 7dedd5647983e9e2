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
#: The first train of a resumed connection, whose client has been waiting: a full one takes five
#: times as long to build.
QUICK_TRAIN_PACKETS: Final = 8
#: Trains one call may return: longer bursts overflow a client's default socket buffer (208 KiB).
MAX_TRAINS_PER_TURN: Final = 2

#: Disjoint ranges of received packet numbers remembered; older ones count as received.
MAX_RECEIVED_RANGES: Final = 256
#: Ranges we put into one ACK frame: more would crowd out data.
MAX_ACK_RANGES_SENT: Final = 64
#: RFC 9000 §13.2.2: an ACK at least for every second ack-eliciting packet; bulk receipt may wait
#: longer inside one read of the socket.
ACK_EVERY_PACKETS: Final = 2

#: Bytes a peer may send ahead, per stream and connection: windows begin as the handshake promised
#: and grow by auto-tuning up to these.
MAX_STREAM_WINDOW_BYTES: Final = 16 << 20
MAX_CONNECTION_WINDOW_BYTES: Final = 24 << 20
#: Disjoint segments kept per stream before the gap below them is filled: a peer that sends every
#: other byte would otherwise cost us an object per byte.
MAX_STREAM_SEGMENTS: Final = 4096
#: Adjoining pieces of a stream are joined up to this size: fewer objects, and no byte is copied
#: more often than the size over that of a piece.
MAX_JOINED_BYTES: Final = 16_384
#: Unsent bytes of a stream at which the application is told to wait, and below which it is told
#: to go on: two trains are ready while it produces more.
STREAM_BUFFER_HIGH_BYTES: Final = 512 << 10
STREAM_BUFFER_LOW_BYTES: Final = 256 << 10
#: Buffered post-handshake CRYPTO bytes (RFC 9000 §7.5 requires 4096 at least).
MAX_CRYPTO_BUFFER_BYTES: Final = 65_536
#: CRYPTO frames kept until the gap below them is filled. Copies are kept as they come, so this and
#: not the buffer's size bounds what a peer that repeats itself can make us hold.
MAX_CRYPTO_SEGMENTS: Final = 64
#: Records of unacknowledged packets before a connection is closed. Congestion control keeps an
#: honest peer's far below; one that changes its address again and again gets a new window each
#: time and need acknowledge nothing.
MAX_SENT_RUNS: Final = 65_536
#: Unsent DATAGRAM frames; the oldest goes first when full (RFC 9221 §5: they are unreliable).
MAX_QUEUED_DATAGRAMS: Final = 1024
#: Undelivered events before a connection is closed as overwhelmed.
MAX_QUEUED_EVENTS: Final = 65_536

#: Connection IDs that we offer to keep for the peer (active_connection_id_limit we send): one in
#: use, one each for a new path and for a second that is tried meanwhile. A spare one takes up to
#: 39 bytes of every baton.
MAX_PEER_IDS: Final = 3
#: Connection IDs that we issue at most, whatever the peer's limit: again one in use, two spare.
#: Each takes 34 bytes of a baton and an entry in the routing table.
MAX_LOCAL_IDS: Final = 3
#: RFC 9000 §5.1.2: retirements outstanding before we close, "at least twice the limit".
MAX_PENDING_RETIREMENTS: Final = 4 * MAX_PEER_IDS
#: Paths with state at once: the active one, the previous one and probes.
MAX_PATHS: Final = 4
#: PATH_RESPONSEs owed at once (RFC 9000 §8.2.2 wants one each; a flood is cut here).
MAX_PENDING_PATH_RESPONSES: Final = 8

#: RFC 9000 §21.4: one packet number in about this many is skipped to catch optimistic ACKs.
SKIP_EVERY_PACKETS: Final = 4096
#: Ranges of skipped numbers remembered.
MAX_SKIPPED_RANGES: Final = 8
#: A resumed owner skips between one and this many numbers: an owner that does not know of the
#: handoff would use them.
MAX_RESUME_SKIP: Final = 64

# --- baton ------------------------------------------------------------------------------------

#: A baton bigger than this is refused: its connection has more buffered than a handoff may hold.
MAX_BATON_BYTES: Final = 64 << 20
#: Seconds a baton may lie before `open` refuses it, and the skew allowed between clocks.
BATON_LIFETIME_S: Final = 120
BATON_CLOCK_SKEW_S: Final = 30
#: Names in a baton's header (source, audience): a Unix socket's path has 108 bytes, a host's
#: name 253.
MAX_BATON_NAME_BYTES: Final = 255

# --- ownership and handoff --------------------------------------------------------------------

#: Connections given away or closed that a ledger remembers, and for how long: longer than any baton
#: can still be opened, so that a late claim is told why it is refused.
MAX_TOMBSTONES: Final = 65_536
TOMBSTONE_LIFETIME_S: Final = 2 * (BATON_LIFETIME_S + BATON_CLOCK_SKEW_S)
#: One handoff message: the largest baton and what surrounds it.
MAX_HANDOFF_MESSAGE_BYTES: Final = MAX_BATON_BYTES + 4096
#: Strays kept per connection while nobody may process them; the oldest goes first, as in any
#: receive queue that overflows. The bytes are a client's flight of 1 MiB and some.
MAX_QUEUED_STRAYS: Final = 1024
MAX_QUEUED_STRAY_BYTES: Final = 2 << 20
#: Bytes of streams that all connections on their way to us have sent ahead of their batons; what
#: goes beyond is not kept, and those connections' batons are as big as ever.
MAX_PRECOPIES_BYTES: Final = 4 * MAX_BATON_BYTES
#: Seconds one side waits for the other: for an answer while the connection is still served, ...
HANDOFF_OFFER_S: Final = 5
#: ... while it is frozen (Chromium gives up after 6.5 s of silence; this leaves room to thaw), ...
HANDOFF_FROZEN_S: Final = 2
#: ... at the destination, which discards after the source's own deadline has surely passed, ...
HANDOFF_READY_S: Final = 4
#: ... for an answer to a claim asked for over a new link, ...
HANDOFF_ASK_S: Final = 4
#: ... and for the client's cutover, counted from the last stray: an idle client's strays may take
#: as long as its idle timeout.
HANDOFF_FORWARD_S: Final = 60

# --- keys -------------------------------------------------------------------------------------

#: Keys in a ring: a rotation needs two; more than this is a file that somebody forgot to prune.
MAX_RING_KEYS: Final = 8

# --- routing ----------------------------------------------------------------------------------

#: Connection IDs routed to connections of this process (about 130 bytes of memory each).
MAX_ROUTED_IDS: Final = 1 << 20
#: Connection IDs of connections given away whose strays are still forwarded. A handoff that finds
#: no room is refused, so this bounds how many connections leave within a forwarding period.
MAX_FORWARDED_IDS: Final = 1 << 17
#: Connection IDs that must not be reset although nobody here knows them.
MAX_NO_RESET_IDS: Final = 1 << 17
#: How long after the end of forwarding an ID is protected from a reset: well past every idle
#: timeout in use, after which no client believes in the connection any more.
NO_RESET_LIFETIME_S: Final = 600
#: Stateless resets per second and in one burst, over all addresses and for one (RFC 9000 §10.3.3):
#: a client needs one, a flood of strays shall not turn into a flood of answers.
RESETS_PER_S: Final = 200
RESET_BURST: Final = 400
RESETS_PER_ADDRESS_PER_S: Final = 2
RESET_BURST_PER_ADDRESS: Final = 10
#: Addresses whose resets are counted one by one; beyond it the oldest is forgotten.
MAX_RESET_ADDRESSES: Final = 4096
#: RFC 9000 §8.1.3: clients return a Retry's token at once, so it lives shortly.
RETRY_TOKEN_LIFETIME_S: Final = 30
#: A NEW_TOKEN is for the next visit; one day keeps the list of spent ones small.
NEW_TOKEN_LIFETIME_S: Final = 86_400
#: Spent NEW_TOKENs remembered (RFC 9000 §8.1.4: replay MUST be limited); when full, tokens count
#: for nothing until old ones expire, which costs the client a round trip and nobody safety.
MAX_SPENT_TOKENS: Final = 1 << 16

# --- handshakes -------------------------------------------------------------------------------

#: Handshakes in progress at once: each costs an aioquic connection (45 KB) and up to the flow
#: control limit of early data. Beyond, Initials are dropped and clients try again.
MAX_HANDSHAKES: Final = 4096
#: From here on a client must prove its address by a Retry first (RFC 9000 §8.1.2): who spoofs
#: addresses then costs us no state.
RETRY_FROM_HANDSHAKES: Final = 1024

# --- control socket ---------------------------------------------------------------------------

#: One command or answer: a list of 100,000 connections fits.
MAX_COMMAND_BYTES: Final = 64 << 20
#: Connections that a takeover has between offer and cutover at once: enough to keep both
#: processes busy, few enough that none waits long while frozen.
MAX_CONCURRENT_HANDOFFS: Final = 16
