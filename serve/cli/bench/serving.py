"""Benchmarks of what serves requests: batcher, ingress, router, search."""

from __future__ import annotations

from typing import Annotated

import typer

from serve.cli.bench.command import Check, JsonFile, Quick, app, finish, one_of
from serve.cli.console import errors, output


@app.command()
def batching(
    quick: Quick = False,
    wait_ms: Annotated[float, typer.Option(min=0, help="Longest wait for company, for both batchers.")] = 10.0,
    seed: Annotated[int, typer.Option(help="Seed of the arrivals and of the order.")] = 1,
    json: JsonFile = None,
    check: Check = False,
) -> None:
    """Our batcher beside Ray's @serve.batch, over forward times and loads (about 6 minutes)."""
    from benchmarks import batching as benchmark

    finish(benchmark.run(quick=quick, wait_ms=wait_ms, seed=seed), json, check)


@app.command()
def overhead(
    quick: Quick = False,
    rounds: Annotated[int, typer.Option(min=1, help="Times each system is loaded.")] = 5,
    seconds: Annotated[float, typer.Option(min=1, help="Seconds of load each time.")] = 8.0,
    connections: Annotated[int, typer.Option(min=1, help="Connections of the load generator.")] = 32,
    tracing: Annotated[
        bool, typer.Option("--tracing", help="Also with tracing of no, of 1 % and of all requests (3 minutes more).")
    ] = False,
    json: JsonFile = None,
    check: Check = False,
) -> None:
    """Our router with every feature beside a bare Ray Serve application, on a no-op model (about 4 minutes)."""
    from benchmarks import overhead as benchmark

    rounds, seconds = (1, 2.0) if quick else (rounds, seconds)
    finish(benchmark.run(rounds=rounds, seconds=seconds, connections=connections, tracing=tracing), json, check)


@app.command()
def serving(
    only: Annotated[
        list[str] | None, typer.Option(help="Measure this system alone; may be given several times.")
    ] = None,
    model: Annotated[
        str, typer.Option(help="vit-b32 (random weights), demo (demo/checkpoints/clip), or both.")
    ] = "both",
    concurrency: Annotated[int, typer.Option(min=1, help="Requests in progress.")] = 32,
    duration: Annotated[float, typer.Option(min=1, help="Seconds measured, for each system.")] = 30.0,
    decode: Annotated[str, typer.Option(help="How JPEG is decoded, in every system: exact or scaled.")] = "exact",
    quick: Quick = False,
    json: JsonFile = None,
    check: Check = False,
) -> None:
    """Argus beside plain Ray Serve, LitServe and Triton on one CLIP (about 8 minutes a model)."""
    from benchmarks import serving as benchmark
    from benchmarks.systems import SYSTEMS

    one_of("--model", model, (*benchmark.MODELS, "both"))
    one_of("--decode", decode, ("exact", "scaled"))
    for name in only or ():
        one_of("--only", name, tuple(SYSTEMS))
    report = benchmark.run(
        models=benchmark.MODELS if model == "both" else (model,),
        only=only or tuple(SYSTEMS),
        connections=concurrency,
        seconds=3.0 if quick else duration,
        decode=decode,
        progress=errors,
    )
    finish(report, json, check)


@app.command()
def poison(
    requests: Annotated[int, typer.Option(min=10, help="Requests in all.")] = 10_000,
    bad_share: Annotated[float, typer.Option(min=0, max=1, help="Share of them that is poisoned.")] = 0.01,
    connections: Annotated[int, typer.Option(min=1, help="Requests in progress.")] = 16,
    seed: Annotated[int, typer.Option(help="Seed of the mixture.")] = 1,
    quick: Quick = False,
    json: JsonFile = None,
    check: Check = False,
) -> None:
    """Bad images among good ones: answers, codes, hangs and memory (about 2 minutes)."""
    from benchmarks import poison as benchmark

    count = 500 if quick else requests
    finish(benchmark.run(requests=count, bad_share=bad_share, connections=connections, seed=seed), json, check)


