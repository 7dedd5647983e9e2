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

#: Bytes that all connections of a process may hold, TCP ones included: received and not consumed,
#: written and not acknowledged. As it fills, windows shrink, credit is withheld, new clients are
#: refused, and at last the connection that holds most is closed (transport/budget.py).
MEMORY_BUDGET_BYTES: Final = 512 << 20
#: Bytes a peer may send ahead, per stream and connection: windows begin as the handshake promised
#: and grow by auto-tuning up to these. A stream's is two thirds of its connection's at most.
MAX_STREAM_WINDOW_BYTES: Final = 16 << 20
MAX_CONNECTION_WINDOW_BYTES: Final = 3 * MAX_STREAM_WINDOW_BYTES // 2
#: The window with which `quicbaton serve` begins a connection, and which is not taken from the
#: budget: streams have 1 MiB of it. Thousands of idle connections have it, nearly none fills it.
CONNECTION_WINDOW_BYTES: Final = 3 << 19
#: The least size of windows, to which they shrink while memory is tight: 26 Mbit/s at 20 ms.
MIN_STREAM_WINDOW_BYTES: Final = 64 << 10
MIN_CONNECTION_WINDOW_BYTES: Final = 3 * MIN_STREAM_WINDOW_BYTES // 2
#: Bytes of streams whose reader pauses that take nothing from the connection's window: sixteen
#: paused uploads leave the others theirs. Beyond, the client waits for its own uploads.
MAX_WITHHELD_BYTES: Final = 16 << 20
#: Bytes in flight of one connection: a gigabit per second at 250 ms; all are kept until they are
#: acknowledged, which a peer need never do. The second while memory is tight.
MAX_FLIGHT_BYTES: Final = 32 << 20
MIN_FLIGHT_BYTES: Final = 256 << 10
#: Disjoint segments kept per stream and per connection before the gap below them is filled: a peer
#: that sends every other byte would otherwise cost us an object of 150 bytes per byte. A full
#: window with every tenth packet lost has 1,700.
MAX_STREAM_SEGMENTS: Final = 4096
MAX_CONNECTION_SEGMENTS: Final = 8192
#: Streams of the peer's that end in a reset, the peer's or ours, for which it gets new ones at
#: once, and per second after that: rapid reset (CVE-2023-44487, CVE-2025-8671) costs the peer a
#: packet of some bytes and us a request. A browser that leaves a page of 300 images stays below.
ABORTED_STREAMS_BURST: Final = 400
ABORTED_STREAMS_PER_S: Final = 200
#: Adjoining pieces of a stream are joined up to this size: fewer objects, and no byte is copied
#: more often than the size over that of a piece.
MAX_JOINED_BYTES: Final = 16_384
#: Bytes on a stream that the program no longer reads, until the peer is asked to stop: a form with
#: a film of some minutes. They cost no memory, and half of the CPU of a program that reads them,
#: and the peer sends them one for one. While they come the stream counts as open.
MAX_DRAINED_BYTES: Final = 64 << 20
#: Seconds without such bytes, after the peer has all of ours, until it is asked to stop. A client
#: that has broken off an upload and waits for that word (libcurl) waits so long. One whose network
#: has a gap goes on after it.
DRAIN_IDLE_S: Final = 1.0
#: Unsent bytes of a stream at which the application is told to wait, and below which it is told
#: to go on: two trains are ready while it produces more.
STREAM_BUFFER_HIGH_BYTES: Final = 512 << 10
STREAM_BUFFER_LOW_BYTES: Final = 256 << 10
#: The same while memory is tight, or the unsent bytes of all streams of the connection are as many
#: as these: a client that asks for a hundred files and reads none must not hold 50 MB for that.
SMALL_BUFFER_HIGH_BYTES: Final = 64 << 10
SMALL_BUFFER_LOW_BYTES: Final = 32 << 10
CONNECTION_BUFFER_BYTES: Final = 2 << 20
#: Buffered post-handshake CRYPTO bytes (RFC 9000 §7.5 requires 4096 at least).
MAX_CRYPTO_BUFFER_BYTES: Final = 65_536
#: CRYPTO frames kept until the gap below them is filled. Copies are kept as they come, so this and
#: not the buffer's size is the limit for a peer that repeats itself.
MAX_CRYPTO_SEGMENTS: Final = 64
#: Records of unacknowledged packets, some 300 bytes each, at which a connection sends no more that
#: would need one; at twice as many, probes and answers, it is closed. Small packets at 40,000 a
#: second over 200 ms stay below. A peer need not acknowledge anything.
MAX_SENT_RUNS: Final = 8192
#: Runs of lost packets that are remembered, in case one of them was only late: a round trip with
#: every third packet of 400 lost.
MAX_LOST_RUNS: Final = 128
#: Packets by which another may be late before it counts as lost, whatever the path has taught: what
#: Linux allows for TCP. Beyond it the time decides.
MAX_PACKET_THRESHOLD: Final = 300
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
#: Paths with state at once: the active one, the one to go back to, and addresses that are being
#: validated. An attacker that sends copies of the client's packets from other addresses needs more
#: addresses per packet than there are paths, to drive out the client's own.
MAX_PATHS: Final = 8
#: PATH_RESPONSEs owed at once (RFC 9000 §8.2.2 wants one each; a flood is cut here).
MAX_PENDING_PATH_RESPONSES: Final = 8

