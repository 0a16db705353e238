"""The memory of a simulation: one record of scalars, and arrays that compiled code finds by their addresses.

Compiled functions pass the whole world on with every call. As a tuple of forty arrays that is hundreds of values a
call, minutes of compilation, and a reference counted for each; here it is one pointer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from numba.core import cgutils, types
from numba.extending import intrinsic

from benchmarks.capacity.simulator import records
from benchmarks.capacity.simulator.parts import part

# Every array of a world, with what it holds. Two-dimensional ones lie flat, row by row.
ARRAYS: dict[str, Any] = {
    "tables": np.float64,  # (rows, draws.CELLS + 1) durations
    "passes": np.float64,  # (rows of tables,) cost of each measured batch size
    "paces": np.float64,  # (spans,) factors on all work of the cores, one after another
    "flows": records.FlowRecord,
    "gears": np.int32,  # (flows,) the present one
    "starts": np.int32,  # (flows, gears) first node
    "nodes": records.Node,
    "after": np.int32,  # (nodes, gears) first node of the step after
    "failed": np.int32,  # (nodes, REASONS) node that is asked after a failure
    "accept": np.float64,  # (nodes, gears) share of answers that end the request
    "most_tokens": np.int32,  # (nodes, gears) of an answer
    "targets": records.Target,  # stages, then providers
    "ready": np.int32,  # (targets, ready_width) replicas that take calls
    "replicas": records.Replica,
    "heads": np.int32,  # (replicas, lane_width) of the batchers' queues
    "tails": np.int32,
    "head_times": np.float64,  # when each lane's head came, as `batch_policy.oldest` wants it
    "running": np.int32,  # (replicas, run_width) items in an engine, in order of admission
    "rooms": records.Room,  # (routers, targets) limiters
    "servers": records.Server,  # event loops of routers, then of replicas, of the ingress and of the load generator
    "slots": records.Slot,
    "items": records.Item,
    "jobs": records.Job,
    "free_slots": np.int32,  # stacks of free places
    "free_items": np.int32,
    "free_jobs": np.int32,
    "heap": records.Event,
    "cpu_heap": records.Event,
    "wheel": np.int32,  # (buckets,) first slot that is due in it
    "arrivals": np.float64,  # (requests,) given
    "prompts": np.int32,
    "outputs": np.int32,
    "ended": np.float64,  # (requests,) found
    "ok": np.bool_,
    "path": np.int16,
    "usd": np.float64,
    "flow": np.int16,
    "waits": records.Wait,  # log for gears and shedding
}

StateRecord = np.dtype(
    [
        ("seed", "u8"),
        ("now", "f8"),
        # Of shared cores: their clock, when it was read, and the cores that all work in progress wants.
        ("virtual", "f8"),
        ("virtual_at", "f8"),
        ("weight", "f8"),
        # What work takes at present over what the profile says, and for how long each of `paces` holds.
        ("pace", "f8"),
        ("pace_s", "f8"),
        # Longest of the waits that are logged at present, and the one above which the loop stops.
        ("longest_wait", "f8"),
        ("alarm_s", "f8"),
        ("cores", "f8"),
        ("background", "f8"),
        ("imbalance", "f8"),
        ("ingress_s", "f8"),
        ("client_s", "f8"),
        # Paid to providers on the day that began last, and the most of it, in whole billionths of a dollar.
        ("usd_day", "i8"),
        ("nano_spent", "f8"),
        ("nano_most", "f8"),
        ("mode", "i8"),
        # Rows of tables.
        ("router_latency", "i8"),
        ("router_cpu", "i8"),
        ("pace_at", "i8"),
        ("pace_count", "i8"),
        ("routers", "i8"),
        # Places among the servers.
        ("ingress", "i8"),
        ("client", "i8"),
        ("target_count", "i8"),
        ("places", "i8"),
        ("shadow_most", "i8"),
        ("watched", "i8"),
        ("has_tokens", "i8"),
        # Sizes of arrays, and widths of their rows.
        ("request_count", "i8"),
        ("flow_count", "i8"),
        ("gear_count", "i8"),
        ("ready_width", "i8"),
        ("lane_width", "i8"),
        ("run_width", "i8"),
        ("heap_size", "i8"),
        ("wheel_size", "i8"),
        ("wait_size", "i8"),
        # Places of slots, items and so on that one event may take.
        ("room", "i8"),
        # What is in use of them.
        ("heap_count", "i8"),
        ("cpu_count", "i8"),
        ("free_slot_count", "i8"),
        ("free_item_count", "i8"),
        ("free_job_count", "i8"),
        ("wait_count", "i8"),
        ("next_arrival", "i8"),
        ("stamp", "i8"),
        ("bucket", "i8"),
        ("in_flight", "i8"),
        ("events", "i8"),
        ("at", "u8", (len(ARRAYS),)),
    ],
    align=True,
)


class World:
    """A cluster in the middle of a run.

    Attributes:
        state: one `StateRecord`.
    """

    def __init__(self, arrays: dict[str, npt.NDArray[Any]]) -> None:
        self.state: npt.NDArray[np.void] = np.zeros(1, StateRecord)
        self._arrays: dict[str, npt.NDArray[Any]] = {}
        self.put(arrays)

    def put(self, arrays: dict[str, npt.NDArray[Any]]) -> None:
        """Puts arrays in the place of those that were there."""
        for name, array in arrays.items():
            # An empty array has no address.
            kept = np.ascontiguousarray(array, ARRAYS[name]).ravel()
            self._arrays[name] = kept if kept.size else np.zeros(1, ARRAYS[name])
            self.state[0]["at"][list(ARRAYS).index(name)] = self._arrays[name].ctypes.data

    def __getitem__(self, name: str) -> Any:
        """An array by its name, or a scalar of the state."""
        return self._arrays[name] if name in self._arrays else self.state[0][name]

    def __setitem__(self, name: str, value: Any) -> None:
        self.state[0][name] = value


@intrinsic  # type: ignore[untyped-decorator]
def _pointer(context: Any, address: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(address), code


def _view(name: str) -> Callable[[Any], Any]:
    """A compiled function from a state to one of its arrays, whose bounds nobody checks."""
    place, kind = list(ARRAYS).index(name), np.dtype(ARRAYS[name])

    @part
    def view(w: Any) -> Any:
        return numba.carray(_pointer(w.at[place]), 1 << 40, kind)

    return view  # type: ignore[no-any-return]


tables = _view("tables")
passes = _view("passes")
paces = _view("paces")
flows = _view("flows")
gears = _view("gears")
starts = _view("starts")
nodes = _view("nodes")
after = _view("after")
failed = _view("failed")
accept = _view("accept")
most_tokens = _view("most_tokens")
targets = _view("targets")
ready = _view("ready")
replicas = _view("replicas")
heads = _view("heads")
tails = _view("tails")
head_times = _view("head_times")
running = _view("running")
rooms = _view("rooms")
servers = _view("servers")
slots = _view("slots")
items = _view("items")
jobs = _view("jobs")
free_slots = _view("free_slots")
free_items = _view("free_items")
free_jobs = _view("free_jobs")
heap = _view("heap")
cpu_heap = _view("cpu_heap")
wheel = _view("wheel")
arrivals = _view("arrivals")
prompts = _view("prompts")
outputs = _view("outputs")
ended = _view("ended")
ok = _view("ok")
path = _view("path")
usd = _view("usd")
flow = _view("flow")
waits = _view("waits")
