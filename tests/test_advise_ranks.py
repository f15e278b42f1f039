"""``advise --ranks``: what it promises of a rank is what ``run --ranks`` gives, to the byte."""

import functools
import json
import shlex

import command
import msgspec
import pytest

from bench.advise import shared
from bench.advise.candidates import NONE
from bench.cells.cell import Cell, checked
from bench.devices import accelerators
from bench.ranks.simulated_plan import on_ranks
from bench.ranks.simulated_record import simulate
from bench.store import records

SIZES = {"layers": 6, "dim": 128, "heads": 2, "seq": 256, "batch": 1}
MEMORY_BYTES = accelerators.get("h100-80gb").memory_bytes


def cell(**options):
    return checked(
        Cell(
            workload="gpt-mini",
            options={**SIZES, **options},
            spec=NONE,
            device="sim:h100-80gb",
            optimizer="adamw",
            parallel="fsdp2",
        )
    )


def ran(one, spec):
    return simulate(msgspec.structs.replace(one, spec=spec))


def promised(candidate, record):
    """What it says, and what the record of that run says."""
    names = ("plan", "peak_allocated_bytes", "by_category", "step_s", "waiting_s")
    recorded = (
        *(record.plan, record.peak_allocated_bytes, record.peak_by_category),
        *(record.modelled_step_s, record.modelled_exposed_s, record.communication_bytes),
    )
    said = (*(getattr(candidate, name) for name in names), candidate.communication_bytes)
    return said, recorded


@functools.cache
def small():
    """Two ranks, which hold it as it is."""
    return shared.advise(cell(layers=2), 2, MEMORY_BYTES, "the device's memory", ("every_layer",))


def tight():
    """Four ranks with 2 MiB less than the step takes as it is."""
    plain = ran(on_ranks(cell(layers=4), 4), NONE)
    room_bytes = plain.steady_reserved_bytes - 2 * 2**20
    return shared.advise(cell(layers=4), 4, room_bytes, "a budget", ("every_layer",))


def test_a_rank_that_fits_is_left_as_it_is():
    advice = small()
    assert (advice.fits, advice.chosen, advice.line) == (True, NONE, "")
    assert [one.spec for one in advice.candidates] == [NONE, "every_layer"]
    assert advice.setting.options["batch"] == 2  # one for each rank
    assert "None is needed" in str(advice)


def test_a_promise_is_what_run_gives_to_the_byte():
    record = ran(on_ranks(cell(layers=2), 2), "every_layer")
    said, recorded = promised(small().candidates[1], record)
    assert said == recorded
    assert small().candidates[1].peak_reserved_bytes == record.peak_reserved_bytes


@pytest.mark.long
def test_promises_within_a_budget_are_what_run_gives_to_the_byte():
    """`none`, a strategy, and a plan that was made for the rank's room; pasted, it is run."""
    advice = tight()
    plain, strategy, plan = advice.candidates
    done = command.run(*shlex.split(advice.command)[3:], "--format", "json")
    assert done.returncode == 0, done.stderr
    of_plan = records.decode(done.stdout.encode())
    assert (of_plan.ranks, of_plan.parallel) == (4, "fsdp2")
    one = on_ranks(cell(layers=4), 4)
    for candidate, record in (
        (plain, ran(one, plain.spec)),
        (strategy, ran(one, strategy.spec)),
        (plan, of_plan),
    ):
        said, recorded = promised(candidate, record)
        assert said == recorded
    assert advice.chosen == plan.spec
    assert plan.spec.startswith("optimal(budget=")
    assert plan.peak_reserved_bytes <= advice.setting.room_bytes
    assert not plain.fits
    assert strategy.step_ratio > plan.step_ratio > 1


@pytest.mark.long
def test_the_smallest_cluster_and_why_it_is_no_smaller():
    """A room between what two and four ranks need with every block recomputed."""
    given = cell(dim=256, layers=2)
    four = ran(on_ranks(given, 4), "every_layer").steady_reserved_bytes
    advice = shared.advise(given, None, four, "a budget", ("every_layer",))
    two = ran(on_ranks(given, 2), "every_layer")
    assert advice.ranks == 4
    assert advice.chosen
    assert (advice.smaller.ranks, advice.smaller.spec) == (2, "every_layer")
    assert advice.smaller.reserved_bytes == two.steady_reserved_bytes > four
    assert "No smaller cluster holds it: on 2 ranks" in str(advice)


def test_formats_say_the_same():
    advice = small()
    facts = json.loads(advice.json())
    assert facts["candidates"][0]["peak_allocated_bytes"] == advice.as_it_is.peak_allocated_bytes
    assert (facts["ranks"], facts["chosen"], facts["fits"]) == (2, NONE, True)
    assert advice.markdown().startswith("# gpt-mini on 2 × modelled sim:h100-80gb")
    assert shlex.join(shlex.split(advice.command)) in advice.markdown()
    assert "<pre><code>python -m bench run" in advice._repr_html_()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (("--ranks", "1"), "--ranks takes a number of at least 2, or auto, not '1'"),
        (("--ranks", "4", "--budget", "50%"), "a rank's budget is in bytes"),
        (("--ranks", "4", "--device", "cpu"), "clusters are planned for simulated devices"),
        (("--ranks", "4", "--device", "sim:l4-24gb"), "knows no link between devices"),
    ],
)
def test_bad_input_is_one_sentence(given, sentence):
    done = command.run("advise", "--workload", "gpt-mini", *given)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr
