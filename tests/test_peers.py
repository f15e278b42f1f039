"""Other people's implementations, held to what ours promise; the run, the table, the command."""

import importlib.metadata
import json
import re
import types
from pathlib import Path

import command
import msgspec
import pytest
import torch
from models import CASES, assert_same, chain_of, step
from torch import nn

import strategies
from bench.cells.cell import Cell, checked
from bench.report import peers as report
from bench.report.frame import build, rows
from bench.report.regenerate import regenerate
from bench.report.stats import paired_ratio
from bench.run import sweep
from bench.store import peers as store
from bench.store import records
from bench.studies import peers as study
from strategies import Unsupported
from strategies.contract.peer import IN_PLACE, Elsewhere, Listing
from strategies.contract.registry import classes, find, peers
from strategies.peers import checkpoint_schedules_revolve
from strategies.profiling.flops import count_flops
from strategies.schedules import plan as plans
from strategies.solvers.binomial import advances

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:transformers", "ignore::FutureWarning:transformers"
)
CPU = torch.device("cpu")
TINY = {"layers": 3, "dim": 16, "heads": 2, "seq": 8, "batch": 2}


def state(model):
    """All that a peer could leave behind."""
    return [
        (name, type(m), {k: list(v) if isinstance(v, dict) else v for k, v in vars(m).items()})
        for name, m in model.named_modules()
    ]


LISTED = {name for name, cls in peers().items() if issubclass(cls, Listing)}


def runs_on(package, case):
    """The points of all peers that can run on a case here, and are promised to be exact."""
    model = CASES[case].model()
    points = [point for cls in peers().values() for point in cls.grid()]
    able = [point for point in points if point.unsupported(model, CPU) is None]
    return [p for p in able if p.package == package and p.name() not in LISTED and p.exact]


POINTS = {
    f"{point.spec()}-{case}": (point, case)
    for case in ("gpt", "loop")
    for point in runs_on("torch", case)
}


@pytest.mark.parametrize(("point", "name"), POINTS.values(), ids=POINTS)
def test_a_peer_keeps_what_ours_promise(point, name):
    case = CASES[name]
    model = case.model()
    before, wanted = state(model), step(case.model(), case.input())
    parameters, keys = list(map(id, model.parameters())), list(model.state_dict())
    with strategies.apply(model, point):
        assert list(map(id, model.parameters())) == parameters
        assert list(model.state_dict()) == keys
        assert_same(step(model, case.input()), wanted)
        with torch.no_grad():
            assert model(case.input()).grad_fn is None
    assert state(model) == before
    assert_same(step(model, case.input()), wanted)


def test_every_peer_of_pytorch_meets_a_case():
    met = {point.name() for point, _ in POINTS.values()}
    theirs = {name for name, cls in peers().items() if cls.package == "torch"} - LISTED
    assert theirs - met == {"torch_save_on_cpu"}  # of an accelerator's tensors alone


def test_peers_are_apart_from_our_own_strategies():
    assert not peers().keys() & classes().keys()
    assert set(peers()).isdisjoint(strategies.available())
    assert {strategies.get(spec).name() for spec in sweep.every_spec()} <= set(classes())
    for name, cls in peers().items():
        assert find(name) is cls
        assert strategies.get(name) == cls()
        assert cls().peer
    theirs = {name for name, cls in classes().items() if cls().peer is not None}
    assert theirs == {"memory_budget"}  # which is PyTorch's, and compared with ours everywhere


def test_what_is_not_installed_says_so():
    for name, cls in peers().items():
        if issubclass(cls, Elsewhere):
            continue
        try:
            version = importlib.metadata.version(cls.package)
        except importlib.metadata.PackageNotFoundError:
            model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
            reason = f"{name}.*: {cls.package} is not installed: pip install {cls.package}"
            with pytest.raises(Unsupported, match=reason):
                strategies.apply(model, name)
            assert cls().peer == cls.package
        else:
            assert cls().peer in {f"{cls.package} {version}", "the textbook"}


@pytest.mark.parametrize(
    ("name", "reason"),
    [("ckptplan_budget", "which it measures on CUDA alone"), ("rockmate", "it runs on CUDA alone")],
)
def test_what_builds_another_module_says_why_it_is_not_run(name, reason):
    assert reason in strategies.get(name).unsupported(CASES["loop"].model(), CPU)
    elsewhere = strategies.get(name).unsupported(CASES["loop"].model(), torch.device("cuda"))
    assert "builds another module" in elsewhere