#: RFC 9000 §21.4: one packet number in about this many is skipped to catch optimistic ACKs.
SKIP_EVERY_PACKETS: Final = 4096
#: Ranges of skipped numbers remembered.
MAX_SKIPPED_RANGES: Final = 8
#: A resumed owner skips between one and this many numbers: an owner that does not know of the
#: handoff would use them.
MAX_RESUME_SKIP: Final = 64

# --- HTTP/3 -----------------------------------------------------------------------------------

#: A field section as RFC 9114 §4.2.2 counts it, announced in SETTINGS: the limit of nginx and
#: Chromium, enough for the cookies of a large site. Encoded it is never larger.
MAX_FIELD_SECTION_BYTES: Final = 64 << 10
#: The RFC's addition for each field.
FIELD_OVERHEAD_BYTES: Final = 32
#: Fields of a section: browsers send 30, and a field that is one byte on the wire is 250 in memory.
MAX_FIELDS: Final = 256
#: Encoded sections from here on are counted before they are decoded. A smaller one has so few
#: fields that to decode it in vain costs half a millisecond.
MAX_COUNTED_SECTION_BYTES: Final = 4096
#: Begun frames and capsules that a connection holds, over all its streams: flow control gives the
#: peer new credit for them. Four large sections at once; an honest client has one begun at a time.
MAX_HELD_HTTP_BYTES: Final = 256 << 10
#: Field sections that a connection repeats and remembers, with all that belongs to them: some four
#: of a browser's, of which it must send each twice. It holds twice as much without them.
REMEMBERED_SECTIONS_BYTES: Final = 8 << 10
#: A request that is looked for among them, encoded: enough for most cookies. A larger one is read
#: frame by frame, once, and not in vain before.
MAX_REMEMBERED_SECTION_BYTES: Final = 2048
#: Settings in a SETTINGS frame, and the frame's bytes: browsers send six, in 50 bytes.
MAX_SETTINGS: Final = 32
MAX_SETTINGS_BYTES: Final = 512
#: A PRIORITY_UPDATE frame: an ID and a dictionary of two members.
MAX_PRIORITY_UPDATE_BYTES: Final = 256
#: Priorities remembered for requests that have not come yet (RFC 9218 §7): a client's streams.
MAX_EARLY_PRIORITIES: Final = 128
#: A capsule that is kept as a whole: a WebTransport close with its reason fits.
MAX_CAPSULE_BYTES: Final = 4096
#: The reason that closes a WebTransport session ("Session Termination").
MAX_CLOSE_REASON_BYTES: Final = 1024
#: WebTransport sessions of one connection: browsers open one.
MAX_WEBTRANSPORT_SESSIONS: Final = 16
#: News of a WebTransport session that wait for its program: datagrams, of which the oldest goes
#: when there are more; other news, and bytes of its streams. Flow control does not hold back
#: streams that come whole in one packet, so a session with more of either is broken off.
MAX_WAITING_SESSION_DATAGRAMS: Final = 256
MAX_WAITING_SESSION_NEWS: Final = 4096
MAX_WAITING_SESSION_BYTES: Final = 16 << 20
#: Streams that came before their WebTransport session ("Buffering Incoming Streams").
MAX_EARLY_STREAMS: Final = 16
#: Requests of one connection, per second and at once: twice as many as a core answers. It bounds
#: one batch, and stops no client that waits for answers.
REQUESTS_PER_S: Final = 20_000
REQUEST_BURST: Final = 20_000
#: Requests that their client gives up (CVE-2023-44487, rapid reset): a page that is left drops a
#: hundred at once.
CANCELLED_REQUESTS_PER_S: Final = 100
CANCELLED_REQUEST_BURST: Final = 500
#: Frames that say nothing: empty ones and those of unknown types (CVE-2019-9518 in HTTP/2), of two
#: bytes each. Clients send one or two with a request: as many as requests, 2 % of a core.
IDLE_FRAMES_PER_S: Final = 20_000
IDLE_FRAME_BURST: Final = 20_000

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
#: Strays kept per connection while no process may process them; the oldest goes first, as in any
#: receive queue that overflows. The bytes are a client's flight of 1 MiB and some.
MAX_QUEUED_STRAYS: Final = 1024
MAX_QUEUED_STRAY_BYTES: Final = 2 << 20
#: Bytes of streams that come ahead of the baton, of one connection on its way to us, and of all.
#: Bytes beyond are not kept, and those connections' batons are full-sized.
MAX_PRECOPY_BYTES: Final = 128 << 20
MAX_PRECOPIES_BYTES: Final = 4 * MAX_PRECOPY_BYTES
#: How much of it one message carries: others get their turn on the link in between.
PRECOPY_PIECE_BYTES: Final = 256 << 10
#: Rounds of copying: bytes that a connection writes during one are copied in the next. A connection
#: that writes faster than the link carries would never move without a limit.
MAX_PRECOPY_ROUNDS: Final = 5
#: Seconds without progress after which a connection is handed over without its copy.
PRECOPY_STALL_S: Final = 5
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
#: Bytes of a relayed stream, in each direction, that are on their way between the two processes or
#: lie unread in the receiving one: 20 ms of a gigabit. One stream makes a process hold no more than
#: this beyond the bytes that its own socket lets in.
RELAY_WINDOW_BYTES: Final = 256 << 10
#: Bytes of ended streams that one relay may always have under way, even on a link that others
#: crowd: some milliseconds of a gigabit.
RELAY_SHARE_BYTES: Final = 1 << 20
#: Streams of one relay. A stream that a program opens for its sessions before the client lets it
#: waits at the new owner.
MAX_RELAYED_STREAMS: Final = 4096
#: Processes between a relayed stream's program and its connection's owner, one more with each move:
#: each of them lives on for it, and each byte passes all of them.
MAX_RELAY_HOPS: Final = 32
#: Streams of one relay that have ended and are remembered, since something of them may be under way
#: between two processes: several times what a client may have open.
MAX_ENDED_RELAYED_STREAMS: Final = 1024
#: Seconds that a proxied connection waits for its link to come back: below the idle timeouts in
#: use, after which its client is gone anyway.
HANDOFF_PROXY_LOST_S: Final = 20
#: Forwarders of one connection: it is handed on no further before one of them is done.
MAX_FORWARDERS: Final = 8
#: Addresses of a proxied connection's client to which its owner sends through us, and as many more
#: from which datagrams came.
MAX_PROXIED_ADDRESSES: Final = 8

