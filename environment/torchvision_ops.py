"""Lets `import torchvision` work where its compiled operators do not load. Installed into site-packages by setup.sh.

The Linux wheel of torchvision on PyPI is linked against CUDA. Beside a CPU build of torch its operators are missing,
and `torchvision/_meta_registrations.py` then fails on `torchvision::nms`, which breaks `import transformers` and vLLM.
Declaring the schemas of the two operators that it describes without asking first is enough: everything else in
torchvision that Argus, transformers and vLLM use (transforms, datasets' helpers) is plain Python. Calling `nms` still
fails, as it should: there is no kernel.

A `.pth` file imports this module in every process, vLLM's children included, so it imports nothing itself: it leaves a
finder that acts when torchvision, having tried its operators, comes to describe them.
"""

import sys

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


class SchemaFinder:
    """Finds nothing; declares the missing schemas just before the module that needs them is imported."""

    def find_spec(self, name, path=None, target=None):
        """Always None, so that the real finders go on."""
        if name == "torchvision._meta_registrations":
            self.remove()
            declare()

    def remove(self):
        """Once is enough."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)


def declare():
    """Declares the schemas, unless torchvision's own operators have loaded."""
    if not sys.modules["torchvision.extension"]._has_ops():
        import torch

        for schema in _SCHEMAS:
            name, _, signature = schema.partition("(")
            torch.library.define(f"torchvision::{name}", f"({signature}")


if not any(type(finder).__name__ == SchemaFinder.__name__ for finder in sys.meta_path):
    sys.meta_path.insert(0, SchemaFinder())
