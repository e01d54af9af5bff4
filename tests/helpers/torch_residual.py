"""Residual networks in torch with the parameter names of those who published weights of them.

Written from the papers and the names alone, to check ours against.
"""

from __future__ import annotations

import string

import torch
from torch import nn
from torch.nn import functional as F

BLOCKS = (3, 4, 6, 3)  # of ResNet-50


def named(**modules: nn.Module) -> nn.ModuleDict:
    return nn.ModuleDict(modules)


def unit(x: torch.Tensor) -> torch.Tensor:
    """NPID's embedding: divided by its L2 norm."""
    return x / x.pow(2).sum(1, keepdim=True).sqrt()


class Attention(nn.Module):
    """ResNet-50 with CBAM in each block, or BAM behind the first three stages."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        channels = 64
        for i, count in enumerate(BLOCKS):
            width, blocks = 64 * 2**i, []
            for j in range(count):
                stride = 2 if i and not j else 1
                blocks.append(self._block(channels, width, stride))
                channels = 4 * width
            self.add_module(f"layer{i + 1}", nn.ModuleList(blocks))
            if kind == "bam" and i < 3:
                self.add_module(f"bam{i + 1}", bam(channels))
        self.fc = nn.Linear(channels, 1000)

    def _block(self, channels, width, stride):
        block = named(
            conv1=nn.Conv2d(channels, width, 1, bias=False),
            bn1=nn.BatchNorm2d(width),
            conv2=nn.Conv2d(width, width, 3, stride, 1, bias=False),
            bn2=nn.BatchNorm2d(width),
            conv3=nn.Conv2d(width, 4 * width, 1, bias=False),
            bn3=nn.BatchNorm2d(4 * width),
        )
        if stride > 1 or channels != 4 * width:
            project = nn.Conv2d(channels, 4 * width, 1, stride, bias=False)
            block["downsample"] = nn.Sequential(project, nn.BatchNorm2d(4 * width))
        if self.kind == "cbam":
            block["cbam"] = cbam(4 * width)
        return block

    def forward(self, x):
        """Logits, and the activations by our tags."""
        acts = {}
        x = acts["conv1"] = F.relu(self.bn1(self.conv1(x)))
        x = acts["pool1"] = F.max_pool2d(x, 3, 2, 1)
        for i in range(1, 5):
            for j, block in enumerate(getattr(self, f"layer{i}")):
                y = F.relu(block["bn1"](block["conv1"](x)))
                y = F.relu(block["bn2"](block["conv2"](y)))
                y = block["bn3"](block["conv3"](y))
                if "cbam" in block:
                    y = apply_cbam(block["cbam"], y)
                shortcut = block["downsample"](x) if "downsample" in block else x
                x = acts[f"layer{i}.{j}"] = F.relu(y + shortcut)
            if hasattr(self, f"bam{i}"):
                x = acts[f"bam{i}"] = apply_bam(getattr(self, f"bam{i}"), x)
        x = acts["avgpool"] = x.mean((2, 3))
        return self.fc(x), acts


def cbam(channels):
    hidden = channels // 16
    mlp = nn.Sequential(
        nn.Flatten(), nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels)
    )
    spatial = named(conv=nn.Conv2d(2, 1, 7, padding=3, bias=False), bn=nn.BatchNorm2d(1))
    return named(ChannelGate=named(mlp=mlp), SpatialGate=named(spatial=spatial))


def apply_cbam(module, x):
    mlp, spatial = module["ChannelGate"]["mlp"], module["SpatialGate"]["spatial"]
    gate = mlp(F.adaptive_avg_pool2d(x, 1)) + mlp(F.adaptive_max_pool2d(x, 1))
    x = x * torch.sigmoid(gate)[:, :, None, None]
    pooled = torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1)
    return x * torch.sigmoid(spatial["bn"](spatial["conv"](pooled)))


def bam(channels):
    hidden = channels // 16

    def dilated():
        return nn.Conv2d(hidden, hidden, 3, padding=4, dilation=4)

    channel = named(
        gate_c_fc_0=nn.Linear(channels, hidden),
        gate_c_bn_1=nn.BatchNorm1d(hidden),
        gate_c_fc_final=nn.Linear(hidden, channels),
    )
    spatial = named(
        gate_s_conv_reduce0=nn.Conv2d(channels, hidden, 1),
        gate_s_bn_reduce0=nn.BatchNorm2d(hidden),
        gate_s_conv_di_0=dilated(),
        gate_s_bn_di_0=nn.BatchNorm2d(hidden),
        gate_s_conv_di_1=dilated(),
        gate_s_bn_di_1=nn.BatchNorm2d(hidden),
        gate_s_conv_final=nn.Conv2d(hidden, 1, 1),
    )
    return named(channel_att=named(gate_c=channel), spatial_att=named(gate_s=spatial))


def apply_bam(module, x):
    c, s = module["channel_att"]["gate_c"], module["spatial_att"]["gate_s"]
    y = F.relu(c["gate_c_bn_1"](c["gate_c_fc_0"](x.mean((2, 3)))))
    channel = c["gate_c_fc_final"](y)[:, :, None, None]
    y = F.relu(s["gate_s_bn_reduce0"](s["gate_s_conv_reduce0"](x)))
    for i in (0, 1):
        y = F.relu(s[f"gate_s_bn_di_{i}"](s[f"gate_s_conv_di_{i}"](y)))
    return x * (1 + torch.sigmoid(channel * s["gate_s_conv_final"](y)))


class Caffe(nn.Module):
    """The authors' ResNet-50: modules by Caffe's layer names, stride on the first 1x1."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleDict({"conv1": nn.Conv2d(3, 64, 7, 2, 3)})
        self.layers["bn_conv1"] = nn.BatchNorm2d(64)
        channels = 64
        for i, count in enumerate(BLOCKS):
            width = 64 * 2**i
            for j, letter in enumerate(string.ascii_lowercase[:count]):
                at, stride = f"{i + 2}{letter}_branch", 2 if i and not j else 1
                if j == 0:
                    self._add(f"{at}1", channels, 4 * width, 1, stride)
                self._add(f"{at}2a", channels, width, 1, stride)
                self._add(f"{at}2b", width, width, 3, 1)
                self._add(f"{at}2c", width, 4 * width, 1, 1)
                channels = 4 * width
        self.layers["fc1000"] = nn.Linear(channels, 1000)

    def _add(self, at, inputs, outputs, kernel, stride):
        self.layers[f"res{at}"] = nn.Conv2d(
            inputs, outputs, kernel, stride, kernel // 2, bias=False
        )
        self.layers[f"bn{at}"] = nn.BatchNorm2d(outputs)

    def forward(self, x):
        acts, layers = {}, self.layers
        x = acts["conv1"] = F.relu(layers["bn_conv1"](layers["conv1"](x)))
        x = acts["pool1"] = F.max_pool2d(x, 3, 2, ceil_mode=True)
        for i, count in enumerate(BLOCKS):
            for letter in string.ascii_lowercase[:count]:
                at = f"{i + 2}{letter}"

                def branch(y, name, at=at):
                    return layers[f"bn{at}_branch{name}"](layers[f"res{at}_branch{name}"](y))

                y = F.relu(branch(x, "2a"))
                y = branch(F.relu(branch(y, "2b")), "2c")
                x = F.relu(y + (branch(x, "1") if letter == "a" else x))
                acts[f"res{at}"] = x
        x = acts["pool5"] = x.mean((2, 3))
        return layers["fc1000"](x), acts

    def blobs(self, factor: float = 4.0):
        """The tensors as a Caffe file holds them: BatchNorm and Scale apart, and a factor."""
        result = {}
        for name, layer in self.layers.items():
            if not isinstance(layer, nn.BatchNorm2d):
                result[f"{name}.0"] = layer.weight
                if layer.bias is not None:
                    result[f"{name}.1"] = layer.bias
                continue
            scale = name.replace("bn", "scale", 1)
            result[f"{name}.0"] = layer.running_mean * factor
            result[f"{name}.1"] = layer.running_var * factor
            result[f"{name}.2"] = torch.tensor([factor])
            result[f"{scale}.0"], result[f"{scale}.1"] = layer.weight, layer.bias
        return {name: v.detach().numpy() for name, v in result.items()}