# --- the shared ownership store ---------------------------------------------------------------

#: Seconds that SQLite waits for another process's transaction; each takes well below 0.1 s.
STORE_BUSY_S: Final = 1
#: Seconds after which an operation's outcome counts as unknown.
STORE_TIMEOUT_S: Final = 2
#: Seconds until the store is asked again: the first pause, which doubles, and the longest.
STORE_RETRY_S: Final = 0.05
STORE_MAX_RETRY_S: Final = 1.0
#: Seconds in which both sides of a handoff try, in silence, to learn which of them is the owner. A
#: usual idle timeout: later no client believes in the connection any more.
HANDOFF_DOUBT_S: Final = 30
#: Seconds after which an untouched entry is forgotten. Its connection is over, or stays where it is
#: and gets a new entry when it moves.
STORE_ENTRY_LIFETIME_S: Final = 86_400
#: A closed connection's entry: as long as a ledger remembers it.
STORE_TOMBSTONE_LIFETIME_S: Final = TOMBSTONE_LIFETIME_S
#: Entries and spent tokens in memory, each; some 300 bytes apiece.
MAX_STORE_ENTRIES: Final = 1 << 20
#: A store's file: two million entries and tokens. When it is full handoffs are refused, and the
#: connections stay where they are.
MAX_STORE_BYTES: Final = 512 << 20
#: Seconds between the sweeps of one process.
STORE_SWEEP_S: Final = 60
#: Rows that one sweep's transaction deletes: some milliseconds, in which others wait.
STORE_SWEEP_ROWS: Final = 1000
#: Operations of one process that wait for its store at once; more are refused unperformed.
MAX_STORE_WAITING: Final = 4096

