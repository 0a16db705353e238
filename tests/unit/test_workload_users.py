"""The load tests' users: what they send, and what they take for a right answer."""

from __future__ import annotations

import importlib
import io
import re
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import orjson
import pytest
from PIL import Image
from tritonclient.grpc import service_pb2
from tritonclient.utils import serialize_byte_tensor

from benchmarks.loadtest.user import Answer, Due, Failed, OpenLoopUser
from benchmarks.targets import load_targets
from benchmarks.workloads import asking, mixed, splat
from benchmarks.workloads.asking import MixUser, Requests, infer, post_jpeg
from benchmarks.workloads.blip2_vqa import Ask
from benchmarks.workloads.chat import Stream, asked, read_event
from benchmarks.workloads.classification import Classify
from benchmarks.workloads.florence2 import See
from benchmarks.workloads.image_search import Search
from benchmarks.workloads.llava_chat import Chat
from benchmarks.workloads.mix import chosen, draw, mix_of
from benchmarks.workloads.mixed import Traffic
from benchmarks.workloads.moderation import Moderate
from benchmarks.workloads.pictures import Pictures, note_in
from demo.scenes import COLOURS

PICTURES = Pictures("easy", (1, 2, 3))
HARD = Pictures("hard", (1, 2))


class Response:
    """An HTTP answer as Locust's client gives it."""

    def __init__(self, body: Any, status: int = 200) -> None:
        self.content = body if isinstance(body, bytes) else orjson.dumps(body)
        self.status_code = status
        lines = io.BytesIO(self.content)
        self.stream = SimpleNamespace(readline=lambda _separator: lines.readline())

    def json(self) -> Any:
        return orjson.loads(self.content)


class Client:
    """A user whose target answers as it is told; remembers what it was sent."""

    metadata = ()
    accept = OpenLoopUser.accept

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.sent: list[tuple[str, Any]] = []
        self.http = SimpleNamespace(post=self._http, get=self._http, put=self._http)
        self.grpc = SimpleNamespace(ModelInfer=self._grpc)

    def _http(self, path: str, data: Any = None, **_: Any) -> Response:
        self.sent.append((path, data))
        answer = self.answers.pop(0)
        return answer if isinstance(answer, Response) else Response(answer)

    def _grpc(self, request: Any, **_: Any) -> Any:
        self.sent.append((request.model_name, request))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


class Refused(grpc.RpcError):
    """A gRPC error as a stub raises it."""

    def __init__(self, **trailers: str) -> None:
        self._trailers = tuple(trailers.items())

    def trailing_metadata(self) -> Any:
        return tuple((key.replace("_", "-"), value) for key, value in self._trailers)

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.RESOURCE_EXHAUSTED

    def details(self) -> str:
        return "No room."


def ready(kind: type[Requests], client: Client, pictures: Any = PICTURES, *, truth: bool = True) -> Any:
    """Requests that are prepared, without asking the target about itself."""
    requests = kind(client)  # type: ignore[arg-type]
    requests.pictures, requests.truth = pictures, truth  # type: ignore[attr-defined]
    return requests


def tensors(**outputs: Any) -> service_pb2.ModelInferResponse:
    """An answer of the Open Inference Protocol."""
    response = service_pb2.ModelInferResponse()
    for name, values in outputs.items():
        array = np.asarray(values)
        if array.dtype.kind in "SUO":
            response.outputs.add(name=name, datatype="BYTES", shape=[len(values)])
            response.raw_output_contents.append(serialize_byte_tensor(np.asarray(values, object)).item())
        else:
            kind = "INT32" if array.dtype.kind == "i" else "FP32"
            response.outputs.add(name=name, datatype=kind, shape=array.shape)
            response.raw_output_contents.append(array.astype("<i4" if kind == "INT32" else "<f4").tobytes())
    return response


def test_every_workload_has_one_user_of_its_own() -> None:
    targets = load_targets()
    for name in targets.workloads:
        module = importlib.import_module(targets.module(name))
        users = [
            one
            for one in vars(module).values()
            if isinstance(one, type) and issubclass(one, OpenLoopUser) and not vars(one).get("abstract")
        ]
        assert len(users) == 1, name  # `locust -f FILE` runs every one that it finds in the file
        assert issubclass(users[0], MixUser) and users[0].workload == name
        assert users[0].__module__ == module.__name__


