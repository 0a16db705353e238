"""What a simulated cluster consists of: the records of its arrays, and the names of their values."""

from __future__ import annotations

import numpy as np

# Whether cores are never short, or shared.
FREE, SHARED = 0, 1
# Why a call failed: rows of a node's `failed`.
REFUSED, TIMED_OUT, BROKEN, OVER_BUDGET = 0, 1, 2, 3
REASONS = 4
# Of a replica.
ABSENT, READY, DRAINING = 0, 1, 2
IDLE, LINGERING, RUNNING = 0, 1, 2
NONE = np.int64(-1)

# What happens at an event; `who` is a slot, an item or a replica, as said.
(
    CALL,  # a slot's call begins, after a failure or a step before
    REACH,  # a slot's call reaches its model
    SUBMIT,  # a replica's event loop has read a slot's call
    PREPARED,  # a replica's worker is done with an item
    GATHERED,  # a replica has waited for company long enough
    PASSED,  # a replica's forward pass, or its engine's step, has ended
    BACK,  # a slot's answer is back at the router
    ANSWERED,  # a provider's answer, or failure, to a slot
    DUE,  # a slot's call has run out of time
    SERVED,  # a single-threaded server (router, event loop) has done a job
    SPENT,  # processor work that nobody waits for has ended
    PACED,  # a provider's rate lets a slot's call pass
    WRITTEN,  # the router has written a slot's answer
    SENT,  # a replica's event loop has sent a slot's answer
    TURNED_AWAY,  # a slot's call waited too long for a place
    REPACED,  # the cores go on at another pace
    TOLD,  # one process has handed a stream's message on; `stamp` says who is next, `who` is the router of the stream
) = np.arange(17)

# Where a slot's call is; from ON_THE_WAY to UNPLACED it holds a place.
AT_ROUTER, IN_ROOM, ON_THE_WAY, AT_REPLICA, COMING_BACK, AT_PROVIDER, UNPLACED, LEAVING = range(8)

FlowRecord = np.dtype(
    [
        ("until", "f8"),  # cumulative share
        ("deadline", "f8"),
        ("prompt", "i4"),
        ("output", "i4"),
        ("best_answer", "i4"),
        ("streamed", "i4"),
        ("shadow", "f8"),
        ("shadow_deadline", "f8"),
        ("cut", "f8"),  # level of shedding, see serve/resilience/shedding.py
        ("queue_wait", "f8"),
        ("served", "i8"),
    ],
    align=True,
)

Node = np.dtype(
    [
        ("target", "i4"),
        ("step", "i4"),  # the same for a step's fallbacks
        ("items", "i4"),
        ("images", "i4"),
        ("lane", "i4"),
        ("cost", "f8"),
        ("share", "f8"),
        ("in_hand", "f8"),
        ("path", "i4"),
        ("fallback", "i4"),
        ("shadow", "i4"),
        ("asked", "i8"),  # requests that came to it, without shadow checks
        ("plain", "i8"),  # those of them in the normal gear
    ],
    align=True,
)

Target = np.dtype(
    [
        ("hosted", "i4"),
        ("first", "i4"),  # its replicas: first, first + 1, ...
        ("most", "i4"),
        ("ready", "i4"),
        ("affinity", "i4"),
        ("max_items", "i4"),
        ("max_queue", "i4"),
        ("max_pending", "i4"),
        ("useful", "i4"),  # places of a call's window, and of all (deployments/windows.py)
        ("places", "i4"),
        ("max_cost", "f8"),
        ("max_wait", "f8"),
        ("workers", "i4"),
        ("lanes", "i4"),
        ("preprocess", "i4"),  # rows of tables
        ("overhead", "i4"),
        ("pass_row", "i4"),
        ("pass_rows", "i4"),
        ("cpu_s", "f8"),
        ("wake_s", "f8"),
        ("router_cpu_s", "f8"),
        ("cores", "f8"),
        ("slowdown", "f8"),
        ("engine", "i4"),
        ("encode_s", "f8"),
        ("step_s", "f8"),
        ("sequence_s", "f8"),
        ("token_s", "f8"),
        ("max_sequences", "i4"),
        ("kv_tokens", "i8"),
        ("step_tokens", "i4"),
        ("image_tokens", "i4"),
        ("residual", "i4"),
        ("limit_each", "i4"),
        ("least", "i4"),
        ("most_places", "i4"),
        ("max_waiting", "i4"),
        ("latency", "i4"),
        ("failure_share", "f8"),
        ("interval_s", "f8"),  # between two calls of its rates; 0 for none
        ("calls_a_minute", "f8"),  # 0 for no limit, as of tokens
        ("full_at", "f8"),
        ("tokens_a_minute", "f8"),
        ("tokens", "f8"),  # of a call
        ("tokens_full_at", "f8"),
        ("usd", "f8"),
        ("attempts", "i4"),
        ("first_pause", "f8"),
        ("max_pause", "f8"),
        ("hedge", "i4"),
        ("late_s", "f8"),
        ("ongoing", "i8"),
        ("ongoing_s", "f8"),  # integral of `ongoing`
        ("ongoing_at", "f8"),
        ("calls", "i8"),
        # For the autoscaler (serve/autoscaling/evidence.py).
        ("came", "i8"),
        ("done", "i8"),
        ("busy", "f8"),
        ("waited", "f8"),
    ],
    align=True,
)

