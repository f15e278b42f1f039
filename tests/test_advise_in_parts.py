"""``advise``, part by part: whom it asks, what it makes of answers, why a remedy cannot help."""

import types

import msgspec
import pytest
import tiny
import torch
from test_report_factory import make

from bench.advise import api, candidates, findings, remedies, shared, words
from bench.advise.candidates import Modelled
from bench.advise.facts import Candidate, Largest, PeakOf
from bench.advise.findings import Findings, Question
from bench.advise.shared_facts import Smaller
from bench.run import endings, executor
from strategies import Unsupported

SIM = "sim:h100-80gb"
PEAK = PeakOf(9, "backward", "h.1", "mm", {"parameters": 9}, {}, 3, "It can be lowered.")


def candidate(spec, peak_bytes=10, status="ok", ratio=None, recompute=0.0):
    reason = None if status == "ok" else f"{spec}: it says why"
    return Candidate(spec, status, reason, None, peak_bytes, peak_bytes, recompute, ratio)


def adviser(device=SIM, **options):
    cell = tiny.cell("mlp-chain", "none", options, device=device)
    return api._Adviser(cell, cell.make_workload())


# Whom it asks.


def test_a_share_is_of_what_the_step_takes_as_it_is(monkeypatch):
    one = adviser()
    memory_bytes = api.memory_bytes_of(one.cell)
    asked = []
    monkeypatch.setattr(one, "ask", lambda work, question: asked.append(work) or b"1000")
    assert one.room("50%") == (500, "a budget of 50%")
    assert asked == [findings.plain_bytes]
    assert one.room("8KB") == (8000, "a budget of 8KB")
    assert one.room("8TB") == (memory_bytes, "a budget of 8TB")
    assert one.room(None) == (memory_bytes, "the device's memory")


def test_the_step_as_it_is_is_simulated():
    one = adviser()
    peak_bytes = findings.Workbench(one.cell, 1).simulate("none").trace
    asked = msgspec.json.encode(Question(cell=one.cell, room_bytes=1))
    assert int(findings.plain_bytes(asked)) == findings.peak_bytes_of(peak_bytes)


def test_memory_is_what_is_free_of_a_cpu_and_all_of_an_accelerator(monkeypatch):
    free = types.SimpleNamespace(available=7)
    monkeypatch.setattr(api.psutil, "virtual_memory", lambda: free)
    assert api.memory_bytes_of(adviser("cpu").cell) == 7
    module = types.SimpleNamespace(
        get_device_properties=lambda index: types.SimpleNamespace(total_memory=11 + index)
    )
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    here = types.SimpleNamespace(simulated=False, device="cuda")
    assert api.memory_bytes_of(here) == 11


def test_a_model_that_ends_its_process_cannot_be_looked_at(monkeypatch):
    answers = [b"yes", endings.Ending("crash", "signal SIGSEGV")]
    monkeypatch.setattr(executor, "in_process", lambda *given: answers.pop(0))
    one = adviser()
    question = Question(cell=one.cell, room_bytes=1)
    assert one.ask(findings.find, question) == b"yes"
    with pytest.raises(ValueError, match="mlp-chain cannot be looked at: signal SIGSEGV"):
        one.ask(findings.find, question)


def test_what_is_here_is_measured_and_the_rest_modelled(monkeypatch):
    one = adviser("cpu")
    modelled = Findings(candidates=(), base="", peak=PEAK, remedies=())
    questions = []

    def ask(work, question):
        questions.append(question)
        return msgspec.json.encode(modelled)

    monkeypatch.setattr(one, "ask", ask)
    monkeypatch.setattr(
        executor, "run", lambda cell, _: make(cell.spec, peak_allocated_bytes=len(cell.spec))
    )
    found = one.findings(Question(cell=one.cell, room_bytes=4, specs=("sqrt", "every_layer")))
    ended = [(c.spec, c.status, c.peak_allocated_bytes) for c in found.candidates]
    assert ended == [("none", "ok", 4), ("sqrt", "ok", 4), ("every_layer", "oom", 11)]
    assert found.candidates[-1].reason == "needs 11 bytes of 4"
    assert found.peak == PEAK
    [question] = questions
    assert (question.specs, question.base) == ((), "none")


def test_sizes_are_searched_with_the_rule_that_was_chosen(monkeypatch):
    one = adviser()
    some = (candidate("none", status="oom"), candidate("sqrt", ratio=1.1))
    found = Findings(candidates=some, base="sqrt", peak=PEAK, remedies=())
    searched = []

    def ask(work, question):
        if work is findings.find:
            return msgspec.json.encode(found)
        searched.append(question.specs)
        sizes = [
            Largest(axis=a, spec=s, now=8, value=16) for s in question.specs for a in question.axes
        ]
        return msgspec.json.encode(sizes)

    monkeypatch.setattr(one, "ask", ask)
    advice = one.advice("8KB", ("sqrt",), sizes=True)
    assert sorted(searched) == [("none", "every_layer"), ("sqrt",)]
    assert {one.spec for one in advice.largest} == {"none", "every_layer", "sqrt"}
    assert advice.chosen == "sqrt"
    assert one.advice("8KB", ("sqrt",), sizes=False).largest == ()


