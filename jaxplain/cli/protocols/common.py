"""What a protocol of `jaxplain evaluate` declares."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxplain.cli import method_options, options
from jaxplain.cli.progress import Bar

if TYPE_CHECKING:
    from jaxplain.evaluation.studies.report import Report


@dataclass(frozen=True)
class Protocol:
    """A protocol of the command line.

    Attributes:
        name, help, description: as they are typed and shown.
        methods: the ones that run when none are named.
        run: does it, and tells the bar how far it has come.
        options: adds what only this protocol has.
        limit: the default of ``--limit``.
        data: help of ``--data``.
        extra: methods that only this protocol knows.
        batch_size: the default of ``--batch-size``; None where images go one by one.
        unit: what the bar counts.
    """

    name: str
    help: str
    description: str
    methods: tuple[str, ...]
    run: Callable[[argparse.Namespace, Bar], Report[Any]]
    options: Callable[[argparse.ArgumentParser], None] = lambda parser: None
    limit: int | None = None
    data: str = (
        "voc/2007, voc/2012, coco/2014, coco/2017, imagenet2012, caltech_birds2011 of TFDS; or a "
        "folder: VOCdevkit/VOC2007, COCO (with annotations/), ImageNet, CUB_200_2011"
    )
    extra: tuple[str, ...] = ()
    batch_size: int | None = 8
    unit: str = "images"

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """The options of all protocols, then the protocol's own."""
        options.add_data(parser, self.data)
        options.add_model(parser)
        options.add_methods(parser, ",".join(self.methods))
        method_options.add_options(parser)
        if self.batch_size is not None:
            options.add_batch_size(parser, self.batch_size)
        options.add_limit(parser, self.limit)
        options.add_workers(parser)
        options.add_output(parser, f"write {self.name}.json, .md and .png there")
        self.options(parser)
