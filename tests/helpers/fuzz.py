"""Changes files at random and reads them: weights, images, annotations, archives, maps.

`python tests/helpers/fuzz.py --iterations 1000000` writes a valid file of each kind, changes it,
and reads it. Whatever the change, a reader gives a result or one of its documented errors, in
little time and memory. A file that does otherwise is kept, and named with what came of it; then the
script ends with status 1.
"""

import argparse
import collections
import io
import json
import os
import resource
import signal
import sys
import tarfile
import tempfile
import time
import traceback
import warnings
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch_writer
import weight_files
from PIL import Image

from jaxplain import data
from jaxplain import weights_convert as wc
from jaxplain.core.places import folder_at
from jaxplain.data import shards

SECONDS, MEGABYTES = 10, 2000
#: Each of these starts a process, or writes a file by a slow library: one in so many iterations.
OTHERS = ("VOC", "COCO", "CUB", "tar", "settings of maps", "shard of maps")
RARE = {"keras_h5": 2000, "keras_zip": 2000}
SPECIAL = [b"\0", b"\xff", b"\x7f", b"\x80", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f"]
SPECIAL += [
    b"\0" * 8,
    b"\xff" * 8,
    b"[" * 40,
    b"(" * 40,
    b"-1",
    b"1e999",
    b"NaN",
    b"9" * 40,
    b'"',
    b"<",
]


class TooLong(BaseException):
    """A reader took longer than it may."""


# -- what is read ------------------------------------------------------------------------------


def _images():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (9, 13, 3), dtype=np.uint8)
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
        stream = io.BytesIO()
        picture = Image.fromarray(pixels)
        if kind == "JPEG":
            exif = picture.getexif()
            exif[0x0112] = 6
            picture.save(stream, kind, exif=exif)
        else:
            picture.save(stream, kind)
        yield f"image {kind}", "x.png", stream.getvalue()
    stream = io.BytesIO()
    Image.fromarray(rng.integers(0, 65536, (5, 7), dtype=np.uint16)).save(stream, "PNG")
    yield "image PNG of 16 bits", "x.png", stream.getvalue()


def _read_image(path):
    assert data.read_image(path).dtype == np.uint8


def _read_weights(path):
    assert all(isinstance(array, np.ndarray) for array in wc.read(path).values())


def whole(source):
    """All that a source, or a folder of maps, gives."""
    return [source[i] for i in range(len(source))]


def documented(kind):
    """The errors that are right."""
    if kind.startswith("image"):
        return data.UnreadableImageError
    return (ValueError, OSError) if kind in OTHERS else wc.CheckpointError


def _voc(folder):
    voc = folder / "VOC2007"
    for name in ("Annotations", "JPEGImages"):
        (voc / name).mkdir(parents=True)
    Image.new("RGB", (20, 10)).save(voc / "JPEGImages" / "a.jpg")
    box = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>8</ymax></bndbox>"
    text = (
        f"<annotation><object><name>cat</name>{box}<difficult>1</difficult></object></annotation>"
    )
    return voc / "Annotations" / "a.xml", text.encode(), lambda: whole(data.VOC(voc))


def _coco(folder):
    (folder / "annotations").mkdir(parents=True)
    (folder / "val").mkdir()
    Image.new("RGB", (20, 10)).save(folder / "val" / "a.jpg")
    about = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 10, "width": 20}],
        "categories": [{"id": 3, "name": "cat"}],
        "annotations": [
            {"id": 7, "image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4], "area": 12}
            | {"iscrowd": 0, "segmentation": [[1, 2, 4, 2, 4, 6]]}
        ],
    }
    file = folder / "annotations" / "instances_val.json"
    return file, json.dumps(about).encode(), lambda: whole(data.COCO(folder))


def _cub(folder):
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", (20, 10)).save(folder / "images" / "a.jpg")
    tables = {
        "images.txt": "1 a.jpg",
        "train_test_split.txt": "1 0",
        "image_class_labels.txt": "1 1",
        "classes.txt": "1 001.Black_bird",
        "bounding_boxes.txt": "1 1.0 2.0 5.0 6.0",
    }
    for name, text in tables.items():
        (folder / name).write_text(text + "\n")
    return folder / "bounding_boxes.txt", b"1 1.0 2.0 5.0 6.0\n", lambda: whole(data.CUB200(folder))


def _maps(folder, file):
    settings = {"records": 3, "shard_size": 3}
    place = folder_at(folder)
    place.make()
    shards.write_settings(place, {"settings": settings, "begun": {}, "program": None})
    writer = shards.ShardWriter(place, shards.shard_name(0, 1))
    for i in range(3):
        maps = {"a": np.ones((2, 2), np.float32)}
        writer.add(data.Explanation(f"{i}", i, (4, 4), (2, 2), np.int32(1), maps))
    writer.finish(settings=shards.digest_of(settings), shard=0, failures=[], made_by={})
    return folder / file, (folder / file).read_bytes(), lambda: whole(data.open_maps(folder))


