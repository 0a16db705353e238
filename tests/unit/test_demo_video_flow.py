"""What teaches the demo's video classifiers how a clip's parts move, and the patches around its subject."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from demo.scenes import MOTIONS
from demo.video_classifier_flow import Flow, Near, around, changes, everywhere, look_near, motion_field
from demo.video_classifier_model import GRID, PATCH, SIDE, build_model, look
from demo.video_classifier_pool import CLIP, LENGTH, Mix, draw_strip

MOMENTS = 8
CPU = torch.device("cpu")


def states_of(kind: str, amount: float) -> tuple[Tensor, Tensor]:
    """Labels (1, 8) and states (1, 8, 5) of a subject in the middle, half the picture in size, that goes evenly."""
    states = torch.zeros(1, MOMENTS, 5)
    states[..., 2] = -1.0
    number = {"right": 0, "down": 1, "grow": 2, "rotate clockwise": 3}[kind]
    states[..., number] += torch.linspace(0.0, amount, MOMENTS)
    return torch.full((1, MOMENTS), MOTIONS.index(kind)), states  # type: ignore[arg-type]


def test_changes_are_those_over_the_window_and_none_at_rest() -> None:
    labels, states = states_of("right", 0.7)
    assert torch.allclose(changes(labels, states)[0, :, 0], torch.full((MOMENTS,), 0.8))  # 7 steps of 0.1, 8 moments
    resting = torch.full_like(labels, MOTIONS.index("still"))
    assert not changes(resting, states).any()
    assert changes(labels, states * 1000.0).abs().max() <= 3.0  # a cut is not a motion


def test_what_slides_goes_the_same_way_everywhere_on_it_and_nowhere_else() -> None:
    field, on = motion_field(*states_of("down", 0.35), everywhere(1, CPU))
    moved = field[0, 4][on[0, 4] > 0]
    assert torch.allclose(moved, torch.tensor([0.0, 0.4]).expand_as(moved), atol=1e-5)
    assert not field[0, 4][on[0, 4] == 0].any()
    assert 0 < on[0, 4].sum() < GRID**2


@pytest.mark.parametrize(("place", "way"), [((0, -1), (1, 0)), ((1, 0), (0, 1)), ((0, 1), (-1, 0)), ((-1, 0), (0, -1))])
def test_what_turns_clockwise_goes_right_on_top_and_down_on_its_right(
    place: tuple[int, int], way: tuple[int, int]
) -> None:
    near = everywhere(1, CPU)
    field, on = motion_field(*states_of("rotate clockwise", 1.0), near)
    beside = near.centres()[0]
    chosen = (on[0, 3] > 0) & ((beside * torch.tensor(place)).sum(1) > 0.2)
    assert chosen.any()
    assert ((field[0, 3][chosen] * torch.tensor(way)).sum(1) > 0.1).all()
    assert torch.allclose((field[0, 3] * beside).sum(1), torch.zeros(GRID**2), atol=1e-6)  # never outwards


def test_what_grows_goes_outwards_as_fast_as_it_grows() -> None:
    near = everywhere(1, CPU)
    field, on = motion_field(*states_of("grow", 0.875), near)  # 0.125 doublings a moment, 8 moments: twice the size
    chosen = on[0, 0] > 0
    assert torch.allclose(field[0, 0][chosen], math.log(2.0) * near.centres()[0][chosen], atol=1e-6)


def test_patches_near_the_subject_are_cut_where_it_is() -> None:
    torch.manual_seed(0)
    states = torch.zeros(200, MOMENTS, 5)
    states[..., :2] = 2.0 * torch.rand(200, 1, 2) - 1.0
    near = around(states, 5)
    assert near.corners.min() == 0
    assert near.corners.max() == GRID - 5
    assert (near.centres() - states[:, :1, :2]).norm(dim=-1).min(1).values.max() < 0.3  # the subject is always in it
    pictures = torch.arange(SIDE * SIDE).view(1, 1, 1, SIDE, SIDE).expand(200, 2, 3, -1, -1)
    cut = near.cut(pictures)
    assert cut.shape == (200, 2, 3, 5 * PATCH, 5 * PATCH)
    row, column = (PATCH * near.corners[7]).tolist()
    assert cut[7, 1, 2, 3, 4] == (row + 3) * SIDE + column + 4


def test_a_look_at_all_patches_is_the_models_own() -> None:
    model = build_model("timesformer").eval()
    pixels = torch.randn(2, 8, 3, SIDE, SIDE)
    with torch.inference_mode():
        own, near = look(model, pixels), look_near(model, pixels, everywhere(2, CPU))
        part = look_near(model, pixels, Near(torch.tensor([[0, 3], [2, 1]]), 5))
    assert torch.allclose(own.logits, near.logits, atol=1e-5)
    for one, other in zip(own.layers, near.layers, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    assert part.layers[-1].shape == (2, 8, 25, 192)
    assert model.config.image_size == SIDE


def test_a_look_sees_nothing_beside_its_patches() -> None:
    model = build_model("timesformer").eval()
    pixels = torch.randn(1, 8, 3, SIDE, SIDE)
    near = Near(torch.tensor([[1, 2]]), 4)
    changed = torch.randn_like(pixels)
    changed[..., PATCH : 5 * PATCH, 2 * PATCH : 6 * PATCH] = near.cut(pixels)
    with torch.inference_mode():
        assert torch.equal(look_near(model, pixels, near).logits, look_near(model, changed, near).logits)


def test_flow_can_be_learned_from_every_layer_but_the_first() -> None:
    torch.manual_seed(0)
    near = everywhere(1, CPU)
    labels, states = states_of("rotate clockwise", 1.0)
    field, _ = motion_field(labels, states, near)
    tokens = torch.randn(1, MOMENTS, GRID**2, 192, generator=torch.Generator().manual_seed(1))
    tokens[..., :2] = 30.0 * field
    flow = Flow(3)
    assert len(flow.outputs) == 2
    layers = [torch.full_like(tokens, torch.nan), tokens, tokens]
    optimizer = torch.optim.Adam(flow.parameters(), 0.02)
    losses = []
    for _ in range(60):
        loss = flow.loss(layers, labels, states, near)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_a_mix_draws_what_it_says() -> None:
    rng = np.random.default_rng(3)
    clips = [draw_strip(rng, Mix(clips=1.0, turns=1e9)) for _ in range(2)]
    for strip in clips:
        assert strip.clips
        assert {MOTIONS[number] for number in strip.labels[::CLIP]} <= {"rotate clockwise", "rotate counter-clockwise"}
    assert not draw_strip(rng, Mix(clips=0.0)).clips
    assert len(clips[0].labels) == LENGTH