class FewShot(nn.Module):
    """Conv4Net by the names of few-shot-meta-baseline, Conv64F by those of LibFewShot."""

    def __init__(self, network: str):
        super().__init__()
        pools = {"conv4net": 4, "conv64f": 2}[network]
        blocks = [
            nn.Sequential(
                nn.Conv2d(3 if i == 0 else 64, 64, 3, padding=1),
                nn.BatchNorm2d(64),
                nn.LeakyReLU(0.2),
                *([nn.MaxPool2d(2)] if i < pools else []),
            )
            for i in range(4)
        ]
        if network == "conv4net":
            self.encoder = named(encoder=nn.Sequential(*blocks))
            self.temp = nn.Parameter(torch.tensor(10.0))
        else:
            self.emb_func = named(**{f"layer{i + 1}": b for i, b in enumerate(blocks)})
        self.__dict__["blocks"] = blocks

    def forward(self, x):
        acts = {}
        for i, block in enumerate(self.blocks, 1):
            for module in block:
                x = module(x)
                if isinstance(module, nn.LeakyReLU):
                    acts[f"conv{i}"] = x
            if isinstance(block[-1], nn.MaxPool2d):
                acts[f"pool{i}"] = x
        return x.flatten(1), acts


class Cifar(nn.Module):
    """ResNet for CIFAR by the names of akamaster/pytorch_resnet_cifar10, option A."""

    def __init__(self, depth: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        channels = 16
        for i in range(3):
            width, blocks = 16 * 2**i, []
            for j in range((depth - 2) // 6):
                stride = 2 if i and not j else 1
                conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
                conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
                bn1, bn2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
                blocks.append(named(conv1=conv1, bn1=bn1, conv2=conv2, bn2=bn2))
                channels = width
            self.add_module(f"layer{i + 1}", nn.ModuleList(blocks))
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        acts = {}
        x = acts["conv1"] = F.relu(self.bn1(self.conv1(x)))
        for i in range(1, 4):
            for j, block in enumerate(getattr(self, f"layer{i}")):
                y = F.relu(block["bn1"](block["conv1"](x)))
                y = block["bn2"](block["conv2"](y))
                if y.shape != x.shape:
                    extra = (y.shape[1] - x.shape[1]) // 2
                    x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, extra, extra))
                x = acts[f"layer{i}.{j}"] = F.relu(x + y)
        x = acts["avgpool"] = x.mean((2, 3))
        return self.linear(x), acts
