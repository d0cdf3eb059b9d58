"""All trainings of several processes, and the same by one: `ranks.py OUT_FOLDER MODEL_FOLDER...`.

The processes are forked from this one, which has imported everything: to start Python with torch takes seconds, and
torchrun starts one process more. `tests/cli/test_cli_launch.py` has torchrun. The last line that is printed is a JSON
object of exit codes by run, `WORKER-PROCESSES`, each of which wrote to the folder of that name.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

# what is imported below is found by way of these paths
# ruff: noqa: E402
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
# weights are read by threads of their own, whose pool a forked process can meet half made
os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"

import distributed_worker
import fsdp_worker

from forked import work

WORKERS = {"distributed": distributed_worker.main, "fsdp": fsdp_worker.main}
"""By name, in the order of their model folders."""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def world(main: Callable[[], None], processes: int) -> int:
    """Run `main` as so many processes, with torchrun's environment; the exit code of the first that failed."""
    port = str(free_port())
    children = set()
    for rank in range(processes):
        pid = os.fork()
        if pid == 0:
            if processes > 1:
                ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                sizes = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
                os.environ.update(ranks | sizes | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port})
            work(main)
        children.add(pid)
    failed = 0
    while children:
        pid, status = os.wait()
        children.discard(pid)
        if status and not failed:  # the others wait for it
            failed = os.waitstatus_to_exitcode(status)
            for other in children:
                os.kill(other, signal.SIGKILL)
    return failed


if __name__ == "__main__":
    out, *models = map(Path, sys.argv[1:])
    codes = {}
    for (name, main), model in zip(WORKERS.items(), models, strict=True):
        for processes in (1, 2):
            folder = out / f"{name}-{processes}"
            folder.mkdir()
            sys.argv = [name, str(model), str(folder)]
            codes[folder.name] = world(main, processes)
    print(json.dumps(codes))