# --- sleep ------------------------------------------------------------------------------------

#: A connection whose next deadline is nearer than this stays awake: to put it away and to wake it
#: costs a tenth of a millisecond each.
MIN_SLEEP_S: Final = 1
#: Seconds of silence after which only the bytes of its state are left of a server's connection's
#: transport: one kilobyte instead of 25. To pack and to build again takes up to 100 µs of CPU, half
#: of a small request's: not for each pause of a client at work. But what connections take that are
#: awake at once is not given back: of a thousand that came within four seconds and are silent, each
#: takes 12 KB in the end; 18 KB with 2 s, and 27 KB with 10 s.
DOZE_AFTER_S: Final = 1.0
#: Doublings of the time before a connection sleeps. A connection that is woken soon after it fell
#: asleep, by a client's keep-alives for instance, or that cannot sleep, is left alone for longer.
MAX_SLEEP_DOUBLINGS: Final = 3
#: Seconds of putting to sleep or waking before others get their turn; the pause is as long.
SLEEP_SLICE_S: Final = 0.002

# --- keys -------------------------------------------------------------------------------------

#: Keys in a ring. A rotation needs two; a file with more than this was never pruned.
MAX_RING_KEYS: Final = 8

# --- routing ----------------------------------------------------------------------------------

#: Connection IDs routed to connections of this process (about 130 bytes of memory each).
MAX_ROUTED_IDS: Final = 1 << 20
#: Connection IDs of connections given away whose strays are still forwarded. A handoff is refused
#: when there is no room, so this bounds how many connections leave within a forwarding period.
MAX_FORWARDED_IDS: Final = 1 << 17
#: Connection IDs that must not be reset although this process does not know them.
MAX_NO_RESET_IDS: Final = 1 << 17
#: How long after the end of forwarding an ID is protected from a reset: well past every idle
#: timeout in use, after which no client believes in the connection any more.
NO_RESET_LIFETIME_S: Final = 600
#: How long a connection ID that the peer retired still leads to its connection: longer than the
#: network, or a process that forwards, keeps a datagram back.
RETIRED_ID_LIFETIME_S: Final = 10
#: Retired IDs at once. The oldest goes first; late datagrams for it are then answered with a reset
#: that the peer ignores (RFC 9000 §10.3.1).
MAX_RETIRED_IDS: Final = 1 << 16
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
#: Spent NEW_TOKENs remembered (RFC 9000 §8.1.4: replay MUST be limited), and as many tickets whose
#: early data was accepted. When full, tokens count for nothing until old ones expire, which costs
#: the client a round trip, and no safety.
MAX_SPENT_TOKENS: Final = 1 << 16

#: Session tickets: as long as aioquic's. RFC 8446 §4.6.1 allows a week; a day bounds how long a
#: retired cluster key must be kept for them.
TICKET_LIFETIME_S: Final = 86_400
#: For how long after a client was shown a certificate its sessions are resumed although another has
#: taken its place. Servers that show different ones for one name so spare most clients that come
#: back a full handshake. An operator who replaces a certificate, perhaps since its key was stolen,
#: knows that it is gone ten minutes later.
REPLACED_CERTIFICATE_S: Final = 600
#: How far a client's idea of its ticket's age may be from ours for its early data to be accepted:
#: the figure that RFC 8446 §8.3 names for clients on the internet.
EARLY_DATA_WINDOW_S: Final = 10

# --- handshakes -------------------------------------------------------------------------------

