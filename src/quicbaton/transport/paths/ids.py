"""Connection IDs in both directions (RFC 9000 §5.1, §19.15, §19.16).

Ours: as many are active as the peer will hold. Every frame that issues one says Retire Prior To
as it stands now, so a cutover needs nothing special: the new IDs themselves carry the request
that makes room for them, in whatever order they arrive. An ID from before the cutover whose frame
was lost is still sent again: a peer that never saw it could never retire it, and the cutover
would stay open for ever.

The peer's: no two places are told apart by one (§9.5), except where the peer's own packets name
the same ID of ours from both; `paths` decides. A path takes one when it first has something to
send.
"""

from __future__ import annotations

from typing import Protocol

from quicbaton.errors import RefusedError, TransportError
from quicbaton.limits import MAX_LOCAL_IDS, MAX_PEER_IDS, MAX_PENDING_RETIREMENTS
from quicbaton.reasons import Reason
from quicbaton.transport import rangeset
from quicbaton.transport.event_queue import EventSink
from quicbaton.transport.frames import (
    CONNECTION_ID_LIMIT_ERROR,
    FRAME_ENCODING_ERROR,
    NEW_CONNECTION_ID,
    PROTOCOL_VIOLATION,
    RETIRE_CONNECTION_ID,
    PacketPlan,
    encode_varint,
)
from quicbaton.transport.state import (
    NEVER,
    NONE,
    IdIssuedEvent,
    IdRetiredEvent,
    IdsState,
    LocalId,
    PeerId,
    SentFrame,
)

_MAX_ID_BYTES = 20


class IdIssuer(Protocol):
    """Makes connection IDs that route to this process."""

    def issue(self) -> tuple[bytes, bytes]:
        """A connection ID never issued before, and its stateless reset token."""


