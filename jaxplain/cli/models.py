"""The commands `jaxplain models` and `jaxplain convert`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any


def add_commands(commands: Any, error: Callable[[str], Exception]) -> None:
    """Adds both commands; what the user got wrong is raised as ``error(sentence)``."""
    models = commands.add_parser(
        "models",
        help="list the networks",
        description="Lists the networks: parameters, image size, sources whose weights convert, "
        "where pretrained weights come from, published top-1 accuracy in per cent.",
    )
    models.set_defaults(command=lambda _: print(models_table()))

    convert = commands.add_parser(
        "convert",
        help="convert a file of weights",
        description="Converts the weights of another framework for a network, and reports what "
        "was done.",
    )
    convert.add_argument("network", metavar="ARCH", help="network, see 'jaxplain models'")
    convert.add_argument(
        "file",
        metavar="FILE",
        type=Path,
        help="weights: .pth, .pt, .th, .tar, .safetensors, .caffemodel, .h5, .keras or .npz",
    )
    convert.add_argument(
        "--output",
        metavar="DIR",
        type=Path,
        help="new folder to write (with --to safetensors: file, by default ARCH.safetensors); "
        "default: the cache, where the network's name finds it",
    )
    convert.add_argument(
        "--to",
        choices=["orbax", "safetensors"],
        default="orbax",
        help="what to write; default: %(default)s",
    )
    convert.add_argument(
        "--source",
        metavar="NAME",
        help="whose names the tensors have; default: the source that fits best",
    )
    convert.set_defaults(command=lambda arguments: _convert(arguments, error))


def models_table() -> str:
    """The registry as text, one line a network."""
    from jaxplain.models.entries import ENTRIES, PARAMETERS

    rows = [("network", "parameters", "input", "sources", "pretrained from", "top-1")]
    for name, entry in sorted(ENTRIES.items()):
        fetched = next((s for s in entry.sources if s.weights), None)
        published = (fetched or entry.sources[0]).top1
        rows.append(
            (
                name,
                f"{PARAMETERS[name] / 1e6:.2f} M",
                str(entry.config.input_size),
                ", ".join(dict.fromkeys(s.names.source for s in entry.sources)),
                str(fetched.weights) if fetched else "your file",
                "-" if published is None else f"{published:.1f}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    right = (1, 2, 5)
    lines = (
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
    return "\n".join(lines)


def _convert(arguments: argparse.Namespace, error: Callable[[str], Exception]) -> None:
    try:
        from jaxplain import weights_convert as wc
        from jaxplain.models import pretrained

        output = _output(arguments, error)
        converted = pretrained.convert_file(
            arguments.file, arguments.network, source=arguments.source
        )
        print(converted.report)
        if arguments.to == "safetensors":
            wc.export(output, converted.weights, converted.description)
        else:
            output = output or pretrained.cache_folder(converted)
            wc.save(output, converted.weights, converted.description, replace=True)
    except ImportError as missing:
        raise error(str(missing)) from None
    except (OSError, ValueError) as problem:
        raise error(f"cannot convert {arguments.file}: {problem}") from None
    print(f"wrote {output}")


def _output(arguments: argparse.Namespace, error) -> Path | None:
    """Where to write, as far as it is known before the conversion."""
    output = arguments.output
    if arguments.to == "safetensors":
        output = output or Path(f"{arguments.network}.safetensors")
        if output.suffix != ".safetensors" or output.is_dir():
            raise error(f"the output {output} should be a file named like NAME.safetensors")
    elif output is not None and output.exists():
        raise error(f"the output {output} exists already; name a new folder")
    return output
