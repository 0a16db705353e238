"""Admission: who gets a place in one router replica, over all protocols.

Places are bounded, and some are kept for higher classes. Beyond that each *lane* (the requests of one route, or of one
cascade or model where the path names it) sheds by the queue wait of its own calls: a chat model that cannot keep up
costs no classification its answer. `serve.resilience.shedding` decides, here is what it decides on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from types import TracebackType
from typing import Protocol

from serve.config.cluster import ClusterFile
from serve.config.overload import PRIORITIES, Overload, Priority, Tenant
from serve.context import RequestContext
from serve.errors import InvalidRequest, Overloaded
from serve.resilience.load import Load, LoadSignal
from serve.resilience.shedding import RANKS, Arrival, Cut, Rule, Shed, ShedReason, decide, enough, moved, places

PRIORITY_HEADER = "x-argus-priority"
# The tenant whose settings hold for those that have none.
DEFAULT_TENANT = "default"
# A lane exists once one of its calls has reported its wait, so that paths alone create none; even so they are bounded.
_MOST_LANES = 64
_OTHER_LANES = "other"
# Most requests that one which was admitted stands for.
_MOST_WEIGHT = 20.0
# Of the usual time of a lane's calls.
_SMOOTHING = 0.1
# Paths whose third segment says which model is asked, or for what.
_NAMED = frozenset({"cascades", "models", "videos"})


class AdmissionRecorder(Protocol):
    """Takes what became of requests at the edge."""

    def admitted(self, priority: Priority) -> None: ...

    def shed(self, priority: Priority, reason: ShedReason) -> None: ...


class Silent:
    """A recorder that forgets."""

    def admitted(self, priority: Priority) -> None:
        """See `AdmissionRecorder`."""

    def shed(self, priority: Priority, reason: ShedReason) -> None:
        """See `AdmissionRecorder`."""


@dataclass(frozen=True, slots=True)
class LaneState:
    """A lane as metrics show it.

    Attributes:
        queue_wait_s: mean over all classes.
        cut: see `shedding.Cut.level`.
    """

    queue_wait_s: float
    cut: float


class _Lane:
    """One route's arrivals and waits by class, and its cut."""

    __slots__ = ("_admitted", "_came", "_served", "_signals", "_usual_s", "cut")

    def __init__(self, now: float) -> None:
        self._signals = tuple(LoadSignal(now) for _ in PRIORITIES)
        self._served = LoadSignal(now)
        # Of all classes together: their own signals remember a burst each, and their sum would be too much.
        self._came, self._admitted = LoadSignal(now), LoadSignal(now)
        self._usual_s = 0.0
        self.cut = Cut(0.0, now)

    def arrived(self, rank: int, now: float) -> None:
        self._signals[rank].arrived(now)
        self._came.arrived(now)

    def served(self, now: float) -> None:
        self._served.arrived(now)

    def admitted(self, now: float) -> None:
        self._admitted.arrived(now)

    def weight(self, now: float) -> float:
        """Requests that came lately for each that was admitted."""
        admitted = self._admitted.arrivals_per_s(now)
        return min(_MOST_WEIGHT, max(1.0, self._came.arrivals_per_s(now) / admitted)) if admitted > 0 else 1.0

    def waited(self, rank: int, seconds: float, usual_s: float, now: float) -> None:
        self._signals[rank].waited(seconds, now)
        if usual_s:
            self._usual_s += (usual_s - self._usual_s) * (_SMOOTHING if self._usual_s else 1.0)

    def look(self, rule: Rule, now: float) -> list[float]:
        """Mean waits, of each class together with all higher ones; moves the cut."""
        rule = rule.for_calls_of(self._usual_s)
        waits, seconds, count = [], 0.0, 0
        for signal in self._signals:
            more_s, more = signal.waits(now)
            seconds, count = seconds + more_s, count + more
            waits.append(seconds / count if count else 0.0)
        most = 0.0
        if waits[-1] > rule.target_s:
            arrivals = list(accumulate(signal.arrivals_per_s(now) for signal in self._signals))
            most = enough(arrivals, self._served.arrivals_per_s(now), waits[-1])
        self.cut = moved(self.cut, waits, rule, now, most)
        return waits


@dataclass(frozen=True, slots=True)
class _Asker:
    lane: str
    rank: int


# Whose request the present task works on: limiters far below report waits without knowing routes.
_asker: ContextVar[_Asker | None] = ContextVar("argus_asker", default=None)


