"""A trained vision transformer explained: FLOPs and memory of its maps, and the README's pictures.

    python -m benchmarks.importance WEIGHTS                       # the table
    python -m benchmarks.importance WEIGHTS --pictures PHOTOS     # examples/importance.jpg, ...

WEIGHTS is ``vit_small_patch14_importance.safetensors``, with its decoder beside it. What is
explained is the logit of one place of its importance map, or of 256 places, one of each patch.
FLOPs are as XLA counts them, relative to one forward pass; memory is the peak of the temporary
arrays of the compiled program, by XLA's account. 256 targets are explained 16 at a time, which is
the memory's program; XLA counts the body of a loop once, so that the FLOPs are those of the program
that takes all 256 at once, with its own memory beside. Nothing but the pictures is executed.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jaxplain
from jaxplain import models
from jaxplain.core import Table

ROOT = Path(__file__).resolve().parents[1]
PATCH = 14
#: What 256 targets are taken in, to bound their memory.
CHUNK = 16
METHODS: dict[str, Callable[..., Any]] = {
    "gradient": jaxplain.gradient,
    "AttnLRP": lambda *a, **k: jaxplain.lrp(*a, composite="attn_lrp", **k),
    "CP-LRP": lambda *a, **k: jaxplain.lrp(*a, composite="cp_lrp", **k),
    "transformer attribution": jaxplain.transformer_attribution,
    "LeGrad": jaxplain.legrad,
    "Grad-CAM, blocks.11.norm1": lambda *a, **k: jaxplain.grad_cam(
        *a, layer="blocks.11.norm1", **k
    ),
    "MWP, blocks.7": lambda *a, **k: jaxplain.excitation_backprop(*a, layer="blocks.7", **k),
}
#: The columns of the picture, as `jaxplain explain --methods` names them.
SHOWN = (
    "gradient,input-x-gradient,smooth-grad,integrated-gradients,lrp,mwp,grad-cam,hires-cam,"
    "layer-cam,transformer-attribution,legrad,occlusion"
)
PHOTO = "feedbackcnn_elephant_zebra_1.jpg"
PLACES = ("70,110", "130,150")  # the elephant's back, and the zebra's neck
#: Photograph -> what is on it.
TOKENS = {
    "feedbackcnn_elephant_zebra_1.jpg": "elephant, zebra",
    "feedbackcnn_elephant_zebra_2.jpg": "zebra, elephant",
    "gradcam_cat_dog.png": "dog, cat",
    "captum_swan-3299528_1280.jpg": "swan",
}
LARGE = 518  # the size of its positions, 37 x 37 patches


class Row(NamedTuple):
    """One program: its FLOPs over those of a forward pass, and the peak of its temporaries.

    ``at_once`` is the peak without chunks.
    """

    size: int
    program: str
    targets: int
    gflops: float
    forward: float
    megabytes: float
    at_once: float


def places(network: Any, size: int, every: bool) -> Callable[[jax.Array], jax.Array]:
    """Images to the logits of the middle of one patch in the middle, or of all patches."""
    middle = np.arange(PATCH // 2, size, PATCH)
    rows = middle if every else middle[len(middle) // 2 :][:1]

    def fn(x):
        logits = network.logits(x)[..., 0]
        return logits[:, rows][:, :, rows].reshape(len(x), -1)

    return fn


def measure(network: Any, size: int, count: int) -> list[Row]:
    """Each method for ``count`` targets: 1, or that many patches."""
    graph, state = nnx.split(network)
    x = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    t = jax.ShapeDtypeStruct((1, count), jnp.int32)

    def compiled(program):
        def run(state, x, targets):
            return program(places(nnx.merge(graph, state), size, count > 1), x, targets)

        found = jax.jit(run).lower(state, x, t).compile()
        analysis: Any = found.cost_analysis()
        memory: Any = found.memory_analysis()
        return analysis["flops"] / 1e9, memory.temp_size_in_bytes / 1e6

    whole, memory = compiled(lambda fn, x, _: fn(x))
    rows = [Row(size, "forward", count, whole, 1.0, memory, memory)]
    for name, method in METHODS.items():
        flops, at_once = compiled(lambda fn, x, t, m=method: m(fn, x, t, class_chunk=None))
        memory = at_once
        if count > 1:
            _, memory = compiled(lambda fn, x, t, m=method: m(fn, x, t, class_chunk=CHUNK))
        rows.append(Row(size, name, count, flops, flops / whole, memory, at_once))
    return rows


def draw(weights: Path, photos: Path, folder: Path) -> None:
    """The two pictures of the README."""
    from jaxplain import cli, data, viz

    command = ["explain", str(photos / PHOTO), "--model", str(weights), "--methods", SHOWN]
    command += [part for place in PLACES for part in ("--class", place)]
    if cli.main([*command, "--output", str(folder / "importance.jpg")]):
        raise SystemExit("the picture could not be drawn")
    network = models.from_pretrained(weights)
    config = dataclasses.replace(network.config, input_size=LARGE)
    images = [data.read_image(photos / name) for name in TOKENS]
    x = jnp.concatenate([models.preprocess(image, config, crop=False) for image in images])
    found = jaxplain.pfv(network, x, layer="norm", weight_layers=())
    shown = [data.resize_image(image, (LARGE, LARGE)) for image in images]
    colours = np.asarray(found.colours, np.float32)
    figure = viz.feature_panel(shown, colours, list(TOKENS.values()), cell=2.4)
    viz.save(figure, folder / "pfv_tokens.jpg")


def main() -> None:
    parser = argparse.ArgumentParser(
        description="The maps of a trained vision transformer: FLOPs and memory, or pictures."
    )
    parser.add_argument("weights", type=Path, help="vit_small_patch14_importance.safetensors")
    parser.add_argument("--pictures", type=Path, metavar="PHOTOS", help="draw, from this folder")
    parser.add_argument("--output", type=Path, default=ROOT / "examples", help="where pictures go")
    arguments = parser.parse_args()
    if arguments.pictures:
        draw(arguments.weights, arguments.pictures, arguments.output)
        return
    network = models.from_pretrained(arguments.weights)
    rows = [
        row
        for size, count in ((224, 1), (224, 256), (518, 1))
        for row in measure(network, size, count)
    ]
    printed = [
        (r.size, r.program, r.targets, *(f"{v:.2f}" for v in r[3:5]), *(f"{v:.0f}" for v in r[5:]))
        for r in rows
    ]
    columns = ("size", "program", "targets", "GFLOPs", "x forward", "MB", "MB at once")
    print(Table(printed, columns, right=columns[2:]))


if __name__ == "__main__":
    main()
