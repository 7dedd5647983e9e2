"""Connection IDs and paths at promotion."""

from __future__ import annotations

from aioquic.quic.connection import QuicConnection, QuicConnectionId

from quicbaton import limits
from quicbaton.handshake import inflight
from quicbaton.transport import frames as f
from quicbaton.transport import rangeset
from quicbaton.transport.paths.path import new_path
from quicbaton.transport.state import (
    NEVER,
    Address,
    IdsState,
    LocalId,
    PathState,
    PeerId,
    SentRun,
)


def import_ids(quic: QuicConnection, runs: list[SentRun], alias_until_us: int) -> IdsState:
    """The IDs of both sides. Those that aioquic has not sent yet are due; only an aioquic that was
    not prepared has issued any."""
    is_client = quic.configuration.is_client
    unacked = {frame[1] for frame in inflight.carried(runs, f.NEW_CONNECTION_ID)}
    local = [
        LocalId(
            sequence=own.sequence_number,
            cid=own.cid,
            token=own.stateless_reset_token or b"",
            due=not own.was_sent,
            acked=own.was_sent and own.sequence_number not in unacked,
        )
        for own in quic._host_cids
    ]
    unsent = [own.sequence for own in local if own.due]
    retiring = list(quic._retire_connection_ids)
    peer = [_peer_id(quic._peer_cid, [0])]
    peer += [_peer_id(spare, []) for spare in quic._peer_cid_available]
    for serial, path in enumerate(quic._network_paths):
        if path.peer_cid is None:
            continue
        if serial < limits.MAX_PATHS:
            peer.append(_peer_id(path.peer_cid, [serial]))
        else:
            # RFC 9000 §9.5: an ID that was used on an abandoned path must not be used on another.
            retiring.append(path.peer_cid.sequence_number)
    retirements = [frame[1] for frame in inflight.carried(runs, f.RETIRE_CONNECTION_ID)]
    seen: list[int] = []
    for sequence in sorted({*quic._peer_cid_sequence_numbers, *retiring, *retirements}):
        rangeset.add(seen, sequence, sequence + 1)
    return IdsState(
        local=local,
        local_next_sequence=quic._host_cid_seq,
        local_sent=min(unsent, default=quic._host_cid_seq),
        local_retire_prior_to=0,
        local_limit=quic._remote_active_connection_id_limit,
        peer=peer,
        peer_retire_prior_to=quic._peer_retire_prior_to,
        peer_seen=seen,
        peer_retire_due=retiring,
        peer_retire_unacked=retirements,
        # After a Retry the client's packets carry the ID that the Retry gave it.
        alias=b""
        if is_client
        else quic._retry_source_connection_id or quic.original_destination_connection_id,
        alias_until_us=NEVER if is_client else alias_until_us,
    )


def _peer_id(known: QuicConnectionId, paths: list[int]) -> PeerId:
    return PeerId(
        sequence=known.sequence_number,
        cid=known.cid,
        token=known.stateless_reset_token or b"",
        paths=paths,
    )


def import_paths(
    quic: QuicConnection, local_address: Address, max_payload_bytes: int, now_us: int, pto_us: int
) -> list[PathState]:
    """The active path and, rarely, others from which packets came during the handshake."""
    return [
        _path(quic, serial, local_address, max_payload_bytes, now_us, pto_us)
        for serial in range(min(len(quic._network_paths), limits.MAX_PATHS))
    ]


def _path(
    quic: QuicConnection,
    serial: int,
    local_address: Address,
    max_payload_bytes: int,
    now_us: int,
    pto_us: int,
) -> PathState:
    known = quic._network_paths[serial]
    path = new_path(
        serial,
        tuple(known.addr),
        local_address,
        validated=known.is_validated,
        max_payload_bytes=max_payload_bytes,
    )
    path.used = path.used or serial == 0
    path.received_bytes = known.bytes_received
    path.sent_bytes = known.bytes_sent
    path.responses = list(known.remote_challenges)
    # The configuration may promise more than 1200; the search continues from there.
    path.mtu_bytes = max(path.mtu_bytes, min(quic._max_datagram_size, path.mtu_ceiling_bytes))
    if not path.validated:
        path.challenges = [(challenge, False) for challenge in known.local_challenges]
        path.challenge_due = True
        path.challenge_tries = 1
        path.challenged_us = now_us
        path.challenge_at_us = now_us + pto_us
    return path
