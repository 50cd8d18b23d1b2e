"""Why a job ended, from the lines of its log."""

from __future__ import annotations

import re
from collections.abc import Sequence

#: Lines that only repeat that a job or a step has ended, or tell of signals.
_TRAILER = re.compile(
    r"srun: |slurmstepd: error: \*\*\* |submitit (INFO|WARNING)|[\^~ ]+$|Traceback \(most recent"
)
#: The last line of a traceback, such as `torch.OutOfMemoryError: CUDA out of memory`.
_EXCEPTION = re.compile(r"(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*(?:Error|Exception|Interrupt|Exit)(?::|$)")
#: srun's words for a process that a signal ended.
_SIGNAL = re.compile(r"srun: error: .*: (Killed|Segmentation fault|Bus error|Illegal instruction)")
#: Words of the shell and SLURM for a program that could not start.
_NO_START = re.compile(
    r"execve\(\)|No such file or directory|command not found|Permission denied|Exec format error"
)
_OUT_OF_MEMORY = re.compile(r"oom[-_]kill|OUT_OF_MEMORY", re.IGNORECASE)
_TIMED_OUT = "Job not requeued because: timed-out too many times"
_STATES = (
    (re.compile(r"DUE TO TIME LIMIT"), "TIMEOUT"),
    (re.compile(r"DUE TO PREEMPTION"), "PREEMPTED"),
    (re.compile(r"DUE TO NODE FAILURE"), "NODE_FAIL"),
    (re.compile(r"\*\*\* (?:JOB|STEP) .* CANCELLED"), "CANCELLED"),
)


def cause_of_end(lines: Sequence[str], max_requeues: int | None = None) -> str:
    """Why a job ended: the line of its log that says so, or a summary; empty if unknown.

    `max_requeues`: number of time limits after which the job is given up.
    """
    if any(_OUT_OF_MEMORY.search(line) for line in lines):
        return "out of memory, killed by the node's kernel; raise hardware.slurm.memory_gb"
    if any(_TIMED_OUT in line for line in lines):
        again = "" if max_requeues is None else f" after {max_requeues} requeues"
        return f"timed out for good{again}; raise hardware.slurm.time_min or max_requeues"
    for pattern in (_EXCEPTION.match, _SIGNAL.match, _NO_START.search):
        if found := [line for line in lines if pattern(line)]:
            return found[-1]
    return ""


def last_words(lines: Sequence[str]) -> str:
    """The last line of a job's log that is the job's own; empty if there is none."""
    return next((line for line in reversed(lines) if not _TRAILER.match(line)), "")


def state_in_log(lines: Sequence[str]) -> str:
    """SLURM's word for the end of a job, from the job's log; empty if the log has none."""
    return next((word for pattern, word in _STATES for line in lines if pattern.search(line)), "")
