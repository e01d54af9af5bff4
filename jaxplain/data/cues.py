"""What to tell a network to look for: from a data set's classes to the network's outputs.

A network with a head for the data set has one output per class. For one that knows ImageNet's
classes, a class is the prior that is uniform over the ImageNet classes that are kinds of it (P(A_0)
of Excitation Backprop). Some classes have none, and cannot be asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

__all__ = ["COCO_TO_IMAGENET", "VOC_TO_IMAGENET", "cue_signals"]

_BIRDS = (*range(7, 25), *range(80, 101), *range(127, 147))
_DOGS = tuple(range(151, 269))
_CATS = tuple(range(281, 286))
_BOATS = (472, 484, 510, 554, 576, 625, 628, 724, 780, 814, 871, 914)
_BOTTLES = (440, 720, 737, 898, 907)
_BUSES = (654, 779, 874)
_CARS = (407, 436, 468, 511, 609, 627, 656, 661, 734, 751, 817)
_CHAIRS = (423, 559, 765, 857)
_PERSONS = (981, 982, 983)  # the only ones: ball player, groom, scuba diver
_SHEEP = (348, 349)
_TRAINS = (466, 547, 565, 705, 820)
_SCREENS = (664, 782, 851)

#: PASCAL VOC's classes: indices of the ImageNet classes (ILSVRC 2012, 0 to 999) that are kinds of
#: them.
VOC_TO_IMAGENET: Mapping[str, tuple[int, ...]] = {
    "aeroplane": (404, 895),
    "bicycle": (444, 671),
    "bird": _BIRDS,
    "boat": _BOATS,
    "bottle": _BOTTLES,
    "bus": _BUSES,
    "car": (*_CARS, 717),
    "cat": _CATS,
    "chair": _CHAIRS,
    "cow": (345,),
    "diningtable": (532,),
    "dog": _DOGS,
    "horse": (339,),
    "motorbike": (665, 670),
    "person": _PERSONS,
    "pottedplant": (738,),
    "sheep": _SHEEP,
    "sofa": (831,),
    "train": _TRAINS,
    "tvmonitor": _SCREENS,
}

#: COCO's classes likewise; () where ImageNet has no kind of it.
COCO_TO_IMAGENET: Mapping[str, tuple[int, ...]] = {
    "person": _PERSONS,
    "bicycle": (444, 671),
    "car": _CARS,
    "motorcycle": (665, 670),
    "airplane": (404, 895),
    "bus": _BUSES,
    "train": _TRAINS,
    "truck": (555, 569, 675, 717, 864, 867),
    "boat": _BOATS,
    "traffic light": (920,),
    "fire hydrant": (),
    "stop sign": (919,),
    "parking meter": (704,),
    "bench": (703,),
    "bird": _BIRDS,
    "cat": _CATS,
    "dog": _DOGS,
    "horse": (339,),
    "sheep": _SHEEP,
    "cow": (345,),
    "elephant": (101, 385, 386),
    "bear": (294, 295, 296, 297),
    "zebra": (340,),
    "giraffe": (),
    "backpack": (414,),
    "umbrella": (879,),
    "handbag": (748,),
    "tie": (457, 906),
    "suitcase": (),
    "frisbee": (),
    "skis": (795,),
    "snowboard": (),
    "sports ball": (429, 430, 522, 574, 722, 768, 805, 852, 890),
    "kite": (),
    "baseball bat": (),
    "baseball glove": (),
    "skateboard": (),
    "surfboard": (),
    "tennis racket": (752,),
    "bottle": _BOTTLES,
    "wine glass": (572,),
    "cup": (441, 504, 968),
    "fork": (),
    "knife": (499,),
    "spoon": (910,),
    "bowl": (659, 809),
    "banana": (954,),
    "apple": (948,),
    "sandwich": (933,),
    "orange": (950,),
    "broccoli": (937,),
    "carrot": (),
    "hot dog": (934,),
    "pizza": (963,),
    "donut": (),
    "cake": (),
    "chair": _CHAIRS,
    "couch": (831,),
    "potted plant": (738,),
    "bed": (520, 564),
    "dining table": (532,),
    "toilet": (861,),
    "tv": _SCREENS,
    "laptop": (620, 681),
    "mouse": (673,),
    "remote": (761,),
    "keyboard": (508,),
    "cell phone": (487,),
    "microwave": (651,),
    "oven": (827,),
    "toaster": (859,),
    "sink": (896,),
    "refrigerator": (760,),
    "book": (917, 921),
    "clock": (409, 530, 892),
    "vase": (883,),
    "scissors": (),
    "teddy bear": (850,),
    "hair drier": (589,),
    "toothbrush": (),
}


def cue_signals(
    class_names: Sequence[str], outputs: int, output_names: Sequence[str] = ()
) -> np.ndarray:
    """The signal at the network's outputs for each class of a data set.

    Where the network's outputs are the data set's classes (the same names, or no names and the same
    number), it is one to one. For the 1000 classes of ImageNet it is the uniform prior over the
    classes in the tables of VOC and COCO.

    Args:
        class_names: of the data set, C of them.
        outputs: the number of the network's outputs, N.
        output_names: their names, where known.

    Returns:
        float32 ``(C, N)``; rows sum to 1, and are all zeros for classes without any output.

    Raises:
        ValueError: there is no way from these classes to these outputs.

    Example:
        >>> from jaxplain.data import VOC_CLASSES, cue_signals
        >>> signals = cue_signals(VOC_CLASSES, 1000)
        >>> signals.shape, signals[0].nonzero()[0].tolist(), float(signals[0].sum())
        ((20, 1000), [404, 895], 1.0)
        >>> cue_signals(["cat", "dog"], 2).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    if tuple(output_names) == tuple(class_names) or (
        not output_names and outputs == len(class_names)
    ):
        return np.eye(outputs, dtype=np.float32)
    signals = np.zeros((len(class_names), outputs), np.float32)
    for table in (VOC_TO_IMAGENET, COCO_TO_IMAGENET):
        if outputs == 1000 and all(name in table for name in class_names):
            for row, name in zip(signals, class_names, strict=True):
                if table[name]:
                    row[list(table[name])] = 1 / len(table[name])
            return signals
    raise ValueError(
        f"There is no table from these {len(class_names)} classes "
        f"({', '.join(class_names[:3])} ...) to a network's {outputs} outputs; use a network with "
        "a head for the data set, or pass signals."
    )
