"""Explaining beside zennit, captum, pytorch-grad-cam and TorchRay: times of pairs that take turns.

`python -m benchmarks.peers` builds ResNet-50 and GoogLeNet in PyTorch (torchvision) with random
weights, loads the same weights into jaxplain, and explains the same images of 224 x 224, in float32
and by as many threads on both sides. In each round the peer's call and jaxplain's follow on one
another; the table has the medians of both, the median of the rounds' ratios (below 1: jaxplain is
faster), and the correlation of the maps, whose channels are reduced as jaxplain reduces them. Both
sides are called as their users call them, with a class given, and until the result is there;
jaxplain is given the network traced once (`jaxplain.trace`).

Peers that are not installed are left out, and named. Needs `pip install torch torchvision zennit
captum grad-cam torchray`; TorchRay's licence allows no commercial use.

Where the two compute not quite the same: pytorch-grad-cam's maps are resized to the image and
scaled, so that they are not compared. Excitation backprop is by TorchRay's formula on both sides:
``a w+`` whatever the sign of the input (`form="plain"`), and shares ``a / sum a`` of additions
(`residual="signed"`; TorchRay's `update_resnet`, without which its ResNets pass the whole signal to
each branch). Of GoogLeNet TorchRay takes the scaling of pixels for a gradient, which multiplies the
signal of each channel.
"""

from __future__ import annotations

import argparse
import copy
import functools
import importlib.util
import os
import statistics
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

PEERS = {
    "captum": "captum",
    "zennit": "zennit",
    "grad-cam": "pytorch_grad_cam",
    "TorchRay": "torchray",
}
#: Network -> torchvision's name of its last layer with maps.
NETWORKS = {"resnet50": "layer4", "googlenet": "inception5b"}


class Pair(NamedTuple):
    """A method of a peer beside jaxplain's; both are functions of no argument to an array."""

    peer: str
    method: str
    theirs: Callable[[], Any]
    ours: Callable[[], Any]


def torch_network(name: str) -> Any:
    """torchvision's network, of random weights."""
    import torch
    import torchvision

    torch.manual_seed(0)
    if name == "googlenet":
        net = torchvision.models.googlenet(
            weights=None, aux_logits=False, init_weights=False, transform_input=True
        )
    else:
        net = getattr(torchvision.models, name)(weights=None)

    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # as a trained network's: no 1 and 0
            torch.nn.init.uniform_(module.weight, 0.5, 1.0)
            torch.nn.init.normal_(module.bias, 0.0, 0.1)
    return net.eval().requires_grad_(False)


def with_modules(net: Any) -> Any:
    """The network with every ReLU a module of its own, not in place.

    Guided backprop finds modules: functions, and modules that are used three times, it misses.
    """
    import torch

    def bottleneck(self: Any, x: Any) -> Any:
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn3(self.conv3(self.relu2(self.bn2(self.conv2(out)))))
        return self.relu3(out + (x if self.downsample is None else self.downsample(x)))

    def basic_conv(self: Any, x: Any) -> Any:
        return self.relu(self.bn(self.conv(x)))

    for module in list(net.modules()):
        if type(module).__name__ == "Bottleneck":
            del module.relu
            for i in (1, 2, 3):
                setattr(module, f"relu{i}", torch.nn.ReLU())
            module.forward = types.MethodType(bottleneck, module)
        elif type(module).__name__ == "BasicConv2d":
            module.relu = torch.nn.ReLU()
            module.forward = types.MethodType(basic_conv, module)
        elif isinstance(module, torch.nn.ReLU):
            module.inplace = False
    return net


def same_in_jaxplain(name: str, net: Any) -> Any:
    """The network of jaxplain with these weights, by the way that checkpoints take."""
    import torch

    from jaxplain import models

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{name}.pth"
        torch.save(net.state_dict(), file)
        return models.from_pretrained(str(file), network=name)


