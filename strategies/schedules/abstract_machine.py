"""The machine of `strategies.schedules.interpreter`: which bytes are held, step by step."""

from __future__ import annotations

from strategies.schedules.alive import AGAIN, Alive
from strategies.schedules.link import Link
from strategies.schedules.modes import Mode
from strategies.schedules.plan import Node, Plan, first, groups_in, leaves
from strategies.schedules.profile import LAST_STEP, ChainProfile
from strategies.schedules.schedule import ALL, Schedule


class Machine(Alive):
    """Bytes held, step by step."""

    def __init__(self, profile: ChainProfile, resting: list[int], schedule: Schedule) -> None:
        super().__init__(profile)
        self.resting, self.schedule = resting, schedule
        self.recompute_flops, self.recompute_s = 0, 0.0
        self.link = Link(profile, schedule)

    def mode(self, index: int) -> Mode:
        """How a block runs that runs so that its backward can follow."""
        return self.profile.blocks[index].mode(self.schedule.mode(index))

    def repeat_for(self, seconds: float) -> None:
        """Work done again takes time."""
        self.recompute_s += seconds
        self.link.compute(seconds)

    # The link.

    def land(self) -> None:
        """Nothing leaves any more."""
        leaving, self.link.leaving = self.link.leaving, None
        if leaving is None:
            return
        self.link.wait()
        if leaving in self.schedule.offloaded:
            self.drop(leaving)
        else:
            self.alive_bytes -= self.link.cargo[leaving]

    def send(self, block: int) -> None:
        """Its boundary, which is held until it is gone, or what it kept."""
        self.land()
        if block in self.schedule.offloaded:
            self.hold(block)
        self.link.leaving = block
        self.link.start(block)

    def call_for(self, block: int) -> None:
        """Its cargo comes; there is room for it from now on."""
        self.alive_bytes += self.link.cargo[block]
        self.link.called_for = block
        self.link.start(block)

    def fetch(self, block: int) -> None:
        """Its cargo is there, and the one that left before it is called for."""
        if self.link.called_for != block:
            self.call_for(block)
        self.link.wait()
        if block in self.link.earlier:
            self.call_for(self.link.earlier[block])

    # Forward.

    def forward(self, plan: Plan) -> None:
        """Head, blocks, tail and loss."""
        profile = self.profile
        self.sharing.leave(LAST_STEP)
        self.visit(profile.head_working_bytes, "head")
        self.alive_bytes += profile.head_saved_bytes
        self.hold(0)
        if profile.head_keeps_output:
            self.hold(0)
        self.sharing.leave(-1)
        for node in plan:
            self.run(node, top=True)
            self.link.compute(sum(profile.blocks[index].forward_s for index in leaves(node)))
            if node in self.link.cargo:  # a block's kept outputs
                self.send(first(node))
        self.land()
        last = len(profile.blocks)
        self.enter(last)
        self.sharing.reach(last + 1)
        self.visit(profile.tail_working_bytes, "tail")
        self.end_casts(last + 1)
        self.alive_bytes += profile.tail_saved_bytes
        if profile.tail_keeps_input:
            self.hold(last)
        self.drop(last)
        self.is_forward = False

    def run(self, node: Node, *, top: bool = False) -> None:
        """Run a node under its own plan; the caller holds its input, and then its output."""
        if isinstance(node, int):
            self.save(node)
            self.drop(node)
            return
        if top:
            self.keep_input(node)
            self.sharing.keep(node)
        else:
            self.hold(first(node))
        self.run_unsaved(node, top=top)

    def keep_input(self, group: tuple[Node, ...]) -> None:
        """A top-level group's boundary rests, and so do the random states of all its groups.

        The graph of this forward is the one that backward walks: inner groups' too.
        """
        begin = first(group)
        if begin in self.schedule.offloaded:
            self.send(begin)
        elif self.resting[begin] == self.profile.boundary_bytes(begin):
            self.hold(begin)  # as it is: the boundary itself
        else:
            self.alive_bytes += self.resting[begin]
        self.alive_bytes += self.profile.group_bytes * groups_in(group)

    def save(self, index: int) -> None:
        """A normal forward: what autograd needs is held from here on."""
        mode = self.mode(index)
        self.enter(index)
        # Run again, it writes to copies of what it kept.
        copies_bytes = 0 if self.is_forward else self.profile.blocks[index].copies_bytes
        self.visit(mode.forward_working_bytes + copies_bytes, f"forward {index}")
        self.alive_bytes += mode.saved_bytes
        self.hold(index + 1)
        if mode.keeps_input:
            self.hold(index)
        if mode.keeps_output:
            self.hold(index + 1)
        own_bytes = self.sharing.save(index, again=mode.name != ALL, anew=not self.is_forward)
        self.alive_bytes += own_bytes  # which sharing changed meanwhile
        self.cast(index, mode)
        self.leave(index)

    def run_unsaved(self, node: Node, *, top: bool = False) -> None:
        """A forward inside a checkpoint: only the boundary that is handed on is held."""
        for index in leaves(node):
            block = self.profile.blocks[index]
            self.enter(index)
            self.alive_bytes += block.copies_bytes * top
            self.visit(block.unsaved_working_bytes, f"forward {index}")
            self.hold(index + 1)
            self.cast(index)
            self.leave(index)
            self.drop(index)

    # Backward. The gradient of the boundary at hand is counted in ``alive_bytes``.

    def backward(self, plan: Plan) -> None:
        """Tail, blocks in reverse, head."""
        profile, last = self.profile, len(self.profile.blocks)
        self.visit(profile.tail_backward_working_bytes, "backward of the tail")
        self.alive_bytes -= profile.tail_saved_bytes
        if profile.tail_keeps_input:
            self.drop(last)
        self.sharing.pass_back(last, self.pass_back)
        self.alive_bytes += profile.tail_gradient_bytes + profile.boundary_bytes(last)
        for node in reversed(plan):
            self.unwind(node, top=True)
        self.visit(profile.head_backward_working_bytes, "backward of the head")
        if profile.head_keeps_output:
            self.drop(0)
        self.alive_bytes -= profile.boundary_bytes(0) + profile.head_saved_bytes
        self.alive_bytes -= profile.head_gradient_bytes
        self.visit(profile.update_working_bytes, "update")

    def unwind(self, node: Node, *, top: bool = False) -> None:
        """Backward of a node that ran under its own plan."""
        if isinstance(node, int):
            self.backward_of(node)
            return
        begin = first(node)
        remade = self.set_aside(self.sharing.lasting(node))
        if top:
            self.sharing.remake(node)
        if top and begin in self.schedule.offloaded:
            self.fetch(begin)
            self.recompute_copy(node)
        elif top and self.resting[begin] != self.profile.boundary_bytes(begin):
            self.alive_bytes += self.profile.boundary_bytes(begin)  # beside its resting form
            self.recompute_copy(node)
            self.alive_bytes -= self.resting[begin]
        else:
            self.recompute(node)
            self.drop(begin)
        if top:
            self.sharing.unmake(node)
            self.sharing.give_up(node)
            self.alive_bytes -= sum(self.profile.blocks[i].copies_bytes for i in leaves(node))
        self.take_back(remade)
        self.alive_bytes -= self.profile.group_bytes

    def recompute_copy(self, group: tuple[Node, ...]) -> None:
        """Recompute from a copy of the boundary: whoever holds the original holds it besides."""
        begin = first(group)
        aside = self.set_aside([begin], copies=1)
        self.recompute(group)
        self.drop(begin)
        self.take_back(aside)

    def recompute(self, group: tuple[Node, ...]) -> None:
        """Run a group again, keeping what its plan keeps, then unwind it."""
        self.hold(first(group))
        # Meanwhile the random state of now is kept too, and inner groups keep theirs once more.
        states_bytes = self.profile.group_bytes * (groups_in(group) - (len(group) == 1))
        self.alive_bytes += states_bytes
        for child in group[:-1]:
            self.repeat(child)
            self.run(child)
        self.visit(0, f"recompute {first(group)}")
        if isinstance(group[-1], int):
            self.last_of_group(group[-1])
            self.alive_bytes -= states_bytes
        else:
            self.end_casts(AGAIN)
            self.alive_bytes -= states_bytes
            self.unwind(group[-1])
        for child in reversed(group[:-1]):
            self.unwind(child)

    def repeat(self, node: Node) -> None:
        """Count a node's forward once more."""
        for index in leaves(node):
            self.recompute_flops += self.profile.blocks[index].forward_flops
            self.repeat_for(self.profile.blocks[index].forward_s)

    def last_of_group(self, index: int) -> None:
        """Recompute that stops early, with its backward: profiled as one, its input aside."""
        block = self.profile.blocks[index]
        self.visit(block.again_working_bytes, f"recompute {index}")
        if not block.modes[0].keeps_input:
            self.drop(index)
        self.end_casts(AGAIN)
        self.visit(block.recompute_working_bytes, f"recompute {index}")
        if block.modes[0].keeps_input:
            self.drop(index)
        self.recompute_flops += block.last_recompute_flops
        self.repeat_for(block.last_recompute_s)
        self.pass_gradient(index)

    def backward_of(self, index: int) -> None:
        """Backward of a block whose tensors are held."""
        mode = self.mode(index)
        if mode.away_bytes:
            self.fetch(index)
        self.visit(mode.backward_working_bytes, f"backward {index}")
        self.recompute_flops += mode.recompute_flops
        self.repeat_for(mode.recompute_s)
        self.alive_bytes -= mode.saved_bytes
        if mode.keeps_output:
            self.drop(index + 1)
        if mode.keeps_input:
            self.drop(index)
        own_bytes = self.sharing.free(index, again=mode.name != ALL)
        self.alive_bytes -= own_bytes
        self.pass_gradient(index)

    def pass_gradient(self, index: int) -> None:
        """The gradient of the output gives way to that of the input, and the parameters'."""
        profile = self.profile
        self.link.compute(profile.blocks[index].backward_s)
        self.alive_bytes += profile.blocks[index].gradient_bytes
        self.alive_bytes += profile.boundary_bytes(index) - profile.boundary_bytes(index + 1)
        self.sharing.pass_back(index, self.pass_back)
