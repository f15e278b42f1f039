"""``python -m bench contest``: `auto` against every contender; who won, and why not."""

import functools
import re
from pathlib import Path

import command
import msgspec
import pytest
import torch
from test_promises import STORED as PROMISED
from torch import nn
from torch._inductor.runtime.cache_dir_utils import cache_dir

import strategies
from bench import architectures
from bench.architectures.base import Architecture
from bench.cli.contest import failures
from bench.cli.followed import followed
from bench.report import contest_figure
from bench.report import contests as report
from bench.report.bouts import Outcome, bouts, met
from bench.report.causes import cause
from bench.report.regenerate import regenerate
from bench.store import contests as store
from bench.studies import contest, entrants
from bench.studies import ring as rings
from bench.studies.ring import Question, Ring
from strategies import Unsupported

ROOT = Path(__file__).parent.parent
STORED = {name: PROMISED[name] for name in PROMISED if name not in ("strategy", "updates")} | {
    "schema_version": store.SCHEMA_VERSION,
    "key": "abc",
    "compiled": False,
    "accumulation": False,
    "updates": 2,
    "warmup": 1,
    "interval_width": 0.02,
    "rounds_limit_s": 60.0,
    "threads": 2,
}
ROUNDS = 8
NO_TRANSFORMERS = "no model of transformers|transformers is not installed"
NOISE = [1.0, 1.01, 0.99, 1.02, 0.98, 1.005, 0.995, 1.0]


def entry(plan, peak_bytes, step_s=None, predicted_s=None):
    """What ran; its steps have noise of their own, but for none of one that was not timed."""
    steps = [] if step_s is None else [step_s * (1 + (n - 1) / 10) for n in NOISE]
    return store.Entry(
        plan=plan,
        peak_allocated_bytes=peak_bytes,
        predicted_peak_bytes=None if predicted_s is None else peak_bytes,
        predicted_step_s=predicted_s,
        step_s=steps,
    )


ENTRIES = [
    entry("0 1", 2000, 1.0, 1.0),
    entry("0:keep(1) [1]", 990, 1.4, 1.2),  # auto's
    entry("[0] [1]", 950, 1.3, 1.3),
    entry("torch_checkpoint", 960, 1.5),
    entry("[0 1]", 1500, None, 1.6),
    entry("0:core [1]", 980, 1.4, 1.2),
]


LONGER = msgspec.structs.replace(ENTRIES[1], step_s=[1.0] * 9)


def contender(spec, place=None, **fields):
    return store.Contender(spec=spec, entry=place, **fields)


OTHERS = [
    contender("optimal(budget='1000')", 2),
    contender("selective_ops(budget='1000')", 1),
    contender("every_k(k=2)", 4),
    contender("torch_checkpoint", 3),
    contender("sqrt", 5),
    contender(
        "transformers_checkpoint",
        reason="transformers_checkpoint: Own is no model of transformers\nmore",
    ),
]


def contest_of(model="a|b", entries=ENTRIES, others=OTHERS, ours=1, **fields):
    """One contest within one budget."""
    found = {
        "plain_peak_bytes": 2000,
        "smallest_bytes": 900,
        "entries": entries,
        "none_again_step_s": [*NOISE],
        "budgets": [
            store.Budget(
                budget_bytes=1000, ours=contender("auto(budget='1000')", ours), others=others
            )
        ],
        "rounds": ROUNDS,
    }
    return store.Contest(**STORED | found | {"model": model} | fields)


# Verdicts.


def test_every_way_to_end():
    ended = {bout.name: bout for bout in bouts(contest_of())}
    assert {name: bout.outcome for name, bout in ended.items()} == {
        "optimal": Outcome.slower,
        "selective_ops": Outcome.same,
        "every_k": Outcome.over,
        "torch_checkpoint": Outcome.faster,
        "sqrt": Outcome.even,
        "transformers_checkpoint": Outcome.refused,
    }
    assert ended["optimal"].ratio.estimate == pytest.approx(1.4 / 1.3)
    assert ended["torch_checkpoint"].ratio.high < 1
    assert ended["every_k"].ratio is None


