"""Cluster files: read, checked, and turned into what each kind of cluster is started with."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
from datetime import timedelta
from importlib import import_module
from pathlib import Path

import dask
import pytest

from mosaicreg import InputError, clusters, objects
from mosaicreg.cluster import current_client, delayed_call, run_tasks, worker_room
from mosaicreg.clusterfile import KINDS, SETTINGS, environment, read_cluster_file
from mosaicreg.clusters import EARNED, LARGE, check_shared, computing
from mosaicreg.errors import MissingExtraError
from mosaicreg.machine import KEPT

CONFIGS = Path(__file__).parents[1] / "cluster-configs"
FILES = sorted(CONFIGS.glob("*.yaml"))


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


# --- reading -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_the_files_that_come_along_are_right_and_say_how_to_use_them(path: Path) -> None:
    file = read_cluster_file(path)
    head = path.read_text(encoding="utf-8").split("kind:")[0]
    assert f"--cluster {path.name}" in head
    assert file.kind == path.stem or path.stem == "tls"
    if extra := KINDS[file.kind].extra:
        assert f'"mosaicreg[{extra}]"' in head
    assert path.name in (CONFIGS / "README.md").read_text(encoding="utf-8")


def test_there_is_a_file_for_every_kind() -> None:
    assert {read_cluster_file(path).kind for path in FILES} == set(KINDS)


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    path = written(tmp_path, "kind: slrm\nfoo: 3\nadapt: {minimum: 3}\noptions: x\nwait: soon\n")
    with pytest.raises(InputError, match=r"mine\.yaml is not a cluster file") as error:
        read_cluster_file(path)
    assert len(error.value.problems) == 5
    for part in ("'foo'", "'slrm', not one of local", "adapt has minimum", "options", "'soon'"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kind: slurm", "starts without workers"),
        ("kind: slurm\nscale: 0", "scale is 0"),
        ("kind: slurm\nscale: yes", "scale is True"),
        ("kind: slurm\nscale: 1\nadapt: {minimum: 1, maximum: 2}", "contradict"),
        ("kind: slurm\nadapt: {minimum: 3, maximum: 2}", "from 3 to 2 workers"),
        ("kind: ssh\nscale: 2", "no scale or adapt"),
        ("kind: [slurm]", "kind is \\['slurm'\\]"),
        ("kind: local\nwait: 0s", "wait is '0s'"),
        ("- kind", "must hold keys and values"),
        ("kind: {", "not YAML"),
        ("", "must hold keys and values"),
    ],
)
def test_what_cannot_be_meant_is_refused(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        read_cluster_file(written(tmp_path, text))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such cluster file"):
        read_cluster_file(tmp_path / "none.yaml")


def test_a_file_cannot_run_code(tmp_path: Path) -> None:
    path = written(tmp_path, "kind: !!python/object/apply:os.system [exit]")
    with pytest.raises(InputError, match="not YAML"):
        read_cluster_file(path)


def test_dask_settings_may_be_nested_or_dotted_and_go_before_ours(tmp_path: Path) -> None:
    text = """
kind: local
dask:
  distributed:
    worker: {memory: {spill: 0.9}}
  distributed.scheduler.worker-saturation: 1.2
