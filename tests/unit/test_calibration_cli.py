"""`argus calibrate` on tiny folders, with a model that is no model behind a real HTTP server, and its files."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from serve.calibration.certify import NEVER
from serve.calibration.diagram import draw
from serve.calibration.file import Calibration, load_calibration
from serve.calibration.fit import Evidence
from serve.calibration.samples import read_samples
from serve.cli import app
from serve.config.load import load_profile
from serve.errors import ArgusError, ConfigError

LABELS = ("dark", "bright")
CASCADE: dict[str, Any] = {
    "answer": "label",
    "labels": list(LABELS),
    "calibration": "./moderation.json",
    "steps": [
        {"name": "screen", "use": "clip", "task": "classify", "accept": {"rule": "confidence"}},
        {"name": "analyse", "use": "llava", "task": "choose", "prompt": "dark or bright?"},
    ],
}


def _png(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (level, level, level)).save(buffer, "PNG")
    return buffer.getvalue()


def _level(encoded: str) -> int:
    image = Image.open(io.BytesIO(base64.b64decode(encoded.partition(",")[2] or encoded)))
    return int(np.asarray(image)[0, 0, 0])


class _Fake(BaseHTTPRequestHandler):
    """Tells bright from dark by the grey level, surely far from the middle; near it, the two models disagree."""

    asked: ClassVar[list[str]] = []
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(self.path)
        answer = self._classify(body) if self.path == "/v1/classify" else self._chat(body)
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _classify(self, body: dict[str, Any]) -> dict[str, Any]:
        results = []
        for image in body["images"]:
            logit = (_level(image) - 128) / 8
            scores = [{"label": "bright", "probability": 0.5, "logit": logit}]
            scores.append({"label": "dark", "probability": 0.5, "logit": -logit})
            results.append({"index": 0, "label": "bright", "scores": scores if logit > 0 else scores[::-1]})
        return {"model": "clip", "temperature": 1.0, "results": results}

    def _chat(self, body: dict[str, Any]) -> dict[str, Any]:
        uri = next(part["image_url"]["url"] for part in body["messages"][0]["content"] if part["type"] == "image_url")
        text = "Dark." if _level(uri) < 110 else "bright"
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        return {"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


class _Server(ThreadingHTTPServer):
    request_queue_size = 64  # clients that come together must not be turned away
    daemon_threads = True


@pytest.fixture
def server() -> Iterator[str]:
    _Fake.asked = []
    with _Server(("127.0.0.1", 0), _Fake) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump({"extends": "demo", "name": "tiny", "cascades": {"brightness": CASCADE}}))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """240 images; those from 110 to 127 are bright, whatever the small model says."""
    data = tmp_path / "data"
    data.mkdir()
    rows = ["image,label"]
    for number in range(240):
        level = (number * 37) % 256
        (data / f"{number}.png").write_bytes(_png(level))
        rows.append(f"{number}.png,{'dark' if level < 110 else 'bright'}")
    (data / "labels.csv").write_text("\n".join(rows) + "\n")
    return data


def _invoke(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["calibrate", "brightness", *map(str, arguments)])


def test_a_folder_becomes_a_file_and_a_picture(server: str, cluster: Path, folder: Path) -> None:
    done = _invoke("--data", folder, "--cluster", cluster, "--url", server, "--target", 0.9, "--check-next", 20)
    assert done.exit_code == 0, done.output
    found = load_calibration(cluster.parent / "moderation.json")
    step = found.steps["screen"]
    assert found.cascade == "brightness"
    assert step.checkpoint.startswith("demo:clip#")
    assert (step.target, step.confidence, step.samples) == (0.9, 0.95, 240)
    assert 0.5 < step.threshold < 1
    certified = next(point for point in step.curve if point.threshold == step.threshold)
    assert certified.lower >= 0.9
    assert "labels of the data" in done.output
    assert "expected accuracy" in done.output
    with Image.open(cluster.parent / "moderation.png") as image:
        assert image.format == "PNG"
        assert image.width > 800


def test_the_next_step_may_be_the_reference(server: str, cluster: Path, folder: Path, tmp_path: Path) -> None:
    """Its answers are those of the labels here, so the result is the same; no label is needed."""
    bare = tmp_path / "bare"
    bare.mkdir()
    for image in folder.glob("*.png"):
        (bare / image.name).write_bytes(image.read_bytes())
    given = _invoke("--data", bare, "--cluster", cluster, "--url", server, "--target", 0.9)
    assert isinstance(given.exception, ConfigError)
    assert "has no label" in given.exception.message
    _Fake.asked.clear()
    options = ("--cluster", cluster, "--url", server, "--target", 0.9, "--reference", "model", "--save-labels")
    done = _invoke("--data", bare, *options)
    assert done.exit_code == 0, done.output
    step = load_calibration(cluster.parent / "moderation.json").steps["screen"]
    assert _Fake.asked.count("/v1/chat/completions") == step.labels_used < 240
    assert "answers of llava" in done.output


def test_what_cannot_be_certified_is_said_and_written(server: str, cluster: Path, folder: Path) -> None:
    done = _invoke("--data", folder, "--cluster", cluster, "--url", server, "--target", 0.99)
    assert done.exit_code == 3
    assert "too few" in done.output
    assert load_calibration(cluster.parent / "moderation.json").steps["screen"].threshold == NEVER


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        ({}, ("--step", "analyse"), "step 'analyse' is none that can be calibrated"),
        ({}, ("--reference", "me"), "--reference: got 'me'"),
        ({}, ("--target", "1.5"), "--target is 1.5"),
        ({"calibration": None}, (), "--out: is missing"),
        ({"labels": ["dark", "light"]}, (), "has the label 'bright'; it must be one of dark, light"),
    ],
)
def test_errors_name_what_is_wrong(
    server: str, cluster: Path, folder: Path, change: dict[str, Any], options: tuple[str, ...], said: str
) -> None:
    cascade: dict[str, Any] = {**CASCADE, **change}
    cascade["steps"] = [{**CASCADE["steps"][0], "accept": {"rule": "confidence", "at_least": 0.9}}, CASCADE["steps"][1]]
    cluster.write_text(yaml.safe_dump({"extends": "demo", "name": "tiny", "cascades": {"brightness": cascade}}))
    done = _invoke("--data", folder, "--cluster", cluster, "--url", server, *options)
    assert isinstance(done.exception, ArgusError), done.output
    assert said in done.exception.message


def test_a_cluster_that_is_away_is_said(cluster: Path, folder: Path) -> None:
    done = _invoke("--data", folder, "--cluster", cluster, "--url", "http://127.0.0.1:9")
    assert isinstance(done.exception, ArgusError)
    assert "127.0.0.1:9" in done.exception.message


def test_every_way_of_giving_samples_reads_the_same(tmp_path: Path) -> None:
    image = _png(9)
    (tmp_path / "tree" / "dark").mkdir(parents=True)
    (tmp_path / "tree" / "dark" / "a.png").write_bytes(image)
    (tmp_path / "tree" / "notes.txt").write_text("no image")
    lines = [
        {"image": "tree/dark/a.png", "label": "dark"},
        {"image": base64.b64encode(image).decode(), "label": "dark"},
        {"image": f"data:image/png;base64,{base64.b64encode(image).decode()}"},
    ]
    (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    assert [(s.label, s.read()) for s in read_samples(tmp_path / "tree")] == [("dark", image)]
    found = [(s.label, s.read()) for s in read_samples(tmp_path / "lines.jsonl")]
    assert found == [("dark", image), ("dark", image), (None, image)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "line 1: is no JSON"),
        ('{"label": "dark"}', "line 1: must be an object with the text `image`"),
        ('{"image": "gone.png"}', "'gone.png' is neither a file nor base64"),
        ('{"image": "AAAA", "label": 3}', "label is 3; it must be a text"),
        ("", "holds no image"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_samples(path)
    assert said in caught.value.message


def test_a_wrong_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("file,label\n")
    with pytest.raises(ConfigError, match="columns image and label"):
        read_samples(tmp_path)
    (tmp_path / "labels.csv").write_text("image,label\ngone.png,dark\n")
    with pytest.raises(ConfigError, match=r"line 2: 'gone\.png' does not exist"):
        read_samples(tmp_path)


def test_a_file_goes_round(tmp_path: Path, server: str, cluster: Path, folder: Path) -> None:
    _invoke("--data", folder, "--cluster", cluster, "--url", server, "--target", 0.9)
    path = cluster.parent / "moderation.json"
    found = load_calibration(path)
    assert Calibration.model_validate_json(found.model_dump_json()) == found
    other = found.model_copy(update={"cascade": "another"})
    path.write_text(other.model_dump_json())
    done = _invoke("--data", folder, "--cluster", cluster, "--url", server)
    assert isinstance(done.exception, ConfigError)
    assert "is of cascade 'another'" in done.exception.message


def test_a_diagram_is_drawn_of_any_evidence(tmp_path: Path) -> None:
    for number, count in enumerate((1, 50)):
        confidence = np.linspace(0.2, 1.0, count)
        path = tmp_path / f"{number}.png"
        draw(Evidence(confidence, confidence, confidence > 0.5), "any", path, threshold=NEVER)
        with Image.open(path) as image:
            assert image.size == (1350, 840)


def test_the_shipped_calibration_is_of_the_shipped_checkpoint() -> None:
    """Loading the profile refuses a stale one; what it certifies is more than nothing."""
    evidence = load_profile("demo").cascades["moderation"].evidence
    assert evidence is not None
    step = evidence.steps["screen"]
    assert step.threshold < 1
    assert next(point for point in step.curve if point.threshold == step.threshold).lower >= step.target
