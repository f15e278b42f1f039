"""The plan interpreter, against arithmetic done by hand on a made-up chain of three blocks."""

import dataclasses

import costs
import pytest

from strategies.schedules import plan as plans
from strategies.schedules.interpreter import predict
from strategies.schedules.profile import Shared


def block(number, gradient_bytes, recomputed, **mode):
    """The block of a number from 1: 100 bytes saved in the first, 200 in the second, and so on."""
    return costs.block(
        costs.mode(
            saved_bytes=100 * number,
            forward_working_bytes=100 * number + 50,
            backward_working_bytes=100 * number + 100,
            backward_flops=2000 * number,
            **mode,
        ),
        output_bytes=10 + 10 * number,
        unsaved_working_bytes=100 * number + 20,
        recompute_working_bytes=100 * number + 230,
        gradient_bytes=gradient_bytes,
        forward_flops=1000 * number,
        last_recompute_flops=recomputed,
    )


BLOCKS = (
    block(1, 11, 900, recompute_flops=5),
    block(2, 12, 1700, keeps_input=False, keeps_output=True),
    block(3, 13, 2500),
)
PROFILE = costs.chain(
    *BLOCKS,
    input_bytes=10,
    resident_bytes=1000,
    head_saved_bytes=7,
    head_working_bytes=50,
    head_backward_working_bytes=60,
    tail_saved_bytes=5,
    tail_working_bytes=40,
    tail_backward_working_bytes=45,
    tail_gradient_bytes=3,
    group_bytes=2,
)
HEAD_AND_TAIL = 7 + 5  # what they keep
RESIDENT = 1000


def with_mode(block, **changes):
    return dataclasses.replace(block, modes=(dataclasses.replace(block.modes[0], **changes),))


def predicted(plan, resting=None, **changes):
    return predict(dataclasses.replace(PROFILE, **changes), plans.parse(plan), resting)


def test_all_blocks_run_normally():
    result = predicted("0 1 2")
    # Boundary 0 is kept by block 0, boundary 1 by nobody, 2 by blocks 1 and 2, 3 by the tail.
    saved = HEAD_AND_TAIL + (100 + 200 + 300) + (10 + 30 + 40)
    assert result.saved_bytes == saved
    assert result.after_forward_bytes == RESIDENT + saved
    # The tail's backward frees 5 and boundary 3, and makes 3 and the gradient of boundary 3;
    # then block 2 needs 400.
    assert result.peak_bytes == RESIDENT + saved - 5 - 40 + 3 + 40 + 400
    assert result.peak_phase == "backward 2"
    assert result.recompute_flops == 5  # inside block 0, whatever the plan
    assert result.block_forwards == (1, 1, 1)


def test_every_block_is_a_group():
    result = predicted("[0] [1] [2]")
    saved = HEAD_AND_TAIL + (10 + 20 + 30) + 40 + 3 * 2  # inputs, the tail's input, random states
    assert result.saved_bytes == saved
    assert result.peak_bytes == RESIDENT + saved - 5 - 40 + 3 + 40 + 530
    assert result.peak_phase == "recompute 2"
    # Each recompute stops early; what block 0 repeats inside is in its profile.
    assert result.recompute_flops == 900 + 1700 + 2500
    assert result.block_forwards == (2, 2, 2)


def test_one_group_of_all():
    result = predicted("[0 1 2]")
    saved = HEAD_AND_TAIL + 10 + 40 + 2
    assert result.saved_bytes == saved
    # When block 2 is recomputed, blocks 0 and 1 have run again: they keep 100 and 200, boundary 0
    # is held for the group anyway, and boundary 2 is block 1's output.
    # The random state of that moment is kept meanwhile.
    again = 100 + 200 + 30 + 2
    assert result.peak_bytes == RESIDENT + saved - 5 - 40 + 3 + 40 + again + 530
    assert result.peak_phase == "recompute 2"
    assert result.recompute_flops == 1000 + 2000 + 2500 + 5
    assert result.block_forwards == (2, 2, 2)


def test_a_group_in_a_group():
    result = predicted("[[0 1] 2]")
    saved = HEAD_AND_TAIL + 10 + 40 + 2 + 2  # both groups' random states
    assert result.saved_bytes == saved
    # First block 2. Blocks 0 and 1 have run again but kept nothing beside the inner group's random
    # state, and that of now; boundary 2 is there because block 2 keeps its input.
    at_block_2 = RESIDENT + saved - 5 - 40 + 3 + 40 + 4 + 30
    assert result.peak_bytes == at_block_2 + 530
    assert result.peak_phase == "recompute 2"
    assert result.recompute_flops == (1000 + 2000 + 2500) + (1000 + 1700) + 5
    assert result.block_forwards == (3, 3, 2)
    # Then block 1, with block 0 run again and kept. Boundary 2 is gone, as is the gradient of
    # boundary 3; that of boundary 2 and of block 2's parameters are there.
    at_block_1 = at_block_2 - 4 + 2 - 30 - 40 + 30 + 13 + 100
    larger = dataclasses.replace(BLOCKS[1], recompute_working_bytes=1000)
    result = predicted("[[0 1] 2]", blocks=(BLOCKS[0], larger, BLOCKS[2]))
    assert result.peak_bytes == at_block_1 + 1000
    assert result.peak_phase == "recompute 1"


def test_the_last_of_a_group_needs_its_input_only_if_it_keeps_it():
    careless = with_mode(BLOCKS[1], keeps_output=False)  # else boundary 2 is held anyway
    frugal = with_mode(BLOCKS[2], keeps_input=False)
    with_it = predicted("[0 1 2]", blocks=(BLOCKS[0], careless, BLOCKS[2]))
    without = predicted("[0 1 2]", blocks=(BLOCKS[0], careless, frugal))
    assert with_it.peak_phase == without.peak_phase == "recompute 2"
    assert with_it.peak_bytes - without.peak_bytes == 30


