"""Rare tensors, modules and plans, as profiles and checkpoints see them."""

import dataclasses
import types

import pytest
import torch
from nested import random_profile
from torch import nn
from torch.utils import _triton

import strategies
from strategies.contract.remedies import tail_bytes
from strategies.execution import compiler, late
from strategies.execution.tensors import dense_parts, tensors_in
from strategies.peers.checkpoint_schedules_revolve import CheckpointSchedulesRevolve
from strategies.profiling import kinds, profiler, saved, trial
from strategies.profiling.passage import Form, reached
from strategies.profiling.step import ExampleStep, default_loss
from strategies.profiling.update import _number
from strategies.schedules import plan as plans
from strategies.schedules.interpreter import predict
from strategies.schedules.schedule import Schedule
from strategies.storage import auto
from strategies.storage.codecs import Int8, Projection
from strategies.storage.tiers import Host


@dataclasses.dataclass
class Pair:
    first: torch.Tensor
    more: list[torch.Tensor]


def test_tensors_are_found_in_objects_of_data_too():
    first, second = torch.zeros(1), torch.zeros(2)
    found = list(tensors_in([Pair(first, [second]), {"a": (first, 3)}, Pair]))
    assert [id(t) for t in found] == [id(first), id(second), id(first)]


def test_a_sparse_tensor_is_its_values_and_indices():
    dense = torch.tensor([[0.0, 2.0, 3.0], [0.0, 0.0, 4.0]])
    assert dense_parts(dense) == [dense]
    coo = dense.to_sparse_coo()
    values, indices = dense_parts(coo)
    assert values.tolist() == [2, 3, 4]
    assert indices.tolist() == [[0, 0, 1], [1, 2, 2]]


@pytest.mark.long  # PyTorch imports its compiler for it
def test_a_jagged_tensor_is_its_values_and_offsets():
    jagged = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)
    shapes = sorted(tuple(part.shape) for part in dense_parts(jagged))
    assert shapes == [(3,), (5,)]


def test_what_is_no_contiguous_tensor_is_made_again_as_it_was():
    turned = torch.ones(2, 3).t()
    made = Form.of(turned).zeros()
    assert made.stride() == turned.stride() == (1, 3)
    assert not made.any()
    assert Form.of(torch.ones(2)).zeros().tolist() == [0, 0]


def test_where_a_gradient_comes_to():
    block, leaf, other = nn.Linear(2, 2), torch.ones(2, requires_grad=True), torch.ones(2)
    inner = leaf * 2
    assert reached([block(leaf)], [leaf], block) == ({id(leaf)}, {"weight", "bias"})
    assert reached([block(inner)], [inner], block) == ({id(inner)}, {"weight", "bias"})
    other.requires_grad_()
    assert reached([block(leaf) + other], [leaf], block) is None  # to one that nobody gave


class Placed(nn.Module):
    """A block that knows its place, and holds a module twice."""

    def __init__(self, place):
        super().__init__()
        self.layer_idx = place
        self.linear = self.again = nn.Linear(2, 2)


def kinds_of(*blocks):
    chain = types.SimpleNamespace(blocks=blocks, spans=[range(len(blocks))])
    return kinds.kinds_of(chain, nn.Sequential(*blocks))


def test_blocks_that_differ_by_their_place_alone_are_of_one_kind():
    first, second, other = kinds_of(Placed(0), Placed(1), Placed(1))
    assert first == second
    assert first.numbered
    assert other != first  # it says a place that is not its own
    twice, once = Placed(0), Placed(0)
    once.again = nn.Linear(2, 2)
    assert len(set(kinds_of(twice, nn.Tanh())) & set(kinds_of(once, nn.Tanh()))) == 1  # Tanh


def test_a_compiled_block_is_of_another_kind():
    plain, compiled = nn.Linear(2, 2), nn.Linear(2, 2)
    setattr(compiled, kinds.COMPILED, lambda *given: None)
    setattr(plain, kinds.COMPILED, None)
    assert len(set(kinds_of(plain, compiled))) == 2


def test_steps_so_far_are_of_the_kind_that_is_asked_for():
    values = [_number(torch.zeros((), dtype=kind)) for kind in (torch.bool, torch.int64)]
    assert values[0] is False
    assert type(values[1]) is int
    assert _number(torch.zeros(())) == values[1]


def test_a_checkpoint_whose_frame_is_elsewhere_is_refused():
    def pack(tensor):
        return tensor

    with pytest.raises(strategies.Unsupported, match="Tanh has an operator that writes into"):
        late.run_to_the_end((pack, pack), nn.Tanh())


