"""A script for test_explain_dataset.py: runs that are killed, and one that is not.

`python killed_runs.py FOLDER --processes 1` explains 200 images to FOLDER/whole without
interruption, and to FOLDER/killed with SIGKILL at ten random moments and a new start after each.
The last images never come in a run that is to be killed, so it cannot end before, on any machine.
Runs are forks of this process, which has imported everything and started nothing: that spares
each the seconds of the imports.
"""

import argparse
import functools
import os
import random
import signal
import socket
import sys
import time
from pathlib import Path

import grain  # noqa: F401 (imported for the forks)
import jax
import jax.numpy as jnp
import numpy as np
from array_record.python import array_record_module  # noqa: F401

import jaxplain
from jaxplain import data

IMAGES, SHARD, BATCH, KILLS = 200, 10, 8, 10
SHAPES = ((8, 12), (12, 8))
BROKEN = (17, 101)


class Images:
    name, class_names = "random", ()

    def __init__(self, held):
        self.held = held

    def __len__(self):
        return IMAGES

    def __getitem__(self, index):
        time.sleep(0.002)  # as a disk takes
        while index >= IMAGES - self.held:
            time.sleep(1)
        if index in BROKEN:
            raise data.UnreadableRecordError(f"image {index}", "it is broken")
        rng = np.random.default_rng(index)
        image = rng.integers(0, 256, (*SHAPES[int(rng.integers(2))], 3), dtype=np.uint8)
        return data.Record.make(image, f"image {index}")


def run(folder, held):
    weights = np.random.default_rng(0).normal(size=(3, 3, 3, 4)).astype(np.float32)
    head = jnp.asarray(np.random.default_rng(1).normal(size=(4, 5)), jnp.float32)

    def network(x):
        x = jax.lax.conv_general_dilated(
            x, jnp.asarray(weights), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jax.nn.relu(x).mean((1, 2)) @ head

    return jaxplain.explain_dataset(
        network,
        Images(held),
        folder,
        {"gradient": functools.partial(jaxplain.gradient, reduce="sum")},
        prepare=lambda record: record.image,
        to_input=lambda pixels: pixels / jnp.float32(255),
        batch_size=BATCH,
        shard_size=SHARD,
    )


def _fork(folder, process, processes, port, held):
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        if processes > 1:
            jax.distributed.initialize(f"127.0.0.1:{port}", processes, process)
        run(folder, held)
        if processes > 1:
            jax.distributed.shutdown()  # as at the end of every program; forks have to say it
        status = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(status)


def _start(folder, processes, held=0):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [_fork(folder, k, processes, port, held) for k in range(processes)]


def _finished(folder):
    return len(list(folder.glob("*.array_record")))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--processes", type=int, default=1)
    arguments = parser.parse_args()
    jax.config.update("jax_disable_most_optimizations", True)
    for pid in _start(arguments.folder / "whole", arguments.processes):
        if os.waitpid(pid, 0)[1]:
            sys.exit("the run that nobody killed failed")
    killed, rng = arguments.folder / "killed", random.Random(0)
    shards, wasted = _finished(arguments.folder / "whole"), 0
    for k in range(KILLS):
        pids = _start(killed, arguments.processes, held=arguments.processes)  # an image each
        # Each run is left alone until some more shards are there, and a random while after that.
        goal = (shards - 4 * arguments.processes) * k // KILLS + rng.randrange(2)
        while _finished(killed) < goal:
            if any(os.waitpid(pid, os.WNOHANG)[0] for pid in pids):
                sys.exit(f"run {k} ended before it was killed")
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.03))
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for pid in pids:  # when process 0 dies, JAX may abort the others first
            if os.waitpid(pid, 0)[1] in (0, 1 << 8):
                sys.exit(f"run {k} ended before it was killed")
        wasted += len(list(killed.glob("*.tmp")))
        print(f"killed with {_finished(killed)} of {shards} shards finished")
    for pid in _start(killed, arguments.processes):
        if os.waitpid(pid, 0)[1]:
            sys.exit("the last run failed")
    print(f"unfinished files that the kills left: {wasted}")


if __name__ == "__main__":
    main()
