"""Networks in Flax NNX, with pretrained weights, preprocessing and class names.

model = jaxplain.models.from_pretrained("efficientnet_lite0")
logits = model(jaxplain.models.preprocess(image, model.config))
"""

from jaxplain.models.classes import class_index, nearest
from jaxplain.models.config import ModelConfig
from jaxplain.models.efficientnet import EfficientNetLite
from jaxplain.models.network import Network
from jaxplain.models.own import own_network
from jaxplain.models.preprocessing import crop_box, preprocess
from jaxplain.models.pretrained import from_pretrained, list_models, save_pretrained, untrained

__all__ = [
    "EfficientNetLite",
    "ModelConfig",
    "Network",
    "class_index",
    "crop_box",
    "from_pretrained",
    "list_models",
    "nearest",
    "own_network",
    "preprocess",
    "save_pretrained",
    "untrained",
]
