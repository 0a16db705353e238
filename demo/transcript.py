"""Conversations with the demo's LLaVA through OpenAI's own client, asked of a running server; makes
docs/chat-transcript.md.

    argus up --profile demo --detach
    python -m demo.transcript --base-url http://127.0.0.1:8000/v1 --out docs/chat-transcript.md

Decoding is greedy and pictures follow from their seeds. What differs from run to run (ids, times, tokens that a cache
held) is left out, so the same checkpoint writes the same page.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import openai
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletion
from PIL import Image

from demo.scenes import label, render, sample_scene

SIDE = 224
# Of the easy held-out scenes.
SCENES = (3, 5, 7)
TURNS = (
    "What colour is the object?",
    "What shape is the object?",
    "Describe the image.",
    "Is there a green star?",
    "What colour is the object?",
)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"colour": {"type": "string"}, "shape": {"type": "string"}},
    "required": ["colour", "shape"],
    "additionalProperties": False,
}
_GREEDY: dict[str, Any] = {"temperature": 0, "max_completion_tokens": 48}
_HEAD = """# Chat, as OpenAI's client sees it

Asked of a demo cluster by `openai.AsyncOpenAI` (the official Python client), greedily. Made by
`python -m demo.transcript --base-url URL --out docs/chat-transcript.md`; ids, times and cached tokens, which differ
from run to run, are left out. The demo's LLaVA knows the [scene world](../demo/README.md) only. Its answers begin with
a space, which is a part of their first token.
"""


@dataclass(frozen=True, slots=True)
class Picture:
    """A held-out scene as a PNG file; `truth` says what it shows."""

    name: str
    truth: str
    png: bytes

    @property
    def part(self) -> dict[str, Any]:
        """The content part that holds it."""
        uri = f"data:image/png;base64,{base64.b64encode(self.png).decode()}"
        return {"type": "image_url", "image_url": {"url": uri}}


def picture(index: int) -> Picture:
    """An easy scene of the split test."""
    scene = sample_scene(index, split="test", difficulty="easy", seed=0)
    buffer = io.BytesIO()
    Image.fromarray(render(scene, SIDE)).save(buffer, "PNG")
    return Picture(f"scene-{index}.png", label(scene.subject), buffer.getvalue())


async def transcript(client: openai.AsyncOpenAI, model: str, pictures: Sequence[Picture], folder: str) -> str:
    """The page.

    Args:
        pictures: three of them.
        folder: of their files, beside the page.
    """
    first, second, third = pictures
    writer = _Writer(client, model, {shown.part["image_url"]["url"]: f"{folder}/{shown.name}" for shown in pictures})
    columns = [f"![{shown.truth}]({folder}/{shown.name})" for shown in pictures]
    names = [f"`{shown.name}`: {shown.truth}" for shown in pictures]
    ask = _text("What colour is the object?")
    sections = [
        _HEAD,
        "\n".join((_row(names), _row(["---"] * len(names)), _row(columns))),
        "## One image",
        await writer.asked(messages=[_user(first.part, ask)], **_GREEDY),
        "## Two images",
        await writer.asked(
            messages=[_user(first.part, second.part, _text("In the second image, what colour is the object?"))],
            **_GREEDY,
        ),
        "## A session of five turns",
        await writer.session(third),
        "## Streaming",
        await writer.streamed(messages=[_user(second.part, _text("Describe the image."))], **_GREEDY),
        "## An answer that fits a JSON schema",
        await writer.asked(
            messages=[_user(first.part, _text("Answer as JSON with keys colour and shape."))],
            response_format={"type": "json_schema", "json_schema": {"name": "object", "schema": SCHEMA}},
            **_GREEDY,
        ),
    ]
    return "\n\n".join(section.strip() for section in sections) + "\n"


class _Writer:
    """Asks, and writes down what was asked and answered.

    Args:
        files: the file of each picture, by its data URI.
    """

    def __init__(self, client: openai.AsyncOpenAI, model: str, files: dict[str, str]) -> None:
        self._client, self._model, self._files = client, model, files

    async def asked(self, **body: Any) -> str:
        """A whole answer."""
        answer = cast("ChatCompletion", await self._client.chat.completions.create(model=self._model, **body))
        return self._exchange("client.chat.completions.create", {"model": self._model, **body}, _told(answer))

    async def streamed(self, **body: Any) -> str:
        """An answer in pieces. How many there are depends on how busy the machine is."""
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        stream = cast("Any", await self._client.chat.completions.create(model=self._model, **body))
        chunks = [chunk async for chunk in stream]
        choices = [choice for chunk in chunks for choice in chunk.choices]
        pieces = [choice.delta.content for choice in choices if choice.delta.content]
        if len(pieces) < 2:
            raise RuntimeError(f"the answer came in {len(pieces)} piece(s); ask again on an idle machine")
        told = {
            "first delta": choices[0].delta.model_dump(exclude_none=True),
            "deltas with text, joined": "".join(pieces),
            "last finish_reason": choices[-1].finish_reason,
            "last chunk": {"choices": chunks[-1].choices, "usage": _usage(chunks[-1].usage)},
        }
        return self._exchange("client.chat.completions.create", {"model": self._model, **body}, told)

    async def session(self, shown: Picture) -> str:
        """Five messages, the picture in the first one only. The client reaches routes that OpenAI does not have by
        its own `post`."""
        begun = cast(
            "dict[str, Any]", await self._client.post("/sessions", body={"model": self._model}, cast_to=object)
        )
        path = f"/sessions/{begun['id']}"
        lines = [self._call('client.post("/sessions", cast_to=object)', {"model": self._model})]
        rows = [_row(["turn", "user", "assistant", "prompt tokens"]), _row(["---"] * 4)]
        last: dict[str, Any] = {}
        for number, question in enumerate(TURNS):
            content: Any = [shown.part, _text(question)] if number == 0 else question
            body = {"content": content, **_GREEDY}
            if number < 2:
                lines.append(self._call('client.post(f"/sessions/{id}/messages", cast_to=ChatCompletion)', body))
            answer = await self._client.post(f"{path}/messages", body=body, cast_to=ChatCompletion)
            usage = answer.usage
            assert usage is not None, "every whole answer has it"
            image = f"`{shown.name}` " if number == 0 else ""
            said = f"`{_content(answer)}`"
            rows.append(_row([str(number + 1), image + question, said, str(usage.prompt_tokens)]))
            last = cast("dict[str, Any]", (answer.model_extra or {})["session"])
        await self._client.delete(path, cast_to=object)
        kept = {name: last[name] for name in ("turns", "images", "tokens", "kept", "dropped")}
        after = f"The last answer's `session`: `{json.dumps(kept)}`"
        return "\n\n".join([*lines, "and so on:", "\n".join(rows), after])

    def _exchange(self, call: str, body: dict[str, Any], told: dict[str, Any]) -> str:
        return f"{self._call(call, body)}\n\n{_block(told)}"

    def _call(self, call: str, body: dict[str, Any]) -> str:
        return f"`{call}` with\n\n{_block(self._named(body))}"

    def _named(self, part: Any) -> Any:
        """A body with the files' names in the place of pictures."""
        if isinstance(part, dict):
            return {key: self._named(value) for key, value in part.items()}
        if isinstance(part, list):
            return [self._named(value) for value in part]
        file = self._files.get(part) if isinstance(part, str) else None
        return part if file is None else f"data:image/png;base64,({file})"


