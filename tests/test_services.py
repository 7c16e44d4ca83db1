"""The whole job on real schedulers: SLURM, TLS between hosts, SSH; what Kubernetes is asked for.

These start servers, and need their programs and root: they run when MOSAICREG_SERVICES=1, as in
.ci/run, and then fail where something is missing.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dask
import pytest
import servers
import yaml

from mosaicreg import (
    InputError,
    assemble,
    objects,
    open_mosaic,
    register,
    solve_layout,
    write_ome_zarr,
)
from mosaicreg.clusterfile import read_cluster_file
from mosaicreg.clusters import computing
from mosaicreg.objects import ObjectPath

CONFIGS = Path(__file__).parents[1] / "cluster-configs"

pytestmark = [
    pytest.mark.services,
    pytest.mark.skipif(
        os.environ.get("MOSAICREG_SERVICES") != "1",
        reason="starts real servers as root: set MOSAICREG_SERVICES=1, as .ci/run does",
    ),
]


def pixels(archive: Path) -> dict[str, str]:
    """Digest of every file of the image's levels (provenance tells of the command, so differs)."""
    found = {
        str(p.relative_to(archive)): hashlib.sha256(p.read_bytes()).hexdigest()
        for level in archive.glob("[0-9]")
        for p in level.rglob("*")
        if p.is_file()
    }
    assert len(found) > 10
    return found


def stitch(folder: Path, *options: str | Path, env: Mapping[str, str] | None = None) -> str:
    """The command of the README with small shards, in ``folder``, with relative paths."""
    command = [
        sys.executable, "-m", "mosaicreg", "stitch", "tiles", "-o", "out.ome.zarr",
        "--positions", "tiles/positions.csv", "--chunk", "64", "--shard", "128", *map(str, options),
    ]  # fmt: skip
    found = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **(env or {})},
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert found.returncode == 0, found.stdout
    return found.stdout


@pytest.fixture(scope="module")
def expected(acquisition, tmp_path_factory) -> dict[str, str]:
    """The files of an archive that threads of one process have written."""
    folder = tmp_path_factory.mktemp("threads")
    acquisition.write(folder / "tiles")
    stitch(folder, "--workers", "1")
    return pixels(folder / "out.ome.zarr")


def test_slurm_by_the_file_that_comes_along(tiles: Path, expected) -> None:
    folder = tiles.parent
    with servers.slurm(folder / "slurm") as env:
        said = stitch(folder, "--cluster", CONFIGS / "slurm.yaml", env=env)
        left = servers.call("squeue", "-h", "-t", "PD,R", env={**os.environ, **env})
    assert "Working on the slurm cluster of slurm.yaml" in said
    assert pixels(folder / "out.ome.zarr") == expected
    assert left == ""


@pytest.fixture
def encrypted(tmp_path: Path):
    """A scheduler here and two workers on hosts of their own, all with TLS."""
    tls = servers.certificates(tmp_path)
    module = [sys.executable, "-m"]
    with servers.hosts(2) as (here, others):
        port = servers.free_port(here)
        address = f"tls://{here}:{port}"
        scheduler = [
            *module, "distributed.cli.dask_scheduler", "--protocol", "tls", "--host", here,
            "--port", str(port), "--dashboard-address", ":0",
        ]  # fmt: skip
        worker = [*module, "distributed.cli.dask_worker", address, "--nthreads", "1"]
        (name1, host1), (name2, host2) = others
        enter = ["ip", "netns", "exec"]
        log = tmp_path / "log"
        with (
            servers.running(scheduler, log, tls, "/"),
            servers.running([*enter, name1, *worker, "--host", host1], log, tls, "/"),
            servers.running([*enter, name2, *worker, "--host", host2], log, tls, "/") as second,
        ):
            servers.wait_for("the scheduler", lambda: servers.answers(here, port))
            servers.wait_for("workers", lambda: log.read_text().count("Registered to:") >= 2)
            yield address, tls, second


def test_hosts_with_tls_and_one_that_dies(tiles: Path, encrypted, expected, monkeypatch) -> None:
    address, tls, second = encrypted
    folder = tiles.parent
    monkeypatch.setattr("mosaicreg.clusters.CONNECT", 2)
    with (
        pytest.raises(InputError, match="no dask scheduler answers"),
        computing(address.replace("tls:", "tcp:")),
    ):
        pass
    monkeypatch.undo()

    said = stitch(folder, "--scheduler", address, env=tls)
    assert f"Working on {address}, 2 workers" in said
    assert pixels(folder / "out.ome.zarr") == expected

    killed = []

    def kill_one(stage: str, done: int, total: int) -> None:
        if stage == "write" and done == 5:
            servers.end(second, signal.SIGKILL)
            killed.append(total)

    names = {name: name.removeprefix("DASK_").lower().replace("__", ".") for name in tls}
    config = {names[name]: value for name, value in tls.items()}
    with dask.config.set(config), computing(address) as place:
        assert place.endswith("2 workers so far")
        mosaic = open_mosaic(tiles, positions=tiles / "positions.csv")
        layout = solve_layout(mosaic, register(mosaic))
        image = assemble(mosaic, layout, block=128)
        out = folder / "again.ome.zarr"
        write_ome_zarr(
            image, out, mosaic=mosaic, layout=layout, chunk=64, shard=128, progress=kill_one
        )
    assert killed
    assert killed[0] > 10
    assert pixels(out) == expected