#: Handshakes in progress at once: each costs an aioquic connection (45 KB) and up to the flow
#: control limit of early data. Beyond, Initials are dropped and clients try again.
MAX_HANDSHAKES: Final = 4096
#: From this many on a client must first prove its address by a Retry (RFC 9000 §8.1.2): spoofed
#: addresses then cost us no state.
RETRY_FROM_HANDSHAKES: Final = 1024
#: A client's TLS message: a ClientHello has a few KB, also with post-quantum keys, and a chain of
#: certificates some KB for each. OpenSSL takes 128 KB of one and 100 of the other.
MAX_HANDSHAKE_MESSAGE_BYTES: Final = 1 << 16
#: Seconds after which a client's handshake is given up: more than all retransmissions of a bad
#: path take, and half of aioquic's idle timeout, for which an attacker that only begins handshakes
#: would hold the places of others.
HANDSHAKE_S: Final = 30

# --- ASGI -------------------------------------------------------------------------------------

#: A WebSocket's message, which a program gets in one piece: uvicorn's default.
MAX_WEBSOCKET_MESSAGE_BYTES: Final = 16 << 20

# --- TCP --------------------------------------------------------------------------------------

#: Connections of a process, handshakes included. Their buffers come from the process's budget; an
#: idle one takes 54 KB beside that, 290 without uvloop. Further clients wait with the kernel, or
#: another worker takes them.
MAX_TCP_CONNECTIONS: Final = 8192
#: Clients that wait to be accepted; the kernel has a bound of its own (net.core.somaxconn).
TCP_BACKLOG: Final = 2048
#: Seconds for a TLS handshake: three lost packets of a bad path. An attacker that only begins one
#: holds a place for so long.
TCP_HANDSHAKE_S: Final = 10
#: Seconds for the head of a request from its first byte on: it fits a few packets.
TCP_HEAD_S: Final = 10
#: Seconds after which a client counts as gone that takes no byte of its responses, or does not
#: answer the kernel's keep-alives.
TCP_UNREAD_S: Final = 60
#: Seconds that a connection stays open when it is to close between two requests: a request on its
#: way is answered, and a client that was told to close does so.
TCP_LINGER_S: Final = 1.0
#: Bytes of responses of one connection that are written and not sent: `send()` waits beyond.
TCP_BUFFER_BYTES: Final = 256 << 10
#: Bytes that a client of HTTP/2 may send ahead of programs that do not take them, per request and
#: connection: 100 Mbit/s at 80 ms.
TCP_STREAM_WINDOW_BYTES: Final = 1 << 20
TCP_CONNECTION_WINDOW_BYTES: Final = 3 << 19
#: Requests of one connection of HTTP/2 that run at once: the least that RFC 9113 §6.5.2 recommends.
MAX_TCP_STREAMS: Final = 100
#: Seconds for which browsers remember that there is HTTP/3 (RFC 7838 §3.1).
TCP_ALT_SVC_S: Final = 3600

# --- turns of connections ---------------------------------------------------------------------

#: Objects made before the garbage collector runs. A run takes one or two milliseconds, in which no
#: client is served.
YOUNG_OBJECTS: Final = 10_000

#: Where all that a turn has read was bulk data or its ACKs, the next datagrams stay in the socket
#: for so long. Behind a link of 200 Mbit/s they come every 54 to 108 µs; to wake up for each costs
#: several times what it takes to process it.
MAX_GATHER_S: Final = 0.002
#: On paths with a shorter round trip nothing stays: a tenth of it may be added, and no event loop
#: wakes more often than each millisecond.
MIN_GATHER_RTT_S: Final = 0.01
#: A probe timeout is put off for so long where datagrams were not all read and processed that had
#: come before it: a process with hundreds of busy connections is late for each, and 1,600 needless
#: probes in 100 MB for 500 clients are a third of the CPU.
HOLD_US: Final = 10_000
#: One that never catches up probes in the end.
MAX_HOLD_US: Final = 1_000_000
#: Ranges of a peer's last ACK that are remembered, so that the next ACK's need not be read again:
#: 8 KB. ngtcp2, quinn and we report 32 or 64 at most.
MAX_REPEATED_RANGES: Final = 64
#: So many datagrams on their way, or received one after the other at full size, are bulk.
BULK_DATAGRAMS: Final = 16

