"""A process that may do nothing but compute: on Linux, by namespaces, another user, limits.

What is guaranteed where stands in `docs/instructors.md`, under *Grading*.
"""

import ctypes
import os
import re
import resource
import signal
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_NEWNS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = 0x20000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
_BIND, _REC, _PRIVATE, _NOSUID, _NODEV = 0x1000, 0x4000, 1 << 18, 2, 4
_PDEATHSIG, _NO_NEW_PRIVS, _SUBREAPER = 1, 38, 36
_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE, _RDONLY = 442, -100, 0x8000, 1  # the number is that of every architecture
TEMPORARY = (tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm")  # hidden folders that can be written to
DOORS = ("/run", "/dev/pts")  # hidden too: sockets of who could do what this process may not, and your terminals
FILE_BYTES = 1 << 28  # the largest file that may be written
FREE = 128 << 20  # bytes of the machine's memory, below which a submission is ended before the system ends something
LOOKING = 0.2  # seconds between two looks at a process
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Limits:
    """What a confined process may use: processes of its user, threads included, and bytes of memory each."""

    processes: int = 200
    memory: int = 4 << 30


def _call(name: str, *args: object) -> None:
    if getattr(_libc, name)(*args) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


def _mount(source: str, target: Path, kind: str, flags: int, options: str = "") -> None:
    _call("mount", source.encode(), str(target).encode(), kind.encode(), flags, options.encode())


def separate(place: Path, hidden: Iterable[Path], keep: Iterable[Path]) -> None:
    """Give this process's children namespaces of their own: processes, network, mounts.

    Args:
        place: an empty folder; it becomes a file system in memory, gone with the last process.
        hidden: folders that look empty from inside; those for temporary files can be written to, and nothing else.
        keep: what stays visible nevertheless.

    Raises:
        OSError: the kernel, or who set it up, does not allow it.
    """
    user, group = os.getuid(), os.getgid()
    _call("unshare", (0 if user == 0 else _NEWUSER) | _NEWNS | _NEWPID | _NEWNET | _NEWIPC)
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    _mount("none", Path("/"), "none", _REC | _PRIVATE)
    _read_only(Path("/"))
    folders, kept = _outermost([*hidden, *map(Path, DOORS)]), [path.resolve() for path in keep if path.exists()]
    kept = [k for k in kept if any(f == k or f in k.parents for f in folders)]
    handles = [os.open(k, os.O_PATH | os.O_DIRECTORY) for k in kept]  # reachable also when hidden
    temporary = {Path(p).resolve() for p in TEMPORARY}
    for folder in folders:
        mode = "1777" if folder in temporary else "755"
        _mount("tmpfs", folder, "tmpfs", _NOSUID | _NODEV, f"size=256m,mode={mode}")
    for path, handle in zip(kept, handles, strict=True):
        path.mkdir(parents=True, exist_ok=True)
        _mount(f"/proc/self/fd/{handle}", path, "none", _BIND | _REC)
        os.close(handle)
    place.mkdir(parents=True, exist_ok=True)
    _mount("tmpfs", place, "tmpfs", _NOSUID | _NODEV, "size=1g,mode=755")


def _read_only(root: Path) -> None:
    """Nothing that is mounted there can be written to any more; devices can. Raises OSError: Linux before 5.12."""
    flags = (ctypes.c_uint64 * 4)(_RDONLY, 0, 0, 0)  # struct mount_attr: set, clear, propagation, user namespace
    _call("syscall", _MOUNT_SETATTR, _AT_FDCWD, str(root).encode(), _AT_RECURSIVE, flags, ctypes.c_size_t(32))


def _outermost(folders: Iterable[Path]) -> list[Path]:
    """Existing ones that lie in no other, the root apart."""
    found = sorted({f.resolve() for f in folders if f.is_dir()} - {Path("/")})
    return [f for f in found if not any(other in f.parents for other in found)]


def processes_inside() -> None:
    """In the first process of a namespace: `/proc` shows its own processes and no others. Raises OSError."""
    _mount("proc", Path("/proc"), "proc", _NOSUID | _NODEV)


def give_up_rights(user: int, limits: Limits) -> None:
    """Become `user` (as root), without any privilege, within the limits; dies with its parent.

    Raises:
        OSError: the system does not allow it.
    """
    os.setsid()
    for name, value in (
        ("RLIMIT_AS", address_space() + limits.memory),
        ("RLIMIT_NPROC", limits.processes + (0 if os.getuid() == 0 else _running(os.getuid()))),
        ("RLIMIT_FSIZE", FILE_BYTES),
        ("RLIMIT_CORE", 0),
    ):
        kind = getattr(resource, name)
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
    _call("capset", (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)())
    _call("prctl", _NO_NEW_PRIVS, 1, 0, 0, 0)
    _call("prctl", _SUBREAPER, 1, 0, 0, 0)
    die_with_parent(signal.SIGKILL)


def die_with_parent(by: int) -> None:
    """Get the signal `by` when the process that started this one ends."""
    _call("prctl", _PDEATHSIG, by, 0, 0, 0)


def limit_judge(seconds: float, memory: int) -> None:
    """What a submission gave may not cost more than this to read: of computing, and bytes."""
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 2))
    resource.setrlimit(resource.RLIMIT_AS, (address_space() + memory,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def wait(process: int, user: int | None, memory: int) -> tuple[int, bool]:
    """Wait for a confined process to end; with those it has started it may not take more memory than alone.

    Args:
        user: as for `end`.

    Returns:
        Its status as `os.waitpid` gives it, and whether it was ended for that reason.
    """
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return status, False
        if sum(map(_private, _crew(process, user))) > memory or _free() < FREE:
            with suppress(OSError):
                os.kill(process, signal.SIGKILL)
            return os.waitpid(process, 0)[1], True
        time.sleep(LOOKING)


def _crew(process: int, user: int | None) -> list[int]:
    """The process and those that it has started: all that its `/proc` shows, or that the user runs; else it alone."""
    if user is None:
        return [] if Path("/proc/self").exists() else processes()  # none before `processes_inside`
    return [p for p in processes() if owner(p) == user] if os.getuid() == 0 else [process]


def _private(process: int) -> int:
    """Bytes of memory that a process has for itself; what it shares with others counts in parts."""
    with suppress(OSError, ValueError):
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:"))) << 10
    return 0


def _free() -> int:
    """Bytes that this machine has left."""
    found = re.search(r"MemAvailable: +(\d+)", Path("/proc/meminfo").read_text())
    return int(found[1]) << 10 if found else FREE


def end(process: int, user: int | None) -> None:
    """Kill a confined process and those of its session, and as root all that `user` runs.

    Args:
        user: None where a namespace ends with its first process.
    """
    for kill in (os.kill, os.killpg):
        with suppress(OSError):
            kill(process, signal.SIGKILL)
    with suppress(OSError):  # the first of a namespace is gone when all are: they count as their user's until then
        os.waitpid(process, 0)
    while user and os.getuid() == 0 and (left := [p for p in processes() if owner(p) == user and not _is_dead(p)]):
        for other in left:
            with suppress(OSError):
                os.kill(other, signal.SIGKILL)


def processes() -> list[int]:
    """Ids of all that run."""
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def owner(process: int) -> int | None:
    """The user of a process, None if it has ended."""
    with suppress(OSError):
        return os.stat(f"/proc/{process}").st_uid
    return None


def _is_dead(process: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    return True


def _running(user: int) -> int:
    """Threads of this user's processes."""
    found = 0
    for process in processes():
        if owner(process) == user:
            with suppress(OSError):
                found += len(os.listdir(f"/proc/{process}/task"))
    return found


def address_space() -> int:
    """Bytes of this process's address space: PyTorch's libraries and the models take most of them."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
