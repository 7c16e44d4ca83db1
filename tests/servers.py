"""Real servers for tests, each in one folder of its own, ended by the process that started them.

Nothing here touches servers that run already: own ports, own sockets, own network namespaces.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path


def needed(*programs: str) -> None:
    """Fail where a program is not installed: these tests are asked for, not skipped."""
    missing = [p for p in programs if shutil.which(p) is None]
    assert not missing, f"not installed: {', '.join(missing)}; .ci/run says which packages"


def free_port(host: str = "127.0.0.1") -> int:
    """A port to serve on, below those that the system hands out to connections."""
    while True:
        port = random.randrange(15000, 32000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind((host, port))
            return port


def wait_for(what: str, ready: Callable[[], object], seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, f"{what} did not come up within {seconds} s"
        time.sleep(0.2)


def answers(host: str, port: int) -> bool:
    with suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


@contextmanager
def running(
    command: Sequence[str | Path],
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | str | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a session of its own; all that it started ends with it."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            [str(c) for c in command],
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            end(process)


def end(process: subprocess.Popen[bytes], how: signal.Signals = signal.SIGTERM) -> None:
    """End a process and its session."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, how)
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def call(*command: str | Path, **options: object) -> str:
    """Run a command that must succeed; its output."""
    found = subprocess.run(  # type: ignore[call-overload]
        [str(c) for c in command], capture_output=True, text=True, check=False, **options
    )
    assert found.returncode == 0, f"{command}: {found.stdout}{found.stderr}"
    output: str = found.stdout
    return output


def said(*command: str | Path) -> str:
    """The output of a command; "" where it fails or takes too long."""
    with suppress(subprocess.SubprocessError):
        words = [str(c) for c in command]
        return (
            subprocess.run(words, capture_output=True, text=True, timeout=30, check=True).stdout
            or "nothing"
        )
    return ""


# --- SLURM ---------------------------------------------------------------------------------------

SLURM_CONF = """
ClusterName=mosaicreg
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
SlurmUser=root
SlurmdUser=root
SlurmctldPort={ports[0]}
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdSpoolDir={folder}/spool
SlurmdPidFile={folder}/slurmd.pid
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
ReturnToService=2
MpiDefault=none
KillWait=5
SlurmdParameters=config_overrides
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=8000
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@contextmanager
def slurm(folder: Path) -> Iterator[dict[str, str]]:
    """One node with two cores; the environment in which sbatch reaches it."""
    needed("munged", "slurmctld", "slurmd", "sbatch", "sinfo")
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    conf = folder / "slurm.conf"
    ports = (free_port(), free_port())
    conf.write_text(SLURM_CONF.format(host=socket.gethostname(), folder=folder, ports=ports))
    env = {"SLURM_CONF": str(conf)}
    munged = [
        "munged", "--foreground", "--force", f"--socket={folder}/munge.socket",
        f"--key-file={key}", f"--pid-file={folder}/munged.pid", f"--seed-file={folder}/munge.seed",
        f"--log-file={folder}/munged.log",
    ]  # fmt: skip
    with running(munged, folder / "munged.out"):
        wait_for("munged", (folder / "munge.socket").exists)
        with (
            running(["slurmctld", "-D", "-f", conf], folder / "slurmctld.out", env),
            running(["slurmd", "-D", "-f", conf, "-N", "n1"], folder / "slurmd.out", env),
        ):

            def idle() -> bool:
                found = subprocess.run(
                    ["sinfo", "-h", "-o", "%T"],
                    env={**os.environ, **env},
                    capture_output=True,
                    text=True,
                    check=False,
                )
                return found.stdout.strip() == "idle"

            wait_for("SLURM", idle)
            yield env


# --- hosts ---------------------------------------------------------------------------------------


@contextmanager
def hosts(count: int) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """A network of its own: the address of this machine, and (namespace, address) of each host."""
    needed("ip")
    tag = f"m{os.getpid() % 100000}"
    subnet = f"10.{100 + os.getpid() % 100}.{os.getpid() // 100 % 250}"
    names = [f"{tag}h{k}" for k in range(count)]
    made: list[tuple[str, ...]] = []
    try:
        call("ip", "link", "add", f"{tag}b", "type", "bridge")
        made.append(("link", "del", f"{tag}b"))
        call("ip", "addr", "add", f"{subnet}.1/24", "dev", f"{tag}b")
        call("ip", "link", "set", f"{tag}b", "up")
        for k, name in enumerate(names):
            call("ip", "netns", "add", name)
            made.append(("netns", "del", name))
            call(
                "ip",
                "link",
                "add",
                f"{tag}v{k}",
                "type",
                "veth",
                "peer",
                "name",
                "eth0",
                "netns",
                name,
            )
            call("ip", "link", "set", f"{tag}v{k}", "master", f"{tag}b", "up")
            inside = ("ip", "-n", name)
            call(*inside, "addr", "add", f"{subnet}.{11 + k}/24", "dev", "eth0")
            call(*inside, "link", "set", "eth0", "up")
            call(*inside, "link", "set", "lo", "up")
        yield f"{subnet}.1", [(name, f"{subnet}.{11 + k}") for k, name in enumerate(names)]
    finally:
        for command in reversed(made):
            subprocess.run(["ip", *command], check=False)


def certificates(folder: Path) -> dict[str, str]:
    """Certificates of an own authority, as dask's configuration in environment variables."""
    import trustme

    authority = trustme.CA()
    own = authority.issue_cert("mosaicreg.test")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    own.private_key_and_cert_chain_pem.write_to_path(folder / "own.pem")
    roles = {
        f"DASK_DISTRIBUTED__COMM__TLS__{role}__{part}": str(folder / "own.pem")
        for role in ("SCHEDULER", "WORKER", "CLIENT")
        for part in ("CERT", "KEY")
    }
    return {
        "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "True",
        "DASK_DISTRIBUTED__COMM__TLS__CA_FILE": str(folder / "ca.pem"),
        **roles,
    }


