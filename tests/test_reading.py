"""Reading: files are read back as written, memory-mapped, and malicious files get a one-line error."""

from __future__ import annotations

import argparse
import collections
import datetime
import decimal
import errno
import fractions
import functools
import importlib
import json
import os
import pathlib
import pickle
import random
import shutil
import subprocess
import sys
import uuid
import zipfile
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from hallo3_core.errors import InputError
from hallo3_core.weights import mapping, safetensors_format
from hallo3_core.weights.reading import read_header, read_metadata, read_tensors
from tests.yardstick import cost

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.int64, torch.uint8, torch.bool]
tensor_tables = st.dictionaries(
    st.from_regex(r"[a-z]{1,4}(\.[a-z0-9]{1,4}){0,2}", fullmatch=True),
    st.tuples(st.lists(st.integers(0, 4), max_size=4), st.sampled_from(DTYPES)),
    min_size=1,
    max_size=6,
)


class Ran:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def made(table):
    sizes = {name: torch.Size(shape) for name, (shape, _) in table.items()}
    return {
        name: torch.arange(sizes[name].numel()).reshape(sizes[name]).to(dtype) for name, (_, dtype) in table.items()
    }


def same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype and torch.equal(one[name].float(), other[name].float()), name


def raw(header, values=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + values


def slot(start=0, stop=8, dtype="F32", shape=(2,)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=tensor_tables, wrapper=st.sampled_from([None, "module", "state_dict"]), protocol=st.sampled_from([2, 4]))
def test_what_is_written_is_read(tmp_path, table, wrapper, protocol):
    tensors = made(table)
    save_file(tensors, tmp_path / "a.safetensors", metadata={"source": "a law"})
    torch.save({wrapper: tensors} if wrapper else tensors, tmp_path / "a.pt", pickle_protocol=protocol)
    for path in (tmp_path / "a.safetensors", tmp_path / "a.pt"):
        found, header = read_tensors(path), read_header(path)
        same(found, tensors)
        assert {n: (e.shape, e.dtype) for n, e in header.items()} == {
            n: (tuple(t.shape), t.dtype) for n, t in tensors.items()
        }
        assert sum(e.bytes for e in header.values()) == sum(t.nbytes for t in tensors.values())
    assert read_metadata(tmp_path / "a.safetensors") == {"source": "a law"}
    assert read_metadata(tmp_path / "a.pt") == {}


def test_torch_reads_the_same(tmp_path):
    base = torch.randn(6, 4)
    network = torch.nn.Linear(3, 4)
    tensors = {
        "whole": base,
        "turned": base.T,
        "part": base[1:3, 1:2],
        "tied": base,
        "none": base[:0],
        **network.state_dict(),
    }
    tensors["parameter"] = network.weight
    torch.save(collections.OrderedDict(tensors), tmp_path / "a.pt")
    found = read_tensors(tmp_path / "a.pt")
    same(found, torch.load(tmp_path / "a.pt", weights_only=True, mmap=True))
    assert not any(tensor.requires_grad for tensor in found.values())


@pytest.mark.parametrize("piece", [1, 64, 5000, 1 << 30])
def test_pieces_of_the_mapping_do_not_show(tmp_path, piece):
    tensors = {f"t{n}": torch.full((n * 700,), n, dtype=torch.float32) for n in range(1, 6)}
    save_file(tensors, tmp_path / "a.safetensors")
    content = (tmp_path / "a.safetensors").read_bytes()
    slots, _ = safetensors_format.parse_header(content[8 : 8 + int.from_bytes(content[:8], "little")], len(content))
    same(mapping.map_tensors(tmp_path / "a.safetensors", slots, piece), tensors)


def test_a_header_of_any_length_is_read(tmp_path):
    """Not every writer aligns the data after the header."""
    for spaces in range(4):
        text = json.dumps({"x": slot()}).encode() + b" " * spaces
        path = tmp_path / f"{spaces}.safetensors"
        path.write_bytes(raw(text, torch.tensor([1.0, 2.0]).numpy().tobytes()))
        assert read_tensors(path)["x"].tolist() == [1, 2]


def write_both(folder) -> tuple[pathlib.Path, pathlib.Path]:
    save_file({"x": torch.ones(4000)}, folder / "a.safetensors")
    torch.save({"x": torch.ones(4000)}, folder / "a.pt")
    return folder / "a.safetensors", folder / "a.pt"


@pytest.mark.skipif(sys.platform != "linux", reason="how files are mapped is read off /proc")
def test_files_are_mapped_to_be_read_alone(tmp_path):
    """Some systems charge a writable mapping against memory in full."""
    for path in write_both(tmp_path):
        found = read_tensors(path)
        (line,) = [
            line for line in pathlib.Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(path))
        ]
        assert line.split()[1].startswith("r--"), line
        assert found["x"].sum() == 4000


