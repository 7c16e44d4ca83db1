"""Cluster files: what kind of cluster to make, and with which options.

A cluster file is YAML with these keys and no others:

- ``kind``: one of `KINDS`.
- ``options``: arguments of the class that makes such a cluster, as its own documentation has them.
- ``scale``: how many workers; or ``adapt``: ``{minimum: 1, maximum: 40}``, as work demands.
- ``dask``: dask configuration, nested or dotted; it goes before `SETTINGS`.
- ``wait``: how long the first worker may take, e.g. ``30m``.

``cluster-configs/`` holds one for each kind.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mosaicreg.errors import InputError
from mosaicreg.machine import KEPT

ENVIRONMENT = "distributed.nanny.pre-spawn-environ."
SETTINGS: Mapping[str, Any] = MappingProxyType(
    {
        # A worker gets a task when it is free for it, not before: nothing piles up in its memory.
        "distributed.scheduler.worker-saturation": 1.0,
        # Tasks keep nothing but receipts: what a worker would spill, it would only need again.
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": False,
        # Its records grow with time: 60 MB in ten minutes were measured.
        "distributed.worker.profile.enabled": False,
        # Free memory goes back to the system, so that the limit is about what is in use, but not at
        # once: asking for it again and again took half of a worker's CPU.
        ENVIRONMENT + "MALLOC_TRIM_THRESHOLD_": KEPT,
        ENVIRONMENT + "MALLOC_MMAP_THRESHOLD_": KEPT,
        # One task fills one core: no threads of BLAS or zarr beside it.
        ENVIRONMENT + "OMP_NUM_THREADS": 1,
        ENVIRONMENT + "OPENBLAS_NUM_THREADS": 1,
        ENVIRONMENT + "MKL_NUM_THREADS": 1,
        ENVIRONMENT + "ZARR_THREADING__MAX_WORKERS": 1,
    }
)
"""What suits mosaicreg's tasks, in dask's configuration, for clusters that are made here."""


@dataclass(frozen=True)
class Kind:
    """How a kind of cluster is made.

    Args:
        module, name: the class.
        extra: what has to be installed for it.
        package: what that installs.
        wait: seconds that the first worker may take where the file does not say.
        batch: whether dask-jobqueue writes job scripts for it.
        scales: whether the number of workers can be chosen.
    """

    module: str
    name: str
    extra: str = ""
    package: str = ""
    wait: float = 60
    batch: bool = False
    scales: bool = True


def _batch_system(name: str) -> Kind:
    return Kind("dask_jobqueue", name, "hpc", "dask-jobqueue", wait=3600, batch=True)


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "local": Kind("distributed", "LocalCluster"),
        "ssh": Kind("distributed", "SSHCluster", "hpc", "asyncssh", scales=False),
        "slurm": _batch_system("SLURMCluster"),
        "pbs": _batch_system("PBSCluster"),
        "sge": _batch_system("SGECluster"),
        "lsf": _batch_system("LSFCluster"),
        "htcondor": _batch_system("HTCondorCluster"),
        "kubernetes": Kind(
            "dask_kubernetes.operator", "KubeCluster", "kubernetes", "dask-kubernetes", wait=3600
        ),
        "gateway": Kind("dask_gateway", "GatewayCluster", "gateway", "dask-gateway", wait=3600),
    }
)


@dataclass(frozen=True)
class ClusterFile:
    """What a cluster file says, checked; see the module's docstring for its keys.

    ``dask`` is flat, with dotted keys, and includes `SETTINGS`; ``wait`` is in seconds.
    """

    path: Path
    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)
    scale: int | None = None
    adapt: Mapping[str, int] | None = None
    dask: Mapping[str, Any] = field(default_factory=dict)
    wait: float = 60

    def arguments(self) -> dict[str, Any]:
        """The options, and what carries the dask configuration to workers elsewhere."""
        options = dict(self.options)
        if KINDS[self.kind].batch:
            exports = [f"export {k}={shlex.quote(v)}" for k, v in environment(self.dask).items()]
            options["job_script_prologue"] = [*exports, *options.get("job_script_prologue", ())]
        if self.kind == "kubernetes":
            options["env"] = {**environment(self.dask), **options.get("env", {})}
            # Not three at first, dask's default, which may be more than were asked for.
            options["n_workers"] = self.adapt["minimum"] if self.adapt else self.scale
        return options


def read_cluster_file(path: Path) -> ClusterFile:
    """Read and check a cluster file.

    Raises:
        InputError: for a missing file, text that is no YAML, and all keys and values that cannot
            be meant, together.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such cluster file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: unreadable ({error})") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: not a cluster file: it must hold keys and values, kind first")
    problems = list(_problems(content))
    if problems:
        raise InputError(f"{path} is not a cluster file that can be used", problems)
    kind = content["kind"]
    return ClusterFile(
        path=path,
        kind=kind,
        options=content.get("options") or {},
        scale=content.get("scale"),
        adapt=content.get("adapt"),
        dask={**SETTINGS, **_flat(content.get("dask") or {})},
        wait=_seconds(content["wait"]) if "wait" in content else KINDS[kind].wait,
    )


