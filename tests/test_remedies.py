"""A budget that nothing fits into: the refusal names what needs less, and how many bytes do."""

import re

import pytest
import torch
from effort import few
from test_release import NormOfAll
from test_release_budget import ROWS, Block, Tied, prepared_model, smallest
from torch import nn

import strategies
from strategies import Unsupported
from strategies.contract.remedies import NothingFits
from strategies.profiling.halved import Halved
from strategies.profiling.step import ExampleStep

PLANNERS = ("optimal", "auto", "selective_ops", "hybrid")


def refusal(model, spec, budget=1000, **given):
    with pytest.raises(Unsupported) as caught:
        strategies.apply(model, spec, budget=budget, **given)
    return str(caught.value)


def named_bytes(text, pattern):
    found = re.search(pattern + r",? ([\d,]+) bytes", text)
    return int(found[1].replace(",", "")) if found else None


def is_the_smallest(model, spec, budget, **given):
    """Whether so much is enough, and one byte less is not."""
    strategies.apply(model, spec, budget=budget, **given).undo()
    return smallest(refusal(model, spec, budget - 1, **given)) == budget


# What is named is enough.


@pytest.mark.parametrize("spec", few(PLANNERS))
def test_half_of_the_batch(spec):
    model, batch, optimizer = prepared_model("wide")
    text = refusal(model, spec, example=(batch,), optimizer=optimizer)
    half_bytes = named_bytes(text, rf"{ROWS // 2} of the batch's {ROWS} rows")
    more_bytes = smallest(text) - half_bytes
    assert f"{half_bytes:,} bytes ({more_bytes // (ROWS // 2):,} a row)" in text
    half = (batch[: ROWS // 2].clone(),)
    assert is_the_smallest(model, spec, half_bytes, example=half, optimizer=optimizer)


@pytest.mark.parametrize("spec", few(PLANNERS))
def test_gradient_release(spec):
    model, batch, optimizer = prepared_model("wide")
    given = {"example": (batch,), "optimizer": optimizer}
    released_bytes = named_bytes(refusal(model, spec, **given), "release_gradients=True")
    assert is_the_smallest(model, spec, released_bytes, release_gradients=True, **given)


def test_gradients_are_counted_where_no_optimizer_is_given():
    model, batch, _ = prepared_model("tied")
    weight_bytes = 4 * sum(p.numel() for p in model.parameters())
    text = refusal(model, "optimal", example=(batch,))
    assert f"with optimizer=, which keeps none of {weight_bytes:,} bytes of gradients" in text


@pytest.mark.parametrize("option", ["accumulation", "release_gradients"])
def test_no_release_where_gradients_accumulate_or_are_released(option):
    model, batch, optimizer = prepared_model("wide")
    text = refusal(model, "optimal", example=(batch,), optimizer=optimizer, **{option: True})
    assert "release_gradients" not in text
    assert "rows" in text


def test_no_release_of_what_an_optimizer_must_see_together():
    model, batch, _ = prepared_model("wide")
    optimizer = NormOfAll(model.parameters(), lr=0.1)
    text = refusal(model, "optimal", example=(batch,), optimizer=optimizer)
    assert "release_gradients" not in text
    assert "rows" in text


def gpt2(attention):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=19, n_embd=16, n_layer=4, n_head=2, n_positions=128,
        bos_token_id=0, eos_token_id=0, pad_token_id=0, attn_implementation=attention,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:transformers")
@pytest.mark.long
def test_flash_attention():
    tokens = torch.arange(512).remainder(19).view(4, 128)
    given = {"example": {"input_ids": tokens, "labels": tokens}}
    model = gpt2("eager")
    flash_bytes = named_bytes(refusal(model, "optimal", **given), "flash attention")
    assert model.config._attn_implementation == "eager"
    model.set_attn_implementation("sdpa")
    assert is_the_smallest(model, "optimal", flash_bytes, **given)
    assert "flash" not in refusal(model, "optimal", **given)


# By the same profile.


class LargeTail(nn.Module):
    """Most of the step's memory is its last layer's."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block(16) for _ in range(4))
        self.head = nn.Linear(16, 3000)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return nn.functional.cross_entropy(self.head(x), x.new_zeros(len(x)).long())


def test_a_loss_in_chunks_where_the_tail_is_the_peak():
    torch.manual_seed(0)
    text = refusal(LargeTail(), "optimal", example=torch.ones(64, 16))
    scores_bytes = 4 * 64 * 3000
    tail_bytes = named_bytes(text, "tail and loss take")
    # Scores, their logarithms and the gradient of one of them; what else there is, is small.
    assert 2 * scores_bytes < tail_bytes < 3.1 * scores_bytes
    assert tail_bytes < smallest(text)


def test_no_word_of_the_loss_where_a_block_is_the_peak():
    model, batch, _ = prepared_model("wide")
    assert "tail and loss" not in refusal(model, "optimal", example=(batch,))


def test_what_another_strategy_needs():
    model, batch, _ = prepared_model("wide")
    chain = strategies.profiled(model, "auto", ExampleStep(model, (batch,)))
    sizes = {s: strategies.get(s).smallest_bytes(chain.profile) for s in ("auto", "hybrid")}
    with pytest.raises(NothingFits) as caught:
        strategies.apply(model, "selective_ops", budget=1000, chain=chain)
    text, own_bytes = str(caught.value), caught.value.smallest_bytes
    least = min(sizes, key=sizes.get)
    if sizes[least] < own_bytes:
        assert f"{own_bytes:,} bytes; {least} needs {sizes[least]:,} bytes" in text
    else:
        assert f"{own_bytes:,} bytes (auto and hybrid cannot do with less)" in text
    assert "rows" not in text  # there is no step to try anything on


def test_auto_is_tried_where_the_profile_knows_no_operators(monkeypatch):
    model, batch, _ = prepared_model("wide")
    smaller = strategies.get("auto").smallest_bytes
    monkeypatch.setattr(
        type(strategies.get("auto")), "smallest_bytes", lambda _, profile: smaller(profile) // 2
    )
    text = refusal(model, "optimal", example=(batch,))
    assert named_bytes(text, "What needs less: auto") == smallest(text) // 2


# Trials.


def test_a_trial_leaves_the_model_as_it_was():
    model, batch, optimizer = prepared_model("tied")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    refusal(model, "optimal", example=(batch,), optimizer=optimizer)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert not optimizer.state
    assert all(p.grad is None and not p._post_accumulate_grad_hooks for p in model.parameters())


def test_a_loss_that_is_of_the_whole_batch_is_no_failure():
    model, batch, _ = prepared_model("wide")
    wanted = torch.ones(ROWS, 96)

    def loss(output):
        return (output["hidden"] - wanted).square().mean()

    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = model.blocks

        def forward(self, x):
            for block in self.blocks:
                x = block(x)
            return {"hidden": x}

    text = refusal(Hidden(), "optimal", example=(batch,), loss=loss)
    assert "the smallest budget that does is" in text
    assert "rows" not in text


@pytest.mark.parametrize(
    ("example", "shapes"),
    [
        ({"a": torch.ones(5, 2), "mask": torch.ones(1, 1, 4)}, [(2, 2), (1, 1, 4)]),
        ((torch.ones(4), 3, torch.tensor(1.0)), [(2,), ()]),
        (torch.ones(1, 7), None),
        ((torch.ones(4, 2), torch.ones(3, 2)), None),
        ((), None),
    ],
)
def test_what_half_of_an_example_is(example, shapes):
    half = Halved.of(ExampleStep(Tied(), example))
    if shapes is None:
        assert half is None
        return
    tensors = [t for t in torch.utils._pytree.tree_leaves(half.step.example) if hasattr(t, "shape")]
    assert [tuple(t.shape) for t in tensors] == shapes
    assert all(t.untyped_storage().nbytes() == t.numel() * 4 for t in tensors)
    assert (half.rows, half.of_rows) == (2, example["a"].shape[0] if type(example) is dict else 4)