# --- SSH -----------------------------------------------------------------------------------------


@contextmanager
def sshd(folder: Path) -> Iterator[dict[str, object]]:
    """An SSH server for one key; asyncssh's options for reaching it."""
    needed("sshd", "ssh-keygen")
    for name in ("host", "user"):
        call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name)
    Path("/run/sshd").mkdir(exist_ok=True)  # where sshd locks itself in; it will not start without
    port = free_port()
    # A login of the same machine, with what that sets for all: of another kernel's numbers, the
    # last digits differ.
    blas = [f"{k}={v}" for k, v in os.environ.items() if k.startswith("OPENBLAS_")]
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile none\n"
        f"AuthorizedKeysFile {folder}/user.pub\nStrictModes no\nUsePAM no\n"
        "PasswordAuthentication no\nPermitRootLogin prohibit-password\n"
        + (f"SetEnv {' '.join(blas)}\n" if blas else "")
    )
    sshd_path = shutil.which("sshd")
    assert sshd_path is not None
    with running([sshd_path, "-D", "-e", "-f", folder / "sshd_config"], folder / "sshd.log"):
        wait_for("sshd", lambda: answers("127.0.0.1", port))
        yield {
            "port": port,
            "username": os.environ.get("USER", "root"),
            "client_keys": [str(folder / "user")],
            "known_hosts": None,
        }


# --- S3 ------------------------------------------------------------------------------------------

CEPH_CONF = """
[global]
fsid = {fsid}
mon host = v1:127.0.0.1:{ports[0]}
mon initial members = a
public network = 127.0.0.0/8
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
ms bind msgr2 = false
mon data = {folder}/mon
mgr data = {folder}/mgr
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = 1073741824
log file = {folder}/$name.log
admin socket = {folder}/run/$name.asok
pid file = {folder}/run/$name.pid
run dir = {folder}/run
osd class load list = *
osd class default list = *
mon warn on pool no redundancy = false
rgw data = {folder}/rgw
rgw frontends = beast endpoint=127.0.0.1:{ports[1]}
"""