def pairs(name: str, batch: int, chosen: list[str]) -> Iterator[Pair]:
    """What both sides have."""
    import jax.numpy as jnp
    import torch

    import jaxplain

    plain = torch_network(name)
    net = with_modules(copy.deepcopy(plain))
    images = np.random.default_rng(0).normal(size=(batch, 224, 224, 3)).astype(np.float32)
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    # Of a class that is there Grad-CAM's map is not zero.
    target = int(net(x).mean(0).argmax())
    there = [target] * batch
    at = NETWORKS[name]
    module = dict(net.named_modules())[at]
    xj, targets = jnp.asarray(images), jnp.full(batch, target)
    same = same_in_jaxplain(name, plain)
    traced, layer = jaxplain.trace(same, xj), same.config.layer("last")

    def ours(function: Callable, **options: Any) -> Callable[[], Any]:
        return lambda: function(traced, xj, targets, **options).block_until_ready()

    saliency = ours(jaxplain.gradient)
    product = ours(jaxplain.input_x_gradient)
    guided, deconvnet = ours(jaxplain.guided_backprop), ours(jaxplain.deconvnet)
    grad_cam = ours(jaxplain.grad_cam, layer=layer)
    mwp = ours(jaxplain.excitation_backprop, layer="input", form="plain", residual="signed")
    lrp = ours(jaxplain.lrp, composite="epsilon")
    path = ours(jaxplain.integrated_gradients, steps=8)

    if "captum" in chosen:
        yield from _captum(
            net, x, target, module, saliency, product, guided, deconvnet, grad_cam, path
        )
    if "zennit" in chosen:
        yield from _zennit(net, plain, x, target, saliency, guided, lrp)
    if "grad-cam" in chosen:
        plus = ours(jaxplain.grad_cam_plus_plus, layer=layer)
        yield from _grad_cam(net, x, module, there, grad_cam, plus)
    if "TorchRay" in chosen:
        yield from _torchray(net, plain, x, at, there, saliency, guided, deconvnet, grad_cam, mwp)


def _captum(
    net, x, target, module, saliency, product, guided, deconvnet, grad_cam, path
) -> Iterator[Pair]:
    from captum import attr

    def of(method: Any, **options: Any) -> Callable[[], Any]:
        return lambda: method.attribute(x.requires_grad_(), target=target, **options).detach()

    def channels(call: Callable[[], Any], signed: bool = True) -> Callable[[], Any]:
        return lambda: call().sum(1) if signed else call().abs().amax(1)

    yield Pair("captum", "saliency", channels(of(attr.Saliency(net)), False), saliency)
    yield Pair("captum", "input x gradient", channels(of(attr.InputXGradient(net))), product)
    guided_backprop = attr.GuidedBackprop(net)
    yield Pair("captum", "guided backprop", channels(of(guided_backprop), False), guided)
    yield Pair("captum", "deconvnet", channels(of(attr.Deconvolution(net)), False), deconvnet)
    cam = of(attr.LayerGradCam(net, module), relu_attributions=True)
    yield Pair("captum", "Grad-CAM", lambda: cam()[:, 0], grad_cam)
    integrated = of(attr.IntegratedGradients(net), n_steps=8)
    yield Pair("captum", "integrated gradients, 8 steps", channels(integrated), path)


def _zennit(net, plain, x, target, saliency, guided, lrp) -> Iterator[Pair]:
    import torch
    from zennit.attribution import Gradient
    from zennit.composites import GuidedBackprop, LayerMapComposite
    from zennit.layer import Sum
    from zennit.rules import Epsilon, Norm, Pass
    from zennit.torchvision import ResNetCanonizer
    from zennit.types import Activation, AvgPool, Convolution, Linear

    signal = torch.nn.functional.one_hot(torch.tensor(target), 1000).float().expand(len(x), -1)
    epsilon = LayerMapComposite(
        [
            *((Activation, Pass()), (AvgPool, Norm()), (Sum, Norm())),
            *((Convolution, Epsilon()), (Linear, Epsilon())),
        ],
        canonizers=[ResNetCanonizer()],  # it has additions, and merges all batch norms
    )
    for method, composite, signed, own in (
        ("saliency", None, False, saliency),
        ("guided backprop", GuidedBackprop(), False, guided),
        ("LRP epsilon", epsilon, True, lrp),
    ):
        # The canonizer knows torchvision's own blocks.
        attributor = Gradient(model=plain if own is lrp else net, composite=composite)

        def theirs(attributor: Any = attributor, signed: bool = signed) -> Any:
            with attributor:
                found = attributor(x.detach().clone().requires_grad_(), signal)[1]
            return found.sum(1) if signed else found.abs().amax(1)

        yield Pair("zennit", method, theirs, own)


