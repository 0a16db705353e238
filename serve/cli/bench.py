"""`argus bench`: measurements of Argus beside its alternatives, each in one run on one machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serve.cli.console import errors, output
from serve.errors import ConfigError

if TYPE_CHECKING:
    from benchmarks.report import Report

app = typer.Typer(help="Measure Argus beside its alternatives.", no_args_is_help=True)

JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the record of this run to a file.")]
Check = Annotated[bool, typer.Option("--check", help="Exit with status 1 when the goal is missed.")]
Quick = Annotated[bool, typer.Option("--quick", help="A short run that shows whether it works; figures mean little.")]


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

    _finish(benchmark.run(quick=quick, wait_ms=wait_ms, seed=seed), json, check)


@app.command()
def overhead(
    quick: Quick = False,
    rounds: Annotated[int, typer.Option(min=1, help="Times each system is loaded.")] = 5,
    seconds: Annotated[float, typer.Option(min=1, help="Seconds of load each time.")] = 8.0,
    connections: Annotated[int, typer.Option(min=1, help="Connections of the load generator.")] = 32,
    json: JsonFile = None,
    check: Check = False,
) -> None:
    """Our router with every feature beside a bare Ray Serve application, on a no-op model (about 4 minutes)."""
    from benchmarks import overhead as benchmark

    rounds, seconds = (1, 2.0) if quick else (rounds, seconds)
    _finish(benchmark.run(rounds=rounds, seconds=seconds, connections=connections), json, check)


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

    _one_of("--model", model, (*benchmark.MODELS, "both"))
    _one_of("--decode", decode, ("exact", "scaled"))
    for name in only or ():
        _one_of("--only", name, tuple(SYSTEMS))
    report = benchmark.run(
        models=benchmark.MODELS if model == "both" else (model,),
        only=only or tuple(SYSTEMS),
        connections=concurrency,
        seconds=3.0 if quick else duration,
        decode=decode,
        progress=errors,
    )
    _finish(report, json, check)


def _one_of(option: str, given: str, known: tuple[str, ...]) -> None:
    if given not in known:
        raise ConfigError(f"{option}: got {given!r}; it must be one of {', '.join(known)}")


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
    _finish(benchmark.run(requests=count, bad_share=bad_share, connections=connections, seed=seed), json, check)


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
    _finish(benchmark.run(items=items, searches=searches, seed=seed), json, check)


@app.command()
def chat(
    model: Annotated[
        str, typer.Option(help="demo (demo/checkpoints/llava), random (100 M parameters), or both.")
    ] = "both",
    rounds: Annotated[int, typer.Option(min=1, help="Times each server is loaded.")] = 3,
    requests: Annotated[int, typer.Option(min=1, help="Requests in a round, for each in progress.")] = 6,
    max_tokens: Annotated[int, typer.Option(min=2, help="Most tokens of an answer.")] = 48,
    quick: Quick = False,
    json: JsonFile = None,
    check: Check = False,
) -> None:
    """Argus beside `vllm serve` on one LLaVA, streaming (about 10 minutes)."""
    from benchmarks import chat as benchmark

    _one_of("--model", model, (*benchmark.MODELS, "both"))
    report = benchmark.run(
        models=benchmark.MODELS if model == "both" else (model,),
        concurrencies=(1, 8) if quick else benchmark.CONCURRENCIES,
        rounds=1 if quick else rounds,
        requests=2 if quick else requests,
        max_tokens=max_tokens,
        progress=errors,
    )
    _finish(report, json, check)


@app.command()
def parity(
    model: Annotated[str, typer.Option(help="llava, blip2, video_llava, or all.")] = "all",
    prompts: Annotated[int, typer.Option(min=1, help="Prompts of each model.")] = 200,
    quick: Quick = False,
    json: JsonFile = None,
    check: Check = False,
) -> None:
    """The same prompts through both engines, greedily: do they choose the same tokens? (about 6 minutes)."""
    from benchmarks import parity as benchmark

    _one_of("--model", model, (*benchmark.KINDS, "all"))
    kinds = benchmark.KINDS if model == "all" else (model,)
    _finish(benchmark.run(kinds=kinds, prompts=20 if quick else prompts, progress=errors), json, check)


@app.command()
def accuracy(
    model: Annotated[str, typer.Option(help="llava, blip2, video_llava, or all.")] = "all",
    scenes: Annotated[int, typer.Option(min=10, help="Held-out scenes of each difficulty.")] = 200,
    quick: Quick = False,
    json: JsonFile = None,
    check: Check = False,
) -> None:
    """What the generative demo checkpoints know, asked through the API (about 10 minutes)."""
    from benchmarks import accuracy as benchmark

    _one_of("--model", model, (*benchmark.KINDS, "all"))
    kinds = benchmark.KINDS if model == "all" else (model,)
    _finish(benchmark.run(kinds=kinds, scenes=20 if quick else scenes, progress=errors), json, check)


@app.command()
def perception(
    scenes: Annotated[int, typer.Option(min=1, help="Held-out scenes of each difficulty.")] = 40,
    clips: Annotated[int, typer.Option(min=1, help="Held-out clips of each difficulty.")] = 90,
    videos: Annotated[int, typer.Option(min=1, help="Generated videos of two minutes.")] = 4,
    quick: Quick = False,
    json: JsonFile = None,
    check: Check = False,
) -> None:
    """What the demo Florence-2 and the demo video classifiers know, asked through the API (about 6 minutes)."""
    from benchmarks import perception as benchmark

    scenes, clips, videos = (4, 9, 2) if quick else (scenes, clips, videos)
    _finish(benchmark.run(scenes=scenes, clips=clips, videos=videos, progress=errors), json, check)


@app.command()
def calibration(
    seeds: Annotated[int, typer.Option(min=1, help="Resampled data sets of each population.")] = 500,
    peer_seeds: Annotated[int, typer.Option(min=0, help="Of those, how many bargain gets too; it is slow.")] = 100,
    records: Annotated[int, typer.Option(min=50, help="Records of a data set.")] = 2000,
    target: Annotated[float, typer.Option(min=0, max=1, help="Wanted agreement of accepted answers.")] = 0.95,
    confidence: Annotated[float, typer.Option(min=0, max=1, help="Confidence of the certificate.")] = 0.95,
    scenes: Annotated[int, typer.Option(min=100, help="Scenes that the demo CLIP is asked about, once.")] = 10_000,
    quick: Quick = False,
    json: JsonFile = None,
    check: Check = False,
) -> None:
    """How often a certified threshold breaks its promise, and labels used, beside bargain (about 40 minutes)."""
    from benchmarks import calibration as benchmark

    if quick:
        seeds, peer_seeds, scenes = 50, 2, 1000
    report = benchmark.run(
        seeds=seeds,
        peer_seeds=min(seeds, peer_seeds),
        records=records,
        target=target,
        confidence=confidence,
        scenes=scenes,
        progress=errors,
    )
    _finish(report, json, check)


@app.command()
def cascade(
    scenes: Annotated[int, typer.Option(min=20, help="Held-out scenes of the split test.")] = 2000,
    calibrate_on: Annotated[int, typer.Option(min=100, help="Scenes of the split val to calibrate on.")] = 4000,
    target: Annotated[float, typer.Option(min=0, max=1, help="Wanted agreement of what CLIP answers.")] = 0.99,
    confidence: Annotated[float, typer.Option(min=0, max=1, help="Confidence of the certificate.")] = 0.95,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests in progress.")] = 4,
    name: Annotated[str, typer.Option(help="Cascade of the demo profile, over colours or shapes.")] = "moderation",
    quick: Quick = False,
    json: JsonFile = None,
    check: Check = False,
) -> None:
    """Moderation by CLIP alone, by LLaVA alone, and by the calibrated cascade, served (about 20 minutes)."""
    from benchmarks import cascade as benchmark

    report = benchmark.run(
        name=name,
        scenes=200 if quick else scenes,
        calibrate_on=1000 if quick else calibrate_on,
        target=target,
        confidence=confidence,
        concurrency=concurrency,
        progress=errors,
    )
    _finish(report, json, check)


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

    _finish(benchmark.run(seconds=15.0 if quick else seconds, seed=seed, progress=errors), json, check)


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
    _finish(benchmark.run(rounds=rounds, calls=calls, seconds=seconds, connections=connections), json, check)


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
    _finish(benchmark.run(requests=count, latency_ms=latency_ms, peer=peer, progress=errors), json, check)


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
    _finish(benchmark.run(pairs=pairs, hits=hits, seed=seed), json, check)


@app.command()
def videos(
    minutes: Annotated[float, typer.Option(min=0.1, help="Length of the generated video.")] = 10.0,
    rounds: Annotated[int, typer.Option(min=1, help="Times that each request is sent, each way.")] = 2,
    quick: Quick = False,
    json: JsonFile = None,
    check: Check = False,
) -> None:
    """Summary, key frames, questions and actions of videos: chunks side by side and in turn (about 15 minutes)."""
    from benchmarks import videos as benchmark

    minutes, rounds = (1.0, 1) if quick else (minutes, rounds)
    _finish(benchmark.run(minutes=minutes, rounds=rounds, progress=errors), json, check)


@app.command()
def video_decode(
    rounds: Annotated[int, typer.Option(min=1, help="Times that each is measured.")] = 7,
    minutes: Annotated[float, typer.Option(min=0.1, help="Length of the generated video.")] = 10.0,
    quick: Quick = False,
    json: JsonFile = None,
    check: Check = False,
) -> None:
    """PyAV as the video reader uses it beside torchcodec, one thread each (about 3 minutes)."""
    from benchmarks import video_decode as benchmark

    rounds, minutes = (1, 1.0) if quick else (rounds, minutes)
    _finish(benchmark.run(rounds=rounds, minutes=minutes), json, check)


@app.command()
def vision(
    checkpoint: Annotated[str, typer.Option(help="Folder or hub id; the demo's when left out.")] = "",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    batch: Annotated[int, typer.Option(min=1, help="Most requests in a batch, and the loop's batch.")] = 8,
    callers: Annotated[int, typer.Option(min=1, help="Requests in progress.")] = 16,
    requests: Annotated[int, typer.Option(min=8, help="Requests in a round.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each mode.")] = 5,
    max_tokens: Annotated[int, typer.Option(min=8, help="Most tokens of an answer.")] = 256,
    quick: Quick = False,
    json: JsonFile = None,
    check: Check = False,
) -> None:
    """Florence-2 through its deployment beside a loop of plain transformers at equal batch (about 5 minutes)."""
    from benchmarks import vision as benchmark
    from benchmarks.beside_loop import Setting
    from serve.config.load import DEMO_CHECKPOINTS

    _one_of("--device", device, ("cpu", "cuda"))
    setting = Setting(
        checkpoint or str(DEMO_CHECKPOINTS / "florence2"),
        device,
        "float16" if device == "cuda" else "float32",
        batch,
        callers,
    )
    count, rounds = (2 * batch, 1) if quick else (requests, rounds)
    report = benchmark.run(setting=setting, max_tokens=max_tokens, count=count, rounds=rounds, progress=errors)
    _finish(report, json, check)


@app.command("video-classifier")
def video_classifier(
    model: Annotated[str, typer.Option(help="The demo's videomae or timesformer.")] = "videomae",
    checkpoint: Annotated[str, typer.Option(help="Folder or hub id in its place.")] = "",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    batch: Annotated[int, typer.Option(min=1, help="Most clips in a batch, and the loop's batch.")] = 8,
    callers: Annotated[int, typer.Option(min=1, help="Requests in progress.")] = 16,
    requests: Annotated[int, typer.Option(min=8, help="Requests in a round.")] = 128,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each model.")] = 5,
    quick: Quick = False,
    json: JsonFile = None,
    check: Check = False,
) -> None:
    """A video classifier through its deployment beside a loop of plain transformers (about 2 minutes)."""
    from benchmarks import video_classifier as benchmark
    from benchmarks.beside_loop import Setting
    from serve.config.load import DEMO_CHECKPOINTS

    _one_of("--model", model, ("videomae", "timesformer"))
    _one_of("--device", device, ("cpu", "cuda"))
    dtype = "float16" if device == "cuda" else "float32"
    setting = Setting(checkpoint or str(DEMO_CHECKPOINTS / model), device, dtype, batch, callers)
    count, rounds = (2 * batch, 1) if quick else (requests, rounds)
    report = benchmark.run(name=checkpoint or model, setting=setting, count=count, rounds=rounds, progress=errors)
    _finish(report, json, check)


@app.command()
def documents(
    count: Annotated[int, typer.Option("--documents", min=1, help="Documents of each kind.")] = 10,
    backend: Annotated[
        list[str] | None, typer.Option(help="Ask this back end alone; may be given several times.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the documents.")] = 10_000,
    quick: Quick = False,
    json: JsonFile = None,
    check: Check = False,
) -> None:
    """What each back end reads of invoices, tables and articles with known content (about 20 minutes)."""
    from benchmarks import documents as benchmark

    known = (benchmark.READER, *benchmark.MODELS)
    for name in backend or ():
        _one_of("--backend", name, known)
    made = 2 if quick else count
    _finish(benchmark.run(documents=made, seed=seed, backends=tuple(backend or known), progress=errors), json, check)


@app.command("scene-files")
def scene_files(
    cases: Annotated[int, typer.Option(min=1, help="Files of each format and kind of damage.")] = 60,
    seed: Annotated[int, typer.Option(help="Seed of the damage.")] = 1,
    json: JsonFile = None,
    check: Check = False,
) -> None:
    """Damaged 3D scene files of every format, read as the store reads uploads (about 2 minutes)."""
    from benchmarks import scene_files as benchmark

    _finish(benchmark.run(cases=cases, seed=seed, progress=errors), json, check)


@app.command()
def splat(
    rounds: Annotated[int, typer.Option(min=1, help="Times that each is measured.")] = 9,
    quick: Quick = False,
    json: JsonFile = None,
    check: Check = False,
) -> None:
    """Gaussians drawn on the CPU, beside gsplat's torch functions and a plain reference (about 3 minutes)."""
    from benchmarks import splat as benchmark

    _finish(benchmark.run(rounds=3 if quick else rounds, quick=quick), json, check)


