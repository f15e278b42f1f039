"""Models that are not in the repository run through the harness as its own workloads do."""

import importlib.util
import sys
from pathlib import Path

import msgspec
import own_models
import pytest
import tiny
from own_models import OWN

from bench import workloads
from bench.cells import sources
from bench.cells.cell import Cell, checked
from bench.run import executor, worker
from bench.store import ranges, records
from bench.studies import validation
from bench.workloads.errors import InputError
from bench.workloads.sources import configurations

DEVICE = "sim:rtx4090-24gb"
SLOW = ("a configuration",)
"""Which import a library for seconds."""
FEW = ("bf16", "numpy", "batch statistics", "a mapping", "last results")
"""Which a short run simulates: each is faked in its own way."""


def some(wanted):
    """All of them; those that are not wanted in a long run alone."""
    return [n if n in wanted else pytest.param(n, marks=pytest.mark.long) for n in OWN]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the models' files lie; a package there can be imported."""
    yield from own_models.importable(tmp_path, monkeypatch)


def cell_of(name, folder, spec="every_layer", device="cpu", **fields):
    own = OWN[name]
    text = {k: v.format(folder) if isinstance(v, str) else v for k, v in own.options.items()}
    fields = {"rounds": 0, "threads": 1, **fields}
    return checked(
        Cell(workload=own.name.format(folder), options=text, spec=spec, device=device, **fields)
    )


@pytest.mark.parametrize("name", some(set(OWN) - {*SLOW}))
def test_a_model_from_elsewhere_is_measured_to_the_bit(name, folder):
    own, record = OWN[name], worker.measure(cell_of(name, folder))
    assert record.status == "ok", record.reason
    assert record.grads_bitwise_equal
    assert record.buffers_equal
    assert (record.parameter_bytes, record.batch_bytes) == (own.parameter_bytes, own.batch_bytes)
    assert record.gradient_bytes == own.parameter_bytes
    assert len(record.block_forwards) == own.blocks
    assert record.recompute_flops > 0
    assert record.peak_allocated_bytes == record.predicted_peak_bytes


@pytest.mark.parametrize("name", some(FEW))
def test_a_model_from_elsewhere_is_simulated_as_it_runs(name, folder):
    own, row = OWN[name], validation.compare(cell_of(name, folder))
    assert (row.tensor_peak_error, row.after_forward_error) == (0, 0)
    record = worker.measure(cell_of(name, folder, device=DEVICE))
    assert (record.parameter_bytes, record.batch_bytes) == (own.parameter_bytes, own.batch_bytes)


def test_the_same_seed_is_the_same_model_and_batch(folder):
    workload = workloads.get(f"{folder}/own.py:build")
    for this, other in ((workload, workload), (workload, workload.with_options(seed=1))):
        same = this.make_batch().equal(other.make_batch())
        equal = this.model().head.weight.equal(other.model().head.weight)
        assert same == equal == (this is other)


def test_a_record_of_a_model_from_elsewhere_is_stored_and_read_without_it(folder, tmp_path):
    record = worker.measure(cell_of("a file with a function", folder, device=DEVICE))
    path = records.write(record, tmp_path / "results")
    (folder / "own.py").unlink()
    assert records.read(path) == record
    assert path.parent.parent == tmp_path / "results/raw/simulated"


@pytest.mark.parametrize(
    ("workload", "part"),
    [
        ("gpt-mini", "gpt-mini"),
        ("hf:meta-llama/Llama-3.1-8B", "hf-meta-llama-Llama-3.1-8B"),
        ("/home/me/own.py:build", "home-me-own.py-build"),
        ("/" + 300 * "a" + ":build", 94 * "a" + "-build"),
        ("hf:..", "hf-"),
    ],
)
def test_a_workload_is_one_part_of_a_path(workload, part):
    assert ranges.folder_of(workload) == part.strip("-")


def test_no_record_has_a_workload_that_leads_elsewhere():
    record = tiny.record("mlp-chain")
    ranges.check(msgspec.structs.replace(record, workload="/home/me/own.py:build"))
    for workload in ("a/b", "../b:c", "a:b/../../c", "own.py:build\n", ".a/b:c"):
        with pytest.raises(ValueError, match="workload must be a name that a file can have"):
            ranges.check(msgspec.structs.replace(record, workload=workload))


def hash_of(folder, name="a package"):
    cell = cell_of(name, folder, "none")
    return sources.code_hash(cell.make_strategy(), cell.make_workload())