def _tar(folder):
    folder.mkdir()
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for _, name, content in list(_images())[:2]:
            info = tarfile.TarInfo(f"{len(stream.getvalue())}{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    file = folder / "a.tar"
    return file, stream.getvalue(), lambda: whole(data.TarFiles(file))


def kinds(folder):
    """Kind -> (the file, its valid content, what reads it)."""
    found = {}
    weights = dict(weight_files.FORMATS)
    tensors = {n: torch_writer.view(v) for n, v in weight_files.DOTTED.items()}
    compressed = io.BytesIO()
    np.savez_compressed(compressed, **weight_files.DOTTED)
    contents = [(kind, name, write(t)) for kind, (name, write, t) in weights.items()]
    contents += [("torch_legacy", "x.pth", torch_writer.legacy(tensors))]
    contents += [("npz_compressed", "x.npz", compressed.getvalue())]
    for kind, name, content in contents:
        file = folder / kind / name
        found[kind] = file, content, lambda file=file: _read_weights(file)
    for kind, name, content in _images():
        file = folder / kind / name
        found[kind] = file, content, lambda file=file: _read_image(file)
    for kind, made in {
        "VOC": _voc(folder / "voc"),
        "COCO": _coco(folder / "coco"),
        "CUB": _cub(folder / "cub"),
        "tar": _tar(folder / "tar"),
        "settings of maps": _maps(folder / "settings", shards.SETTINGS),
        "shard of maps": _maps(folder / "shard", shards.shard_name(0, 1)),
    }.items():
        found[kind] = made
    return found


# -- how it is changed -------------------------------------------------------------------------


def changed(content, rng, others):
    """The content with one to eight changes."""
    out = bytearray(content)
    # Most of the structure of a file is at its beginning and end.
    reach = int(rng.choice([64, 512, len(out)]))
    for _ in range(int(rng.integers(1, 9))):
        size = len(out)
        if not size:
            break
        at = int(rng.integers(min(size, reach)))
        at = at if rng.random() < 0.75 else size - 1 - at
        length = int(rng.integers(1, 17))
        how = int(rng.integers(8))
        if how <= 1:
            out[at] = int(rng.integers(256))
        elif how == 2:
            out[at] ^= 1 << int(rng.integers(8))
        elif how == 3:
            special = SPECIAL[int(rng.integers(len(SPECIAL)))]
            out[at : at + len(special) * bool(rng.integers(2))] = special
        elif how == 4:
            del out[at : at + length]
        elif how == 5:
            out[at:at] = out[at : at + length] * int(rng.integers(1, 20))
        elif how == 6:
            other = others[int(rng.integers(len(others)))]
            begin = int(rng.integers(len(other)))
            out[at : at + length] = other[begin : begin + length]
        elif rng.random() < 0.3:
            del out[at:]
    return bytes(out)


def _late(*_):
    raise TooLong


def run(iterations, seed, folder):
    """Whether all went well; how many of each kind were read whole."""
    rng = np.random.default_rng(seed)
    found = kinds(folder)
    contents = [content for _, content, _ in found.values()]
    for file, content, read in found.values():  # what is not changed is read
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        read()
    names = [name for name in found if name not in RARE]
    tried, read_whole = collections.Counter(), collections.Counter()
    begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    before = signal.signal(signal.SIGALRM, _late)
    for i in range(iterations):
        kind = next((k for k, every in RARE.items() if i % every == every - 1), None)
        kind = kind or names[int(rng.integers(len(names)))]
        file, content, read = found[kind]
        file.write_bytes(changed(content, rng, contents))
        tried[kind] += 1
        signal.alarm(SECONDS)
        try:
            read()
            read_whole[kind] += 1
        except documented(kind) as error:
            wrong = None if len(str(error)) < 3000 else "a message of thousands of characters"
        except BaseException as error:  # all others are what is looked for
            traceback.print_exc()
            wrong = f"{type(error).__name__} after {i} iterations"
        else:
            wrong = None
        finally:
            signal.alarm(0)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - begun) >> 10
        wrong = wrong or (f"{grown} MB" if grown > MEGABYTES else None)
        if wrong:
            print(f"{kind}: {wrong}; the file is {file}")
            return False, tried, read_whole
        if file.parent.name in ("settings", "shard"):
            file.write_bytes(content)
    signal.signal(signal.SIGALRM, before)
    return True, tried, read_whole


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    folder, start = Path(tempfile.mkdtemp(prefix="jaxplain-fuzz-")), time.perf_counter()
    warnings.simplefilter("ignore")
    good, tried, read_whole = run(arguments.iterations, arguments.seed, folder)
    for kind, count in sorted(tried.items()):
        print(f"{kind:24s} {count:8d} changed, {read_whole[kind]:8d} read all the same")
    print(f"{sum(tried.values())} files in {time.perf_counter() - start:.0f} s")
    sys.exit(not good)


if __name__ == "__main__":
    main()