def test_without_a_plan_auto_meets_nobody():
    alone = contest_of(ours=None)
    assert met(alone.entries, alone.budgets[0], compiled=False) == []
    assert {bout.outcome for bout in bouts(alone)} == {Outcome.absent}


def test_who_rests_on_a_disk_meets_auto_that_may():
    entries = [
        *ENTRIES,
        entry("[0]@disk [1]", 900, 1.2, 1.2),
        entry("[0 1]@disk", 1010, 1.1, 1.2),
    ]
    others = [*OTHERS[:1], contender("hybrid(budget='1000')", 6)]
    told = contender("auto(budget='1000', disk=True)", 6)
    budget = store.Budget(
        budget_bytes=1000, ours=contender("auto(budget='1000')", 1), others=others, with_disk=told
    )
    held = contest_of(entries=entries, budgets=[budget])
    ended = {bout.name: (bout.own.spec, bout.outcome) for bout in bouts(held)}
    assert ended == {
        "optimal": ("auto(budget='1000')", Outcome.slower),
        "hybrid": ("auto(budget='1000', disk=True)", Outcome.same),
    }
    assert store.decode(store.encode(held)) == held
    alone = contest_of(entries=entries, others=others)
    assert [(bout.own.spec, bout.outcome) for bout in bouts(alone)][1] == (
        "auto(budget='1000')",
        Outcome.slower,
    )
    assert [report.DISK_NOTE in report.markdown([one]) for one in (held, alone)] == [True, False]
    over = contest_of(
        entries=entries, budgets=[msgspec.structs.replace(budget, with_disk=contender("auto", 7))]
    )
    assert failures(over) == 1
    assert lines_of(report.markdown([over]), "Without a plan, or over the budget") == [
        "a\\|b within 0.50×: `auto`'s peak is 1.00 % above"
    ]
    gone = msgspec.structs.replace(budget, with_disk=contender("auto", 8))
    with pytest.raises(ValueError, match="has no entry"):
        store.decode(store.encode(contest_of(entries=entries, budgets=[gone])))


def test_a_compiler_that_needs_more_counts_if_it_is_the_next():
    """It keeps no budget of the peak; `auto` is held against what needs no less than it.

    What is as near as solvers are counts as one.
    """
    specs = (
        "memory_budget(fraction=1.0)",
        "memory_budget(fraction=0.5)",
        "memory_budget(fraction=0)",
    )
    peaks = (1900, 1200, 900)
    entries = [*ENTRIES[:2], *(entry(s, peak, 1.0) for s, peak in zip(specs, peaks, strict=True))]
    others = [contender(spec, 2 + place) for place, spec in enumerate(specs)]
    held = contest_of(entries=entries, others=others, compiled=True)
    assert [bout.outcome for bout in bouts(held)] == [
        "needs more than the budget",
        "slower",
        "slower",
    ]
    close = (1213, 1200, 1212)
    near = [*entries[:2], *(entry(s, peak, 1.0) for s, peak in zip(specs, close, strict=True))]
    held_near = contest_of(entries=near, others=others, compiled=True)
    assert [bout.outcome for bout in bouts(held_near)] == [
        "needs more than the budget",
        "slower",
        "slower",
    ]
    eager = msgspec.structs.replace(held, compiled=False)
    assert [bout.outcome for bout in bouts(eager)] == [
        *2 * ["needs more than the budget"],
        "slower",
    ]
    [_, above, _] = bouts(held)
    assert above.name == "memory_budget(fraction=0.5)"
    assert cause(above).startswith("it needs 1.20× the budget; ")


def test_of_who_left_early_the_rounds_of_both_are_paired():
    early = msgspec.structs.replace(ENTRIES[3], step_s=ENTRIES[3].step_s[:6])
    held = contest_of(entries=[*ENTRIES[:3], early, *ENTRIES[4:]])
    ratios = {bout.name: bout.ratio for bout in bouts(held)}
    assert ratios["torch_checkpoint"].rounds == 6
    assert ratios["optimal"].rounds == ROUNDS


# Causes.


def lost(ours, theirs):
    """A bout of these two, which `auto` lost."""
    [bout] = bouts(contest_of(entries=[ENTRIES[0], ours, theirs], others=[contender("sqrt", 2)]))
    assert bout.outcome is Outcome.slower
    return cause(bout)


