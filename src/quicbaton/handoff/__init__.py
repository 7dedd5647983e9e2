"""Moving a connection between processes: sans-IO machines that exchange messages.

    source                                         destination
    giving_by_ledger | giving_by_store             taking_by_ledger | taking_by_store
            │ the commit                                   │ the resume
            ▼                                              ▼
    forwarding                                     cutting_over

The machines decide; a runtime performs. They know no sockets, clocks or keys, nor a baton's
content: to them it is bytes, an id and a digest.

How a runtime drives them
-------------------------
Per process it keeps one `Ledger`, and of each handoff the present machine:

    outgoing:  connection id -> Giving or Forwarding
    incoming:  handoff id    -> Taking or CuttingOver

A machine that ends with the commit or the resume names its `successor`. That takes its place before
the effects of this last event are performed, and gets all later events.

The runtime calls `own` for every promoted connection, `close` for every owned one that ends, and
`expire` now and then. It begins to give a connection away only where there is no machine or the
last has `ended`, since the machine of a frozen or saved connection is the only one that may commit
it.

Links. A link is a stream between two processes with a number that is never used twice. Both sides
send `Hello` first and check the other's with `shared_formats`. Bytes read go into a reader of
`CODEC`; each message goes

    to incoming[message.handoff_id], if there is one;
    an Offer to a new Taking;
    a MovedAck to a new CuttingOver if the connection is here, about to be, or was here and strays
    are still forwarded; else it is answered with Refuse;
    a Stray of a connection that this process owns to that connection;
    else to outgoing[message.connection_id], if there is one;
    else to `answer_stale`, whose effects are performed.

At a link's end, and only after all its messages have been handled, `LinkLost(link)` goes to all
machines; those that do not use the link ignore it. A `PeerError` from a reader or a machine closes
the link, which then is lost. One machine's refusal never closes anything else.

Effects are performed in the order given, each before the next, and without another event in between
for the same machine; an effect's result comes back as a later event. An effect that fails does not
stop the rest: a failed `Send` is a lost link, a failed `WriteBaton` a `Cancel`, a failed
`DestroyKeys` ends the process, and a connection whose `ThawConnection` or `Resume` fails is closed
and its client told. Deadlines: call `handle_timer(now_us)` at `get_timer()`, both in microseconds
of one monotonic clock, and look at `get_timer()` again after every call. A process that was stopped
reads its links before it lets deadlines pass, since COMMITTED may lie there. But a source that is
late itself thaws before it looks at READY, since its destination gives up at about the same time.

    effect            | performed as
    FreezeConnection  | route the connection's datagrams into StrayArrived; send nothing more
    SealBaton         | snapshot, digest, fresh baton id, seal with this term -> Sealed, SealFailed
    ThawConnection    | restore the snapshot in the new term; its strays, then its timers
    DestroyKeys       | drop the snapshot and the connection object
    Rebuild           | open, compare the term's header, restore silently -> Rebuilt, RebuildFailed
    Connect           | dial the source named by the offer or the baton's header -> LinkUp
    Reroute           | dial the connection's new owner -> LinkUp
    Resume            | claim.check(...) against the opened baton's header, the strays, then speak
    Discard           | drop the rebuilt connection

With DestroyKeys every CuttingOver of the connection gets GivenOn, and with Resume its Forwarding,
if there is one, gets TakenBack.

With a shared store (`quicbaton.ownership.store`) connections are given by `GivingByStore`, and
taken by `TakingByStore` if the Offer names a store. Two more effects, from `store_questions`, are
begun in the background, and answered by an event whenever the store answers:

    effect            | performed as
    AskStore          | a pause; `Store.perform` -> StoreDone, StoreConflict, StoreFailed or
                      | StoreUnknown
    ReadStore         | a pause; `Store.read` -> StoreFound, StoreFailed or StoreUnknown

An operation that has begun is not called back; one whose machine gave up in its pause is not begun.
From the first AskStore of a destination on, its process answers no datagram of the connection with
a reset: it keeps them, as strays.

`resume FILE` opens and rebuilds the baton first, makes a `TakingByLedger` with a fresh handoff id
and gives it `Rebuilt`; the rest is as above. If the source cannot be reached: `Cancel`.
"""

from quicbaton.handoff.answers import answer_stale
from quicbaton.handoff.cutting_over import CuttingOver, CuttingOverState
from quicbaton.handoff.events import Outcome
from quicbaton.handoff.forwarding import Forwarding, ForwardingState
from quicbaton.handoff.giving import Giving, GivingState
from quicbaton.handoff.giving_by_ledger import GivingByLedger
from quicbaton.handoff.giving_by_store import GivingByStore
from quicbaton.handoff.messages import CODEC, Hello, decode, encode, shared_formats
from quicbaton.handoff.taking import Taking, TakingState
from quicbaton.handoff.taking_by_ledger import TakingByLedger
from quicbaton.handoff.taking_by_store import TakingByStore
from quicbaton.handoff.waits import Waits

__all__ = [
    "CODEC",
    "CuttingOver",
    "CuttingOverState",
    "Forwarding",
    "ForwardingState",
    "Giving",
    "GivingByLedger",
    "GivingByStore",
    "GivingState",
    "Hello",
    "Outcome",
    "Taking",
    "TakingByLedger",
    "TakingByStore",
    "TakingState",
    "Waits",
    "answer_stale",
    "decode",
    "encode",
    "shared_formats",
]
