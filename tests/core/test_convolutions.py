"""The derivative of convolutions that leaves the kernel as it lies, against JAX's."""

import jax
import jax.numpy as jnp
import nets
import numpy as np
import pytest
from jax import lax

import jaxplain

# (image, channels in and out, window, strides, padding, dilation of the window): a network's first
# layer, a signal smaller than the kernel, one place, strides that differ and leave pixels out, and
# padding below zero.
CASES = [
    ((2, 9, 8, 3), 5, (7, 7), (2, 2), ((3, 3), (3, 3)), (1, 1)),
    ((1, 7, 7, 6), 100, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)),
    ((2, 9, 8, 4), 6, (1, 1), (2, 2), ((0, 0), (0, 0)), (1, 1)),
    ((1, 8, 7, 4), 80, (3, 2), (2, 3), ((1, 0), (2, 2)), (1, 2)),
    ((2, 11, 9, 2), 5, (2, 3), (3, 2), ((-1, 2), (0, 1)), (1, 1)),
    ((2, 9, 9, 2), 4, (3, 3), (2, 1), ((0, 1), (1, 0)), (1, 1)),
    ((2, 9, 9, 2), 4, (1, 1), (1, 1), ((1, 1), (0, 1)), (1, 1)),
    ((1, 5, 9, 2), 4, (1, 3), (1, 4), ((0, 0), (0, 0)), (1, 1)),
    ((1, 16, 16, 8), 4, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)),
]


def convolution(case, kernel_axes):
    """The function, an image and a kernel."""
    shape, out, window, strides, padding, dilation = case
    sizes = dict(H=window[0], W=window[1], I=shape[-1], O=out)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=shape))
    kernel = jnp.asarray(rng.normal(size=[sizes[c] for c in kernel_axes]))

    def function(x, kernel):
        return lax.conv_general_dilated(
            x,
            kernel,
            strides,
            padding,
            rhs_dilation=dilation,
            dimension_numbers=("NHWC", kernel_axes, "NHWC"),
        )

    return function, x, kernel


@pytest.mark.parametrize("kernel_axes", ["HWIO", "OIHW"])
def test_signals_tangents_and_second_derivatives_are_jaxs(kernel_axes, x64):
    def found(function, x, v, kernel):
        def energy(x, kernel):
            return (function(x, kernel) ** 3).sum()

        pulled = jax.grad(energy, (0, 1))
        return (
            pulled(x, kernel),
            jax.jvp(lambda x: function(x, kernel), (x,), (v,)),
            jax.grad(lambda kernel: (pulled(x, kernel)[0] * v).sum())(kernel),
        )

    for case in CASES:
        function, x, kernel = convolution(case, kernel_axes)
        model = jaxplain.trace(function, x, kernel)
        v = jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape)
        expected, ours = found(function, x, v, kernel), found(model, x, v, kernel)
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
            assert nets.relative_error(a, b) < 1e-12, case


def test_the_kernel_is_not_written_anew():
    function, x, kernel = convolution(CASES[1], "HWIO")

    def program(function):
        def pulled(x, kernel, g):
            return jax.vjp(lambda x: function(x, kernel), x)[1](g)

        g = jax.ShapeDtypeStruct((1, 7, 7, 100), x.dtype)
        return jax.jit(pulled).lower(x, kernel, g).as_text()

    assert "reverse" in program(function)
    assert "reverse" not in program(jaxplain.trace(function, x, kernel))


@pytest.mark.skipif(
    jax.__version_info__ < (0, 12), reason="the compiler of earlier versions keeps masks by itself"
)
def test_a_gradient_keeps_masks_and_not_values(fully_compiled):
    # Eight layers of 1 MB each: their masks are a quarter of that.
    kernels = [jnp.full((1, 1, 16, 16), 0.1)] * 8

    def network(x, kernels):
        for kernel in kernels:
            x = jax.nn.relu(
                lax.conv_general_dilated(
                    x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
                )
            )
        return x.mean((1, 2))

    x = jnp.ones((1, 128, 128, 16))
    model = jaxplain.trace(network, x, kernels)

    def held(function):
        program = jax.jit(jax.grad(lambda x: function(x, kernels)[0, 0])).lower(x).compile()
        return program.memory_analysis().temp_size_in_bytes

    assert held(model) < 0.6 * held(network)