# The actions that checkpoint_schedules 1.0.4 gives for Revolve(6, 2), Forward alone: n0, n1, and
# whether the boundary before, and what the last step's backward needs, are kept.
REVOLVE_6_2 = [
    *((0, 3, True, False), (3, 5, True, False), (5, 6, False, True)),
    *((3, 4, False, False), (4, 5, False, True), (3, 4, False, True)),
    *((0, 1, False, False), (1, 2, True, False), (2, 3, False, True)),
    *((1, 2, False, True), (0, 1, False, True)),
]


def test_a_schedule_of_actions_is_read_as_a_plan():
    names = ("n0", "n1", "write_ics", "write_adj_deps")
    actions = [types.SimpleNamespace(**dict(zip(names, a, strict=True))) for a in REVOLVE_6_2]
    others = [types.SimpleNamespace(n0=6, n1=5)]  # a reversal
    plan = checkpoint_schedules_revolve.read([*actions, *others], 6)
    assert plans.render(plan) == "[[0] [1] 2] [[3] 4] 5"


@pytest.mark.parametrize("snapshots", [1, 2, 3, 7])
@pytest.mark.parametrize("family", checkpoint_schedules_revolve.FAMILIES)
def test_their_schedules_recompute_as_little_as_can_be(family, snapshots):
    pytest.importorskip("checkpoint_schedules")
    chain = strategies.find_chain(chain_of(8))
    spec = f"checkpoint_schedules_revolve(snapshots={snapshots}, family={family})"
    plan = strategies.get(spec).plan(chain)
    plans.validate(plan, 8)
    assert sum(plans.forward_counts(plan, 8)) == 8 + advances(8, min(snapshots, 7))


def test_what_moves_to_host_memory_needs_an_accelerator():
    with pytest.raises(Unsupported, match=IN_PLACE):
        strategies.apply(CASES["loop"].model(), "torch_save_on_cpu")


def test_segments_are_recomputed_but_the_last():
    case = CASES["loop"]
    model = case.model()
    chain = strategies.find_chain(model)
    entered = []
    for index, block in enumerate(chain.blocks):
        inner = next(iter(block.children()))
        inner.register_forward_pre_hook(lambda *_, index=index: entered.append(index))
    with strategies.apply(model, "torch_checkpoint_sequential(segments=2)"):
        step(model, case.input())
    count = len(chain)
    segment = count // 2
    assert sorted(entered) == sorted([*range(count), *range(segment)])


def test_a_chain_of_more_than_a_tensor_is_refused():
    case = CASES["extras"]
    with (
        strategies.apply(case.model(), "torch_checkpoint_sequential(segments=2)") as applied,
        pytest.raises(Unsupported, match="it hands on one tensor, and a block of this model takes"),
    ):
        step(applied.model, case.input())


def test_every_second_product_with_a_weight_is_kept():
    case = CASES["gpt"]
    wanted = step(case.model(), case.input())
    model = case.model()
    flops = {}
    for spec in ("torch_checkpoint", "torch_selective_checkpoint"):
        with strategies.apply(model, spec):
            flops[spec] = count_flops(
                lambda: model(case.input()).square().sum(), lambda loss: loss.backward()
            )
            assert_same(step(model, case.input()), wanted)
    kept, none = flops["torch_selective_checkpoint"], flops["torch_checkpoint"]
    assert kept.forward_flops == none.forward_flops
    assert 0 < kept.recompute_flops < none.recompute_flops


# The textbook's own code.


def custom(name):
    """A step of a case under it, one without, and the names of the blocks' parameters."""
    case = CASES[name]
    model = case.model()
    wanted = step(case.model(), case.input())
    with strategies.apply(model, "textbook_custom_checkpoint"):
        found = step(model, case.input())
    assert torch.equal(found.loss, wanted.loss)
    inside = {n for n, _ in model.named_parameters() if n.startswith("h.")}
    assert inside
    return found, wanted, inside


def test_custom_checkpoint_gives_no_gradient_to_its_block():
    found, wanted, inside = custom("core")
    assert all(found.gradients[name] is None for name in inside)
    outside = found.gradients.keys() - inside - {"the input"}
    assert outside
    assert all(torch.equal(found.gradients[n], wanted.gradients[n]) for n in outside)
    assert torch.equal(found.random_state, wanted.random_state)