class Admission:
    """See the module's text.

    Args:
        limit: most requests in progress.
        report: called with their number when it changes.
        clock: monotonic seconds, the same that deadlines are on.
        spot: see `shedding.position`.
    """

    def __init__(
        self,
        limit: int,
        report: Callable[[int], None] = lambda count: None,
        *,
        overload: Overload | None = None,
        tenants: Mapping[str, Tenant] | None = None,
        recorder: AdmissionRecorder | None = None,
        clock: Callable[[], float] = time.monotonic,
        spot: Callable[[RequestContext], float] | None = None,
    ) -> None:
        self._report = report
        self._rule = Rule.of(overload or Overload())
        self._tenants = tenants or {}
        self._default = self._tenants.get(DEFAULT_TENANT, Tenant())
        self._places = _places_by_class(limit, self._rule, [self._default, *self._tenants.values()])
        self._recorder = recorder or Silent()
        self._clock = clock
        self._spot = spot or _hashed
        self._count = 0
        self._load = LoadSignal(clock())
        self._lanes: dict[str, _Lane] = {}

    def priority(self, client: str, asked: str | None = None) -> Priority:
        """The class of a client's request: its tenant's, or a lower one that it asks for.

        Raises:
            InvalidRequest: what it asks for is no class.
        """
        own = self._tenants.get(client, self._default).priority
        if asked is None:
            return own
        if asked not in RANKS:
            raise InvalidRequest(
                f"{PRIORITY_HEADER} is {asked[:40]!r}; it must be one of {', '.join(PRIORITIES)}.",
                param=PRIORITY_HEADER,
            )
        return PRIORITIES[max(RANKS[own], RANKS[asked])]

    def enter(self, context: RequestContext, lane: str) -> Place:
        """A place for the time of a `with` block; entering it raises `Overloaded` when there is none."""
        return Place(self, context, lane)

    def waited(self, seconds: float, usual_s: float = 0.0) -> None:
        """A call made for the present task's request waited so long for its model.

        Args:
            usual_s: seconds that such calls usually take; 0 when that is not known.
        """
        now = self._clock()
        self._load.waited(seconds, now)
        if (asker := _asker.get()) is not None:
            self._lane(asker.lane, now).waited(asker.rank, seconds, usual_s, now)

    def weight(self) -> float:
        """Requests of its kind that came lately for each that was admitted, for the present task's request.

        Who counts only what is admitted sees no more load the more is shed.
        """
        asker = _asker.get()
        lane = None if asker is None else self._lanes.get(asker.lane)
        return 1.0 if lane is None else lane.weight(self._clock())

    def load(self) -> Load:
        """Over all lanes, requests that were shed included."""
        return self._load.snapshot(self._clock())

    def lanes(self) -> dict[str, LaneState]:
        """Every lane that has called a model."""
        now = self._clock()
        return {name: LaneState(lane.look(self._rule, now)[-1], lane.cut.level) for name, lane in self._lanes.items()}

    def _take(self, context: RequestContext, lane: str) -> None:
        now = self._clock()
        self._load.arrived(now)
        priority = context.priority
        rank = RANKS[priority]
        waits, cut = _NO_WAITS, _NO_CUT
        if (found := self._lanes.get(lane)) is not None:
            found.arrived(rank, now)
            waits, cut = found.look(self._rule, now), found.cut
        arrival = Arrival(priority, self._spot(context), self._places[rank], context.deadline - now)
        shed = decide(arrival, cut, waits[rank], self._count, self._rule)
        if shed is not None:
            self._recorder.shed(priority, shed.reason)
            raise _refusal(shed, arrival, waits[rank])
        self._count += 1
        if found is not None:
            found.admitted(now)
        _asker.set(_Asker(lane, rank))
        self._recorder.admitted(priority)
        self._report(self._count)

    def _give_back(self, lane: str, *, served: bool) -> None:
        self._count -= 1
        if served and (found := self._lanes.get(lane)) is not None:
            found.served(self._clock())
        self._report(self._count)

    def _lane(self, name: str, now: float) -> _Lane:
        if name not in self._lanes and len(self._lanes) >= _MOST_LANES:
            name = _OTHER_LANES
        if name not in self._lanes:
            self._lanes[name] = _Lane(now)
        return self._lanes[name]


class Place:
    """See `Admission.enter`."""

    __slots__ = ("_admission", "_context", "_lane")

    def __init__(self, admission: Admission, context: RequestContext, lane: str) -> None:
        self._admission, self._context, self._lane = admission, context, lane

    def __enter__(self) -> None:
        """Takes the place.

        Raises:
            Overloaded: the request is shed.
        """
        self._admission._take(self._context, self._lane)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Gives it back."""
        self._admission._give_back(self._lane, served=error is None)
        # Whom a full queue turned away would have waited, and is not counted among those who did. The exact type: its
        # subclasses speak of rates and money.
        if type(error) is Overloaded and error.retry_after_s is not None:
            self._admission.waited(error.retry_after_s)


def build_admission(
    cluster: ClusterFile, report: Callable[[int], None], recorder: AdmissionRecorder | None = None
) -> Admission:
    """The admission of a cluster file's router; see `Admission`."""
    limit = cluster.router.max_ongoing_requests
    return Admission(limit, report, overload=cluster.overload, tenants=cluster.tenants, recorder=recorder)


@lru_cache(1024)
def lane_of(path: str) -> str:
    """The lane of an HTTP path: `/v1/chat`, `/v1/cascades/moderation`, `/v2/models/clip`."""
    parts = path.split("/", 4)
    return "/".join(parts[: 4 if len(parts) > 3 and parts[2] in _NAMED else 3])


def model_lane(model: str) -> str:
    """The lane of a gRPC call that names a model: that of its HTTP path."""
    return lane_of(f"/v2/models/{model}")


def _hashed(context: RequestContext) -> float:
    # Python seeds it anew in every process, so that nobody can choose an id that always gets in.
    return (hash((context.client, context.request_id)) & 0xFFFF) / 0x10000


_NO_WAITS = [0.0] * len(PRIORITIES)
_NO_CUT = Cut(0.0, 0.0)


def _places_by_class(limit: int, rule: Rule, tenants: Iterable[Tenant]) -> list[int]:
    used = {RANKS[tenant.priority] for tenant in tenants}
    return [
        places(priority, limit, rule.reserved, sum(other < rank for other in used)) for priority, rank in RANKS.items()
    ]


def _refusal(shed: Shed, arrival: Arrival, wait_s: float) -> Overloaded:
    if shed.reason == "places":
        why = f"This router has {arrival.places} requests in progress, the most for priority {arrival.priority!r}."
    elif shed.reason == "deadline":
        why = f"Calls wait {wait_s:.1f} s for their model at present, longer than this request's deadline."
    else:
        why = f"Models cannot keep up; some requests of priority {arrival.priority!r} are turned away."
    return Overloaded(why, retry_after_s=shed.retry_after_s)
