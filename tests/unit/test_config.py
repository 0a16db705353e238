"""The cluster file: profiles, `extends`, checkpoints, and messages that name the key, the value and what is allowed."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve.config.budget import problems
from serve.config.cluster import ClusterFile
from serve.config.load import DEMO_CHECKPOINTS, PROFILES, ConfigErrors, load_file, load_profile, parse
from serve.config.models import GenerativeModel
from serve.errors import ConfigError

POOLS: dict[str, Any] = {"t4": {"gpu": "T4", "gpus": 1, "gpu_memory_gb": 16, "cpus": 8}}
CLIP: dict[str, Any] = {"kind": "clip", "checkpoint": "openai/clip-vit-large-patch14"}


def file(**sections: Any) -> dict[str, Any]:
    """A file that is right, with some sections replaced."""
    return {"name": "test", "node_pools": POOLS, "models": {"clip": CLIP}, **sections}


def clip(**keys: Any) -> dict[str, Any]:
    """The same, with keys of its model."""
    return file(models={"clip": {**CLIP, **keys}})


def said_of(data: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigErrors) as caught:
        parse(data)
    assert all(problem in str(caught.value) for problem in caught.value.problems)
    return caught.value.problems


def test_blip2_looks_at_one_image_whatever_is_said() -> None:
    def most(kind: str, **fields: int) -> int:
        return GenerativeModel.model_validate({"kind": kind, "checkpoint": "some/model", **fields}).most_images

    assert [most("blip2"), most("blip2", max_images=9), most("blip2", max_images=0)] == [1, 1, 0]
    assert [most("llava"), most("llava", max_images=9), most("video_llava", max_images=0)] == [4, 9, 0]


def test_the_smallest_file() -> None:
    cluster = parse(file())
    assert cluster.pool_of("clip") == "t4"
    assert cluster.models["clip"].batching.max_items == 32


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_loads_and_fits(name: str) -> None:
    cluster = load_profile(name)
    assert cluster.name == name
    assert problems(cluster) == []


def test_profiles() -> None:
    assert set(PROFILES) == {"demo", "gpu", "cluster"}
    with pytest.raises(ConfigErrors, match=r"'prod' does not exist.*cluster, demo, gpu"):
        load_profile("prod")


@pytest.mark.parametrize("name", ["gpu", "cluster"])
def test_published_ids_of_the_profiles(name: str) -> None:
    checkpoints = {key: getattr(model, "checkpoint", None) for key, model in load_profile(name).models.items()}
    assert checkpoints == {
        "clip": "openai/clip-vit-large-patch14",
        "index": None,
        "sessions": None,
        "jobs": None,
        "docs": None,
        "video_reader": None,
        "ocr": None,
        "scenes": None,
        "splat": None,
        "nerf": None,
        "reconstruction": None,
        "florence2": "florence-community/Florence-2-large-ft",
        "videomae": "MCG-NJU/videomae-base-finetuned-kinetics",
        "timesformer": "facebook/timesformer-base-finetuned-k400",
        "blip2": "Salesforce/blip2-opt-2.7b",
        "llava": "llava-hf/llava-1.5-7b-hf",
        "llava-next": "llava-hf/llava-v1.6-mistral-7b-hf",
        "video-llava": "LanguageBind/Video-LLaVA-7B-hf",
    }


def test_only_the_demo_fetches_by_url() -> None:
    assert {name: load_profile(name).url_fetch.enabled for name in PROFILES} == {
        "demo": True,
        "gpu": False,
        "cluster": False,
    }


# Each: a file, and what the one problem must say: the key, the value, what is allowed.
WRONG: list[tuple[str, dict[str, Any], list[str]]] = [
    ("misspelt, top", file(nmae="x"), ["nmae: unknown key", "did you mean 'name'?"]),
    ("misspelt, section", file(limits={"max_lables": 3}), ["limits.max_lables: ", "did you mean 'max_labels'?"]),
    ("misspelt, pool", file(node_pools={"t4": {"gpuss": 1}}), ["node_pools.t4.gpuss: ", "did you mean 'gpus'?"]),
    ("misspelt, model", clip(checkpont="x"), ["models.clip.checkpont: ", "did you mean 'checkpoint'?"]),
    (
        "misspelt, in a model",
        clip(batching={"max_item": 3}),
        ["models.clip.batching.max_item: ", "did you mean 'max_items'?"],
    ),
    (
        "misspelt, in a list",
        file(auth={"keys": [{"name": "a", "sha256": "0" * 64, "nam": 1}]}),
        ["auth.keys.0.nam: ", "did you mean 'name'?"],
    ),
    ("nothing like it, top", file(zzz=1), ["zzz: unknown key", "known keys are ", "node_pools"]),
    (
        "nothing like it, in a model",
        clip(placement={"zzz": 1}),
        ["models.clip.placement.zzz: ", "known keys are fallback_pools, num_cpus, pool, preprocess_workers, threads"],
    ),
    (
        "another kind's key",
        file(models={"index": {"kind": "vector_index", "checkpoint": "a/b"}}),
        ["models.index.checkpoint: unknown key", "max_bytes"],
    ),
    ("wrong type", clip(batching={"max_items": "many"}), ["models.clip.batching.max_items: ", "'many'", "integer"]),
    ("wrong type, list", file(models=[1]), ["models: got [1]", "dictionary"]),
    ("wrong type, section", file(limits=7), ["limits: got 7", "dictionary"]),
    ("fraction", clip(autoscaling={"max_replicas": 1.5}), ["autoscaling.max_replicas: got 1.5", "integer"]),
    ("too small", clip(batching={"max_items": 0}), ["models.clip.batching.max_items: got 0", "equal to 1"]),
    ("too large", clip(batching={"max_items": 5000}), ["models.clip.batching.max_items: got 5000", "equal to 4096"]),
    ("not above", file(limits={"default_timeout_s": 0}), ["limits.default_timeout_s: got 0", "greater than 0"]),
    ("not a number", clip(gpu_memory_gb=float("nan")), ["models.clip.gpu_memory_gb: got nan", "finite"]),
    ("port", file(server={"http_port": 70_000}), ["server.http_port: got 70000", "equal to 65535"]),
    ("empty", file(models={}), ["models: got {}", "at least 1"]),
    ("no tasks", file(models={"m": {"kind": "custom", "implementation": "a:B", "tasks": []}}), ["models.m.tasks: "]),
    (
        "no import path",
        file(models={"m": {"kind": "custom", "implementation": "a.b.C", "tasks": ["embed"]}}),
        ["models.m.implementation: got 'a.b.C'", "pattern"],
    ),
    ("missing", {"name": "t", "node_pools": POOLS}, ["models: is missing"]),
    ("missing in a model", file(models={"clip": {"kind": "clip"}}), ["models.clip.checkpoint: is missing"]),
    ("one of few", clip(dtype="float8"), ["models.clip.dtype: got 'float8'", "'float32', 'float16' or 'bfloat16'"]),
    ("level", file(log_level="LOUD"), ["log_level: got 'LOUD'", "'WARNING'"]),
    (
        "bad kind",
        file(models={"clip": {**CLIP, "kind": "clipp"}}),
        ["models.clip.kind: got 'clipp'", "one of clip, vector_index", "custom"],
    ),
    ("no kind", file(models={"clip": {"checkpoint": "a/b"}}), ["models.clip", "kind"]),
    ("bad name", file(models={"My Clip": CLIP}), ["models.My Clip: got 'My Clip'", "pattern"]),
    ("unknown pool", clip(placement={"pool": "a100"}), ["models.clip.placement.pool: got 'a100'", "one of t4"]),
    (
        "no pool among several",
        file(node_pools={**POOLS, "cpu": {}}),
        ["models.clip.placement.pool: is missing", "t4, cpu"],
    ),
    (
        "unknown step",
        file(
            cascades={
                "quick": {
                    "answer": "label",
                    "labels": ["a", "b"],
                    "steps": [
                        {"name": "one", "use": "clip", "task": "classify"},
                        {"name": "two", "use": "gpt", "task": "classify"},
                    ],
                }
            }
        ),
        ["cascades.quick.steps.1.use: got 'gpt'", "clip"],
    ),
    (
        "a provider named like a model",
        file(providers={"clip": {"kind": "openai", "model": "gpt-4o"}}),
        ["providers.clip: ", "same name"],
    ),
    (
        "two keys of one name",
        file(auth={"keys": [{"name": "a", "sha256": "0" * 64}, {"name": "a", "sha256": "1" * 64}]}),
        ["auth: ", "two keys are named 'a'"],
    ),
    (
        "key not hashed",
        file(auth={"keys": [{"name": "a", "sha256": "x"}]}),
        ["auth.keys.0.sha256: ", "argus config hash-key"],
    ),
    (
        "the key itself",
        file(providers={"p": {"kind": "openai", "model": "m", "api_key_env": "sk-1"}}),
        ["providers.p.api_key_env: is no name of an environment variable"],
    ),
    (
        "min above max",
        clip(autoscaling={"min_replicas": 3, "max_replicas": 2}),
        ["models.clip.autoscaling: ", "min_replicas is 3, max_replicas is 2", "min must not exceed max"],
    ),
    (
        "nodes",
        file(node_pools={"t4": {"min_nodes": 3, "max_nodes": 2}}),
        ["node_pools.t4: ", "min_nodes is 3, max_nodes is 2"],
    ),
    (
        "default above most",
        file(limits={"default_timeout_s": 400}),
        ["limits: ", "default_timeout_s is 400, max_timeout_s is 300"],
    ),
    ("gpus without memory", file(node_pools={"t4": {"gpus": 2}}), ["node_pools.t4: ", "gpus is 2", "gpu_memory_gb"]),
    (
        "two writers",
        file(models={"index": {"kind": "vector_index", "autoscaling": {"max_replicas": 2}}}),
        ["models.index: ", "one writer"],
    ),
    (
        "two writers of sessions",
        file(models={"talk": {"kind": "session_store", "autoscaling": {"max_replicas": 2}}}),
        ["models.talk: ", "one writer"],
    ),
    (
        "a session that outlives the longest",
        file(models={"talk": {"kind": "session_store", "ttl_s": 20, "max_ttl_s": 10}}),
        ["models.talk: ", "ttl_s is 20, max_ttl_s is 10"],
    ),
    (
        "chunks that overlap too much",
        file(models={"docs": {"kind": "knowledge_store", "chunk_chars": 100, "chunk_overlap": 51}}),
        ["models.docs: ", "chunk_overlap is 51, chunk_chars is 100"],
    ),
    (
        "support by a store that is not there",
        file(
            models={"llava": {"kind": "llava", "checkpoint": "a/b"}}, support={"knowledge": "x", "chat_model": "llava"}
        ),
        ["support.knowledge: got 'x'", "of kind knowledge_store: none"],
    ),
    (
        "support embeds without an index",
        file(
            models={
                "clip": {"kind": "clip", "checkpoint": "a/b"},
                "llava": {"kind": "llava", "checkpoint": "a/b"},
                "docs": {"kind": "knowledge_store"},
            },
            support={"knowledge": "docs", "chat_model": "llava", "embedding_model": "clip"},
        ),
        ["support.embedding_model: needs a model of kind vector_index"],
    ),
]


@pytest.mark.parametrize(("data", "said"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_a_problem_names_key_value_and_what_is_allowed(data: dict[str, Any], said: list[str]) -> None:
    [problem] = said_of(data)
    for part in said:
        assert part in problem


def test_the_value_shown_is_short() -> None:
    [problem] = said_of(file(limits="x" * 5000))
    assert len(problem) < 300


def test_every_problem_is_told_at_once() -> None:
    found = said_of(clip(dtype="float8", batching={"max_items": 0}, zzz=1))
    assert len(found) == 3
    found = said_of(clip(placement={"pool": "nope"}) | {"providers": {"clip": {"kind": "openai", "model": "gpt-4o"}}})
    assert len(found) == 2


def test_a_step_may_use_a_provider() -> None:
    cascade = {"answer": "text", "steps": [{"name": "ask", "use": "gpt", "task": "answer"}]}
    cluster = parse(file(providers={"gpt": {"kind": "openai", "model": "gpt-4o"}}, cascades={"c": cascade}))
    assert cluster.cascades["c"].steps[0].use == "gpt"


def test_a_checked_file_cannot_be_changed_and_travels() -> None:
    cluster = parse(file())
    with pytest.raises(ValueError, match="frozen"):
        cluster.limits.max_labels = 1  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(cluster)) == cluster
    assert ClusterFile.model_validate(cluster.model_dump()) == cluster


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return path


def test_a_file_is_read_from_yaml(tmp_path: Path) -> None:
    assert load_file(write(tmp_path / "a.yaml", file())) == parse(file())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a: [1", "is not YAML"),
        ("a: b: c", "is not YAML"),
        ("!!python/object/apply:os.getcwd []", "is not YAML"),
        ("- 1\n- 2", "holds a list; it must be a mapping"),
        ("hello", "holds a str; it must be a mapping"),
        ("", "holds a NoneType; it must be a mapping"),
        ("extends: prod", "extends: got 'prod'; it must be one of cluster, demo, gpu"),
        ("extends: [demo]", "extends: got ['demo']; it must be one of cluster, demo, gpu"),
        ("extends: ../demo", "extends: got '../demo'"),
        ("1: 2", "should be strings"),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, content: str, said: str) -> None:
    path = write(tmp_path / "a.yaml", content)
    with pytest.raises(ConfigErrors) as caught:
        load_file(path)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xff\xfe\x00name: x")
    with pytest.raises(ConfigErrors, match="is not YAML"):
        load_file(path)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors, match=r"gone\.yaml: cannot be read: No such file"):
        load_file(tmp_path / "gone.yaml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_file(tmp_path)


def test_extends_merges_key_by_key(tmp_path: Path) -> None:
    over = {
        "extends": "gpu",
        "name": "mine",
        "models": {"clip": {"batching": {"max_items": 7}}, "second": {"kind": "vector_index"}},
        "server": {"http_port": 8001},
    }
    cluster, parent = load_file(write(tmp_path / "a.yaml", over)), load_profile("gpu")
    assert cluster.name == "mine"
    assert set(cluster.models) == {*parent.models, "second"}
    assert cluster.models["clip"].batching.max_items == 7
    assert cluster.models["clip"].batching.max_queue == parent.models["clip"].batching.max_queue == 1024
    assert cluster.models["llava"] == parent.models["llava"]
    assert cluster.server.http_port == 8001
    assert cluster.node_pools == parent.node_pools


def test_what_extends_makes_is_checked(tmp_path: Path) -> None:
    over = {"extends": "demo", "models": {"clip": {"batching": {"max_item": 7}}}}
    with pytest.raises(ConfigErrors, match=r"models\.clip\.batching\.max_item: unknown key"):
        load_file(write(tmp_path / "a.yaml", over))


def test_extends_nothing_is_nothing(tmp_path: Path) -> None:
    assert load_file(write(tmp_path / "a.yaml", {"extends": None, **file()})) == parse(file())


@pytest.mark.parametrize(
    ("checkpoint", "expected"),
    [
        ("openai/clip-vit-large-patch14", "openai/clip-vit-large-patch14"),
        ("./clip", "{folder}/clip"),
        ("../shared/clip", "{parent}/shared/clip"),
        ("/srv/models/clip", "/srv/models/clip"),
        ("demo:clip", "{demo}/clip"),
    ],
)
def test_checkpoints(tmp_path: Path, checkpoint: str, expected: str) -> None:
    folder = tmp_path / "conf"
    folder.mkdir()
    model: Any = load_file(write(folder / "a.yaml", clip(checkpoint=checkpoint))).models["clip"]
    assert model.checkpoint == expected.format(folder=folder, parent=tmp_path, demo=DEMO_CHECKPOINTS)


def test_a_relative_checkpoint_is_relative_to_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "conf").mkdir()
    write(tmp_path / "conf" / "a.yaml", clip(checkpoint="./clip"))
    monkeypatch.chdir(tmp_path)
    model: Any = load_file(Path("conf/a.yaml")).models["clip"]
    assert model.checkpoint == str(tmp_path / "conf" / "clip")
