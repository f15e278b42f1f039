"""Plans: which blocks are kept and which are recomputed, as immutable nested tuples.

A plan lists the blocks of a chain in order. A bare index runs normally. A nested tuple is a
*recompute group*: only its input is kept, and in backward it is run again under the plan inside
it. ``(0, 1, (2, 3), ((4, 5), 6))`` prints as ``0 1 [2 3] [[4 5] 6]``. Pure Python, no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TypeAlias

Node: TypeAlias = "int | tuple[Node, ...]"
Plan: TypeAlias = "tuple[Node, ...]"

_TOKEN = re.compile(r"\s*(\[|\]|\d+)", re.ASCII)


def leaves(node: Node) -> Iterator[int]:
    """The block indices below ``node``, in order."""
    if isinstance(node, int):
        yield node
    else:
        for child in node:
            yield from leaves(child)


def first(node: Node) -> int:
    """The first block of ``node``: the index of the boundary that the node reads."""
    while not isinstance(node, int):
        node = node[0]
    return node


def groups_in(node: Node) -> int:
    """How many recompute groups a node is and holds."""
    return 0 if isinstance(node, int) else 1 + sum(map(groups_in, node))


def render(plan: Plan) -> str:
    """``(0, (1, 2))`` as ``0 [1 2]``."""
    return " ".join(str(n) if isinstance(n, int) else f"[{render(n)}]" for n in plan)


def parse(text: str) -> Plan:
    """The inverse of `render`.

    Raises:
        ValueError: unbalanced brackets, or anything but indices and brackets.
    """
    stack: list[list[Node]] = [[]]
    position = 0
    text = text.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ValueError(f"a plan holds block indices and brackets, not {text[position:]!r}")
        position = match.end()
        _push(stack, match.group(1), text)
    if len(stack) != 1:
        raise ValueError(f"a bracket is not closed in plan {text!r}")
    return tuple(stack[0])


def _push(stack: list[list[Node]], token: str, text: str) -> None:
    if token == "[":  # noqa: S105 - a bracket, not a secret
        stack.append([])
    elif token == "]":  # noqa: S105
        if len(stack) == 1:
            raise ValueError(f"a bracket closes what none opened in plan {text!r}")
        group = tuple(stack.pop())
        stack[-1].append(group)
    else:
        stack[-1].append(int(token))


def validate(plan: Plan, n_blocks: int) -> None:
    """Check that a plan runs blocks 0 … n_blocks − 1 once each, in order, in no empty group.

    Raises:
        ValueError: otherwise.
    """
    if _has_empty_group(plan):
        raise ValueError(f"plan {render(plan)!r} holds an empty recompute group")
    indices = list(leaves(plan))
    if indices != list(range(n_blocks)):
        raise ValueError(
            f"plan {render(plan)!r} must list the blocks 0 to {n_blocks - 1} once each, in order"
        )


def _has_empty_group(plan: Plan) -> bool:
    return any(not isinstance(n, int) and (not n or _has_empty_group(n)) for n in plan)


def plain(n_blocks: int) -> Plan:
    """Every block kept: ``0 1 2 …``."""
    return tuple(range(n_blocks))


def uniform(n_blocks: int, size: int, *, keep_last: bool = False) -> Plan:
    """Recompute groups of ``size`` blocks; the last may be shorter.

    Args:
        n_blocks: L, the length of the chain.
        size: k, the blocks in a group.
        keep_last: run the last group normally. Its tensors are the first that backward needs, so
            recomputing it saves nothing at the peak (as ``checkpoint_sequential`` does).
    """
    if size < 1:
        raise ValueError(f"a recompute group holds at least 1 block, not {size}")
    groups = [tuple(range(i, min(i + size, n_blocks))) for i in range(0, n_blocks, size)]
    if keep_last and groups:
        return (*groups[:-1], *groups[-1])
    return tuple(groups)


def split(plan: Plan, borders: Sequence[int]) -> Plan:
    """Cut every group that straddles a border (the first block of another container).

    Code between two containers (a down-sampling, say) is not part of any block, so no group can
    run across it.
    """
    return tuple(piece for node in plan for piece in _split_node(node, borders))


def _split_node(node: Node, borders: Sequence[int]) -> Iterator[Node]:
    if isinstance(node, int):
        yield node
        return
    pieces: list[list[Node]] = [[]]
    for child in split(node, borders):
        if pieces[-1] and first(child) in borders:
            pieces.append([])
        pieces[-1].append(child)
    yield from (tuple(piece) for piece in pieces)


def forward_counts(plan: Plan, n_blocks: int) -> list[int]:
    """How often each block's forward is entered in one training step.

    Non-reentrant checkpointing stops a recompute as soon as the last needed tensor exists. A group
    that ends in another group therefore never re-enters that inner group on the way: its input,
    the last thing needed, is there before it starts.
    """
    counts = [0] * n_blocks
    for index in leaves(plan):
        counts[index] += 1
    for node in plan:
        _count_recompute(node, counts)
    return counts


def _count_recompute(node: Node, counts: list[int]) -> None:
    if isinstance(node, int):
        return
    for child in node[:-1]:
        for index in leaves(child):
            counts[index] += 1
    if isinstance(node[-1], int):
        counts[node[-1]] += 1
    for child in node:
        _count_recompute(child, counts)