#: Seconds of work for connections before the socket is read again: a client that asks for little
#: waits at most so long for others. A batch of 32 uploaded datagrams takes 0.3 ms, a GET 0.3.
TURN_S: Final = 0.004
#: Datagrams of one connection that are processed at once while their cost is unknown. Full of
#: requests, so many take half of the 50 ms that one client may wait for another.
MAX_SHARE_DATAGRAMS: Final = 16
#: The same where so many fit a turn, judged by earlier ones. An upload that is served in batches of
#: 16 instead of 32 costs a fifth more, since each batch is answered with an ACK.
BULK_SHARE_DATAGRAMS: Final = 64
#: The same of a new connection, of whose datagrams none was processed yet.
FIRST_SHARE_DATAGRAMS: Final = 4
#: The same of Initials that begin handshakes, of all clients together: each takes 1 to 2 ms.
NEWCOMERS_SHARE: Final = 2
#: Datagrams that wait for their turn, in all and of one connection: 12 MB, and a flight of 1.4 MB.
#: Beyond, the longest lines lose theirs, where an overflowing receive buffer would lose any.
MAX_WAITING_DATAGRAMS: Final = 8192
MAX_WAITING_PER_OWNER: Final = 1024

# --- control socket ---------------------------------------------------------------------------

#: One command or answer: a list of 100,000 connections fits, and so does a saved baton.
MAX_COMMAND_BYTES: Final = MAX_HANDOFF_MESSAGE_BYTES
#: Connections that a takeover has between offer and cutover at once: enough to keep both
#: processes busy, few enough that none waits long while frozen.
MAX_CONCURRENT_HANDOFFS: Final = 4
#: Blackouts that one drain reports: enough for a p99.9.
MAX_DRAIN_SAMPLES: Final = 10_000
#: Timelines of handoffs that a process remembers, at about a kilobyte each: enough for a drain that
#: is to be looked at.
MAX_KEPT_TIMELINES: Final = 1024

# --- links to other processes -----------------------------------------------------------------

#: Bytes waiting to be written to a process of this host before it counts as stuck: several of the
#: largest batons.
MAX_OUTBOX_BYTES: Final = 512 << 20
#: The same for another host's, with which fewer handoffs are under way at once.
MAX_REMOTE_OUTBOX_BYTES: Final = 4 * MAX_HANDOFF_MESSAGE_BYTES
#: From here on a bulk sender (copies, relayed streams) should wait: 30 ms of a gigabit.
CHANNEL_FULL_BYTES: Final = 4 << 20
#: From here on strays are lost rather than queued, which QUIC repairs. An attacker that has seen
#: one ID of a connection that moved can send any number of them, and the link also carries
#: handoffs. It is half of the largest baton, behind which strays may wait.
CHANNEL_CROWDED_BYTES: Final = 32 << 20
#: Seconds for TCP to connect to another host, for the preamble, TLS and its checks, and then for
#: the first command: several round trips of the worst network, and a short time to hold a place.
PEER_CONNECT_S: Final = 3.0
PEER_HANDSHAKE_S: Final = 5.0
PEER_FIRST_FRAME_S: Final = 10.0
#: Seconds in which a process that froze a connection over the network has to say `Kept`.
FREEZE_ANSWER_S: Final = 5.0
#: A host that acknowledges nothing for so long is unreachable: links to it end.
PEER_SILENCE_S: Final = 5
#: Connections that have not shown a certificate yet, in the acceptor and in each process. When one
#: more comes the oldest goes: a flood must then renew all of them within one handshake.
MAX_UNPROVEN_PEERS: Final = 64
#: Bytes of a TLS handshake that are read from one of them (ours have 2 KB).
MAX_PEER_HANDSHAKE_BYTES: Final = 64 << 10
#: Accepted channels of other hosts at once, in one process: a few from every process of a cluster.
MAX_REMOTE_CHANNELS: Final = 256
#: The longest pause between attempts to reach another host, and for how long they go on.
REDIAL_PAUSE_S: Final = 2.0
REDIAL_S: Final = 30.0
#: Links with processes of other nodes that are made at once because datagrams name them, which any
#: sender can have done: a quarter of the other side's places for callers without a certificate.
MAX_FIRST_LINKS: Final = 16
#: Of these, to one node: while it is out of reach each takes seconds, and others have their own.
MAX_FIRST_LINKS_TO_NODE: Final = 4
#: Seconds for which a process that was not reached so is left alone, the first time and at most;
#: each time twice as long. Datagrams that name all 256 worker numbers of a node, of which none may
#: run, then cause 13 TLS handshakes per second, and clients of a process that has just come wait
#: less than their idle timeout. And how many such processes are remembered: all worker numbers of
#: 16 nodes.
FIRST_LINK_PAUSE_S: Final = 5.0
MAX_FIRST_LINK_PAUSE_S: Final = 20.0
MAX_MISSED_PROCESSES: Final = 4096
#: Nodes in a cluster's file.
MAX_NODES: Final = 1024

