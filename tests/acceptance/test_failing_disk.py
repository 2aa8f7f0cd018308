"""A disk whose calls fail: the n-th on one file (strace), or any with some probability (fiu-run).

The command must end with exit code 8, or come to its end; nothing it acknowledged is lost, and without the fault it
goes on to its end.

BULKGROK_FAULTS is the number of faults of each sort: 4 in the ordinary test run, 100 with `tox run -e faults`;
BULKGROK_SEED the seed.
"""

import errno
import os
import random
import signal
import subprocess
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from harness.disks import works
from harness.run import Run

FAULTS = int(os.environ.get("BULKGROK_FAULTS", "4"))
SEED = int(os.environ.get("BULKGROK_SEED", time.time_ns() % 1_000_000))
ROWS = 20
VIDEO = ".00000009-v9.part"
#: file -> (system call, errors): what may fail.
CALLS = {
    "checkpoint.db-wal": (("pwrite64", "ENOSPC EIO"), ("fdatasync", "EIO"), ("openat", "EMFILE EACCES EIO")),
    "checkpoint.db": (("pwrite64", "ENOSPC EIO"), ("fdatasync", "EIO"), ("pread64", "EIO"), ("openat", "EMFILE EIO")),
    "checkpoint.db-mark": (("pwrite64", "ENOSPC"), ("openat", "EMFILE EACCES")),
    "ballast": (("fallocate", "ENOSPC EIO EOPNOTSUPP"), ("unlink", "EROFS")),
    "run.lock": (("openat", "EACCES EROFS"), ("pwrite64", "ENOSPC")),
    "status.json": (("rename", "EACCES"),),
    "log.jsonl": (("write", "ENOSPC"), ("openat", "EACCES")),
    ".": (("fsync", "EIO"),),
    "output": (("write", "ENOSPC EIO"), ("fdatasync", "EIO"), ("openat", "EMFILE EACCES EIO"), ("ftruncate", "EIO")),
    "draft": (("write", "ENOSPC EIO"), ("fsync", "EIO"), ("rename", "EACCES EROFS"), ("openat", "EMFILE EACCES")),
    "video": (("write", "ENOSPC EIO"), ("fsync", "EIO"), ("link", "EIO ENOSPC"), ("openat", "EMFILE EACCES")),
    "media": (("fsync", "EIO"), ("mkdir", "ENOSPC EACCES")),
}  # fmt: skip


#: The first two are met by every run.
SURE = (("checkpoint.db-wal", "pwrite64", "ENOSPC", "20+"), ("checkpoint.db-wal", "fdatasync", "EIO", "8"))


def some_fault(chance):
    """Return a file, a system call, an error, and when it fails: the n-th time (`n`) or from then on (`n+`)."""
    name = chance.choice(list(CALLS))
    call, errors = chance.choice(CALLS[name])
    nth = chance.choice([1, 1, 2, 3, chance.randrange(1, 30)])
    return name, call, chance.choice(errors.split()), f"{nth}{chance.choice(['', '+'])}"


def path_of(run, name):
    match name:
        case "output":
            return run.places.output
        case "draft":
            return run.places.errors.with_name(f".{run.places.errors.name}.tmp")
        case "video":
            return run.places.media / VIDEO
        case "media":
            return run.places.media
    return run.places.run_dir / name


def ended_well(run, *, aborts=False):
    """Wait for the end of a life with faults; return how it ended.

    Args:
        run: The run.
        aborts: Whether the event loop may abort the process: it does where its own wake-up call fails.
    """
    mark = len(run.lives.last_words())
    code = run.lives.process.wait(60)
    said = run.lives.last_words()[mark:]
    assert code in {0, 2, 8} or (aborts and code == -signal.SIGABRT), (code, said)
    assert code != 2 or run.ledger()["accepted"] == 0, said
    hard = code < 0 or "found no place" in said
    run.lives.await_end("hard" if hard else "drained", within_s=1)
    return f"exit_{code}" + " without_a_place" * ("found no place" in said)


