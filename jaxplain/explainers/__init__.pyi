"""Made by tests/helpers/explainer_stub.py from the signatures; not to be edited."""

from collections.abc import Callable, Sequence
from typing import Literal, overload

import jax

from jaxplain.explainers._least_squares import LeastSquares as LeastSquares
from jaxplain.explainers._types import (
    ClassChunk,
    Composite,
    Images,
    Layers,
    Network,
    Reduce,
    Targets,
    Tokens,
)
from jaxplain.explainers.attention_maps import attention_rollout as attention_rollout
from jaxplain.explainers.attention_maps import legrad as legrad
from jaxplain.explainers.attention_maps import transformer_attribution as transformer_attribution
from jaxplain.explainers.averaged_gradients import integrated_gradients as integrated_gradients
from jaxplain.explainers.dense_attention import DenseAttention as DenseAttention
from jaxplain.explainers.dense_attention import dense_attention as dense_attention
from jaxplain.explainers.feedback import Feedback as Feedback
from jaxplain.explainers.fitted_cam import FittedCam as FittedCam
from jaxplain.explainers.fitted_cam import fit_cam as fit_cam
from jaxplain.explainers.fitted_cam import fitted_cam as fitted_cam
from jaxplain.explainers.full_grad import full_grad as full_grad
from jaxplain.explainers.full_grad import full_grad_terms as full_grad_terms
from jaxplain.explainers.naflow import Flow as Flow
from jaxplain.explainers.naflow import contribution_weights as contribution_weights
from jaxplain.explainers.perturbation import occlusion as occlusion
from jaxplain.explainers.perturbation import rise as rise
from jaxplain.explainers.pfv import PFVBasis as PFVBasis
from jaxplain.explainers.pfv import PrincipalFeatures as PrincipalFeatures
from jaxplain.explainers.pfv import pfv as pfv
from jaxplain.explainers.pfv import pfv_apply as pfv_apply
from jaxplain.explainers.pfv import pfv_fit as pfv_fit

__all__ = [
    "DenseAttention",
    "Feedback",
    "FittedCam",
    "Flow",
    "LeastSquares",
    "PFVBasis",
    "PrincipalFeatures",
    "ablation_cam",
    "attention_rollout",
    "cam",
    "contrastive_cam",
    "contrastive_deconvnet",
    "contrastive_gradient",
    "contribution_weights",
    "deconvnet",
    "dense_attention",
    "eigen_cam",
    "excitation_backprop",
    "feedback",
    "fit_cam",
    "fitted_cam",
    "full_grad",
    "full_grad_terms",
    "grad_cam",
    "grad_cam_plus_plus",
    "gradient",
    "guided_backprop",
    "guided_grad_cam",
    "hires_cam",
    "input_x_gradient",
    "integrated_gradients",
    "layer_cam",
    "legrad",
    "lrp",
    "naflow",
    "naflow_similarity",
    "occlusion",
    "pfv",
    "pfv_apply",
    "pfv_fit",
    "relevance_cam",
    "rise",
    "score_cam",
    "smooth_grad",
    "transformer_attribution",
    "winner_take_all",
    "x_grad_cam",
]

