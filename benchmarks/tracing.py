"""What tracing costs: eager calls, first calls, and memory for every new shape, against jax alone.

`python -m benchmarks.tracing` prints each figure beside what plain jax needs for the same maps and
the goal. Times of calls are the fastest of many rounds in which the candidates take turns; first
calls and overheads are seconds of the processor, which other programs disturb less than wall time.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jaxplain
from benchmarks.shaped import RESNET50

PAGE = os.sysconf("SC_PAGE_SIZE")


class Tiny(nnx.Module):
    """Two convolutions and a dense layer."""

    def __init__(self, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.conv2 = nnx.Conv(8, 8, (3, 3), rngs=rngs)
        self.head = nnx.Linear(8, 5, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.conv2(nnx.relu(self.conv1(x))))
        return self.head(x.mean((1, 2)))


def tiny() -> tuple[Tiny, Callable, Any]:
    """The network as a module, and as ``apply(weights, images)`` with its weights."""
    net = Tiny(nnx.Rngs(0))
    graph, weights = nnx.split(net)
    return net, lambda weights, x: nnx.merge(graph, weights)(x), weights


def images(height: int, width: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).uniform(size=(1, height, width, 3)), jnp.float32)


def saliency(apply: Callable) -> Callable:
    """A jitted ``(weights, x, class)`` to the maps of `jaxplain.gradient`, written by hand."""

    def explain(weights: Any, x: jax.Array, target: int) -> jax.Array:
        slope = jax.grad(lambda x: apply(weights, x)[:, target].sum())(x)
        return jnp.abs(slope).max(-1)

    return jax.jit(explain)


def fastest(calls: dict[str, Callable], rounds: int, repeat: int) -> dict[str, float]:
    """Seconds of one call of each, waited for."""
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(repeat):
                jax.block_until_ready(call())
            best[name] = min(best[name], (time.perf_counter() - start) / repeat)
    return best


def eager(rounds: int) -> None:
    net, apply, weights = tiny()
    x, plain = images(8, 8), saliency(apply)
    model = jaxplain.trace(net, x)
    explain = jaxplain.gradient
    calls = {
        "jax.jit(jax.grad)": lambda: plain(weights, x, 1),
        "traced model": lambda: explain(model, x, 1, layer="input"),
        "NNX module": lambda: explain(net, x, 1, layer="input"),
        "function": lambda: explain(lambda x: apply(weights, x), x, 1, layer="input"),
    }
    for call in calls.values():
        jax.block_until_ready(call())
    many = {name: calls[name] for name in ("jax.jit(jax.grad)", "traced model")}
    few = {name: call for name, call in calls.items() if name not in many}
    times = fastest(many, rounds, 50) | fastest(few, rounds // 4 + 1, 3)
    base = times["jax.jit(jax.grad)"]
    print("\ngradient of a tiny network at 8 x 8, eager call")
    for name, seconds in times.items():
        goal = "   goal 2" if name == "traced model" else ""
        print(f"  {name:24}{1e3 * seconds:9.3f} ms{seconds / base:8.1f} x{goal}")


def first_calls() -> None:
    """Of ResNet-50 at 64 x 64: trace, compile, run once; then what an eager call adds to it."""
    rng = np.random.default_rng(0)
    weights = jax.tree.map(
        lambda a: jnp.asarray(rng.uniform(0.01, 0.02, a.shape), a.dtype), RESNET50.parameters
    )
    x = images(64, 64)

    def network(x: jax.Array) -> jax.Array:
        return RESNET50.apply(weights, x)

    def first(call: Callable) -> tuple[float, float]:
        gc.collect()
        start, wall = time.process_time(), time.perf_counter()
        jax.block_until_ready(call())
        return time.process_time() - start, time.perf_counter() - wall

    plain = saliency(RESNET50.apply)
    mwp = jaxplain.excitation_backprop
    # What is set up once in a process is no part of any of them.
    jax.block_until_ready(jaxplain.gradient(tiny()[0], images(8, 8), 1))
    times = {
        "jax.jit(jax.grad)": first(lambda: plain(weights, x, 1)),
        "gradient": first(lambda: jaxplain.gradient(network, x, 1, layer="input")),
        "MWP": first(lambda: mwp(network, x, 1, layer="input")),
    }
    base = times["jax.jit(jax.grad)"][0]
    print("\nResNet-50 at 64 x 64, first call: trace and compile")
    for (name, (seconds, wall)), goal in zip(
        times.items(), ("", "goal 1.3", "goal 2"), strict=True
    ):
        ratio = f"{seconds:8.1f} s of CPU{seconds / base:8.2f} x{wall:9.1f} s"
        print(f"  {name:24}{ratio}   {goal}")

    model = jaxplain.trace(network, x)
    ours = held(lambda: jaxplain.gradient(model, x, 1, layer="input"))
    theirs = held(lambda: plain(weights, x, 1))
    print(
        f"  an eager call with a traced model holds its thread for {1e3 * ours:.2f} ms, "
        f"jax.jit(jax.grad) {1e3 * theirs:.2f} ms: overhead {1e3 * (ours - theirs):.2f} ms   goal 3"
    )


def held(call: Callable) -> float:
    """Seconds of the processor that the calling thread is busy: the network runs in others."""
    best = float("inf")
    for _ in range(10):
        start = time.thread_time()
        result = call()
        best = min(best, time.thread_time() - start)
        jax.block_until_ready(result)
    return best


def resident(kind: str, shapes: int, results: Any) -> None:
    """Put the bytes by which the process grows for every new shape into ``results``."""
    net, apply, weights = tiny()
    plain = saliency(apply)
    calls = {
        "jax.jit(jax.grad)": lambda x: plain(weights, x, 1),
        "gradient": lambda x: jaxplain.gradient(net, x, 1, layer="input"),
        "MWP": lambda x: jaxplain.excitation_backprop(net, x, 1, layer="input"),
    }
    settled, before = max(shapes // 5, 1), 0
    for i in range(shapes + settled):
        if i == settled:
            gc.collect()
            before = _resident()
        jax.block_until_ready(calls[kind](images(8 + i % 24, 8 + i // 24)))
    gc.collect()
    results.put((_resident() - before) / shapes)


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * PAGE


def memory(shapes: int) -> None:
    print(f"\nmemory that stays for each of {shapes} new shapes, tiny network")
    processes = multiprocessing.get_context("spawn")
    base = 0.0
    for kind in ("jax.jit(jax.grad)", "gradient", "MWP"):
        results = processes.Queue()
        process = processes.Process(target=resident, args=(kind, shapes, results))
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"the process that measures {kind} ended with {process.exitcode}")
        size = results.get()
        base = base or size
        goal = "   goal 2" if kind == "gradient" else ""
        print(f"  {kind:24}{size / 2**10:9.0f} KiB{size / base:8.2f} x{goal}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40, help="rounds of eager calls")
    parser.add_argument("--shapes", type=int, default=300, help="new shapes, for the memory")
    parser.add_argument(
        "--only", choices=("eager", "first", "memory"), help="one of the three measurements"
    )
    arguments = parser.parse_args()
    print(f"jax {jax.__version__} on {jax.default_backend()}, load {os.getloadavg()[0]:.1f}")
    measurements = {
        "eager": lambda: eager(arguments.rounds),
        "first": first_calls,
        "memory": lambda: memory(arguments.shapes),
    }
    for name, measure in measurements.items():
        if arguments.only in (None, name):
            measure()


if __name__ == "__main__":
    main()
