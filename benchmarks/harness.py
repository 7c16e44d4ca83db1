"""What benchmarks share: simulated tiles on disk, peers in their own environments, costs of a run.

Interface for other benchmarks:

- `tiles(rows, columns)`: a folder with ``tile_rRR_cCC.tif``, ``positions.csv`` (the stage's word)
  and ``truth.csv``, made once.
- `PEERS`: the other programs; `environment(peer)` installs one and returns its Python.
- `run(command)`: the `Cost` of a command and all processes that it starts.
- Each script in ``adapters/`` is called ``python SCRIPT STEP TILES OUT``; STEP is ``register`` or
  ``stitch`` (register, fuse, pyramid). It leaves ``OUT/positions.csv`` (``tile,y,x`` in px) behind.

Everything lies in one cache folder: ``$MOSAICREG_BENCHMARKS``, or ``mosaicreg-benchmarks`` in the
user's cache folder.
"""

from __future__ import annotations

import csv
import hashlib
import math
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ADAPTERS = Path(__file__).parent / "adapters"
CACHE = Path(
    os.environ.get("MOSAICREG_BENCHMARKS")
    or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mosaicreg-benchmarks"
)
CUT_OFF = -1000
"""Exit code of a command that was ended because it took too long."""
STAGE_ERROR = 12.0
"""px; true positions differ from the stage's by up to this much per axis."""
OVERLAP = 0.1


@dataclass(frozen=True)
class Peer:
    """Another program.

    Args:
        name: for people.
        package: what to install, with its version.
        script: its adapter.
        steps: what the adapter can do.
        needs: versions of its dependencies that it does not bound itself.
        unpack: copy the modules out of the source archive: its wheel would be empty.
    """

    name: str
    package: str
    script: str
    steps: tuple[str, ...]
    needs: tuple[str, ...] = ()
    unpack: bool = False


PEERS = (
    Peer("ASHLAR", "ashlar==1.20.0", "with_ashlar.py", ("register", "stitch")),
    Peer(
        "multiview-stitcher",
        "multiview-stitcher==0.1.62",
        "with_multiview_stitcher.py",
        ("register", "stitch"),
    ),
    Peer("ITKMontage", "itk-montage==0.8.5", "with_itk_montage.py", ("register",)),
    Peer(
        "SOFIMA",
        "sofima==0.1",
        "with_sofima.py",
        ("register",),
        # It calls functions that later versions of JAX have lost.
        ("jax==0.4.38", "jaxlib==0.4.38", "tifffile"),
        unpack=True,
    ),
    Peer("m2stitch", "m2stitch==0.7.2", "with_m2stitch.py", ("register",), ("tifffile",)),
)


@dataclass(frozen=True)
class Cost:
    """What a command and all processes that it started used.

    Args:
        cpu: seconds, user and system.
        wall: seconds.
        peak: MB of memory (resident, summed over the processes).
        output: what it printed; the last lines tell why it failed.
        code: its exit code.
    """

    cpu: float
    wall: float
    peak: float
    output: str
    code: int


def run(
    command: Sequence[str | Path], threads: int | None = None, budget: float | None = None
) -> Cost:
    """Run a command to its end and tell what it cost.

    Args:
        threads: of the libraries that ask OMP_NUM_THREADS and its like; as they like where None.
        budget: seconds after which it is ended, of CPU in one process or, twice as many, of wall
            time; its code is `CUT_OFF` then.
    """
    variables = {**os.environ, "PYTHONWARNINGS": "ignore", "PYTHONUNBUFFERED": "1"}
    # Programs are compared as installed: with compiled modules, as every second start has them.
    variables.pop("PYTHONDONTWRITEBYTECODE", None)
    if threads is not None:
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        variables.update(dict.fromkeys(names, str(threads)))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    with subprocess.Popen(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=variables,
        start_new_session=True,
    ) as process:
        if budget is not None and sys.platform == "linux":
            seconds = math.ceil(budget)
            with suppress(ProcessLookupError):
                resource.prlimit(process.pid, resource.RLIMIT_CPU, (seconds, seconds + 5))
        peak = [0.0]
        done = threading.Event()
        watcher = threading.Thread(target=_watch, args=(process.pid, peak, done))
        watcher.start()
        late = False
        try:
            output = process.communicate(timeout=None if budget is None else 2 * budget)[0]
        except BaseException as error:  # Ctrl-C does not reach a session of its own
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            output = process.communicate()[0]
            late = isinstance(error, subprocess.TimeoutExpired)
            if not late:
                raise
        finally:
            done.set()
        wall = time.perf_counter() - start
        watcher.join()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    cut_off = late or process.returncode in (-signal.SIGXCPU, 128 + signal.SIGXCPU)
    return Cost(cpu, wall, peak[0], output, CUT_OFF if cut_off else process.returncode)


def _watch(root: int, peak: list[float], done: threading.Event) -> None:
    """Keep the highest sum of resident memory of a process and its descendants, MB."""
    while not done.wait(0.05):
        total = 0.0
        waiting = [root]
        while waiting:
            pid = waiting.pop()
            try:
                status = Path(f"/proc/{pid}/status").read_text()
                for task in Path(f"/proc/{pid}/task").iterdir():
                    waiting += [int(c) for c in (task / "children").read_text().split()]
            except OSError:
                continue
            # The highest of one process counts even between two looks; of several, their sum now.
            name = "VmHWM:" if pid == root else "VmRSS:"
            total += next((_kib(line) for line in status.splitlines() if line.startswith(name)), 0)
        peak[0] = max(peak[0], total / 1024)