def test_the_cause_is_whose_step_is_farther_from_its_prediction():
    chosen = lost(entry("0:keep(1) 1", 990, 1.5, 1.2), entry("[0] 1", 990, 1.3, 1.3))
    assert chosen == (
        "`auto` was predicted 1.20× `none` and took 1.50×; `sqrt` was predicted 1.30× `none` and"
        " took 1.30×; `auto`'s plan takes longer than its profile says, operators chosen from"
        " Python"
    )
    groups = lost(entry("[0] 1", 990, 1.5, 1.2), entry("0 [1]", 990, 1.3, 1.3))
    assert groups.endswith("; `auto`'s plan takes longer than its profile says")
    lean = lost(entry("[0] 1", 990, 1.3, 1.3), entry("0 [1]", 990, 1.1, 1.4))
    assert lean.endswith("; the other's plan takes less than the profile says")
    known = lost(entry("[0] 1", 990, 1.5, 1.5), entry("0 [1]", 990, 1.3, 1.3))
    assert known.endswith("; the profile foresees it")


def test_of_a_peer_nothing_is_predicted():
    dear = lost(entry("[0] 1", 990, 1.5, 1.2), entry("sqrt", 990, 1.3))
    assert "; `sqrt` took 1.30×, and nothing is predicted of it; " in dear
    assert dear.endswith("; `auto`'s plan takes longer than its profile says")
    true = lost(entry("[0] 1", 990, 1.5, 1.5), entry("sqrt", 990, 1.3))
    assert true.endswith("the other does what no plan does")


def test_a_compiled_plan_chooses_no_operators():
    text = lost(entry("0:compiled(50) 1", 990, 1.5, 1.2), entry("[0] 1", 990, 1.3, 1.3))
    assert text.endswith("; `auto`'s plan takes longer than its profile says")


# The store and the table.


def test_what_is_stored_is_read_again(tmp_path):
    written = contest_of()
    path = store.write(written, tmp_path)
    assert path == tmp_path / "contests" / "abacus" / "a-b.json"
    assert list(store.read_all(tmp_path)) == [written]
    other = contest_of(compiled=True, accumulation=True, device="cuda")
    assert store.path_of(other, tmp_path).name == "a-b-compiled-accumulation-cuda.json"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"rounds": 6}, "none is timed in all 6 rounds"),
        ({"none_again_step_s": []}, "none is timed in all 8 rounds"),
        ({"entries": [*ENTRIES, LONGER]}, "in more than 8 rounds"),
        ({"entries": []}, "has entries"),
        ({"ours": 6}, "has no entry"),
    ],
)
def test_a_contest_that_makes_no_sense_is_refused(changes, reason):
    with pytest.raises(ValueError, match=reason):
        store.decode(store.encode(contest_of(**changes)))


def test_only_an_answer_to_the_same_question_is_taken(tmp_path):
    written = contest_of()
    store.write(written, tmp_path)
    assert store.stored(written, tmp_path) == written
    assert store.stored(msgspec.structs.replace(written, key="abd"), tmp_path) is None
    store.write(contest_of(problem="crash", entries=[], budgets=[]), tmp_path)
    assert store.stored(written, tmp_path) is None


def lines_of(text, title):
    """Of a list under a title."""
    return re.findall(
        r"^- (.*)$", text.partition(f"## {title}\n")[2].partition("\n## ")[0], re.MULTILINE
    )


