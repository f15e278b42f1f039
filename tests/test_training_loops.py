"""What training loops do with a model, under a strategy: as without one."""

import copy
import functools
import gc
import json

import processes
import pytest
import torch
from effort import few
from models import BLOCKS, WIDTH, Loop, NormBlock, Small, assert_same, chain_of, loss_of, seed, step
from torch import multiprocessing, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

import strategies

SPECS = ("every_layer", "sqrt", "every_k(k=2)")
ROWS = torch.linspace(-2, 2, 3 * WIDTH).view(3, WIDTH)
under_each = pytest.mark.parametrize("spec", few(reversed(SPECS), 2))
of_transformers = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:transformers", "ignore::FutureWarning:transformers"
)
of_lightning = pytest.mark.filterwarnings(
    "ignore:`isinstance.treespec, LeafSpec.`:FutureWarning",  # lightning asks torch in the old way
    "ignore:The 'train_dataloader' does not have many workers:UserWarning",
)


def chain(block=Small):
    return chain_of(BLOCKS, block).train()


def same_loop(loop, spec, make=chain):
    """What a loop returns, tensors, is bitwise the same without a strategy and under it."""
    results = []
    for chosen in ("none", spec):
        model = make()
        strategies.apply(model, chosen)
        seed(2)
        results.append(loop(model))
    wanted, found = results
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one, other)
    return found


def parameters(model):
    return [p.detach().clone() for p in model.parameters()]


# Steps.