"""
    found = read_cluster_file(written(tmp_path, text)).dask
    assert found == {
        **SETTINGS,
        "distributed.worker.memory.spill": 0.9,
        "distributed.scheduler.worker-saturation": 1.2,
    }


def test_settings_as_environment_mean_the_same_to_dask() -> None:
    variables = environment({**SETTINGS, "distributed.comm.timeouts.connect": "60s"})
    assert variables["MALLOC_TRIM_THRESHOLD_"] == str(KEPT)
    read = dask.config.collect_env(variables)
    with dask.config.set(config={}):
        for key in ("worker-saturation",):
            assert dask.config.get(f"distributed.scheduler.{key}", config=read) == 1.0
        assert dask.config.get("distributed.worker.memory.spill", config=read) is False
        assert dask.config.get("distributed.comm.timeouts.connect", config=read) == "60s"


# --- what is handed to schedulers ----------------------------------------------------------------

DIRECTIVES = {
    "slurm": [
        "#SBATCH -p debug",
        "#SBATCH -n 1",
        "#SBATCH --cpus-per-task=2",
        "#SBATCH --mem=4G",
        "#SBATCH -t 00:30:00",
    ],
    "pbs": [
        "#PBS -q workq",
        "#PBS -l select=1:ncpus=4:mem=16gb",
        "#PBS -l walltime=02:00:00",
    ],
    "sge": [
        "#$ -q all.q",
        "#$ -l h_vmem=4G",
        "#$ -l h_rt=02:00:00",
        "#$ -pe smp 4",
    ],
    "lsf": [
        "#BSUB -q normal",
        "#BSUB -n 4",
        "#BSUB -R \"span[hosts=1]\"",
        "#BSUB -M 17180",
        "#BSUB -W 02:00",
    ],
    "htcondor": [
        "RequestCpus = MY.DaskWorkerCores",
        "RequestMemory = floor(MY.DaskWorkerMemory / 1048576)",
        "MY.DaskWorkerCores = 4",
        "MY.DaskWorkerMemory = 17179869184",
        "MY.DaskWorkerDisk = 1073741824",
        "MaxRuntime = 7200",
    ],
}  # fmt: skip


@pytest.mark.parametrize("kind", DIRECTIVES)
def test_job_scripts_ask_for_what_the_file_says(kind: str) -> None:
    pytest.importorskip("dask_jobqueue", reason="dask-jobqueue writes job scripts")
    file = read_cluster_file(CONFIGS / f"{kind}.yaml")
    with dask.config.set(dict(file.dask)):
        make = getattr(import_module("dask_jobqueue"), KINDS[kind].name)
        with make(**file.arguments()) as cluster:
            script = cluster.job_script()
            address = cluster.scheduler_address
    lines = [line.strip() for line in script.splitlines()]
    for line in DIRECTIVES[kind]:
        assert line in lines, script
    assert re.search(rf"-m distributed\.cli\.dask_worker {re.escape(address)} ", script)
    assert "--nthreads 1" in script
    assert f"--nworkers {file.options['processes']}" in script
    for name, value in environment(SETTINGS).items():
        assert f"export {name}={value}" in script
    # Workers go before the batch system would kill them.
    lifetime = re.search(r"--lifetime (\d+)m --lifetime-stagger (\d+)m", script)
    hours, minutes = (int(v) for v in file.options.get("walltime", "2:00:00").split(":")[:2])
    assert lifetime
    assert sum(int(v) for v in lifetime.groups()) < 60 * hours + minutes


@pytest.mark.filterwarnings("ignore:unclosed cluster:ResourceWarning")  # half made, says dask
def test_options_that_a_class_does_not_know_are_an_input_error(tmp_path: Path) -> None:
    pytest.importorskip("dask_jobqueue", reason="dask-jobqueue makes SLURM clusters")
    text = "kind: slurm\nscale: 1\noptions: {cores: 1, memory: 1GB, partition: debug}"
    with (
        pytest.raises(InputError, match=r"no slurm cluster can be made.*partition"),
        computing(cluster=written(tmp_path, text)),
    ):
        pass
    gc.collect()  # here, not in another test


def test_a_missing_package_says_what_to_install(tmp_path: Path, monkeypatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(clusters, "import_module", absent)
    path = written(tmp_path, "kind: slurm\nscale: 1")
    with pytest.raises(MissingExtraError, match=r"mosaicreg\[hpc\]"), computing(cluster=path):
        pass


# --- where work is done --------------------------------------------------------------------------


def settings_of_worker() -> tuple[object, object]:
    import zarr

    return dask.config.get("distributed.worker.memory.spill"), zarr.config.get(
        "threading.max_workers"
    )


def test_an_encrypted_cluster_with_our_settings(tmp_path: Path) -> None:
    with computing(cluster=CONFIGS / "tls.yaml") as place:
        assert place.startswith("on the local cluster of tls.yaml, ")
        client = current_client()
        assert client is not None
        assert client.scheduler.address.startswith("tls://")
        assert run_tasks([delayed_call(settings_of_worker)], "work") == [(False, 1)]
        assert worker_room() == (4 << 30, 1)
        check_shared([tmp_path], tmp_path / "out.ome.zarr")
        with pytest.raises(InputError, match=r"does not see .*elsewhere"):
            check_shared([tmp_path / "elsewhere"])
    assert current_client() is None
    assert list(tmp_path.iterdir()) == []


def test_a_small_job_stays_in_this_process_or_forks_it_and_a_large_one_starts_a_cluster() -> None:
    # Of what a fork takes, see test_processes.py; here other threads may run.
    with computing(workers=2, fork=False) as place:
        assert place == "on 2 threads"
        assert dask.config.get("num_workers") == 2
        check_shared([Path("nowhere")])  # nobody else has to see it
    with computing(workers=1, size=5_000_000) as place:
        assert place == "on 1 thread (0.0 GB of tiles: a small job)"
    with computing(workers=1, size=LARGE) as place:
        assert place == "on 1 worker process (4.3 GB of tiles: a large job)"
        client = current_client()
        assert client is not None
        assert list(client.nthreads().values()) == [1]


@pytest.mark.parametrize(("size", "count"), [(0, 64), (1, 1), (200 << 20, 3), (LARGE - 1, 63)])
def test_small_jobs_get_no_more_workers_than_they_have_work_for(monkeypatch, size, count) -> None:
    monkeypatch.setattr(clusters, "cores_of_process", lambda: 64)
    monkeypatch.setattr(clusters, "hindrance", lambda: "tests")  # none need be forked
    with computing(size=size) as place:
        assert re.match(rf"on {count} threads?\b", place)
    with computing(size=size, workers=2) as place:
        assert place.startswith("on 2 threads")


def test_options_that_contradict_each_other(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match="--scheduler and --workers or --memory-limit contradict"),
        computing("tcp://x:1", workers=2),
    ):
        pass
    with (
        pytest.raises(InputError, match="--scheduler and --cluster contradict"),
        computing("tcp://x:1", cluster=tmp_path / "a.yaml"),
    ):
        pass


def test_a_scheduler_that_does_not_answer(monkeypatch) -> None:
    monkeypatch.setattr(clusters, "CONNECT", 0.5)
    with (
        pytest.raises(InputError, match=r"no dask scheduler answers at tcp://127.0.0.1:9"),
        computing("tcp://127.0.0.1:9"),
    ):
        pass


def test_workers_with_another_mosaicreg_are_refused(monkeypatch) -> None:
    def versions(packages: list[str]) -> dict[str, object]:
        here = dict.fromkeys(packages, "1.0")
        workers = {
            "tcp://a:1": {"packages": here | {"numpy": "0.9"}},
            "tcp://b:1": {"packages": here | {"mosaicreg": None}},
        }
        return {"client": {"packages": here}, "workers": workers}

    class FakeClient:
        get_versions = staticmethod(versions)

    told: list[str] = []
    with pytest.raises(InputError, match=r"tcp://b:1 has none, here is 1.0"):
        clusters._check_versions(FakeClient(), told.append)


# --- the page about it ---------------------------------------------------------------------------

PAGE = (CONFIGS.parent / "docs" / "cluster.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_file_on_the_page_is_right(tmp_path: Path) -> None:
    (text,) = blocks("yaml")
    file = read_cluster_file(written(tmp_path, text))
    assert (file.kind, file.adapt, file.wait) == ("slurm", {"minimum": 8, "maximum": 80}, 12 * 3600)


def test_the_python_of_the_page_runs(acquisition, tmp_path: Path) -> None:
    (code,) = blocks("python")
    acquisition.write(tmp_path / "demo_tiles")
    (tmp_path / "local.yaml").write_text((CONFIGS / "local.yaml").read_text(encoding="utf-8"))
    (tmp_path / "job.py").write_text(code, encoding="utf-8")
    found = subprocess.run(
        [sys.executable, "job.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    place, layout = found.stdout.splitlines()[:2]
    assert place.startswith("on the local cluster of local.yaml, ")
    assert layout.startswith("Layout: 12 tiles")


def test_the_settings_of_the_page_are_those_of_the_program() -> None:
    shell = "\n".join(blocks("sh")).partition("REQUIRE_ENC")[0]
    settings = dict(re.findall(r"(DASK_\w+|ZARR_\w+)=(\S+)", shell))
    assert len(settings) == 4
    assert {name: environment(SETTINGS)[name] for name in settings} == settings


def test_times_and_sizes_of_the_page_are_those_of_the_program() -> None:
    assert round(LARGE / 1e9) == 4
    assert "Up to 4 GB of tiles" in PAGE
    assert EARNED == 64 << 20
    assert "less than 64 MB of tiles" in PAGE
    assert objects.TIMEOUTS == {"connect_timeout": "10s", "timeout": "120s"}
    assert "after 120 s (10 s to connect)" in PAGE
    assert objects.RETRIES["retry_timeout"] == timedelta(minutes=3)
    assert "for three minutes in all" in PAGE
