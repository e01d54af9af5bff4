"""What the site's pages say that the package knows: methods, layers, rooms, files from elsewhere.

mkdocs calls the functions named ``on_...`` while it builds.
"""

from __future__ import annotations

import ast
import html
import re
from pathlib import Path
from typing import Any

from jaxplain.explainers.catalogue import CATALOGUE, markdown_table

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
_LAYERS = {
    None: "the function's own default: the last layer with a place in the image, or the image",
    "last": "the last convolutional layer, with what acts on it elementwise",
    "excitation": "a layer in the middle of the network, where its paper takes its maps",
    "winner": "a layer in the middle of the network, where its paper takes its maps",
}

#: What the pictures show of methods that have rows of their own.
_SHOWN = {
    "naflow": "the class Egyptian cat, at three layers, last to first",
    "dense-attention": "three layers, last to first; no class",
    "pfv": "principal features as colours, and the activation weights; no class",
    "eigen-cam": "no class, so both maps are one",
}


def on_files(files: Any, config: Any) -> Any:
    """Adds what stands elsewhere in the repository: pictures, and a table that a command writes."""
    from mkdocs.structure.files import File

    for path in sorted((ROOT / "examples").glob("*.[jp][pn]g")):
        uri = f"examples/{path.name}"
        files.append(File.generated(config, uri, abs_src_path=str(path)))
    for source in sorted((DOCS / "notebooks").glob("[0-9]*.py")):
        page = notebook_page(source.read_text("utf-8"), source.name)
        files.append(File.generated(config, f"notebooks/{source.stem}.md", content=page))
    table = (ROOT / "benchmarks" / "third_party.md").read_text("utf-8")
    files.append(File.generated(config, "third_party.md", content=table))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Fills in what the package knows, and leads links to what stands elsewhere to its place."""
    depth = page.file.src_uri.count("/")
    markdown = re.sub(r"\]\((?:\.\./)+examples/", "](" + "../" * depth + "examples/", markdown)
    markdown = re.sub(r"\]\((?:\.\./)+benchmarks/third_party.md", "](third_party.md", markdown)
    markdown = markdown.replace("<!-- methods -->", methods_table())
    markdown = markdown.replace("<!-- rooms -->", rooms_picture())
    if names := page.meta.get("methods"):
        page.title = CATALOGUE[names[0]].title if len(names) == 1 else titles(names)
        return method_page(names, markdown)
    return markdown


def titles(names: list[str]) -> str:
    """The titles of several methods of one page."""
    return ", ".join(CATALOGUE[name].title for name in names)


def page_of(name: str) -> str:
    """The page of a method, by its function: ``grad_cam`` -> ``grad-cam.md``."""
    return CATALOGUE[name].function.replace("_", "-") + ".md"


def methods_table() -> str:
    """The catalogue's table, its functions leading to their pages."""
    pages = {method.function: page_of(name) for name, method in CATALOGUE.items()}
    return re.sub(
        r"^\| `(\w+)`",
        lambda found: f"| [`{found[1]}`]({pages[found[1]]})",
        markdown_table(),
        flags=re.MULTILINE,
    )


def method_page(names: list[str], written: str) -> str:
    """A method's page: facts of the catalogue, a picture, what was written, and the reference."""
    method = CATALOGUE[names[0]]
    lines = [
        f"# {titles(names)}",
        "",
        f"{method.about[0].upper()}{method.about[1:]}. {method.paper}.",
    ]
    for name in names:
        if (DOCS / "pictures" / f"{name}.jpg").is_file():
            picture = f"![{CATALOGUE[name].title}](../pictures/{name}.jpg)"
            what = _SHOWN.get(
                name, "Egyptian cat, and espresso" if method.per_class else "no class"
            )
            network = "EfficientNet-Lite0"
            if method.attention:
                network = "a trained ViT-S/14"
                what = "what made its importance map bright on the cat, and on the cup"
            lines += ["", picture, "", f"*{CATALOGUE[name].title} of {network}: {what}.*"]
    asked = ",".join(names)
    lines += ["", "```sh", f"jaxplain explain photo.jpg --methods {asked}", "```", ""]
    lines += ["| | |", "| --- | --- |"]
    functions = ", ".join(f"`jaxplain.{name}`" for name in (method.function, *method.also))
    facts = {
        "in Python": functions,
        "other names": ", ".join(f"`{a}`" for name in names for a in CATALOGUE[name].aliases),
        "default layer": _LAYERS[method.layer]
        if method.at_layer or method.layer
        else ("" if method.attention else "the image"),
        "made of": "the attention weights of all blocks" if method.attention else "",
        "looks at a class": "yes" if method.per_class else "no",
        "random": "yes, takes a `key`" if method.random else "no",
        "must see through": {"all": "every operation", "relus": "what may hide a ReLU"}.get(
            method.opens or "", "nothing: whatever can be differentiated or run"
        ),
        "drawn as": {"heat": "heat", "gray": "sizes, gray", "signed": "red for, blue against"}[
            method.style
        ],
    }
    lines += [f"| {key} | {value} |" for key, value in facts.items() if value]
    body = re.sub(r"<!--.*?-->\n*", "", written, flags=re.DOTALL)
    place = f"jaxplain.explainers.{method.file}"
    reference = [f"::: {place}.{name}" for name in (method.function, *method.also)]
    return "\n".join([*lines, "", body, "", "## Formula and arguments", "", "\n\n".join(reference)])