def test_custom_checkpoint_draws_other_random_numbers_again():
    found, wanted, inside = custom("gpt")
    assert not torch.equal(found.random_state, wanted.random_state)
    outside = found.gradients.keys() - inside - {"the input"}
    assert any(not torch.equal(found.gradients[n], wanted.gradients[n]) for n in outside)


@pytest.mark.parametrize(
    ("name", "error"), [("keywords", TypeError), ("pairs", TypeError)], ids=["keyword", "outputs"]
)
def test_custom_checkpoint_takes_positional_tensors_and_gives_one(name, error):
    case = CASES[name]
    with (
        strategies.apply(case.model(), "textbook_custom_checkpoint") as applied,
        pytest.raises(error),
    ):
        step(applied.model, case.input())


def test_offload_checkpoint_keeps_what_autograd_keeps_and_a_copy_for_nobody():
    case = CASES["loop"]
    model = case.model()
    wanted = step(case.model(), case.input())
    kept = []

    def pack(tensor):
        kept.append(tensor.untyped_storage().data_ptr())
        return tensor

    def count():
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(case.input())
        return len(kept)

    plain = count()
    with strategies.apply(model, "textbook_offload_checkpoint"):
        assert count() == plain
        first = strategies.find_chain(model).blocks[0]
        assert isinstance(first.checkpoint, torch.Tensor)
        assert_same(step(model, case.input()), wanted)
    assert not hasattr(first, "checkpoint")


def test_compression_functions_change_the_loss_and_ours_does_not():
    case = CASES["loop"]
    losses = {}
    for spec in ("none", "textbook_compressed_checkpoint", "compressed(codec=fp16)"):
        with strategies.apply(case.model(), spec) as applied:
            losses[spec] = step(applied.model, case.input()).loss
    assert torch.equal(losses["none"], losses["compressed(codec=fp16)"])
    assert not torch.equal(losses["none"], losses["textbook_compressed_checkpoint"])


def test_a_listing_is_the_textbooks():
    assert {name for name in peers() if name.startswith("textbook_")} == LISTED


# The library's own.


def test_transformers_own_is_turned_on_and_off_again():
    pytest.importorskip("transformers")
    cell = checked(Cell(workload="gpt2-transformers", options=TINY, device="cpu", spec="none"))
    workload = cell.make_workload()
    model = workload.model()
    before = state(model)
    loss = workload.loss(model, workload.make_batch())
    for spec, checkpointed in (
        ("transformers_checkpoint", [True] * 3),
        ("transformers_checkpoint(every=2)", None),
    ):
        with strategies.apply(model, spec):
            on = [block.gradient_checkpointing for block in model.transformer.h]
            assert on == checkpointed if checkpointed else 0 < sum(on) < 3
            assert torch.equal(workload.loss(model, workload.make_batch()), loss)
        assert state(model) == before
    with pytest.raises(Unsupported, match=IN_PLACE):
        strategies.apply(model, "transformers_checkpoint(offload=True)")


def test_transformers_own_needs_a_model_of_it():
    pytest.importorskip("transformers")
    with pytest.raises(Unsupported, match="Loop is no model of transformers that has checkpoint"):
        strategies.apply(CASES["loop"].model(), "transformers_checkpoint")


