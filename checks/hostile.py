"""Submissions that do what they must not: each costs its exercise or its notebook, and is named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nbformat

from checks.cohort import Course, Simulated
from personalab.course.cells import dumps
from personalab.course.myst import code_cells
from personalab.course.submissions import kind_of
from personalab.paths import ROOT

# An early exercise of each section, which no other uses: the ones behind it show whether the attack stays where it is.
ATTACKED = {
    "1": "test_generate_all_responses",
    "2": "test_record_hidden_shapes",
    "3": "test_score_coherence",
    "4": "test_compute_trait_projections",
    "4b": "test_steering_intervention",
}
KEY, MARK = "sk-planted-for-the-cohort", Path("/tmp/lab-a-submission-was-here")
PLANTED = {"OPENROUTER_API_KEY": KEY, "HF_TOKEN": KEY}  # the environment of who grades the cohort

_TO_THE_GRADER = """
import contextlib, os, struct
def send(body, size=None):
    for fd in range(3, 256):
        with contextlib.suppress(OSError):
            os.write(fd, struct.pack('!i', len(body) if size is None else size) + body)
"""

# What hostile solutions do, in their cell before any grader calls them, and words of the comment.
IN_THE_CELL = {
    "replaced tests": (
        "class tests:\n    def __getattr__(self, name): return print\n\n\ntests = tests()",
        "replaces tests",
    ),
    "a stubbed module": (
        "import sys, types\nsys.modules['personalab.lm.models'] = types.ModuleType('stub')",
        "replaces the module personalab.lm.models",
    ),
    "a patched function": ("utils.decoder_blocks = lambda model: []", "replaces"),
    "patched builtins": ("import builtins\nbuiltins.all = lambda rows: True", "replaces builtins.all"),
    "patched harness internals": (
        "import graders.harness.expect as expect\nexpect.check = lambda *args: None",
        "ModuleNotFoundError: graders",
    ),
    "SystemExit in the cell": ("raise SystemExit", "SystemExit"),
    "os._exit in the cell": ("import os\nos._exit(0)", "ends the process"),
    "a deleted file": (
        "import shutil\nshutil.rmtree(ROOT / 'personalab')\n(ROOT / 'utils.py').unlink()\nraise OSError('all gone')",
        "changes .* in the course",
    ),
    "a full disk": (
        "for i in range(3):\n    open(f'{i}', 'wb').write(bytes(1 << 28))",
        "fill the disk|No space",
    ),
    "memory that is kept": ("kept = bytearray(1 << 31)", "half of the memory|MiB of memory|MemoryError"),
    "a thread that waits": ("import os, threading\nthreading.Timer(2, os._exit, (0,)).start()", "leaves a thread"),
    "an alarm": (
        "import os, signal\nsignal.signal(signal.SIGALRM, lambda *args: os._exit(0))\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.2)",
        r"\w",
    ),
    "a process bomb in the cell": (
        "import os, time\nwhile True:\n    if os.fork() == 0:\n        time.sleep(999)",
        "BlockingIOError|ends the process|takes longer",
    ),
    "forged messages": (
        f"{_TO_THE_GRADER}\nsend(b'J{{\"at\": 99}}')\nsend(b'J' + b'[' * 20000)",
        "meddles|ends the process|no data",
    ),
    "frames": ("import sys\nsys._getframe(3).f_locals", "reaches for sys._getframe"),
    "frames under another name": (
        "exec(compile('import sys; sys._getframe(3)', '/somewhere/else.py', 'exec'))",
        "reaches for sys._getframe",
    ),
}
# The same as the body of the function that is graded.
IN_THE_FUNCTION = {
    "an oracle read through gc": (
        "import gc\nreturn next(x for x in gc.get_objects() if type(x).__name__ == 'Case').judge",
        "reaches for gc.get_objects",
    ),
    "an oracle found on the stack": (
        "import traceback\nframes = [f.f_locals for f, _ in traceback.walk_stack(None)]\n"
        'raise RuntimeError(f\'judge: {next(f["case"] for f in frames if "case" in f).judge}\')',
        "judge: None",
    ),
    "an int with a lying __eq__": (
        "return type('Liar', (int,), {'__eq__': lambda *a: True, '__hash__': int.__hash__})(-99)",
        r"\w",
    ),
    "os._exit": ("import os\nos._exit(0)", "ends the process"),
    "an endless loop": ("while True:\n    pass", "s of computing"),
    "an endless loop that nothing stops": (
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\n"
        "while True:\n    try:\n        pass\n    except BaseException:\n        pass",
        "s of computing",
    ),
    "a process bomb": (
        "import os\nwhile True:\n    os.fork()",
        r"BlockingIOError|takes (longer|more)|ends the process",
    ),
    "a counted process bomb": (
        "import os, time\nn = 0\nwhile True:\n    try:\n        child = os.fork()\n    except OSError:\n"
        "        raise RuntimeError(f'{n} processes')\n    if child == 0:\n        time.sleep(999)\n    n += 1",
        r"RuntimeError: 1\d\d processes|s of computing|takes longer",
    ),
    "kill them all": ("import os, signal\nos.kill(-1, signal.SIGKILL)\nreturn 0", r"\w"),
    "all memory": ("return bytearray(1 << 36)", "MemoryError"),
    "memory of many processes": (
        "import os, time\nfor _ in range(20):\n    if os.fork() == 0:\n        kept = bytearray(b'1') * (1 << 29)\n"
        "        time.sleep(999)\ntime.sleep(999)",
        "MiB of memory in all",
    ),
    "a huge result": ("return 'x' * (1 << 27)", r"takes \d+ bytes"),
    "huge output": ("for _ in range(100):\n    print('x' * 10**7)\nreturn 0", r"\w"),
    "a huge file": ("with open('huge', 'wb') as file:\n    file.write(bytes(1 << 29))", "File too large"),
    "a list in lists in lists": (
        "found = [1]\nfor _ in range(99):\n    found = [found, found]\nreturn found",
        r"\w",
    ),
    "a message no one can read": (r"raise RuntimeError('\ud800\x1b[2J=1+1')", r"ud800\\x1b"),
    "the network": ("import socket\nreturn socket.create_connection(('192.0.2.1', 80))", "no network"),
    "the network by another program": (
        "import subprocess, sys\ncode = 'import socket; socket.create_connection((\"192.0.2.1\", 80), 5)'\n"
        "raise RuntimeError(subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stderr[-60:])",
        "unreachable",
    ),
    "keys": (
        "import glob, os\ntexts = [repr(os.environ), *(open(p).read() for p in glob.glob('/proc/*/environ')"
        " if os.access(p, os.R_OK))]\nraise RuntimeError('found' if 'sk-planted' in ''.join(texts) else 'no keys')",
        "no keys",
    ),
    "solutions on the disk": (
        "return next((ROOT / 'solutions').rglob('*.ipynb')).read_text()",
        "StopIteration",
    ),
    "the grader's source": (
        f"import pathlib\nreturn [pathlib.Path({str(ROOT)!r}, name).read_text() for name in ('tests.py', '.env')]",
        "FileNotFoundError",
    ),
    "writing elsewhere": (
        "import contextlib, pathlib, sys\nwritten = []\n"
        f"for place in ({str(ROOT)!r}, {str(Path.home())!r}, sys.prefix, '/etc', '/usr/local', '/var', '/run'):\n"
        f"    with contextlib.suppress(OSError):\n        pathlib.Path(place, {MARK.name!r}).write_text('')\n"
        f"        written.append(place)\npathlib.Path({str(MARK)!r}).write_text('')\n"
        "raise RuntimeError(f'wrote to {written}')",
        r"wrote to \[\]",
    ),
    "a forged pass": (
        f"{_TO_THE_GRADER}\nimport io, os, sys, torch, types\n"
        "for name in ('graders', 'graders.harness', 'graders.harness.distance'):\n"
        "    sys.modules[name] = types.ModuleType(name)\n"
        "sys.modules[name].Said = Said = type('Said', (), {'__module__': name})\nsaid, file = Said(), io.BytesIO()\n"
        "said.text = ''\ntorch.save([said], file)\nsend(b'O' + file.getvalue())\nos._exit(0)",
        "refused",
    ),
    "half a message": (f"{_TO_THE_GRADER}\nimport time\nsend(b'O', 1 << 20)\ntime.sleep(999)", "takes longer than"),
}


def hostile(course: Course, grader: str) -> Iterator[Simulated]:
    """Each attack in the cell of one exercise, which nothing else uses; then files that are no notebooks of ours."""
    exercise = course.exercise(grader)
    cell, rest = exercise.solution, course.around(exercise.solution) - {grader}
    for kind, (code, words) in IN_THE_CELL.items():
        wrong = f"def {exercise.work}(*args, **kwargs):\n    return 0\n\n\n{code}\n"
        yield Simulated(kind, "hostile", course.notebook({cell: wrong}), {grader: words}, rest)
    for kind, (code, words) in IN_THE_FUNCTION.items():
        body = "\n".join(f"    {line}" for line in code.split("\n"))
        wrong = f"def {exercise.work}(*args, **kwargs):\n{body}\n"
        yield Simulated(kind, "hostile", course.notebook({cell: wrong}), {grader: words}, rest)
    yield Simulated("an edited grader", "hostile", _edited_grader(course, cell), {grader: "Nothing to grade yet"}, rest)
    yield Simulated("invalid JSON", "hostile", course.notebook({})[:-99], remark="not a notebook")
    yield Simulated("an empty file", "hostile", "", remark="not a notebook")
    yield Simulated("names that are none", "hostile", _unnamed(course), remark="not a notebook")
    yield Simulated(
        "another section", "hostile", _another(course), remark="a notebook of section|not a notebook of this course"
    )
    yield Simulated("a symbolic link", "hostile", "", remark="a symbolic link", form="link")
    yield Simulated("a folder", "hostile", "", remark="not a file", form="folder")
    yield Simulated("a pipe", "hostile", "", remark="not a file", form="pipe")


def _edited_grader(course: Course, cell: str) -> str:
    nb = nbformat.reads(course.notebook({cell: ""}), as_version=4)
    for found in code_cells(nb):
        if kind_of(found) == "grader":
            found.source = "print('all checks passed.')"
    return dumps(nb)


def _unnamed(course: Course) -> str:
    nb = nbformat.reads(course.notebook({}), as_version=4)
    for cell in nb.cells:
        cell.metadata["nbgrader"] = ["no", "dict"]
    return dumps(nb)


def _another(course: Course) -> str:
    pattern = "section_1_*.ipynb" if course.release.section != "1" else "section_4_s*.ipynb"
    return next((ROOT / "exercises").glob(pattern)).read_text("utf-8")