def test_the_table():
    broken = contest_of("c", entries=[*ENTRIES[:1], entry("0 [1]", 1010, 1.4, 1.2), *ENTRIES[2:]])
    silent = contest_of("d", problem="timeout: too long", entries=[], budgets=[])
    text = report.markdown([contest_of(), broken, contest_of("e", ours=None), silent])
    [line] = re.findall(r"^\| a\\\|b .*", text, re.MULTILINE)
    assert [part.strip() for part in line.strip("|").split(" | ")] == [
        *("a\\|b", "one batch", "0.50×", "99.0 %", "1.40×"),
        *("**1.08× [1.08, 1.08]**", "same plan", "over", "0.93× [0.93, 0.93]"),
        *("1.00× [1.00, 1.00]", "—"),
    ]
    assert (
        "Of 8 comparisons `auto` is faster in 2, runs the same plan in 2, is as fast within noise"
        " in 2, and is slower in 2."
    ) in text
    losses = lines_of(text, "Losses")
    assert losses[0].startswith(
        "a\\|b within 0.50×, against `optimal`: 1.077× [1.077, 1.077]: `auto`"
    )
    assert lines_of(text, "Without a plan, or over the budget") == [
        "c within 0.50×: `auto`'s peak is 1.00 % above",
        "e within 0.50×: —",
    ]
    where = "a\\|b, c, e"
    assert lines_of(text, "Cannot run") == [
        f"`transformers_checkpoint` on {where}: Own is no model of transformers"
    ]
    assert lines_of(text, "Not held") == ["d: timeout: too long"]
    assert lines_of(text, "How far equal ones are apart")[0].endswith(
        "passed; 8 rounds, in which other processes took — of the processors; its peak is 2.0 kB"
    )
    assert len(report.csv([contest_of()]).splitlines()) == 1 + len(OTHERS)


def test_equal_ones_that_are_apart_are_told():
    apart = contest_of(none_again_step_s=[1.2 * n for n in NOISE], compiled_again_count=3)
    [line] = lines_of(report.markdown([apart]), "How far equal ones are apart")
    assert "**failed**" in line
    assert line.endswith("**3 graphs were compiled in timed rounds**")


def test_compiled_contests_have_a_line_a_bout():
    specs = ("memory_budget(fraction=1.0)", "memory_budget(fraction=0.5)")
    entries = [*ENTRIES[:2], entry(specs[0], 1900, 1.0), entry(specs[1], 1000, 1.4)]
    others = [contender(spec, 2 + place) for place, spec in enumerate(specs)]
    text = report.markdown([contest_of(entries=entries, others=others, compiled=True)])
    [line] = re.findall(r"^\| a\\\|b .*", text, re.MULTILINE)
    assert [part.strip() for part in line.strip("|").split(" | ")] == [
        *("a\\|b", "one batch", "0.50×", "99.0 %"),
        *("`memory_budget(fraction=0.5)`", "100.0 %", "1.00× [1.00, 1.00]"),
    ]


def test_table_and_figure_are_made_from_what_is_stored(tmp_path):
    store.write(contest_of(), tmp_path)
    regenerate(tmp_path, None)
    assert {p.name for p in (tmp_path / "tables").iterdir()} == {"contests.md", "contests.csv"}
    assert {p.name for p in (tmp_path / "figures").iterdir()} == {"contests.svg", "contests.png"}
    assert regenerate(tmp_path, None, check=True) == []


def test_the_figure_has_a_panel_for_each_kind_of_contest():
    kinds = [{"compiled": True}, {"accumulation": True}, {}, {"model": "c"}, {"device": "cuda"}]
    panels = contest_figure.figure([contest_of(**kind) for kind in kinds]).axes
    titles = [axes.get_title(loc="left").splitlines()[-1] for axes in panels]
    assert titles[0].endswith("; one batch")
    assert titles[1:] == ["two batches added up", "one batch, compiled"]
    columns = [[tick.get_text() for tick in axes.get_xticklabels()] for axes in panels]
    assert columns == [["a|b", "c", "a|b (cuda)"], ["a|b"], ["a|b"]]
    [legend] = panels[0].figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert len(names) == len(set(names))


def test_results_readme_documents_every_field_in_order():
    text = (ROOT / "results" / "README.md").read_text("utf-8")
    section = text.partition("## One contest")[2].partition("\n## ")[0]
    names = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    kinds = (store.Contest, store.Budget, store.Contender, store.Entry)
    assert names == [name for kind in kinds for name in kind.__struct_fields__]


# The contest itself.


