"""Whatever a process does, there is an answer or a named end within the time limit, and nothing
of it is left running."""

import os
import signal
import time

import misbehaving
import pytest
from effort import few
from test_executor import gone, wait_for

from bench.run import executor, pipe
from bench.run.endings import MOST_CHARACTERS, Ending, bounded
from strategies.storage import spool

LIMIT_S = 1.0
LONG_S = 60.0
"""Where an end must be seen at once, long before the limit."""

SLOW = {  # what is known only when the time is over
    "hangs",
    "closes_the_pipe_and_hangs",
    "sends_half_a_header_and_hangs",
    "stops",
    "ignores_every_signal",
    "connects_and_hangs",
}
CRASHES = {
    "sends_three_bytes": "the process wrote something else than its answer into its pipe",
    "sends_junk": "the process wrote something else than its answer into its pipe",
    "sends_a_length_that_is_none": "the process wrote something else than its answer into its pipe",
    "sends_junk_for_ever": "the process wrote something else than its answer into its pipe",
    "kills_itself": "the process ended with signal SIGKILL",
    "terminates_itself": "the process ended with signal SIGTERM",
    "dies_of_a_real_time_signal": f"the process ended with signal {signal.SIGRTMIN + 5}",
    "exits": "the process ended with exit code 3",
    "raises_fifty_megabytes": "RuntimeError at misbehaving.py:",
    "raises_control_characters": "RuntimeError at misbehaving.py:",
    "raises_what_has_no_text": "Unspeakable at misbehaving.py:",
    "interrupts": "the process ended with exit code 1",
    "recurses": "RecursionError at misbehaving.py:",
    "writes_a_long_log_and_dies": "the process ended with exit code 4: ",
    "answers_nothing": "TypeError at executor.py:",
}


def run(name, limit_s, payload=b""):
    return executor.in_process(getattr(misbehaving, name), payload, limit_s, ["misbehaving"])


@pytest.mark.parametrize("name", few(sorted(SLOW)))
def test_the_time_limit_is_kept(name):
    run("answers", LONG_S)  # the server is there
    begin_s = time.monotonic()
    assert run(name, LIMIT_S) == Ending("timeout", f"no result within {LIMIT_S:g} s")
    assert time.monotonic() - begin_s < LIMIT_S + LONG_S / 2


@pytest.mark.parametrize("name", few(sorted(CRASHES)))
def test_a_crash_is_seen_at_once_and_named(name):
    begin_s = time.monotonic()
    ending = run(name, LONG_S)
    assert time.monotonic() - begin_s < LONG_S / 2
    assert isinstance(ending, Ending)
    assert ending.status == "crash"
    assert ending.reason.startswith(CRASHES[name])
    assert len(ending.reason) <= MOST_CHARACTERS
    assert ending.reason.isprintable()


def test_a_crash_is_seen_at_once_although_a_child_holds_the_pipe(tmp_path):
    note = tmp_path / "pid"
    ending = run("dies_while_a_child_holds_the_pipe", LONG_S, str(note).encode())
    assert ending == Ending("crash", "the process ended with signal SIGSEGV")
    wait_for(lambda: gone(int(note.read_text())), "the child to end")


@pytest.mark.parametrize("name", ["answers_while_a_child_holds_the_pipe", "hangs_with_a_child"])
def test_what_a_process_started_ends_with_it(name, tmp_path):
    note = tmp_path / "pid"
    answer = run(name, LONG_S if name.startswith("answers") else LIMIT_S, str(note).encode())
    assert answer == b"an answer" or answer.status == "timeout"
    if note.exists():
        wait_for(lambda: gone(int(note.read_text())), "the child to end")


def test_a_long_answer_comes_whole():
    assert run("answers_at_length", LONG_S) == b"x" * 8_000_000


# Boundaries on disk.


def test_nothing_is_left_of_boundaries_without_a_name(tmp_path):
    ending = run("is_killed_with_a_boundary_away", LONG_S, str(tmp_path).encode())
    assert ending.reason == "the process ended with signal SIGKILL"
    assert not list(tmp_path.iterdir())


def test_what_is_left_of_boundaries_with_a_name_is_swept(tmp_path):
    place = str(tmp_path).encode()
    ending = run("is_killed_with_a_named_boundary_away", LONG_S, place)
    assert ending.reason == "the process ended with signal SIGKILL"
    (left,) = tmp_path.iterdir()
    assert [path.stat().st_size for path in left.iterdir()] == [4000]
    assert run("is_killed_with_a_boundary_away", LONG_S, place).status == "crash"  # the next start
    assert not list(tmp_path.iterdir())


def test_what_another_process_holds_is_not_swept(tmp_path):
    context = executor._context(["misbehaving"])
    work = misbehaving.holds_a_named_boundary_and_hangs
    process = context.Process(target=work, args=(str(tmp_path).encode(),))
    process.start()
    try:
        wait_for(lambda: list(tmp_path.rglob("*.boundary")), "a boundary")
        assert spool.sweep(str(tmp_path)) == []
        assert len(list(tmp_path.rglob("*.boundary"))) == 1
    finally:
        process.kill()
        process.join()
    assert len(spool.sweep(str(tmp_path))) == 1
    assert not list(tmp_path.iterdir())


# The pipe.


def sent(*pieces):
    """What an inbox makes of bytes; ``None`` if they are no message yet."""
    reading, writing = os.pipe()
    try:
        inbox = pipe.Inbox(reading, KEY)
        for piece in pieces:
            os.write(writing, piece)
            inbox.read()
        return inbox.body
    finally:
        os.close(reading)
        os.close(writing)


KEY = pipe.token()


def frame(body):
    reading, writing = os.pipe()
    pipe.send(writing, KEY, body)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        return stream.read()


@pytest.mark.parametrize("cut", [1, 15, 16, 17, 24, 55, 56, 57])
def test_a_message_may_come_in_pieces(cut):
    data = frame(b"some words")
    assert sent(data[:cut]) is None
    assert sent(data[:cut], data[cut:]) == b"some words"
    assert sent(*(data[i : i + 1] for i in range(len(data)))) == b"some words"


@pytest.mark.parametrize("place", range(0, 66, 5))
def test_a_flipped_bit_is_no_message(place):
    data = bytearray(frame(b"some words"))
    data[place] ^= 1
    try:
        assert sent(bytes(data)) is None  # it waits for more
    except pipe.JunkError:
        return
    assert 16 <= place < 24  # the length


def test_a_message_has_a_largest_size():
    data = bytearray(frame(b"some words"))
    data[16:24] = b"\x7f" * 8
    with pytest.raises(pipe.JunkError, match="announced an answer of"):
        sent(bytes(data))


def test_other_pipes_frames_are_junk():
    with pytest.raises(pipe.JunkError, match="something else"):
        sent(frame(b"x").replace(KEY, pipe.token()))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("plain √ ×", "plain √ ×"),
        ("two\nlines\ttab", "two lines tab"),
        ("\x1b[2J\x00", " [2J "),
        ("\udc80\u202e", "\ufffd\ufffd"),
        ("x" * MOST_CHARACTERS, "x" * MOST_CHARACTERS),
        ("x" * 10**7, "x" * (MOST_CHARACTERS - 1) + "…"),
    ],
)
def test_a_reason_is_one_bounded_printable_line(text, line):
    assert bounded(text) == line