def with_scaler(model):
    optimizer = torch.optim.AdamW(model.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for _ in range(3):
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(model(ROWS))
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    return [*parameters(model), torch.tensor(scaler.get_scale())]


def accumulating(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for number in range(4):
        (loss_of(model(ROWS * (number + 1))) / 2).backward()
        if number % 2:
            optimizer.step()
            optimizer.zero_grad()
    return parameters(model)


def in_backward(model):
    """An optimizer for each parameter, which steps as soon as there is a gradient."""
    optimizers = {p: torch.optim.SGD([p], lr=0.1) for p in model.parameters()}

    def update(p):
        optimizers[p].step()
        optimizers[p].zero_grad()

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(update)
    for _ in range(3):
        loss_of(model(ROWS)).backward()
    return parameters(model)


def averaging(model):
    """EMA by a copy of the applied model, and PyTorch's own; both can be trained themselves."""
    ema, averaged = copy.deepcopy(model), AveragedModel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        loss_of(model(ROWS)).backward()
        optimizer.step()
        optimizer.zero_grad()
        averaged.update_parameters(model)
        with torch.no_grad():
            for mine, its in zip(ema.parameters(), model.parameters(), strict=True):
                mine.lerp_(its, 0.1)
    loss_of(ema(ROWS)).backward()
    loss_of(averaged(ROWS)).backward()
    grads = [p.grad for each in (ema, averaged.module) for p in each.parameters()]
    assert all(p.grad is None for p in model.parameters())
    return [*parameters(ema), *parameters(averaged), *grads]


def functional(model):
    """With other parameters than the model's own."""
    others = {
        name: (p.detach() * 0.5).requires_grad_(p.requires_grad)
        for name, p in model.named_parameters()
    }
    output = torch.func.functional_call(model, others, ROWS)
    grads = torch.autograd.grad(loss_of(output), list(others.values()))
    return [output.detach(), *grads]


LOOPS = [with_scaler, accumulating, in_backward, averaging, functional]


@under_each
@pytest.mark.parametrize("loop", LOOPS)
def test_a_loop_is_as_without_a_strategy(loop, spec):
    same_loop(loop, spec)


@under_each
@pytest.mark.parametrize("loop", [with_scaler, accumulating, averaging])
def test_a_loop_with_running_statistics(loop, spec):
    same_loop(loop, spec, functools.partial(chain, NormBlock))


class OwnCheckpoint(Loop):
    """Checkpoints a part of itself: around blocks, or inside of each."""

    def __init__(self, where):
        super().__init__()
        self.where = where
        if where == "inside":
            for block in self.h:
                block.linear = Checkpointed(block.linear)

    def forward(self, x):
        if self.where == "inside":
            return super().forward(x)
        x = checkpoint(self.h[1], self.h[0](x), use_reentrant=False)
        return self.h[4](checkpoint(lambda x: self.h[3](self.h[2](x)), x, use_reentrant=False))


class Checkpointed(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return checkpoint(self.inner, x, use_reentrant=False)


@under_each
@pytest.mark.parametrize("where", ["around", "inside"])
def test_a_checkpoint_of_the_users_own(where, spec):
    seed(0)
    model = OwnCheckpoint(where).train()
    wanted = step(copy.deepcopy(model), ROWS)
    strategies.apply(model, spec)
    assert_same(step(model, ROWS), wanted)


@pytest.mark.parametrize("spec", few(["every_k(k=2)", "every_layer", "sqrt"]))
def test_twenty_steps_keep_no_more_than_three(spec):
    model = chain()
    strategies.apply(model, spec)
    optimizer = torch.optim.AdamW(model.parameters())

    def alive_after(steps):
        for _ in range(steps):
            loss_of(model(ROWS)).backward()
            optimizer.step()
            optimizer.zero_grad()
        gc.collect()
        return sum(isinstance(each, torch.Tensor) for each in gc.get_objects())

    assert alive_after(3) == alive_after(17)


# Saving, loading, making.


@under_each
def test_a_whole_model_is_saved_and_loaded(spec, tmp_path):
    model = chain()
    strategies.apply(model, spec)
    wanted = step(model, ROWS)  # before: what a step leaves must not be in the way
    torch.save(model, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    assert_same(step(loaded, ROWS), wanted)
    assert "forward" in vars(loaded[1])
    strategies.undo(loaded)
    assert "forward" not in vars(loaded[1])
    assert_same(step(loaded, ROWS), wanted)


@under_each
@pytest.mark.parametrize("assign", [False, True])
def test_a_state_dict_is_saved_and_loaded(spec, assign, tmp_path):
    trained = chain()
    strategies.apply(trained, spec)
    with torch.no_grad():
        for p in trained.parameters():
            p.mul_(0.5)
    torch.save(trained.state_dict(), tmp_path / "weights.pt")
    weights = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert list(weights) == list(chain().state_dict())
    model = chain()
    strategies.apply(model, spec)
    step(model, ROWS)
    model.load_state_dict(weights, assign=assign)
    plain = chain()
    plain.load_state_dict(weights)
    assert_same(step(model, ROWS), step(plain, ROWS))


@under_each
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_model_that_is_made_without_memory(spec, when):
    wanted = step(chain(NormBlock), ROWS)
    with torch.device("meta"):
        model = nn.Sequential(*[NormBlock() for _ in range(BLOCKS)])
    if when == "before":
        strategies.apply(model, spec)
    model.to_empty(device="cpu")
    if when == "after":
        strategies.apply(model, spec)
    model.load_state_dict(chain(NormBlock).state_dict())
    assert_same(step(model, ROWS), wanted)


@under_each
def test_a_replica_runs_its_own_weights(spec):
    """As `nn.DataParallel` makes one for each device, and fills it."""
    model = chain()
    strategies.apply(model, spec)
    replicas = {module: module._replicate_for_data_parallel() for module in model.modules()}
    other, leaves = chain(), {}
    for (name, module), its in zip(model.named_modules(), other.modules(), strict=True):
        replica = replicas[module]
        replica._parameters = {
            key: leaves.setdefault(f"{name}.{key}", (p * 0.5).detach().requires_grad_())
            for key, p in its._parameters.items()
        }
        replica._modules = {k: replicas[child] for k, child in module._modules.items()}
    seed(2)
    loss_of(replicas[model](ROWS)).backward()
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(0.5)
    seed(2)
    loss_of(other(ROWS)).backward()
    assert all(p.grad is None for p in model.parameters())
    for name, p in other.named_parameters():
        assert torch.equal(leaves[name].grad, p.grad)


# Several processes.


@pytest.mark.long
@pytest.mark.parametrize("way", list(processes.WAYS))
def test_two_processes(way, tmp_path):
    multiprocessing.spawn(processes.main, (way, str(tmp_path / "store")), nprocs=2)


# Libraries.


def gpt2(**options):
    transformers = pytest.importorskip("transformers")
    seed(0)
    config = transformers.GPT2Config(
        vocab_size=19, n_embd=16, n_layer=4, n_head=2, n_positions=32,
        bos_token_id=0, eos_token_id=0, pad_token_id=0, **options,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


@of_transformers
@under_each
def test_a_pretrained_model_is_saved_and_loaded(spec, tmp_path):
    model = gpt2()
    strategies.apply(model, spec)
    tokens = torch.arange(12).view(2, 6)
    model.train()(input_ids=tokens, labels=tokens).loss.backward()
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["use_cache"] is True
    loaded = type(model).from_pretrained(tmp_path)
    for one, other in zip(parameters(loaded), parameters(model), strict=True):
        assert torch.equal(one, other)
    assert loaded.config.use_cache is True


@of_transformers
@under_each
@pytest.mark.parametrize("grad", [False, True])
def test_generation(spec, grad):
    def loop(model):
        with torch.set_grad_enabled(grad):
            return [model.generate(tokens, max_new_tokens=6, do_sample=draws) for draws in (0, 1)]

    tokens = torch.arange(1, 13).view(2, 6)
    same_loop(loop, spec, lambda: gpt2().eval())


@of_transformers
@under_each
def test_a_trainer(spec, tmp_path):
    pytest.importorskip("accelerate", reason="transformers.Trainer needs accelerate")
    transformers = pytest.importorskip("transformers")
    rows = [{"input_ids": t, "labels": t} for t in torch.arange(72).remainder(19).view(12, 6)]

    def loop(model):
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path / "out"), max_steps=3, per_device_train_batch_size=2,
            gradient_accumulation_steps=2, report_to=[], use_cpu=True, disable_tqdm=True,
            save_strategy="no", logging_strategy="no", seed=3, use_cache=True,
        )  # fmt: skip
        trainer = transformers.Trainer(model, arguments, train_dataset=rows)
        trainer.train()
        trainer.save_model(str(tmp_path / "saved"))
        saved = json.loads((tmp_path / "saved" / "config.json").read_text())
        assert saved["use_cache"] is True
        return parameters(model)

    same_loop(loop, spec, gpt2)


@under_each
def test_accelerate(spec):
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")

    def loop(model):
        accelerator = accelerate.Accelerator(cpu=True)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model, optimizer = accelerator.prepare(model, optimizer)
        for _ in range(3):
            accelerator.backward(loss_of(model(ROWS)))
            optimizer.step()
            optimizer.zero_grad()
        return parameters(model)

    same_loop(loop, spec)


@of_transformers
@under_each
def test_adapters(spec):
    peft = pytest.importorskip("peft", reason="peft is not installed")

    def make():
        config = peft.LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True)
        return peft.get_peft_model(gpt2(), config)

    def loop(model):
        tokens = torch.arange(12).view(2, 6)
        model.train()(input_ids=tokens, labels=tokens).loss.backward()
        return [p.grad for p in model.parameters() if p.requires_grad]

    same_loop(loop, spec, make)


@of_lightning
@under_each
def test_lightning(spec, tmp_path):
    lightning = pytest.importorskip("lightning", reason="lightning is not installed")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.h = chain()

        def training_step(self, batch, _):
            return loss_of(self.h(batch))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    def loop(model):
        trainer = lightning.Trainer(
            max_steps=3, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, default_root_dir=tmp_path,
        )  # fmt: skip
        trainer.fit(model, torch.utils.data.DataLoader(list(ROWS.repeat(2, 1)), batch_size=2))
        return parameters(model)

    same_loop(loop, spec, Module)