@contextmanager
def ceph_daemon(
    command: Sequence[str | Path], log: Path, ready: Callable[[], bool], seconds: float = 180
) -> Iterator[None]:
    """A daemon of Ceph that is ready.

    Ceph's clients may speak to the monitor before it has told them which cluster this is ("wrong
    fsid"), and end at that: they are started again.
    """
    deadline = time.monotonic() + seconds
    while True:
        with ExitStack() as stack:
            process = stack.enter_context(running(command, log))
            while process.poll() is None and not ready():
                told = log.read_text()[-3000:]
                assert time.monotonic() < deadline, f"{command[0]} did not come up: {told}"
                time.sleep(0.2)
            if process.poll() is None:
                yield
                return


class Gateway:
    """A Ceph object gateway: S3, kept in memory. ``env`` is where its address and keys are."""

    def __init__(self, env: dict[str, str], command: list[str | Path], log: Path) -> None:
        self.env, self._command, self._log = env, command, log
        self._port = int(env["AWS_ENDPOINT_URL"].rpartition(":")[2])
        self._running = ExitStack()

    def start(self) -> None:
        """It answers from now on."""
        daemon = ceph_daemon(self._command, self._log, lambda: answers("127.0.0.1", self._port))
        self._running.enter_context(daemon)

    def stop(self) -> None:
        """It refuses connections from now on; what it holds stays."""
        self._running.close()


@contextmanager
def ceph(folder: Path) -> Iterator[Gateway]:
    """Ceph's monitor, manager and one store in memory; its S3 gateway is left to the caller."""
    needed("ceph-mon", "ceph-mgr", "ceph-osd", "radosgw", "radosgw-admin", "monmaptool", "ceph")
    for name in ("mon", "mgr", "osd", "rgw", "run"):
        (folder / name).mkdir(parents=True)
    fsid, ports = str(uuid.uuid4()), (free_port(), free_port())
    conf = folder / "ceph.conf"
    conf.write_text(CEPH_CONF.format(fsid=fsid, ports=ports, folder=folder))
    c = ["-c", conf]
    monmap = folder / "monmap"
    call(
        "monmaptool",
        "--create",
        "--addv",
        "a",
        f"[v1:127.0.0.1:{ports[0]}]",
        "--fsid",
        fsid,
        monmap,
    )
    call("ceph-mon", *c, "--mkfs", "-i", "a", "--monmap", monmap)
    log = folder / "out.log"
    with (
        running(["ceph-mon", *c, "-f", "-i", "a"], log),
        running(["ceph-mgr", *c, "-f", "-i", "x"], log),
    ):
        osd = str(uuid.uuid4())
        wait_for("ceph-mon", lambda: said("ceph", *c, "quorum_status") != "")
        call("ceph-osd", *c, "-i", "0", "--mkfs", "--osd-uuid", osd)
        wait_for("a number for the OSD", lambda: said("ceph", *c, "osd", "new", osd) != "")

        def osd_is_up() -> bool:
            return "1 osds: 1 up" in said("ceph", *c, "osd", "stat")

        with ceph_daemon(["ceph-osd", *c, "-f", "-i", "0"], log, osd_is_up):
            keys = {"AWS_ACCESS_KEY_ID": "test-key", "AWS_SECRET_ACCESS_KEY": "a-secret-of-nobody"}
            user = ["radosgw-admin", *c, "user", "create", "--uid=ci", "--display-name=ci"]
            user += [f"--access-key={keys['AWS_ACCESS_KEY_ID']}"]
            user += [f"--secret-key={keys['AWS_SECRET_ACCESS_KEY']}"]
            env = {
                **keys,
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports[1]}",
                "AWS_REGION": "us-east-1",
            }
            gateway = Gateway(env, ["radosgw", *c, "-f", "-n", "client.rgw"], log)
            try:
                gateway.start()
                wait_for("a user of S3", lambda: said(*user) != "")
                yield gateway
            finally:
                gateway.stop()
