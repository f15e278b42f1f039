"""``advise``: what it promises is what is measured; what it names helps by as much."""

import copy
import dataclasses
import functools
import html
import json
import time

import command
import msgspec
import pytest
import torch
from effort import few
from simulated import cell, simulate
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import bench
import strategies
from bench.advise import api, findings, formats, remedies
from bench.advise.advice import Advice
from bench.advise.candidates import NONE, fastest, line
from bench.advise.findings import Findings, Question
from bench.advise.measured import measured
from bench.advise.remedies import CHUNKS, Base
from bench.advise.workbench import Workbench, peak_bytes_of
from bench.cells.optimizers import BLOCK, LEAST
from bench.cells.training import TrainingStep
from bench.measure.digests import digests
from bench.run import server
from bench.run.blank import blank
from bench.simulate.run import parts_of, trace_cell, warm_optimizer
from bench.simulate.traced_step import trace
from bench.simulate.tracer import Tracer
from bench.workloads import live
from strategies.profiling.free_blocks import GRANULE_BYTES, round_up

ROOM = 0.75  # of what the step needs as it is: some strategies fit, not all
SETTING = {"optimizer": "adamw", "seq": 128, "batch": 8, "layers": 2}
VOCABULARY, WIDTH = 512, 16


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 64), nn.GELU(), nn.Linear(64, WIDTH))

    def forward(self, x):
        return x + self.mlp(self.norm(x))


class Model(nn.Module):
    """A language model whose loss may be made in chunks, each computed again in backward."""

    def __init__(self, chunks=1, layers=3):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(layers))
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.chunks = chunks

    def part(self, rows, targets):
        return F.cross_entropy(self.head(rows), targets, reduction="sum")

    def forward(self, ids, labels):
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        rows, targets = x.flatten(0, 1), labels.flatten()
        if self.chunks == 1:
            return {"loss": F.cross_entropy(self.head(rows), targets)}
        pairs = zip(rows.chunk(self.chunks), targets.chunk(self.chunks), strict=True)
        parts = [checkpoint(self.part, *pair, use_reentrant=False) for pair in pairs]
        return {"loss": torch.stack(parts).sum() / len(targets)}


def batch_of(rows=4, tokens=64):
    ids = torch.arange(rows * tokens).view(rows, tokens) % VOCABULARY
    return {"ids": ids, "labels": ids.clone()}


@functools.cache
def asked():
    """A small model as it is, and the findings for less room than it needs."""
    given = cell("gpt-mini", **SETTING)
    room_bytes = int(ROOM * simulate(given)["peak_allocated_bytes"])
    question = Question(cell=given, room_bytes=room_bytes, specs=("sqrt", "every_layer"))
    answer = findings.find(msgspec.json.encode(question))
    return question, msgspec.json.decode(answer, type=Findings)


def advice_of(found, question, **changes):
    setting = api._Adviser(question.cell, question.cell.make_workload()).setting(
        question.room_bytes, "a budget"
    )
    chosen = fastest(found.candidates)
    facts = {
        "setting": setting,
        "candidates": found.candidates,
        "chosen": chosen and chosen.spec,
        "line": line(chosen.spec, "batch") if chosen else "",
        "peak": found.peak,
        "base": found.base,
        "remedies": found.remedies,
        "largest": (),
    }
    return Advice(**{**facts, **changes})


@pytest.mark.parametrize("which", few(["every_layer", "none", "sqrt", "auto"]))
def test_every_promise_is_what_run_says_to_the_byte(which):
    question, found = asked()
    assert [one.spec.partition("(")[0] for one in found.candidates] == [
        "none", "sqrt", "every_layer", "auto",
    ]  # fmt: skip
    one = next(one for one in found.candidates if one.spec.startswith(which))
    record = simulate(cell("gpt-mini", one.spec, **SETTING))
    assert one.peak_allocated_bytes == record["peak_allocated_bytes"]
    assert (one.plan, list(one.notes)) == (record["plan"], record["notes"])
    assert one.recompute_of_forward == record["recompute_flops"] / record["forward_flops"]
    assert one.fits == (one.peak_allocated_bytes <= question.room_bytes)
    assert found.candidates[0].fits is False
    assert found.peak.size_bytes == found.candidates[0].peak_allocated_bytes


def test_the_fastest_that_fits_is_chosen():
    _, found = asked()
    fitting = [one for one in found.candidates if one.fits]
    chosen = fastest(found.candidates)
    assert chosen in fitting
    assert chosen.step_ratio <= 1.01 * min(one.step_ratio for one in fitting)
    plain = dataclasses.replace(found.candidates[0], status="ok")
    assert fastest([plain, *found.candidates[1:]]) is plain
    assert fastest([one for one in found.candidates if not one.fits]) is None


