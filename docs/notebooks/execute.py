"""Runs the notebooks, each in a process of its own: `python docs/notebooks/execute.py FOLDER`.

The sources are scripts with cells (jupytext's percent format); FOLDER gets the notebooks with their
results. Each must show a picture.
"""

import sys
import time
from pathlib import Path

import jupytext
from nbclient import NotebookClient

SOURCES = sorted(Path(__file__).parent.glob("[0-9]*.py"))


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for source in SOURCES:
        start = time.perf_counter()
        notebook = jupytext.read(source)
        NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
        kinds = [
            kind
            for cell in notebook.cells
            for output in cell.get("outputs", ())
            for kind in output.get("data", ())
        ]
        if "image/png" not in kinds:
            raise SystemExit(f"{source.name} shows no picture")
        jupytext.write(notebook, folder / f"{source.stem}.ipynb")
        print(f"{source.stem}: {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
