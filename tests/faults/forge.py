"""A process that has imported everything and makes each film in a child of its own, which can be killed and costs no
start. It must not compute anything itself: threads do not survive a fork.

A line on its input is a job, JSON; it answers with the child's process id. `{"wait": id}` answers with its exit code
(negative: the signal that killed it), `{"stopped": id}` once the child has stopped itself. What a child has to say is
in the job's `report`.
"""

from __future__ import annotations

import builtins
import errno
import json
import os
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Injected(Exception):
    """A failure that no program foresees."""


def main() -> None:
    sys.path.insert(0, str(ROOT))
    import av  # noqa: F401
    import diffusers  # noqa: F401
    import insightface.app  # noqa: F401
    import torch
    import transformers  # noqa: F401

    import hallo3_core.animate
    import hallo3_core.cli.main  # noqa: F401

    torch.set_num_threads(1)
    _import_lazy_classes()
    for line in sys.stdin:
        job = json.loads(line)
        if "wait" in job:
            answer = os.waitstatus_to_exitcode(os.waitpid(job["wait"], 0)[1])
        elif "stopped" in job:
            answer = int(os.WIFSTOPPED(os.waitpid(job["stopped"], os.WUNTRACED)[1]))
        else:
            answer = os.fork()
            if answer == 0:
                _run_child(job)
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


def _import_lazy_classes() -> None:
    from diffusers import AutoencoderKLCogVideoX  # noqa: F401
    from transformers import T5EncoderModel, T5Tokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2Model  # noqa: F401


def _run_child(job: dict) -> None:
    sys.stdin.close()
    report = open(job["report"], "w", buffering=1)
    os.dup2(report.fileno(), 1)
    os.dup2(report.fileno(), 2)
    code = 70
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for fault in job.get("faults", ()):
            FAULTS[fault["kind"]](**{key: value for key, value in fault.items() if key != "kind"})
        from hallo3_core.cli.main import main as command_line

        code = command_line(job["command"])
    except Injected:
        code = 71
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


# Faults: each changes something in the child, before the film begins ---------------------------------------------


def _replace(target: str, call: int, action, after: bool = False) -> None:
    """Do `action` at a call of `module:name.name`, counted from 1, before or after what it does."""
    module, _, path = target.partition(":")
    *owners, name = path.split(".")
    owner = sys.modules[module]
    for each in owners:
        owner = getattr(owner, each)
    original, count = getattr(owner, name), [0]

    def wrapped(*args, **kwargs):
        count[0] += 1
        if count[0] == call and not after:
            action()
        result = original(*args, **kwargs)
        if count[0] == call and after:
            action()
        return result

    setattr(owner, name, wrapped)


def fail(target: str, call: int = 1) -> None:
    def action():
        raise Injected

    _replace(target, call, action)


def kill(target: str, call: int = 1, after: bool = False) -> None:
    _replace(target, call, lambda: os.kill(os.getpid(), signal.SIGKILL), after)


def interrupt(target: str, call: int, number: int) -> None:
    _replace(target, call, lambda: os.kill(os.getpid(), number))


def run_out_of_memory(target: str, call: int, times: int) -> None:
    """So many calls from `call` on find no memory."""
    import torch

    def action():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    for each in range(times):
        _replace(target, call + each, action)


def spoil(target: str, call: int) -> None:
    """Not a number where the network's result should be."""
    module, _, name = target.partition(":")
    owner, original, count = sys.modules[module], getattr(sys.modules[module], name), [0]

    def wrapped(*args, **kwargs):
        count[0] += 1
        result = original(*args, **kwargs)
        return result * float("nan") if count[0] == call else result

    setattr(owner, name, wrapped)


def fill_disk(size: int) -> None:
    """The disk has room for so many bytes of kept clips."""
    import hallo3_core.film.clip_store as clip_store

    left = [size]

    def opening(path, mode="r", **kwargs):
        file = builtins.open(path, mode, **kwargs)
        if "w" not in mode:
            return file
        write = file.write

        class Full:
            def __enter__(self):
                return self

            def __exit__(self, *error):
                file.close()

            def __getattr__(self, name):
                return getattr(file, name)

            def write(self, content):
                write(content[: left[0]])
                left[0] -= len(content)
                if left[0] < 0:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        return Full()

    clip_store.open = opening


def limit_file_size(size: int) -> None:
    """No file may pass so many bytes, as on a disk that is full, for ffmpeg too."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def stop(target: str, call: int = 1) -> None:
    """As a process that hangs: it lives, and does nothing until it is killed."""
    _replace(target, call, lambda: os.kill(os.getpid(), signal.SIGSTOP))


def kill_later(target: str, call: int, calls: int) -> None:
    """So many calls of Python functions after a call of `target`, wherever that is."""
    left = [calls]

    def count(frame, event, argument):
        left[0] -= event == "call"
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    _replace(target, call, lambda: sys.setprofile(count))


def remove(target: str, call: int, path: str) -> None:
    """Somebody removes a file or folder."""
    import shutil

    _replace(target, call, lambda: shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path))


FAULTS = {
    each.__name__: each
    for each in (
        fail,
        kill,
        interrupt,
        run_out_of_memory,
        spoil,
        fill_disk,
        limit_file_size,
        stop,
        kill_later,
        remove,
    )
}

if __name__ == "__main__":
    main()