def _told(answer: ChatCompletion) -> dict[str, Any]:
    choice = answer.choices[0]
    return {"content": _content(answer), "finish_reason": choice.finish_reason, "usage": _usage(answer.usage)}


def _content(answer: ChatCompletion) -> str:
    return answer.choices[0].message.content or ""


def _usage(usage: CompletionUsage | None) -> dict[str, int]:
    """Without the tokens that a cache held: those depend on what was asked before."""
    assert usage is not None, "it was asked for"
    return {name: getattr(usage, name) for name in ("prompt_tokens", "completion_tokens", "total_tokens")}


def _user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _block(content: Any) -> str:
    return "\n".join(("```json", json.dumps(content, indent=2, ensure_ascii=False), "```"))


def save(page: str, pictures: Sequence[Picture], out: Path) -> None:
    """Writes the page, and its pictures into the folder of its name beside it."""
    folder = out.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    for shown in pictures:
        (folder / shown.name).write_bytes(shown.png)
    out.write_text(page, encoding="utf-8")


async def _asked(base_url: str, api_key: str, model: str, pictures: Sequence[Picture], folder: str) -> str:
    async with openai.AsyncOpenAI(base_url=base_url, api_key=api_key, max_retries=0) as client:
        return await transcript(client, model, pictures, folder)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--api-key", default=os.environ.get("ARGUS_API_KEY", "none"))
    parser.add_argument("--model", default="llava")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "docs" / "chat-transcript.md")
    given = parser.parse_args()
    pictures = [picture(index) for index in SCENES]
    page = asyncio.run(_asked(given.base_url, given.api_key, given.model, pictures, given.out.stem))
    save(page, pictures, given.out)


if __name__ == "__main__":
    main()