def _kib(line: str) -> float:
    return float(line.split()[1])


def environment(peer: Peer) -> Path:
    """The Python of a virtual environment with this peer, made once.

    Raises:
        RuntimeError: where it cannot be installed, with the reason.
    """
    home = CACHE / "environments" / peer.package.replace("==", "-")
    python = home / "bin" / "python"
    if (home / "complete").exists():
        return python
    shutil.rmtree(home, ignore_errors=True)
    home.parent.mkdir(parents=True, exist_ok=True)
    uv = shutil.which("uv")
    wanted = [peer.package, *peer.needs]
    if uv:
        _tried(uv, "venv", "--quiet", "--python", sys.executable, home)
        # Compiled at once, as pip does: else every start would compile again.
        _tried(uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", python, *wanted)
    else:
        _tried(sys.executable, "-m", "venv", home)
        _tried(python, "-m", "pip", "install", "--quiet", *wanted)
    if peer.unpack:
        _unpack(peer, home)
    (home / "complete").touch()
    return python


def _unpack(peer: Peer, home: Path) -> None:
    """Put the top modules of a source archive into a package of the project's name."""
    name, version = peer.package.split("==")
    folder = home / "source"
    pip = [sys.executable, "-m", "pip"]
    if subprocess.run([*pip, "--version"], capture_output=True, check=False).returncode:
        _tried(home / "bin" / "python", "-m", "ensurepip")
        pip = [str(home / "bin" / "python"), "-m", "pip"]
    _tried(
        *pip, "download", "--quiet", "--no-deps", "--no-binary", name, "-d", folder, peer.package
    )
    shutil.unpack_archive(next(folder.glob("*.tar.gz")), folder)
    site = next((home / "lib").glob("python*/site-packages"))
    shutil.copytree(folder / f"{name}-{version}", site / name)


def _tried(*command: str | Path) -> None:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise RuntimeError(f"{Path(command[0]).name}: " + " ".join(reason))


def versions(python: Path, names: Sequence[str]) -> str:
    """``name version, ...`` of packages installed for a Python."""
    code = (
        "import sys, platform\n"
        "from importlib.metadata import version, PackageNotFoundError\n"
        "found = ['Python ' + platform.python_version()]\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n"
        "        found.append(name + ' ' + version(name))\n"
        "    except PackageNotFoundError:\n"
        "        pass\n"
        "print(', '.join(found))"
    )
    done = subprocess.run([python, "-c", code, *names], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def machine() -> str:
    """Processor, cores in use and system, in words."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        model = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), model)
    return f"{model}, {len(os.sched_getaffinity(0))} cores, {platform.system()}"


def digest(*parts: str | Path) -> str:
    """What results depend on, in 16 letters: words, and the contents of files."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part.read_bytes() if isinstance(part, Path) else part.encode())
        found.update(b"|")
    return found.hexdigest()[:16]


def own_code() -> list[Path]:
    """The files of mosaicreg that registering and solving have loaded."""
    import mosaicreg.layout
    import mosaicreg.registration  # noqa: F401

    loaded = (module for name, module in sorted(sys.modules.items()) if "mosaicreg." in name)
    return sorted({Path(module.__file__) for module in loaded if module.__file__})


def tiles(rows: int, columns: int, progress: Callable[[int, int], None] | None = None) -> Path:
    """The folder of a simulated acquisition with noise and vignetting, made once."""
    from mosaicreg.synthetic import Acquisition, Specimen

    folder = CACHE / "tiles" / f"{rows}x{columns}"
    if (folder / "complete").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    acquisition = Acquisition(
        grid=(rows, columns),
        tile=(1024, 1024),
        overlap=OVERLAP,
        stage_error=STAGE_ERROR,
        specimen=Specimen(2, 0.1),
    )
    acquisition.write(folder, progress)
    (folder / "complete").touch()
    return folder


def read_positions(path: Path) -> dict[str, tuple[float, float]]:
    """(y, x) of each tile from a ``tile,y,x`` file."""
    with path.open(newline="", encoding="utf-8") as file:
        return {r["tile"]: (float(r["y"]), float(r["x"])) for r in csv.DictReader(file)}


def put_away(folder: Path) -> None:
    """Free the space that an earlier run's output takes, and its name, and delete no file yet.

    Where ext4 has no journal, as on virtual machines, it looks at all files that were deleted in
    the last minutes before it makes one: each then costs up to two milliseconds, which no user
    pays who has not just deleted a mosaic.
    """
    if folder.exists():
        for file in folder.rglob("*"):
            if file.is_file() and not file.is_symlink() and file.stat().st_nlink == 1:
                os.truncate(file, 0)
        folder.rename(folder.with_name(f".{folder.name}.{os.urandom(6).hex()}"))


def position_errors(found: Path, truth: Path) -> NDArray[np.float64]:
    """(n,) px from each tile's true position, after the median offset is taken away."""
    true, seen = read_positions(truth), read_positions(found)
    away = np.array([np.subtract(seen[name], true[name]) for name in true])
    away -= np.median(away, axis=0)
    return np.hypot(*away.T)
