"""A Slurm of one machine, for tests: its programs, each by its name, and the daemon that runs jobs.

What it does is what Slurm is said to do (slurm.schedmd.com): a script is kept and run by bash, each
task of an array apart, with the variables that Slurm sets; a task whose node fails (here: whose
processes are killed by none of these programs) is queued again if it was submitted with
``--requeue``; a requeued or cancelled one gets SIGTERM, and after a while SIGKILL; signals go to
the steps, not to the script.

State lies in a folder, a file a task. Run as a program: ``slurm.py FOLDER NAME ARGUMENTS``.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PROGRAMS = ("sbatch", "srun", "scancel", "sacct", "scontrol")
KILL_WAIT_S = 3.0
LOOK_S = 0.1


def install(home, folder):
    """Put the programs into a folder, for the PATH; their state is in ``home``."""
    for path in (home, folder):
        path.mkdir(parents=True)
    for name in PROGRAMS:
        program = folder / name
        program.write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} {home} {name} "$@"\n')
        program.chmod(0o755)


class Tasks:
    """The tasks of all jobs, as they are known to everybody."""

    def __init__(self, home):
        self.home = Path(home)

    def all(self):
        """Their names: ``3``, or ``3_0`` and ``3_1`` of an array."""
        return sorted(path.stem for path in self.home.glob("*.json"))

    def of(self, job):
        """Those that a job's name stands for."""
        return [name for name in self.all() if name == job or name.startswith(f"{job}_")]

    def read(self, name):
        """What is known of one."""
        return json.loads((self.home / f"{name}.json").read_text())

    def write(self, name, **changes):
        """Change what is known of one."""
        path = self.home / f"{name}.json"
        known = self.read(name) if path.exists() else {"restarts": 0, "pid": 0}
        new = path.with_suffix(".new")
        new.write_text(json.dumps(known | changes))
        new.replace(path)

    def order(self, name, what=None):
        """Tell the daemon to cancel or to requeue one, or see what it was told."""
        path = self.home / f"{name}.order"
        if what is not None:
            path.write_text(what)
        return path.read_text() if path.exists() else ""

    def obeyed(self, name):
        """It did."""
        (self.home / f"{name}.order").unlink(missing_ok=True)


def options(text):
    """Of a script: what its lines for sbatch say."""
    lines = re.findall(r"^#SBATCH --([a-z-]+)(?:=(.*))?$", text, re.MULTILINE)
    return {name: value.strip("'") for name, value in lines}


def sbatch(tasks, script):
    """Keep a script, and start a daemon that runs it."""
    subprocess.run(["bash", "-n", script], check=True)
    text = Path(script).read_text()
    given = options(text)
    job = str(1 + len(list(tasks.home.glob("*.sh"))))
    (tasks.home / f"{job}.sh").write_text(text)
    array = re.fullmatch(r"(\d+)-(\d+)%(\d+)", given.get("array", ""))
    numbers = range(int(array[1]), int(array[2]) + 1) if array else [None]
    names = [job if number is None else f"{job}_{number}" for number in numbers]
    for name in names:
        tasks.write(name, state="PENDING")
    at_once = array[3] if array else "1"
    daemon = [sys.executable, __file__, str(tasks.home), "daemon", job, at_once, *names]
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    with (tasks.home / "daemon.log").open("ab") as log:
        process = subprocess.Popen(daemon, start_new_session=True, stderr=log, **quiet)
    (tasks.home / f"{job}.pid").write_text(str(process.pid))
    sys.stdout.write(f"Submitted batch job {job}\n")


def daemon(tasks, job, at_once, *names):
    """Run the tasks of a job, so many at a time."""
    with ThreadPoolExecutor(int(at_once)) as pool:
        list(pool.map(lambda name: run(tasks, job, name), names))


