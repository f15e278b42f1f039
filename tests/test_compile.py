"""Compilers: of the whole model for groups of one block, of the blocks for groups of any length."""

import copy
import re

import pytest
import torch
from effort import few
from models import BLOCKS, WIDTH, chain_of, seed
from torch import nn
from torch._dynamo import explain
from torch._higher_order_ops.wrap import tag_activation_checkpoint
from torch.utils.checkpoint import checkpoint

import strategies
from strategies import Unsupported

ROWS = torch.linspace(-2, 2, 3 * WIDTH).view(3, WIDTH)
BACKEND = "aot_eager"
SPECS = ["every_layer", "every_k(k=2)", "sqrt", "recursive", "offload", "offload(over=sqrt)"]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


class Mlp(nn.Module):
    """A block without random numbers, which a compiler would draw in its own way."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x):
        return x + self.down(torch.tanh(self.up(x)))


class Peer(nn.Module):
    """PyTorch's own checkpoint around each block."""

    def __init__(self, blocks):
        super().__init__()
        self.blocks = blocks

    def forward(self, x):
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False)
        return x


def model():
    seed(0)
    return chain_of(BLOCKS, Mlp)


def gradients(run, parameters):
    for parameter in parameters:
        parameter.grad = None
    run(ROWS).square().sum().backward()
    return [parameter.grad for parameter in parameters]


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_compiled_model_with_groups_of_one_block(when):
    plain, chosen = model(), model()
    run = torch.compile(chosen, backend=BACKEND, fullgraph=True) if when == "before" else None
    strategies.apply(chosen, "every_layer")
    run = run or torch.compile(chosen, backend=BACKEND, fullgraph=True)
    wanted = gradients(torch.compile(plain, backend=BACKEND), list(plain.parameters()))
    for _ in range(2):
        found = gradients(run, list(chosen.parameters()))
        assert all(map(torch.equal, found, wanted))


def checkpoints(graphs):
    """How many regions the compiler is told to compute again."""
    nodes = (node for graph in graphs for node in graph.graph.nodes)
    return sum(node.target is tag_activation_checkpoint for node in nodes)


def test_as_many_graph_breaks_and_checkpoints_as_with_pytorchs_own():
    chosen = model()
    strategies.apply(chosen, "every_layer")
    own, peer = (explain(each)(ROWS) for each in (chosen, Peer(model())))
    assert own.graph_break_count == peer.graph_break_count == 0
    assert checkpoints(own.graphs) == checkpoints(peer.graphs) == BLOCKS


@pytest.mark.parametrize("spec", ["every_k(k=2)", "sqrt"])
def test_a_compiled_model_with_longer_groups_says_what_to_do(spec):
    chosen = model()
    strategies.apply(chosen, spec)
    with pytest.raises(Unsupported, match=r"compile the blocks instead: .*compile_blocks=True"):
        torch.compile(chosen, backend=BACKEND)(ROWS)
    strategies.undo(chosen)
    assert torch.equal(torch.compile(chosen, backend=BACKEND)(ROWS), model()(ROWS))


@pytest.mark.parametrize("way", ["before", "wrapped", "by apply"])
@pytest.mark.parametrize("spec", few(SPECS, 3))
def test_compiled_blocks(spec, way):
    plain, chosen = model(), model()
    for each in (plain, chosen) if way != "by apply" else (plain,):
        for index, block in enumerate(each):
            if way == "wrapped":
                each[index] = torch.compile(block, backend=BACKEND)
            else:
                block.compile(backend=BACKEND)
    options = {"compile_blocks": {"backend": BACKEND}} if way == "by apply" else {}
    wanted = gradients(plain, list(plain.parameters()))
    with strategies.apply(chosen, spec, **options):
        for _ in range(2):
            found = gradients(chosen, list(chosen.parameters()))
            assert all(map(torch.equal, found, wanted))
        copied = copy.deepcopy(chosen) if way != "wrapped" else None
    compiled = [block.__dict__.get("_compiled_call_impl") is not None for block in chosen]
    assert compiled == [way == "before"] * BLOCKS
    if copied is not None:
        assert all(map(torch.equal, gradients(copied, list(copied.parameters())), wanted))


def test_compiled_blocks_of_a_group_are_run_again():
    chosen, calls = model(), []
    for block in chosen:
        block.compile(backend=lambda graph, inputs: calls.append(graph) or graph.forward)
    strategies.apply(chosen, "every_k(k=5)")
    loss = chosen(ROWS).sum()
    saved = calls.copy()
    loss.backward()
    assert saved
    assert len(calls) == len(saved)  # recompute runs what was compiled in forward


def exported(module):
    return torch.export.export(module, (ROWS,), strict=False).module()


def traced(module):
    return torch.jit.trace(module, ROWS)


def operators(graph):
    """The names of what it computes, in order."""
    nodes = graph.inlined_graph if isinstance(graph, torch.jit.ScriptModule) else graph.graph
    return re.findall(r"aten[.:\w]+", str(nodes))


@pytest.mark.parametrize("way", [exported, traced])
@pytest.mark.parametrize("spec", ["every_layer", "every_k(k=2)", "offload"])
def test_a_graph_that_is_made_of_it_is_that_of_the_model_alone(spec, way):
    """As soon as it is trained under the strategy itself, blocks run again as before."""
    module = model()
    wanted, grads = module(ROWS), gradients(module, list(module.parameters()))
    strategies.apply(module, spec)
    graph = way(module)
    assert torch.equal(graph(ROWS), wanted)
    got = gradients(module, list(module.parameters()))
    assert all(map(torch.equal, got, grads))
    assert operators(graph) == operators(way(model())) != []


def compiled_as_a_whole(how):
    eager = model()
    if how == "wrapped":
        return torch.compile(eager, backend=BACKEND)
    eager.compile(backend=BACKEND)
    return eager


@pytest.mark.parametrize("how", ["wrapped", "in place"])
@pytest.mark.parametrize(
    ("spec", "reason"),
    [("sqrt", "groups of several blocks cannot"), ("auto(budget='60%')", "cannot be seen")],
)
def test_a_model_that_is_compiled_already_is_refused_before_the_first_step(how, spec, reason):
    compiled = compiled_as_a_whole(how)
    with pytest.raises(Unsupported, match=rf"compiled as a whole.*{reason}.*compile_blocks=True"):
        strategies.apply(compiled, spec, example=ROWS)
    strategies.apply(compiled, "none")  # nothing was left behind


@pytest.mark.parametrize("how", ["wrapped", "in place"])
def test_a_compiled_model_runs_under_groups_of_one_block(how):
    """And the note on what the blocks save is of the blocks, which what is compiled hides."""
    eager = model()
    expected = gradients(eager, list(eager.parameters()))
    compiled = compiled_as_a_whole(how)
    with strategies.apply(compiled, "every_layer", example=ROWS) as applied:
        assert "they save 100% of what forward saves" in applied.notes[0]
        found = gradients(compiled, list(compiled.parameters()))
    assert all(map(torch.allclose, expected, found))
