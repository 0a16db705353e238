"""The `videos` section of a cluster file."""

from __future__ import annotations

from typing import Any

import pytest

from serve.config.cluster import ClusterFile
from serve.config.load import ConfigErrors
from tests.unit.fakes import cluster
from tests.unit.video_site import MODELS, VIDEOS

PROVIDERS = {
    "gemini": {"kind": "gemini", "model": "gemini-2.5-flash"},
    "gpt": {"kind": "openai", "model": "gpt-4o"},
    "gemma": {
        "kind": "openai",
        "model": "gemma",
        "base_url": "http://localhost:1/v1",
        "context_tokens": 1024,
        "prices": {"input_usd_per_mtok": 0, "output_usd_per_mtok": 0},
    },
}


def made(**videos: Any) -> ClusterFile:
    return cluster(models=MODELS, providers=PROVIDERS, videos=VIDEOS | videos)


def test_a_right_section() -> None:
    videos = made(backends=["watcher", "gemini"], captioner="gpt", summariser="gpt").videos
    assert videos is not None and videos.backends == ("watcher", "gemini")
    assert cluster().videos is None
    assert made(summariser="gemma", merge_tokens=1000, max_tokens=24).videos is not None


@pytest.mark.parametrize(
    ("videos", "problem"),
    [
        (
            {"reader": "watcher"},
            "videos.reader: got 'watcher'; it must be a model of kind video_reader of this file: reader",
        ),
        ({"backends": []}, "videos.backends: "),
        ({"backends": ["blip2"]}, "videos.backends.0: got 'blip2'"),
        ({"backends": ["watcher", "gpt"]}, "videos.backends.1: got 'gpt'"),
        ({"backends": ["watcher", "watcher"]}, "videos.backends.1: got 'watcher', which stands twice"),
        ({"captioner": "clips"}, "videos.captioner: got 'clips'"),
        ({"summariser": "reader"}, "videos.summariser: got 'reader'"),
        (
            {"summariser": "gemma", "merge_tokens": 1000, "max_tokens": 25},
            "videos.merge_tokens: got 1000; with max_tokens 25 that is more than the 1024 tokens that 'gemma' takes",
        ),
        ({"chunk_s": 10, "overlap_s": 6}, "overlap_s is 6, chunk_s is 10"),
        ({"chunks": 10}, "videos.chunks: unknown key"),
    ],
)
def test_what_is_wrong_is_said(videos: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigErrors) as caught:
        made(**videos)
    assert problem in str(caught.value)
