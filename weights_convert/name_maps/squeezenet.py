"""SqueezeNet 1.0 and 1.1."""

from jaxplain.weights_convert.name_maps import CAFFE, KERAS, TORCH, NameMap

#: Version -> where the fire modules stand among torch's numbered layers.
_FIRES = {
    "1.0": {2: 3, 3: 4, 4: 5, 5: 7, 6: 8, 7: 9, 8: 10, 9: 12},
    "1.1": {2: 3, 3: 4, 4: 6, 5: 7, 6: 9, 7: 10, 8: 11, 9: 12},
}

#: Version -> map.
TORCHVISION = {
    version: NameMap(
        source="torchvision",
        modules={
            "conv1": "features.0",
            **{f"fire{i}.{{conv}}": f"features.{n}.{{conv}}" for i, n in fires.items()},
            "conv10": "classifier.1",
        },
        **TORCH,
    )
    for version, fires in _FIRES.items()
}

_AUTHORS_MODULES = {
    "conv1": "conv1",
    "fire{i}.squeeze": "fire{i}/squeeze1x1",
    "fire{i}.{expand}": "fire{i}/{expand}",
    "conv10": "conv10",
}
#: The authors' squeezenet_v1.0 and squeezenet_v1.1, in Caffe.
AUTHORS = NameMap(source="caffe", modules=_AUTHORS_MODULES, bgr="conv1", **CAFFE)

#: keras-squeezenet: the authors' weights of version 1.1.
KERAS_SQUEEZENET = NameMap(source="keras", modules=_AUTHORS_MODULES, bgr="conv1", **KERAS)
