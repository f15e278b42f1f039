"""The loops and models of published points, small: each option does what it says."""

import gc
import types
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from bench.devices import accelerators
from bench.devices.accelerators import CONTEXT_BYTES
from bench.published import language, loops, modelling, ranks, vision
from bench.published.figures import Moments
from bench.published.modelling import bytes_of, largest
from bench.published.softmax import keeping_input
from bench.published.subject import made_in, record
from bench.store.published import Configuration, Search
from strategies.profiling.caching_allocator import OutOfMemoryError

DEVICE = "a100-80gb"
SMALL = {"width": 8, "positions": 6, "dropout": 0.0, "vocabulary": 11, "heads": 2, "layers": 2}
MIN_GPT = {**SMALL, "batch": 2, "length": 6}
SKETCH = {"vocab_size": 32, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 8}
GPT2 = {"class": "GPT2LMHeadModel", "config": SKETCH, "batch": 2, "length": 4, "loss": "own"}


def trained(*, iterations=1, **loop):
    """A linear layer and its subject, after so many iterations on the same batch."""
    torch.manual_seed(0)
    model, x = nn.Linear(4, 3), torch.randn(5, 4)
    subject = loops.training(model, lambda: (None, model(x).square().sum() * 100), [x], loop)
    for _ in range(iterations):
        subject.step(lambda moment: None)
    return model, subject


def gradient(**loop):
    (model, _) = trained(**loop)
    return None if model.weight.grad is None else model.weight.grad.clone()


@pytest.mark.parametrize("moment", ["before", "between"])
def test_gradients_are_those_of_the_last_iteration(moment):
    assert torch.equal(gradient(zero_grad=moment, iterations=3), gradient())


def test_gradients_that_nobody_clears_add_up():
    assert torch.equal(gradient(zero_grad="never", iterations=2), 2 * gradient())


def test_gradients_are_cleared_after_the_step():
    assert gradient(zero_grad="after") is None
    assert not gradient(zero_grad="after", set_to_none=False).any()


def test_moments_come_in_their_order():
    moments = []
    _, subject = trained()
    subject.step(moments.append)
    assert moments == ["forward", "backward"]


@pytest.mark.parametrize("holds", [False, True])
def test_what_a_script_calls_its_outputs_lives_on(holds):
    losses = []

    def run():
        losses.append(weakref.ref(loss := model(torch.ones(1, 2)).sum()))
        return None, loss

    model = nn.Linear(2, 2)
    subject = loops.training(model, run, [], {"holds": holds})
    subject.step(lambda moment: None)
    gc.collect()
    assert (losses[0]() is not None) == holds


def test_clipped_gradients_have_the_norm_that_was_asked_for():
    for scaler in (False, True):
        model, _ = trained(clips=True, optimizer="sgd", scaler=scaler)
        norms = [p.grad.norm() for p in model.parameters()]
        assert torch.stack(norms).norm().item() == pytest.approx(1, rel=1e-5)
    assert gradient().norm() > 1


def test_a_scaler_leaves_the_update_as_it_is():
    plain, scaled = (trained(optimizer="sgd", scaler=on)[0] for on in (False, True))
    assert torch.equal(plain.weight, scaled.weight)
    assert not torch.equal(plain.weight, trained()[0].weight)


@pytest.mark.parametrize(
    ("name", "states"),
    [("none", 0), ("sgd", 0), ("adam", 2), ("adamw single", 2), ("adamw fused", 2)],
)
def test_states_are_there_before_the_first_iteration(name, states):
    parameters = 4 * 3 + 3
    _, subject = trained(optimizer=name, iterations=0)
    batch, *others = subject.tensors
    assert batch.shape == (5, 4)
    assert sum(t.numel() for t in others) == states * parameters


def test_states_of_eight_bits_are_a_quarter_where_a_tensor_is_large():
    model = nn.Linear(64, 128, bias=False)
    update = loops.optimizer("adam 8bit", model)
    model.weight.grad = torch.ones_like(model.weight)
    update.step()
    codes = [t for t in update.state[model.weight].values() if t.dtype == torch.uint8]
    assert [t.numel() for t in codes] == [64 * 128] * 2


