"""Scene files that gsplat writes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from deployments.splat import formats
from deployments.splat.formats import FormatName
from tests.support.gaussians import Precision, assert_kept, random_scene

torch = pytest.importorskip("torch")
gsplat = pytest.importorskip("gsplat")


@pytest.mark.parametrize(
    ("name", "format", "harmonics"),
    [("ply", "ply", 0.0), ("splat", "splat", None), ("ply_compressed", "compressed_ply", 0.0157)],
)
def test_what_gsplat_writes_is_read(name: Any, format: FormatName, harmonics: float | None) -> None:
    scene = random_scene(300)
    means, quats, log_scales = (torch.tensor(one) for one in (scene.means, scene.quats, np.log(scene.scales)))
    logits = torch.logit(torch.tensor(scene.opacities))
    sh = torch.tensor(scene.sh)
    data = gsplat.export_splats(means, log_scales, quats, logits, sh[:, :1], sh[:, 1:], format=name)
    assert formats.detect(data) == format
    assert_kept(formats.read(data, max_gaussians=1000), scene, Precision(5e-3, 0.012, 0.01, 0.004, 0.015, harmonics))