class Layers(nn.Module):
    """Blocks wide enough for kernels, not Python, to take most of the time."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32)) for _ in range(6)
        )

    def forward(self, x):
        for block in self.blocks:
            x = x + block(x)
        return x.square().mean()


@pytest.fixture
def layers(monkeypatch):
    built = Architecture("torch", lambda: (Layers(), (torch.randn(256, 32),)))
    monkeypatch.setitem(architectures.CATALOGUE, "layers", built)
    return "layers"


def test_a_contest(layers):
    held = contest.contest(Question(layers, budgets=2, rounds=2, interval_width=None))
    assert held.problem == ""
    assert held.entries[store.NONE].plan == "0 1 2 3 4 5"
    assert held.rounds == len(held.none_again_step_s) == 2
    assert held.budgets[0].budget_bytes == held.smallest_bytes
    ours = [held.entries[budget.ours.entry] for budget in held.budgets]
    for budget, one in zip(held.budgets, ours, strict=True):
        assert one.peak_allocated_bytes <= budget.budget_bytes
        assert len(one.step_s) == 2
        timed = met(held.entries, budget, compiled=False)
        assert all(held.entries[other.entry].step_s for other in timed)
        assert all(held.entries[o.entry].peak_allocated_bytes <= budget.budget_bytes for o in timed)
        refused = {other.spec: other.reason for other in budget.others if other.entry is None}
        assert re.search(NO_TRANSFORMERS, refused["transformers_checkpoint"])
    plans = [one.plan for one in held.entries]
    assert len(plans) == len(set(plans))
    assert len({id(one) for one in held.entries}) > 3
    specs = [other.spec.partition("(")[0] for other in held.budgets[0].others]
    assert specs == [*entrants.WITH_BUDGET, "every_k", *entrants.RULES]


def test_weights_are_what_they_were(layers):
    ring = Ring(Question(layers))
    model = ring.corner.step.model
    before = [parameter.detach().clone() for parameter in model.parameters()]
    ring.enter(strategies.get("every_layer"))
    assert all(map(torch.equal, before, model.parameters()))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_every_k_is_the_fastest_that_fits(layers):
    ring = Ring(Question(layers))
    peaks = {k: ring.entries[ring.enter(strategies.get("every_k", k=k)).entry] for k in (2, 3, 6)}
    room = max(one.predicted_peak_bytes for one in peaks.values())
    within = [one for one in peaks.values() if one.predicted_peak_bytes <= room]
    chosen = ring.entries[ring.enter(entrants.every_k(ring.chain, room)).entry]
    assert chosen.predicted_step_s <= min(one.predicted_step_s for one in within)
    leanest = entrants.every_k(ring.chain, 1)
    assert ring.entries[ring.enter(leanest).entry].predicted_peak_bytes == min(
        one.predicted_peak_bytes for one in peaks.values()
    )


@functools.cache
def shared_ring():
    """One for all who only need some ring, and what it tells."""
    told = []
    return Ring(Question("layers"), told.append), told


@pytest.fixture
def ring(layers):
    found, told = shared_ring()
    told.clear()
    return found


def test_who_fails_is_told(ring, monkeypatch):
    def broken(prepared):
        raise RuntimeError("abacus\nmore")

    monkeypatch.setattr(ring.corner, "peak_bytes", broken)
    assert ring.enter(strategies.get("sqrt")).reason == "RuntimeError: abacus"


def test_who_does_not_end_is_told(ring, monkeypatch):
    def endless(prepared):
        try:
            while True:
                pass
        except TimeoutError as error:
            raise RuntimeError("what a compiler makes of it") from error

    monkeypatch.setattr(ring.corner, "peak_bytes", endless)
    monkeypatch.setattr(rings, "ENTRANT_LIMIT_S", 0.01)
    reason = "TimeoutError: no end within 0.01 s"
    assert ring.enter(strategies.get("every_k", k=2)).reason == reason
    assert shared_ring()[1] == [f"every_k(k=2): {reason}"]


def test_what_is_entered_is_told(ring):
    entry = ring.entries[ring.enter(strategies.get("every_layer")).entry]
    assert shared_ring()[1] == [f"every_layer: {entry.peak_allocated_bytes:,} bytes"]


def test_a_kernel_that_was_left_unfinished_is_made_again(ring, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    inside, outside = tmp_path / "cache" / "a.so", tmp_path / "b.so"
    inside.parent.mkdir()
    measured = []

    def broken(prepared):
        measured.append(prepared)
        if not path.exists():
            return 7
        raise RuntimeError(f"InductorError: ImportError: {path}: file too short\nmore")

    monkeypatch.setattr(ring.corner, "peak_bytes", broken)
    monkeypatch.setattr(ring, "_places", {})  # what was entered before may run the same
    for path in (inside, outside):
        path.touch()
    path = inside
    entry = ring.enter(strategies.get("every_k", k=3)).entry
    assert ring.entries[entry].peak_allocated_bytes == 7
    assert not inside.exists()
    path = outside
    ring._places.clear()
    assert "file too short" in ring.enter(strategies.get("every_k", k=4)).reason
    assert outside.exists()
    assert len(measured) == 3


def test_what_is_done_is_told_on_the_way(capsys):
    with followed() as progress:
        Path(progress).write_text("one\ntwo\n", "utf-8")
    assert capsys.readouterr().err == "one\ntwo\n"
    assert not Path(progress).exists()


def test_a_question_has_a_key_of_its_own():
    keys = {
        contest.blank(Question(model, budgets=budgets)).key
        for model in ("U-Net", "vit-mini")
        for budgets in (1, 2)
    }
    assert len(keys) == 4
    assert contest.blank(Question("U-Net")).key == contest.blank(Question("U-Net")).key


@pytest.mark.long
def test_the_command_resumes(tmp_path):
    results = str(tmp_path / "results")
    arguments = ["--only", "U-Net", "--kind", "eager", "--budgets", "1", "--device", "cpu"]
    rounds = ["--rounds", "2", "--limit", "1", "--results", results]
    done = command.run("contest", *arguments, *rounds)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (tmp_path / "results" / "tables" / "contests.md").read_text("utf-8")
    assert re.match(r"U-Net, \d+ s: profiled\nU-Net, \d+ s: auto\(budget=", done.stderr)
    again = command.run("contest", *arguments, *rounds)
    assert again.stderr == "U-Net: stored already\n"
    assert again.stdout == done.stdout


def test_kernels_that_others_have_compiled_are_not_run(layers, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    folders = []

    class Refusing(Ring):
        def __init__(self, *_):
            folders.append(Path(cache_dir()))
            raise Unsupported("seen enough")

    monkeypatch.setattr(contest, "CompiledRing", Refusing)
    monkeypatch.setattr(contest, "Ring", Refusing)
    for question in (Question(layers), *[Question(layers, compiled=True)] * 2):
        assert contest.contest(question).problem == "seen enough"
    eager, compiled, again = folders
    assert eager == Path(cache_dir()) == tmp_path
    assert compiled == again  # which takes it up
    assert tmp_path in compiled.parents


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_compiled_blocks_meet_the_compiler(layers):
    question = Question(
        layers, budgets=1, compiled=True, fractions=(0.5,), rounds=2, interval_width=None
    )
    held = contest.contest(question)
    assert held.problem == ""
    assert held.compiled_again_count == 0
    others = held.budgets[0].others
    assert [other.spec for other in others] == [
        one.spec() for one in entrants.compilers(question.fractions)
    ]
    assert all(other.entry is not None for other in others)
    peaks = {held.entries[other.entry].peak_allocated_bytes for other in others}
    assert max(peaks) <= max(b.budget_bytes for b in held.budgets) * 1.01


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--only", "gpt5"], "no model 'gpt5'"),
        (["--budgets", "11"], "from 1 to 10 budgets, not 11"),
        (["--rounds", "3"], "an even number of rounds, at least 2, not 3"),
        (["--limit", "0"], "--limit takes more than 0 seconds, not 0"),
        (["--fraction", "2"], "--fraction takes 0 to 1, not 2"),
        (["--precision", "fp16"], "--precision takes a percentage such as 2%, not 'fp16'"),
        (["--precision", "0%"], "--precision takes more than 0 % and at most 100 %, not 0%"),
        (["--device", "abacus"], "no device 'abacus'"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, reason, tmp_path):
    done = command.run("contest", *arguments, "--results", str(tmp_path / "results"))
    assert done.returncode == 2
    assert reason in done.stderr
    assert not (tmp_path / "results").exists()
