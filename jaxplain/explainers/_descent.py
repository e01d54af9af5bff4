"""NAFlow of one image: feature maps led back from the last layer, and coefficients carried down."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxplain.core import UnknownLayerError
from jaxplain.explainers._common import over_targets
from jaxplain.explainers._preimage import coefficients, position, preimage, stages, start
from jaxplain.explainers._stages import require_maps


def last_layer(graph, last: str | None) -> str:
    """Where the flow starts."""
    if last is not None:
        return last
    try:
        return graph.last_spatial
    except UnknownLayerError as error:
        raise UnknownLayerError(
            f"name with last= the layer where the flow starts, for {error}"
        ) from error


class Plan:
    """Which stages lie between the layers, for one network."""

    def __init__(self, model, layers, last):
        graph = model.graph
        self.model = model
        self.stages = stages(graph)
        self.values = [graph.inputs[0], *(stage.target for stage in self.stages)]
        cuts = {v: i for i, v in enumerate(self.values)}
        self.at = {name: position(graph, cuts, name) for name in layers}
        self.layouts = {name: require_maps(model, name, "naflow")[1] for name in layers}
        last = last_layer(graph, last)
        self.top = position(graph, cuts, last)
        self.bottom = min(self.at.values())
        for name, i in self.at.items():
            if i > self.top:
                raise ValueError(
                    f"the layer {name!r} lies above {last!r}, where the flow starts; "
                    f"start there with last={name!r}"
                )

    def flow(self, x, targets, solver, class_chunk):
        """What a `Flow` holds, in this order, of a batch of one image."""
        between = self.stages[self.bottom : self.top]
        values = self.values[self.bottom : self.top + 1]
        held = list(dict.fromkeys(v for stage in between for v in stage.constants))
        known = self.model.evaluate([x], outputs=[*values, *held])
        forward, held = known[: len(values)], dict(zip(held, known[len(values) :], strict=True))
        constants = [tuple(held[v] for v in stage.constants) for stage in between]

        led = [start(forward[-1])]
        for stage, held, a in reversed(list(zip(between, constants, forward, strict=False))):
            led.append(preimage(stage, held, a, led[-1], solver))
        led.reverse()
        features = [step.value for step in led]

        def above(value):
            return self.model.evaluate([x], given={self.values[self.top]: value})[0]

        scores, pull = jax.vjp(above, forward[-1])

        def carry_down(seed):
            g = pull(seed.astype(scores.dtype))[0].astype(features[-1].dtype)
            found = [g]
            for stage, held, a, below in reversed(
                list(zip(between, constants, forward, features, strict=False))
            ):
                g = coefficients(stage, held, a, below, g)
                found.append(g)
            found.reverse()
            alphas = {name: found[i - self.bottom] for name, i in self.at.items()}
            maps = {
                name: self.layouts[name]
                .maps(alphas[name] * features[i - self.bottom])
                .sum(-1)
                .astype(self.values[i].aval.dtype)
                for name, i in self.at.items()
            }
            return maps, {name: self.layouts[name].maps(a) for name, a in alphas.items()}

        maps, alphas = over_targets(carry_down, scores, targets, class_chunk)
        chosen = {name: i - self.bottom for name, i in self.at.items()}
        # The solves of a layer are those between it and the next one above.
        solves = {
            name: [
                led[j] for j in range(i, len(led)) if not any(i < k <= j for k in chosen.values())
            ]
            for name, i in chosen.items()
        }
        return (
            maps,
            {name: self.layouts[name].maps(features[i]) for name, i in chosen.items()},
            alphas,
            {name: jnp.stack([s.residual for s in steps]).max() for name, steps in solves.items()},
            {name: jnp.stack([s.steps for s in steps]).sum() for name, steps in solves.items()},
        )
