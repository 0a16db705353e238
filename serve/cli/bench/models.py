"""Benchmarks of what models answer, and how fast."""

from __future__ import annotations

from typing import Annotated

import typer

from serve.cli.bench.command import Check, JsonFile, Quick, app, finish, one_of
from serve.cli.console import errors


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

    one_of("--model", model, (*benchmark.MODELS, "both"))
    report = benchmark.run(
        models=benchmark.MODELS if model == "both" else (model,),
        concurrencies=(1, 8) if quick else benchmark.CONCURRENCIES,
        rounds=1 if quick else rounds,
        requests=2 if quick else requests,
        max_tokens=max_tokens,
        progress=errors,
    )
    finish(report, json, check)


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

    one_of("--model", model, (*benchmark.KINDS, "all"))
    kinds = benchmark.KINDS if model == "all" else (model,)
    finish(benchmark.run(kinds=kinds, prompts=20 if quick else prompts, progress=errors), json, check)


@app.command()
def startup(
    model: Annotated[str, typer.Option(help="llava, blip2, video_llava, or all.")] = "all",
    rounds: Annotated[int, typer.Option(min=1, help="Times that each is started.")] = 3,
    quick: Quick = False,
    json: JsonFile = None,
    check: Check = False,
) -> None:
    """How long each engine takes from nothing to its first answer, beside vLLM's own start (about 15 minutes)."""
    from benchmarks import startup as benchmark

    one_of("--model", model, (*benchmark.KINDS, "all"))
    kinds = benchmark.KINDS if model == "all" else (model,)
    report = benchmark.run(kinds=kinds, systems=benchmark.SYSTEMS, rounds=1 if quick else rounds, progress=errors)
    finish(report, json, check)


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

    one_of("--model", model, (*benchmark.KINDS, "all"))
    kinds = benchmark.KINDS if model == "all" else (model,)
    finish(benchmark.run(kinds=kinds, scenes=20 if quick else scenes, progress=errors), json, check)


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
    finish(benchmark.run(scenes=scenes, clips=clips, videos=videos, progress=errors), json, check)


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

    one_of("--device", device, ("cpu", "cuda"))
    setting = Setting(
        checkpoint or str(DEMO_CHECKPOINTS / "florence2"),
        device,
        "float16" if device == "cuda" else "float32",
        batch,
        callers,
    )
    count, rounds = (2 * batch, 1) if quick else (requests, rounds)
    report = benchmark.run(setting=setting, max_tokens=max_tokens, count=count, rounds=rounds, progress=errors)
    finish(report, json, check)


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

    one_of("--model", model, ("videomae", "timesformer"))
    one_of("--device", device, ("cpu", "cuda"))
    dtype = "float16" if device == "cuda" else "float32"
    setting = Setting(checkpoint or str(DEMO_CHECKPOINTS / model), device, dtype, batch, callers)
    count, rounds = (2 * batch, 1) if quick else (requests, rounds)
    report = benchmark.run(name=checkpoint or model, setting=setting, count=count, rounds=rounds, progress=errors)
    finish(report, json, check)


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
        one_of("--backend", name, known)
    made = 2 if quick else count
    finish(benchmark.run(documents=made, seed=seed, backends=tuple(backend or known), progress=errors), json, check)


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
    finish(benchmark.run(minutes=minutes, rounds=rounds, progress=errors), json, check)


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
    finish(benchmark.run(rounds=rounds, minutes=minutes), json, check)


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
    finish(report, json, check)


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
    finish(report, json, check)
