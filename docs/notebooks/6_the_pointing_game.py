# %% [markdown]
# # The pointing game
#
# Is the maximum of a class's map on an object of the class? On your own data set it needs boxes, and a network that knows the
# classes. Here: squares of a colour in noise.

# %%
import jax
import numpy as np
from flax import nnx

import jaxplain
from jaxplain import data
from jaxplain.evaluation.studies import pointing

SIZE = 48


class Colours(nnx.Module):
    def __init__(self):
        self.conv = nnx.Conv(3, 3, (3, 3), use_bias=False, rngs=nnx.Rngs(0))
        own = np.full((3, 3), -0.5) + 1.5 * np.eye(3)
        self.conv.kernel[...] = np.broadcast_to(own / 9, (3, 3, 3, 3)).astype("float32")

    def __call__(self, x):
        return 20 * nnx.relu(self.conv(x)).mean((1, 2))


class Squares(list):
    name, class_names = "squares", ("red", "green", "blue")


rng = np.random.default_rng(0)
source = Squares()
for i in range(8):
    image = rng.integers(60, 110, (SIZE, SIZE, 3), dtype=np.uint8)
    boxes, labels = [], [i % 3, (i + 1) % 3]
    for label, left in zip(labels, (2, 26), strict=True):
        top = int(rng.integers(0, 28))
        image[top : top + 18, left : left + 18, label] += 120
        boxes.append((left, top, left + 18, top + 18))
    source.append(data.Record.make(image, f"{i}", labels, boxes))

net = Colours()
report = pointing.pointing_game(
    source,
    lambda record: record.image,
    lambda pixels: pixels.astype("float32") / 255,
    np.eye(3, dtype=np.float32),
    {
        name: pointing.PointingMethod(lambda x, t, f=f: f(net, x, t), blurred)
        for name, f, blurred in (
            ("Gradient", jaxplain.gradient, True),
            ("Grad-CAM", jaxplain.grad_cam, False),
            (
                "c-MWP",
                lambda n, x, t: jaxplain.excitation_backprop(n, x, t, contrastive=True),
                False,
            ),
        )
    },
    batch_size=8,
)
report

# %%
assert [row[0] for row in report.table][0] == "Center" and len(report.table) == 4
jaxplain.explain(
    source[0].image,
    net,
    ["gradient", "grad-cam", "c-mwp"],
    [0, 1],
    preprocess=lambda p: p / 255.0,
    class_names=source.class_names,
)

# %% [markdown]
# ## On a GPU or TPU
#
# Nothing changes: JAX puts the arrays there. The cell below measures it, and is skipped on a processor.

# %%
if jax.default_backend() != "cpu":
    print(jax.devices())