def _grad_cam(net, x, module, there, grad_cam, plus) -> Iterator[Pair]:
    import pytorch_grad_cam as peer
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    asked = [ClassifierOutputTarget(n) for n in there]
    for method, kind, own in (
        ("Grad-CAM", peer.GradCAM, grad_cam),
        ("Grad-CAM++", peer.GradCAMPlusPlus, plus),
    ):
        cam = kind(model=net, target_layers=[module])
        yield Pair("grad-cam", method, functools.partial(cam, input_tensor=x, targets=asked), own)
        cam.activations_and_grads.release()


def _torchray(
    net, plain, x, at, there, saliency, guided, deconvnet, grad_cam, mwp
) -> Iterator[Pair]:
    import torchvision
    from torchray.attribution.deconvnet import deconvnet as peer_deconvnet
    from torchray.attribution.excitation_backprop import excitation_backprop, update_resnet
    from torchray.attribution.grad_cam import grad_cam as peer_grad_cam
    from torchray.attribution.gradient import gradient
    from torchray.attribution.guided_backprop import guided_backprop

    def of(function: Callable, net: Any = net, **options: Any) -> Callable[[], Any]:
        return lambda: function(net, x.requires_grad_(), there, **options).detach()[:, 0]

    yield Pair("TorchRay", "saliency", of(gradient), saliency)
    yield Pair("TorchRay", "guided backprop", of(guided_backprop), guided)
    yield Pair("TorchRay", "deconvnet", of(peer_deconvnet), deconvnet)
    yield Pair("TorchRay", "Grad-CAM", of(peer_grad_cam, saliency_layer=at), grad_cam)
    resnet = isinstance(plain, torchvision.models.ResNet)
    summed = update_resnet(copy.deepcopy(plain)) if resnet else net
    yield Pair("TorchRay", "MWP at the image", of(excitation_backprop, summed), mwp)


def measure(pair: Pair, rounds: int) -> tuple[float, float, float, float]:
    """Medians of the peer's seconds, of jaxplain's, and of their ratio; the maps' correlation."""
    theirs, ours = np.asarray(pair.theirs()), np.asarray(pair.ours())
    for call in (pair.theirs, pair.ours):
        call()
    taken: list[tuple[float, float]] = []
    for i in range(rounds):
        each = {}
        for call in (pair.theirs, pair.ours) if i % 2 else (pair.ours, pair.theirs):
            start = time.perf_counter()
            call()
            each[call] = time.perf_counter() - start
        taken.append((each[pair.theirs], each[pair.ours]))
    ratio = statistics.median(own / other for other, own in taken)
    correlation = float("nan")
    if theirs.shape == ours.shape:
        correlation = float(np.corrcoef(theirs.ravel(), ours.ravel())[0, 1])
    return (
        statistics.median(other for other, _ in taken),
        statistics.median(own for _, own in taken),
        ratio,
        correlation,
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=[*NETWORKS], choices=[*NETWORKS])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--peers", nargs="+", default=[*PEERS], choices=[*PEERS])
    parser.add_argument("--methods", nargs="+", help="the rows with these names alone")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=None, help="default: all cores")
    given = parser.parse_args(arguments)
    cores = sorted(os.sched_getaffinity(0))[: given.threads]
    os.sched_setaffinity(0, cores)  # before JAX and torch count them
    import jax
    import torch

    torch.set_num_threads(len(cores))
    chosen = [peer for peer in given.peers if importlib.util.find_spec(PEERS[peer]) is not None]
    for peer in set(given.peers) - set(chosen):
        print(f"{peer} is not installed, and left out", file=sys.stderr)
    print(f"jax {jax.__version__}, torch {torch.__version__}, {len(cores)} threads\n")
    print("| network | batch | peer | method | peer, ms | jaxplain, ms | ratio | correlation |")
    print("| --- | ---: | --- | --- | ---: | ---: | ---: | ---: |")
    for name in given.networks:
        for batch in given.batches:
            for pair in pairs(name, batch, chosen):
                if given.methods and pair.method not in given.methods:
                    continue
                theirs, ours, ratio, alike = measure(pair, given.rounds)
                shown = "-" if np.isnan(alike) else f"{alike:.3f}"
                print(
                    f"| {name} | {batch} | {pair.peer} | {pair.method} | {1e3 * theirs:,.0f} | "
                    f"{1e3 * ours:,.0f} | {ratio:.2f} | {shown} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
