"""When a block's memory can peak, and which kept outputs would be alive besides."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from strategies.profiling.operator_ledger import OperatorLedger, Span, marks_of
from strategies.profiling.watched import Watched, after
from strategies.schedules.modes import Moment, Operator


def forward_moments(
    watched: Watched, ledger: OperatorLedger, index: int, operators: Sequence[Operator]
) -> Iterator[Moment]:
    """A kept output is alive besides as soon as nothing else holds it."""
    enter, leave = f"enter {index}", f"leave {index}"
    spans = [s for s in ledger.spans if s.place[0] == index and not s.again]
    alive = [0] * len(operators)
    event = watched.at(enter).event
    for number, span in enumerate([*spans, None]):
        stop = watched.at(leave).event if span is None else span.first
        while event < stop:
            owner = ledger.owners[event]
            if owner is not None and owner[0] == index:
                alive[owner[1]] += ledger.deltas[event]
            event += 1
        more = _more(operators, alive, range(number))
        yield Moment(_most_bytes(watched, ledger, enter, span, leave), more)


def backward_moments(
    watched: Watched, ledger: OperatorLedger, index: int, operators: Sequence[Operator]
) -> Iterator[Moment]:
    """A kept output is alive besides until the recompute comes to its operator."""
    begin, end = f"backward {index}", after(index)
    spans = [s for s in ledger.spans if s.place[0] == index and s.again]
    nothing = [0] * len(operators)
    everything = range(len(operators))
    yield Moment(0, _more(operators, nothing, everything))
    for span in spans:
        later = everything[span.place[1] + 1 :]
        yield Moment(
            _most_bytes(watched, ledger, begin, span, end), _more(operators, nothing, later)
        )
    yield Moment(_rest_bytes(watched, ledger, spans, begin, end), ())


def _more(
    operators: Sequence[Operator], alive: Sequence[int], numbers: Iterable[int]
) -> tuple[tuple[int, int], ...]:
    return tuple(
        (number, operators[number].output_bytes - alive[number])
        for number in numbers
        if operators[number].keepable and operators[number].output_bytes > alive[number]
    )


def _most_bytes(
    watched: Watched, ledger: OperatorLedger, start: str, span: Span | None, end: str
) -> int:
    """Most alive during an operator, or at the end of the pass, above its start."""
    floor = watched.at(start).alive_bytes
    if span is None:
        return watched.at(end).alive_bytes - floor
    before_bytes = ledger.alive[span.first - 1] if span.first else 0
    most_bytes = max(before_bytes, *ledger.alive[span.first : span.end], 0) - floor
    if ledger.trace is None:
        return most_bytes
    begin, done = marks_of(span.place, again=span.again)
    return max(most_bytes, ledger.trace.above_bytes(start, begin, done))


def _rest_bytes(
    watched: Watched, ledger: OperatorLedger, spans: Sequence[Span], begin: str, end: str
) -> int:
    """Most alive in the backward that follows the recompute."""
    first = spans[-1].end if spans else watched.at(begin).event
    alive = ledger.alive[max(0, first - 1) : watched.at(end).event]
    most_bytes = max(alive, default=0) - watched.at(begin).alive_bytes
    if ledger.trace is None:
        return max(0, most_bytes)
    done = marks_of(spans[-1].place, again=True)[1] if spans else begin
    return max(0, most_bytes, ledger.trace.above_bytes(begin, done, end))


def worst(moments: Iterable[Moment]) -> tuple[Moment, ...]:
    """Those that no other one outweighs, whatever is kept."""
    front: list[Moment] = []
    for moment in sorted(moments, key=lambda m: (-m.alive_bytes, -len(m.more))):
        if not any(_outweighs(other, moment) for other in front):
            front.append(moment)
    return tuple(front)


def _outweighs(one: Moment, other: Moment) -> bool:
    sizes = dict(one.more)
    more = all(sizes.get(number, 0) >= size for number, size in other.more)
    return more and one.alive_bytes >= other.alive_bytes