@pytest.mark.parametrize("phase", ["tail", "backward of the tail", "forward", None])
def test_bytes_of_the_tail_count_where_the_peak_is_there(phase):
    sizes = {"tail_saved_bytes": 0, "tail_working_bytes": 0, "tail_backward_working_bytes": 0}
    large = {"tail": "tail_working_bytes", "backward of the tail": "tail_backward_working_bytes"}
    if phase in large:
        sizes[large[phase]] = 10_000
    profile = dataclasses.replace(random_profile(0, 3), **sizes)
    schedule = Schedule.parse("[0] [1] [2]")
    assert (predict(profile, plans.parse("[0] [1] [2]")).peak_phase == phase) == (phase in large)
    solution = types.SimpleNamespace(schedule=schedule) if phase else None
    planner = types.SimpleNamespace(solution=lambda profile, budget_bytes: solution)
    assert tail_bytes(planner, profile, 1) == (10_000 if phase in large else 0)


def test_a_directory_needs_a_disk():
    with pytest.raises(ValueError, match="a directory is for what rests on a disk: disk=True"):
        strategies.get("auto", directory="/tmp")


@pytest.mark.parametrize(
    "example",
    [torch.ones(3), (torch.ones(3),), {"input": torch.ones(3)}],
    ids=["one", "two", "map"],
)
def test_an_example_is_a_tensor_arguments_or_keywords(example):
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    step = ExampleStep(model, example)
    assert torch.equal(step.forward(), model(torch.ones(3)).sum())
    assert torch.equal(step.output[0], model(torch.ones(3)))


def test_an_output_without_a_gradient_has_no_loss():
    with pytest.raises(ValueError, match="holds no tensor with a gradient"):
        default_loss({"logits": torch.ones(2)})
    loss = torch.ones(())
    assert default_loss({"loss": loss, "logits": torch.ones(2)}) is loss


def test_a_block_that_gives_no_tensor_has_no_known_costs():
    with pytest.raises(strategies.Unsupported, match="Tanh returns no tensor, so that its costs"):
        saved._first([], nn.Tanh(), "returns")
    frozen, learning = torch.ones(1), torch.ones(1, requires_grad=True)
    assert saved._first([frozen, learning], nn.Tanh(), "returns") is learning
    assert saved._first([frozen], nn.Tanh(), "returns") is frozen


@pytest.mark.parametrize(
    ("given", "said"),
    [({"snapshots": 0}, "snapshots must be at least 1, not 0"),
     ({"family": "no"}, "family must be one of revolve, multistage, not 'no'")],
)  # fmt: skip
def test_a_schedule_that_cannot_be_asked_for(given, said):
    with pytest.raises(ValueError, match=said):
        CheckpointSchedulesRevolve(**given)


# What an accelerator alone does, with one that is not there.


def test_a_tensor_of_an_accelerator_rests_on_the_host_and_comes_back_to_its_device():
    host = Host(pin=False)
    values = torch.arange(6.0).view(2, 3)
    handle = host.reserve(values.to("meta"))  # a device that no bytes come from
    assert (handle[0].device.type, handle[1].type) == ("cpu", "meta")
    host.send(values, handle)
    assert torch.equal(handle[0], values)
    room = host.room(handle)
    assert (room.device.type, room.shape) == ("meta", (2, 3))
    back = torch.empty(2, 3)
    host.fetch(handle, back)
    assert torch.equal(back, values)


def test_a_peak_of_an_accelerator_is_its_allocators(monkeypatch):
    """Above what was allocated before, and what stays."""
    readings, called = [100, 130], []
    memory = types.SimpleNamespace(
        reset_peak_memory_stats=lambda: called.append("reset"),
        memory_allocated=lambda: readings.pop(0),
        max_memory_allocated=lambda: 190,
    )
    monkeypatch.setattr(torch.accelerator, "memory", memory)
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda *given: called.append("wait"))
    step = types.SimpleNamespace(
        forward=lambda: called.append("forward"),
        backward=lambda loss: called.append("backward"),
        device=torch.device("meta"),
    )
    assert trial._accelerator(step) == (90, 30)
    assert called == ["wait", "reset", "forward", "backward", "wait"]


def test_blocks_of_gradients_count_in_the_update():
    """A gradient of 3 floats takes a block of 512 bytes."""
    profile = random_profile(0, 2)
    step = types.SimpleNamespace(model=nn.Linear(3, 1, bias=False))
    changed = profiler._with_blocks(profile, step)
    assert changed.update_working_bytes == profile.update_working_bytes + 512 - 3 * 4


@pytest.mark.parametrize(
    ("triton", "said"), [(True, None), (False, "Inductor needs Triton on cuda")]
)
def test_an_accelerator_is_compiled_for_by_triton(monkeypatch, triton, said):
    monkeypatch.setattr(_triton, "has_triton", lambda: triton)
    assert compiler.missing_compiler(torch.device("cuda")) == said


@pytest.mark.parametrize(
    ("make", "said"),
    [(lambda: Int8(group=3), "group must be an even number of at least 2, not 3"),
     (lambda: Projection(ratio=0), "ratio must be above 0 and at most 1, not 0"),
     (lambda: auto.check("auto", "moon", ""), "auto: tier must be one of .*, not 'moon'"),
     (lambda: auto.check("auto", auto.NAMES[0], "/no"), "auto: directory '/no' does not exist")],
)  # fmt: skip
def test_a_storage_that_cannot_be_asked_for(make, said):
    with pytest.raises(ValueError, match=said):
        make()
