"""Cutting over: the rest of a handoff at its destination, while another process forwards to it.

Theory of operation
-------------------
                CutoverSeen             CutoverAck
    FORWARDED ──────────────► CUTTING ─────────────► DONE
        │        GivenOn                MovedAck      ▲
        └───────────────────► HANDED_ON ──────────────┤
                       link lost                      │
            PROXIED ◄───────────► CUT_OFF ────────────┘

* It begins where `taking_by_ledger` or `taking_by_store` ends: with the connection resumed. Nothing
  that happens here touches the connection, except one that is proxied.
* Until the client has cut over, the source forwards datagrams for the connection IDs that it issued
  (FORWARDED). A lost link is opened again for the strays' sake, and over the new one the source is
  told who we are (`greeting`).
* When the client uses none of the source's connection IDs any more, the source is told, and answers
  that it has forwarded everything (CUTTING).
* If the connection is handed on before that, the forwarder is told (MOVED) and asked to confirm
  that it forwards to the new owner. Its strays are passed on until then (HANDED_ON). At the new
  owner that confirmation (MOVED_ACK) makes a machine of its own: each of a connection's forwarders
  has one.
* A process that cannot send from the client's address has the source do it, if that has offered
  to. PROXIED then stands for FORWARDED, for as long as the connection lives: without a link it is
  silent (CUT_OFF), and closed if none comes up in time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Final

from quicbaton.handoff import effects as fx
from quicbaton.handoff import events as ev
from quicbaton.handoff import messages as msg
from quicbaton.handoff.machine import MachineState, Row, table
from quicbaton.handoff.sides import DestinationSide
from quicbaton.handoff.waits import DEFAULT_WAITS, Waits


class CuttingOverState(MachineState):
    """The progress of a cutover."""

    #: The process at the other end forwards to us.
    FORWARDED = "forwarded"
    #: It sends for us, too.
    PROXIED = "proxied"
    #: It sends for us, but there is no link to it.
    CUT_OFF = "cut_off"
    HANDED_ON = "handed_on"
    CUTTING = "cutting"
    DONE = "done"


_Step = tuple[CuttingOverState, list[fx.Effect]]


class CuttingOver(DestinationSide[CuttingOverState]):
    """One process that forwards one connection to us.

    `greeting`: the message that it gets over each link but the first, so that it forwards over
    that.
    """

    successor: None = None
    ENDED = (CuttingOverState.DONE,)
    WAITS: ClassVar[dict[CuttingOverState, Callable[[Waits], float] | None]] = {
        CuttingOverState.FORWARDED: lambda waits: waits.forward_s,
        CuttingOverState.PROXIED: None,
        CuttingOverState.CUT_OFF: lambda waits: waits.proxy_lost_s,
        CuttingOverState.HANDED_ON: lambda waits: waits.forward_s,
        CuttingOverState.CUTTING: lambda waits: waits.offer_s,
    }

    def __init__(
        self,
        connection_id: bytes,
        handoff_id: bytes,
        waits: Waits = DEFAULT_WAITS,
        *,
        state: CuttingOverState = CuttingOverState.FORWARDED,
        link: int | None,
        greeting: msg.ClaimRequest | msg.Taken | msg.Moved,
        now_us: int,
    ) -> None:
        super().__init__(connection_id, handoff_id, state, waits, link)
        self._greeting = greeting
        self._to = ""
        self._arm(now_us)

    @property
    def proxied(self) -> bool:
        """Whether the source sends for the connection, for as long as that lives."""
        return self.state in (CuttingOverState.PROXIED, CuttingOverState.CUT_OFF)

    # --- the forwarder ------------------------------------------------------------------------

    def _announced(self, event: ev.Received, now_us: int) -> _Step:
        """The forwarder uses this link from here on."""
        self._link = event.link
        return self.state, []

    def _deliver(self, event: ev.Received, now_us: int) -> _Step:
        assert isinstance(event.message, msg.Stray)
        if self.state in (CuttingOverState.FORWARDED, CuttingOverState.HANDED_ON):
            self._arm(now_us)
        return self.state, [fx.Deliver(event.message)]

    def _reconnect(self, event: ev.Event, now_us: int) -> _Step:
        return self.state, [fx.Connect(self.connection_id)]

    def _greet(self, event: ev.LinkUp, now_us: int) -> _Step:
        self._link = event.link
        return self.state, [fx.Send(event.link, self._greeting)]

    def _source_gone(self, event: ev.PeerDead, now_us: int) -> _Step:
        # With a link there may be strays left in it. Its end leads to a Connect that no process
        # answers, and the deadline ends that.
        if self._link is None:
            return CuttingOverState.DONE, []
        return self.state, []

    def _cut_over(self, event: ev.CutoverSeen, now_us: int) -> _Step:
        if self._link is None:
            return CuttingOverState.DONE, []
        cutover = msg.Cutover(self.connection_id, self._handoff_id)
        return CuttingOverState.CUTTING, [fx.Send(self._link, cutover)]

    # --- proxied ------------------------------------------------------------------------------

    def _cut_off(self, event: ev.LinkLost, now_us: int) -> _Step:
        return CuttingOverState.CUT_OFF, [fx.Connect(self.connection_id)]

    def _heard_again(self, event: ev.LinkUp, now_us: int) -> _Step:
        self._link = event.link
        return CuttingOverState.PROXIED, [fx.Send(event.link, self._greeting), fx.WakeProxied()]

    def _unheard(self, event: ev.Event, now_us: int) -> _Step:
        return CuttingOverState.DONE, [fx.CloseProxied()]

    # --- the connection -----------------------------------------------------------------------

    def _say_resumed(self, event: ev.Spoke, now_us: int) -> _Step:
        if self._link is None:
            return self.state, []
        resumed = msg.Resumed(self.connection_id, self._handoff_id, event.blackout_us)
        return self.state, [fx.Send(self._link, resumed)]

    def _hand_on(self, event: ev.GivenOn, now_us: int) -> _Step:
        self._to = event.to
        return CuttingOverState.HANDED_ON, [] if self._link is None else self._moved(self._link)

    def _say_moved(self, event: ev.LinkUp, now_us: int) -> _Step:
        self._link = event.link
        return self.state, self._moved(event.link)

    def _moved(self, link: int) -> list[fx.Effect]:
        return [fx.Send(link, msg.Moved(self.connection_id, self._handoff_id, self._to))]

    def _close(self, event: ev.ConnectionClosed, now_us: int) -> _Step:
        if self._link is None:
            return CuttingOverState.DONE, []
        closed = msg.Closed(self.connection_id, self._handoff_id)
        return CuttingOverState.DONE, [fx.Send(self._link, closed)]

    def _finish(self, event: ev.Event, now_us: int) -> _Step:
        return CuttingOverState.DONE, []

    def _stay(self, event: ev.Event, now_us: int) -> _Step:
        return self.state, []


_S = CuttingOverState
_M = CuttingOver

#: State, events or messages, the rule, the states that it may lead to. A missing cell is an error.
_ROWS: Final[tuple[Row[CuttingOverState], ...]] = (
    (_S.FORWARDED, (msg.Stray,), _M._deliver, (_S.FORWARDED,)),
    (_S.FORWARDED, (ev.Spoke,), _M._say_resumed, (_S.FORWARDED,)),
    (_S.FORWARDED, (ev.LinkLost,), _M._reconnect, (_S.FORWARDED,)),
    (_S.FORWARDED, (ev.LinkUp,), _M._greet, (_S.FORWARDED,)),
    (_S.FORWARDED, (msg.MovedAck,), _M._announced, (_S.FORWARDED,)),
    (_S.FORWARDED, (ev.GivenOn,), _M._hand_on, (_S.HANDED_ON,)),
    (_S.FORWARDED, (ev.CutoverSeen,), _M._cut_over, (_S.CUTTING, _S.DONE)),
    (_S.FORWARDED, (ev.ConnectionClosed,), _M._close, (_S.DONE,)),
    (_S.FORWARDED, (ev.PeerDead,), _M._source_gone, (_S.FORWARDED, _S.DONE)),
    (_S.FORWARDED, (msg.Refuse, ev.DeadlinePassed), _M._finish, (_S.DONE,)),
    # COMMITTED again answers the ClaimRequest of a greeting. It is too late to cancel.
    (_S.FORWARDED, (msg.Committed, ev.Cancel), _M._stay, (_S.FORWARDED,)),
    (_S.PROXIED, (msg.Stray,), _M._deliver, (_S.PROXIED,)),
    (_S.PROXIED, (ev.Spoke,), _M._say_resumed, (_S.PROXIED,)),
    (_S.PROXIED, (ev.LinkLost,), _M._cut_off, (_S.CUT_OFF,)),
    (_S.PROXIED, (ev.ConnectionClosed,), _M._close, (_S.DONE,)),
    (_S.PROXIED, (msg.Refuse,), _M._unheard, (_S.DONE,)),
    (_S.PROXIED, (ev.PeerDead, msg.Committed, ev.Cancel, ev.CutoverSeen), _M._stay, (_S.PROXIED,)),
    (_S.CUT_OFF, (msg.Stray,), _M._deliver, (_S.CUT_OFF,)),
    (_S.CUT_OFF, (ev.LinkUp,), _M._heard_again, (_S.PROXIED,)),
    (_S.CUT_OFF, (ev.Cancel,), _M._reconnect, (_S.CUT_OFF,)),
    (_S.CUT_OFF, (ev.ConnectionClosed,), _M._close, (_S.DONE,)),
    (_S.CUT_OFF, (ev.PeerDead, ev.DeadlinePassed, msg.Refuse), _M._unheard, (_S.DONE,)),
    (_S.CUT_OFF, (msg.Committed, ev.Spoke, ev.CutoverSeen), _M._stay, (_S.CUT_OFF,)),
    (_S.HANDED_ON, (msg.Stray,), _M._deliver, (_S.HANDED_ON,)),
    (_S.HANDED_ON, (ev.LinkLost,), _M._reconnect, (_S.HANDED_ON,)),
    (_S.HANDED_ON, (ev.LinkUp,), _M._say_moved, (_S.HANDED_ON,)),
    (_S.HANDED_ON, (ev.ConnectionClosed,), _M._close, (_S.DONE,)),
    (_S.HANDED_ON, (msg.MovedAck, msg.Refuse), _M._finish, (_S.DONE,)),
    (_S.HANDED_ON, (ev.PeerDead, ev.DeadlinePassed, ev.Cancel), _M._finish, (_S.DONE,)),
    (
        _S.HANDED_ON,
        (msg.Committed, ev.Spoke, ev.GivenOn, ev.CutoverSeen),
        _M._stay,
        (_S.HANDED_ON,),
    ),
    (_S.CUTTING, (msg.Stray,), _M._deliver, (_S.CUTTING,)),
    (_S.CUTTING, (ev.ConnectionClosed,), _M._close, (_S.DONE,)),
    (
        _S.CUTTING,
        (msg.CutoverAck, msg.Refuse, ev.LinkLost, ev.PeerDead, ev.DeadlinePassed),
        _M._finish,
        (_S.DONE,),
    ),
    (_S.CUTTING, (msg.Committed, ev.LinkUp, ev.Cancel), _M._stay, (_S.CUTTING,)),
    (_S.CUTTING, (msg.MovedAck, ev.GivenOn, ev.Spoke), _M._stay, (_S.CUTTING,)),
    (_S.DONE, (msg.Stray,), _M._deliver, (_S.DONE,)),
    (_S.DONE, (msg.Committed, msg.CutoverAck, msg.MovedAck, msg.Refuse), _M._stay, (_S.DONE,)),
    (_S.DONE, (ev.LinkLost, ev.LinkUp, ev.PeerDead, ev.Cancel), _M._stay, (_S.DONE,)),
    (_S.DONE, (ev.CutoverSeen, ev.ConnectionClosed, ev.GivenOn, ev.Spoke), _M._stay, (_S.DONE,)),
)
_M.TABLE = table(_ROWS)