@pytest.mark.parametrize(
    ("file", "decides"),
    [
        ("ownpackage/nets.py", True),
        ("ownpackage/parts.py", True),
        ("ownpackage/data.py", True),
        ("own.py", False),
    ],
)
def test_the_hash_covers_the_users_files_and_what_they_import(folder, file, decides):
    before = hash_of(folder)
    assert before == hash_of(folder)
    with (folder / file).open("a") as stream:
        stream.write("\n# another line\n")
    assert (hash_of(folder) != before) == decides


@pytest.mark.long
def test_the_hash_covers_a_configuration(folder):
    before = hash_of(folder, "a configuration")
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"hidden_size": 16', '"hidden_size": 32'))
    assert hash_of(folder, "a configuration") != before


# What is wrong with a model is said in one sentence that names its file and line.

BLOCKS = "def build():\n    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))"
NET = """def build():
    return Net()
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
"""
WRONG = {
    "a function that raises": (
        "def build():\n    raise RuntimeError('I give up.\\nAt last.')\n",
        {},
        "wrong.py:10: RuntimeError: I give up$",
    ),
    "a file that cannot be loaded": ("def build(:\n", {}, "wrong.py:9: SyntaxError: "),
    "a file that raises": ("1 / 0\n", {}, "wrong.py:9: ZeroDivisionError: division by zero$"),
    "no such function": ("", {}, "wrong.py has no 'build'; it has batch, fit, vector$"),
    "no function": ("build = 3\n", {}, "wrong.py: build is no function, but int$"),
    "no model": ("def build():\n    return 3\n", {}, "wrong.py:9: build.. gives int, not a torch"),
    "no batch": (
        "def build():\n    return nn.Linear(3, 3)\n\ndef none():\n    return 3\n",
        {"inputs": "none"},
        "wrong.py:12: the batch must be a tensor, a tuple or list of them, or a mapping of argum",
    ),
    "a batch of another size": (
        f"{NET}    def forward(self, x):\n        return self.body(x[:, 1:])\n",
        {},
        "wrong.py:16: RuntimeError: ",
    ),
    "a batch of too few": (
        f"{NET}    def forward(self, x, y):\n        return self.body(x)\n",
        {},
        "wrong.py:15: TypeError: Net.forward.. missing 1 required positional argument: 'y'$",
    ),
    "a loss that is no scalar": (
        BLOCKS,
        {"criterion": "vector"},
        r"wrong.py:7: the loss must be one number, not a tensor of shape \(2,\)$",
    ),
    "a loss of nothing that trains": (
        f"{BLOCKS}.requires_grad_(False)\n",
        {"criterion": "fit"},
        "wrong.py:5: the loss depends on no parameter that is trained$",
    ),
    "an option that nothing takes": (
        "def build():\n    return nn.Linear(4, 4)\n",
        {"depth": 3},
        "option 'depth' is taken by none of build.. at .*wrong.py:9, batch.. at .*wrong.py:3$",
    ),
    "a function that exits": (
        "def build():\n    raise SystemExit('no licence')\n",
        {},
        "wrong.py:10: SystemExit: no licence$",
    ),
    "a forward that exits": (
        f"{NET}    def forward(self, x):\n        raise SystemExit(3)\n",
        {},
        "wrong.py:16: SystemExit: 3$",
    ),
    "a frozen model of PyTorch's classes": (
        f"{BLOCKS}.requires_grad_(False)\n",
        {},
        "wrong.py:9: the loss must be one number, not nothing: no .* depends on what is trained$",
    ),
    "lazy layers": (
        "def build():\n    return nn.Sequential(nn.LazyLinear(4), nn.LazyLinear(4))\n",
        {},
        "wrong.py:9: build.. gives a model of lazy layers; call it on a batch before it is return",
    ),
    "an error that a terminal would obey": (
        "def build():\n    raise RuntimeError('\\x1b[31mred \\x07')\n",
        {},
        r"wrong.py:10: RuntimeError: \[31mred$",
    ),
    "a model where a function is named": (
        "build = nn.Linear(4, 4)\n",
        {},
        "wrong.py: build is a model; name a function that makes one$",
    ),
    "a model without values": (
        "def build():\n    return nn.Linear(4, 4, device='meta')\n",
        {},
        "wrong.py:9: build.. gives a model on the meta device, where no weight has a value$",
    ),
    "a batch without values": (
        f"{BLOCKS}\n\ndef shape():\n    return torch.ones(2, 4, device='meta')\n",
        {"inputs": "shape"},
        "wrong.py:12: the batch is on the meta device, where nothing has a value$",
    ),
    "a batch without tensors": (
        f"{BLOCKS}\n\ndef empty():\n    return ()\n",
        {"inputs": "empty"},
        "wrong.py:12: the batch holds no tensor$",
    ),
    "a generator of batches": (
        f"{BLOCKS}\n\ndef many():\n    yield batch()\n",
        {"inputs": "many"},
        "wrong.py:12: the batch must be a tensor, .*, not generator; give one of what it yields$",
    ),
    "blocks that are not there": (
        "def build():\n    return nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))\n",
        {"blocks": "body"},
        "the model has no module 'body'; blocks may be '0'$",
    ),
}
HEAD = """import torch
from torch import nn
def batch():
    return torch.randn(2, 4)
def fit(output):
    return output.square().mean()
def vector(output):
    return output.square().mean(1)
"""