@pytest.mark.parametrize("name", ["rmsprop", "adam twice"])
def test_an_optimizer_that_is_none_is_refused(name):
    with pytest.raises(ValueError, match=f"no optimizer '{name}'; there are sgd, adam, adamw"):
        loops.optimizer(name, nn.Linear(1, 1))


def test_autocast_is_that_of_the_dtype():
    x = torch.ones(2, 2)
    with loops.autocast("bfloat16"):
        assert (x @ x).dtype == torch.bfloat16
    with loops.autocast(None):
        assert (x @ x).dtype == torch.float32


def test_a_wrong_dtype_is_refused():
    with pytest.raises(ValueError, match="no dtype 'rand'; as in float32"), made_in("rand"):
        pass
    assert torch.get_default_dtype() == torch.float32


def test_the_older_softmax_saves_its_input_too_and_has_the_same_gradient():
    scores = torch.randn(3, 5, requires_grad=True)
    weights = torch.randn(3, 5)

    def run():
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
            out = F.softmax(scores, dim=-1)
        (back,) = torch.autograd.grad(out, scores, weights)
        return len(saved), back

    now, gradient_now = run()
    with keeping_input():
        then, gradient_then = run()
    assert (now, then) == (1, 2)
    assert torch.equal(gradient_now, gradient_then)


def test_the_older_softmax_computes_in_fp32_under_autocast():
    with keeping_input(), torch.autocast("cpu", torch.bfloat16):
        assert F.softmax(torch.ones(2, 2, dtype=torch.bfloat16), dim=-1).dtype == torch.float32


def test_min_gpt_has_its_parameters():
    model = language.MinGpt(SMALL)
    block = 12 * 8 * 8 + 13 * 8  # weights and biases; two norms
    assert sum(p.numel() for p in model.parameters()) == 2 * block + (2 * 11 + 6) * 8 + 2 * 8


def test_the_slow_gelu_is_a_gelu():
    x = torch.linspace(-3, 3, 50)
    torch.testing.assert_close(language.SlowGelu()(x), F.gelu(x, approximate="tanh"))


def test_min_gpt_is_trained():
    subject = language.min_gpt({**MIN_GPT, "loop": {"optimizer": "adam"}})
    before = [p.clone() for p in subject.modules[0].parameters()]
    subject.step(lambda moment: None)
    after = subject.modules[0].parameters()
    assert all(not torch.equal(x, y) for x, y in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("build", "parameters"),
    # Simonyan and Zisserman 2015 and Sandler et al. 2018, as torchvision counts them.
    [(vision.vgg16, 138_357_544), (vision.mobilenet_v2, 3_504_872), (vision.resnet50, 25_557_032)],
)
def test_networks_have_the_parameters_that_are_published(build, parameters):
    with torch.device("meta"):
        model = build()
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_images_go_through_a_network():
    options = {"model": "mobilenet_v2", "batch": 2, "pixels": 32, "loop": {}}
    with torch.device("meta"):
        subject = vision.images(options)
        subject.step(lambda moment: None)
    assert subject.tensors[0].shape == (2, 3, 32, 32)
    assert all(p.grad is not None for p in subject.modules[0].parameters())


def configuration(**fields):
    given = {"subject": "min_gpt", "options": MIN_GPT | {"loop": {}}, "quantity": "peak"}
    return Configuration(**given | fields)


def test_a_configuration_of_no_subject_is_refused():
    with pytest.raises(ValueError, match=r"no subject 'nothing'; there are .*min_gpt"):
        bytes_of(DEVICE, configuration(subject="nothing"))


def test_a_quantity_is_a_moment_or_the_difference_of_two():
    found = Moments({"begin": 3, "end": 8}, {"begin": 4, "end": 9}, 11)
    assert [found.figure(x) for x in ("end", "peak begin", "peak", "reserved")] == [8, 4, 9, 11]
    assert found.figure("peak - begin") == 6
    with pytest.raises(ValueError, match="no moment 'noon'; there are peak, reserved, peak begin"):
        found.figure("noon")