def test_ssh_by_the_file_that_comes_along(tiles: Path, expected, tmp_path: Path) -> None:
    content = yaml.safe_load((CONFIGS / "ssh.yaml").read_text(encoding="utf-8"))
    with servers.sshd(tmp_path) as connect_options:
        content["options"] |= {
            "hosts": ["127.0.0.1"] * 3,
            "connect_options": connect_options,
            "remote_python": sys.executable,
        }
        content["options"]["worker_options"]["n_workers"] = 1
        (tmp_path / "ssh.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
        said = stitch(tiles.parent, "--cluster", tmp_path / "ssh.yaml")
    assert "Working on the ssh cluster of ssh.yaml" in said
    assert pixels(tiles.parent / "out.ome.zarr") == expected


@pytest.fixture
def bucket(monkeypatch) -> Iterator[tuple[servers.Gateway, ObjectPath]]:
    """A bucket of a real S3 server."""
    import boto3

    # A short path: sockets have names of a hundred letters at most.
    with TemporaryDirectory(prefix="ceph") as folder, servers.ceph(Path(folder)) as gateway:
        for name, value in gateway.env.items():
            monkeypatch.setenv(name, value)
        objects._store.cache_clear()
        endpoint = gateway.env["AWS_ENDPOINT_URL"]
        client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
        client.create_bucket(Bucket="mosaics")
        client.close()
        yield gateway, ObjectPath("s3://mosaics")
    objects._store.cache_clear()


def test_s3_through_a_kill_and_an_outage(tiles: Path, bucket, expected) -> None:
    """Bucket to bucket: the client is killed, then the server goes away for a while."""
    gateway, place = bucket
    out = place / "out.ome.zarr"
    options = ["--chunk", "64", "--shard", "128", "--workers", "1", "--memory-limit", "2GB"]
    command = [
        sys.executable, "-m", "mosaicreg", "stitch", str(place / "tiles"), "-o", str(out),
        *options,
    ]  # fmt: skip
    log = tiles.parent / "log"

    def shards() -> int:
        return sum(1 for key in (out / "0").walk_keys() if key.startswith("c/"))

    for path in tiles.iterdir():
        (place / "tiles" / path.name).write_bytes(path.read_bytes())
    with servers.running(command, log) as client:
        servers.wait_for("the first shards", lambda: shards() > 4)
        servers.end(client, signal.SIGKILL)
    assert 4 < shards() < 42
    with servers.running(command, log) as client:
        servers.wait_for("more shards", lambda: shards() > 14 or client.poll() is not None)
        assert client.poll() is None, log.read_text()
        gateway.stop()
        time.sleep(4)
        gateway.start()
        assert client.wait(200) == 0, log.read_text()
    found = {
        key: hashlib.sha256((out / key).read_bytes()).hexdigest()
        for key in out.walk_keys()
        if key[0].isdigit()
    }
    assert found == expected
    again = servers.call(*command)
    assert "Nothing to do" in again
    secret = gateway.env["AWS_SECRET_ACCESS_KEY"]
    assert secret not in again + log.read_text()
    assert not any(secret.encode() in (out / key).read_bytes() for key in out.walk_keys())


# --- what the others are asked for ---------------------------------------------------------------


def closed(schema: Any) -> Any:
    """A schema that allows no property which it does not name."""
    if isinstance(schema, dict):
        schema = {k: closed(v) for k, v in schema.items()}
        free = (
            schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
        )
        if "properties" in schema and not free:
            schema["additionalProperties"] = False
    elif isinstance(schema, list):
        schema = [closed(v) for v in schema]
    return schema


def test_kubernetes_accepts_what_the_file_asks_for() -> None:
    import dask_kubernetes
    import kubernetes_validate
    from dask_kubernetes.operator import KubeCluster, make_cluster_spec
    from jsonschema import Draft202012Validator

    arguments = read_cluster_file(CONFIGS / "kubernetes.yaml").arguments()
    known = inspect.signature(KubeCluster.__init__).parameters
    assert set(arguments) <= set(known)
    own = inspect.signature(make_cluster_spec).parameters
    spec = make_cluster_spec(**{k: v for k, v in arguments.items() if k in own})

    operator = Path(dask_kubernetes.__file__).parent / "operator/deployment/helm"
    crd = operator / "dask-kubernetes-operator/crds/daskcluster.yaml"
    definition = yaml.safe_load(crd.read_text(encoding="utf-8"))
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    schema["properties"] |= {"apiVersion": {}, "kind": {}, "metadata": {"type": "object"}}
    Draft202012Validator(closed(schema)).validate(spec)
    assert spec["spec"]["worker"]["replicas"] == 8
    for part in ("worker", "scheduler"):
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": part},
            "spec": spec["spec"][part]["spec"],
        }
        kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)
    container = spec["spec"]["worker"]["spec"]["containers"][0]
    assert {"name": "DASK_DISTRIBUTED__WORKER__MEMORY__SPILL", "value": "False"} in container["env"]
    assert container["resources"]["limits"] == {"memory": "4Gi"}


def test_a_gateway_knows_the_keys_of_the_file() -> None:
    from dask_gateway import GatewayCluster

    arguments = read_cluster_file(CONFIGS / "gateway.yaml").arguments()
    inspect.signature(GatewayCluster.__init__).bind(None, **arguments)
    assert arguments == {"address": "https://gateway.example.org"}