def wrong_cell(tmp_path, name, device):
    source, options, says = WRONG[name]
    path = tmp_path / "wrong.py"
    path.write_text(HEAD + source)
    functions = {"inputs", "criterion"}
    given = {k: f"{path}:{v}" if k in functions else v for k, v in options.items()}
    cell = Cell(workload=f"{path}:build", options=given, spec="every_layer", device=device)
    return checked(msgspec.structs.replace(cell, rounds=0)), says


def test_a_model_is_built_for_each_measurement(tmp_path):
    path = tmp_path / "one.py"
    path.write_text(f"{HEAD}MODEL = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))\n")
    path.write_text(f"{path.read_text()}def build():\n    return MODEL\n")
    cell = checked(Cell(workload=f"{path}:build", spec="every_layer", rounds=0, threads=1))
    with pytest.raises(InputError, match=r"one.py:10: build.. gives the same model once more, wh"):
        executor.measure_cell(msgspec.json.encode(cell))


UNUSUAL = """
import os
import torch
from torch import nn
WEIGHT = torch.ones(4, 4, requires_grad=True)
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    def forward(self, x):
        print("forward")
        os.chdir("/")
        return self.body(x)
def build():
    return Net()
def batch():
    return torch.randn(2, 4) @ WEIGHT
"""


def test_what_a_model_does_to_its_process_is_its_own(tmp_path, capsys, monkeypatch):
    """It prints, it changes directory, and its batch remembers how it was computed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "unusual.py").write_text(UNUSUAL)
    cell = checked(Cell(workload="unusual.py:build", spec="every_layer", rounds=0, threads=1))
    record = records.decode(executor.measure_cell(msgspec.json.encode(cell)))
    assert (record.status, record.grads_bitwise_equal) == ("ok", True)
    said = capsys.readouterr()
    assert (said.out, "forward\n" in said.err) == ("", True)
    assert Path.cwd() == tmp_path


@pytest.mark.parametrize("device", ["cpu", DEVICE])
@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_a_model_is_one_sentence_with_its_line(tmp_path, name, device):
    cell, says = wrong_cell(tmp_path, name, device)
    with pytest.raises(InputError, match=says) as caught:
        executor.measure_cell(msgspec.json.encode(cell))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("missing.py:build", "no file '.*missing.py'"),
        ("missing.module:build", "no module 'missing.module' is found on the path of imports"),
        ("own.py:", "a function is named as file.py:name or module:name, not 'own.py:'"),
        pytest.param(
            "hf:gpt-2",
            "no configuration of 'gpt-2' is shipped. Did you mean hf:gpt2",
            marks=pytest.mark.long,
        ),
        ("hf:missing.json", "missing.json cannot be read: No such file"),
        ("timm:vit_base_patch16_224", "needs timm, which is not installed: pip install timm"),
    ],
)
def test_a_model_that_is_not_there_is_refused_before_anything_runs(name, says, monkeypatch):
    if name.startswith("timm:"):  # some environments have it
        monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=says):
        workloads.get(name)


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("timm:vit_base_patch16_384.augreg", 384),
        ("timm:vit_base_patch16_clip_224.openai", 224),
        ("timm:mobilenetv3_large_100", 224),
        ("timm:regnetx_002", 224),
        ("torchvision:resnet50", 224),
    ],
)
def test_the_side_of_images_is_told_by_a_name(name, side, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: True)
    assert workloads.get(name).options()["image"] == side


def test_an_option_is_one_value(folder):
    with pytest.raises(ValueError, match="option sizes must be one number, true, false or text"):
        workloads.get(f"{folder}/own.py:build", sizes=[1, 2])


STAND_INS = {
    "timm:own_tiny_128": "def create_model(name, pretrained):\n    return made(name, pretrained)\n",
    "torchvision:own": "from types import SimpleNamespace\n"
    "def get_model_builder(name):\n"
    "    return lambda *, weights=None, weights_backbone=3: made(name, weights, weights_backbone)\n"
    "models = SimpleNamespace(get_model_builder=get_model_builder)\n",
}
MADE = """
from torch import nn
def made(name, *downloaded):
    if not name.startswith("own"):
        raise RuntimeError(f"Unknown model ({name})")
    assert not any(downloaded)
    blocks = [nn.Conv2d(3, 3, 3, padding=1) for _ in range(4)]
    return nn.Sequential(nn.Sequential(*blocks), nn.AdaptiveAvgPool2d(10), nn.Flatten())
