"""Does `argus load` measure what another client measures? It and GuideLLM ask the same questions at the same rate.

    python -m benchmarks.loadtest.crosscheck --peer ~/peer/bin/guidellm

The peer (https://github.com/vllm-project/guidellm, checked with 0.8.1) lives in an environment of its own: `python -m
venv ~/peer && ~/peer/bin/pip install guidellm`. Both send the chat workload's messages as streams, one every 1/rate
seconds, in turns on one cluster, so that a slow minute of the machine hits both. Medians over the rounds are compared.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from benchmarks.loadtest.run import run_load
from benchmarks.loadtest.settings import Settings
from benchmarks.servers import ROOT, cache_dir
from benchmarks.targets import load_targets
from benchmarks.traffic.arrivals import Constant
from benchmarks.workloads.chat import MAX_TOKENS, asked, messages
from benchmarks.workloads.chosen import pictures
from benchmarks.workloads.mix import chosen, mix_of
from benchmarks.workloads.serving import serving
from serve.errors import ArgusError, Unavailable

WORKLOAD, MODEL = "llava_chat", "llava"
MOST_RATE_ERROR, MOST_P50_ERROR = 0.02, 0.05
# Connections are made and engines warmed in the first part of a round.
_WARM_UP_S = 3.0
# Beyond the schedule, for the peer's imports and its report.
_SPARE_S = 240.0
_FLOATS = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Measured:
    """One client's round, or the medians of several.

    Attributes:
        done_per_s: answers a second, from the first to the last.
        p50_ms: median latency by kind of question.
        faults: why the client was no fit measure; empty when it was.
    """

    done_per_s: float
    p50_ms: dict[str, float]
    failed: int
    faults: tuple[str, ...] = ()


def measured(began_s: _FLOATS, ended_s: _FLOATS, kinds: Sequence[str], failed: int) -> Measured:
    """A round without its first seconds.

    Args:
        began_s, ended_s: of the right answers, in seconds on any clock.
        kinds: of the same.

    Raises:
        Unavailable: there are too few for a rate.
    """
    if not len(began_s):
        raise Unavailable(f"nothing was answered, {failed} failed")
    late = began_s >= began_s.min() + _WARM_UP_S
    ends, latency, names = np.sort(ended_s[late]), (ended_s - began_s)[late], np.asarray(kinds)[late]
    if len(ends) < 2 or ends[-1] <= ends[0]:
        raise Unavailable(f"too few answers after the first {_WARM_UP_S:g} s: {len(ends)}, {failed} failed")
    p50 = {kind: 1e3 * float(np.median(latency[names == kind])) for kind in sorted(set(names.tolist()))}
    return Measured((len(ends) - 1) / float(ends[-1] - ends[0]), p50, failed)


def median(rounds: Sequence[Measured]) -> Measured:
    """Of each figure; kinds of question that one of the rounds lacks are left out."""
    kinds = [kind for kind in rounds[0].p50_ms if all(kind in one.p50_ms for one in rounds)]
    return Measured(
        statistics.median(one.done_per_s for one in rounds),
        {kind: statistics.median(one.p50_ms[kind] for one in rounds) for kind in kinds},
        sum(one.failed for one in rounds),
        tuple(fault for one in rounds for fault in one.faults),
    )


def compare(ours: Measured, peer: Measured) -> list[tuple[str, float, float, float, float]]:
    """Rows: name, ours, the peer's, ours over the peer's less 1, and how far from 0 that may be.

    Raises:
        Unavailable: one of the two has answers of a kind of question that the other has none of.
    """
    if odd := sorted(ours.p50_ms.keys() ^ peer.p50_ms.keys()):
        raise Unavailable(f"too few answers: only one of the two has some to {', '.join(odd)} in each round")
    pairs = [("answers/s", ours.done_per_s, peer.done_per_s, MOST_RATE_ERROR)]
    pairs += [(f"P50 ms, {kind}", ours.p50_ms[kind], peer.p50_ms[kind], MOST_P50_ERROR) for kind in ours.p50_ms]
    return [(name, one, other, one / other - 1, most) for name, one, other, most in pairs]


def kind_of(number: int) -> str:
    """What request `number` asks, over whatever protocol: the peer speaks HTTP alone."""
    return chosen(mix_of(WORKLOAD), WORKLOAD, number).removesuffix("_grpc")


def run_ours(http: str, grpc: str, rate: float, seconds: float) -> Measured:
    """A round of `argus load`.

    Raises:
        Unavailable: there is no record.
    """
    settings = Settings(
        workload=WORKLOAD,
        host=http,
        grpc=grpc,
        arrivals=Constant(rate_per_s=rate),
        seconds=seconds,
        warm_up_s=0,
    )
    record = run_load(settings, ROOT / "benchmarks" / "workloads" / f"{WORKLOAD}.py")
    columns = record.columns()
    ok = columns.ok
    kinds = [kind_of(number) for number in columns.number[ok].tolist()]
    found = measured(columns.due_s[ok], columns.ended_s[ok], kinds, int((~ok).sum()))
    return replace(found, faults=record.generator.faults)


def run_peer(peer: Path, http: str, rate: float, seconds: float) -> Measured:
    """A round of GuideLLM.

    Raises:
        Unavailable: it did not run, or its report is not what was expected.
    """
    with tempfile.TemporaryDirectory(prefix="argus-peer-") as name:
        folder = Path(name)
        count = round(rate * seconds)
        _write_questions(folder / "questions.jsonl", count)
        (folder / "run.json").write_text(json.dumps(_peer_run(folder, http, rate, count)), encoding="utf-8")
        log = cache_dir() / "crosscheck-peer.log"
        with log.open("wb") as output:
            ended = subprocess.run(
                [peer, "run", "--config", folder / "run.json", "--disable-console-interactive"],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=seconds + _SPARE_S,
                check=False,
            )
        report = folder / "report.json"
        if ended.returncode or not report.is_file():
            raise Unavailable(f"{peer} ended with {ended.returncode} and no report; see {log}")
        return read_report(json.loads(report.read_bytes()))


def _write_questions(path: Path, count: int) -> None:
    """One line a request: the workload's messages, with pictures of their own."""
    shown = pictures("easy")
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            picture, image = shown.take(number)
            said = messages(image, asked(kind_of(number), picture)[0])
            file.write(json.dumps({"messages": said}) + "\n")


