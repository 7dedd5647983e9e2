"""BBR version 3: a model of the path instead of a guess from losses (draft-ietf-ccwg-bbr).

The sender measures at which rate the path delivers, in how short a round trip, and paces by that.
It sends faster for a moment to see whether there is more, and slower to drain what that has queued:

         startup ─► drain ─► down ─► cruise ─► refill ─► up ─┐
            ▲                 ▲                              │
            │                 └──────────────────────────────┘
            └── probe_rtt ◄── from each phase, when no shorter round trip was seen for 5 s;
                              back to startup, or on to cruise once the pipe was full

| phase     | pace | window | what it is for                                                   |
|-----------|------|--------|------------------------------------------------------------------|
| startup   | 2.77 | 2      | doubles the rate each round, until that delivers no more         |
| drain     | 0.5  | 2      | drains the queue that startup has left                           |
| down      | 0.9  | 2      | drains the queue that up has left, and leaves others some room   |
| cruise    | 1.0  | 2      | sends as fast as the path delivers; losses slow it down          |
| refill    | 1.0  | 2      | fills the pipe again, and forgets the losses of cruise           |
| up        | 1.25 | 2.25   | looks for more, until that loses packets or delivers no more     |
| probe_rtt | 1.0  | 0.5    | empties the queue for 200 ms, to see the shortest round trip     |

The pace is times the rate of delivery, the window times that rate and the shortest round trip.

    sampling.py     what an ACK tells about rate, losses and round trip     section 4
    model.py        what is known of the path                               section 5.5
    phases.py       the table above                                         sections 5.3, 5.4
    controller.py   what follows from it: pace and window                   sections 5.2, 5.6
    state.py        all that moves with a connection

Names are ours where the draft's abbreviate; `state.py` has the draft's beside them.
"""