@app.command()
def index(
    items: Annotated[int, typer.Option(min=200, help="Vectors added.")] = 20_000,
    searches: Annotated[int, typer.Option(min=1, help="Searches.")] = 2_000,
    seed: Annotated[int, typer.Option(help="Seed of the vectors.")] = 1,
    quick: Quick = False,
    json: JsonFile = None,
    check: Check = False,
) -> None:
    """Image search through the API, and a killed index that loses nothing (about 2 minutes)."""
    from benchmarks import index as benchmark

    items, searches = (1000, 100) if quick else (items, searches)
    finish(benchmark.run(items=items, searches=searches, seed=seed), json, check)


@app.command()
def router(
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each measurement.")] = 5,
    calls: Annotated[int, typer.Option(min=100, help="Requests a round, for each part.")] = 5_000,
    seconds: Annotated[float, typer.Option(min=1, help="Seconds of load a round, for each route.")] = 8.0,
    connections: Annotated[int, typer.Option(min=1, help="Connections of the load generator.")] = 32,
    quick: Quick = False,
    json: JsonFile = None,
    check: Check = False,
) -> None:
    """What the router's decisions cost, part by part, and a cascade over HTTP (about 3 minutes)."""
    from benchmarks import router as benchmark

    if quick:
        rounds, calls, seconds = 2, 500, 2.0
    finish(benchmark.run(rounds=rounds, calls=calls, seconds=seconds, connections=connections), json, check)


@app.command()
def cache(
    pairs: Annotated[int, typer.Option(min=100, help="Requests whose keys must differ.")] = 100_000,
    hits: Annotated[int, typer.Option(min=100, help="Hits that are timed, of each kind.")] = 5_000,
    seed: Annotated[int, typer.Option(help="Seed of the requests.")] = 1,
    quick: Quick = False,
    json: JsonFile = None,
    check: Check = False,
) -> None:
    """Keys that never collide, one call for many identical requests, and what a hit costs (about 1 minute)."""
    from benchmarks import cache as benchmark

    pairs, hits = (2_000, 500) if quick else (pairs, hits)
    finish(benchmark.run(pairs=pairs, hits=hits, seed=seed), json, check)


@app.command()
def overload(
    seconds: Annotated[float, typer.Option(min=5, help="Seconds of overload, for each setup.")] = 60.0,
    seed: Annotated[int, typer.Option(help="Seed of the arrivals.")] = 1,
    quick: Quick = False,
    json: JsonFile = None,
    check: Check = False,
) -> None:
    """Three times the capacity from three classes of clients, gears off and on (about 5 minutes)."""
    from benchmarks import overload as benchmark

    finish(benchmark.run(seconds=15.0 if quick else seconds, seed=seed, progress=errors), json, check)


@app.command()
def faults(
    requests: Annotated[int, typer.Option(min=10, help="Requests for each way of failing.")] = 60,
    latency_ms: Annotated[float, typer.Option(min=1, help="Milliseconds that the servers take to answer.")] = 30.0,
    peer: Annotated[bool, typer.Option(help="LiteLLM's router in the same drill.")] = True,
    quick: Quick = False,
    json: JsonFile = None,
    check: Check = False,
) -> None:
    """A provider that fails in every way, with a fallback: what callers feel (about 5 minutes)."""
    from benchmarks import faults as benchmark

    count = 10 if quick else requests
    finish(benchmark.run(requests=count, latency_ms=latency_ms, peer=peer, progress=errors), json, check)


@app.command()
def chaos(
    only: Annotated[list[str] | None, typer.Option(help="A fault's name; may be given several times.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the arrivals.")] = 1,
    names: Annotated[bool, typer.Option("--names", help="Print the faults' names and end.")] = False,
    json: JsonFile = None,
    check: Check = False,
) -> None:
    """Replicas, engines, nodes, proxies, stores and what they depend on break under load (about 20 minutes)."""
    from benchmarks.chaos import run as benchmark

    if names:
        output.print("\n".join(benchmark.NAMES), highlight=False)
        return
    finish(benchmark.run(only=only or (), seed=seed, progress=errors), json, check)
