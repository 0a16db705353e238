"""LLaVA: a chat message about one new picture, streamed over HTTP; some whole ones over gRPC."""

from __future__ import annotations

import time

import orjson

from benchmarks.loadtest.user import Answer, Due, Failed
from benchmarks.workloads.asking import MixUser, Requests, check, infer, knows_scenes, post
from benchmarks.workloads.chat import MAX_TOKENS, Stream, asked, messages, read_event
from benchmarks.workloads.chosen import pictures

_MODEL = "llava"
_PATH = "/v1/chat/completions"


class Chat(Requests):
    """A word about the picture, or everything about its object as JSON. Traces say how long an answer may be."""

    def prepare(self) -> None:
        self.pictures = pictures("easy")
        self.truth = knows_scenes(self.client, _MODEL)

    def send(self, kind: str, due: Due) -> Answer:
        picture, image = self.pictures.take(due.number)
        most = due.output_tokens or MAX_TOKENS
        question, wanted = asked(kind, picture)
        if kind.endswith("_grpc"):
            said, answer = self._whole(kind, image, question, most)
        else:
            stream = self._stream(image, question, most)
            said, answer = stream.text, Answer(kind, _MODEL, tokens=stream.tokens, first_s=stream.first_s)
        if most < MAX_TOKENS:  # a trace's answers may be cut
            return answer
        check(all(word in said for word in wanted) if self.truth else bool(said), said, wanted)
        return answer

    def _stream(self, image: bytes, question: str, most: int) -> Stream:
        body = {
            "model": _MODEL,
            "messages": messages(image, question),
            "max_tokens": most,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        sent = time.perf_counter()
        response = post(self.client, _PATH, orjson.dumps(body), stream=True)
        if response.status_code != 200:
            self.client.accept(response)
        found = Stream()
        while line := response.stream.readline(b"\n"):
            read_event(line.strip(), found, time.perf_counter() - sent)
        if not found.done:
            raise Failed("stream_cut", "the stream ended without [DONE]")
        return found

    def _whole(self, kind: str, image: bytes, question: str, most: int) -> tuple[str, Answer]:
        inputs = {"IMAGE": [image], "TEXT": [question.encode()]}
        outputs = infer(self.client, f"{_MODEL}.chat", inputs, {"max_tokens": most, "temperature": 0})
        answer = Answer(kind, _MODEL, tokens=int(outputs["COMPLETION_TOKENS"][0]))
        return outputs["TEXT"][0].decode().strip(), answer


class LlavaChat(MixUser):
    """See the module's text."""

    workload = "llava_chat"
    requests = Chat
