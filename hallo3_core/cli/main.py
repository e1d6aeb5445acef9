"""The command line: `python -m hallo3_core animate | batch | convert | download | train | inspect | tiny | demo |
samples`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..errors import InputError, naming_missing_packages, own_command
from ..inputs.samples import PORTRAIT, SPEECH
from .exit_codes import DONE, INTERRUPTED, NOT_DONE, TERMINATED
from .film_options import add_film_options, film_options, keeping_of, lora, seed
from .interruption import Terminated, sigterm_raises
from .presets import summary
from .streams import Once, occupy_descriptors, tolerant_streams
from .train import add_train

# The sample person's caption in the drawn world (`assets/draw_samples.py`).
DEMO_PROMPT = (
    "a fair person with bobbed brown hair and blue eyes in a teal shirt is talking. blue waves stand still behind."
)
# The default scales of 3.5 suit the released weights; the toy is best at 2 (docs/toy.md).
DEMO_SETTINGS = ("--steps", "12", "--sampler", "dpmpp-2m", "--audio-cfg", "2", "--text-cfg", "2", "--device", "cpu")
LONGEST_LINE = 500  # characters of an argparse message, which repeats the user's input


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    with tolerant_streams():
        options = build_parser().parse_args(arguments)
        handler = logging.StreamHandler()
        handler.addFilter(Once())
        logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING, handlers=[handler])
        try:
            with sigterm_raises(), naming_missing_packages():
                return options.run(options) or DONE
        except InputError as error:
            say(f"error: {error}", sys.stderr)
            return NOT_DONE
        except KeyboardInterrupt as stop:
            say("interrupted", sys.stderr)
            return TERMINATED if isinstance(stop, Terminated) else INTERRUPTED


def say(text: str, stream=None) -> None:
    """Prints a line, to standard output by default."""
    (stream or sys.stdout).write(text + "\n")


class Parser(argparse.ArgumentParser):
    """argparse with one-line error messages."""

    def error(self, message: str):
        if os.environ.get("RANK", "").strip() not in ("", "0"):
            self.exit(NOT_DONE)  # under torchrun, only rank 0 prints the message
        message = message if len(message) <= LONGEST_LINE else message[:LONGEST_LINE] + " ..."
        self.exit(NOT_DONE, f"error: {message} ({own_command(*self.prog.split()[1:], '--help')} lists the options)\n")


def build_parser() -> Parser:
    parser = Parser(prog="hallo3", description="Makes a talking video from a portrait, a recording and a prompt.")
    commands = parser.add_subparsers(required=True, metavar="command")

    one = commands.add_parser("animate", help="make a video from one portrait and one recording")
    one.add_argument("--image", type=Path, required=True, help="the portrait")
    one.add_argument("--audio", type=Path, required=True, help="the recording, or a video whose sound to take")
    one.add_argument("--prompt", required=True, help="text that describes the person and the scene")
    one.add_argument("--output", type=Path, required=True, help="the video to write, .mp4")
    add_film_options(one)
    one.set_defaults(run=run_animate)

    many = commands.add_parser("batch", help="make a video for each line of a file: prompt@@image@@audio")
    many.add_argument("file", type=Path, help="paths in it are relative to the file's folder and must stay in it")
    many.add_argument("--inputs", type=Path, action="append", default=[], help="another folder they may lead to")
    many.add_argument("--output-dir", type=Path, required=True, help="videos are named 0000.mp4, 0001.mp4, ...")
    many.add_argument("--shard", type=shard, default=(0, 1), metavar="I/N", help="only each N-th line, from line I on")
    add_film_options(many)
    many.set_defaults(run=run_batch)

    smaller = commands.add_parser("convert", help="the release to four safetensors files: bf16, fp16, fp32, fp8, int8")
    smaller.add_argument("source", type=Path, help="the release's folder, or its transformer or VAE file")
    smaller.add_argument("target", type=Path, help="the folder to write to")
    smaller.add_argument(
        "--dtype",
        choices=("bf16", "fp16", "fp32", "fp8", "int8"),
        default="bf16",
        help="fp8, int8: the blocks' matrices",
    )
    smaller.add_argument(
        "--merge",
        type=lora,
        action="append",
        default=[],
        metavar="LORA[:STRENGTH]",
        help="a LoRA to merge into the weights",
    )
    smaller.set_defaults(run=run_convert)

    fetch = commands.add_parser("download", help="the release's files from the Hugging Face hub, about 40 GB")
    fetch.add_argument("folder", type=Path, nargs="?", help="folder to download to; an interrupted download resumes")
    fetch.add_argument("--parts", nargs="+", metavar="PART", help="only these (see --list)")
    fetch.add_argument("--list", action="store_true", help="parts, sizes and licences; needs no network")
    fetch.add_argument(
        "--dry-run", action="store_true", help="the same, and the free space in the folder; downloads nothing"
    )
    fetch.set_defaults(run=run_download)

    tiny = commands.add_parser("tiny", help="write the toy release: the official layout at toy sizes")
    tiny.add_argument("folder", type=Path)
    tiny.add_argument("--noise", action="store_true", help="random weights instead of the trained ones")
    tiny.add_argument("--seed", type=seed, default=0, help="seed of --noise")
    tiny.set_defaults(run=run_tiny)

    demo = commands.add_parser("demo", help="the toy release makes a video of the portrait and speech in assets/")
    demo.add_argument("--output", type=Path, default=Path("demo.mp4"))
    demo.add_argument("--models", type=Path, help="an existing release; without it a toy one is written and removed")
    demo.set_defaults(run=run_demo)

    samples = commands.add_parser(
        "samples", help="put the project's portrait and recording into ComfyUI's input folder"
    )
    samples.add_argument("folder", type=Path, help="ComfyUI's input folder; existing files of these names are kept")
    samples.set_defaults(run=run_samples)

    add_train(commands)

    look = commands.add_parser("inspect", help="say what a file or folder is, and whether it can be used")
    look.add_argument("path", type=Path)
    look.set_defaults(run=run_inspect)
    return parser


def shard(text: str) -> tuple[int, int]:
    """Parses "part/parts"; the part is counted from 1 in the text and from 0 in the result."""
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f"shard {text!r}: use I/N with I from 1 to N, such as 2/4")
    return int(part) - 1, int(parts)


class Bar:
    """Progress on the terminal: the stages, then one bar with the remaining time over all steps of all clips."""

    def __init__(self):
        self._bar, self._steps, self._kept = None, 0, 0

    def stage(self, text: str) -> None:
        say(f"{text} ...", sys.stderr)

    def start(self, clips: int, steps: int) -> None:
        from tqdm import tqdm

        self._clips, self._steps = clips, steps
        form = "{desc} {percentage:3.0f}%|{bar}| step {n_fmt}/{total_fmt}, {elapsed}<{remaining}"
        self._bar = tqdm(total=clips * steps, initial=self._kept * steps, bar_format=form, smoothing=0.05)
        self._show(self._kept, 0)

    def kept(self, clip: int) -> None:
        self._kept = clip + 1
        if self._bar is not None:
            self._show(clip, self._steps)

    def step(self, clip: int, step: int, clean) -> None:
        self._show(clip, step + 1)

    def _show(self, clip: int, steps: int) -> None:
        """Shows `steps` done of a clip; the count drops if a fallback restarts the clip."""
        self._bar.set_description(f"clip {clip + 1}/{self._clips}", refresh=False)
        self._bar.update(clip * self._steps + steps - self._bar.n)

    def finish(self) -> None:
        if self._bar is not None:
            self._bar.close()


def run_animate(args: argparse.Namespace) -> None:
    from ..animate import animate, assist
    from ..parallel.team import join, take_gpu
    from ..pipeline.networks import Networks
    from ..release.layout import Release
    from ..runtime.devices import stay_in_gpu_memory

    with join() as meet:
        take_gpu(args.device)
        release, options = Release(args.models), film_options(args)
        stay_in_gpu_memory(options.device)
        team = meet(options.device, len(options.settings.branches()))
        if team is not None and not team.leads:
            return assist(team, release, options)
        networks = Networks(release, options)
        tell(animate(args.image, args.audio, args.prompt, args.output, networks, Bar(), keeping_of(args), team))
        say(summary(args))


def tell(film) -> None:
    from ..clips import FPS

    say(
        f"{film.path}: {film.frames} frames ({film.frames / FPS:.2f} s), {film.width}x{film.height}, {film.clips} clips"
    )


def run_batch(args: argparse.Namespace) -> int:
    """Makes the films of a batch file; reports and skips failing lines. The exit code tells if any film is missing."""
    from ..animate import animate
    from ..parallel.team import take_gpu
    from ..pipeline.networks import Networks, can_keep_all
    from ..release.layout import Release
    from ..runtime.devices import stay_in_gpu_memory
    from ..runtime.environment import number
    from .batch import check_jobs, read_batch
    from .workers import claim_file, make_films

    def make(job, film):
        return animate(job.image, job.audio, job.prompt, film, networks, Bar(), keeping_of(args))

    take_gpu(args.device)
    part, parts = args.shard
    lines = enumerate(read_batch(args.file, args.inputs))
    every = {args.output_dir / f"{number:04d}.mp4": job for number, job in lines}
    check_jobs(args.file, every, [claim_file(film) for film in every])
    release, options = Release(args.models), film_options(args)
    stay_in_gpu_memory(options.device)
    networks = Networks(release, options, keep=can_keep_all(release, options))
    if not args.output_dir.is_dir():
        raise InputError(f"{args.output_dir}: no such folder for the videos")
    jobs = dict(list(every.items())[part::parts])
    for film in filter(Path.exists, jobs):
        say(f"{film}: already exists, kept (delete it to make it again)", sys.stderr)
    worker, workers = number("RANK", 0), number("WORLD_SIZE", 1)
    for film, made in make_films(jobs, make, worker, workers):
        if isinstance(made, InputError):
            say(f"error: {args.file}, line {jobs[film].line}: {made}", sys.stderr)
        else:
            tell(made)
    say(summary(args))
    missing = sum(not film.exists() for film in jobs)
    if missing:
        say(f"{missing} of {len(jobs)} videos were not made", sys.stderr)
    return NOT_DONE if missing else DONE


def run_tiny(args: argparse.Namespace) -> None:
    from ..toy.learnt_release import write_toy_release
    from ..toy.noise_release import write_tiny_release
    from ..toy.packed import is_packed

    if args.noise or not is_packed():
        folder = write_tiny_release(args.folder, args.seed)
        say(f"{folder}: a toy release (seeded noise, for trying the program only)")
    else:
        say(f"{write_toy_release(args.folder)}: a toy release (it knows drawn people, and nobody else)")


def run_demo(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        if args.models is None:
            args.models = Path(scratch) / "tiny"
            run_tiny(argparse.Namespace(folder=args.models, noise=False, seed=0))
        words = ["animate", "--image", str(PORTRAIT), "--audio", str(SPEECH)]
        words += ["--prompt", DEMO_PROMPT, "--models", str(args.models), "--output", str(args.output)]
        run_animate(build_parser().parse_args([*words, *DEMO_SETTINGS]))
        say("What you see: someone of the toy's drawn world, whom it never saw in training, speaks invented words.")
        say("The mouth should open with the voice and close in pauses; person, clothes and background should stay.")
        say("The weights are a toy's: this shows that everything works, not what the released weights make.")


def run_samples(args: argparse.Namespace) -> None:
    from ..inputs.samples import copy_samples

    for path in copy_samples(args.folder):
        say(str(path))


def run_inspect(args: argparse.Namespace) -> int:
    from ..release.inspect import inspect

    report = inspect(args.path)
    say(report.text())
    return DONE if report.usable else NOT_DONE


def run_convert(args: argparse.Namespace) -> None:
    from ..release.convert import convert
    from ..release.lora.merging import Merge
    from ..weights.disk import size_text

    with byte_bar() as progress:
        merges = [Merge(*each) for each in args.merge]
        files = convert(args.source, args.target, args.dtype, merges=merges, progress=progress)
    for path in files:
        say(f"{path}: {size_text(path.stat().st_size)}")


def run_download(args: argparse.Namespace) -> None:
    from ..release.download import download, plan_text

    if args.folder is None and not args.list:
        raise InputError("download: name the folder to download to (or give --list)")
    say(plan_text(args.parts, args.folder))
    if args.list or args.dry_run:
        return
    with byte_bar() as progress:
        files = download(args.folder, args.parts, progress=progress)
    say(f"{args.folder}: {len(files)} files")


@contextmanager
def byte_bar() -> Iterator[Callable[[int, int, str], None]]:
    """A progress bar in bytes; the callback takes the bytes done, the total, and the current file's name."""
    from tqdm import tqdm

    with tqdm(unit="B", unit_scale=True, unit_divisor=1000) as bar:

        def show(done: int, total: int, name: str) -> None:
            bar.total = total
            bar.set_description(name, refresh=False)
            bar.update(done - bar.n)

        yield show


def entry() -> None:
    """Entry point of `python -m hallo3_core`."""
    occupy_descriptors()
    sys.exit(main())
