"""What a run over very many images takes: hours, machines, storage and requests, computed.

`python -m benchmarks.scale --maps-per-second 5 --bytes-per-map 1000 --machines 1 64 1024` prints a
table from what was measured on one machine (`benchmarks.throughput` prints both numbers).
docs/scale.md shows one, and says what each column stands for; a test compares the two.
"""

from __future__ import annotations

import argparse
import dataclasses
import math

_HOUR = 3600
_LISTED = 1000  # names that a request for a list brings, in S3 and GCS


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a run takes.

    Attributes:
        images, machines, shard_size: of the run.
        hours: until the last machine is done; the last shard of each is on average half a shard
            behind the first.
        megabytes_read: a second, by all machines together.
        terabytes: of maps.
        shards: files.
        puts, gets, lists: requests, over the whole run, of which each machine makes its share.
        footers: seconds to open all the maps, one shard after the other.
    """

    images: int
    machines: int
    shard_size: int
    hours: float
    megabytes_read: float
    terabytes: float
    shards: int
    puts: int
    gets: int
    lists: int
    footers: float


def estimate(
    images: int,
    machines: int,
    *,
    maps_per_second: float,
    bytes_per_map: float,
    bytes_per_image: float,
    shard_size: int,
    seconds_per_request: float = 0.03,
) -> Estimate:
    """Computes what a run takes from what was measured on one machine.

    Example:
        >>> one = estimate(36_000, 1, maps_per_second=10, bytes_per_map=1000,
        ...                bytes_per_image=100_000, shard_size=1000)
        >>> one.shards, round(one.hours, 2), one.terabytes
        (36, 1.0, 3.6e-05)
    """
    shards = math.ceil(images / shard_size)
    # Machines are done when the one with the most shards is.
    most = math.ceil(shards / machines) * min(shard_size, images)
    return Estimate(
        images,
        machines,
        shard_size,
        min(most, images) / maps_per_second / _HOUR,
        min(machines, shards) * maps_per_second * bytes_per_image / 1e6,
        images * bytes_per_map / 1e12,
        shards,
        shards + 1,
        images + 2 * shards,  # each image, and each shard's name before it is made and at its end
        math.ceil(shards / _LISTED),
        shards * seconds_per_request,
    )


def table(estimates: list[Estimate]) -> str:
    """Estimates as a table in Markdown.

    Example:
        >>> one = estimate(36_000, 1, maps_per_second=10, bytes_per_map=1000,
        ...                bytes_per_image=100_000, shard_size=1000)
        >>> print(table([one]).splitlines()[-1])
        | 36 thousand | 1 | 1,000 | 1.0 | 1.0 | 0.000036 | 36 | 37 | 36,072 | 1 | 1 s |
    """
    lines = [
        "| images | machines | shard size | hours | MB/s read | TB of maps | shards | writes | "
        "reads | lists | to open all |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for e in estimates:
        cells = (
            _words(e.images),
            f"{e.machines:,}",
            f"{e.shard_size:,}",
            f"{e.hours:,.1f}",
            f"{e.megabytes_read:,.1f}",
            f"{e.terabytes:.2g}",
            f"{e.shards:,}",
            f"{e.puts:,}",
            f"{e.gets:,}",
            f"{e.lists:,}",
            _time(e.footers),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _words(number: int) -> str:
    for unit, name in ((10**9, "billion"), (10**6, "million"), (10**3, "thousand")):
        if number >= unit:
            return f"{number / unit:g} {name}"
    return str(number)


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * _HOUR else f"{seconds / _HOUR:.0f} h"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--maps-per-second", type=float, required=True, help="of one machine, measured")
    add("--bytes-per-map", type=float, required=True, help="on the disk, measured")
    add("--bytes-per-image", type=float, default=110_000, help="default: 110,000, of ImageNet")
    add("--images", type=int, nargs="+", default=[1_300_000, 1_000_000_000])
    add("--machines", type=int, nargs="+", default=[1, 64, 1024])
    add("--shard-size", type=int, nargs="+", default=[1024, 16384], help="one for each of --images")
    arguments = parser.parse_args()
    sizes = zip(arguments.images, arguments.shard_size, strict=True)
    print(
        table(
            [
                estimate(
                    images,
                    machines,
                    maps_per_second=arguments.maps_per_second,
                    bytes_per_map=arguments.bytes_per_map,
                    bytes_per_image=arguments.bytes_per_image,
                    shard_size=size,
                )
                for images, size in sizes
                for machines in arguments.machines
            ]
        )
    )


if __name__ == "__main__":
    main()
