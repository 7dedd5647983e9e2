"""Every machine-readable reason, one enum.

To add one, write its line here and its explanation in the module beside this one that fits it: a
member without an explanation fails at import. `make reasons` then writes `docs/reasons.md` anew.
"""

from __future__ import annotations

from enum import StrEnum, unique
from typing import Final

from quicbaton.reasons.explanation import Explanation, Explanations, Fault
from quicbaton.reasons.of_connections import OF_CONNECTIONS
from quicbaton.reasons.of_processes import OF_PROCESSES
from quicbaton.reasons.of_protocols import OF_PROTOCOLS
from quicbaton.reasons.of_settings import OF_SETTINGS

EXPLANATIONS: Final[Explanations] = {
    **OF_CONNECTIONS,
    **OF_PROCESSES,
    **OF_SETTINGS,
    **OF_PROTOCOLS,
}


@unique
class Reason(StrEnum):
    """Why something was done or not. A reason compares, prints and encodes as its code."""

    _explanation: Explanation

    def __new__(cls, code: str) -> Reason:
        reason = str.__new__(cls, code)
        reason._value_ = code
        reason._explanation = EXPLANATIONS[code]
        return reason

    # --- handoffs -------------------------------------------------------------------------

    OK = "ok"
    PROXIED = "proxied"
    SAVED = "saved"
    CANNOT_SEND_FROM = "cannot_send_from"
    CLOSED = "closed"
    CUT = "cut"
    CUTOVER_PENDING = "cutover_pending"
    DEADLINE = "deadline"
    DISCARDED = "discarded"
    EXPORT_FAILED = "export_failed"
    FORWARDS_FULL = "forwards_full"
    ID_LENGTHS = "id_lengths"
    IMPORT_FAILED = "import_failed"
    IN_HAND = "in_hand"
    MEMORY_FULL = "memory_full"
    NEEDS_NEWER_FORMAT = "needs_newer_format"
    NO_ROOM = "no_room"
    NO_STORE = "no_store"
    NOT_EXPORTABLE = "not_exportable"
    NOT_KEPT = "not_kept"
    NOT_OWNED = "not_owned"
    NOT_READY = "not_ready"
    OTHER_HOST = "other_host"
    OVER_TCP = "over_tcp"
    PEER_DEAD = "peer_dead"
    ALREADY_PROXIED = "already_proxied"
    ROUTING_TABLE_FULL = "routing_table_full"
    SAME_PROCESS = "same_process"
    SOURCE_GONE = "source_gone"
    TAKEOVER = "takeover"

    # --- ownership ------------------------------------------------------------------------

    ALREADY_USED = "already_used"
    DIGEST_MISMATCH = "digest_mismatch"
    FENCED = "fenced"
    GIVEN_AWAY = "given_away"
    HOLDER = "holder"
    IN_DOUBT = "in_doubt"
    NOT_FORWARDING = "not_forwarding"
    SECOND_SENDER = "second_sender"
    SHARED_STORE = "shared_store"
    SUPERSEDED = "superseded"
    WRONG_AUDIENCE = "wrong_audience"
    WRONG_BATON = "wrong_baton"
    WRONG_CONNECTION = "wrong_connection"
    WRONG_HANDOFF = "wrong_handoff"
    WRONG_TERM = "wrong_term"

    # --- batons, and promotion from the handshake -----------------------------------------

    BATON = "baton"
    BATON_EXPIRED = "baton_expired"
    BATON_FIELD = "baton_field"
    BATON_MALFORMED = "baton_malformed"
    BATON_PRECOPY = "baton_precopy"
    BATON_SEAL = "baton_seal"
    BATON_TOO_LARGE = "baton_too_large"
    FORMAT_UNKNOWN = "format_unknown"
    UNKNOWN_DELIVERY_HANDLER = "unknown_delivery_handler"
    UNKNOWN_EVENT = "unknown_event"
    TOO_MANY_KEY_UPDATES = "too_many_key_updates"
    UNSUPPORTED_CIPHER = "unsupported_cipher"
    UNSUPPORTED_VERSION = "unsupported_version"

    # --- what keeps a connection awake ----------------------------------------------------

    ACK_OWED = "ack_owed"
    BUFFERED_BYTES = "buffered_bytes"
    IN_FLIGHT = "in_flight"
    NEEDED = "needed"
    PATH_VALIDATION = "path_validation"
    TIMER = "timer"
    UNDELIVERED_EVENTS = "undelivered_events"
    UNSENT = "unsent"

    # --- relayed streams ------------------------------------------------------------------

    LOST = "lost"
    RELAY_CREDIT = "relay_credit"
    RELAY_ENDED = "relay_ended"
    RELAY_STREAMS = "relay_streams"
    RELAY_WINDOW = "relay_window"
    STREAMS_RELAYED = "streams_relayed"

    # --- links ----------------------------------------------------------------------------

    CROWDED = "crowded"
    FORMAT_MISMATCH = "format_mismatch"
    LINK_LOST = "link_lost"
    LOCAL_ONLY = "local_only"
    MALFORMED_MESSAGE = "malformed_message"
    MESSAGE_TOO_LONG = "message_too_long"
    REFUSED = "refused"
    UNEXPECTED_EVENT = "unexpected_event"
    UNEXPECTED_MESSAGE = "unexpected_message"
    UNREACHABLE = "unreachable"
    VERSION_MISMATCH = "version_mismatch"
    WRONG_NAME = "wrong_name"
    WRONG_USER = "wrong_user"

    # --- commands -------------------------------------------------------------------------

    BUSY = "busy"
    NO_LISTENER = "no_listener"
    NO_SUCH_CONNECTION = "no_such_connection"
    NO_SUCH_SOCKET = "no_such_socket"
    NO_SUCH_WORKER = "no_such_worker"
    NO_TO = "no_to"
    NO_WORKER = "no_worker"
    OS = "os"
    UNKNOWN = "unknown"
    UNKNOWN_HOST = "unknown_host"
    UNKNOWN_SERVER = "unknown_server"

    # --- services -------------------------------------------------------------------------

    ALIVE = "alive"
    DIED = "died"
    IDLE = "idle"
    PREDECESSOR_DIED = "predecessor_died"
    ROSTER_FORMAT = "roster_format"
    SILENT_WORKER = "silent_worker"
    STOPPING = "stopping"
    SUCCESSOR_DIED = "successor_died"
    SUCCESSOR_FAILED = "successor_failed"
    SUPERVISED = "supervised"
    TWO_SERVICES = "two_services"
    WORKERS = "workers"

    # --- clusters -------------------------------------------------------------------------

    ADDRESS = "address"
    CERTIFICATES = "certificates"
    CLUSTER_FILE = "cluster_file"
    LOCAL_NAME = "local_name"
    NO_CLUSTER = "no_cluster"
    NODE = "node"
    NOT_A_NODE = "not_a_node"
    PEERS_ADDRESS = "peers_address"
    TLS = "tls"
    UNKNOWN_NODE = "unknown_node"
    WRONG_NODE = "wrong_node"

    # --- the shared ownership store -------------------------------------------------------

    STORE_BUSY = "store_busy"
    STORE_CLOSED = "store_closed"
    STORE_CORRUPT = "store_corrupt"
    STORE_ERROR = "store_error"
    STORE_FULL = "store_full"
    STORE_IO = "store_io"
    STORE_LOCKED = "store_locked"
    STORE_READONLY = "store_readonly"
    STORE_SLOW = "store_slow"
    STORE_UNUSABLE = "store_unusable"
    STORE_URL = "store_url"
    STORE_VERSION = "store_version"

    # --- options --------------------------------------------------------------------------

    APPLICATION = "application"
    CERTIFICATE_DATES = "certificate_dates"
    CERTIFICATE_KEY = "certificate_key"
    CONFIGURATION = "configuration"
    FAILPOINT = "failpoint"
    FILE_EXISTS = "file_exists"
    HANDOFF_WAITS = "handoff_waits"
    LIFESPAN = "lifespan"
    LOG_CONFIG = "log_config"
    METRICS_PORT = "metrics_port"
    NO_DOTENV = "no_dotenv"
    NO_PIDFD = "no_pidfd"
    NO_PROMETHEUS = "no_prometheus"
    NO_REUSE_PORT = "no_reuse_port"
    NO_WATCHFILES = "no_watchfiles"
    NOT_PRIVATE = "not_private"
    PLACEMENT = "placement"
    PORT_TAKEN = "port_taken"
    SOCKET_USER = "socket_user"
    TCP_PORT = "tcp_port"
    UNHEALTHY = "unhealthy"
    NEEDS_RESTART = "needs_restart"
    NOT_A_TIMELINE = "not_a_timeline"
    USAGE = "usage"

    # --- keys -----------------------------------------------------------------------------

    EMPTY_ID = "empty_id"
    KEY_ID = "key_id"
    KEY_IN_USE = "key_in_use"
    KEY_PICKLE = "key_pickle"
    KEY_SECRET = "key_secret"
    KEY_TEXT = "key_text"
    RING_DUPLICATE = "ring_duplicate"
    RING_EMPTY = "ring_empty"
    RING_SIZE = "ring_size"
    UNKNOWN_KEY = "unknown_key"

    # --- connection IDs -------------------------------------------------------------------

    ID_CONFIGS = "id_configs"
    ID_KEY = "id_key"
    ID_LAYOUT = "id_layout"
    IDS_TEXT = "ids_text"
    NONCES_EXHAUSTED = "nonces_exhausted"
    PLACE = "place"

    # --- roots of the errors' classes -----------------------------------------------------

    CALLER = "caller"
    ERROR = "error"
    INTERNAL = "internal"
    PEER = "peer"

    # --- QUIC -----------------------------------------------------------------------------

    DATAGRAM_TOO_LARGE = "datagram_too_large"
    ID_COLLISION = "id_collision"
    KEY_UPDATE_TOO_SOON = "key_update_too_soon"
    RESET_TOO_SMALL = "reset_too_small"
    STREAM_STATE = "stream_state"
    TRANSPORT = "transport"

    # --- address tokens -------------------------------------------------------------------

    ADDRESS_TOKEN = "address_token"
    TOKEN_ADDRESS = "token_address"
    TOKEN_DESTINATION = "token_destination"
    TOKEN_EXPIRED = "token_expired"
    TOKEN_MALFORMED = "token_malformed"
    TOKEN_SEAL = "token_seal"

    # --- HTTP -----------------------------------------------------------------------------

    GOAWAY = "goaway"
    HTTP3 = "http3"
    HTTP_STATUS = "http_status"
    RESET = "reset"
    TRUNCATED = "truncated"

    # --- the test kit ---------------------------------------------------------------------

    NONCE_REUSE = "nonce_reuse"
    SPINNING = "spinning"
    STUCK = "stuck"

    # --- what it means --------------------------------------------------------------------------

    @property
    def fault(self) -> Fault:
        return self._explanation.fault

    @property
    def meaning(self) -> str:
        """One sentence for people."""
        return self._explanation.meaning

    @property
    def advice(self) -> str:
        """What to do, in one sentence; empty where nothing need be done, or the message has it."""
        return self._explanation.advice

    @property
    def is_final(self) -> bool:
        """Whether waiting cannot change it, for this connection and this destination."""
        return self._explanation.is_final

    @property
    def is_success(self) -> bool:
        """Whether the command was carried out."""
        return self._explanation.is_success

    # --- from a wire or a file ------------------------------------------------------------------

    @classmethod
    def parse(cls, text: str) -> Reason:
        """The reason with this code; UNKNOWN for a later release's code, or any other text."""
        try:
            return cls(text)
        except ValueError:
            return cls.UNKNOWN


def heard(code: str, message: str) -> tuple[Reason, str]:
    """The reason and the message of another process. The message keeps a code that is unknown."""
    reason = Reason.parse(code)
    if reason is Reason.UNKNOWN and code != reason:
        message = f"{message} ({code})" if message else code
    return reason, message
