"""Stored timelines: what is kept of a step, what is refused, and the command that keeps them."""

import re
from pathlib import Path

import command
import msgspec
import pytest
from stored_factory import timeline
from tiny import cell

from bench.store import timelines as store
from bench.studies.timeline import profile_cell
from bench.studies.timeline_stored import COLUMNS, stored

ROOT = Path(__file__).parent.parent


def changed(**changes):
    return msgspec.structs.replace(timeline(), **changes)


def test_what_is_written_is_read(tmp_path):
    store.write(timeline(), tmp_path)
    assert list(store.read_all(tmp_path)) == [timeline()]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"positions": [0.0, 1.0]}, "a count for each of 2 positions"),
        ({"positions": [], "alive_by_category": {"parameters": []}}, "each of 0 positions"),
        ({"positions": [0.0, 2.0, 1.0, 3.0]}, "never fall"),
        ({"allocated_positions": [1.0]}, "as many positions as counts"),
        ({"alive_by_category": {"parameters": [1, 2, -3, 4]}}, "at least zero"),
    ],
)
def test_what_makes_no_sense_is_refused(changes, reason):
    with pytest.raises(ValueError, match=reason):
        store.decode(store.encode(changed(**changes)))


def test_settings_have_names_of_their_own():
    others = ({}, {"spec": "none"}, {"precision": "bf16"}, {"optimizer": "adamw"})
    others += ({"workload_options": {"layers": 3}}, {"device": "sim:x"}, {"machine_id": "m2"})
    assert len({store.path_of(changed(**other)) for other in others}) == len(others)


def test_a_source_with_slashes_is_one_folder():
    path = store.path_of(changed(workload="hf:meta-llama/Llama-3.1-8B"))
    assert path.parent.name == "hf-meta-llama-Llama-3.1-8B"


@pytest.mark.parametrize("device", ["cpu", "sim:h100-80gb"])
def test_what_is_kept_are_moments_of_the_step_with_their_bytes(device):
    one = cell("mlp-chain", "every_layer", device=device)
    whole = profile_cell(one).timeline
    kept = stored(one, whole)
    assert store.decode(store.encode(kept)) == kept
    assert kept.moment_count == len(whole.positions) >= len(kept.positions) > 2
    assert len(kept.positions) <= 2 * COLUMNS + 1
    columns = (range(kept.moment_count), whole.positions)
    at = {round(float(place), 6): index for index, place in zip(*columns, strict=True)}
    for name, counts in kept.alive_by_category.items():
        assert max(counts) > 0
        if device != "cpu":  # events have places of their own, and moments may share one
            assert counts == [whole.series[name][at[place]] for place in kept.positions]
    assert max(map(sum, zip(*kept.alive_by_category.values(), strict=True))) == max(whole.totals)
    assert kept.peak.size_bytes == whole.peak.size_bytes
    assert kept.modelled == (device != "cpu")
    assert [phase.name for phase in kept.phases] == [phase.name for phase in whole.phases]


def test_the_command_keeps_a_timeline_and_draws_nothing(tmp_path):
    done = command.run(
        *("profile", "--workload", "mlp-chain", "--layers", "4", "--batch", "8", "--dim", "8"),
        *("--strategy", "sqrt", "--device", "sim:h100-80gb", "--results", str(tmp_path)),
    )
    assert done.returncode == 0, done.stderr
    [study] = store.read_all(tmp_path)
    assert (study.workload, study.spec, study.device) == ("mlp-chain", "sqrt", "sim:h100-80gb")
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".json"}


def test_results_readme_documents_every_field_in_order():
    text = (ROOT / "results" / "README.md").read_text("utf-8")
    section = text.partition("## One timeline")[2].partition("\n## ")[0]
    names = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    kinds = (store.Study, store.Phase, store.Peak)
    assert names == [name for kind in kinds for name in kind.__struct_fields__]