@pytest.mark.parametrize("near", [0, 512, 5000])
@pytest.mark.parametrize(("room", "expected"), [(512, 512), (600, 512), (9999, 768), (9, 0)])
def test_the_largest_batch_is_the_last_that_fits(monkeypatch, room, expected, near):
    seen = []

    def moments(recording, **more):
        assert more["capacity_bytes"] == accelerators.get(DEVICE).memory_bytes - CONTEXT_BYTES
        if seen[-1] > room:
            raise OutOfMemoryError(1, 1, 0, 0, 0)

    recording = types.SimpleNamespace(workspaces=lambda device: [])
    monkeypatch.setattr(
        modelling,
        "_recorded",
        lambda _, options, device: seen.append(options["batch"]) or recording,
    )
    monkeypatch.setattr(modelling, "moments", moments)
    search = Search(option="batch", lowest=256, highest=768, step=256)
    assert largest(DEVICE, configuration(), search, near=near) == expected
    assert len(seen) == len(set(seen))


@pytest.fixture(scope="module")
def library():
    return pytest.importorskip("transformers")


@pytest.mark.parametrize("loss", ["own", "sum of logits"])
def test_a_model_of_the_library_is_trained_by_its_configuration(library, loss):
    options = {**GPT2, "loss": loss, "mask": True, "buffer_bytes": [300, 20], "loop": {}}
    subject = language.transformers(options)
    sizes = [t.numel() * t.element_size() for t in subject.tensors]
    ids_bytes = 2 * 4 * 8
    labels = [ids_bytes] if loss == "own" else []
    assert sizes == [ids_bytes, ids_bytes, *labels, 300, 20]
    subject.step(lambda moment: None)
    assert all(p.grad is not None for p in subject.modules[0].parameters())


def test_a_classifier_has_a_label_a_row(library):
    config = {"vocab_size": 32, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config |= {"intermediate_size": 16}
    kind = {"class": "BertForSequenceClassification", "config": config, "loss": "classes"}
    subject = language.transformers({**GPT2, **kind, "types": True, "loop": {}})
    assert [tuple(t.shape) for t in subject.tensors] == [(2, 4), (2, 4), (2,)]
    subject.step(lambda moment: None)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable.*:FutureWarning")
def test_a_model_of_the_library_is_checkpointed_and_then_saves_less(library):
    def peak(**more):
        options = {**GPT2, "length": 8, "batch": 8, "loop": {}, **more}
        options["config"] = SKETCH | {"n_layer": 4, "resid_pdrop": 0.0}
        changes = record(language.transformers, options, steps=1).changes
        alive = [0]
        for _, delta_bytes in changes:
            alive.append(alive[-1] + delta_bytes)
        return max(alive)

    assert peak(checkpointing=True) < peak()


def test_without_the_library_it_says_so(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(language.importlib, "import_module", missing)
    with pytest.raises(ValueError, match="needs the transformers library, version 5 or later"):
        language.transformers({**GPT2, "loop": {}})


class Products(TorchDispatchMode):
    """Counts matrix products that are computed."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten.mm.default
        return func(*args, **(kwargs or {}))


def test_every_second_product_is_kept():
    """As torchtitan says: of six in forward, backward runs three again."""
    parts = [m for _ in range(6) for m in (nn.Linear(4, 4, bias=False), nn.Tanh())]
    block, x = nn.Sequential(*parts), torch.randn(3, 4, requires_grad=True)

    def products():
        with Products() as mode:
            (back,) = torch.autograd.grad(block(x).sum(), x)
        return mode.count, back

    plain, expected = products()
    undo = ranks._checkpointed(block)
    checkpointed, back = products()
    assert (plain, checkpointed) == (12, 12 + 3)
    assert torch.equal(back, expected)
    undo()
    assert products()[0] == plain
