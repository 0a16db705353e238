"""From a cluster file, profiles and flows to what is simulated."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.capacity.profiles import HardwareProfile
from benchmarks.capacity.scenario import NODE_START_S, Flow, scenario
from benchmarks.simulator import MADE_UP
from serve.config.cluster import ClusterFile
from serve.config.load import parse
from serve.errors import ConfigError
from tests.support import made_up

_MODEL = made_up.model(made_up.passes((1, 0.01)))


def _hardware(**changes: Any) -> HardwareProfile:
    settings: dict[str, Any] = {
        "hardware": "t4",
        "router": made_up.router(0.002, 0.001),
        "models": {"openai/clip-vit-large-patch14": _MODEL, "llava-hf/llava-1.5-7b-hf@4bit": _MODEL},
        "providers": {"gpt-4o": made_up.provider()},
    }
    return HardwareProfile(**{**settings, **changes})


def _cluster(**changes: Any) -> ClusterFile:
    content: dict[str, Any] = {
        "name": "made-up",
        "node_pools": {"t4": {"gpu": "T4", "gpus": 1, "gpu_memory_gb": 16, "cpus": 16, "min_nodes": 2, "max_nodes": 4}},
        "models": {
            "clip": {
                "kind": "clip",
                "checkpoint": "openai/clip-vit-large-patch14",
                "gpu_memory_gb": 5,
                "autoscaling": {"min_replicas": 1, "max_replicas": 12},
                "batching": {"max_items": 16, "max_wait_ms": 5, "max_queue": 99},
            },
            "llava": {
                "kind": "llava",
                "checkpoint": "llava-hf/llava-1.5-7b-hf",
                "dtype": "float16",
                "quantization": "4bit",
                "gpu_memory_gb": 12,
                "max_model_len": 2048,
            },
        },
        "providers": {"gpt": {"kind": "openai", "model": "gpt-4o", "api_key_env": "KEY"}},
        "cascades": {
            "moderation": {
                "answer": "label",
                "labels": ["a", "b"],
                "steps": [
                    {
                        "name": "screen",
                        "use": "clip",
                        "task": "classify",
                        "accept": {"rule": "confidence", "at_least": 0.9},
                    },
                    {
                        "name": "analyse",
                        "use": "llava",
                        "task": "choose",
                        "fallback": [{"on": ["unavailable"], "use": "gpt"}],
                    },
                ],
            }
        },
    }
    return parse({**content, **changes})


_FLOW = Flow(name="all", entry="moderation", escalated={"screen": 0.05})


def test_what_the_flows_touch_is_there_with_the_file_s_limits() -> None:
    made = scenario(_cluster(), {"t4": _hardware()}, (_FLOW,))
    assert set(made.stages) == {"clip", "llava"}
    assert set(made.providers) == {"gpt"}
    clip = made.stages["clip"]
    assert (clip.limits.max_items, clip.limits.max_wait_s, clip.limits.max_queue) == (16, 0.005, 99)
    assert (clip.replicas, clip.scaling) == (1, None)
    assert made.calls["clip"].concurrency is not None
    assert made.overload is not None
    alone = scenario(_cluster(), {"t4": _hardware()}, (Flow(name="c", entry="clip"),))
    assert (set(alone.stages), set(alone.providers)) == ({"clip"}, set())


def test_autoscaling_knows_what_fits_on_the_nodes_that_are_up() -> None:
    made = scenario(_cluster(), {"t4": _hardware()}, (_FLOW,), autoscale=True)
    scaling = made.stages["clip"].scaling
    assert scaling is not None
    # Two GPUs of 16 GB, one of them with LLaVA's 12: three CLIPs of 5 on the other, none beside LLaVA.
    assert scaling.room == 3
    assert (scaling.max_replicas, scaling.node_s, scaling.start_s) == (12, NODE_START_S, _MODEL.start_s)
    assert made.stages["llava"].scaling is None


@pytest.mark.parametrize(
    ("flow", "message"),
    [
        (Flow(name="x", entry="clop"), "clop"),
        (Flow(name="x", entry="moderation", escalated={"scren": 0.1}), "scren"),
        (Flow(name="x", entry="moderation", escalated={"screen": 1.5}), "1.5"),
        (Flow(name="x", entry="clip", escalated={"screen": 0.5}), "no steps"),
        (Flow(name="x", entry="moderation"), r"escalated: \{screen: SHARE\}"),
        (Flow(name="x", entry="clip", share=0.5), r"0\.5, not 1"),
    ],
)
def test_a_flow_that_does_not_fit_is_named_with_what_would(flow: Flow, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        scenario(_cluster(), {"t4": _hardware()}, (flow,))


def test_flows_have_names_of_their_own_and_there_is_one() -> None:
    twice = (Flow(name="x", entry="clip", share=0.5), Flow(name="x", entry="llava", share=0.5))
    with pytest.raises(ConfigError, match="distinct"):
        scenario(_cluster(), {"t4": _hardware()}, twice)
    with pytest.raises(ConfigError, match="no flows"):
        scenario(_cluster(), {"t4": _hardware()}, ())


def test_what_no_profile_knows_is_named() -> None:
    flows = (_FLOW,)
    with pytest.raises(ConfigError, match="pool 't4' has no hardware profile"):
        scenario(_cluster(), {}, flows)
    with pytest.raises(ConfigError, match=r"llava-1\.5-7b-hf@4bit"):
        scenario(_cluster(), {"t4": _hardware(models={"openai/clip-vit-large-patch14": _MODEL})}, flows)
    with pytest.raises(ConfigError, match="gpt-4o"):
        scenario(_cluster(), {"t4": _hardware(providers={})}, flows)


def test_a_provenance_is_part_of_every_profile() -> None:
    assert _hardware().models["openai/clip-vit-large-patch14"].provenance == MADE_UP
