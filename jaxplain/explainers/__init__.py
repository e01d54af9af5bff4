"""The explainers: pure functions from a network, images and targets to maps."""

from jaxplain.explainers.activation_cams import (
    ablation_cam,
    eigen_cam,
    relevance_cam,
    score_cam,
)
from jaxplain.explainers.cams import (
    cam,
    grad_cam,
    grad_cam_plus_plus,
    guided_grad_cam,
    hires_cam,
    layer_cam,
    x_grad_cam,
)
from jaxplain.explainers.contrastive import contrastive_deconvnet, contrastive_gradient
from jaxplain.explainers.dense_attention import DenseAttention, dense_attention
from jaxplain.explainers.excitation import excitation_backprop, winner_take_all
from jaxplain.explainers.feedback import Feedback, feedback
from jaxplain.explainers.fitted_cam import FittedCam, fit_cam, fitted_cam
from jaxplain.explainers.full_grad import full_grad, full_grad_terms
from jaxplain.explainers.gradients import (
    deconvnet,
    gradient,
    guided_backprop,
    input_x_gradient,
    integrated_gradients,
    smooth_grad,
)
from jaxplain.explainers.lrp import lrp
from jaxplain.explainers.naflow import (
    Flow,
    LeastSquares,
    contribution_weights,
    naflow,
    naflow_similarity,
)
from jaxplain.explainers.perturbation import occlusion, rise
from jaxplain.explainers.pfv import PFVBasis, PrincipalFeatures, pfv, pfv_apply, pfv_fit

__all__ = [
    "FittedCam",
    "ablation_cam",
    "contrastive_deconvnet",
    "contrastive_gradient",
    "eigen_cam",
    "fit_cam",
    "fitted_cam",
    "full_grad",
    "full_grad_terms",
    "occlusion",
    "relevance_cam",
    "rise",
    "score_cam",
    "Flow",
    "LeastSquares",
    "contribution_weights",
    "naflow",
    "naflow_similarity",
    "DenseAttention",
    "PFVBasis",
    "dense_attention",
    "PrincipalFeatures",
    "pfv",
    "pfv_apply",
    "pfv_fit",
    "Feedback",
    "cam",
    "deconvnet",
    "excitation_backprop",
    "feedback",
    "grad_cam",
    "grad_cam_plus_plus",
    "gradient",
    "guided_backprop",
    "guided_grad_cam",
    "hires_cam",
    "input_x_gradient",
    "integrated_gradients",
    "layer_cam",
    "lrp",
    "smooth_grad",
    "winner_take_all",
    "x_grad_cam",
]
