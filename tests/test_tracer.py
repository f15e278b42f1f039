"""Every byte of a step: what it is, when it was there, and which operator and module made it."""

from __future__ import annotations

import gc
import itertools

import pytest
from effort import few
from simulated import TINY, after_forward, cell, kept, kept_bytes, real, simulated, simulation

from bench.simulate.run import trace_cell
from bench.simulate.trace import BACKWARD, CATEGORIES, FORWARD, OPTIMIZER, RECOMPUTE, TAIL

CASES = {
    "none": ("gpt-mini", "none", {}),
    "every_layer-adamw": ("gpt-mini", "every_layer", {"optimizer": "adamw"}),
    "sqrt-dropout-sgd": ("gpt-mini-dropout", "sqrt", {"optimizer": "sgd"}),
    "flash-autocast": ("vit-mini", "flash_checkpoint", {"precision": "bf16-autocast"}),
    "selective-half": ("llama-mini", "selective(variant=textbook)", {"precision": "fp16"}),
    "offload": ("llama-mini", "offload", {}),
    "compressed-batch-norm": ("resnet-mini", "compressed(codec=int8)", {"optimizer": "adamw"}),
    "groups": ("mlp-chain", "every_k(k=2)", {}),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def trace_of(case):
    workload, spec, given = case
    return simulated(workload, spec, **given)


def phases_of(lives):
    return {life.phase for life in lives}


@every_case
def test_categories_add_up_to_what_is_alive(case):
    trace = trace_of(case)
    series = trace.series()
    assert tuple(series) == CATEGORIES
    assert [sum(values) for values in zip(*series.values(), strict=True)] == trace.alive_bytes()
    assert min(map(min, series.values())) == 0
    for event in range(0, len(trace.events), 5):
        column = {name: values[event] for name, values in series.items() if values[event]}
        assert trace.by_category(event) == column


@every_case
def test_a_life_is_one_birth_and_at_most_one_death(case):
    trace = trace_of(case)
    found = {index: [] for index in range(len(trace.lives))}
    for place, event in enumerate(trace.events):
        found[event.life].append((place, event.delta_bytes))
    for index, life in enumerate(trace.lives):
        expected = [(life.born, life.size_bytes)]
        if life.died is not None:
            expected.append((life.died, -life.size_bytes))
        assert found[index] == expected


@every_case
def test_nothing_else_outlives_the_step(case):
    """Sizes by counting elements of the model."""
    workload, spec, given = case
    made = simulation(workload, spec, **given)
    model = made.step.model
    parameters = sum(p.numel() * p.element_size() for p in model.parameters())
    buffers = sum(b.numel() * b.element_size() for b in model.buffers())
    states = {"adamw": 2, "sgd": 1}.get(given.get("optimizer"), 0)
    expected = {
        "parameters": parameters + buffers,
        "optimizer state": states * parameters,
        "gradients": parameters,
        "batch": sum(t.numel() * t.element_size() for t in made.step.batch),
    }
    last = made.trace.by_category(len(made.trace.events) - 1)
    assert last == {name: count for name, count in expected.items() if count}


def test_a_tied_weight_and_its_gradient_count_once():
    """The output projection is the embedding: no weight more, and one gradient of two parts."""
    tied, untied = (simulated("gpt-mini", tied=tied) for tied in (True, False))
    last = [trace.by_category(len(trace.events) - 1) for trace in (tied, untied)]
    embedding = 256 * TINY["gpt-mini"]["dim"] * 4
    for category in ("parameters", "gradients"):
        assert last[1][category] - last[0][category] == embedding


def test_boundaries_logits_and_loss_of_checkpointed_gpt():
    """Under every_layer nothing else is kept: x₀ … x_L (the final norm keeps the last).

    After the last block: the final norm's result and two statistics for each token, the logits'
    log-softmax, the loss, and the sum of the loss's weights.
    """
    layers, dim, tokens, vocab = 3, 32, 2 * 32, 256
    trace = simulated("gpt-mini", "every_layer")
    found = after_forward(trace)
    del found["parameters"]
    assert found == {
        "batch": 2 * tokens * 8,
        "boundary activations": (layers + 1) * tokens * dim * 4,
        "logits and loss": (tokens * dim + 2 * tokens + tokens * vocab + 2) * 4,
    }


def test_boundaries_of_the_chain():
    """Its last output is not kept, since a difference keeps nothing: L boundaries, not L + 1.

    Without checkpoints each block keeps its ReLU instead. The loss keeps difference and itself.
    """
    layers, values = 3, 32 * 16
    none, checkpointed = (after_forward(simulated("mlp-chain", s)) for s in ("none", "every_layer"))
    assert "boundary activations" not in none
    assert none["saved tensors"] == layers * values * 4
    assert "saved tensors" not in checkpointed
    assert checkpointed["boundary activations"] == layers * values * 4
    assert none["logits and loss"] == checkpointed["logits and loss"] == (values + 1) * 4


def test_groups_keep_no_saved_tensors_inside():
    """[0 1] 2 under sqrt: block 2 keeps its own, the others only the input of the first."""
    trace = simulated("gpt-mini", "sqrt")
    modules = {
        life.module.split(".")[1] for life in kept(trace) if life.category == "saved tensors"
    }
    assert modules == {"2"}
    plain = simulated("gpt-mini")
    block = sum(x.size_bytes for x in kept(plain) if x.module.startswith("h.2"))
    assert sum(x.size_bytes for x in kept(trace) if x.module.startswith("h.2")) == block
    assert after_forward(trace)["boundary activations"] == 3 * 64 * 32 * 4  # x₀, x₂, x₃


@pytest.mark.parametrize(
    "spec",
    ["every_layer", "sqrt", "every_k(k=2)", "offload", "selective(variant=attention_core)"],
)
def test_recomputed_activations_exist_in_backward_only(spec):
    trace = simulated("gpt-mini", spec)
    series = trace.series()["recomputed activations"]
    assert max(series[: trace.forward_events]) == 0 < max(series)
    assert series[-1] == 0
    lives = [life for life in trace.lives if life.category == "recomputed activations"]
    assert phases_of(lives) == {RECOMPUTE}
    assert all(life.module.startswith("h.") for life in lives)


def test_nothing_is_recomputed_without_a_strategy():
    trace = simulated("gpt-mini")
    assert max(trace.series()["recomputed activations"]) == 0 == trace.recompute_flops
    assert {event.phase for event in trace.events} == {FORWARD, BACKWARD}


def test_recompute_holds_one_group_at_a_time():
    """A group of all three blocks holds three times what one block does, less what ends early.

    Compared without the tensors of the last block's end: each recompute stops when the last saved
    tensor is there, so a group's inner blocks hold their outputs too.
    """
    one, three = (simulated("gpt-mini", s) for s in ("every_layer", "every_k(k=3)"))
    most = [max(trace.series()["recomputed activations"]) for trace in (one, three)]
    output = 64 * 32 * 4
    assert most[1] == 3 * most[0] + 2 * output


def test_phases_come_in_order():
    trace = simulated("gpt-mini", "every_layer", optimizer="adamw")
    phases = [event.phase for event in trace.events]
    assert set(phases[: trace.forward_events]) == {FORWARD}
    rest = [phase for phase, _ in itertools.groupby(phases[trace.forward_events :])]
    layers = 3
    assert rest == [BACKWARD, *[RECOMPUTE, BACKWARD] * layers, OPTIMIZER]


@pytest.mark.parametrize("spec", ["none", "every_layer", "offload", "every_k(k=1)"])
def test_backward_goes_through_the_blocks_in_reverse(spec):
    """From the loss to the embeddings, which are in no block."""
    trace = simulated("gpt-mini", spec)
    modules = [event.module for event in trace.events if event.phase == BACKWARD]
    assert [name for name, _ in itertools.groupby(modules)] == [TAIL, "h.2", "h.1", "h.0", ""]


def test_operators_are_named_with_their_modules():
    trace = simulated("gpt-mini")
    made = {(life.operator, life.module) for life in trace.lives}
    assert ("_softmax", "h.1.attn.core") in made
    assert ("gelu", "h.2.mlp.act") in made
    assert ("native_layer_norm", "ln_f") in made
    assert ("embedding_dense_backward", "") in made
    assert ("_log_softmax_backward_data", TAIL) in made


def test_gradients_of_the_logits_are_logits():
    """At the peak of the loss: log-softmax, its gradient, and that of the logits."""
    trace = simulated("gpt-mini")
    most = max(trace.series()["logits and loss"])
    tokens, vocab = 64, 256
    assert 3 <= most / (tokens * vocab * 4) < 3.5


def test_foreach_optimizer_takes_a_copy_of_its_state():
    """CUDA's default form takes the root of all second moments at once; a CPU's one at a time."""

    def most_temporary(**given):
        trace = simulated("gpt-mini", optimizer="adamw", **given)
        series = trace.series()["temporaries"]
        pairs = zip(trace.events, series, strict=True)
        return max(count for event, count in pairs if event.phase == OPTIMIZER)

    model = simulation("gpt-mini").step.model
    sizes = [p.numel() * 4 for p in model.parameters()]
    assert 0 <= most_temporary() - sum(sizes) < 64  # a counter's scalar is there, too
    assert max(sizes) <= most_temporary(as_cuda=False) < 3 * max(sizes)


@pytest.mark.parametrize("spec", ["sqrt", "selective(variant=textbook)"])
def test_simulated_events_are_the_real_ones(spec):
    """Not only their sums: the same births and deaths in the same order, by the same operators."""

    def facts(trace):
        return [(e.delta_bytes, e.phase, e.operator, e.module) for e in trace.events]

    given = {"optimizer": "adamw"}
    trace = simulated("gpt-mini-dropout", spec, as_cuda=False, **given)
    assert facts(trace) == facts(real("gpt-mini-dropout", spec, **given))


@pytest.mark.parametrize(
    ("workload", "spec"),
    few(
        [
            ("gpt-mini", "offload"),
            ("gpt-mini", "none"),
            ("gpt-mini", "selective(variant=attention_core)"),
            ("llama-mini", "compressed(codec=int4)"),
            ("vit-mini", "every_k(k=2)"),
        ]
    ),
)
def test_cost_is_linear_in_blocks(workload, spec):
    """Events, operators and bytes kept: those of 2, 4 and 8 blocks lie on one line."""
    traces = [simulated(workload, spec, layers=layers) for layers in (2, 4, 8)]
    for measure in (lambda t: len(t.events), lambda t: len(t.work), kept_bytes):
        two, four, eight = map(measure, traces)
        assert eight - four == 2 * (four - two)
    assert len({len(trace.events) for trace in traces}) == 3


def test_a_trace_ends_with_its_step():
    """What dies later is no part of it, even where something still refers to the tracer."""
    made = trace_cell(cell("gpt-mini", "offload"))
    events = len(made.trace.events)
    alive = [life for life in made.trace.lives if life.died is None]
    made.step.drop_gradients()
    gc.collect()
    assert len(made.trace.events) == events
    assert [life for life in made.trace.lives if life.died is None] == alive
