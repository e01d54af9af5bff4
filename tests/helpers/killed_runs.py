"""A script for test_explain_dataset.py: runs that are killed, and one that is not.

`python killed_runs.py FOLDER --processes 4 2 --signals KILL TERM --kills 100` explains 200
images to FOLDER/whole without interruption, and to FOLDER/killed with a signal at a hundred
random moments and a new start after each; numbers of processes and signals take turns. The last
image never comes in a run that is to be killed, so it cannot end before, on any machine. Runs are
forks of this process, which has imported everything and started nothing: that spares each the
seconds of the imports.
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

SHARD, BATCH = 10, 8
PATIENCE = 15  # seconds in which SIGTERM has to have ended a process, on a busy machine
SHAPES = ((8, 12), (12, 8))
BROKEN = (17, 101)


class Images:
    name, class_names = "random", ()

    def __init__(self, count, held):
        self.count, self.held = count, held

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        time.sleep(0.002)  # as a disk takes
        while index >= self.count - self.held:
            time.sleep(1)
        if index in BROKEN:
            raise data.UnreadableRecordError(f"image {index}", "it is broken")
        rng = np.random.default_rng(index)
        image = rng.integers(0, 256, (*SHAPES[int(rng.integers(2))], 3), dtype=np.uint8)
        return data.Record.make(image, f"image {index}")


def run(folder, count, held):
    weights = np.random.default_rng(0).normal(size=(3, 3, 3, 4)).astype(np.float32)
    head = jnp.asarray(np.random.default_rng(1).normal(size=(4, 5)), jnp.float32)

    def network(x):
        x = jax.lax.conv_general_dilated(
            x, jnp.asarray(weights), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jax.nn.relu(x).mean((1, 2)) @ head

    return jaxplain.explain_dataset(
        network,
        Images(count, held),
        folder,
        {"gradient": functools.partial(jaxplain.gradient, reduce="sum")},
        prepare=lambda record: record.image,
        to_input=lambda pixels: pixels / jnp.float32(255),
        batch_size=BATCH,
        shard_size=SHARD,
    )


def _fork(folder, process, processes, port, count, held):
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        if processes > 1:
            # It would catch a SIGTERM that comes before the run, and do nothing.
            jax.config.update("jax_enable_preemption_service", False)
            jax.distributed.initialize(f"127.0.0.1:{port}", processes, process)
        run(folder, count, held)
        if processes > 1:
            jax.distributed.shutdown()  # as at the end of every program; forks have to say it
        status = 0
    except SystemExit as stopped:
        status = stopped.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(status)


def _start(folder, processes, count, held=0, apart=False):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folders = [folder / str(k) if apart else folder for k in range(processes)]
    return [_fork(f, k, processes, port, count, held) for k, f in enumerate(folders)]


def _finished(folder):
    return len(list(folder.glob("*.array_record")))


def _end(pids, name):
    """Sends the signal, and waits for the processes; whether one of them had ended well."""
    for pid in pids:
        os.kill(pid, signal.Signals[f"SIG{name}"])
    until, waiting, statuses = time.monotonic() + PATIENCE, list(pids), []
    while waiting:
        pid, status = os.waitpid(waiting[0], os.WNOHANG)
        if pid:
            statuses.append(os.waitstatus_to_exitcode(status))
            waiting.pop(0)
        elif time.monotonic() > until:
            for pid in waiting:
                os.kill(pid, signal.SIGKILL)
            sys.exit(f"SIG{name} has not ended a process in {PATIENCE} seconds")
        else:
            time.sleep(0.002)
    # It may come before the run has begun; and when process 0 dies, JAX may abort the others first.
    ours = {128 + signal.SIGTERM, -signal.SIGTERM}
    if name == "TERM" and len(pids) == 1 and not ours.issuperset(statuses):
        sys.exit(f"SIGTERM ended a process with the status {statuses[0]}")
    return any(status in (0, 1) for status in statuses)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--processes", type=int, nargs="+", default=[1])
    parser.add_argument("--signals", nargs="+", default=["KILL"])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument(
        "--apart", action="store_true", help="two processes without a shared folder"
    )
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    jax.config.update("jax_disable_most_optimizations", True)
    if arguments.apart:
        for pid in _start(arguments.folder, 2, arguments.images, apart=True):
            if os.waitpid(pid, 0)[1]:
                sys.exit("a process without the other's folder failed")
        return
    whole, killed = arguments.folder / "whole", arguments.folder / "killed"
    most = max(arguments.processes)
    for pid in _start(whole, arguments.processes[0], arguments.images):
        if os.waitpid(pid, 0)[1]:
            sys.exit("the run that nobody killed failed")
    rng = random.Random(arguments.seed)
    shards, left, kills = _finished(whole), 0, arguments.kills
    for k in range(kills):
        processes = arguments.processes[k % len(arguments.processes)]
        name = arguments.signals[k // len(arguments.processes) % len(arguments.signals)]
        pids = _start(killed, processes, arguments.images, held=1)
        # Each run is left alone until some more shards are there, and a random while after that.
        goal = (shards - 4 * most) * k // kills + rng.randrange(2)
        while _finished(killed) < goal:
            if any(os.waitpid(pid, os.WNOHANG)[0] for pid in pids):
                sys.exit(f"run {k} ended before it was killed")
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.03))
        before = len(list(killed.glob("*.tmp")))
        if _end(pids, name):
            sys.exit(f"run {k} ended before it was killed")
        left += max(0, len(list(killed.glob("*.tmp"))) - before)
        print(f"SIG{name} to {processes} with {_finished(killed)} of {shards} shards finished")
    for pid in _start(killed, arguments.processes[-1], arguments.images):
        if os.waitpid(pid, 0)[1]:
            sys.exit("the last run failed")
    print(f"unfinished files that were left: {left}")
    names = sorted(p.name for p in whole.iterdir())
    alike = names == sorted(p.name for p in killed.iterdir()) and all(
        (whole / name).read_bytes() == (killed / name).read_bytes() for name in names
    )
    sys.exit(None if alike else "the runs have written different files")


if __name__ == "__main__":
    main()