class ConnectionIds:
    """Issues, consumes and retires connection IDs; all that lasts is in the state."""

    __slots__ = ("_events", "_issuer", "_new_due", "_peer_limit", "_state")

    def __init__(
        self,
        state: IdsState,
        issuer: IdIssuer | None,
        events: EventSink,
        peer_limit: int = MAX_PEER_IDS,
    ) -> None:
        """Without an `issuer` the peer gets no more IDs of ours. `peer_limit` is the
        active_connection_id_limit of our transport parameters: the handshake's promise holds,
        though a later owner may promise new peers something else."""
        self._state = state
        self._peer_limit = peer_limit
        self._issuer = issuer
        self._events = events
        self._new_due = any(local.due for local in state.local)  # derived

    # --- what we issue ------------------------------------------------------------------------

    def drop_alias(self, now_us: int) -> None:
        """Stop routing the client's first destination ID, once its time is over."""
        state = self._state
        if state.alias and 0 <= state.alias_until_us <= now_us:
            self._events.append(IdRetiredEvent(state.alias))
            state.alias = b""
            state.alias_until_us = NEVER

    def replenish(self) -> None:
        """Issue IDs until the peer has as many as it will hold, or `MAX_LOCAL_IDS`."""
        state = self._state
        if self._issuer is None or self._local_is_empty():
            return  # RFC 9000 §19.15: a side that is addressed by an empty ID issues no others
        prior = state.local_retire_prior_to
        # IDs below Retire Prior To do not count: every frame we send from now on retires them
        # before it adds one (§5.1.2).
        active = len([local for local in state.local if local.sequence >= prior])
        for _ in range(active, min(state.local_limit, MAX_LOCAL_IDS)):
            cid, token = self._issuer.issue()
            state.local.append(LocalId(state.local_next_sequence, cid, token, True, False))
            state.local_next_sequence += 1
            self._new_due = True
            self._events.append(IdIssuedEvent(cid))

    def begin_cutover(self) -> None:
        """Issue fresh IDs and ask the peer to retire all earlier ones (after a handoff).

        Raises RefusedError `cutover_pending` while an earlier cutover is open: RFC 9000 §5.1.2
        wants no second raise of Retire Prior To before the first was obeyed. Does nothing where
        our ID is empty: such packets are routed by address.
        """
        if cutover_is_pending(self._state):
            raise RefusedError(
                "the peer has not yet retired the connection IDs of the last cutover; "
                "wait until it has, then begin the next",
                code=Reason.CUTOVER_PENDING,
            )
        state = self._state
        if self._local_is_empty():
            return
        # IDs that never left are of no use to the peer: their numbers are free to be used again.
        for local in [local for local in state.local if local.sequence >= state.local_sent]:
            state.local.remove(local)
            self._events.append(IdRetiredEvent(local.cid))
        state.local_next_sequence = state.local_sent
        state.local_retire_prior_to = state.local_sent
        self.replenish()

    def on_retire_connection_id(self, sequence: int, packet_dcid: bytes) -> None:
        """The peer will not use one of our IDs again; `packet_dcid` is the destination
        ID of the packet that says so.

        Raises TransportError for IDs never sent and for the ID of the packet itself (§19.16).
        """
        state = self._state
        if self._local_is_empty():
            raise TransportError(
                PROTOCOL_VIOLATION, "an empty connection ID was retired", RETIRE_CONNECTION_ID
            )
        if sequence >= state.local_sent:
            raise TransportError(
                PROTOCOL_VIOLATION,
                f"connection ID {sequence} was retired, never issued",
                RETIRE_CONNECTION_ID,
            )
        local = self._find_local(sequence)
        if local is None:
            return  # a repetition
        if local.cid == packet_dcid:
            raise TransportError(
                PROTOCOL_VIOLATION,
                f"connection ID {sequence} was retired by a packet that carries it",
                RETIRE_CONNECTION_ID,
            )
        state.local.remove(local)
        self._events.append(IdRetiredEvent(local.cid))
        if sequence >= state.local_retire_prior_to:  # the cutover has replaced lower ones
            self.replenish()

    # --- what the peer issues -----------------------------------------------------------------

    @property
    def peer_is_empty(self) -> bool:
        """True when the peer chose the empty ID, which serves every path and never changes."""
        peer = self._state.peer
        return bool(peer) and not peer[0].cid

    def on_new_connection_id(
        self, sequence: int, retire_prior_to: int, cid: bytes, token: bytes
    ) -> None:
        """The peer issued an ID and may have asked us to retire others (§19.15).

        Raises TransportError when the frame breaks a rule.
        """
        state = self._state
        self._check_new(sequence, retire_prior_to, cid, token)
        if retire_prior_to > state.peer_retire_prior_to:
            state.peer_retire_prior_to = retire_prior_to
            # §5.1.2: retire first, add afterwards: the limit counts what is left.
            for known in [known for known in state.peer if known.sequence < retire_prior_to]:
                self._retire(known)
        if not rangeset.contains(state.peer_seen, sequence):
            rangeset.add(state.peer_seen, sequence, sequence + 1)
            known = PeerId(sequence, cid, token, [])
            if sequence < state.peer_retire_prior_to:
                state.peer_retire_due.append(sequence)
            else:
                state.peer.append(known)
        self._check_peer_limits()

    def id_of_path(self, serial: int) -> PeerId | None:
        """The ID that packets on that path carry; None: it has none yet."""
        peer = self._state.peer
        for known in peer:
            if serial in known.paths:
                return known
        return peer[0] if self.peer_is_empty else None

    def take_spare_for_path(self, serial: int) -> PeerId | None:
        """Bind a fresh ID to that path and let go of the one that it had; None: there is no
        spare."""
        if self.peer_is_empty:
            return self._state.peer[0]
        spare = self._spare()
        if spare is not None:
            self.release_path(serial)
            spare.paths.append(serial)
        return spare

    def share(self, source: int, target: int) -> PeerId | None:
        """Let the path `target` use the ID of `source`, too."""
        known = self.id_of_path(source)
        if known is not None and known.cid:
            known.paths.append(target)
        return known

    def release_path(self, serial: int, *, keep: bool = False) -> None:
        """The path is gone. An ID that no other path uses is retired, since it must not serve a
        second address (§9.5) and the peer issues another for it. With `keep` it becomes a spare
        one: the last ID by which the peer can be told anything is never retired."""
        if self.peer_is_empty:
            return
        for known in [known for known in self._state.peer if serial in known.paths]:
            known.paths.remove(serial)
            if not known.paths and not keep:
                self._retire(known)

    def is_asked_back(self, sequence: int) -> bool:
        """Whether we have asked the peer not to use that ID of ours any more."""
        return sequence < self._state.local_retire_prior_to

    @property
    def has_spare(self) -> bool:
        """Whether a path can be given an ID that no other has."""
        return self.peer_is_empty or self._spare() is not None

    def has_own(self, serial: int) -> bool:
        """Whether the path holds an ID that no other path uses."""
        return any(known.paths == [serial] and known.cid for known in self._state.peer)

    def sequence_of(self, cid: bytes) -> int:
        """The number of an ID of ours; NONE: it is not one that the peer may still use."""
        for local in self._state.local:
            if local.cid == cid:
                return local.sequence
        return NONE

    def change_peer_id(self, serial: int) -> bool:
        """Switch the path to a fresh ID; False when the peer has supplied none."""
        return not self.peer_is_empty and self.take_spare_for_path(serial) is not None

    def reset_tokens(self) -> set[bytes]:
        """Stateless reset tokens of the IDs in use; retired and unused ones do not count
        (RFC 9000 §10.3.1)."""
        return {known.token for known in self._state.peer if known.token and known.paths}

    # --- frames -------------------------------------------------------------------------------

    def queue_unacknowledged(self) -> None:
        """Send our IDs again that are not acknowledged, whatever else a probe carries.

        A client that has not got those of a new owner may send its acknowledgements to one that is
        dead, and then no loss is ever found.
        """
        for local in self._state.local:
            if not local.acked:
                local.due = True
                self._new_due = True

    def has_due(self) -> bool:
        return self._new_due or bool(self._state.peer_retire_due)

    def write_due(self, plan: PacketPlan) -> None:
        """Add the frames that fit; what does not fit stays due."""
        state = self._state
        while state.peer_retire_due:
            sequence = state.peer_retire_due[0]
            data = encode_varint(RETIRE_CONNECTION_ID) + encode_varint(sequence)
            if not plan.add(data, (RETIRE_CONNECTION_ID, sequence, 0, 0, 0)):
                return
            state.peer_retire_due.pop(0)
            state.peer_retire_unacked.append(sequence)
        if not self._new_due:
            return
        for local in state.local:  # ascending: `local_sent` must leave no gap behind
            if not local.due:
                continue
            if not plan.add(self._encode_new(local), (NEW_CONNECTION_ID, local.sequence, 0, 0, 0)):
                return
            local.due = False
            state.local_sent = max(state.local_sent, local.sequence + 1)
        self._new_due = False

    def on_frame_acked(self, frame: SentFrame) -> None:
        state = self._state
        kind, sequence = frame[0], frame[1]
        if kind == NEW_CONNECTION_ID:
            local = self._find_local(sequence)
            if local is not None:
                local.acked = True
                local.due = False  # the copy that counted as lost arrived after all
        elif kind == RETIRE_CONNECTION_ID:
            for queue in (state.peer_retire_due, state.peer_retire_unacked):
                if sequence in queue:
                    queue.remove(sequence)

    def on_frame_lost(self, frame: SentFrame) -> None:
        state = self._state
        kind, sequence = frame[0], frame[1]
        if kind == NEW_CONNECTION_ID:
            local = self._find_local(sequence)
            if local is not None and not local.acked:
                local.due = True
                self._new_due = True
        elif kind == RETIRE_CONNECTION_ID and sequence in state.peer_retire_unacked:
            state.peer_retire_unacked.remove(sequence)
            state.peer_retire_due.append(sequence)

    # --- inside -------------------------------------------------------------------------------

    def _local_is_empty(self) -> bool:
        local = self._state.local
        return bool(local) and not local[0].cid

    def _find_local(self, sequence: int) -> LocalId | None:
        for local in self._state.local:
            if local.sequence == sequence:
                return local
        return None

    def _encode_new(self, local: LocalId) -> bytes:
        # An ID that is to be retired itself cannot ask for its own retirement (§19.15: Retire
        # Prior To <= Sequence Number); zero has no effect on a peer that has seen a higher one.
        prior = self._state.local_retire_prior_to
        return b"".join(
            (
                encode_varint(NEW_CONNECTION_ID),
                encode_varint(local.sequence),
                encode_varint(prior if prior <= local.sequence else 0),
                bytes((len(local.cid),)),
                local.cid,
                local.token,
            )
        )

    def _spare(self) -> PeerId | None:
        """Of the unused IDs the one with the lowest number: `peer` need not be in order."""
        spares = [known for known in self._state.peer if not known.paths]
        return min(spares, key=lambda known: known.sequence, default=None)

    def _retire(self, known: PeerId) -> None:
        self._state.peer.remove(known)
        self._state.peer_retire_due.append(known.sequence)

    def _check_new(self, sequence: int, retire_prior_to: int, cid: bytes, token: bytes) -> None:
        if self.peer_is_empty:
            raise TransportError(
                PROTOCOL_VIOLATION,
                "a connection ID came from a peer that chose the empty one",
                NEW_CONNECTION_ID,
            )
        if not 1 <= len(cid) <= _MAX_ID_BYTES:
            raise TransportError(
                FRAME_ENCODING_ERROR,
                f"a connection ID has 1 to {_MAX_ID_BYTES} bytes, not {len(cid)}",
                NEW_CONNECTION_ID,
            )
        if retire_prior_to > sequence:
            raise TransportError(
                FRAME_ENCODING_ERROR,
                f"connection ID {sequence} asks to retire prior to {retire_prior_to}",
                NEW_CONNECTION_ID,
            )
        for known in self._state.peer:
            same_number, same_cid = known.sequence == sequence, known.cid == cid
            # The ID of the handshake came without a token: nothing to compare.
            other_token = same_number and bool(known.token) and known.token != token
            if same_number != same_cid or other_token:
                raise TransportError(
                    PROTOCOL_VIOLATION,
                    f"connection ID {sequence} contradicts {known.sequence}",
                    NEW_CONNECTION_ID,
                )

    def _check_peer_limits(self) -> None:
        state = self._state
        limit = self._peer_limit
        if len(state.peer) > limit:
            raise TransportError(
                CONNECTION_ID_LIMIT_ERROR,
                f"{len(state.peer)} connection IDs are active, {limit} allowed",
                NEW_CONNECTION_ID,
            )
        # §5.1.2. A gap in the numbers seen is an ID that we shall have to retire when it comes,
        # so gaps count as well: a peer that skips numbers must not grow our memory.
        gaps = len(state.peer_seen) // 2 - 1
        pending = len(state.peer_retire_due) + len(state.peer_retire_unacked) + gaps
        allowed = max(MAX_PENDING_RETIREMENTS, 2 * limit)
        if pending > allowed:
            raise TransportError(
                CONNECTION_ID_LIMIT_ERROR,
                f"{pending} retirements are pending, {allowed} allowed",
                NEW_CONNECTION_ID,
            )


def cutover_is_pending(state: IdsState) -> bool:
    """Whether the peer has yet to retire an ID that we asked it to retire."""
    local = state.local  # ascending
    return bool(local) and local[0].sequence < state.local_retire_prior_to


def local_cids(state: IdsState) -> list[bytes]:
    """All connection IDs that packets to us may carry, the alias included."""
    cids = [local.cid for local in state.local]
    if state.alias:
        cids.append(state.alias)
    return cids