@pytest.mark.parametrize(
    ("spec", "rule"),
    [("sqrt", ["sqrt"]), ("every_layer", []), ("optimal(budget='8')", []), ("none", [])],
)
def test_a_plan_within_a_budget_is_no_rule(spec, rule):
    assert api._rule([candidate(spec)]) == rule
    assert api._rule([candidate("sqrt", status="oom")]) == []


def test_the_largest_size_that_was_found(monkeypatch):
    one = adviser().cell
    answers = {
        "none": lambda cell: msgspec.structs.replace(cell, options=cell.options | {"batch": 64}),
        "sqrt": lambda cell: None,
    }

    def largest(cell, axis, room_bytes, steps):
        if cell.spec not in answers:
            raise Unsupported("no")
        return answers[cell.spec](cell)

    monkeypatch.setattr(findings, "largest", largest)
    specs = ("none", "sqrt", "every_layer")
    asked = Question(cell=one, room_bytes=1, specs=specs, axes=("batch",))
    found = msgspec.json.decode(findings.size(msgspec.json.encode(asked)), type=list[Largest])
    assert [(x.spec, x.now, x.value) for x in found] == [
        ("none", 8, 64), ("sqrt", 8, 0), ("every_layer", 8, 0)
    ]  # fmt: skip
    assert words._size(found[0]) == ("batch", "none", "8", "64")
    assert words._size(found[1]) == ("batch", "sqrt", "8", "none fits")


# Candidates.


def bench_of(simulate, missing_bytes=7):
    """A workbench with room for 100 bytes."""
    return types.SimpleNamespace(
        simulate=simulate,
        room_bytes=100,
        memory_bytes=200,
        workspaces=lambda trace: [10],
        missing_bytes=lambda trace: missing_bytes,
    )


def test_budgets_shrink_by_what_is_missing_until_one_fits(monkeypatch):
    specs = []

    def simulate(spec):
        specs.append(spec)
        return types.SimpleNamespace(trace=None)

    fits = {2: "ok"}
    monkeypatch.setattr(
        Modelled,
        "_candidate",
        lambda self, spec, _: candidate(spec, status=fits.get(len(specs), "oom")),
    )
    modelled = Modelled(bench_of(simulate), types.SimpleNamespace(trace=None))
    assert modelled.within("optimal").fits
    assert specs == ["optimal(budget='100')", "optimal(budget='93')"]
    fits.clear()
    specs.clear()
    assert not modelled.within("optimal").fits
    assert len(specs) == candidates.ATTEMPTS


def test_a_strategy_that_cannot_run_is_a_row_with_its_reason(monkeypatch):
    def simulate(spec):
        raise Unsupported("optimal: no blocks")

    modelled = Modelled(bench_of(simulate), types.SimpleNamespace(trace=None))
    expected = ("unsupported", "optimal: no blocks")
    for found in (modelled.candidate("optimal"), modelled.within("optimal")):
        assert (found.status, found.reason) == expected


def test_of_what_was_not_timed_recomputation_decides():
    some = [candidate("none", status="oom"), candidate("sqrt", recompute=0.9)]
    some += [candidate("every_k", recompute=0.6)]
    assert candidates.fastest(some).spec == "every_k"
    assert candidates.fastest(some[:1]) is None


class Cluster(shared.Rank):
    """Answers by specification, and by number for budgets."""

    def candidate(self, spec, plain=None):
        answer = self.cell[spec] if spec in self.cell else self.cell["others"].pop(0)
        if isinstance(answer, Exception):
            raise answer
        return shared.RankCandidate(**vars(candidate(spec, peak_bytes=answer,
            status="ok" if answer <= self.room_bytes else "oom")))  # fmt: skip


def test_a_rank_that_does_not_fit_is_given_a_budget():
    refused = Unsupported("sqrt: no blocks")
    answers = {"none": 150, "sqrt": refused, "others": [130, 90]}
    found = list(Cluster(answers, 100).candidates(("sqrt",)))
    assert [(one.spec, one.status) for one in found] == [
        ("none", "oom"),
        ("sqrt", "unsupported"),
        ("optimal(budget='70')", "ok"),  # 30 bytes less than the first, which took 30 too many
    ]
    answers["others"] = [130, refused]
    assert list(Cluster(answers, 100).candidates(()))[-1].status == "oom"
    answers["others"] = [refused]
    assert list(Cluster(answers, 100).candidates(()))[-1].status == "unsupported"


def test_there_is_no_cluster_of_one():
    assert shared._smaller(None, 1, 100) is None


# Remedies.