def run(tasks, job, name):
    """Run one task, until it has ended for good."""
    script = tasks.home / f"{job}.sh"
    given = options(script.read_text())
    while tasks.order(name) != "cancel":
        process = started(script, given, job, name)
        tasks.write(name, state="RUNNING", pid=process.pid)
        order, code = watched(tasks, name, process)
        tasks.obeyed(name)
        failed = code == -signal.SIGKILL and not order
        if order != "requeue" and not (failed and "requeue" in given):
            break
        tasks.write(name, state="REQUEUED", restarts=1 + tasks.read(name)["restarts"])
    else:
        order, code = "cancel", 0
    ended = "NODE_FAIL" if code < 0 else "FAILED" if code else "COMPLETED"
    tasks.write(name, state="CANCELLED" if order == "cancel" else ended)


def started(script, given, job, name):
    """A task's process: bash, which leads a session."""
    number = name.partition("_")[2]
    own = {"SLURM_JOB_ID": job, "SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1"}
    if number:
        own |= {"SLURM_ARRAY_JOB_ID": job, "SLURM_ARRAY_TASK_ID": number}
    with opened(given["output"], own) as out, opened(given["error"], own) as error:
        return subprocess.Popen(
            ["bash", str(script)],
            env=os.environ | own | {"SLURM_JOB_NODELIST": "here"},
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=error,
        )


def opened(pattern, own):
    """A file to append to, by its pattern."""
    letters = {
        "%A": own.get("SLURM_ARRAY_JOB_ID", ""),
        "%a": own.get("SLURM_ARRAY_TASK_ID", ""),
        "%j": own["SLURM_JOB_ID"],
        "%t": "0",
    }
    for letter, value in letters.items():
        pattern = pattern.replace(letter, value)
    return Path(pattern).open("ab")


def watched(tasks, name, process):
    """What ended a task: an order, and its exit code."""
    told_s = None
    while process.poll() is None:
        if tasks.order(name) and told_s is None:
            sent(process.pid, signal.SIGTERM)
            told_s = time.monotonic()
        if told_s is not None and time.monotonic() > told_s + KILL_WAIT_S:
            sent(process.pid, signal.SIGKILL)
        time.sleep(LOOK_S)
    sent(process.pid, signal.SIGKILL)  # what it left
    return tasks.order(name), process.returncode


def sent(pid, number):
    """To all processes of a task."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)


def srun(tasks, *arguments):
    """Become a step of the task that this runs in."""
    given, command = list(arguments), []
    files = {}
    while given:
        word = given.pop(0)
        if word in {"--output", "--error"}:
            files[word] = given.pop(0)
        elif word != "--unbuffered":
            command = [word, *given]
            break
    own = {name: value for name, value in os.environ.items() if name.startswith("SLURM_")}
    for descriptor, word in ((1, "--output"), (2, "--error")):
        with opened(files[word], own) as file:
            os.dup2(file.fileno(), descriptor)
    number = own.get("SLURM_ARRAY_TASK_ID")
    name = own["SLURM_JOB_ID"] if number is None else f"{own['SLURM_ARRAY_JOB_ID']}_{number}"
    (tasks.home / f"{name}.step").write_text(str(os.getpid()))
    os.environ |= {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
    os.execvp(command[0], command)


def scancel(tasks, job, *signal_given):
    """End a job, or send its steps a signal."""
    for name in tasks.of(job):
        if signal_given:
            number = signal.Signals[f"SIG{signal_given[-1].removeprefix('SIG')}"]
            os.kill(int((tasks.home / f"{name}.step").read_text()), number)
        else:
            tasks.order(name, "cancel")


def sacct(tasks, *_arguments):
    """What has become of all."""
    lines = [f"{name}|{tasks.read(name)['state']}|here" for name in tasks.all()]
    sys.stdout.write("\n".join(["JobID|State|NodeList", *lines, ""]))


def scontrol(tasks, what, job):
    """Requeue."""
    for name in tasks.of(job):
        tasks.order(name, what)


if __name__ == "__main__":
    globals()[sys.argv[2]](Tasks(sys.argv[1]), *sys.argv[3:])
