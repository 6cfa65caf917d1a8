"""A process that may do nothing but compute: on Linux, by namespaces, another user, limits.

| guaranteed where | no network | no file of yours changed or read | at most `processes` | all ended afterwards |
|---|---|---|---|---|
| Linux, root, or a user who may make user namespaces | yes | yes | yes | yes |
| Linux, root in a container without namespaces | Python only | not changed | yes | yes |
| Linux, a user without namespaces | Python only | no: same user | yours included | of its own session |

Memory is limited per process everywhere; elapsed time by who waits for it.
"""

import ctypes
import os
import resource
import signal
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_NEWNS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = 0x20000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
_BIND, _REC, _PRIVATE, _NOSUID, _NODEV = 0x1000, 0x4000, 1 << 18, 2, 4
_PDEATHSIG, _NO_NEW_PRIVS = 1, 38
TEMPORARY = (tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm")  # hidden folders that can be written to
FILE_BYTES = 1 << 28  # the largest file that may be written
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
        hidden: folders that look empty from inside; those for temporary files can be written to.
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
    folders, kept = _outermost(hidden), [path.resolve() for path in keep if path.exists()]
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
        ("RLIMIT_AS", _address_space() + limits.memory),
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
    die_with_parent(signal.SIGKILL)


def die_with_parent(by: int) -> None:
    """Get the signal `by` when the process that started this one ends."""
    _call("prctl", _PDEATHSIG, by, 0, 0, 0)


def end(process: int, user: int | None) -> None:
    """Kill a confined process and those of its session, and as root all that `user` runs.

    Args:
        user: None where a namespace ends with its first process.
    """
    for kill in (os.kill, os.killpg):
        with suppress(OSError):
            kill(process, signal.SIGKILL)
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


def _address_space() -> int:
    """Bytes of this process's address space: PyTorch's libraries and the models take most of them."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