"""


@pytest.mark.parametrize("name", STAND_INS)
def test_models_of_libraries_are_built_by_them(name, tmp_path, monkeypatch):
    library = name.partition(":")[0]
    if importlib.util.find_spec("transformers"):  # asks once whether torchvision is there
        importlib.import_module("transformers.models.gpt2.modeling_gpt2")
    (tmp_path / f"{library}.py").write_text(STAND_INS[name] + MADE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, library, raising=False)
    options, side = ({}, 128) if "128" in name else ({"image": 32}, 32)
    cell = checked(Cell(workload=name, options=options, spec="sqrt", rounds=0, threads=1))
    record = worker.measure(cell)
    assert record.grads_bitwise_equal
    assert record.batch_bytes == 2 * (4 * 3 * side * side + 8)
    own = tmp_path / "own.py"
    own.write_text("import torch\ndef few(image):\n    return torch.randn(3, 3, image, image)\n")
    changed = msgspec.structs.replace(cell, options={"inputs": f"{own}:few", "image": 16})
    assert worker.measure(changed).batch_bytes == 4 * 3 * 3 * 16 * 16
    changed = msgspec.structs.replace(changed, options={**changed.options, "batch": 5})
    with pytest.raises(InputError, match=r"'batch' is taken by none of few.. at .*own.py:2$"):
        executor.measure_cell(msgspec.json.encode(changed))
    missing = checked(Cell(workload=f"{library}:missing", spec="none", rounds=0))
    with pytest.raises(InputError, match=rf"{library}.py:\d+: RuntimeError: Unknown model"):
        executor.measure_cell(msgspec.json.encode(missing))
    del sys.modules[library]  # not by monkeypatch, which would put the stand-in back


PARAMETERS = {
    "timm:vit_base_patch16_224": 86_567_656,
    "timm:convnext_tiny": 28_589_128,
    "timm:mobilenetv3_large_100": 5_483_032,
    "timm:mixer_b16_224": 59_880_472,
    "torchvision:resnet50": 25_557_032,
    "torchvision:swin_t": 28_288_354,
    "torchvision:densenet121": 7_978_856,
    "torchvision:deeplabv3_resnet50": 39_638_869,
}
"""Of models as published, the last without the head that only pretraining has."""


@pytest.mark.long
@pytest.mark.parametrize("name", PARAMETERS)
def test_models_of_libraries_that_are_installed_are_simulated_whole(name):
    library = name.partition(":")[0]
    try:
        importlib.import_module(library)
    except (ImportError, RuntimeError) as error:  # a build for another torch registers in vain
        pytest.skip(f"{library} does not load here ({error}): see nox -s images")
    record = worker.measure(checked(Cell(workload=name, spec="sqrt", device=DEVICE, rounds=0)))
    assert record.status == "ok", record.reason
    assert record.parameter_bytes == 4 * PARAMETERS[name]
    assert record.batch_bytes == 2 * (4 * 3 * 224 * 224 + 8)
    assert len(record.plan.split()) > 4


def test_shipped_sizes_are_those_of_the_librarys_objects():
    for name, entry in configurations.published().items():
        config = configurations.make(configurations.fields_of(name))
        assert entry["sizes"] == configurations.sizes(config), name
