"""The command `jaxplain convert`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from jaxplain.cli import options
from jaxplain.cli.common import CliError, classes_of, local_path


def add_commands(commands: Any) -> None:
    """Adds the command."""
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
        type=local_path,
        help="weights: .pth, .pt, .th, .tar, .safetensors, .caffemodel, .h5, .keras or .npz",
    )
    convert.add_argument(
        "--output",
        metavar="DIR",
        type=local_path,
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
    options.add_classes(convert)
    convert.set_defaults(command=_convert)


def _convert(arguments: argparse.Namespace) -> None:
    output, classes = _output(arguments), classes_of(arguments)
    from jaxplain import weights_convert as wc
    from jaxplain.models import conversion

    try:
        converted = conversion.convert_file(
            arguments.file, arguments.network, source=arguments.source, class_names=classes
        )
        print(converted.report)
        output = output or conversion.cache_folder(converted)
        if arguments.to == "safetensors":
            wc.export(output, converted.weights, converted.description)
        else:
            wc.save(output, converted.weights, converted.description, replace=True)
    except (OSError, ValueError) as problem:
        raise CliError(f"cannot convert {arguments.file}: {problem}") from problem
    print(f"wrote {output}")


def _output(arguments: argparse.Namespace) -> Path | None:
    """Where to write, as far as it is known before the conversion."""
    output = arguments.output
    if arguments.to == "safetensors":
        output = output or Path(f"{arguments.network}.safetensors")
        if output.suffix != ".safetensors" or output.is_dir():
            raise CliError(f"the output {output} should be a file named like NAME.safetensors")
    elif output is None and arguments.class_names is not None:
        raise CliError(
            "a network of other classes needs --output FOLDER, which --model takes afterwards: its "
            "name stands for the usual classes"
        )
    elif output is not None and output.exists():
        raise CliError(f"the output {output} exists already; name a new folder")
    return output