@app.command("splat-serving")
def splat_serving(
    gaussians: Annotated[int, typer.Option(min=1000, help="Gaussians in the scene.")] = 100_000,
    rounds: Annotated[int, typer.Option(min=1, help="Times that each is measured.")] = 3,
    seconds: Annotated[float, typer.Option(min=1, help="Seconds of each measurement.")] = 15.0,
    quick: Quick = False,
    json: JsonFile = None,
    check: Check = False,
) -> None:
    """Views of a 3D scene through the cluster beside the rasteriser alone, 1 to 32 viewers (about 5 minutes)."""
    from benchmarks import splat_serving as benchmark

    rounds, seconds = (1, 4.0) if quick else (rounds, seconds)
    _finish(benchmark.run(gaussians=gaussians, rounds=rounds, seconds=seconds, progress=errors), json, check)


@app.command()
def reconstruction(
    count: Annotated[int, typer.Option("--photos", min=8, help="Photos of the studio.")] = 24,
    quality: Annotated[str, typer.Option(help="preview, standard or high.")] = "preview",
    nerf: Annotated[bool, typer.Option(help="The studio as a radiance field too.")] = True,
    real: Annotated[bool, typer.Option(help="Photos of a building too, if mvtb-data is installed.")] = True,
    threads: Annotated[int, typer.Option(min=1, help="Of every stage.")] = 1,
    quick: Quick = False,
    json: JsonFile = None,
    check: Check = False,
) -> None:
    """Photos to a scene on this machine: time by stage, errors of the cameras, held-out views (about 10 minutes)."""
    from benchmarks import reconstruction as benchmark
    from deployments.reconstruction.messages import CPU_PLANS, Spec

    _one_of("--quality", quality, tuple(CPU_PLANS["3dgs"]))
    spec = Spec(quality=quality, max_side=640, threads=threads, steps=200 if quick else None)  # type: ignore[arg-type]
    report = benchmark.run(
        count=count,
        spec=spec,
        methods=("3dgs", "nerf") if nerf and not quick else ("3dgs",),
        real=real and not quick,
        progress=errors,
    )
    _finish(report, json, check)


def _finish(report: Report, json: Path | None, check: bool) -> None:
    report.show(output)
    if json is not None:
        report.save(json)
        output.print(f"Record: {json}", highlight=False)
    if check and not report.met:
        raise typer.Exit(1)