def test_the_line_works_when_pasted():
    _, found = asked()
    model, batch = Model(), batch_of()
    names = {"model": model, "batch": batch}
    exec(line("every_layer", "batch"), names)
    with pytest.raises(ValueError, match="under every_layer already"):
        strategies.apply(model, "none")
    strategies.undo(model)
    spec = next(one.spec for one in found.candidates if one.spec.startswith("auto"))
    assert (
        line(spec, "batch")
        == f"import strategies; strategies.apply(model, {spec!r}, example=batch)"
    )


@pytest.mark.long
def test_the_line_of_a_budget_works_when_pasted():
    model, batch = Model(layers=12), batch_of()
    advice = bench.advise(model, batch, budget="75%", device="sim:h100-80gb", sizes=False)
    assert advice.strategy.spec.startswith("auto(")
    names = {"model": model, "batch": batch}
    exec(advice.line, names)
    strategies.undo(model)


@pytest.mark.long
def test_the_line_for_a_workload_works_with_its_model_and_batch():
    workload = cell("gpt-mini").make_workload()
    names = {"model": workload.model(), "batch": workload.make_batch()}
    exec(line("auto(budget='90%')", "batch[0]"), names)
    strategies.undo(names["model"])


def base_of(model, batch, **fields):
    """A base to try remedies on."""
    fields = {"device": "sim:h100-80gb", "optimizer": "adamw", **fields}
    name = type(model).__name__
    given = live.LiveWorkload.of(model, batch, None, None)
    with live.named(given):
        base = api.checked(api.Cell(workload=name, spec=NONE, rounds=0, **fields))
        work = Workbench(base, 10**12)
        return Base(work, NONE, work.simulate(NONE))


def test_a_loss_in_chunks_takes_what_such_a_loss_takes():
    batch = batch_of(8, 128)
    said = remedies._chunked(base_of(Model(), batch))
    true = base_of(Model(chunks=CHUNKS), batch).peak_bytes
    assert said.helps
    # Of the chunks: a second gradient of the head, to add up, and the gradients of their rows.
    head_bytes, rows_bytes = 4 * VOCABULARY * WIDTH, 4 * 8 * 128 * WIDTH
    more_bytes = head_bytes + rows_bytes * (CHUNKS - 1) // CHUNKS
    assert true == said.peak_allocated_bytes + more_bytes