# --- placement --------------------------------------------------------------------------------

#: Events of a client, and bytes of a request, that wait for the decision which process answers the
#: first request. Each batch of datagrams looks through them; a client that sends more is answered
#: here.
MAX_HELD_EVENTS: Final = 256
MAX_HELD_REQUEST_BYTES: Final = 1 << 16

# --- access log -------------------------------------------------------------------------------

#: Requests of one connection whose answer is awaited for its line: more than a client may have
#: open. Without a bound those that a program resets would stay.
MAX_AWAITED_ANSWERS: Final = 256

# --- metrics ----------------------------------------------------------------------------------

#: HTTP requests for figures that are answered at once, and seconds of silence in one: a scraper or
#: two, and strangers that find the port.
MAX_METRICS_REQUESTS: Final = 8
METRICS_REQUEST_S: Final = 5.0
#: Open connections of a process whose round trip is looked at, per second: a look takes 2 µs, and
#: ten thousand are looked at within a minute.
MAX_LOOKS_PER_S: Final = 256

# --- supervisor -------------------------------------------------------------------------------

#: Bytes of a process's figures in memory that outlives it: kinds and reasons are a closed set, of
#: which all together take half of it.
MAX_TALLY_BYTES: Final = 32 << 10
#: Certificates in it, each with a name of 255 bytes at most: a quarter of it.
MAX_CERTIFICATE_FIGURES: Final = 32
#: Workers of one service: each holds the sockets of all, and one per core is what helps.
MAX_WORKERS: Final = 64
#: Connections that a worker's roster lists (128 bytes each, when used). Clients of further ones
#: learn of their worker's death by their own next packet.
MAX_ROSTER_ENTRIES: Final = 1 << 17
#: Resets that announce a worker's death go out in slices of so many, a turn of the event loop each.
RESETS_PER_SLICE: Final = 256
#: Seconds before a worker that died is started again: at once the first time, then twice as long
#: after each further death, up to the second figure. One that lived for the third is forgiven.
RESTART_FIRST_S: Final = 0.25
RESTART_MOST_S: Final = 30.0
RESTART_FORGIVEN_S: Final = 10.0
#: Old processes of one worker number that live on for requests at which `--limit-max-requests`
#: replaces its present one no more: each is an interpreter with the program in it, and a stream
#: that is relayed may pass all of them.
MAX_LINGERING_WORKERS: Final = 4
#: Bytes of a worker's standard error, from before it is ready, that are passed on.
MAX_LAST_WORDS_BYTES: Final = 4096
#: Other processes whose load is remembered.
MAX_LOADS: Final = 1024

# --- files ------------------------------------------------------------------------------------

#: Descriptors that a server asks the kernel to allow, if it may.
MAX_DESCRIPTORS: Final = 1 << 16
#: Files that the downloads of one process hold open, each once, however many download it, and at
#: most half of the process's descriptors. Further files are opened for each read, which costs 15 µs
#: beside the milliseconds that sending 256 KiB takes.
MAX_OPEN_FILES: Final = 16_384
#: Descriptors that go along with one connection: the kernel passes 253 at once (SCM_MAX_FD).
#: Further files are opened again by their paths.
MAX_PASSED_DESCRIPTORS: Final = 250
#: Writes with descriptors that one channel has brought and the process has not taken. It waits for
#: one at a time, so a sender of more is cut off.
MAX_WAITING_PARCELS: Final = 4
#: The longest path that Linux opens (PATH_MAX), and folders in one: each costs a look of 2 µs.
MAX_PATH_BYTES: Final = 4095
MAX_PATH_DEPTH: Final = 128
#: Entries of a folder that are read for a listing (30 ms of work), and that one page of it shows:
#: half a megabyte, as much as a download may have in its stream's buffer.
MAX_SCANNED_ENTRIES: Final = 10_000
MAX_LISTED_ENTRIES: Final = 2_000
#: Pages of listings that are kept, and the seconds for which they count as new.
MAX_KEPT_LISTINGS: Final = 16
LISTING_LIFETIME_S: Final = 1.0
