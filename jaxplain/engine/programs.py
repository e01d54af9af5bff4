"""Compiled programs of the batch engine: one for each shape of a batch, weights as arguments."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import eval_jaxpr
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxplain.core.numerics import class_scores
from jaxplain.core.program import Weights, prepared


class Programs:
    """Pixels and labels of a batch to targets and maps.

    A program is compiled ahead of its calls, so that no call can compile.

    Attributes:
        compiled: how many there are; spans: (start, end) of what tracing and compiling took.
    """

    def __init__(
        self,
        fn: Callable,
        methods: Mapping[str, Callable],
        to_input: Callable,
        classes: np.ndarray | None,
        signals: np.ndarray | None,
        batch_size: int,
        devices: Sequence[Any],
    ):
        self.fn, self.methods, self.to_input = fn, methods, to_input
        self.classes, self.signals, self.batch_size = classes, signals, batch_size
        self._count = len(devices)
        mesh = Mesh(np.array(devices), ("batch",))
        self._split = NamedSharding(mesh, PartitionSpec("batch"))
        self._everywhere = NamedSharding(mesh, PartitionSpec())
        self._lowered: dict[tuple, tuple[Any, list]] = {}
        self._compiled: dict[tuple, tuple[Any, list]] = {}
        self._held = Weights()  # of all shapes: what is made of them alone is made once a run
        self._weights: dict[int, tuple[Any, jax.Array]] = {}
        self.spans: list[tuple[float, float]] = []

    @property
    def compiled(self) -> int:
        return len(self._compiled)

    def __call__(self, pixels: np.ndarray, labels: np.ndarray) -> tuple[Any, float]:
        """The results, still being computed, and when they were asked for.

        Results are (targets int32 ``(B,)`` or ``(B, K)``, {name: float32 maps}, their scores
        float32 of the same shape, the top classes int32 ``(B,)``).
        """
        key = (pixels.shape[:3], labels.shape[1])
        if key not in self._compiled:
            lowered, weights = self._lower(*key)
            with self._timed():
                self._compiled[key] = lowered.compile(), self._place(weights)
            del self._lowered[key]
        program, weights = self._compiled[key]
        arguments = jax.device_put((pixels, labels), self._split)
        asked = time.perf_counter()
        return program(weights, *arguments), asked

    def rows(self, size: int) -> int:
        """How many rows a batch of this size has: a multiple of the number of devices."""
        return -(-size // self._count) * self._count

    def digests(self, shape: tuple[int, int], width: int) -> tuple[str, str]:
        """What stands for the program of a full batch, and for the values of all weights in it.

        Both are the same on all kinds and numbers of devices; the program's is another in another
        release of JAX.
        """
        closed, pixels, labels, tree = self._closed((self.batch_size, *shape), width)
        weights = [jnp.asarray(value) for value in closed.consts]

        def program(weights: list, pixels: jax.Array, labels: jax.Array) -> Any:
            return jax.tree.unflatten(tree, eval_jaxpr(closed.jaxpr, weights, pixels, labels))

        # Weights as they are, for devices differ in what they make of them. Lowered for one kind of
        # device, and not split over several.
        lowered = jax.jit(program).trace(weights, pixels, labels).lower(lowering_platforms=("cpu",))
        values = []
        for value in weights:
            if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
                value = jax.random.key_data(value)
            value = np.asarray(value)
            found = hashlib.sha256(f"{value.dtype}{value.shape}".encode())
            found.update(np.ascontiguousarray(value).tobytes())
            values.append(found.hexdigest())
        text = hashlib.sha256(lowered.as_text().encode()).hexdigest()[:16]
        return text, hashlib.sha256("".join(sorted(values)).encode()).hexdigest()[:16]

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.spans.append((start, time.perf_counter()))

    def _lower(self, shape: tuple[int, ...], width: int) -> tuple[Any, list]:
        key = (shape, width)
        if key not in self._lowered:
            with self._timed():
                self._lowered[key] = self._trace(shape, width)
        return self._lowered[key]

    def _trace(self, shape: tuple[int, ...], width: int) -> tuple[Any, list]:
        closed, pixels, labels, tree = self._closed(shape, width)
        call, numbers = prepared(closed, self._held)

        def program(weights: list, pixels: jax.Array, labels: jax.Array) -> Any:
            return jax.tree.unflatten(tree, call(weights, pixels, labels))

        weights = self._held.ready(numbers)
        jitted = jax.jit(
            program,
            in_shardings=(self._everywhere, self._split, self._split),
            out_shardings=self._split,
        )
        return jitted.lower(weights, pixels, labels), weights

    def _closed(self, shape: tuple[int, ...], width: int) -> tuple[Any, Any, Any, Any]:
        """What a batch goes through, its constants the weights; pixels' and labels' forms; tree."""
        pixels = jax.ShapeDtypeStruct((*shape, 3), np.uint8)
        labels = jax.ShapeDtypeStruct((shape[0], width), np.int32)
        closed, like = jax.make_jaxpr(self._explain, return_shape=True)(pixels, labels)
        return closed, pixels, labels, jax.tree.structure(like)

    def _place(self, weights: list) -> list:
        for value in weights:
            if id(value) not in self._weights:  # the original is kept, so that its id stays its own
                self._weights[id(value)] = value, jax.device_put(value, self._everywhere)
        return [self._weights[id(value)][1] for value in weights]

    def _explain(
        self, pixels: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, dict, jax.Array, jax.Array]:
        x = self.to_input(pixels)
        every = class_scores(self.fn(x)).astype(jnp.float32)
        top = every.argmax(-1).astype(jnp.int32)
        if self.signals is not None:
            targets = jnp.asarray(self.signals)[labels]
            scores = (targets * every[:, None]).sum(-1)
        else:
            if self.classes is not None:
                self._check_classes(self.classes, every.shape[-1])
                targets = labels
            else:
                labels = targets = top
            at = labels.reshape(len(labels), -1)
            scores = jnp.take_along_axis(every, at, axis=1).reshape(labels.shape)
        results = {name: method(self.fn, x, targets) for name, method in self.methods.items()}
        named = {}
        for path, values in jax.tree_util.tree_flatten_with_path(results)[0]:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            if values.shape[: labels.ndim] != labels.shape or values.ndim != labels.ndim + 2:
                raise ValueError(
                    f"{name}: maps must have the shape {(*labels.shape, 'h', 'w')}, not "
                    f"{values.shape}."
                )
            named[name] = values.astype(jnp.float32)
        return labels, named, scores, top

    def _check_classes(self, classes: np.ndarray, outputs: int) -> None:
        wrong = [int(c) for c in classes if not 0 <= c < outputs]
        if wrong:
            raise ValueError(
                f"class {wrong[0]} is out of range: the network has the classes 0 to {outputs - 1}."
            )
