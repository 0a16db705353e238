"""The scenes that the workloads show: the demo checkpoints know their answers, so that a wrong one is a defect.

`scenes.yaml` lists them; `benchmarks/workloads/choose.py` made it, and makes it again when a checkpoint has changed.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

import yaml

from benchmarks.workloads.pictures import Pictures

#: `easy`: every demo model is right, and CLIP far above the moderation cascade's threshold; `hard`: CLIP is far below
#: it, and LLaVA is right. Both are difficulties of the scene world as well.
Role = Literal["easy", "hard"]
FILE = Path(__file__).with_name("scenes.yaml")


@cache
def pictures(role: Role) -> Pictures:
    """The pictures of a role; drawn once a process."""
    return Pictures(role, yaml.safe_load(FILE.read_text(encoding="utf-8"))[role])