def _peer_run(folder: Path, http: str, rate: float, count: int) -> dict[str, Any]:
    """GuideLLM's configuration of a run (its `BenchmarkArgs`)."""
    return {
        "spec": {
            "backend": {
                "kind": "openai_http",
                "target": http,
                "model": MODEL,
                "max_tokens": MAX_TOKENS,
                "http2": False,
                "validate_backend": False,
                "extras": {"body": {"temperature": 0}},
            },
            "profile": {"kind": "constant", "rate": [rate]},
            "constraints": [{"kind": "max_requests", "count": count}],
            "data": [{"kind": "json_file", "path": str(folder / "questions.jsonl")}],
            "outputs": [{"kind": "json", "path": str(folder / "report.json")}],
        }
    }


def read_report(report: Any) -> Measured:
    """Out of GuideLLM's JSON.

    Raises:
        Unavailable: it is something else, or has too few answers.
    """
    try:
        requests = report["benchmarks"][0]["requests"]
        good = requests["successful"] or []
        began = np.array([one["request_start_time"] for one in good], float)
        ended = np.array([one["request_end_time"] for one in good], float)
        kinds = ["describe" if "JSON" in json.dumps(one["request_args"]) else "ask" for one in good]
        failed = len(requests["errored"] or [])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise Unavailable(f"GuideLLM's report is not what 0.8.1 writes: {type(error).__name__}: {error}") from None
    return measured(began, ended, kinds, failed)


@contextmanager
def _target(host: str | None, grpc: str) -> Iterator[tuple[str, str]]:
    if host is not None:
        yield host, grpc
        return
    with serving("crosscheck", load_targets().workload(WORKLOAD).place("cpu-demo")) as addresses:
        yield addresses


def main() -> None:
    """Command line; exit 1 where the two differ by more than they may."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, required=True, help="GuideLLM's command")
    parser.add_argument("--rate", type=float, default=4.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of a round")
    parser.add_argument("--rounds", type=int, default=3, help="of each of the two")
    parser.add_argument("--host", help="URL of a server; by default the workload's own is started")
    parser.add_argument("--grpc", default="", help="host:port of its gRPC")
    arguments = parser.parse_args()
    console = Console()
    ours: list[Measured] = []
    peers: list[Measured] = []
    try:
        with _target(arguments.host, arguments.grpc) as (http, grpc):
            for number in range(arguments.rounds):
                ours.append(run_ours(http, grpc, arguments.rate, arguments.seconds))
                console.print(f"round {number + 1}, argus load: {ours[-1]}", highlight=False)
                peers.append(run_peer(arguments.peer, http, arguments.rate, arguments.seconds))
                console.print(f"round {number + 1}, guidellm: {peers[-1]}", highlight=False)
        agree = _show(console, ours, peers)
    except ArgusError as error:
        raise SystemExit(f"error {error.message}") from None
    raise SystemExit(0 if agree else 1)


def _show(console: Console, ours: Sequence[Measured], peers: Sequence[Measured]) -> bool:
    table = Table("figure", "argus load", "guidellm", "difference", "at most", title=f"{WORKLOAD}, {len(ours)} rounds")
    one, other = median(ours), median(peers)
    agree = not (one.failed or other.failed or one.faults)
    for name, mine, its, difference, most in compare(one, other):
        table.add_row(name, f"{mine:.2f}", f"{its:.2f}", f"{difference:+.1%}", f"{most:.0%}")
        agree = agree and abs(difference) <= most
    table.add_row("failed", str(one.failed), str(other.failed), "", "0")
    console.print(table)
    for fault in one.faults:
        console.print(f"not a measurement: {fault}", highlight=False)
    return agree


if __name__ == "__main__":
    main()