def test_kept_and_recomputed_side_by_side():
    result = predicted("0 [1] 2")
    # Boundary 1 is now kept, as the group's input; boundary 2 by block 2 alone.
    saved = HEAD_AND_TAIL + (100 + 300) + (10 + 20 + 30 + 40) + 2
    assert result.saved_bytes == saved
    assert result.recompute_flops == 1700 + 5
    assert result.block_forwards == (1, 2, 1)


def test_boundaries_that_rest_smaller():
    """Boundaries 0 and 2 in 4 and 6 bytes, boundary 1 as it is."""
    result = predicted("[0] [1] [2]", resting=[4, 20, 6])
    saved = HEAD_AND_TAIL + (4 + 20 + 6) + 40 + 3 * 2
    assert result.saved_bytes == saved
    # In backward of block 2 the boundary is there twice: at rest, and restored.
    assert result.peak_bytes == RESIDENT + saved - 5 - 40 + 3 + 40 + 30 + 530
    assert result.peak_phase == "recompute 2"


def test_boundaries_that_rest_elsewhere():
    assert predicted("[0] [1] [2]", resting=[0, 0, 0]).saved_bytes == HEAD_AND_TAIL + 40 + 3 * 2


def test_resting_matters_to_inputs_of_groups_only():
    assert predicted("0 1 2", resting=[0, 0, 0]) == predicted("0 1 2")
    assert predicted("0 [1] 2", resting=[0, 20, 0]) == predicted("0 [1] 2")


@pytest.mark.parametrize(
    ("field", "phase", "alive"),
    [
        # Alive at the moment, above what is resident, in a plain run.
        ("head_working_bytes", "head", 0),
        ("tail_working_bytes", "tail", 7 + 600 + 10 + 30 + 40),
        ("tail_backward_working_bytes", "backward of the tail", 12 + 600 + 10 + 30 + 40),
        # All parameter gradients, and the gradient of boundary 0.
        ("head_backward_working_bytes", "backward of the head", 7 + (3 + 11 + 12 + 13) + 10),
    ],
)
def test_the_peak_may_be_outside_the_blocks(field, phase, alive):
    result = predicted("0 1 2", **{field: 10_000})
    assert result.peak_phase == phase
    assert result.peak_bytes == RESIDENT + alive + 10_000


@pytest.mark.parametrize(
    ("index", "alive"),
    [
        (0, 7 + 10),
        (1, 7 + 10 + 100 + 20),
        (2, 7 + 10 + 100 + 200 + 30),
    ],
)
def test_the_peak_may_be_in_forward(index, alive):
    blocks = list(BLOCKS)
    blocks[index] = with_mode(blocks[index], forward_working_bytes=10_000)
    result = predicted("0 1 2", blocks=tuple(blocks))
    assert result.peak_phase == f"forward {index}"
    assert result.peak_bytes == RESIDENT + alive + 10_000


def test_a_tail_that_does_not_keep_its_input():
    with_it, without = predicted("0 1 2"), predicted("0 1 2", tail_keeps_input=False)
    assert with_it.saved_bytes - without.saved_bytes == 40
    assert with_it.peak_bytes == without.peak_bytes  # by then both are gone


@pytest.mark.parametrize(
    "plan",
    ["0 1 2", "[0] [1] [2]", "[0 1] 2", "[0 1 2]", "[[0] [1 2]]", "[[[0] 1] 2]", "0 [1 [2]]"],
)
def test_every_plan_ends_with_the_same_gradients(plan):
    """The head's backward begins with the same bytes alive, so nothing is lost or freed twice."""
    result = predicted(plan, head_backward_working_bytes=10_000)
    assert result.peak_bytes == RESIDENT + 7 + (3 + 11 + 12 + 13) + 10 + 10_000


@pytest.mark.parametrize("resting", [[0, 0, 0], [3, 3, 3]])
def test_what_the_model_keeps_of_a_boundary_that_rests_elsewhere_is_the_original(resting):
    """The copy that comes back is another tensor, and the group that it is for frees it alone."""
    shape = {"number": 0, "size_bytes": 20, "boundary": 1, "born": 0, "until": 1}
    kept = Shared(**shape, saved_by=(), read_by=(), between=(1,))
    alone = predicted("[0] [1] [2]", resting)
    besides = predicted("[0] [1] [2]", resting, shared=(kept,))
    assert besides.after_forward_bytes == alone.after_forward_bytes + 20
    assert besides.peak_bytes == alone.peak_bytes + 20


@pytest.mark.parametrize("resting", [[0, 0, 0], [3, 3, 3], None])
def test_the_original_may_be_freed_while_its_copy_is_there(resting):
    """The model saved it between two blocks of one group."""
    shape = {"number": 0, "size_bytes": 20, "boundary": 1, "born": 0, "until": 2}
    kept = Shared(**shape, saved_by=(), read_by=(), between=(2,))
    alone = predicted("[0] [1 2]", resting)
    besides = predicted("[0] [1 2]", resting, shared=(kept,))
    more_bytes = 0 if resting is None else 20
    assert besides.after_forward_bytes == alone.after_forward_bytes + more_bytes
    end = {"head_backward_working_bytes": 10_000}
    last = predicted("[0] [1 2]", resting, shared=(kept,), **end)
    assert last.peak_bytes == predicted("[0] [1 2]", resting, **end).peak_bytes