def test_reading_warns_of_nothing(tmp_path, recwarn):
    for path in write_both(tmp_path):
        read_tensors(path)
    assert not list(recwarn)


@pytest.mark.parametrize("reason", [errno.ENODEV, errno.EINVAL, errno.EOPNOTSUPP])
def test_a_disk_that_maps_no_files_is_read(tmp_path, monkeypatch, reason):
    def none(*arguments, **options):
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(mapping.mmap, "mmap", none)
    for path in write_both(tmp_path):
        assert torch.equal(read_tensors(path)["x"], torch.ones(4000))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, None])
def test_what_is_made_of_mapped_weights_is_written_to_as_ever(tiny_release, tmp_path, dtype):
    """Layers changed by a LoRA or rounded to fp8 are writable copies."""
    from hallo3_core.release.layout import Release
    from hallo3_core.release.lora.applying import apply_lora
    from hallo3_core.release.lora.matching import match_lora

    denoiser = Release(tiny_release).network("denoiser", dtype=dtype)
    stem = "transformer.transformer_blocks.0.attn1.to_v"
    pair = {f"{stem}.lora_A.weight": torch.ones(4, 64), f"{stem}.lora_B.weight": torch.ones(64, 4)}
    pair[f"{stem}.lora_B.bias"] = torch.ones(64)
    before = denoiser.blocks[0].self_attention.qkv.weight.float().clone()
    with torch.no_grad():
        apply_lora(denoiser, match_lora(pair, denoiser.config, label="a", metadata={}), 1.0)
        after = denoiser.blocks[0].self_attention.qkv.weight
        after.add_(1)
    assert (after.float() - before)[128:].mean() > 4


def test_training_state_does_not_stop_reading(tmp_path):
    state = {
        "iteration": 3,
        "np_rng_state": np.random.get_state(),
        "random_rng_state": random.getstate(),
        "torch_rng_state": torch.get_rng_state(),
        "cuda_rng_state": None,
        "rng_tracker_states": {"a": torch.zeros(3)},
        "args": argparse.Namespace(rate=1e-4, save=pathlib.Path("x"), dtype=torch.bfloat16, deep=[{"a": (1, 2)}]),
        "ds_config": {"zero": {"stage": 2, "sizes": {1, 2}, "none": set()}},
        "param_shapes": [collections.OrderedDict(x=torch.Size([2]))],
        "counts": collections.defaultdict(int, {1: 2}),
        "loss": np.float64(0.5),
        "raw": b"bytes",
        "device": torch.device("cpu"),
        "big": 2**3000,
    }
    torch.save({"module": {"x": torch.tensor([1.0, 2.0])}, **state}, tmp_path / "a.pt")
    assert {name: tensor.tolist() for name, tensor in read_tensors(tmp_path / "a.pt").items()} == {"x": [1, 2]}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("place", ["beside", "inside", "bare"])
def test_code_is_named_and_never_run(tmp_path, protocol, place):
    ran = tmp_path / "ran"
    content = {"module": {"x": torch.ones(2)}}
    (content if place == "beside" else content["module"])["evil"] = Ran(ran)
    path = tmp_path / "evil.pt"
    if place == "bare":
        path.write_bytes(pickle.dumps(Ran(ran), protocol=protocol))
    else:
        torch.save(content, path, pickle_protocol=protocol)
    for read in (read_tensors, read_header):
        assert f"{os.system.__module__}.system" in refusal(read, path)
    assert not ran.exists()


@pytest.mark.parametrize(
    "pickled",
    [
        b"\x80\x02cos\nsystem\n(X\x01\x00\x00\x00xtR.",
        b"\x80\x02(X\x01\x00\x00\x00xios\nsystem\n.",
        b"\x80\x02cbuiltins\neval\nX\x01\x00\x00\x001\x85R.",
        b"\x80\x02ctorch.hub\nload\nX\x01\x00\x00\x001\x85R.",
        b"\x80\x02ctorch._utils\n_rebuild_device_tensor_from_numpy\n).",
    ],
)
def test_other_attempts_to_run_code_are_refused(tmp_path, pickled):
    assert "refused" in refusal(read_tensors, archive(tmp_path / "a.pt", {"a/data.pkl": pickled}))


