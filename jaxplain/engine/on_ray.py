"""Runs the shards of a job on a cluster of Ray: a pool of actors that keep their programs.

Ray starts the actors where there is room, and gives each its devices. One that is lost with its
node is replaced as soon as there is room again; until then the others make its shards. What a shard
is, and when it is finished, is said by the shard.
"""

from __future__ import annotations

import collections
import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxplain.core.extras import missing
from jaxplain.engine.job import Job, Opened
from jaxplain.engine.making import make
from jaxplain.engine.run import RunSummary, chosen_shards

_IN_A_TASK = 4  # shards, at most: while one is written, the next is computed
_ATTEMPTS = 5  # at shards whose workers are lost, before the shards are to blame


class _Worker:
    """What an actor does; its programs stay compiled from task to task."""

    def __init__(self, job: Job):
        self.job = job

    def begin(self) -> tuple[int, int, int]:
        """Begins the run; gives the number of its shards, their size and the number of records."""
        # Not in the constructor, whose errors come as text.
        self.run = Opened(self.job)
        self.run.begin()
        return self.run.ranges.count, self.run.ranges.shard_size, len(self.run.ranges.chosen)

    def make(self, shards: Sequence[int]) -> tuple[Any, list[tuple[float, float]], int]:
        """Makes some shards; gives what has come of them, and what was compiled until now."""
        made = make(self.run, shards)
        return made, list(self.run.programs.spans), self.run.programs.compiled


def explain_on_ray(
    job: Job,
    address: str,
    shards: tuple[int, int] | None,
    progress: Callable[[int, int], None] | None,
) -> RunSummary:
    """Makes the shards of a job on a cluster.

    There is an actor for each GPU; on nodes without, one for each node, or for each host of TPUs.

    Args:
        job: whose output and source every node reaches.
        address: ``"ray"`` for the cluster that ``RAY_ADDRESS`` names, or that this process is
            connected to, or else one on this machine; or ``ray://HOST:PORT``.
        shards: (a, b) for the shards a to b - 1 only.
        progress: called with the number of records that are done, and of all.

    Raises:
        ImportError: ray is not installed.
        ValueError: ``address`` is another; or as `explain_dataset`.
        ConnectionError: there is no cluster at the address.
    """
    if address != "ray" and not address.startswith("ray://"):
        raise ValueError(f"on must be None, 'ray' or an address ray://HOST:PORT, not {address!r}.")
    try:
        ray = importlib.import_module("ray")
    except ImportError as error:
        raise missing("ray", "ray", "on='ray'") from error
    start = time.perf_counter()
    if not ray.is_initialized():
        ray.init(address=None if address == "ray" else address, log_to_driver=False)
    pool = _Pool(ray, ray.put(job), _options(ray))
    summary, done, total = _Summed(), 0, None
    tasks: collections.deque[list[int]] = collections.deque()
    attempts: collections.Counter[int] = collections.Counter()
    try:
        while total is None or pool.running:
            worker, task, result = pool.next()
            if result is None:
                if task:
                    attempts[task[0]] += 1
                    if attempts[task[0]] == _ATTEMPTS:
                        raise RuntimeError(f"Workers of Ray end at the shards {task}, always.")
                    tasks.appendleft(task)
            elif task is None:  # a worker is ready
                count, size, records = result
                if total is None:
                    wanted = chosen_shards(shards, count)
                    total = sum(min(size, records - shard * size) for shard in wanted)
                    at_once = max(1, min(_IN_A_TASK, len(wanted) // (4 * len(pool.workers))))
                    starts = range(0, len(wanted), at_once)
                    tasks.extend(list(wanted[i : i + at_once]) for i in starts)
            else:
                summary.add(worker, *result)
                done += sum(min(size, records - shard * size) for shard in task)
                if progress is not None:
                    progress(done, total or 0)
            pool.fill(tasks)
            if total == done:
                break  # without waiting for workers that were never needed
    finally:
        pool.close()
    return summary.result(time.perf_counter() - start)


class _Pool:
    """Workers, and what each is at: two tasks, so that the next is there when one is done."""

    def __init__(self, ray: Any, job: Any, options: Sequence[Mapping[str, Any]]):
        self._ray, self._job = ray, job
        self.workers: dict[Any, Mapping[str, Any]] = {}
        self.running: dict[Any, tuple[Any, list[int] | None]] = {}  # None: it is getting ready
        self._busy: collections.Counter[Any] = collections.Counter()
        for one in options:
            self._start(one)

    def _start(self, options: Mapping[str, Any]) -> None:
        worker = self._ray.remote(_Worker).options(**options).remote(self._job)
        self.workers[worker] = options
        self.running[worker.begin.remote()] = worker, None

    def next(self) -> tuple[Any, list[int] | None, Any]:
        """The next that comes to an end: its worker, its task, the result; None of a lost worker.

        Raises:
            Exception: what a worker raised.
        """
        (ready,), _ = self._ray.wait(list(self.running), num_returns=1)
        worker, task = self.running.pop(ready)
        self._busy[worker] -= task is not None
        try:
            result = self._ray.get(ready)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except self._ray.exceptions.RayActorError:
            if worker in self.workers:
                self._start(self.workers.pop(worker))  # in the queue until there is room
            return worker, task, None
        if task is None:
            self._busy[worker] = 0
        return worker, task, result

    def fill(self, tasks: collections.deque[list[int]]) -> None:
        """Gives tasks to the workers that are ready and have fewer than two."""
        for busy in (1, 2):
            for worker in self._busy:
                if tasks and worker in self.workers and self._busy[worker] < busy:
                    task = tasks.popleft()
                    self.running[worker.make.remote(task)] = worker, task
                    self._busy[worker] += 1

    def close(self) -> None:
        for worker in self.workers:
            self._ray.kill(worker)


def _options(ray: Any) -> list[dict[str, Any]]:
    """What each actor of the pool asks for."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    options: list[dict[str, Any]] = []
    for node in nodes:
        if gpus := int(node.get("GPU", 0)):
            options += [{"num_gpus": 1, "num_cpus": 1}] * gpus
        elif chips := node.get("TPU"):
            options.append({"resources": {"TPU": chips}, "num_cpus": 1})
    if options:
        return options
    spread = {"num_cpus": 1, "scheduling_strategy": "SPREAD"}
    return [spread] * max(1, sum(node.get("CPU", 0) >= 1 for node in nodes))


class _Summed:
    """What has come of all tasks together."""

    def __init__(self):
        self.records = self.explained = 0
        self.failures: list[tuple[int, str, str]] = []
        self.computed = 0.0
        self.compiled: dict[Any, tuple[float, int]] = {}

    def add(self, worker: Any, made: Any, spans: list[tuple[float, float]], programs: int) -> None:
        """Adds the result of a task."""
        self.records += made.records
        self.explained += made.explained
        self.failures += made.failures
        self.computed += sum(end - begin for begin, end in made.computed)
        self.compiled[worker] = sum(end - begin for begin, end in spans), programs

    def result(self, seconds: float) -> RunSummary:
        """The summary; seconds of compiling and computing are those of all workers together."""
        return RunSummary(
            self.records,
            self.explained,
            tuple((name, reason) for _, name, reason in sorted(self.failures)),
            seconds,
            sum(spent for spent, _ in self.compiled.values()),
            self.computed,
            sum(programs for _, programs in self.compiled.values()),
        )
