"""The suite catches what it is there for: faults planted in executor, interpreter and solvers.

Each is planted in a copy of the source tree, in which tests of the short run must then fail.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
COPIED = ("strategies", "bench", "tests", "conftest.py", "pyproject.toml")
EXECUTION, SCHEDULES, SOLVERS = (
    f"strategies/{name}" for name in ("execution", "schedules", "solvers")
)
PROMISE = "tests/test_contract.py::test_every_promise"
STATISTICS = "tests/test_execute.py::test_any_plan_updates_running_statistics_once"
PREDICTED = "tests/test_chain_profile.py::test_bytes_flops_and_the_peak_are_predicted_exactly"


@dataclasses.dataclass(frozen=True)
class Mutation:
    """A fault.

    Attributes:
        name: what is wrong.
        folder: one file of it holds ``old``, once.
        old: right.
        new: wrong.
        tests: that fail.
    """

    name: str
    folder: str
    old: str
    new: str
    tests: Sequence[str]

    def file(self, root: Path) -> Path:
        """Where the right text is, and nowhere else."""
        holders = [
            path
            for path in sorted((root / self.folder).rglob("*.py"))
            for _ in range(path.read_text().count(self.old))
        ]
        assert len(holders) == 1, f"{self.old!r} is in {[str(path) for path in holders]}"
        return holders[0]


MUTATIONS = (
    Mutation(
        "recompute updates running statistics again",
        EXECUTION,
        "= buffer.clone()",
        "= buffer",
        [f"{PROMISE}[every_layer-norms]", STATISTICS],
    ),
    Mutation(
        "buffers that forward changes go unseen",
        EXECUTION,
        "if tensor._version != self.versions[name]:",
        "if tensor._version < self.versions[name]:",
        ["tests/test_state.py::test_what_comes_late_is_refused_once"],
    ),
    Mutation(
        "no context surrounds a checkpoint",
        EXECUTION,
        "else _NOTHING, self",
        "else _NOTHING, _NOTHING",
        [f"{PROMISE}[every_layer-norms]"],
    ),
    Mutation(
        "an output that was written to since is taken for what it was",
        EXECUTION,
        "reference() is None or version != leaf._version",
        "reference() is None or version > leaf._version",
        ["tests/test_execute.py::test_any_plan_of_a_model_that_draws_writes_and_skips"],
    ),
    Mutation(
        "random numbers drawn between two blocks are not restored",
        EXECUTION,
        "call.drawn.restore()",
        "pass",
        ["tests/test_execute.py::test_any_plan_of_a_model_that_draws_writes_and_skips"],
    ),
    Mutation(
        "what a model computes between two blocks is taken for the group's",
        EXECUTION,
        "self.layers.pop()\n            _autograd._pop_saved_tensors_default_hooks()",
        "self.layers.pop()",
        [f"{PROMISE}[every_k(k=2)-scaled]"],
    ),
    Mutation(
        "training and other attributes are not those of forward",
        EXECUTION,
        "now = self.others()\n        if not (now",
        "now = self.others()[:0]\n        if not (now",
        ["tests/test_state.py::test_what_changes_between_forward_and_backward_is_no_matter"],
    ),
    Mutation(
        "a change in place of what rests in a storage goes unseen",
        "strategies/storage",
        "version_of(tensor) != self.version:",
        "version_of(tensor) < self.version:",
        ["tests/test_storage.py::test_a_change_in_place_is_an_error_as_it_is_without"],
    ),
    Mutation(
        "boundaries are not stored",
        EXECUTION,
        "group.storage.keep(boundary_of(self, args, kwargs))",
        "group.storage.keep(())",
        ["tests/test_storage.py::test_bytes_after_forward"],
    ),
    Mutation(
        "a block that repeats is always taken for the first",
        EXECUTION,
        "scope.count(self) % len(self.positions)",
        "0 * scope.count(self)",
        ["tests/test_execute.py::test_any_plan_of_a_block_that_repeats"],
    ),
    Mutation(
        "evaluation is checkpointed",
        EXECUTION,
        "if not torch.is_grad_enabled():\n        return function",
        "if torch.is_grad_enabled() is None:\n        return function",
        [f"{PROMISE}[every_layer-loop]"],
    ),
    Mutation(
        "a block does not run again to its end where its last operator wants it",
        EXECUTION,
        ".early_stop = False",
        ".early_stop = True",
        ["tests/test_examined.py::test_room_that_the_last_operator_fills_is_full_by_backward"],
    ),
    Mutation(
        "policies keep what they should drop",
        EXECUTION,
        "CheckpointPolicy.MUST_SAVE if kept",
        "CheckpointPolicy.MUST_SAVE if not kept",
        ["tests/test_policies.py::test_what_is_kept_is_alive_after_forward"],
    ),
    Mutation(
        "random operators run again after one that is kept",
        EXECUTION,
        "self.random_kept |= random and chosen",
        "self.random_kept |= random and not chosen and chosen",
        ["tests/test_policies.py::test_random_operators_run_again_in_order_or_not_at_all"],
    ),
    Mutation(
        "attention is not recomputed",
        EXECUTION,
        "return recompute(func, None, args, kwargs or {})",
        "return func(*args, **(kwargs or {}))",
        ["tests/test_execute.py::test_attention_that_is_no_module_is_checkpointed_once_a_block"],
    ),
    Mutation(
        "the last boundary may leave when forward is over",
        EXECUTION,
        "self.tier.settle()",
        "pass",
        ["tests/test_overlapped.py"],
    ),
    Mutation(
        "the last block of a group is counted as a whole forward",
        SCHEDULES,
        "self.recompute_flops += block.last_recompute_flops",
        "self.recompute_flops += block.forward_flops",
        [PREDICTED],
    ),
    Mutation(
        "backward needs no room of its own",
        SCHEDULES,
        "self.visit(mode.backward_working_bytes,",
        "self.visit(0 * mode.backward_working_bytes,",
        ["tests/test_optimal.py::test_as_good_as_the_best_of_all_nested_plans"],
    ),
    Mutation(
        "blocks before the last of a group run again for nothing",
        SCHEDULES,
        "self.recompute_flops += self.profile.blocks[index].forward_flops",
        "self.recompute_flops += 0",
        [PREDICTED],
    ),
    Mutation(
        "the update needs no room",
        SCHEDULES,
        'self.visit(profile.update_working_bytes, "update")',
        'self.visit(0, "update")',
        ["tests/test_interpreter.py::test_an_update_can_be_the_peak"],
    ),
    Mutation(
        "compute never waits for the link",
        SCHEDULES,
        "self.stall_s += max(0.0, self.free_s - self.now_s)",
        "self.stall_s += 0.0",
        ["tests/test_interpreter.py::test_compute_waits_for_a_slow_link"],
    ),
    Mutation(
        "what a group holds inside is not dropped",
        SCHEDULES,
        "aside = self.set_aside([begin], copies=1)",
        "aside = self.set_aside([begin], copies=2)",
        ["tests/test_overlapped.py::test_bytes_are_predicted_exactly"],
    ),
    Mutation(
        "a group makes nothing anew of what the model holds",
        SCHEDULES,
        "remade = self.set_aside(self.sharing.lasting(node))",
        "remade = self.set_aside(())",
        ["tests/test_standing.py::test_what_stands_is_predicted_to_the_byte"],
    ),
    Mutation(
        "nothing is there from the last step",
        SCHEDULES,
        "self.sharing.leave(LAST_STEP)",
        "pass",
        ["tests/test_standing.py::test_what_stands_is_predicted_to_the_byte"],
    ),
    Mutation(
        "optimal: the gradients of later blocks take no room",
        SOLVERS,
        "behind[i] = behind[i + 1] + blocks[i + 1].gradient_bytes",
        "behind[i] = behind[i + 1]",
        ["tests/test_optimal.py::test_as_good_as_the_best_of_all_nested_plans"],
    ),
    Mutation(
        "optimal: groups run across borders",
        SOLVERS,
        "if border > begin]",
        "if border > begin + len(profile.blocks)]",
        ["tests/test_optimal.py::test_no_group_runs_across_a_border"],
    ),
    Mutation(
        "optimal: what a mode repeats costs nothing",
        SOLVERS,
        "mode_s=seconds([mode.recompute_s for",
        "mode_s=seconds([0 * mode.recompute_s for",
        ["tests/test_optimal.py::test_as_good_as_the_best_of_all_plans_and_modes"],
    ),
    Mutation(
        "milp: repeated blocks cost nothing",
        SOLVERS,
        "(self.profile.blocks[i].forward_s / self.second) * self.runs[t, i]",
        "(0 * self.profile.blocks[i].forward_s / self.second) * self.runs[t, i]",
        ["tests/test_milp.py::test_as_good_as_the_best_of_all_nested_plans"],
    ),
    Mutation(
        "milp: what is kept may come from nowhere",
        SOLVERS,
        "run <= self.starts[t + 1, i] + before",
        "run <= self.starts[t + 1, i] + before + 1",
        ["tests/test_milp.py::test_as_good_as_the_best_of_all_nested_plans"],
    ),
    Mutation(
        "selective_ops: kept outputs take no room in later blocks",
        SOLVERS,
        "self._sum([self.below[index], *self.saved(index)])",
        "self._sum([self.below[index], *list(self.saved(index))[:1]])",
        ["tests/test_selective_ops.py::test_as_good_as_the_best_of_all_choices"],
    ),
    Mutation(
        "selective_ops: a shared tensor is held through the whole backward",
        SOLVERS,
        "self.remade.get(index, self.chosen[2 * index + 1])",
        "self.remade.get(index, self.chosen[-1])",
        ["tests/test_selective_ops.py::test_as_good_where_tensors_are_shared"],
    ),
    Mutation(
        "auto: what a solver has not found does not exist",
        "strategies",
        "min([*bounds, *self._not_ruled_out(profile, budget_bytes, answers)])",
        "min(bounds)",
        ["tests/test_shared_tensors.py::test_auto_does_not_rule_out_what_optimal_missed"],
    ),
    Mutation(
        "hybrid: the link is as fast as memory",
        SOLVERS,
        "transfer_s=np.array([profile.transfer_s(index) for",
        "transfer_s=np.array([9 * profile.transfer_s(index) for",
        ["tests/test_hybrid.py::test_between_its_bound_and_the_best_of_all_schedules"],
    ),
    Mutation(
        "binomial: the first part is free",
        SOLVERS,
        "return first + advances(",
        "return advances(",
        ["tests/test_binomial.py::test_the_programme_equals_the_closed_form"],
    ),
    Mutation(
        "recursive: the last part is a group too",
        SOLVERS,
        "return (*parts[:-1], *parts[-1])",
        "return tuple(parts)",
        ["tests/test_binomial.py::test_halves_take_the_logarithm_in_forwards_and_in_slots"],
    ),
)


class Copied:
    """A copy of the source tree, and a process that runs its tests."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder.parent / "log.txt"
        folder.mkdir()
        for name in COPIED:
            source, target = ROOT / name, folder / name
            if source.is_dir():
                shutil.copytree(source, target)  # byte code too: files keep the times it is for
            else:
                shutil.copy(source, target)
        # Of a process of several, a process would think that it is one of them.
        alone = {name: value for name, value in os.environ.items() if "XDIST" not in name}
        more = {"PYTHONPATH": f"{folder}:{folder / 'tests'}", "PYTHONDONTWRITEBYTECODE": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "tests/forks.py"],
            cwd=folder,
            env=alone | more,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, tests: Sequence[str]) -> tuple[int, str]:
        """The exit code and the output of tests, up to the first that fails."""
        much = "--most-bytes=4000000000"  # their memory is no fault
        given = ("-q", "-x", "-p", "no:cacheprovider", "-p", "unshrunk", much, *tests)
        print(json.dumps([str(self.log), given]), file=self.process.stdin, flush=True)
        code = self.process.stdout.readline()
        return int(code), self.log.read_text()


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copied]:
    copied = Copied(tmp_path_factory.mktemp("copied") / "tree")
    with copied.process:  # which ends with its input
        yield copied


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_what_is_mutated_and_what_catches_it_is_there(mutation: Mutation) -> None:
    assert mutation.file(ROOT).is_file()
    for test in mutation.tests:
        file, _, name = test.partition("::")
        assert not name or f"def {name.partition('[')[0]}(" in (ROOT / file).read_text()


@pytest.mark.long
def test_without_a_fault_the_same_tests_pass(copied: Copied) -> None:
    """One of each file: all of them run where they are."""
    tests = {test.partition("::")[0]: test for mutation in MUTATIONS for test in mutation.tests}
    code, output = copied.run(list(tests.values()))
    assert code == pytest.ExitCode.OK, output


@pytest.mark.parametrize(
    "mutation",
    [
        pytest.param(mutation, id=mutation.name, marks=[pytest.mark.long] * (number > 0))
        for number, mutation in enumerate(MUTATIONS)
    ],
)
def test_a_fault_is_caught(mutation: Mutation, copied: Copied) -> None:
    path = mutation.file(copied.folder)
    right = path.read_text()
    path.write_text(right.replace(mutation.old, mutation.new))
    try:
        code, output = copied.run(mutation.tests)
    finally:
        path.write_text(right)
    assert code == pytest.ExitCode.TESTS_FAILED, output
    assert "error during collection" not in output