def test_keys_that_take_for_ever_to_hash_are_refused(tmp_path):
    doubled = b"\x80\x02})" + b"q\x00h\x00\x86" * 60 + b"Ns."
    assert "key" in refusal(read_tensors, archive(tmp_path / "a.pt", {"a/data.pkl": doubled}))


def test_a_zip_bomb_is_refused_unopened(tmp_path):
    path = archive(tmp_path / "a.pt", {"a/data.pkl": bytes(200 << 20)}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 20
    assert "compressed" in refusal(read_tensors, path)


def test_elements_that_the_record_does_not_hold_are_refused(tmp_path):
    for n, tensor in enumerate((torch.zeros(1).expand(10**12), torch.zeros(1).expand(3))):
        torch.save({"x": tensor}, tmp_path / f"{n}.pt")
        assert "claims more" in refusal(read_tensors, tmp_path / f"{n}.pt")


def test_old_checkpoints_are_refused_with_the_way_out(tmp_path):
    torch.save({"x": torch.ones(2)}, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    assert "Save it again" in refusal(read_tensors, tmp_path / "a.pt")


@pytest.mark.parametrize("tenth", range(10))
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_truncated_file_is_refused(tmp_path, tenth, suffix):
    path = tmp_path / f"a{suffix}"
    tensors = {f"layer.{n}": torch.randn(64) for n in range(20)}
    torch.save({"module": tensors}, path) if suffix == ".pt" else save_file(tensors, path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * tenth // 10])
    refusal(read_tensors, path)
    refusal(read_header, path)
    path.write_bytes(content[:-1])
    refusal(read_tensors, path)


BAD_HEADERS = {
    "header too large": (raw(b"{}", length=1 << 40), "claims"),
    "header longer than the file": (raw(b"{}", length=900), "cut short"),
    "not JSON": (raw(b"{nonsense"), "not JSON"),
    "nested too deep": (raw(b'{"a":' + b"[" * 100_000), "header"),
    "not a table": (raw(b"{}", length=2) + b"", "no tensors"),
    "overlapping": (raw({"a": slot(), "b": slot(4, 12)}, bytes(12)), "overlap"),
    "a gap": (raw({"a": slot(), "b": slot(12, 20)}, bytes(20)), "unused"),
    "outside the file": (raw({"a": slot()}, bytes(4)), "cut short"),
    "left over": (raw({"a": slot()}, bytes(12)), "end at byte"),
    "backwards": (raw({"a": slot(8, 0)}, bytes(8)), "offsets"),
    "negative": (raw({"a": slot(-8, 0)}, bytes(8)), "offsets"),
    "wrong dtype": (raw({"a": slot(dtype="Q7")}, bytes(8)), "Q7"),
    "dtype of another kind": (raw({"a": slot(dtype=["F32"])}, bytes(8)), "dtype"),
    "shape does not fit": (raw({"a": slot(shape=(3,))}, bytes(8)), "shape"),
    "negative shape": (raw({"a": slot(shape=(-2, -1))}, bytes(8)), "shape"),
    "fractions": (raw({"a": slot(shape=(2.0,))}, bytes(8)), "shape"),
    "huge": (raw({"a": slot(shape=(10**4000, 10**4000))}, bytes(8)), "shape"),
    "lacking offsets": (raw({"a": {"dtype": "F32", "shape": [2], "extra": 1}}, bytes(8)), "lacks"),
    "lacking": (raw({"a": {"dtype": "F32"}}, bytes(8)), "lacks"),
    "no tensors": (raw({"__metadata__": {"a": "b"}}), "no tensors"),
    "metadata": (raw({"__metadata__": {"a": 1}, "a": slot()}, bytes(8)), "metadata"),
    "twice": (raw(f'{{"a": {json.dumps(slot())}, "a": {json.dumps(slot())}}}'.encode(), bytes(8)), "twice"),
    "unprintable name": (raw({"a\n\x1b[2J": slot()}, bytes(8)), "printable"),
    "empty": (b"", "empty"),
    "text": (b"a letter to whom it may concern, longer than a header", "text"),
    "noise": (bytes(range(255, 100, -1)), "neither"),
}


@pytest.mark.parametrize("case", BAD_HEADERS)
def test_a_bad_safetensors_file_is_refused(tmp_path, case):
    content, word = BAD_HEADERS[case]
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    for read in (read_tensors, read_header):
        assert word in refusal(read, path)
    assert path.read_bytes() == content and list(tmp_path.iterdir()) == [path]


def test_no_file_and_a_folder_are_refused(tmp_path):
    assert "no such file" in refusal(read_tensors, tmp_path / "none.pt")
    assert "is a folder" in refusal(read_tensors, tmp_path)


def test_a_zip_of_another_kind_is_refused(tmp_path):
    assert "no data.pkl" in refusal(read_tensors, archive(tmp_path / "a.zip", {"letter.txt": b"dear all"}))


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read off /proc")
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_tensors_are_mapped_and_not_copied(tmp_path, suffix):
    path, size = tmp_path / f"a{suffix}", 256 << 20
    tensors = {"x": torch.zeros(size // 4)}
    torch.save(tensors, path) if suffix == ".pt" else save_file(tensors, path)
    code = (
        "import sys; from hallo3_core.weights.reading import read_tensors\n"
        "own = lambda: next(int(l.split()[1]) << 10 for l in open('/proc/self/status') if l.startswith('RssAnon'))\n"
        "before = own(); x = read_tensors(sys.argv[1])['x']; x.sum().item(); print(own() - before, len(x))"
    )
    run = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    grown, count = map(int, run.stdout.split())
    assert count == size // 4 and grown < size // 4


def refusal(read, path) -> str:
    """Returns the one-line error for the file."""
    with pytest.raises(InputError) as error:
        read(path)
    message = str(error.value)
    assert message.startswith(str(path)) and "\n" not in message and len(message) < 600 + len(str(path))
    return message


def archive(path, records, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in records.items():
            file.writestr(name, content)
    return path


class Made:
    """Pickles as a call of any name with any arguments."""

    def __init__(self, callee, *arguments):
        self.call = callee, arguments

    def __reduce__(self):
        return self.call


def named(name: str, **content):
    """A class of a program that is not installed here, importable only while the file is written."""
    module, _, kind = name.rpartition(".")
    parts = module.split(".")
    for length in range(1, len(parts) + 1):
        sys.modules.setdefault(".".join(parts[:length]), ModuleType(".".join(parts[:length])))
    made = type(kind, (dict,), {"__module__": module, "__qualname__": kind})
    setattr(sys.modules[module], kind, made)
    return made(content) if content else made


STATE = {
    "timedelta": lambda: datetime.timedelta(seconds=5),
    "datetime": datetime.datetime.now,
    "partial": lambda: functools.partial(int, base=2),
    "Counter": lambda: collections.Counter("abc"),
    "deque": lambda: collections.deque([1, 2]),
    "slice": lambda: slice(1, 2),
    "range": lambda: range(3),
    "frozenset": lambda: frozenset({1, 2}),
    "Decimal": lambda: decimal.Decimal("1.5"),
    "Fraction": lambda: fractions.Fraction(1, 3),
    "UUID": lambda: uuid.UUID(int=5),
    "type": lambda: type(None),
    "exception": lambda: ValueError("x"),
    "transformers": lambda: named("transformers_of_tomorrow.training_args.TrainingArguments", rate=1),
    "easydict": lambda: named("easydict_of_yesterday.EasyDict", a={"b": 2}),
    "a class alone": lambda: named("somebody.Model"),
    "keys of tuples": lambda: {(1, 2): 3, "a": {None: 1}},
    "bytearray": lambda: bytearray(b"abc"),
    "torch's modules": lambda: torch.nn.Linear(2, 2),
    "an optimiser": lambda: torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=1.0),
    "a generator of numpy": lambda: np.random.default_rng(0),
    "a sparse tensor": lambda: torch.eye(3).to_sparse(),
    "a path": lambda: pathlib.PurePosixPath("a"),
    "recursion": lambda: (lambda own: own.append((own,)) or own)([]),
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("kind", STATE)
@pytest.mark.parametrize("place", ["beside", "inside"])
def test_state_of_any_program_stands_beside_the_tensors(tmp_path, kind, place, protocol):
    """None of its objects are created, and the tensors are read."""
    content = {"module": {"x": torch.tensor([1.0, 2.0])}}
    (content if place == "beside" else content["module"])["state"] = STATE[kind]()
    torch.save(content, tmp_path / "a.pt", pickle_protocol=protocol)
    assert {name: tensor.tolist() for name, tensor in read_tensors(tmp_path / "a.pt").items() if name == "x"} == {
        "x": [1, 2]
    }


def test_what_was_skipped_is_reported_once(tmp_path, caplog):
    torch.save({"module": {"x": torch.ones(2)}, "a": datetime.timedelta(1), "b": decimal.Decimal(1)}, tmp_path / "a.pt")
    for read in (read_tensors, read_header, read_tensors):
        read(tmp_path / "a.pt")
    (record,) = caplog.records
    assert "'datetime.timedelta'" in record.getMessage() and "1 more such thing" in record.getMessage()


def test_tensors_with_attributes_are_read(tmp_path):
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.rank = 3
    tagged = torch.full((2,), 2.0)
    tagged.note = "mine"
    torch.save({"a": parameter, "b": tagged}, tmp_path / "a.pt")
    assert {name: tensor.tolist() for name, tensor in read_tensors(tmp_path / "a.pt").items()} == {
        "a": [1, 1],
        "b": [2, 2],
    }


@pytest.mark.parametrize(
    "callee",
    [os.system, subprocess.Popen, shutil.rmtree, eval, exec, open, __import__, getattr, importlib.import_module],
    ids=lambda callee: callee.__name__,
)
def test_what_runs_programs_is_refused_still(tmp_path, callee):
    torch.save({"module": {"x": torch.ones(2)}, "state": Made(callee, "true")}, tmp_path / "a.pt")
    assert "could run code" in refusal(read_tensors, tmp_path / "a.pt")


def test_a_file_of_foreign_things_alone_is_refused_with_their_name(tmp_path):
    torch.save(named("somebody.Whole", x=1), tmp_path / "a.pt")
    assert "'somebody.Whole'" in refusal(read_tensors, tmp_path / "a.pt")


def long4(value: int) -> bytes:
    """An integer of any length in a pickle."""
    content = value.to_bytes(value.bit_length() // 8 + 1, "little")
    return b"\x8b" + len(content).to_bytes(4, "little") + content


TENSOR = (
    b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
    b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x02tQK\x00"
)


def of_shape(shape: bytes, stride: bytes = b"K\x01\x85") -> bytes:
    return b"\x80\x02}X\x01\x00\x00\x00a" + TENSOR + shape + stride + b"\x89}tRs."


HUGE = (1 << 8 * 10_000) - 1
DOUBLED = b")" + b"q\x00h\x00\x86" * 60
PICKLES = {
    "dimensions of any length": of_shape(b"(" + long4(HUGE) + b"q\x01" + b"h\x01" * 3000 + b"t"),
    "thousands of dimensions": of_shape(b"(" + b"K\x01" * 200_000 + b"t", b"(" + b"K\x01" * 200_000 + b"t"),
    "strides of any length": of_shape(b"K\x02\x85", long4(HUGE) + b"\x85"),
    "many keys of any length": b"\x80\x02}("
    + long4((1 << 8 * 4_000_000) - 1)
    + b"q\x01"
    + b"Nh\x01" * 200_000
    + b"Nu.",
    "a name of nested tuples": b"\x80\x02" + DOUBLED + b"h\x00h\x00\x93.",
    "long names, again and again": b"\x80\x02X" + (3_000_000).to_bytes(4, "little") + b"x" * 3_000_000 + b"q\x01"
    b"h\x01\x930" * 100_000 + b".",
    "a record of any size": of_shape(b"K\x02\x85").replace(b"K\x02tQ", long4(HUGE) + b"tQ"),
}
DIGITS = int("9" * 4000)
HEADERS = {
    "dimensions of any length": {f"t{n}": slot(shape=(DIGITS,) * 40) for n in range(40)},
    "thousands of dimensions": {"t": slot(shape=(1,) * 500_000)},
    "large ones beside a zero": {"t": slot(0, 0, shape=(0, 10**14, 10**14))},
    "offsets of any length": {f"t{n}": slot(DIGITS, DIGITS) for n in range(400)},
    "all of it at the limit": {"t": slot(shape=[(1 << 48) - 1] * 400_000)},
}


MOMENT = 150  # million additions: some seconds, where a product or a text of all digits would take minutes


@pytest.mark.parametrize("case", [*PICKLES, *HEADERS])
@pytest.mark.parametrize("kind", [".pt", ".safetensors"])
def test_numbers_and_names_of_any_length_cost_nothing(tmp_path, case, kind):
    """Their lengths are checked before they are multiplied, looked up or formatted."""
    if case not in (PICKLES if kind == ".pt" else HEADERS):
        pytest.skip("of the other format")
    path = tmp_path / f"a{kind}"
    if kind == ".pt":
        archive(path, {"a/data.pkl": PICKLES[case], "a/data/0": bytes(8)})
    else:
        path.write_bytes(raw(HEADERS[case], bytes(8)))
    assert cost(lambda: [refusal(read, path) for read in (read_tensors, read_header)]) < MOMENT