@overload
def ablation_cam(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: str | None = None,
    tokens: Tokens = None,
    relative: bool = True,
    relu: bool = True,
    batch_size: int = 16,
) -> jax.Array: ...
@overload
def ablation_cam(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: Sequence[str],
    tokens: Tokens = None,
    relative: bool = True,
    relu: bool = True,
    batch_size: int = 16,
) -> dict[str, jax.Array]: ...
@overload
def cam(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: str | None = None,
    tokens: Tokens = None,
    relu: bool = False,
    class_chunk: ClassChunk = "auto",
) -> jax.Array: ...
@overload
def cam(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: Sequence[str],
    tokens: Tokens = None,
    relu: bool = False,
    class_chunk: ClassChunk = "auto",
) -> dict[str, jax.Array]: ...
@overload
def contrastive_cam(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: str | None = None,
    tokens: Tokens = None,
    classifier: str = "last_linear",
    class_chunk: ClassChunk = "auto",
) -> jax.Array: ...
@overload
def contrastive_cam(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: Sequence[str],
    tokens: Tokens = None,
    classifier: str = "last_linear",
    class_chunk: ClassChunk = "auto",
) -> dict[str, jax.Array]: ...
@overload
def contrastive_deconvnet(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: str | None = "input",
    tokens: Tokens = None,
    form: Literal["zeiler", "springenberg"] = "springenberg",
    classifier: str = "last_linear",
    reduce: Literal["max_abs", "sum", "l2"] = "max_abs",
    class_chunk: ClassChunk = "auto",
) -> jax.Array: ...
@overload
def contrastive_deconvnet(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: Sequence[str],
    tokens: Tokens = None,
    form: Literal["zeiler", "springenberg"] = "springenberg",
    classifier: str = "last_linear",
    reduce: Literal["max_abs", "sum", "l2"] = "max_abs",
    class_chunk: ClassChunk = "auto",
) -> dict[str, jax.Array]: ...
@overload
def contrastive_gradient(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: str | None = "input",
    tokens: Tokens = None,
    classifier: str = "last_linear",
    reduce: Literal["max_abs", "sum", "l2"] = "max_abs",
    class_chunk: ClassChunk = "auto",
) -> jax.Array: ...
@overload
def contrastive_gradient(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: Sequence[str],
    tokens: Tokens = None,
    classifier: str = "last_linear",
    reduce: Literal["max_abs", "sum", "l2"] = "max_abs",
    class_chunk: ClassChunk = "auto",
) -> dict[str, jax.Array]: ...
@overload
def deconvnet(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: str | None = "input",
    tokens: Tokens = None,
    form: Literal["zeiler", "springenberg"] = "zeiler",
    reduce: Reduce = "max_abs",
    class_chunk: ClassChunk = "auto",
) -> jax.Array: ...
@overload
def deconvnet(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: Sequence[str],
    tokens: Tokens = None,
    form: Literal["zeiler", "springenberg"] = "zeiler",
    reduce: Reduce = "max_abs",
    class_chunk: ClassChunk = "auto",
) -> dict[str, jax.Array]: ...
@overload
def eigen_cam(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: str | None = None,
    tokens: Tokens = None,
    centre: bool = False,
) -> jax.Array: ...
@overload
def eigen_cam(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: Sequence[str],
    tokens: Tokens = None,
    centre: bool = False,
) -> dict[str, jax.Array]: ...
@overload
def excitation_backprop(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: str | None = None,
    tokens: Tokens = None,
    contrastive: bool = False,
    residual: Literal["excitation", "signed", "magnitude", "branch"] = "excitation",
    form: Literal["signed", "plain"] = "signed",
    fold_scales: bool = True,
    lower_bound: bool = False,
    normalise: Literal["full", "post", "none"] = "full",
    classifier: str = "last_linear",
    channels: bool = False,
    class_chunk: ClassChunk = "auto",
) -> jax.Array: ...
@overload
def excitation_backprop(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: Sequence[str],
    tokens: Tokens = None,
    contrastive: bool = False,
    residual: Literal["excitation", "signed", "magnitude", "branch"] = "excitation",
    form: Literal["signed", "plain"] = "signed",
    fold_scales: bool = True,
    lower_bound: bool = False,
    normalise: Literal["full", "post", "none"] = "full",
    classifier: str = "last_linear",
    channels: bool = False,
    class_chunk: ClassChunk = "auto",
) -> dict[str, jax.Array]: ...
@overload
def feedback(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    steps: int = 10,
    mode: Literal["hard", "soft"] = "hard",
    order: Literal["sequential", "simultaneous"] = "sequential",
    step_size: float = 1.0,
    reduce: Reduce = "max_abs",
    details: Literal[False] = False,
    class_chunk: ClassChunk = "auto",
) -> jax.Array: ...
@overload
def feedback(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    steps: int = 10,
    mode: Literal["hard", "soft"] = "hard",
    order: Literal["sequential", "simultaneous"] = "sequential",
    step_size: float = 1.0,
    reduce: Reduce = "max_abs",
    details: Literal[True],
    class_chunk: ClassChunk = "auto",
) -> Feedback: ...
@overload
def grad_cam(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: str | None = None,
    tokens: Tokens = None,
    relu: bool = True,
    class_chunk: ClassChunk = "auto",
) -> jax.Array: ...
@overload
def grad_cam(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: Sequence[str],
    tokens: Tokens = None,
    relu: bool = True,
    class_chunk: ClassChunk = "auto",
) -> dict[str, jax.Array]: ...
@overload
def grad_cam_plus_plus(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: str | None = None,
    tokens: Tokens = None,
    eps: float = 0.0,
    relu: bool = False,
    class_chunk: ClassChunk = "auto",
) -> jax.Array: ...
@overload
def grad_cam_plus_plus(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: Sequence[str],
    tokens: Tokens = None,
    eps: float = 0.0,
    relu: bool = False,
    class_chunk: ClassChunk = "auto",
) -> dict[str, jax.Array]: ...
@overload
def gradient(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: str | None = "input",
    tokens: Tokens = None,
    reduce: Reduce = "max_abs",
    class_chunk: ClassChunk = "auto",
) -> jax.Array: ...
@overload
def gradient(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: Sequence[str],
    tokens: Tokens = None,
    reduce: Reduce = "max_abs",
    class_chunk: ClassChunk = "auto",
) -> dict[str, jax.Array]: ...
@overload
def guided_backprop(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: str | None = "input",
    tokens: Tokens = None,
    reduce: Reduce = "max_abs",
    class_chunk: ClassChunk = "auto",
) -> jax.Array: ...
@overload
def guided_backprop(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: Sequence[str],
    tokens: Tokens = None,
    reduce: Reduce = "max_abs",
    class_chunk: ClassChunk = "auto",
) -> dict[str, jax.Array]: ...
@overload
def guided_grad_cam(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: str | None = None,
    tokens: Tokens = None,
    resize: Literal["bilinear", "nearest"] = "bilinear",
    reduce: Reduce = "max_abs",
    class_chunk: ClassChunk = "auto",
) -> jax.Array: ...
@overload
def guided_grad_cam(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: Sequence[str],
    tokens: Tokens = None,
    resize: Literal["bilinear", "nearest"] = "bilinear",
    reduce: Reduce = "max_abs",
    class_chunk: ClassChunk = "auto",
) -> dict[str, jax.Array]: ...
@overload
def hires_cam(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: str | None = None,
    tokens: Tokens = None,
    relu: bool = False,
    class_chunk: ClassChunk = "auto",
) -> jax.Array: ...
@overload
def hires_cam(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: Sequence[str],
    tokens: Tokens = None,
    relu: bool = False,
    class_chunk: ClassChunk = "auto",
) -> dict[str, jax.Array]: ...
@overload
def input_x_gradient(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: str | None = "input",
    tokens: Tokens = None,
    reduce: Reduce = "sum",
    class_chunk: ClassChunk = "auto",
) -> jax.Array: ...
@overload
def input_x_gradient(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: Sequence[str],
    tokens: Tokens = None,
    reduce: Reduce = "sum",
    class_chunk: ClassChunk = "auto",
) -> dict[str, jax.Array]: ...
@overload
def layer_cam(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: str | None = None,
    tokens: Tokens = None,
    relu: bool = False,
    class_chunk: ClassChunk = "auto",
) -> jax.Array: ...
@overload
def layer_cam(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: Sequence[str],
    tokens: Tokens = None,
    relu: bool = False,
    class_chunk: ClassChunk = "auto",
) -> dict[str, jax.Array]: ...
@overload
def lrp(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: str | None = "input",
    tokens: Tokens = None,
    composite: Composite | None = None,
    seed: Literal["score", "one"] = "score",
    box: tuple | None = None,
    channels: bool = False,
    class_chunk: ClassChunk = "auto",
) -> jax.Array: ...
@overload
def lrp(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: Sequence[str],
    tokens: Tokens = None,
    composite: Composite | None = None,
    seed: Literal["score", "one"] = "score",
    box: tuple | None = None,
    channels: bool = False,
    class_chunk: ClassChunk = "auto",
) -> dict[str, jax.Array]: ...
@overload
def naflow(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: str,
    tokens: Tokens = None,
    last: str | None = None,
    solver: LeastSquares = ...,
    details: Literal[False] = False,
    class_chunk: ClassChunk = "auto",
) -> jax.Array: ...
@overload
def naflow(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: list[str] | tuple[str, ...] | None = None,
    tokens: Tokens = None,
    last: str | None = None,
    solver: LeastSquares = ...,
    details: Literal[False] = False,
    class_chunk: ClassChunk = "auto",
) -> dict[str, jax.Array]: ...
@overload
def naflow(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: Layers = None,
    tokens: Tokens = None,
    last: str | None = None,
    solver: LeastSquares = ...,
    details: Literal[True],
    class_chunk: ClassChunk = "auto",
) -> Flow: ...
@overload
def naflow_similarity(
    fn: Network,
    x: Images,
    reference: Images,
    *,
    layer: str,
    tokens: Tokens = None,
    last: str | None = None,
    similarity: Callable[..., jax.Array] | None = None,
    solver: LeastSquares = ...,
    details: Literal[False] = False,
) -> jax.Array: ...
@overload
def naflow_similarity(
    fn: Network,
    x: Images,
    reference: Images,
    *,
    layer: list[str] | tuple[str, ...] | None = None,
    tokens: Tokens = None,
    last: str | None = None,
    similarity: Callable[..., jax.Array] | None = None,
    solver: LeastSquares = ...,
    details: Literal[False] = False,
) -> dict[str, jax.Array]: ...
@overload
def naflow_similarity(
    fn: Network,
    x: Images,
    reference: Images,
    *,
    layer: Layers = None,
    tokens: Tokens = None,
    last: str | None = None,
    similarity: Callable[..., jax.Array] | None = None,
    solver: LeastSquares = ...,
    details: Literal[True],
) -> Flow: ...
@overload
def relevance_cam(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: str | None = None,
    tokens: Tokens = None,
    composite: Composite | None = None,
    contrastive: bool = True,
    relu: bool = False,
    class_chunk: ClassChunk = "auto",
) -> jax.Array: ...
@overload
def relevance_cam(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: Sequence[str],
    tokens: Tokens = None,
    composite: Composite | None = None,
    contrastive: bool = True,
    relu: bool = False,
    class_chunk: ClassChunk = "auto",
) -> dict[str, jax.Array]: ...
@overload
def score_cam(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: str | None = None,
    tokens: Tokens = None,
    weighting: Literal["softmax", "increase"] = "softmax",
    align_corners: bool = False,
    relu: bool = True,
    batch_size: int = 16,
) -> jax.Array: ...
@overload
def score_cam(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: Sequence[str],
    tokens: Tokens = None,
    weighting: Literal["softmax", "increase"] = "softmax",
    align_corners: bool = False,
    relu: bool = True,
    batch_size: int = 16,
) -> dict[str, jax.Array]: ...
@overload
def smooth_grad(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: str | None = "input",
    tokens: Tokens = None,
    key: jax.Array,
    samples: int = 25,
    noise: float = 0.15,
    reduce: Reduce = "max_abs",
    class_chunk: ClassChunk = "auto",
) -> jax.Array: ...
@overload
def smooth_grad(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: Sequence[str],
    tokens: Tokens = None,
    key: jax.Array,
    samples: int = 25,
    noise: float = 0.15,
    reduce: Reduce = "max_abs",
    class_chunk: ClassChunk = "auto",
) -> dict[str, jax.Array]: ...
@overload
def winner_take_all(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: str | None = None,
    tokens: Tokens = None,
    class_chunk: ClassChunk = "auto",
) -> jax.Array: ...
@overload
def winner_take_all(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: Sequence[str],
    tokens: Tokens = None,
    class_chunk: ClassChunk = "auto",
) -> dict[str, jax.Array]: ...
@overload
def x_grad_cam(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: str | None = None,
    tokens: Tokens = None,
    eps: float = 1e-07,
    relu: bool = False,
    class_chunk: ClassChunk = "auto",
) -> jax.Array: ...
@overload
def x_grad_cam(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    layer: Sequence[str],
    tokens: Tokens = None,
    eps: float = 1e-07,
    relu: bool = False,
    class_chunk: ClassChunk = "auto",
) -> dict[str, jax.Array]: ...