Replica = np.dtype(
    [
        ("target", "i4"),
        ("state", "i4"),
        ("since", "f8"),
        ("alive_s", "f8"),
        ("ongoing", "i4"),
        ("loop_free", "f8"),
        ("working", "i4"),
        ("pending", "i4"),
        ("taken", "i4"),  # places of windows
        ("prep_head", "i4"),
        ("prep_tail", "i4"),
        ("waiting", "i4"),
        ("doing", "i4"),
        ("turn", "i8"),  # number of the present wait for company
        ("weight", "f8"),
        ("costs", "f8"),
        ("squares", "f8"),
        ("seconds", "f8"),
        ("products", "f8"),
        ("last_items", "i4"),
        ("last_cost", "f8"),
        ("last_pass", "f8"),
        ("standing", "f8"),
        ("batch", "i4"),
        ("batch_items", "i4"),
        ("batch_cost", "f8"),
        ("began", "f8"),
        ("passes", "i8"),
        ("ran", "i8"),
        ("busy_s", "f8"),
        ("wait_s", "f8"),
        ("refused", "i8"),
        ("sequences", "i4"),
        ("kv", "i8"),
    ],
    align=True,
)

Item = np.dtype(
    [
        ("slot", "i4"),
        ("next", "i4"),
        ("stamp", "i8"),
        ("enqueued", "f8"),
        ("cost", "f8"),
        ("deadline", "f8"),
        ("prompt", "i4"),  # tokens to prefill
        ("output", "i4"),  # tokens to decode
        ("held", "i4"),  # tokens in the KV cache
        ("images", "i4"),  # to encode
        ("chunk", "i4"),  # of the prompt, in the present step
        ("begun", "i4"),
        ("lane", "i4"),
    ],
    align=True,
)

Slot = np.dtype(
    [
        ("number", "i8"),  # of the request; -1 for a shadow's check
        ("key", "i8"),
        ("stamp", "i8"),  # of the present call; 0 for a free slot
        ("flow", "i4"),
        ("node", "i4"),
        ("gear", "i4"),
        ("router", "i4"),
        ("replica", "i4"),
        ("best", "i4"),
        ("left", "i4"),  # items that have not ended, of a call with several
        ("begun", "i4"),
        ("in_work", "i4"),
        ("held", "i4"),  # places of the window
        ("phase", "i4"),
        ("failed", "i4"),
        ("attempt", "i4"),
        ("prompt", "i4"),
        ("output", "i4"),
        ("usd", "f8"),
        ("arrived", "f8"),
        ("deadline", "f8"),
        ("own", "f8"),
        ("called", "f8"),
        ("placed", "f8"),
        ("next", "i4"),
        ("before", "i4"),
        ("wheel", "i4"),  # bucket in which it is; NONE for none
    ],
    align=True,
)

Room = np.dtype(
    [
        ("busy", "i4"),
        ("waiting", "i4"),
        ("head", "i4"),
        ("tail", "i4"),
        ("usual", "f8"),
        ("windows", "i4"),
        ("seconds", "f8"),
        ("calls", "i4"),
        ("limit", "i4"),
    ],
    align=True,
)

Server = np.dtype(
    [
        ("free", "f8"),
        ("wake_s", "f8"),  # what it costs to begin after a pause
        ("woken", "i8"),
        ("in_flight", "i4"),
        ("busy", "i4"),
        ("head", "i4"),
        ("tail", "i4"),
        ("shadows", "i4"),
    ],
    align=True,
)

Event = np.dtype([("time", "f8"), ("cores", "f8"), ("stamp", "i8"), ("what", "i4"), ("who", "i4")], align=True)
# A job of a single-threaded server on shared cores.
Job = np.dtype([("work", "f8"), ("what", "i4"), ("who", "i4"), ("stamp", "i8"), ("next", "i4")], align=True)

Wait = np.dtype([("time", "f8"), ("seconds", "f8"), ("usual", "f8"), ("flow", "i4")], align=True)
