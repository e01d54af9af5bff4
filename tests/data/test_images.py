"""The one reader of image files: an odd picture comes out right, or is refused in one sentence."""

import errno
import io
import json
import os
import pickle
import socket
import struct
import subprocess
import sys
import types
import warnings
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import jaxplain
from jaxplain import data, models
from jaxplain.cli.datasets import Aspect
from jaxplain.data.images import IMAGE_SUFFIXES, record_grey

RNG = np.random.default_rng(0)


# -- files, made byte by byte ----------------------------------------------------------------------


def _chunk(kind, content):
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def _png(size, depth, colour, rows, *chunks):
    header = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [_chunk(b"IHDR", header), *chunks, _chunk(b"IDAT", pixels), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _transparent(*values):
    return _chunk(b"tRNS", struct.pack(f">{len(values)}H", *values))


def _tiff(size, bits, content, *, photometry=1, samples=1, kind=1, extra=None, turn=1, order="<"):
    """An uncompressed TIFF; ``kind`` is 1 for unsigned numbers, 2 for signed ones, 3 for floats."""
    tags = {256: size[0], 257: size[1], 259: 1, 262: photometry, 274: turn, 277: samples}
    tags |= {278: size[1], 258: [bits] * samples, 339: [kind] * samples}
    if extra is not None:
        tags[338] = extra
    place = 8 + len(content) + len(content) % 2
    entries = {tag: ("H", v if isinstance(v, list) else [v]) for tag, v in tags.items()}
    entries |= {273: ("I", [8]), 279: ("I", [len(content)])}
    after = place + 2 + 12 * len(entries) + 4
    directory, tail = struct.pack(order + "H", len(entries)), b""
    for tag, (form, values) in sorted(entries.items()):
        raw = struct.pack(f"{order}{len(values)}{form}", *values)
        if len(raw) > 4:
            tail, raw = tail + raw, struct.pack(order + "I", after + len(tail))
        code = {"H": 3, "I": 4}[form]
        directory += struct.pack(order + "HHI", tag, code, len(values)) + raw.ljust(4, b"\0")
    start = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", place)
    return start + content + b"\0" * (len(content) % 2) + directory + bytes(4) + tail


def _encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _photo(height=24, width=32):
    return Image.fromarray(RNG.integers(0, 256, (height, width, 3), np.uint8))


_BLACK, _CLEAR = Image.new("L", (1, 1), 0), Image.new("LA", (1, 1), (0, 51))  # 51: 20 % opaque
_PAGES = {"save_all": True, "append_images": [Image.new("L", (1, 1), 200)]}
_PALETTE = _chunk(b"PLTE", bytes(np.repeat([0, 10, 50, 90], 3).tolist()))

#: name -> (the file, its one row of grey levels)
PICTURES = {
    "1 bit": (_png((2, 1), 1, 0, [b"\x40"]), [0, 255]),
    "1 bit, white transparent": (_png((2, 1), 1, 0, [b"\x40"], _transparent(1)), [0, 255]),
    "1 bit, black transparent": (_png((2, 1), 1, 0, [b"\x40"], _transparent(0)), [255, 255]),
    "2 bits, one grey transparent": (
        _png((4, 1), 2, 0, [b"\x1b"], _transparent(1)),
        [0, 255, 170, 255],
    ),
    "4 bits, one grey transparent": (_png((2, 1), 4, 0, [b"\x35"], _transparent(3)), [255, 85]),
    "16 bits": (_png((2, 1), 16, 0, [struct.pack(">2H", 257 * 3, 65535)]), [3, 255]),
    "16 bits, one grey transparent": (
        _png((3, 1), 16, 0, [struct.pack(">3H", 257 * 7, 257 * 8, 0)], _transparent(257 * 7)),
        [255, 8, 0],
    ),
    "16 bits of colour, one transparent": (
        _png(
            (2, 1),
            16,
            2,
            [struct.pack(">6H", *[0x1234] * 3, *[0x3434] * 3)],
            _transparent(*[0x1234] * 3),
        ),
        [255, 0x34],
    ),
    "16 bits with alpha": (_png((1, 1), 16, 6, [struct.pack(">4H", 0, 0, 0, 0x3333)]), [204]),
    "palette of several opacities": (
        _png((4, 1), 2, 3, [b"\x1b"], _PALETTE, _chunk(b"tRNS", bytes([0, 255, 51]))),
        [255, 10, 214, 90],
    ),
    "GIF with a transparent index": (
        _encoded(Image.new("P", (1, 1), 3), "GIF", transparency=3),
        [255],
    ),
    "WebP with alpha": (_encoded(_CLEAR.convert("RGBA"), "WEBP", lossless=True), [204]),
    "CMYK JPEG": (_encoded(Image.new("CMYK", (8, 8), (0, 0, 0, 55)), "JPEG"), [200] * 8),
    "first frame of an APNG": (_encoded(_BLACK, "PNG", **_PAGES), [0]),
    "first frame of a GIF": (_encoded(_BLACK, "GIF", **_PAGES), [0]),
    "first page of a TIFF": (_encoded(_BLACK, "TIFF", **_PAGES), [0]),
    "first picture of an MPO": (_encoded(_BLACK, "MPO", **_PAGES), [0]),
    "PGM of 10 bits": (b"P5 2 1 1023\n" + struct.pack(">2H", 0, 1023), [0, 255]),
    "TIFF of 16 bits": (_tiff((2, 1), 16, struct.pack("<2H", 257 * 5, 65535)), [5, 255]),
    "TIFF of 16 bits, big-endian": (
        _tiff((2, 1), 16, struct.pack(">2H", 257 * 5, 65535), order=">"),
        [5, 255],
    ),
    "TIFF of 16 bits whose 0 is white": (
        _tiff((2, 1), 16, struct.pack("<2H", 257 * 5, 65535), photometry=0),
        [250, 0],
    ),
    "TIFF of 12 bits": (_tiff((2, 1), 12, bytes([0xFF, 0xF0, 0x00])), [255, 0]),
    "TIFF of 32 bits, small": (_tiff((2, 1), 32, struct.pack("<2i", 9, 255), kind=2), [9, 255]),
    "TIFF of 32 bits, large": (
        _tiff((2, 1), 32, struct.pack("<2i", 257 * 9, 65535), kind=2),
        [9, 255],
    ),
    "floats to 1": (_tiff((3, 1), 32, struct.pack("<3f", 0, 0.2, 1), kind=3), [0, 51, 255]),
    "floats to 255": (_tiff((3, 1), 32, struct.pack("<3f", 0, 7, 250), kind=3), [0, 7, 250]),
    "TIFF, grey and alpha": (_tiff((1, 1), 8, b"\0\x33", samples=2, extra=2), [204]),
    "TIFF, colour times alpha": (
        _tiff((1, 1), 8, b"\0\0\0\x33", photometry=2, samples=4, extra=1),
        [204],
    ),
    "TIFF, colour and something": (
        _tiff((1, 1), 8, b"\7\7\7\x33", photometry=2, samples=4, extra=0),
        [7],
    ),
    "TIFF, CMYK": (_tiff((1, 1), 8, b"\0\0\0\x33", photometry=5, samples=4), [204]),
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_of_all_kinds(tmp_path, name):
    content, expected = PICTURES[name]
    path = tmp_path / "picture.png"  # the content tells the format, not the suffix
    path.write_bytes(content)
    pixels = data.read_image(path)
    assert pixels.dtype == np.uint8 and pixels.shape[1:] == (len(expected), 3)
    np.testing.assert_array_equal(pixels[0], np.repeat(np.array(expected)[:, None], 3, 1))
    record = data.ImageFolder(tmp_path)[0]
    np.testing.assert_array_equal(record.image, pixels)


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_photographs_are_turned_where_asked(tmp_path, turn, kind):
    stored = np.repeat(np.arange(0, 240, 40, np.uint8).reshape(2, 3, 1), 3, -1)
    exif = Image.Exif()
    exif[0x0112] = turn
    more = {"lossless": True} if kind == "WEBP" else {}
    content = _encoded(Image.fromarray(stored), kind, exif=exif, **more)
    if kind == "TIFF":
        content = _tiff((3, 2), 8, stored[..., 0].tobytes(), turn=turn)
    (tmp_path / "turned.png").write_bytes(content)
    # The corner that is stored first, and the one beside it in its row, by the standard's words.
    first, beside = {
        1: ("top left", "top right"),
        2: ("top right", "top left"),
        3: ("bottom right", "bottom left"),
        4: ("bottom left", "bottom right"),
        5: ("top left", "bottom left"),
        6: ("top right", "bottom right"),
        7: ("bottom right", "top right"),
        8: ("bottom left", "top left"),
    }[turn]
    upright = data.read_image(tmp_path / "turned.png")[..., 0]
    corner = {
        f"{v} {h}": upright[y, x]
        for y, v in ((0, "top"), (-1, "bottom"))
        for x, h in ((0, "left"), (-1, "right"))
    }
    assert (corner[first], corner[beside]) == (0, 80)
    assert upright.shape == ((2, 3) if turn < 5 else (3, 2))
    np.testing.assert_array_equal(data.read_image(tmp_path / "turned.png", upright=False), stored)
    np.testing.assert_array_equal(data.ImageFolder(tmp_path)[0].image[..., 0], upright)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("exif", [b"Exif\0\0zzzz", b"Exif\0\0MM\0*garbage and more"])
def test_broken_exif_data_leave_the_pixels_as_they_are(tmp_path, exif):
    photo = _photo()
    photo.save(tmp_path / "photo.png", exif=exif)
    np.testing.assert_array_equal(data.read_image(tmp_path / "photo.png"), np.asarray(photo))


def test_maps_keep_their_precision_and_their_ranges(tmp_path):
    files = {
        "16 bits": (PICTURES["16 bits"][0], [257 * 3 / 65535, 1]),
        "floats": (PICTURES["floats to 1"][0], [0, 0.2, 1]),
        "palette": (PICTURES["palette of several opacities"][0], [0, 10 / 255, 50 / 255, 90 / 255]),
        "grey": (_encoded(Image.new("L", (1, 1), 51), "PNG"), [0.2]),
    }
    for name, (content, expected) in files.items():
        (tmp_path / name).write_bytes(content)
        levels = record_grey(tmp_path / name, name)
        assert levels.dtype == np.float32
        np.testing.assert_allclose(levels, [expected], atol=1e-7)
    with pytest.raises(data.UnreadableRecordError, match="record pipe: .* a folder"):
        record_grey(tmp_path, "pipe")


# -- what is refused -------------------------------------------------------------------------------


REFUSED = {
    "empty": (b"", "no whole image in one of the formats JPEG, PNG"),
    "text": (b"no image at all", "no whole image"),
    "PostScript": (_encoded(_photo(), "EPS"), "no whole image"),
    "DDS": (_encoded(_photo(), "DDS"), "no whole image"),
    "WMF": (b"\xd7\xcd\xc6\x9a\0\0" + bytes(40) + b"\1\0\x09\0\0\3", "no whole image"),
    "no width": (_png((0, 5), 8, 0, []), "no whole image"),
    "too large": (_png((20000, 20000), 8, 0, []), "more pixels than the 134217728"),
    "floats beyond 255": (
        _tiff((2, 1), 32, struct.pack("<2f", 0, 3e4), kind=3),
        "floating-point numbers from 0 to 30000; only 0 to 1 or 0 to 255 is known",
    ),
    "floats a little above 1": (
        _tiff((2, 1), 32, struct.pack("<2f", 0, 1.25), kind=3),
        "from 0 to 1.25",
    ),
    "negative floats": (_tiff((2, 1), 32, struct.pack("<2f", -1, 1), kind=3), "from -1 to 1"),
    "no numbers": (_tiff((2, 1), 32, struct.pack("<2f", np.nan, 1), kind=3), "nan"),
    "negative whole numbers": (
        _tiff((2, 1), 16, struct.pack("<2h", -9, 1), kind=2),
        "numbers from -9 to 1; only 0 to 255 or 0 to 65535 is known",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_picture_is_refused_in_one_line(tmp_path, name):
    content, words = REFUSED[name]
    path = tmp_path / "odd.png"
    path.write_bytes(content)
    with pytest.raises(data.UnreadableImageError, match=words) as caught:
        data.read_image(path)
    assert str(caught.value) == f"cannot read the image {path}: {caught.value.reason}"
    assert "\n" not in str(caught.value)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.path, again.reason, str(again)) == (path, caught.value.reason, str(caught.value))
    with pytest.raises(data.UnreadableRecordError, match=words):
        data.ImageFolder(tmp_path)[0]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.95])
def test_truncated_files(tmp_path, kind, part):
    content = _encoded(_photo(), kind)
    (tmp_path / "cut").write_bytes(content)
    assert data.read_image(tmp_path / "cut").shape == (24, 32, 3)
    (tmp_path / "cut").write_bytes(content[: int(len(content) * part)])
    with pytest.raises(data.UnreadableImageError, match="trunca|decoder|no whole image|broken"):
        data.read_image(tmp_path / "cut")


def test_large_pictures_are_read_and_a_warning_made_an_error_is_a_failure(tmp_path, monkeypatch):
    _photo().save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 24 * 32 - 1)
    with pytest.warns(Image.DecompressionBombWarning):
        assert data.read_image(tmp_path / "large.png").shape == (24, 32, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(data.UnreadableImageError, match="exceeds limit"):
            data.read_image(tmp_path / "large.png")


@pytest.fixture
def odd_files(tmp_path):
    """Good images, and beside them everything else that can bear the name of one; name -> words."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(5):
        _photo().save(folder / f"good{i}.png")
    os.mkfifo(folder / "pipe.png")
    (folder / "folder.png").mkdir()
    (folder / "device.png").symlink_to("/dev/zero")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "dangling.png").symlink_to("nowhere")
    (folder / "pipe behind a link.jpg").symlink_to("pipe.png")
    (folder / "postscript.png").write_bytes(REFUSED["PostScript"][0])
    words = {
        "pipe.png": "it is a named pipe, not a file",
        "folder.png": "it is a folder",
        "device.png": "it is a device",
        "loop.png": "symbolic links",
        "dangling.png": "No such file",
        "pipe behind a link.jpg": "it is a named pipe",
        "postscript.png": "no whole image",
    }
    listening = socket.socket(socket.AF_UNIX)
    here = os.open(".", os.O_RDONLY)
    try:  # a socket's path is short
        os.chdir(folder)
        listening.bind("socket.png")
    finally:
        os.fchdir(here)
        os.close(here)
        listening.close()
    return folder, words | {"socket.png": "it is a socket"}


def test_odd_files_are_failures_of_their_records_and_start_nothing(
    odd_files, tmp_path, monkeypatch
):
    folder, words = odd_files
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("gs", "gswin64c", "djpeg"):
        (tools / name).write_text(f"#!/bin/sh\ntouch {tools}/started\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    _photo().save(os.fsencode(folder) + b"/latin-\xe9\n.png", format="PNG")
    source = data.ImageFolder(folder)
    (folder / "good4.png").unlink()  # after it was listed
    run = jaxplain.explain_dataset(
        lambda x: x.mean((1, 2)),
        source,
        tmp_path / "maps",
        {"grey": lambda fn, x, targets: x.mean(-1)},
        prepare=lambda record: record.image,
        to_input=lambda pixels: pixels / 255.0,
        batch_size=4 * jax.local_device_count(),
        shard_size=4,
    )
    failures = dict(run.failures)
    assert set(failures) == {*words, "good4.png"}
    for name, text in words.items():
        assert text in failures[name], name
    assert not (tools / "started").exists()
    maps = data.open_maps(tmp_path / "maps")
    odd = "latin-\\udce9\\n.png"
    assert set(maps.ids) == {"good0.png", "good1.png", "good2.png", "good3.png", odd}
    assert dict(maps.failures) == failures
    assert maps[odd].size == (24, 32)


@pytest.mark.filterwarnings("ignore:Image size")
def test_images_of_too_many_pixels_are_refused_unread(tmp_path):
    """Two files of a few hundred bytes: Pillow itself refuses the larger one."""
    whole = io.BytesIO()
    Image.new("1", (1, 1)).save(whole, "PNG")
    for size in ((12_000, 12_000), (60_000, 60_000)):
        png = bytearray(whole.getvalue())
        png[16:24] = struct.pack(">II", *size)
        png[29:33] = struct.pack(">I", zlib.crc32(png[12:29]))
        (tmp_path / "bomb.png").write_bytes(png)
        with pytest.raises(data.UnreadableImageError, match="pixels.* 134217728"):
            data.read_image(tmp_path / "bomb.png")


def test_strips_are_failures_of_their_records():
    config = types.SimpleNamespace(interpolation="bilinear")
    aspect = Aspect(types.SimpleNamespace(short=32, multiple=16), config)
    record = data.Record.make(np.zeros((3, 48, 3), np.uint8), "wide")
    assert aspect(record).shape == (32, 512, 3)
    with pytest.raises(data.UnreadableRecordError, match="3 x 49 pixels; the aspect is limited"):
        aspect(data.Record.make(np.zeros((3, 49, 3), np.uint8), "strip"))


def test_a_file_without_permission(tmp_path, monkeypatch):
    _photo().save(tmp_path / "closed.png")

    def refuse(*_):  # root may read every file
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(data.UnreadableImageError, match="Permission denied"):
        data.read_image(tmp_path / "closed.png")


def test_a_file_that_turns_into_a_pipe_between_the_look_and_the_opening(tmp_path, monkeypatch):
    _photo().save(tmp_path / "photo.png")
    os.mkfifo(tmp_path / "pipe.png")
    regular = os.stat(tmp_path / "photo.png")
    monkeypatch.setattr(os, "stat", lambda *args, **more: regular)
    with pytest.raises(data.UnreadableImageError, match="it is a named pipe"):
        data.read_image(tmp_path / "pipe.png")


def test_a_path_that_cannot_be(tmp_path):
    with pytest.raises(data.UnreadableImageError, match="null"):
        data.read_image(tmp_path / "a\0b.png")
    with pytest.raises(data.UnreadableImageError, match="too long"):
        data.read_image(tmp_path / ("a" * 5000))


def test_names_that_are_not_utf_8_can_be_printed_and_written(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9\x1b[31m.png")).write_bytes(b"no image")
    source = data.ImageFolder(tmp_path)
    assert source.ids == ["caf\\udce9\\x1b[31m.png"]
    with pytest.raises(data.UnreadableRecordError) as caught:
        source[0]
    for text in (str(caught.value), caught.value.record, caught.value.reason):
        assert text.encode("utf-8").decode() == text and text.isprintable()
        assert json.loads(json.dumps(text)) == text


def test_suffixes_belong_to_formats_that_are_read():
    Image.init()
    for suffix in IMAGE_SUFFIXES:
        kind = Image.registered_extensions()[suffix]
        content = _encoded(_photo(), kind)
        with Image.open(io.BytesIO(content)) as image:
            assert image.format == kind
    assert {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".gif"} <= set(IMAGE_SUFFIXES)


# -- one preprocessing -----------------------------------------------------------------------------


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(40, 57), (19, 70), (300, 211)])
def test_explain_and_data_sets_show_the_network_the_same(tmp_path, size, interpolation):
    config = models.ModelConfig("net", 64, (120.0, 110, 100), (1.0,), interpolation=interpolation)
    path = tmp_path / "photo.png"
    # Black and white pixels, where the kernels overshoot most.
    Image.fromarray(RNG.integers(0, 2, (*size, 3), np.uint8) * 255).save(path)
    single = models.preprocess(data.read_image(path), config, crop=False)
    pixels = data.resize_image(data.ImageFolder(tmp_path)[0].image, (64, 64), interpolation)
    assert pixels.dtype == np.uint8
    difference = np.abs(np.asarray(single[0]) - data.normalise(pixels, config))
    assert difference.max() <= 0.5 + 1e-4  # grey levels: it is rounded, no more
    with Image.open(path) as image:
        np.testing.assert_array_equal(models.preprocess(image, config, crop=False), single)


@pytest.mark.parametrize("name", ["16 bits", "palette of several opacities", "floats to 1"])
def test_an_open_picture_is_read_as_its_file(tmp_path, name):
    (tmp_path / "a").write_bytes(PICTURES[name][0])
    config = models.ModelConfig("net", 16, (0.0,), (1.0,))
    expected = models.preprocess(data.read_image(tmp_path / "a"), config)
    with Image.open(tmp_path / "a") as image:
        before = image.info.copy()
        np.testing.assert_array_equal(models.preprocess(image, config), expected)
        assert image.info == before


def test_reading_a_record_of_a_data_set_needs_no_network_library_until_then():
    code = (
        "import sys, jaxplain.data as data; assert 'flax' not in sys.modules; "
        "print(data.aspect_shape((100, 200), 50)); assert 'flax' in sys.modules"
    )
    root = Path(jaxplain.__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=False
    )
    assert (done.stdout, done.returncode) == ("(50, 98)\n", 0), done.stderr