def test_kinds_have_the_shares_of_the_mix_and_follow_from_the_number() -> None:
    for workload in ("moderation", "mixed"):
        mix = mix_of(workload)
        kinds = [chosen(mix, workload, number) for number in range(20_000)]
        counts = Counter(kinds)
        for kind, stated in mix.items():
            error = (stated.share * (1 - stated.share) / len(kinds)) ** 0.5
            assert abs(counts[kind] / len(kinds) - stated.share) < 4 * error, kind
        assert kinds == [chosen(mix, workload, number) for number in range(20_000)]
    # Neighbours are independent: as many hard ones after a hard one as elsewhere.
    hard = np.array([chosen(mix_of("moderation"), "moderation", n) == "hard" for n in range(20_000)])
    assert abs(hard[1:][hard[:-1]].mean() - hard.mean()) < 4 * (0.05 * 0.95 / hard.sum()) ** 0.5


def test_draws_are_uniform_and_differ_by_salt() -> None:
    points = np.array([draw("azimuth", number) for number in range(5000)])
    others = np.array([draw("elevation", number) for number in range(5000)])
    assert points.min() >= 0 and points.max() < 1
    assert abs(points.mean() - 0.5) < 0.02
    assert abs(np.corrcoef(points, others)[0, 1]) < 0.05


def test_a_user_books_what_must_be_refused_as_one_kind() -> None:
    user = object.__new__(mixed.Mixed)
    mix = mix_of("mixed")
    kinds = {number: chosen(mix, "mixed", number) for number in range(3000)}
    refused = [number for number, kind in kinds.items() if mix[kind].refused]
    assert 10 < len(refused) < 60
    assert {user.kind(Due(number, 0.0)) for number in refused} == {"invalid"}
    assert user.kind(Due(next(n for n, kind in kinds.items() if kind == "splat"), 0.0)) == "splat"


def test_classification_over_http_and_grpc() -> None:
    picture, _ = PICTURES.take(5)
    wanted = np.array([colour == picture.colour for colour in COLOURS], np.float32)
    client = Client({"results": [{"label": picture.colour}]}, tensors(PROBABILITIES=wanted))
    requests = Classify(client)  # type: ignore[arg-type]
    client.answers.insert(0, {"data": [{"id": "clip", "checkpoint": "demo:clip"}]})
    requests.prepare()
    requests.pictures = PICTURES
    assert requests.send("http", Due(5, 0.0)) == Answer("http", path="clip")
    assert requests.send("grpc", Due(5, 0.0)) == Answer("grpc", path="clip")
    image = client.sent[2][1].raw_input_contents[0][4:]
    assert client.sent[2][1].raw_input_contents[0] == serialize_byte_tensor(np.array([image], object)).item()
    assert note_in(image) == note_in(client.sent[1][1]) == picture.colour
    assert image != client.sent[1][1]
    client.answers += [{"results": [{"label": "no colour"}]}]
    with pytest.raises(Failed, match="no colour") as caught:
        requests.send("http", Due(5, 0.0))
    assert caught.value.code == "wrong_answer"


def test_answers_of_other_checkpoints_are_checked_for_their_form_alone() -> None:
    client = Client({"results": [{"label": COLOURS[0]}]}, {"results": [{"label": COLOURS[1]}]})
    requests = ready(Classify, client, truth=False)
    assert requests.send("http", Due(5, 0.0)).path == "clip"
    assert requests.send("http", Due(5, 0.0)).path == "clip"


def test_whether_the_target_knows_scenes() -> None:
    cards = {"data": [{"id": "clip", "checkpoint": "openai/clip-vit-large-patch14"}]}
    assert not asking.knows_scenes(Client(cards), "clip")  # type: ignore[arg-type]
    with pytest.raises(Failed) as caught:
        asking.knows_scenes(Client(cards), "llava")  # type: ignore[arg-type]
    assert caught.value.code == "model_not_found"


def test_moderation_says_which_step_answered() -> None:
    picture, _ = HARD.take(4)
    result = {"answer": picture.colour, "step": "analyse", "usage": {"usd": 0.002, "completion_tokens": 3}}
    client = Client({"results": [result]}, tensors(ANSWER=[picture.colour.encode()], STEP=[b"screen"]))
    requests = ready(Moderate, client, {"easy": HARD, "hard": HARD})
    requests.first_step = "screen"
    assert requests.send("hard", Due(4, 0.0)) == Answer("hard", "analyse", 0.002, 3, escalated=True)
    assert requests.send("easy_grpc", Due(4, 0.0)) == Answer("easy_grpc", "screen")
    assert client.sent[0][0] == "/v1/cascades/moderation?explain=false"
    client.answers.append({"results": [result | {"answer": "beige"}]})
    with pytest.raises(Failed, match="beige"):
        requests.send("hard", Due(4, 0.0))