def notebook_page(source: str, name: str) -> str:
    """A notebook's source, in jupytext's percent format, as Markdown."""
    lines = [f"*[{name}]({name}) is a notebook's source: open it with jupytext.*"]
    for cell in re.split(r"^# %%", source, flags=re.MULTILINE)[1:]:
        kind, _, text = cell.partition("\n")
        text = text.strip("\n")
        if "[markdown]" in kind:
            lines.append(re.sub(r"^# ?", "", text, flags=re.MULTILINE))
        else:
            lines.append(f"```python\n{text}\n```")
    return "\n\n".join([lines[1], lines[0], *lines[2:]]) + "\n"


# -- the picture of the rooms ---------------------------------------------------------------------


def imports() -> dict[str, set[str]]:
    """Room -> the rooms that its files import, from the sources."""
    found: dict[str, set[str]] = {}
    package = ROOT / "jaxplain"
    for folder in (package, *(package / n for n in ("models", "weights_convert", "examples"))):
        for file in folder.rglob("*.py"):
            parts = file.relative_to(package).with_suffix("").parts
            own = _room(".".join(p for p in parts if p != "__init__"))
            for node in ast.walk(ast.parse(file.read_text("utf-8"))):
                names = []
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jaxplain"):
                    below = (node.module or "").partition(".")[2]
                    names = [below] if below else [alias.name for alias in node.names]
                for name in names:
                    other = _room(name)
                    if other != own:
                        found.setdefault(own, set()).add(other)
            found.setdefault(own, set())
    return found


def _room(module: str) -> str:
    if f"{module}.".startswith("evaluation.studies."):
        return "evaluation.studies"
    return module.partition(".")[0] or "jaxplain"


def rooms_picture() -> str:
    """The rooms of the package as an SVG: each stands above all that it imports."""
    graph = {room: others for room, others in imports().items() if not room.startswith("__")}
    order = re.findall(
        r"^\| `([\w.]+)` \|", (ROOT / "CONTRIBUTING.md").read_text("utf-8"), flags=re.MULTILINE
    )
    rooms = [room for room in order if room in graph]
    level: dict[str, int] = {}
    for room in reversed(rooms):  # the foundation first
        below = [level[other] for other in graph[room] if other in level]
        level[room] = max(below, default=-1) + 1
    rows = [[room for room in rooms if level[room] == i] for i in range(max(level.values()) + 1)]
    width, high, step = 760, 34, 66
    at = {}
    for i, row in enumerate(rows):
        for j, room in enumerate(row):
            at[room] = (width * (j + 1) / (len(row) + 1), (len(rows) - 1 - i) * step + 24)
    lines, boxes = [], []
    for room, others in graph.items():
        for other in others & set(at):
            if room in at and level[other] < level[room]:
                (x0, y0), (x1, y1) = at[room], at[other]
                lines.append(
                    f'<path d="M{x0:.0f} {y0 + high / 2:.0f} C{x0:.0f} {(y0 + y1) / 2:.0f} '
                    f'{x1:.0f} {(y0 + y1) / 2:.0f} {x1:.0f} {y1 - high / 2:.0f}" '
                    'fill="none" stroke="#7d8fa9" stroke-opacity=".45"/>'
                )
    for room, (x, y) in at.items():
        boxes.append(
            f'<rect x="{x - 68:.0f}" y="{y - high / 2:.0f}" width="136" height="{high}" rx="5" '
            f'fill="#eef2f8" stroke="#3d5a80"/><text x="{x:.0f}" y="{y + 5:.0f}" '
            f'text-anchor="middle" font-size="14" fill="#1d2b3e">{html.escape(room)}</text>'
        )
    height = len(rows) * step + 4
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="the rooms and their imports" '
        f'font-family="sans-serif">{"".join(lines)}{"".join(boxes)}</svg>'
    )
