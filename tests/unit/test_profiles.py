"""Profiles: what a file may say, and what becomes of it when something is measured again."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.capacity.profiles import (
    PROBABILITIES,
    Distribution,
    ForwardPass,
    HardwareProfile,
    ModelProfile,
    Provenance,
    RouterProfile,
    at_pace,
    load_profile,
    merged,
    profile_key,
    rounded,
    save_profile,
    shipped_profiles,
)
from serve.config.load import load_profile as load_cluster
from serve.errors import ConfigError

MEASURED = Provenance(kind="measured", date=date(2026, 1, 2), command="argus profile clip")


def flat(seconds: float) -> Distribution:
    return Distribution(seconds=(seconds,) * len(PROBABILITIES), mean=seconds, samples=5)


def one(model: str = "demo:clip", forward_s: float = 0.0051234567) -> ModelProfile:
    return ModelProfile(
        model=model,
        kind="clip",
        dtype="float32",
        preprocess=flat(0.001),
        overhead=flat(0.002),
        forward=(ForwardPass(items=1, cost=1, seconds=flat(forward_s)),),
        memory_gb=0.5,
        start_s=5,
        provenance=MEASURED,
    )


def hardware(**models: ModelProfile) -> HardwareProfile:
    return HardwareProfile(
        hardware="cpu-demo",
        cores=2,
        router=RouterProfile(latency=flat(0.003), cpu=flat(0.002), provenance=MEASURED),
        models={model.model: model for model in models.values()},
    )


def test_a_file_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    profile = hardware(clip=one())
    save_profile(path, profile, "First line.\nSecond line.")
    assert path.read_text().startswith("# First line.\n# Second line.\n")
    assert load_profile(path) == rounded(profile)
    assert load_profile(path).models["demo:clip"].forward[0].seconds.mean == pytest.approx(0.0051235)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cores": -1}, "cores"),
        ({"hardware": "h100"}, "hardware"),
        ({"coers": 2}, "coers"),
        ({"router": {"cpu": {"seconds": [1, 2], "mean": 1}}}, "has 2 values; it must have 11"),
        ({"router": {"cpu": {"seconds": [2, *[1] * 10], "mean": 1}}}, "must rise"),
        ({"router": {"cpu": {"seconds": [*[1] * 10, 2], "mean": 20}}}, "mean is 20; the values go from 1 to 2"),
        ({"router": {"cpu": {"seconds": [*[1] * 10, 2], "mean": 0.5}}}, "mean is 0.5; the values go from 1 to 2"),
        ({"models": {"demo:clip": {"imbalance": 1.1}}}, "imbalance"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    data = hardware(clip=one()).model_dump(mode="json")
    for key, value in change.items():
        if isinstance(value, dict):
            data[key] = data[key] | value
        else:
            data[key] = value
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(ConfigError, match=said):
        load_profile(path)


def test_a_missing_file_and_one_that_is_no_yaml_are_one_line_each(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_profile(tmp_path / "none.yaml")
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match="is not YAML"):
        load_profile(tmp_path / "broken.yaml")


def test_an_estimate_without_source_and_a_measurement_without_command_are_refused() -> None:
    with pytest.raises(ValueError, match="names its sources"):
        Provenance(kind="estimate", date=date(2026, 1, 2))
    with pytest.raises(ValueError, match="names its command"):
        Provenance(kind="measured", date=date(2026, 1, 2))


def test_a_model_has_passes_or_an_engine_and_sizes_rise() -> None:
    with pytest.raises(ValueError, match="either forward or generation"):
        one().model_validate(one().model_dump() | {"forward": ()})
    twice = [ForwardPass(items=2, cost=2, seconds=flat(1)), ForwardPass(items=1, cost=1, seconds=flat(1))]
    with pytest.raises(ValueError, match="they must rise"):
        one().model_validate(one().model_dump() | {"forward": twice})


def test_a_new_measurement_replaces_its_own_entry_and_no_other() -> None:
    old = hardware(clip=one(), other=one("demo:other"))
    new = merged(old, hardware(clip=one(forward_s=0.009)))
    assert new.models["demo:clip"].forward[0].seconds.mean == 0.009
    assert new.models["demo:other"] == old.models["demo:other"]
    assert merged(None, old) == old


def test_a_pace_is_a_factor_on_everything_that_a_processor_does() -> None:
    slow = at_pace(hardware(clip=one()).model_copy(update={"cores": 2.0, "background_cores": 0.1}), 1.5)
    fast = hardware(clip=one())
    assert slow.router.cpu.mean == pytest.approx(1.5 * fast.router.cpu.mean)
    assert slow.router.latency.seconds == pytest.approx([1.5 * one for one in fast.router.latency.seconds])
    assert slow.background_cores == pytest.approx(0.15)
    clip, usual = slow.models["demo:clip"], fast.models["demo:clip"]
    assert clip.preprocess.mean == pytest.approx(1.5 * usual.preprocess.mean)
    assert clip.overhead.mean == pytest.approx(1.5 * usual.overhead.mean)
    assert clip.forward == usual.forward, "it runs on no core"
    assert clip.start_s == usual.start_s


def test_passes_that_run_on_cores_have_their_pace_and_a_node_without_has_none() -> None:
    model = one().model_copy(update={"cores": 1.0})
    slow = at_pace(hardware(clip=model).model_copy(update={"cores": 2.0}), 1.5)
    assert slow.models["demo:clip"].forward[0].seconds.mean == pytest.approx(1.5 * model.forward[0].seconds.mean)
    accelerated = hardware(clip=model).model_copy(update={"cores": 0.0})
    assert at_pace(accelerated, 1.5) == accelerated


def test_hardware_of_two_classes_is_not_mixed() -> None:
    other = hardware(clip=one()).model_copy(update={"hardware": "t4"})
    with pytest.raises(ConfigError, match=r"'t4'.*'cpu-demo'"):
        merged(other, hardware(clip=one()))


def test_models_are_called_by_checkpoint_and_quantisation() -> None:
    demo, gpu = load_cluster("demo", calibrations=False), load_cluster("gpu", calibrations=False)
    assert profile_key(demo.models["clip"]) == "demo:clip"
    assert profile_key(demo.models["splat"]) == "splat"
    assert profile_key(gpu.models["llava"]) == "llava-hf/llava-1.5-7b-hf@4bit"
    assert profile_key(gpu.models["llava-next"]) == "llava-hf/llava-v1.6-mistral-7b-hf"


def test_everything_shipped_loads_and_says_where_it_comes_from() -> None:
    shipped = shipped_profiles()
    assert {"t4", "a10", "a100", "cpu-demo"} <= set(shipped)
    for profile in shipped.values():
        kinds = {model.provenance.kind for model in profile.models.values()}
        assert kinds == ({"measured"} if profile.hardware == "cpu-demo" else {"estimate"})