def base_of(trace=None, **step):
    """A step that remedies would be tried on."""
    fields = {"update_rule": None, "scaler": None, "masters": None, "optimizer": "none"}
    fields |= {"precision": "fp32", "optimizer_tensors": list, "model": torch.nn.Linear(1, 1)}
    bench = types.SimpleNamespace(
        step=types.SimpleNamespace(**fields | step), cell=types.SimpleNamespace(precision="fp32")
    )
    return types.SimpleNamespace(bench=bench, trace=trace, spec="none")


def why(remedy):
    assert not remedy.helps
    assert not remedy.fits
    return remedy.how


def test_remedies_that_cannot_help_say_why():
    state = [torch.zeros(3)]
    assert why(remedies._released(base_of())) == "it needs an optimizer, and none is named"
    scaled = base_of(update_rule=1, scaler=1, precision="fp16-autocast")
    assert why(remedies._released(scaled)) == "fp16-autocast needs all gradients together"
    assert why(remedies._fused(base_of())) == "there is no optimizer"
    assert why(remedies._eight_bits(base_of())) == "there is no state of an optimizer"
    small = base_of(optimizer="adamw-8bit", optimizer_tensors=lambda: state)
    assert why(remedies._eight_bits(small)) == "the optimizer is adamw-8bit with fp32"
    nothing = types.SimpleNamespace(lives=[])
    said = "no loss over classes is seen after the last block"
    assert why(remedies._chunked(base_of(nothing))) == said
    half = base_of(model=torch.nn.Linear(1, 1, dtype=torch.bfloat16))
    assert [why(one) for one in remedies._in_half(half)] == [
        "the model computes in half precision already"
    ]


def test_what_cannot_compute_in_half_says_so():
    def varied(precision):
        def simulate(spec):
            raise Unsupported(f"not in {precision}")

        return types.SimpleNamespace(simulate=simulate)

    base = base_of()
    base.bench.varied = varied
    assert [why(one) for one in remedies._in_half(base)] == ["not in bf16", "not in bf16-autocast"]


@pytest.mark.parametrize("fused", [False, True])
def test_flash_attention_that_cannot_be_had(fused):
    def simulate(spec):
        raise Unsupported("flash_checkpoint: no attention that can be switched")

    name = remedies.FUSED if fused else "mm"
    trace = types.SimpleNamespace(work=[types.SimpleNamespace(name=name)])
    base = base_of(trace)
    base.bench.simulate = simulate
    reason = remedies.ALREADY if fused else "no attention that can be switched"
    assert why(remedies._flash(base)) == reason


# Words.


def advice_on(*some):
    found = Findings(candidates=some, base="none", peak=PEAK, remedies=())
    one = adviser()
    return one.put_together(found, one.setting(100, "a budget"), [])


def test_the_verdict_says_what_is_needed():
    plain, over = candidate("none"), candidate("none", status="oom")
    refused = candidate("selective", status="unsupported")
    assert "None is needed: without one the step is fastest." in advice_on(plain).markdown()
    assert "selective: unsupported: it says why." in advice_on(plain, refused).markdown()
    assert "None of these makes it fit; what else would help" in advice_on(over).markdown()
    untimed = advice_on(over, candidate("sqrt", 1000, recompute=0.5)).markdown()
    assert "Its peak is 1.0 kB (1,000 bytes), untimed, 50.0 % of a forward" in untimed
    assert "Most of the saved tensors were made by" not in untimed


def cluster_advice(*some, smaller=None):
    ranked = tuple(shared.RankCandidate(**vars(one), step_s=2.0, waiting_s=0.5) for one in some)
    chosen = candidates.fastest(ranked)
    one = adviser()
    return shared.SharedAdvice(
        setting=one.setting(100, "a budget"),
        ranks=4,
        parallel="fsdp2",
        candidates=ranked,
        chosen=chosen and chosen.spec,
        line="",
        command="python -m bench run",
        smaller=smaller,
    )


def test_the_verdict_on_a_cluster_says_what_is_needed():
    plain, over = candidate("none"), candidate("none", status="oom")
    fits = cluster_advice(plain).markdown()
    assert "None is needed: without one the step is fastest." in fits
    assert "sends, in a step" not in fits
    smaller = Smaller(2, "every_layer", 3_000_000)
    nothing = cluster_advice(over, smaller=smaller).markdown()
    assert "None of these makes it fit; more ranks divide what the model is." in nothing
    assert "on 2 ranks each would hold 3.0 MB under every_layer." in nothing
    assert "python -m bench run" not in nothing
    sqrt = candidate("sqrt", 1_000_000, ratio=1.25, recompute=0.5)
    text = cluster_advice(over, sqrt).markdown()
    assert "sqrt: the fastest that fits. Each rank holds 1.0 MB of" in text
    assert "a step takes 2 s (1.25" in text
    assert "50.0 % of a forward is computed again." in text
