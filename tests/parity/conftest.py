"""Settings of the parity tests, which compare networks with those of others.

They need the packages of requirements.txt, an environment of their own; where torch is missing they
are not collected. Nothing else in the project imports torch.
"""

import importlib.util

_NEEDED = ("torch", "torchvision", "timm", "transformers", "lxt")

if any(importlib.util.find_spec(p) is None for p in _NEEDED):
    collect_ignore_glob = ["test_*.py"]
else:
    from torch import library

    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        # The CPU build of torch lacks torchvision's compiled operators, but its import names these.
        for _operator in ("nms", "qnms"):
            library.define(
                f"torchvision::{_operator}",
                "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
            )