def test_of_a_cascade_that_knows_no_scenes_the_label_must_be_one_of_its_own() -> None:
    models = {"data": [{"id": "clip", "checkpoint": "openai/x"}, {"id": "llava", "checkpoint": "demo:llava"}]}
    card = {"steps": [{"name": "screen"}], "labels": ["drugs", "a harmless photo"]}
    result = {"answer": "drugs", "step": "analyse", "usage": {"usd": 0.0, "completion_tokens": 1}}
    client = Client(models, card, {"results": [result]}, {"results": [result | {"answer": "red"}]})
    requests = Moderate(client)  # type: ignore[arg-type]
    requests.prepare()
    assert requests.truth is False
    assert requests.send("easy", Due(4, 0.0)).escalated
    with pytest.raises(Failed, match="red"):
        requests.send("easy", Due(4, 0.0))


class Spoken(Exception):
    """Over which protocol a request went."""


@pytest.mark.parametrize("workload", sorted(set(load_targets().workloads) - {"mixed"}))
def test_each_kind_is_sent_as_the_mix_says(workload: str) -> None:
    def over(protocol: str) -> Callable[..., None]:
        def send(*_: Any, **__: Any) -> None:
            raise Spoken(protocol)

        return send

    client: Any = SimpleNamespace(metadata=(), accept=None, http=SimpleNamespace(post=over("http")))
    client.grpc = SimpleNamespace(ModelInfer=over("grpc"))
    module = importlib.import_module(load_targets().module(workload))
    user = next(one for one in vars(module).values() if getattr(one, "workload", None) == workload)
    requests = user.requests(client)
    requests.pictures = {"easy": PICTURES, "hard": HARD} if isinstance(requests, Moderate) else PICTURES
    requests._labels = []
    for name, kind in mix_of(workload).items():
        with pytest.raises(Spoken, match=kind.protocol):
            requests.send(name, Due(1, 0.0))


def test_search_must_find_the_scene_first() -> None:
    picture, _ = PICTURES.take(9)
    hits = [{"id": str(picture.scene.index)}, *({"id": f"random-{n}"} for n in range(4))]
    client = Client({"hits": hits}, {"hits": hits[::-1]}, {"hits": hits[:2]})
    requests = ready(Search, client)
    assert requests.send("http", Due(9, 0.0)).path == "clip"
    for _ in range(2):
        with pytest.raises(Failed):
            requests.send("http", Due(9, 0.0))


@pytest.mark.parametrize(("code", "status"), [("index_exists", 409), ("out_of_capacity", 507)])
def test_an_index_that_cannot_be_made_or_is_something_else_ends_it(code: str, status: int) -> None:
    cards = {"data": [{"id": "clip", "checkpoint": "demo:clip"}]}
    refusal = Response({"error": {"code": code, "message": "No."}}, status)
    with pytest.raises(Failed) as caught:
        Search(Client(cards, refusal)).prepare()  # type: ignore[arg-type]
    assert caught.value.code == code


def test_vqa_asks_for_colour_and_shape_in_turn() -> None:
    client = Client()
    requests = ready(Ask, client)
    for number in (6, 7):
        picture, _ = PICTURES.take(number)
        right = picture.colour if number % 2 else picture.shape
        client.answers.append({"results": [{"answer": right}], "usage": {"completion_tokens": 2}})
        assert requests.send("http", Due(number, 0.0)) == Answer("http", "blip2", tokens=2)
    assert "colour" in client.sent[1][0] and "shape" in client.sent[0][0]


def test_florence_names_the_only_object() -> None:
    picture, _ = PICTURES.take(2)
    name = f"{picture.colour} {picture.shape}"
    client = Client({"results": [{"boxes": [{"label": name}]}]}, {"results": [{"text": f"a {name}"}]})
    requests = ready(See, client)
    assert requests.send("detection", Due(2, 0.0)).kind == "detection"
    assert requests.send("caption", Due(2, 0.0)).kind == "caption"
    client.answers.append({"results": [{"boxes": [{"label": name}, {"label": "grey cloud"}]}]})
    with pytest.raises(Failed, match="grey cloud"):
        requests.send("detection", Due(2, 0.0))


def events(*chunks: Any, done: bool = True) -> bytes:
    lines = [b"data: " + orjson.dumps(chunk) for chunk in chunks] + ([b"data: [DONE]"] if done else [])
    return b"\n\n".join(lines) + b"\n\n"


def said(text: str) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": text}}]}


