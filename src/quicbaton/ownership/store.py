"""The shared ownership store: what it promises, its operations, and how each is decided.

Theory of operation
-------------------
Between two processes of one host the handoff source is the store (`ledger`). Where a process may
die and no other process can prove it, a third party keeps the record: a store that every process of
the cluster can reach. With it the destination commits. So the connection survives a source that
dies after it sent the baton, and a COMMITTED that is lost.

A store keeps one entry per connection that was ever handed over with it. It is used lazily: a
connection that stays where it began has none, and no packet is sent or received by way of it.

    absent, older ── Publish ──► OFFERED(n, source, baton)      before the baton leaves the source
    OFFERED(n)    ── Take ─────► HELD(n + 1, destination)       the commit; the baton is used up
    OFFERED(n)    ── Take ─────► HELD(n + 1, source)            the source takes it back: same step
    HELD(n)       ── Publish ──► OFFERED(n, holder, next baton)
    OFFERED, HELD ── Close ────► CLOSED(n)                      a tombstone, until it is swept

`decide` below is these rules, exactly. An adapter owes its users:

1. **One step at a time.** Reading the entry, `decide`, and writing its result are one atomic step
   per connection: serializable, for all processes that use the store. A database does it in one
   transaction, a log or key-value service by compare-and-set on the entry's revision, tried again
   when the revision has changed.
2. **Done is durable** for as long as any process that it could mislead may live. A store inside one
   host may forget with that host; one between hosts survives its own restart.
3. **Four outcomes.** `Done`: it is so, with the entry that now stands. `Conflict`: it is not so and
   never will be by this operation, with the entry found. `Failed`: nothing was changed, and nothing
   will be by this call; asking again may work. `Unknown`: everything else: a timeout, a broken
   connection, an error while committing. An operation with an unknown outcome may still take effect
   **at any later time**, or never. Saying Unknown is always allowed, saying Failed needs certainty.
4. **Asking twice is asking once.** Each operation names its caller, by `Holder`, and finds its own
   earlier effect: Done again. So an unknown outcome is resolved by reading, and by asking again
   when the entry still stands as before. Until then the caller is silent.
5. **Old is not known.** An adapter may forget entries that were not touched for long (`sweep`), and
   bounds what it holds. A missing entry grants nothing: Take finds a Conflict. Forgetting too early
   therefore costs connections and never forks one.
6. **No call waits for ever.** Every call returns within a few seconds, with Unknown if need be.
7. **No clock decides.** Ages are for sweeping alone. The clocks of the store and of its users may
   differ by hours.

Why there are never two that may send
-------------------------------------
A process sends in term n only if its ledger says OWNED(n). With a store it comes to own n + 1 in
one way only, by a Take of OFFERED(n), and one Take of it succeeds: it leaves the entry in a state
from which no other Take fits, and no operation leads back to a lower term or the same offer. From
the moment at which its baton has left, a source sends nothing until a Take of its own is Done.

Before that moment the source may thaw without asking, even if its Publish has an unknown outcome
and takes effect an hour later. The entry then offers a baton that no process was ever given, in a
term that the connection has left behind. The next owner to publish has a higher term and replaces
it. For the same reason connections may change hands by ledgers alone in between. Terms only rise
along the one chain of owners. So a Publish in a higher term comes from a later owner, whatever the
entry says, and one in a lower term comes from a process that has been fenced off.

A destination that gives up with its Take unresolved never resumes, whatever becomes of the Take.
Then the source finds HELD(n + 1, destination), and stays silent as well: the connection is closed,
which is better than forked. A destination that learns later that its Take was Done closes the
entry.

Tokens
------
`spend` is the other thing on which a cluster must agree: that a token (early data, NEW_TOKEN) is
good once. For one token at most one call ever returns True, in all processes, whatever their clocks
say and however long ago the other call was. `until` is the Unix time at which the token expires, by
its issuer's clock. A token that was swept counts as spent: the store remembers the latest time up
to which it has swept, and refuses every token that expires before it. In doubt the answer is False,
which costs a client one round trip.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, Protocol

import msgspec

from quicbaton.errors import ConfigurationError
from quicbaton.limits import MAX_BATON_NAME_BYTES
from quicbaton.reasons import Reason

#: A process's draw of random bytes at its start, a baton's id, and a store's own id.
INCARNATION_BYTES: Final = 16
STORE_ID_BYTES: Final = 16


class Holder(msgspec.Struct, frozen=True):
    """One process. Two processes of the same name, at once or in succession, are two holders."""

    name: str
    #: 16 random bytes, drawn when the process starts.
    incarnation: bytes

    def __post_init__(self) -> None:
        if len(self.incarnation) != INCARNATION_BYTES:
            raise ConfigurationError(
                f"an incarnation has {INCARNATION_BYTES} bytes, not {len(self.incarnation)}",
                code=Reason.HOLDER,
            )
        if not 1 <= len(self.name.encode()) <= MAX_BATON_NAME_BYTES:
            raise ConfigurationError(
                f"a holder's name has 1 to {MAX_BATON_NAME_BYTES} bytes: {self.name!r}",
                code=Reason.HOLDER,
            )


class EntryState(Enum):
    """The state of a connection in the store."""

    OFFERED = "offered"
    HELD = "held"
    CLOSED = "closed"


class Entry(msgspec.Struct, frozen=True):
    """One connection's entry. `baton_id` and `digest`: of the baton that is offered, or by which
    this term was taken."""

    state: EntryState
    term: int
    holder: Holder
    baton_id: bytes
    digest: bytes


# --- operations -------------------------------------------------------------------------------


class Publish(msgspec.Struct, frozen=True):
    """Offer the connection, frozen in `term`, to any process that can open this baton."""

    connection_id: bytes
    term: int
    source: Holder
    baton_id: bytes
    digest: bytes


class Take(msgspec.Struct, frozen=True):
    """Take the connection that the process `source` offered in `term`; it is held in the next
    term."""

    connection_id: bytes
    term: int
    source: str
    baton_id: bytes
    digest: bytes
    taker: Holder


class Close(msgspec.Struct, frozen=True):
    """The connection, which `holder` holds in `term`, is over. Done when there is no entry."""

    connection_id: bytes
    term: int
    holder: Holder


Operation = Publish | Take | Close


# --- outcomes ---------------------------------------------------------------------------------


class Done(msgspec.Struct, frozen=True):
    """The operation has its effect. `entry` is None when there is none (`Close`)."""

    entry: Entry | None


class Conflict(msgspec.Struct, frozen=True):
    """The operation does not fit and never will: `entry` stands instead."""

    entry: Entry | None


class Found(msgspec.Struct, frozen=True):
    """The entry that `read` found."""

    entry: Entry | None


class Failed(msgspec.Struct, frozen=True):
    """The operation changed nothing, and this call will change nothing."""

    code: Reason
    message: str


class Unknown(msgspec.Struct, frozen=True):
    """The operation may have its effect, may yet get it, or never will."""

    code: Reason
    message: str


Result = Done | Conflict | Failed | Unknown
Reading = Found | Failed | Unknown


class Store(Protocol):
    """A shared ownership store, by the promises at the head of this module.

    No method raises for faults of the store's surroundings (disks, other processes): they are a
    `Failed` or an `Unknown`.
    """

    @property
    def store_id(self) -> bytes:
        """16 bytes: the same for all users of this store, and different for every other store."""

    async def perform(self, operation: Operation) -> Result:
        """Read the entry, `decide`, write, in one atomic step."""

    async def read(self, connection_id: bytes) -> Reading:
        """The entry as it stands after every operation that was Done before this call."""

    async def spend(self, token: bytes, until: float) -> bool:
        """Whether this call, and no other ever, may use the token, which expires at `until`."""

    async def sweep(self, now: float) -> int:
        """Forget old entries and tokens at Unix time `now`. Returns how many."""

    async def forget_owner(self, name: str, living: bytes = b"") -> int:
        """Close all entries held by processes called `name`, except the incarnation `living`.

        The processes must be known to be dead: their connections died with them. Entries that they
        offered stay, since a destination may yet take them. Returns how many were closed.
        """

    def close(self) -> None:
        """Close the store. Operations under way end first, in the background."""


def decide(entry: Entry | None, operation: Operation) -> tuple[Done | Conflict, bool]:
    """The outcome of an operation on an entry as it stands, and whether `Done` is to be written.

    Done without writing means that it was done before.
    """
    match operation:
        case Publish():
            return _publish(entry, operation)
        case Take():
            return _take(entry, operation)
        case Close():
            return _close(entry, operation)


def closed(entry: Entry) -> Entry:
    """The tombstone that replaces an entry."""
    return msgspec.structs.replace(entry, state=EntryState.CLOSED)


def _publish(entry: Entry | None, publish: Publish) -> tuple[Done | Conflict, bool]:
    offered = Entry(
        EntryState.OFFERED, publish.term, publish.source, publish.baton_id, publish.digest
    )
    if entry == offered:
        return Done(entry), False
    if entry is None or entry.term < publish.term:
        return Done(offered), True
    ours = entry.state is EntryState.HELD and entry.holder == publish.source
    if ours and entry.term == publish.term:
        return Done(offered), True
    return Conflict(entry), False


def _take(entry: Entry | None, take: Take) -> tuple[Done | Conflict, bool]:
    held = Entry(EntryState.HELD, take.term + 1, take.taker, take.baton_id, take.digest)
    if entry is None:
        return Conflict(None), False
    if entry == held:
        return Done(entry), False
    offer = (entry.state, entry.term, entry.holder.name, entry.baton_id, entry.digest)
    if offer == (EntryState.OFFERED, take.term, take.source, take.baton_id, take.digest):
        return Done(held), True
    return Conflict(entry), False


def _close(entry: Entry | None, close: Close) -> tuple[Done | Conflict, bool]:
    if entry is None:
        return Done(None), False
    if entry.term != close.term or entry.holder != close.holder:
        return Conflict(entry), False
    if entry.state is EntryState.CLOSED:
        return Done(entry), False
    return Done(closed(entry)), True
