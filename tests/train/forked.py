"""A run in processes of its own, forked from the test's: nothing is imported anew, and they can be killed."""

from __future__ import annotations

import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable


class Forked:
    """`count` processes that run `work(on_step)` as ranks of one group; the first reports its steps through a pipe."""

    def __init__(self, work: Callable[[Callable[[int], None]], None], count: int = 1):
        self._reading, writing = os.pipe()
        port = free_port()
        self.pids = []
        for rank in range(count):
            pid = os.fork()
            if pid == 0:
                os.close(self._reading)
                _run(work, rank, count, port, writing)
            self.pids.append(pid)
        os.close(writing)

    def wait_for_steps(self, steps: int) -> bool:
        """Until the first process has reported so many steps; False if it ended before."""
        seen = b""
        while len(seen) < steps:
            more = os.read(self._reading, steps - len(seen))
            if not more:
                return False
            seen += more
        return True

    def kill(self, how: int = signal.SIGKILL) -> None:
        for pid in self.pids:
            os.kill(pid, how)

    def join(self) -> list[int]:
        """Exit codes, negative for signals."""
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in self.pids]
        os.close(self._reading)
        return codes


def prepare_to_fork() -> None:
    """No threads, which a forked process would lack, and every module that it will want."""
    import accelerate  # noqa: F401
    import torch
    import torch._dynamo
    import torch.distributed.checkpoint
    import torch.distributed.fsdp

    torch.set_num_threads(1)


def _run(work, rank: int, count: int, port: int, writing: int) -> None:
    code = 1
    try:
        if count > 1:
            os.environ |= {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(count),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "ACCELERATE_USE_CPU": "true",
            }
        work((lambda step: os.write(writing, b".")) if rank == 0 else (lambda step: None))
        code = 0
    except KeyboardInterrupt:
        code = 143
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