def test_an_8_bit_optimizer_keeps_a_byte_a_value_and_its_scales():
    base = base_of(Model(), batch_of(8, 128))
    said = remedies._eight_bits(base)
    saved_bytes = 0
    for parameter in Model().parameters():
        count = parameter.numel()
        small = count + 4 * -(-count // BLOCK) if count >= LEAST else 4 * count
        saved_bytes += 2 * (round_up(4 * count, GRANULE_BYTES) - round_up(small, GRANULE_BYTES))
    assert said.saved_bytes == saved_bytes > 0


def test_released_gradients_take_what_they_take_on_this_cpu():
    model, batch = Model(), batch_of(2, 8)
    said = remedies._released(base_of(model, batch, device="cpu"))
    workload = live.LiveWorkload.of(model, batch, None, None)
    step = TrainingStep.build(workload, torch.device("cpu"), "fp32", "adamw")
    warm_optimizer(step)
    with strategies.release_gradients(step.model, step.update_rule):
        tracer = Tracer(step.model, list(step.model.blocks))
        real = trace(tracer, parts_of(step, as_cuda=False))
    assert said.peak_allocated_bytes == peak_bytes_of(real)
    assert said.helps


def test_shards_are_a_part_of_each_and_what_is_gathered():
    base = base_of(Model(), batch_of())
    size_bytes = remedies._shards(base.trace, 4, 1000)
    resident = [life for life in base.trace.lives if life.category == "parameters"]
    assert size_bytes(resident[0]) == -(-resident[0].size_bytes // 4) + 1000
    assert size_bytes(resident[1]) == -(-resident[1].size_bytes // 4)
    others = [life for life in base.trace.lives if life.category in {"saved tensors", "batch"}]
    assert all(size_bytes(life) == life.size_bytes for life in others)
    block = sum(4 * p.numel() for p in Block().parameters())
    root = 2 * 4 * VOCABULARY * WIDTH
    assert remedies._gathered_bytes(base) == 2 * root + 3 * block


def test_a_model_that_needs_values_to_be_built_is_looked_at(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(
        "import torch\nfrom torch import nn\ndef build():\n"
        "    sizes = [int(one.item()) for one in torch.full((3,), 4)]\n"
        "    return nn.Sequential(*(nn.Linear(size, size) for size in sizes))\n"
        "def batch():\n    return torch.ones(2, 4)\n"
    )
    given = api.Cell(workload=f"{path}:build", spec=NONE, device="sim:h100-80gb", rounds=0)
    simulation = Workbench(api.checked(given), 10**12).simulate(NONE)
    assert simulation.trace.resident_bytes() == 4 * (3 * (4 * 4 + 4) + 2 * 4)


def test_remedies_that_are_cells_are_what_run_says():
    _, found = asked()
    said = {one.name: one for one in found.remedies}
    flash = simulate(cell("gpt-mini", "flash_checkpoint(over=none)", **SETTING))
    half = simulate(cell("gpt-mini", precision="bf16", **SETTING))
    assert said["flash attention"].peak_allocated_bytes == flash["peak_allocated_bytes"]
    assert said["bf16"].peak_allocated_bytes == half["peak_allocated_bytes"]
    saved = [one.saved_bytes for one in found.remedies]
    assert saved == sorted(saved, reverse=True)
    for one in found.remedies:
        if one.peak_allocated_bytes is not None:
            assert one.saved_bytes == found.peak.size_bytes - one.peak_allocated_bytes
            assert one.helps == (one.saved_bytes >= 0.01 * found.peak.size_bytes)


@pytest.mark.long
def test_what_cannot_help_says_why():
    half = base_of(Model().bfloat16(), batch_of(), optimizer="none")
    said = {one.name: one for one in remedies.remedies(half)}
    assert said["bf16"].how == "the model computes in half precision already"
    assert "no optimizer" in said["fused optimizer"].how
    assert "none is named" in said["gradient release"].how
    assert said["8-bit optimizer"].how == "there is no state of an optimizer"
    assert "no attention" in said["flash attention"].how
    assert not any(said[name].helps for name in ("bf16", "gradient release", "8-bit optimizer"))


def test_formats_hold_the_line_and_escape_what_is_hostile():
    question, found = asked()
    advice = advice_of(found, question)
    assert advice.line in str(advice).splitlines()
    assert f"```python\n{advice.line}\n```" in advice.markdown()
    assert html.escape(advice.line) in advice._repr_html_()
    facts = json.loads(advice.json())
    assert facts["chosen"] == advice.chosen
    assert facts["candidates"][0]["peak_allocated_bytes"] == found.peak.size_bytes
    hostile = "<script>alert(1)</script>|[red]"
    bad = dataclasses.replace(advice, setting=dataclasses.replace(advice.setting, workload=hostile))
    assert "<script" not in bad._repr_html_()
    assert "<script" not in bad.markdown()
    assert hostile in str(bad)


@pytest.mark.long
@pytest.mark.parametrize("width", [60, 80, 120])
def test_text_keeps_to_its_width_but_for_the_line(width):
    question, found = asked()
    advice = advice_of(found, question)
    lines = formats.text(advice.page(), width).splitlines()
    assert all(len(one) <= width or one == advice.line for one in lines)


def test_where_nothing_fits_it_says_so_and_tries_on_the_leanest():
    question, found = asked()
    none_fits = tuple(dataclasses.replace(one, status="oom") for one in found.candidates)
    base = findings.base_of(none_fits)
    leanest = min(none_fits, key=lambda one: one.peak_allocated_bytes)
    assert base == leanest.spec
    advice = advice_of(msgspec.structs.replace(found, candidates=none_fits, base=base), question)
    assert (advice.chosen, advice.line, advice.strategy) == (None, "", None)
    assert "None of these makes it fit" in str(advice)


def test_a_module_is_copied_and_left_as_it_was():
    model, batch = Model(), batch_of()
    model.eval()
    before = digests(model.state_dict().items()), torch.get_rng_state(), copy.deepcopy(batch)
    frame = bench.run(model, batch, strategies=["every_layer", "none"], device="cpu", rounds=0)
    assert list(frame["spec"]) == ["every_layer", "none"]
    assert list(frame["verdict"]) == ["bitwise equal", "bitwise equal"]
    assert list(frame["plan"]) == ["[0] [1] [2]", "0 1 2"]
    assert frame["peak_x_reference"][0] < 1
    assert digests(model.state_dict().items()) == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert all(torch.equal(batch[name], before[2][name]) for name in batch)
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_modelled_module_and_its_timeline_agree():
    model, batch = Model(), batch_of()
    device = "sim:h100-80gb"
    frame = bench.run(model, batch, strategies=["sqrt"], device=device)
    profile = bench.timeline(model, batch, strategy="sqrt", device=device)
    assert frame["peak_allocated_bytes"][0] == profile.facts["peak_allocated_bytes"]
    assert profile.timeline.peak.size_bytes == frame["peak_allocated_bytes"][0]


def test_a_loss_and_rows_are_the_callers():
    model, ids = (
        nn.Sequential(nn.Linear(4, 4), nn.Sequential(*(nn.Linear(4, 4) for _ in range(3)))),
        torch.ones(6, 4),
    )
    given = live.LiveWorkload.of(model, ids, lambda output: 3 * output.sum(), "1")
    assert given.options() == {"seed": 0, "blocks": "1", "batch": 6}
    loss = given.loss(model, given.make_batch())
    assert loss.item() == pytest.approx(3 * model(ids).sum().item())
    assert given.with_options(batch=8).make_batch().shape == (8, 4)


BAD = [
    (("gpt-mini", torch.ones(1)), {}, "go with a module"),
    ((Model(), None), {}, "a model needs a batch"),
    ((Model(), {"ids": 3}), {}, "holds no tensor"),
    (("gpt-minj",), {}, "Did you mean 'gpt-mini'"),
    (("gpt-mini",), {"device": "sim:h100"}, "did you mean"),
    (("gpt-mini",), {"optimizer": "lion"}, "optimizer must be one of"),
    (("gpt-mini",), {"strategies": ["sqrtt"]}, "sqrtt"),
    (("gpt-mini",), {"budget": "much"}, "a budget is written as"),
    ((Model(), {"idx": torch.ones(1)}), {"sizes": False}, "idx"),
]


@pytest.mark.parametrize(("given", "more", "says"), BAD)
def test_bad_input_is_one_sentence(given, more, says):
    with pytest.raises(ValueError, match=says) as caught:
        bench.advise(*given, **more)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "says"),
    few(
        [
            (("--device", "sim:nothing"), "unknown accelerator"),
            (("--budget", "much"), "a budget is written as"),
            (("--precision", "2%"), "no interval"),
            (("--strategy", "nothing"), "nothing"),
        ],
        2,
    ),
)
def test_the_command_refuses_in_one_sentence(arguments, says, monkeypatch):
    monkeypatch.setattr(server, "begin", lambda preload: None)
    done = command.run("advise", "--workload", "gpt-mini", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.long
def test_a_device_that_is_here_is_measured():
    model, batch = Model(), batch_of()
    advice = bench.advise(
        model, batch, device="cpu", strategies=["every_layer"], rounds=0, optimizer="none"
    )
    frame = bench.run(model, batch, strategies=["none", "every_layer"], device="cpu", rounds=0)
    peaks = [one.peak_allocated_bytes for one in advice.candidates]
    assert peaks == list(frame["peak_allocated_bytes"])
    assert advice.fits
    assert (advice.chosen, advice.line) == ("none", "")
    assert not advice.setting.modelled
    assert advice.largest == ()


@pytest.mark.long
def test_less_room_than_was_measured_asks_for_a_budget():
    _, found = asked()
    specs = []

    def measure(spec):
        specs.append(spec)
        return simulated_record(spec)

    list(measured(measure, ["every_layer"], room_bytes=1))
    assert specs == ["none", "every_layer", "auto(budget='1')"]
    assert found.candidates[0].spec == specs[0]


def simulated_record(spec):
    given = cell("mlp-chain", spec)
    return msgspec.structs.replace(blank(given, "ok"), peak_allocated_bytes=2)


@pytest.mark.long
def test_gpt2_on_a_4090_promises_what_run_gives():
    began_s = time.monotonic()
    done = command.run(
        "advise", "--workload", "hf:gpt2", "--device", "sim:rtx4090-24gb", "--format", "json"
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert {one["axis"] for one in facts["largest"]} == {"batch", "seq"}
    assert time.monotonic() - began_s < 600
    for one in facts["candidates"]:
        ran = command.run(
            "run", "--workload", "hf:gpt2", "--device", "sim:rtx4090-24gb", "--optimizer", "adamw",
            "--strategy", one["spec"], "--format", "json",
        )  # fmt: skip
        record = json.loads(ran.stdout)
        assert record["peak_allocated_bytes"] == one["peak_allocated_bytes"], one["spec"]
        assert record["status"] == one["status"]


def test_a_batch_of_a_workload_is_a_number_of_rows():
    with api.subject("gpt-mini", 3, options={"seq": 64}) as workload:
        assert (workload.batch, workload.seq) == (3, 64)
    with (
        pytest.raises(ValueError, match="has no option 'width'"),
        api.subject("gpt-mini", options={"width": 1}),
    ):
        pass


@pytest.mark.long
def test_a_workload_that_nobody_knows_is_asked_about_by_its_name():
    given = dataclasses.replace(cell("mlp-chain").make_workload(), name="mine")
    frame = bench.run(given, strategies=["none"], device="sim:h100-80gb")
    assert list(frame["workload"]) == ["mine"]
    assert frame["peak_allocated_bytes"][0] == peak_bytes_of(
        trace_cell(cell("mlp-chain", device="sim:h100-80gb")).trace
    )
    with pytest.raises(ValueError, match="no workload 'mine'"):
        bench.run("mine")