def environment(dask_config: Mapping[str, Any]) -> dict[str, str]:
    """Dask configuration as environment variables, for workers that start elsewhere."""
    variables = {}
    for key, value in dask_config.items():
        if key.startswith(ENVIRONMENT):
            variables[key.removeprefix(ENVIRONMENT)] = str(value)
        else:
            name = key.replace("-", "_").replace(".", "__").upper()
            variables[f"DASK_{name}"] = value if isinstance(value, str) else repr(value)
    return variables


_KEYS = {"kind", "options", "scale", "adapt", "dask", "wait"}


def _problems(content: dict[Any, Any]) -> Iterator[str]:
    """What is wrong with a cluster file, one sentence each."""
    for key in content:
        if key not in _KEYS:
            yield f"{key!r} is not a key of a cluster file; those are {', '.join(sorted(_KEYS))}"
    name = content.get("kind")
    kind = KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        yield f"kind is {name!r}, not one of {', '.join(KINDS)}"
    for key in ("options", "dask", "adapt"):
        if not isinstance(content.get(key) or {}, dict):
            yield f"{key} is {content[key]!r}, not keys and values"
    scale, adapt = content.get("scale"), content.get("adapt")
    if scale is not None and (not _whole(scale) or scale < 1):
        yield f"scale is {scale!r}, not a number of workers"
    if isinstance(adapt, dict):
        yield from _adapt_problems(adapt)
    if scale is not None and adapt is not None:
        yield "scale and adapt contradict each other; give one of them"
    if kind and not kind.scales and (scale is not None or adapt is not None):
        yield f"a cluster of kind {name} has the workers that its options name: no scale or adapt"
    if kind and kind.scales and name != "local" and scale is adapt is None:
        yield f"a cluster of kind {name} starts without workers: say scale or adapt"
    if "wait" in content and _seconds(content["wait"]) <= 0:
        yield f"wait is {content['wait']!r}, not a time such as 30m"


def _adapt_problems(adapt: dict[Any, Any]) -> Iterator[str]:
    if set(adapt) != {"minimum", "maximum"}:
        yield f"adapt has {', '.join(map(str, adapt)) or 'nothing'}, not minimum and maximum"
    elif not all(_whole(v) for v in adapt.values()) or not (
        0 <= adapt["minimum"] <= adapt["maximum"] and adapt["maximum"] > 0
    ):
        yield f"adapt goes from {adapt['minimum']!r} to {adapt['maximum']!r} workers"


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _seconds(value: Any) -> float:
    """A time like ``30m`` in seconds; -1 where it is none."""
    from dask.utils import parse_timedelta

    try:
        return float(parse_timedelta(value))
    except (KeyError, TypeError, ValueError):
        return -1.0


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested configuration with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
