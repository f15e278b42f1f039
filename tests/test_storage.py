"""Storage: exact bytes, exact layouts, bounded errors, and nothing left behind."""

import contextlib
import errno
import gc
import math
import os
import resource

import pytest
import resting
import torch
from effort import examples
from hypothesis import given
from hypothesis import strategies as st
from models import BLOCKS, CASES, WIDTH, chain_of, loss_of, nested_plans, seed, step
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import strategies
from strategies import Unsupported
from strategies.execution.layout import install
from strategies.schedules import plan as plans
from strategies.storage import CODECS, TIERS, Device, Disk, Host, Storage, codecs, spool, tiers
from strategies.storage.auto import Auto

INT8, INT4, FP16, BF16 = codecs.Int8(), codecs.Int4(), codecs.Fp16(), codecs.Bf16()
HALF = codecs.Projection(ratio=0.5)
ROWS = 128
N = ROWS * WIDTH  # values in a boundary
LINES = torch.linspace(-3, 3, N).view(ROWS, WIDTH)


def nbytes(tensors):
    return sum(t.numel() * t.element_size() for t in tensors)


def round_trip(codec, tensor):
    encoded = codec.encode(tensor)
    return encoded.decode(encoded.parts)


class Allocations(TorchDispatchMode):
    """Storages that operations made, and how many bytes of them are alive."""

    def __init__(self, *known):
        super().__init__()
        self.known = {t.untyped_storage()._cdata for t in known}
        self.made = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(output):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                if storage._cdata not in self.known:
                    self.made[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        return output

    def alive(self):
        return sum(size for ref, size in self.made.values() if not ref.expired())


def alive_after_forward(model, x):
    """Bytes that wait for backward, and the loss that holds them."""
    with Allocations(x, *model.parameters()) as allocations:
        loss = model(x).sum()
    return allocations.alive() - loss.untyped_storage().nbytes(), loss


@contextlib.contextmanager
def boundaries(model):
    """What every block is given, as references that do not keep it."""
    found = []
    handles = [
        block.register_forward_pre_hook(
            lambda _, args: found.append(StorageWeakRef(args[0].untyped_storage()))
        )
        for block in model
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@pytest.fixture
def stored(monkeypatch):
    """Every tensor that a storage is given."""
    tensors, store = [], Storage.store

    def record(self, tensor):
        tensors.append((tensor.shape, tensor.dtype))
        return store(self, tensor)

    monkeypatch.setattr(Storage, "store", record)
    return tensors


# Bytes between forward and backward, of blocks x -> Linear(relu(x)): a block that runs normally
# keeps relu's output, a group its boundary. The first boundary is the caller's own.


@pytest.mark.parametrize(
    "text",
    [
        "0 1 2 3 4",
        "[0] [1] [2] [3] [4]",
        "[0 1] [2 3] [4]",
        "[0 1] [2 3] 4",
        "0 [1 2] 3 [4]",
        "[0 1 2 3 4]",
        "[0 [1 2]] [[3] 4]",
    ],
)
@pytest.mark.parametrize(
    ("storage", "resting"),
    [
        (None, 4 * N),
        (Storage(), 4 * N),
        (Storage(FP16), 2 * N),
        (Storage(BF16), 2 * N),
        (Storage(INT8), N + 4 * N // 64),
        (Storage(codecs.Int8(group=32)), N + 4 * N // 32),
        (Storage(INT4), N // 2 + 4 * N // 64),
        (Storage(HALF), 4 * N // 2),
        (Storage(codecs.Projection(ratio=0.3)), 4 * ROWS * 5),
        (Storage(tier=Disk()), 0),
        (Storage(INT8, Auto()), 0),
    ],
    ids=str,
)
def test_bytes_after_forward(text, storage, resting):
    plan = plans.parse(text)
    model = chain_of(5)
    undos = install(strategies.find_chain(model), plan, storage)
    assert undos or text == "0 1 2 3 4"
    alive, loss = alive_after_forward(model, LINES)
    kept = sum(isinstance(node, int) for node in plan)
    groups = len(plan) - kept
    as_it_is = storage is None or storage == Storage()
    free = as_it_is and not isinstance(plan[0], int)
    assert alive == 4 * N * kept + resting * (groups - free)
    loss.backward()


@examples(40)
@given(nested_plans(0, BLOCKS))
def test_bytes_after_forward_of_any_plan(plan):
    model = chain_of(BLOCKS)
    install(strategies.find_chain(model), plan)
    alive, loss = alive_after_forward(model, LINES)
    free = not isinstance(plan[0], int)
    assert alive == 4 * N * (len(plan) - free)
    del loss


def test_after_backward_nothing_is_alive():
    for spec in ("every_layer", "sqrt", "compressed(codec=int8)", "offload"):
        model = chain_of(BLOCKS)
        strategies.apply(model, spec)
        with Allocations(LINES, *model.parameters()) as allocations:
            loss = model(LINES).sum()
            loss.backward()
        del loss
        gradients = nbytes(p.grad for p in model.parameters())
        assert allocations.alive() == gradients


@pytest.mark.parametrize(
    ("spec", "freed"),
    [
        ("every_layer", 0),
        ("sqrt", 0),
        ("compressed(codec=int8)", BLOCKS - 1),
        ("offload(tier=disk)", BLOCKS - 1),
        ("offload(over=every_k(k=2))", 2),
    ],
)
def test_the_boundary_itself_is_freed(spec, freed):
    model = chain_of(BLOCKS)
    plan = strategies.apply(model, spec).plan
    with boundaries(model) as found:
        loss = model(LINES).sum()
    starts = [plans.first(node) for node in plan if not isinstance(node, int) and node[0] != 0]
    assert sum(found[index].expired() for index in starts) == freed
    assert not found[0].expired()
    loss.backward()
    assert all(ref.expired() for ref in found[1:BLOCKS])


# Disk.


@pytest.fixture(params=["nameless", "named"])
def folder(request, tmp_path, monkeypatch):
    """Where files go; both kinds of them."""
    if request.param == "named":
        resting.has_names(monkeypatch)
    return tmp_path


def test_files_are_exact_and_vanish(folder):
    model = chain_of(BLOCKS)
    strategies.apply(model, f"offload(directory={str(folder)!r})")
    for _ in range(2):
        loss = model(LINES).sum()
        assert resting.sizes(folder) == [4 * N] * BLOCKS
        loss.backward(retain_graph=True)
        assert resting.sizes(folder) == [4 * N] * BLOCKS
        loss.backward()
        del loss
        assert resting.sizes(folder) == []
        assert not list(folder.iterdir())


def test_files_of_a_graph_that_is_dropped_vanish(folder):
    model = chain_of(BLOCKS)
    strategies.apply(model, f"offload(directory={str(folder)!r}, over=every_k(k=2))")
    loss = model(LINES).sum()
    assert len(resting.sizes(folder)) == 3
    del loss
    assert resting.sizes(folder) == []
    assert not list(folder.iterdir())


def test_no_files_without_gradients(folder):
    model = chain_of(BLOCKS)
    strategies.apply(model, f"offload(directory={str(folder)!r})")
    with torch.no_grad():
        output = model(LINES)
    assert not output.requires_grad
    assert resting.sizes(folder) == []


@pytest.mark.parametrize(
    ("codec", "sizes"),
    [("int8", [N, 4 * N // 64]), ("int4", [N // 2, 4 * N // 64]), ("fp16", [2 * N])],
)
def test_files_of_compressed_boundaries(codec, sizes, tmp_path):
    model = chain_of(3)
    spec = f"offload(directory={str(tmp_path)!r}, over=compressed(codec={codec}, over=sqrt))"
    strategies.apply(model, spec)
    loss = model(LINES).sum()
    assert resting.sizes(tmp_path) == sorted(sizes)
    loss.backward()


def test_a_write_that_fails_leaves_no_file(folder, monkeypatch):
    def fail(_):
        raise OSError("no space left on device")

    monkeypatch.setattr(tiers, "_flat_bytes", fail)
    with pytest.raises(OSError, match="no space left"):
        Disk(directory=str(folder)).put(torch.ones(3))
    gc.collect()
    assert resting.sizes(folder) == []
    assert not list(folder.iterdir())


def test_a_file_that_was_cut_is_an_error(folder):
    disk = Disk(directory=str(folder))
    handle = disk.put(torch.ones(3))
    resting.cut(folder)
    with pytest.raises(OSError, match="was cut short"):
        disk.get(handle)


def test_no_name_is_ever_seen(tmp_path):
    """So that there is nothing to clean, even after SIGKILL."""
    handle = Disk(directory=str(tmp_path)).put(torch.ones(3))
    assert resting.sizes(tmp_path) == [12]
    assert not list(tmp_path.iterdir())
    del handle


def test_files_have_names_where_the_system_has_none_without(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(spool, "_new_nameless", refuse)
    handle = Disk(directory=str(tmp_path)).put(torch.ones(3))
    (folder,) = tmp_path.iterdir()
    assert [path.suffix for path in folder.iterdir()] == [".boundary"]
    del handle
    assert not list(tmp_path.iterdir())


def test_files_take_a_share_of_the_descriptors_alone(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        disk = Disk(directory=str(tmp_path))
        handles = [disk.put(torch.full((2,), float(n))) for n in range(200)]
        assert len(resting.nameless(tmp_path)) == 64
        assert len(resting.sizes(tmp_path)) == 200
        assert [disk.get(handle)[0].item() for handle in handles] == list(range(200))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    del handles
    assert resting.sizes(tmp_path) == []
    assert not list(tmp_path.iterdir())


def test_a_folder_that_nobody_holds_is_swept(tmp_path, monkeypatch):
    resting.has_names(monkeypatch)
    left = tmp_path / f"{spool.PREFIX}left"
    left.mkdir()
    (left / "x.boundary").write_bytes(b"1234")
    handle = Disk(directory=str(tmp_path)).put(torch.ones(3))
    assert not left.exists()
    (held,) = tmp_path.iterdir()
    assert spool.sweep(str(tmp_path)) == []  # this process holds it
    assert held.exists()
    del handle


# Layouts.


def image():
    return torch.arange(120, dtype=torch.float32).view(2, 3, 4, 5)


LAYOUTS = {
    "contiguous": image,
    "0-dim": lambda: torch.tensor(3.5),
    "empty": lambda: torch.empty(0),
    "empty rows": lambda: torch.empty(0, 7),
    "one value": lambda: torch.tensor([2.0]),
    "channels last": lambda: image().contiguous(memory_format=torch.channels_last),
    "transposed": lambda: image().transpose(1, 3),
    "strided": lambda: image()[..., ::2],
    "offset": lambda: image()[1:],
    "column": lambda: image()[..., 1],
    "expanded": lambda: torch.tensor([1.0, 2.0]).unsqueeze(1).expand(2, 5),
    "overlapping": lambda: torch.arange(9.0).unfold(0, 4, 1),
    "float64": lambda: image().double() / 7,
    "float16": lambda: image().half(),
    "bfloat16": lambda: image().bfloat16(),
    "int64": lambda: image().long(),
    "bool": lambda: image() > 50,
    "complex": lambda: torch.complex(image(), image() + 1),
    "requires grad": lambda: image().requires_grad_(),
}
every_layout = pytest.mark.parametrize("layout", LAYOUTS)


def is_dense(tensor):
    return torch.empty_like(tensor).stride() == tensor.stride()


@every_layout
def test_disk_gives_back_the_same_tensor(layout):
    tensor = LAYOUTS[layout]()
    disk = Disk()
    handle = disk.put(tensor)
    with handle.file.opened() as descriptor:
        assert os.fstat(descriptor).st_size == nbytes([tensor])
    back = disk.get(handle)
    assert torch.equal(back, tensor)
    assert (back.dtype, back.shape, back.device) == (tensor.dtype, tensor.shape, tensor.device)
    assert back.stride() == (tensor if is_dense(tensor) else tensor.contiguous()).stride()
    assert back.untyped_storage().nbytes() == nbytes([tensor])
    assert not back.requires_grad
    again = disk.get(handle)
    assert torch.equal(again, tensor)
    assert again.data_ptr() != back.data_ptr() or not tensor.numel()


@every_layout
@pytest.mark.parametrize("name", CODECS)
def test_codecs_keep_shape_and_dtype(layout, name):
    tensor = LAYOUTS[layout]().detach()
    codec = CODECS[name]()
    encoded = codec.encode(tensor)
    back = encoded.decode(encoded.parts)
    assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape)
    kept = len(encoded.parts) == 1 and encoded.parts[0] is tensor
    assert kept or nbytes(encoded.parts) < nbytes([tensor]) or not tensor.numel()
    if kept:
        assert back is tensor
    if not tensor.is_floating_point() or name == "raw":
        assert kept
    bounds = {"fp16": 2**-11, "bf16": 2**-8, "int8": 0.51 / 127, "int4": 0.51 / 7}
    if not kept and name in bounds and tensor.numel():
        slack = 2**-8 if tensor.dtype is torch.bfloat16 else 2**-10
        assert ((back - tensor).abs() <= (bounds[name] + slack) * tensor.abs().max()).all()


@every_layout
@pytest.mark.parametrize("name", CODECS)
def test_storage_on_disk_of_every_codec(layout, name):
    tensor = LAYOUTS[layout]().detach()
    at_rest = Storage(CODECS[name](), Disk()).store(tensor)
    back = at_rest.restore()
    expected = round_trip(CODECS[name](), tensor)
    if layout == "expanded":  # elements that share memory have one value, whatever was projected
        expected = expected[:, :1].expand_as(expected)
    assert torch.equal(back, expected)
    assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape)
    assert back.stride() == tensor.stride() or layout == "overlapping"


def test_a_device_keeps_the_tensor_itself():
    tensor = torch.ones(3)
    assert Device().get(Device().put(tensor)) is tensor
    assert list(TIERS.values()) == [Device, Host, Disk]
    assert [tier.name for tier in TIERS.values()] == list(TIERS)


def test_host_memory_is_no_other_place_than_that_of_a_cpu():
    with pytest.raises(ValueError, match="in host memory already; offload it to disk instead"):
        Host().put(torch.ones(3))
    with pytest.raises(Unsupported, match=r"host.*in host memory already; use tier=disk"):
        strategies.apply(chain_of(2), "offload(tier=host)")


def test_auto_is_disk_for_a_cpu():
    auto = Auto()
    tier, handle = auto.put(torch.ones(3))
    assert tier == Disk()
    assert isinstance(handle.file, spool.Nameless)
    assert torch.equal(auto.get((tier, handle)), torch.ones(3))


@pytest.mark.parametrize(
    ("storage", "text", "resting"),
    [
        (Storage(), "raw on device", 4 * N),
        (Storage(INT8), "int8 on device", N + N // 16),
        (Storage(INT4, Disk()), "int4 on disk", 0),
        (Storage(FP16, Auto()), "fp16 on auto", 0),
        (Storage(HALF, Host()), "projection on host", 0),
    ],
)
def test_storage_says_what_it_is_and_takes(storage, text, resting):
    assert str(storage) == text
    assert storage.device_bytes(LINES) == resting


# What is stored: the boundary, not what all blocks share.


def test_only_the_boundary_is_stored(stored):
    case = CASES["extras"]
    model = case.model()
    strategies.apply(model, "offload")
    step(model, case.input())
    assert stored == [(case.input().shape, torch.float32)] * BLOCKS


def test_a_boundary_that_comes_by_keyword_is_stored(stored):
    case = CASES["keywords"]
    model = case.model()
    for spec, groups in (("offload", BLOCKS), ("offload(over=every_k(k=2))", 3)):
        stored.clear()
        with strategies.apply(model, spec):
            step(model, case.input())
        shape = (*case.input().shape, WIDTH)
        assert stored == [(shape, torch.float32)] * groups


class Plain(torch.nn.Module):
    """Saves neither what it takes nor what it returns."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return torch.sigmoid(self.linear(2 * x)) * 2


@pytest.mark.parametrize(
    "spec", ["every_layer", "offload", "compressed", "offload(over=every_k(k=2))"]
)
def test_a_change_in_place_is_an_error_as_it_is_without(spec):
    """Of a boundary, after the forward: recompute would find it changed."""
    model = torch.nn.Sequential(*(Plain() for _ in range(4)))
    boundaries = []
    model[2].register_forward_pre_hook(lambda _, args: boundaries.append(args[0]))
    with strategies.apply(model, spec):
        loss = model(torch.ones(2, WIDTH)).sum()
        with torch.no_grad():
            boundaries[0].add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


@pytest.mark.parametrize("spec", ["offload", "compressed", "offload(over=sqrt)"])
@pytest.mark.parametrize("kind", ["sparse", "jagged"])
def test_what_has_no_memory_of_its_own_stays_where_it_is(spec, kind, stored):
    seed = torch.Generator().manual_seed(0)
    dense = torch.randn(4, WIDTH, generator=seed)

    class Mixes(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(WIDTH, WIDTH)

        def forward(self, given, x):
            y = torch.tanh(self.linear(x))
            return torch.sparse.mm(given, y) if kind == "sparse" else y

    class Mixed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.h = torch.nn.ModuleList([Mixes() for _ in range(4)])

        def forward(self, x):
            given = torch.eye(4).roll(1, 0).to_sparse()
            if kind == "jagged":
                x = torch.nested.nested_tensor_from_jagged(x, torch.tensor([0, 1, 4]))
            for block in self.h:
                x = block(given, x)
            return x.values() if kind == "jagged" else x

    model = Mixed()
    gradients = []
    for chosen in ("none", spec):
        with strategies.apply(model, chosen):
            model.zero_grad()
            model(dense).sum().backward()
            gradients.append([p.grad.clone() for p in model.parameters()])
    assert stored == []
    assert all(map(torch.equal, *gradients))


def test_a_boundary_of_several_tensors_is_stored_whole(stored):
    case = CASES["pair-sequential"]
    model = case.model()
    strategies.apply(model, "offload(over=every_k(k=2))")
    step(model, case.input())
    assert stored == [(case.input().shape, torch.float32)] * 2 * 3


class Named(torch.nn.Module):
    """Hands its tensors on by name."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(WIDTH, WIDTH)

    def forward(self, tensors):
        x = torch.tanh(self.linear(tensors["x"]))
        return {**tensors, "x": x, "total": tensors["total"] + x}


def test_a_boundary_of_named_tensors_is_stored_whole(stored):
    model = chain_of(4, Named)
    given = {"x": LINES, "total": torch.zeros(()), "name": "given"}
    for spec, groups in (("offload", 4), ("offload(over=every_k(k=2))", 2)):
        stored.clear()
        found = []
        for chosen in ("none", spec):
            with strategies.apply(model, chosen):
                model.zero_grad()
                model(given)["total"].sum().backward()
            found.append([p.grad.clone() for p in model.parameters()])
        assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
        assert len(stored) == 2 * groups


def test_nested_boundaries_are_not_stored(stored):
    model = chain_of(4)
    install(strategies.find_chain(model), plans.parse("[[0 1] [2 3]]"), Storage(INT8))
    model(LINES).sum().backward()
    assert len(stored) == 1


def test_tensors_without_gradient_are_stored_too(stored):
    case = CASES["frozen-prefix"]
    model = case.model()
    strategies.apply(model, "offload")
    step(model, case.input())
    assert len(stored) == BLOCKS


def test_integers_are_kept_as_they_are():
    seed(0)
    model = torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.Linear(4, 4))
    tokens = torch.arange(9).expand(20, 9)
    wanted = step(model, tokens).gradients["0.weight"]
    for codec in ("int8", "int4", "projection"):
        with strategies.apply(model, f"compressed(codec={codec})"):
            assert torch.equal(step(model, tokens).gradients["0.weight"], wanted)


# Errors of codecs.

moderate = st.floats(-(2.0**100), 2.0**100, width=32).filter(lambda x: x == 0 or abs(x) > 2.0**-60)
values = st.lists(moderate, min_size=1, max_size=200)


def per_group(tensor, group):
    rows = torch.nn.functional.pad(tensor, (0, -tensor.numel() % group)).view(-1, group)
    return rows.abs().amax(1, keepdim=True).expand_as(rows).flatten()[: tensor.numel()]


@given(values, st.sampled_from([2, 8, 64]), st.sampled_from([codecs.Int8, codecs.Int4]))
def test_integers_err_by_half_a_level(data, group, cls):
    tensor = torch.tensor(data)
    codec = cls(group=group)
    encoded = codec.compress(tensor)
    back = encoded.decode(encoded.parts)
    scale = per_group(tensor.double(), group) / (127 if cls is codecs.Int8 else 7)
    error = (back.double() - tensor.double()).abs()
    assert (error <= scale * (0.5 + 2**-15)).all()
    groups = math.ceil(len(data) / group)
    levels = group * (1 if cls is codecs.Int8 else 0.5)
    assert nbytes(encoded.parts) == groups * (levels + 4)
    assert encoded.parts[1].dtype is torch.float32


@given(values, st.sampled_from([torch.float16, torch.bfloat16]), st.sampled_from([INT8, INT4]))
def test_integers_of_halves_round_once(data, dtype, codec):
    tensor = torch.tensor(data).clamp(-60000, 60000).to(dtype)
    back = round_trip_compressed(codec, tensor)
    assert back.dtype is dtype
    assert torch.equal(back, round_trip_compressed(codec, tensor.float()).to(dtype))


@given(values)
def test_integers_of_doubles_err_no_more(data):
    tensor = torch.tensor(data, dtype=torch.float64) / 3
    back = round_trip_compressed(INT8, tensor)
    assert back.dtype is torch.float64
    scale = per_group(tensor, 64) / 127
    assert ((back - tensor).abs() <= scale * (0.5 + 2**-15)).all()


def round_trip_compressed(codec, tensor):
    encoded = codec.compress(tensor)
    return encoded.decode(encoded.parts)


@given(values, st.sampled_from([codecs.Int8(), codecs.Int4(), FP16, BF16]))
def test_a_second_round_trip_changes_nothing_more(data, codec):
    once = round_trip_compressed(codec, torch.tensor(data))
    twice = round_trip_compressed(codec, once)
    torch.testing.assert_close(twice, once, rtol=2**-20, atol=0)


@pytest.mark.parametrize("codec", [INT8, INT4])
def test_levels_reach_the_largest_value_and_zero(codec):
    tensor = torch.zeros(128)
    tensor[3], tensor[70] = -5.0, 7.0
    assert torch.equal(round_trip(codec, tensor), tensor)
    levels, scale = codec.encode(torch.zeros(128)).parts
    assert torch.equal(scale, torch.ones(2, 1))
    assert torch.equal(levels, torch.full_like(levels, 0 if codec is INT8 else 0x88))
    assert torch.equal(round_trip(codec, torch.zeros(128)), torch.zeros(128))


@pytest.mark.parametrize("codec", [INT8, INT4])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_spoils_its_group(codec, bad):
    tensor = torch.ones(192)
    tensor[70] = bad
    back = round_trip(codec, tensor)
    assert not back[64:128].isfinite().any()
    assert torch.equal(back[:64], torch.ones(64))
    assert torch.equal(back[128:], torch.ones(64))


@pytest.mark.parametrize("codec", [INT8, INT4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_values_too_small_for_a_scale_vanish(codec, dtype):
    tensor = torch.zeros(64, dtype=dtype)
    tensor[1] = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    assert tensor[1] > 0
    back = round_trip_compressed(codec, tensor)
    assert ((back == 0) | (back == tensor)).all()


@given(values)
def test_fp16_rounds_and_clamps(data):
    tensor = torch.tensor(data)
    back = round_trip(FP16, tensor).double()
    clamped = tensor.double().clamp(-65504, 65504)
    assert ((back - clamped).abs() <= (2**-11 * clamped.abs()).clamp(min=2**-25)).all()


@given(values)
def test_bf16_rounds(data):
    tensor = torch.tensor(data)
    error = (round_trip(BF16, tensor).double() - tensor.double()).abs()
    assert (error <= 2**-8 * tensor.double().abs()).all()


def test_casts_of_what_is_not_finite():
    tensor = torch.tensor([math.nan, math.inf, -math.inf, 1.0])
    back = round_trip(FP16, tensor)
    assert back[0].isnan()
    assert torch.equal(back[1:], torch.tensor([65504.0, -65504.0, 1.0]))
    torch.testing.assert_close(round_trip(BF16, tensor), tensor, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("codec", [FP16, BF16, codecs.Int8(group=4)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_would_not_shrink_is_kept(codec, dtype):
    tensor = torch.ones(64, dtype=dtype)
    assert codec.encode(tensor).parts[0] is tensor


@pytest.mark.parametrize(("n", "kept"), [(1, True), (17, True), (18, False), (64, False)])
def test_a_group_is_padded_only_if_that_pays(n, kept):
    encoded = INT8.encode(torch.ones(n))
    assert (len(encoded.parts) == 1) is kept


# Projection.


@given(st.integers(0, 2**31), st.integers(2, 48), st.floats(0.05, 0.95), st.sampled_from([1, 2, 3]))
def test_a_projection_is_orthogonal(number, width, ratio, dims):
    tensor = torch.randn(*[3] * (dims - 1), width, generator=torch.Generator().manual_seed(number))
    codec = codecs.Projection(ratio=ratio, seed=number)
    before = torch.get_rng_state()
    encoded = codec.compress(tensor)
    back = encoded.decode(encoded.parts)
    assert torch.equal(torch.get_rng_state(), before)
    kept = math.ceil(ratio * width)
    assert encoded.parts[0].shape == (*tensor.shape[:-1], kept)
    torch.testing.assert_close(round_trip_compressed(codec, back), back, rtol=1e-4, atol=1e-4)
    # Pythagoras: what is lost is orthogonal to what is kept.
    lost = tensor - back
    torch.testing.assert_close(
        back.square().sum(-1) + lost.square().sum(-1), tensor.square().sum(-1), rtol=1e-3, atol=1e-4
    )
    matrix = codec.matrix(width, tensor)
    torch.testing.assert_close(matrix.mT @ matrix, torch.eye(kept), rtol=0, atol=1e-5)


@pytest.mark.parametrize("ratio", [0.1, 0.25, 0.5, 0.75, 0.9])
def test_a_projection_loses_what_theory_says(ratio):
    tensor = torch.randn(2000, 100, generator=torch.Generator().manual_seed(0))
    lost = round_trip(codecs.Projection(ratio=ratio), tensor) - tensor
    error = (lost.norm() / tensor.norm()).item()
    assert error == pytest.approx(math.sqrt(1 - ratio), rel=0.02)


def test_a_projection_depends_on_its_seed_alone():
    like = torch.ones(1)
    first = codecs.Projection(seed=1).matrix(8, like)
    torch.rand(5)
    assert torch.equal(codecs.Projection(seed=1).matrix(8, like), first)
    assert not torch.equal(codecs.Projection(seed=2).matrix(8, like), first)
    with torch.device("meta"):
        assert torch.equal(codecs.Projection(seed=1).matrix(8, like), first)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(codecs.Projection(seed=1).matrix(8, like), first)
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_projection_of_full_rank_is_no_projection():
    tensor = torch.ones(4, 3)
    assert codecs.Projection(ratio=1.0).encode(tensor).parts[0] is tensor
    assert codecs.Projection(ratio=0.9).encode(tensor).parts[0] is tensor  # 3 of 3
    assert codecs.Projection(ratio=0.5).encode(torch.tensor(2.0)).parts[0] == 2.0
    assert codecs.Projection(ratio=0.5).encode(tensor).parts[0].shape == (4, 2)


@pytest.mark.parametrize("name", CODECS)
def test_autocast_does_not_change_what_is_restored(name):
    codec = CODECS[name]()
    wanted = round_trip(codec, LINES)
    with torch.autocast("cpu", torch.bfloat16):
        encoded = codec.encode(LINES)
    assert torch.equal(encoded.decode(encoded.parts), wanted)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(encoded.decode(encoded.parts), wanted)


# Composition.


def test_int8_on_disk_over_sqrt():
    model = chain_of(16)
    applied = strategies.apply(model, "offload(over=compressed(codec=int8, over=sqrt))")
    assert str(applied.storage) == "int8 on auto"
    assert plans.render(applied.plan) == "[0 1 2 3] [4 5 6 7] [8 9 10 11] 12 13 14 15"
    assert not applied.strategy.exact
    assert applied.attention_kernel is None
    alive, loss = alive_after_forward(model, LINES)
    assert alive == 4 * 4 * N
    loss.backward()
    gradient = model[0].linear.weight.grad.clone()
    strategies.undo(model)
    model.zero_grad()
    model(LINES).sum().backward()
    wanted = model[0].linear.weight.grad
    assert 0 < (gradient - wanted).norm() < 0.1 * wanted.norm()


@pytest.mark.parametrize(
    ("spec", "text", "plan", "exact"),
    [
        ("offload(over=sqrt)", "raw on auto", "[0 1] 2 3", True),
        ("offload(tier=disk, over=every_k(k=3))", "raw on disk", "[0 1 2] [3]", True),
        ("compressed(over=offload(tier=disk))", "bf16 on disk", "[0] [1] [2] [3]", False),
        ("compressed(codec=int4, over=compressed(codec=int8))", "int4 on device", None, False),
        ("offload(over=none)", "raw on auto", "0 1 2 3", True),
        ("offload(over=offload(tier=disk))", "raw on auto", "[0] [1] [2] [3]", True),
    ],
)
def test_layers_compose(spec, text, plan, exact):
    model = chain_of(4)
    with strategies.apply(model, spec) as applied:
        assert str(applied.storage) == text
        assert plan is None or plans.render(applied.plan) == plan
        assert applied.strategy.exact is exact
        loss_of(model(LINES)).backward()


def test_flash_over_int8_over_offload():
    case = CASES["core"]
    model = case.model()
    spec = "flash_checkpoint(over=compressed(codec=int8, over=offload(over=every_k(k=2))))"
    with strategies.apply(model, spec) as applied:
        assert str(applied.storage) == "int8 on auto"
        assert plans.render(applied.plan) == "[0 1] [2 3] [4]"
        assert applied.attention_kernel == "sdpa-flash"
        assert all(block.attn.core.kernel == "flash" for block in applied.chain.blocks)
        step(model, case.input())
    assert all(block.attn.core.kernel == "math" for block in model.h)


class Halves(nn.Module):
    """Its blocks are given the halves of a batch, slices that a linear layer saves as they are."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(2))

    def forward(self, batch):
        first, second = batch.chunk(2, 1)
        return self.blocks[0](first) * self.blocks[1](second)


@pytest.mark.parametrize("spec", ["offload", "compressed(codec='int8', group=2)"])
def test_a_boundary_that_is_a_slice_is_one_again(spec):
    torch.manual_seed(0)
    model, batch = Halves(), torch.randn(4, 6, 8)
    model(batch).sum().backward()
    grads = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    strategies.apply(model, spec, blocks="blocks")
    model(batch).sum().backward()
    exact = spec == "offload"
    same = torch.equal if exact else lambda a, b: torch.allclose(a, b, rtol=0.1, atol=0.2)
    assert all(same(p.grad, grad) for p, grad in zip(model.parameters(), grads, strict=True))