# The run, the table, the command.


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A folder of results in which one run is stored."""
    folder = tmp_path_factory.mktemp("results")
    sizes = [f"--option={name}={value}" for name, value in TINY.items()]
    only = ("every_layer", "torch_checkpoint", "textbook_custom_checkpoint", "torch_save_on_cpu")
    chosen = [f"--only={spec}" for spec in only]
    asked = ("--workload=gpt-mini", "--device=cpu", "--rounds=2", f"--results={folder}")
    return folder, command.run("peers", *asked, *sizes, *chosen)


def test_the_command_measures_and_writes_the_table(measured):
    folder, done = measured
    assert done.returncode == 0, done.stderr
    text = (folder / "tables" / "peers.md").read_text()
    assert done.stdout == text
    assert not (folder / "raw").exists()
    lines = text.partition(report.AGAINST)[0].splitlines()
    rows = {line.split("|")[1].strip(): line for line in lines if "| `" in line}
    assert "bitwise equal" in rows["`torch_checkpoint`"]
    assert f"torch {importlib.metadata.version('torch')}" in rows["`torch_checkpoint`"]
    assert "no gradient for 36 parameters" in rows["`textbook_custom_checkpoint`"]
    assert "the textbook" in rows["`textbook_custom_checkpoint`"]
    assert IN_PLACE in rows["`torch_save_on_cpu`"]
    assert regenerate(folder, None, check=True) == []


def test_ours_is_held_against_those_that_keep_the_same(measured):
    folder, _ = measured
    ours, peers = report.alike(rows(build(records.read_all(store.within(folder)))))
    assert ours["spec"] == "every_layer"
    assert [row["spec"] for row in peers] == ["torch_checkpoint"]  # the textbook's is wrong
    text = (folder / "tables" / "peers.md").read_text()
    assert "| `torch_checkpoint` | +0 | no | " in text
    assert report.alike([]) == ({}, [])


@pytest.mark.parametrize(
    ("factor", "said"), [(1.2, "no, faster"), (0.8, "by 25.0 %"), (1.0, "not beyond the noise")]
)
def test_slower_is_said_where_the_noise_allows_it(factor, said):
    noise = [1.0, 1.01, 0.99, 1.002, 0.997, 1.004, 0.996, 1.001]
    theirs = paired_ratio([factor * n for n in noise], list(reversed(noise)))
    assert report._slower(theirs) == said
    assert report._slower(None) == report._slower(paired_ratio([1.0], [1.0])) == "—"


def test_the_records_say_whose_they_are(measured):
    folder, _ = measured
    found = {one.spec: one for one in records.read_all(store.within(folder))}
    assert found["every_layer"].peer is None
    theirs, ours = found["torch_checkpoint"], found["every_layer"]
    assert theirs.peer == f"torch {importlib.metadata.version('torch')}"
    assert theirs.plan is theirs.predicted_peak_bytes is None
    assert theirs.block_forwards == [2, 2, 2]
    assert ours.peak_allocated_bytes <= theirs.peak_allocated_bytes
    assert ours.recompute_flops == theirs.recompute_flops


def test_all_are_timed_in_the_same_rounds(measured):
    folder, _ = measured
    [run] = store.read_all(store.within(folder))
    assert [one.spec for one in run.timed] == [
        "none",
        "every_layer",
        "torch_checkpoint",
        "textbook_custom_checkpoint",
    ]
    assert {len(one.step_s) for one in run.timed} == {2} == {len(run.none_again_step_s)}
    assert report.ratios(run, "nothing") == {}
    assert report.ratios(run, "none")["none"].estimate == 1


def test_results_readme_documents_every_field_in_order():
    text = (Path(__file__).parent.parent / "results" / "README.md").read_text("utf-8")
    section = text.partition("## One run of peers")[2].partition("\n## ")[0]
    names = re.findall(r"^\| `(\w+)` \| .+ \|$", section, re.MULTILINE)
    assert names == [*store.Run.__struct_fields__, *store.Timed.__struct_fields__]


def test_a_run_of_unequal_rounds_is_refused(measured):
    folder, _ = measured
    [path] = store.paths(store.within(folder))
    fields = json.loads(path.read_bytes())
    del fields["checksum"]
    fields["none_again_step_s"] = [1.0]
    with pytest.raises(ValueError, match="has 2 timed rounds"):
        store.decode(json.dumps(fields).encode())


def test_what_cannot_be_applied_is_left_out_with_its_reason():
    cell = checked(Cell(workload="gpt-mini", options=TINY, device="cpu", spec="none", rounds=2))
    found = study.run(msgspec.structs.replace(cell, threads=1), ["none", "torch_save_on_cpu"])
    assert [one.spec for one in found.timed] == ["none"]
    assert IN_PLACE in found.untimed["torch_save_on_cpu"]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--rounds", "0"], "peers are timed in at least 1 round, not 0"),
        (["--device", "sim:h100-80gb"], "on a device that is here"),
        (["--only", "torch_chekpoint"], "did you mean 'torch_checkpoint'"),
        (["--workload", "gpt"], "no workload 'gpt'"),
    ],
)
def test_a_bad_question_is_one_sentence(flags, sentence, tmp_path):
    done = command.run("peers", *flags, "--results", str(tmp_path))
    assert done.returncode == 2
    assert sentence in done.stderr
    assert not list(Path(tmp_path).iterdir())


def test_the_suite_holds_every_peer():
    specs = {cell.spec for cell in sweep.cells_of("peers", "cpu")}
    assert {strategies.get(spec).name() for spec in specs} >= set(peers())
    assert {"none", "every_layer"} <= specs
    assert sum("solver=" in spec for spec in specs) == 3  # and the default's
