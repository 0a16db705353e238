"""Names in the `videos` section that are no models of the right kind."""

from __future__ import annotations

from collections.abc import Iterator

from serve.config.cluster import ClusterFile
from serve.config.models import GenerativeModel, VideoReaderModel


def video_problems(cluster: ClusterFile) -> Iterator[str]:
    """Everything that is wrong with the `videos` section of a file."""
    videos = cluster.videos
    if videos is None:
        return
    chats = {name: model for name, model in cluster.models.items() if isinstance(model, GenerativeModel)}
    readers = [name for name, model in cluster.models.items() if isinstance(model, VideoReaderModel)]
    watchers = watching(cluster)
    lookers = [name for name, model in chats.items() if model.max_images] + list(cluster.providers)
    yield from _named("reader", videos.reader, readers, "a model of kind video_reader")
    for i, name in enumerate(videos.backends):
        yield from _named(f"backends.{i}", name, watchers, "a chat model or Gemini provider that takes a video")
        if name in videos.backends[:i]:
            yield f"videos.backends.{i}: got {name!r}, which stands twice; back ends must be distinct"
    yield from _named("captioner", videos.captioner, lookers, "a chat model or provider that takes an image")
    yield from _named("summariser", videos.summariser, [*chats, *cluster.providers], "a chat model or provider")
    window = _window(cluster, videos.summariser)
    if window is not None and videos.merge_tokens + videos.max_tokens > window:
        yield (
            f"videos.merge_tokens: got {videos.merge_tokens}; with max_tokens {videos.max_tokens} that is more than "
            f"the {window} tokens that {videos.summariser!r} takes"
        )


def watching(cluster: ClusterFile) -> list[str]:
    """Names of the models and providers that may take a video file.

    LLaVA-NeXT-Video is of kind llava too; a LLaVA that reads pictures alone says so when it is asked.
    """
    ours = [
        name
        for name, model in cluster.models.items()
        if isinstance(model, GenerativeModel) and model.kind != "blip2" and model.max_videos
    ]
    return ours + [name for name, provider in cluster.providers.items() if provider.kind == "gemini"]


def _window(cluster: ClusterFile, name: str | None) -> int | None:
    """Tokens of prompt and answer together, where the file says how many a model takes."""
    if name is None:
        return None
    if name in cluster.providers:
        return cluster.providers[name].context_tokens
    model = cluster.models.get(name)
    return model.max_model_len if isinstance(model, GenerativeModel) else None


def _named(key: str, name: str | None, right: list[str], what: str) -> Iterator[str]:
    if name is not None and name not in right:
        yield f"videos.{key}: got {name!r}; it must be {what} of this file: {', '.join(right) or 'none'}"
