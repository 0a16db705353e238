"""Choose the scenes that the workloads show, by asking the demo models about several shots of each candidate.

    python -m benchmarks.workloads.choose

starts the mixed workload's cluster on this machine and writes `scenes.yaml`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import httpx
import yaml

from benchmarks.servers import argus
from benchmarks.targets import load_targets
from benchmarks.workloads.chosen import FILE, Role
from benchmarks.workloads.pictures import Picture, picture

_SHOTS = 3
# Scenes looked at for each one that is wanted.
_CANDIDATES = 100
_CASCADE = "moderation"
_FAR_ABOVE, _FAR_BELOW = 0.97, 0.8
_HEAD = """\
# Scenes of the split "test" that the demo checkpoints answer rightly, whatever the shot; see chosen.py beside it.
# Made by: python -m benchmarks.workloads.choose
"""


def choose(client: httpx.Client, count: int) -> dict[str, list[int]]:
    """`count` scenes of each role, the first ones that fit it."""
    easy = (one for one in _candidates("easy", count) if _step(client, one) == "screen" and _plain(client, one))
    hard = (one for one in _candidates("hard", count) if _step(client, one) == "analyse")
    return {
        "easy": [one.scene.index for one in islice(easy, count)],
        "hard": [one.scene.index for one in islice(hard, count)],
    }


def _candidates(role: Role, count: int) -> Iterator[Picture]:
    return (picture(number, role) for number in range(_CANDIDATES * count))


def _step(client: httpx.Client, one: Picture) -> str | None:
    """The step that answers all shots rightly, CLIP being far from its threshold; None when there is none."""
    steps = set()
    for image in _shots(one):
        body = _post(client, f"/v1/cascades/{_CASCADE}", image)
        result = body["results"][0]
        sure = result["trace"][0]["confidence"]
        far = sure > _FAR_ABOVE if result["step"] == "screen" else sure < _FAR_BELOW
        if result["answer"] != one.colour or not far:
            return None
        steps.add(result["step"])
    return steps.pop() if len(steps) == 1 else None


def _plain(client: httpx.Client, one: Picture) -> bool:
    """Whether BLIP-2, LLaVA and Florence-2 name colour and shape of all shots."""
    words = (one.colour, one.shape)
    for image in _shots(one):
        for name, wanted in zip(("colour", "shape"), words, strict=True):
            said = _post(client, "/v1/vqa", image, model="blip2", question=f"What {name} is the object?")
            if said["results"][0]["answer"].strip() != wanted:
                return False
        question = "Describe the object as JSON with keys colour and shape."
        said = _post(client, "/v1/vqa", image, model="llava", question=question, max_tokens=48)
        if not all(word in said["results"][0]["answer"] for word in words):
            return False
        said = _post(client, "/v1/vision/object-detection", image, mode="fast")
        if [box["label"] for box in said["results"][0]["boxes"]] != [" ".join(words)]:
            return False
        said = _post(client, "/v1/vision/caption", image, mode="fast")
        if " ".join(words) not in said["results"][0]["text"]:
            return False
    return True


def _shots(one: Picture) -> Iterator[bytes]:
    return (one.shot(number, b"choose") for number in range(_SHOTS))


def _post(client: httpx.Client, path: str, image: bytes, **query: str | int) -> Any:
    response = client.post(path, params=query, content=image, headers={"Content-Type": "image/jpeg"})
    response.raise_for_status()
    return response.json()


def _text(chosen: Mapping[str, Sequence[int]]) -> str:
    return _HEAD + yaml.safe_dump(dict(chosen), default_flow_style=None, sort_keys=False, width=118)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=64, help="scenes of each role")
    count = parser.parse_args().count
    content = load_targets().workload("mixed").place("cpu-demo").content()
    with argus("choose", content) as (http, _), httpx.Client(base_url=http, timeout=60, trust_env=False) as client:
        chosen = choose(client, count)
    FILE.write_text(_text(chosen), encoding="utf-8")
    print({role: len(scenes) for role, scenes in chosen.items()})


if __name__ == "__main__":
    main()
