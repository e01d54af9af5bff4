"""The explainers: pure functions from a network, images and targets to maps."""

from jaxplain.explainers.cams import (
    cam,
    grad_cam,
    grad_cam_plus_plus,
    guided_grad_cam,
    hires_cam,
    layer_cam,
    x_grad_cam,
)
from jaxplain.explainers.excitation import excitation_backprop, winner_take_all
from jaxplain.explainers.feedback import Feedback, feedback
from jaxplain.explainers.gradients import (
    deconvnet,
    gradient,
    guided_backprop,
    input_x_gradient,
    integrated_gradients,
    smooth_grad,
)
from jaxplain.explainers.lrp import lrp

__all__ = [
    "Feedback", "cam", "deconvnet", "excitation_backprop", "feedback", "grad_cam",
    "grad_cam_plus_plus", "gradient",
    "guided_backprop", "guided_grad_cam", "hires_cam", "input_x_gradient", "integrated_gradients",
    "layer_cam", "lrp", "smooth_grad", "winner_take_all", "x_grad_cam",
]
