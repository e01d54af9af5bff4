"""Name maps: what a foreign checkpoint calls the parameters of our networks. Data only."""

from __future__ import annotations

import dataclasses
import re
from typing import Iterable, Mapping


@dataclasses.dataclass(frozen=True)
class NameMap:
    """Rules from our dotted parameter names to those of a checkpoint.

    Attributes:
      modules: our module name -> theirs. ``{n}`` in it stands for the running number of a block.
      leaves: our last component -> theirs, within a module of any kind.
      ignore: patterns of their tensors that we have no use for.
    """

    modules: Mapping[str, str]
    leaves: Mapping[str, str]
    ignore: tuple[str, ...] = ()

    def resolve(self, parameters: Iterable[str]) -> dict[str, str]:
        """Our parameter name -> theirs, for each of ``parameters``.

        Blocks named ``blocks.{stage}.{block}`` are numbered through all stages.
        """
        parameters = list(parameters)
        places = {_block(p) for p in parameters} - {None}
        number = {place: n for n, place in enumerate(sorted(places))}
        resolved = {}
        for parameter in parameters:
            module, leaf = parameter.rsplit(".", 1)
            block = _block(parameter)
            if block is not None:
                module = re.sub(r"^blocks\.\d+\.\d+", "blocks.{n}", module)
            theirs = self.modules[module].replace("{n}", str(number.get(block)))
            resolved[parameter] = f"{theirs}.{self.leaves[leaf]}"
        return resolved


def _block(parameter: str) -> tuple[int, int] | None:
    match = re.match(r"blocks\.(\d+)\.(\d+)\.", parameter)
    return (int(match[1]), int(match[2])) if match else None


TORCH_LEAVES = {
    "kernel": "weight",
    "bias": "bias",
    "scale": "weight",  # of batch normalisation
    "mean": "running_mean",
    "var": "running_var",
}

EFFICIENTNET_PYTORCH = NameMap(
    modules={
        "stem.conv": "_conv_stem",
        "stem.norm": "_bn0",
        "blocks.{n}.expand.conv": "_blocks.{n}._expand_conv",
        "blocks.{n}.expand.norm": "_blocks.{n}._bn0",
        "blocks.{n}.depthwise.conv": "_blocks.{n}._depthwise_conv",
        "blocks.{n}.depthwise.norm": "_blocks.{n}._bn1",
        "blocks.{n}.project.conv": "_blocks.{n}._project_conv",
        "blocks.{n}.project.norm": "_blocks.{n}._bn2",
        "head.conv": "_conv_head",
        "head.norm": "_bn1",
        "classifier": "_fc",
    },
    leaves=TORCH_LEAVES,
    ignore=("*.num_batches_tracked",),
)