def test_a_streamed_answer_is_put_together_and_its_tokens_counted() -> None:
    picture, _ = PICTURES.take(3)
    usage = {"choices": [], "usage": {"completion_tokens": 7}}
    stream = events({"choices": [{"delta": {"role": "assistant"}}]}, said(picture.colour[:2]), said(picture.colour[2:]))
    client = Client(Response(stream.replace(b"data: [DONE]", b"data: " + orjson.dumps(usage) + b"\n\ndata: [DONE]")))
    answer = ready(Chat, client).send("ask", Due(3, 0.0))
    assert (answer.kind, answer.path, answer.tokens) == ("ask", "llava", 7)
    assert answer.first_s is not None and answer.first_s >= 0
    body = orjson.loads(client.sent[0][1])
    assert body["stream"] and body["max_tokens"] == 48


@pytest.mark.parametrize(
    ("stream", "code"),
    [
        (events(said("red"), done=False), "stream_cut"),
        (events(said("r"), {"error": {"code": "engine_died", "message": "It died."}}, done=False), "engine_died"),
        (events(said("no colour")), "wrong_answer"),
    ],
)
def test_streams_that_fail(stream: bytes, code: str) -> None:
    with pytest.raises(Failed) as caught:
        ready(Chat, Client(Response(stream))).send("ask", Due(3, 0.0))
    assert caught.value.code == code


def test_a_trace_says_how_long_an_answer_may_be() -> None:
    client = Client(Response(events(said("anything"))))
    assert ready(Chat, client).send("describe", Due(3, 0.0, 100, 12)).kind == "describe"
    assert orjson.loads(client.sent[0][1])["max_tokens"] == 12


def test_a_chat_over_grpc() -> None:
    picture, _ = PICTURES.take(3)
    client = Client(tensors(TEXT=[picture.colour.encode()], COMPLETION_TOKENS=[2]))
    assert ready(Chat, client).send("ask_grpc", Due(3, 0.0)) == Answer("ask_grpc", "llava", tokens=2)


def test_lines_that_are_no_events_are_passed_over() -> None:
    found = Stream()
    read_event(b": comment", found, 0.1)
    read_event(b"", found, 0.2)
    assert found == Stream()
    assert asked("describe", PICTURES.take(1)[0])[1] == (PICTURES.take(1)[0].colour, PICTURES.take(1)[0].shape)


def test_views_must_be_pictures_of_the_scene() -> None:
    def jpeg(size: tuple[int, int], *, plain: bool) -> bytes:
        noise = np.random.default_rng(0).integers(0, 255, (size[1] // 16, size[0] // 16, 3), np.uint8)
        pixels = np.zeros((size[1], size[0], 3), np.uint8) if plain else np.kron(noise, np.ones((16, 16, 1), np.uint8))
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG")
        return buffer.getvalue()

    splat.check_view(jpeg((320, 240), plain=False))
    for wrong in (jpeg((320, 240), plain=True), jpeg((160, 240), plain=False), b"no picture"):
        with pytest.raises(Failed) as caught:
            splat.check_view(wrong)
        assert caught.value.code == "wrong_answer"


@pytest.mark.parametrize("kind", ["not_an_image", "no_labels", "no_such_model"])
def test_what_must_be_refused_is_right_when_it_is_and_wrong_when_it_is_not(kind: str) -> None:
    code = mix_of("mixed")[kind].refused

    def send(*answers: Any) -> Answer:
        requests = Traffic(Client(*answers))  # type: ignore[arg-type]
        requests.mix = mix_of("mixed")
        return requests.send(kind, Due(1, 0.0))

    assert send(Response({"error": {"code": code, "message": "No."}}, 400)) == Answer("invalid", path="refused")
    for other in (Response({"error": {"code": "overloaded", "message": "No."}}, 429), Response({"ok": True})):
        with pytest.raises(Failed) as caught:
            send(other)
        assert caught.value.code == "wrong_answer"


def test_errors_over_grpc_keep_our_code() -> None:
    with pytest.raises(Failed, match=re.escape("No room.")) as caught:
        infer(Client(Refused(argus_code="overloaded")), "clip.classify", {})  # type: ignore[arg-type]
    assert caught.value.code == "overloaded"
    with pytest.raises(Failed) as caught:
        infer(Client(Refused()), "clip.classify", {})  # type: ignore[arg-type]
    assert caught.value.code == "resource_exhausted"


def test_fields_beside_a_raw_picture() -> None:
    client = Client({"ok": 1})
    post_jpeg(client, "/v1/x", b"jpeg", a=True, b="red,blue", c=3)  # type: ignore[arg-type]
    assert client.sent == [("/v1/x?a=true&b=red%2Cblue&c=3", b"jpeg")]
