"""A run in processes of its own, forked from the test's: nothing is imported anew, and they can be killed."""

from __future__ import annotations

import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable


class Forked:
    """`count` processes that run `work(on_step)` as ranks of one group; the first reports its steps through a pipe.

    dies: the first kills itself so many calls of Python functions behind its first step, wherever that is.
    """

    def __init__(self, work: Callable[[Callable[[int], None]], None], count: int = 1, dies: int | None = None):
        self._reading, writing = os.pipe()
        port = free_port()
        self.pids = []
        for rank in range(count):
            pid = os.fork()
            if pid == 0:
                os.close(self._reading)
                _run(work, rank, count, port, writing, dies)
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

    def outlived(self) -> bool:
        """Waits for the first process; ends the others if it was killed. False if it came to its end."""
        code = os.waitstatus_to_exitcode(os.waitpid(self.pids.pop(0), 0)[1])
        if code == -signal.SIGKILL:
            self.kill()
        self.join()
        assert code in (0, -signal.SIGKILL), code
        return code != 0

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


def _run(work, rank: int, count: int, port: int, writing: int, dies: int | None) -> None:
    code = 1

    def on_step(step: int) -> None:
        os.write(writing, b".")
        if dies is not None:
            sys.setprofile(dying(dies))

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
        work(on_step if rank == 0 else (lambda step: None))
        code = 0
    except KeyboardInterrupt:
        code = 143
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def dying(calls: int):
    """A profile function that kills the process after so many calls of Python functions."""
    left = [calls]

    def count(frame, event, argument):
        left[0] -= event == "call"
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return count


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
