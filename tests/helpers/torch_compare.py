"""What the parity tests share: random weights over there, our network from them, the comparison."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import numpy as np
import torch
from flax import nnx

import jaxplain
from jaxplain import weights_convert as wc
from jaxplain.models.entries import find

#: Height and width of the images: native, odd, and not square.
SIZES = ((224, 224), (225, 225), (256, 192))
TOLERANCE = 1e-4


def randomise(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Random biases and batch-norm statistics too, which are 0 and 1 in a new network."""
    torch.manual_seed(seed)
    for m in module.modules():
        if getattr(m, "bias", None) is not None:
            torch.nn.init.uniform_(m.bias, -0.1, 0.1)
        if isinstance(m, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(m.weight, 0.5, 1.5)
            torch.nn.init.uniform_(m.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(m.running_var, 0.5, 1.5)
    return module.eval()


def state(module: torch.nn.Module) -> dict[str, np.ndarray]:
    """The tensors by name, as ``read_torch`` gives them for a saved one."""
    return {name: tensor.numpy() for name, tensor in module.state_dict().items()}


def converted(name: str, tensors: Mapping[str, np.ndarray], source: str, **options) -> nnx.Module:
    """The network ``name`` of the registry with the weights ``tensors``, named as by ``source``."""
    entry = find(name)
    options = {"dtype": None, "fully_convolutional": False, **options}
    network = wc.abstract(lambda rngs: entry.build(entry.outputs, rngs=rngs, **options))
    names = wc.match(tensors, network, [s.names for s in entry.sources])
    if names.source != source:
        raise ValueError(f"The tensors were taken for {names.source!r}, they are {source!r}.")
    weights, _ = wc.convert(tensors, network, names)
    return wc.with_weights(network, weights)


def image(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Random NHWC image of one, about normalised."""
    return np.random.default_rng(seed).normal(size=(1, *size, 3)).astype(np.float32)


def tags(network: Callable, x: np.ndarray) -> list[str]:
    """The names that the network gives to its layers."""
    equations = jax.make_jaxpr(network)(x).eqns
    return [e.params["name"] for e in equations if e.primitive.name == "name"]


def captured(network: nnx.Module, x: np.ndarray) -> dict[str, np.ndarray]:
    """The activation of every tag, and the output as ``"output"``."""
    names = tags(network, x)
    graph, weights = nnx.split(network)

    @jax.jit
    def run(weights, x):  # weights as arguments, else they would be compiled in
        return jaxplain.capture(nnx.merge(graph, weights), names)(x)

    output, activations = run(weights, x)
    return {name: np.asarray(a) for name, a in (activations | {"output": output}).items()}


def torch_captured(
    module: torch.nn.Module, layers: Mapping[str, str], x: np.ndarray
) -> dict[str, np.ndarray]:
    """The outputs of torch's modules ``{tag: path}`` in our layout, and of the whole."""
    found = {}

    def keep(tag):
        def hook(module, inputs, output):
            array = output.detach().clone()  # an in-place ReLU may follow
            found[tag] = to_ours(array.numpy())

        return hook

    handles = [
        module.get_submodule(path).register_forward_hook(keep(tag)) for tag, path in layers.items()
    ]
    with torch.no_grad():
        found["output"] = module(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
    for handle in handles:
        handle.remove()
    return found


def to_ours(array: np.ndarray) -> np.ndarray:
    """NCHW to NHWC; the output of a global pool loses its axes of 1."""
    if array.ndim == 4:
        array = array.transpose(0, 2, 3, 1)
        if array.shape[1:3] == (1, 1):
            array = array[:, 0, 0]
    return array


def errors(got: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Largest difference of each activation, relative to its largest value.

    Raises:
      AssertionError: a tag is missing on one side, a shape differs, or there is nothing but zeros.
    """
    assert got.keys() == expected.keys(), sorted(got.keys() ^ expected.keys())
    result = {}
    for name, theirs in expected.items():
        ours = got[name]
        assert ours.shape == theirs.shape, (name, ours.shape, theirs.shape)
        scale = np.abs(theirs).max()
        assert scale > 1e-6, f"{name} is all but zero: the comparison would say nothing"
        result[name] = float(np.abs(ours - theirs).max() / scale)
    return result


def check(network, module, layers, x) -> None:
    """Every tagged activation and the output agree to ``TOLERANCE``."""
    found = errors(captured(network, x), torch_captured(module, layers, x))
    worst = max(found, key=found.get)
    print(f"{x.shape[1]} x {x.shape[2]}: {len(found)} activations, {worst} {found[worst]:.1e}")
    assert found[worst] <= TOLERANCE, {n: e for n, e in found.items() if e > TOLERANCE}