def nth_call_fails(folder, api, number):
    """Let a call on a file of one run fail; return what happened."""
    run = Run(folder, api, rows=ROWS)
    name, call, error, when = SURE[number] if number < len(SURE) else some_fault(random.Random(SEED + number))
    fault, traced = f"inject={call}:error={error}:when={when}", folder / "strace.txt"
    run.lives.begin(
        "strace", "-f", "-qq", "--seccomp-bpf", "-o", traced, "-P", path_of(run, name), "-e", f"trace={call}",
        "-e", fault,
    )  # fmt: skip
    end = ended_well(run)
    hit = b"INJECTED" in traced.read_bytes()
    assert hit or end == "exit_0", run.lives.last_words()
    verdict = run.goes_on()
    assert (verdict.lost, verdict.doubled) == (0, 0), (name, fault, verdict)
    return Counter({"faults": 1, "hit": hit, end: 1})


def test_the_nth_call_on_one_file_fails(tmp_path, api):
    if not works("strace", "-qq", "-o", "/dev/null", "-e", "inject=sync:error=EIO"):
        pytest.skip("strace is not here, or may not trace (Debian package strace)")
    counts = counted(nth_call_fails, tmp_path, api)
    assert counts["hit"] >= min(FAULTS, len(SURE))


def counted(fault, folder, api):
    """Carry out all faults, two at a time; print and return the sum of what happened."""
    print(f"\nseed={SEED}: BULKGROK_FAULTS={FAULTS} BULKGROK_SEED={SEED} tox run -e faults")
    with ThreadPoolExecutor(2) as pool:
        found = [pool.submit(fault, folder / str(number), api, number) for number in range(FAULTS)]
        counts = sum((task.result() for task in found), Counter())
    print(" ".join(f"{word}={count}" for word, count in sorted(counts.items())))
    return counts


#: failure points of libfiu, and the error numbers they may give. Those of the second table would keep Python from
#: starting, so they are switched on later.
AT_ONCE = {
    "posix/io/sync/fdatasync": [errno.EIO], "posix/io/sync/fsync": [errno.EIO], "posix/io/rw/ftruncate": [errno.EIO],
    "posix/io/rw/pwrite": [errno.ENOSPC, errno.EIO], "posix/io/dir/rename": [errno.EACCES, errno.EIO],
}  # fmt: skip
LATER = {
    "posix/io/oc/open": [errno.EMFILE, errno.EACCES, errno.EIO], "posix/io/rw/write": [errno.ENOSPC, errno.EIO],
    "posix/io/rw/pread": [errno.EIO], "posix/io/dir/unlink": [errno.EROFS],
}  # fmt: skip


def some_calls_fail(folder, api, number):
    """Let calls of one run fail by chance; return what happened."""
    chance, run = random.Random(SEED + number), Run(folder, api, rows=ROWS)
    points = dict(chance.sample(sorted((AT_ONCE | LATER).items()), chance.choice([1, 1, 1, 2, 3])))
    share = chance.choice([0.01, 0.05, 0.3, 1])
    commands = {
        name: f"enable_random name={name},probability={share},failinfo={chance.choice(errors)}"
        for name, errors in points.items()
    }
    control = folder / "fiu"
    run.lives.begin("fiu-run", "-x", "-f", control, *(f"-c{commands[name]}" for name in points if name in AT_ONCE))
    if later := [command for name, command in commands.items() if name in LATER]:
        # Not while Python reads its modules, and those of the checkpoint.
        run.lives.wait_for(path_of(run, "checkpoint.db-wal").exists, within_s=60.0)
        posts = run.posts + chance.randrange(ROWS)  # of others that run beside it as well
        run.lives.wait_for(lambda: run.posts > posts, look_s=0.005)
        for command in later:
            switch(control, run.lives.process.pid, command)
    end = ended_well(run, aborts="posix/io/rw/write" in points)
    verdict = run.goes_on()
    assert end not in {"exit_0", "exit_8"} or (verdict.lost, verdict.doubled) == (0, 0), (commands, verdict)
    return Counter({"faults": 1, end: 1, "lost": verdict.lost, "doubled": verdict.doubled})


def test_any_call_fails_with_some_probability(tmp_path, api):
    if not works("fiu-run", "-x", "-f", ""):
        pytest.skip("fiu-run is not here (Debian packages libfiu0 and fiu-utils)")
    counted(some_calls_fail, tmp_path, api)


def switch(control, pid, command):
    """Switch a failure point on in a process that may have ended meanwhile."""
    subprocess.run(["fiu-ctrl", "-f", control, "-c", command, str(pid)], capture_output=True, check=False, timeout=30)
