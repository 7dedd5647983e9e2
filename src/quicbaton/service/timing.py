"""Waits and pauses between the processes of a service, in seconds.

The waits of a handoff are in `quicbaton.limits` (`HANDOFF_*`), as are those that bound what
strangers and other hosts may take. All of these here are between processes that trust each other.
Most are only ever waited out when one of the processes has died or hangs.
"""

from __future__ import annotations

from typing import Final

# --- asking another process -------------------------------------------------------------------

#: For a process to accept a channel that was opened before ours, and between looks whether it has.
CONNECT_S: Final = 2.0
CONNECT_PAUSE_S: Final = 0.02
#: Between attempts to reach a process of this host, which doubles for one of another.
FIRST_REDIAL_S: Final = 0.1
#: For an answer. Longer than any one handoff takes, which gives up on its own after a few seconds.
ANSWER_S: Final = 60.0
#: For a worker to list its connections to its supervisor.
LIST_S: Final = 5.0
#: For a process to pass a descriptor, and for one that takes the port over to be known to another.
PASS_S: Final = 5.0
INTRODUCE_S: Final = 5.0
#: For the workers to write their figures anew; one that does not counts as it last was.
GATHER_S: Final = 2.0
#: Between writes of a worker's figures into memory that outlives it. Reading and
#: writing them takes 40 µs.
TALLY_S: Final = 0.25
#: For systemd to take a notification. It may be busy, and a service must not hang on that.
SYSTEMD_S: Final = 1.0
#: Before a listener accepts again that ran out of descriptors, which are freed as others end.
ACCEPT_PAUSE_S: Final = 0.5
#: Before a store's file is opened again that another process is just making.
STORE_OPEN_PAUSE_S: Final = 0.01

# --- a supervisor and its workers -------------------------------------------------------------

#: Between looks at each worker, and for its answer to how it is.
LOOK_S: Final = 1.0
LOOK_ANSWER_S: Final = 2.0
#: For a worker that cannot begin to have its answer sent before it ends.
LAST_ANSWER_S: Final = 0.2
#: Beyond the grace that a worker was given, for it to close its connections and end.
END_S: Final = 5.0
#: For a worker to take the sockets of others.
SHARE_S: Final = 5.0
#: For workers that there are to be no more to end, before there can be more again.
LEAVE_S: Final = 10.0
#: For the program that becomes the supervisor to answer, and between looks whether it does.
NEW_SUPERVISOR_S: Final = 30.0
SUPERVISOR_LOOK_S: Final = 0.05

#: For a program that makes way for another to begin what signals have asked of it: some turns of
#: its event loop.
SIGNALS_S: Final = 0.05

# --- a worker has died ------------------------------------------------------------------------

#: For the dead worker's links to come to their end in each of the others.
LINKS_END_S: Final = 2.0
#: For one worker to answer a survey, the end of its links included, and until it is asked again.
SURVEY_S: Final = 4.0
SURVEY_AGAIN_S: Final = 1.0
#: For a verdict about the dead worker. Without one, its clients are not reset for as long.
VERDICT_S: Final = 10.0

# --- many connections move --------------------------------------------------------------------

#: Between reports of how far a drain, a reload or a takeover is.
PROGRESS_S: Final = 0.1
#: Before a connection that could not move is tried again.
RETRY_S: Final = 0.1
#: Beyond a deadline, connections still get their first turn unless none has moved for so long, and
#: between looks whether one has.
STALLED_S: Final = 5.0
STALLED_LOOK_S: Final = 0.5
#: The round trip between the two GOAWAYs of a stop is measured, and taken for no less and no more.
LEAST_ROUND_TRIP_S: Final = 0.05
MOST_ROUND_TRIP_S: Final = 1.0
#: For clients to retire the IDs of connections that a stop has handed over. A node that is drained
#: forwards to the end.
CUTOVER_S: Final = 5.0
#: For clients to confirm their new IDs, or to go on with their handshakes, when all connections of
#: a process that is replaced have moved: some round trips of a bad path. Then it lingers for them.
ABSENT_S: Final = 1.0
#: For a successor to open its control socket, and to have taken over all that it will.
SUCCESSOR_LINK_S: Final = 5.0
TAKEOVER_S: Final = 3600.0

# --- placement --------------------------------------------------------------------------------

#: Between a process's words about how busy it is, and how old such a word may be to count.
LOAD_INTERVAL_S: Final = 0.5
LOAD_FRESH_S: Final = 4 * LOAD_INTERVAL_S
#: Between attempts to link to another node.
NODE_REDIAL_S: Final = 1.0
