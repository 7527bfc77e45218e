# SPDX-FileCopyrightText: The polder authors
# SPDX-License-Identifier: Apache-2.0
"""An emulated machine with a soft-RoCE device, whose file system is that of the host.

kernel() gets a Linux kernel of the distribution that has the driver (rdma_rxe) and
keeps what is needed of it; boot() starts machines.  Nothing is installed, and nothing
of the host can be written but the directory of results.
"""
import ctypes
import fcntl
import os
import pathlib
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent

# In the order of loading: each after what it needs, for there is no depmod.  The
# driver wants the "crc32" algorithm by name, and there is no modprobe either.
MODULES = """
drivers/virtio/virtio_ring drivers/virtio/virtio drivers/virtio/virtio_pci_modern_dev
drivers/virtio/virtio_pci_legacy_dev drivers/virtio/virtio_pci net/core/failover
drivers/net/net_failover drivers/net/virtio_net net/9p/9pnet net/9p/9pnet_virtio
fs/netfs/netfs fs/fscache/fscache fs/9p/9p fs/overlayfs/overlay crypto/crc32_generic
drivers/infiniband/core/ib_core drivers/infiniband/core/ib_uverbs fs/configfs/configfs
drivers/infiniband/core/ib_cm drivers/infiniband/core/iw_cm drivers/infiniband/core/rdma_cm
drivers/infiniband/core/rdma_ucm net/ipv4/udp_tunnel net/ipv6/ip6_udp_tunnel
drivers/infiniband/sw/rxe/rdma_rxe drivers/net/dummy
""".split()
OPTIONS = {"dummy": "numdummies=0"}
TOOLS = {"qemu-system-x86_64": "qemu-system-x86", "busybox": "busybox-static", "cpio": "cpio",
         "dpkg-deb": "dpkg", "apt-get": "apt", "apt-cache": "apt", "ip": "iproute2",
         "rdma": "iproute2"}


class Absent(Exception):
    """Something is not there; the test cannot run here."""


def die_with_parent(with_signal):
    """For preexec_fn: however this process ends, its child ends too."""
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def prepare():
        libc.prctl(1, with_signal)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)
    return prepare


def look():
    """Raise Absent for what must be installed."""
    if platform.machine() != "x86_64":
        raise Absent(f"the emulated machine is an x86_64, this one a {platform.machine()}")
    for tool, package in TOOLS.items():
        if shutil.which(tool) is None:
            raise Absent(f"{tool} is not installed (package {package})")
    if subprocess.run(["ldd", shutil.which("busybox")], capture_output=True).returncode == 0:
        raise Absent("busybox needs shared libraries; package busybox-static does not")


def newest(folder):
    """The version that apt would install; if it knows of none, one that is unpacked already."""
    shown = subprocess.run(["apt-cache", "depends", "linux-image-amd64"], capture_output=True,
                           text=True)
    found = re.search(r"Depends: linux-image-(\S+-amd64)$", shown.stdout, re.M)
    unpacked = sorted(path.name for path in folder.glob("*-amd64"))
    if found is None and not unpacked:
        raise Absent("apt knows no package linux-image-amd64 (Debian has it; apt-get update)")
    return found[1] if found else unpacked[-1]


def unpack(version, folder):
    """Download the package and keep its kernel and the modules, by name."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        got = subprocess.run(["apt-get", "-q=2", "-o", "APT::Sandbox::User=root", "download",
                              f"linux-image-{version}"], cwd=temporary, capture_output=True,
                             text=True)
        if got.returncode != 0:
            raise Absent(f"cannot download linux-image-{version}: {got.stderr.strip()[-200:]}")
        members = [f"./boot/vmlinuz-{version}"]
        members += [f"./lib/modules/{version}/kernel/{module}.ko" for module in MODULES]
        package = next(pathlib.Path(temporary).glob("*.deb"))
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package],
                              stdout=subprocess.PIPE) as source:
            tar = subprocess.run(["tar", "-x", "-C", temporary] + members, stdin=source.stdout,
                                 capture_output=True, text=True)
        if tar.returncode != 0:
            raise Absent(f"linux-image-{version} is made otherwise than that of Debian 12: "
                         + tar.stderr.strip().splitlines()[0])
        new = pathlib.Path(temporary) / version
        new.mkdir()
        for member in members:
            shutil.move(pathlib.Path(temporary) / member, new)
        new.rename(folder / version)


def initrd(kernel, folder):
    """The first file system: busybox, the modules, init."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        root = pathlib.Path(temporary)
        for name in ("bin", "m", "proc", "sys", "dev", "root", "lower", "up"):
            (root / name).mkdir()
        names = [module.rsplit("/", 1)[1] for module in MODULES]
        for name in names:
            shutil.copy(kernel / f"{name}.ko", root / "m")
        lines = [f"{name}.ko {OPTIONS.get(name, '')}\n" for name in names]
        (root / "order").write_text("".join(lines))
        shutil.copy(shutil.which("busybox"), root / "bin/busybox")
        shutil.copy(HERE / "init", root / "init")
        subprocess.run("find . | cpio -o -H newc --quiet | gzip -1 >../initrd.new", shell=True,
                       cwd=root, check=True)
    (folder / "initrd.new").rename(folder / "initrd.gz")


def kernel(folder, host_tsc):
    """What a machine starts from: (vmlinuz, initrd), kept in `folder`, and its clock's rate."""
    look()
    tsc_khz = subprocess.run([host_tsc], capture_output=True, text=True, check=True).stdout.strip()
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        version = newest(folder)
        if not (folder / version).is_dir():
            unpack(version, folder)
        initrd(folder / version, folder)
    return folder / version / f"vmlinuz-{version}", folder / "initrd.gz", tsc_khz


def start(images, share, role, processors, more=(), keep=()):
    vmlinuz, first, tsc_khz = images
    arguments = "console=ttyS0 panic=-1 quiet loglevel=4 mitigations=off nokaslr tsc=reliable " \
                "no_timer_check rcupdate.rcu_cpu_stall_suppress=1 nowatchdog " \
                f"tsc_early_khz={tsc_khz} role={role}"
    command = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none",
               "-no-reboot", "-monitor", "none", "-machine", "pc,hpet=off",
               "-accel", "tcg,thread=multi,tb-size=256", "-cpu", "max", "-smp", str(processors),
               "-m", "1536", "-kernel", vmlinuz, "-initrd", first, "-append", arguments,
               "-serial", f"file:{share}/console.{role}"]
    for tag, path, how in (("rootfs", "/", ",readonly=on,multidevs=remap"), ("work", share, "")):
        command += ["-fsdev", f"local,id={tag},path={path},security_model=none{how}",
                    "-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]
    return subprocess.Popen([*command, *more], stdin=subprocess.DEVNULL, pass_fds=keep,
                            stdout=sys.stderr, preexec_fn=die_with_parent(signal.SIGKILL))


def boot(images, share, count):
    """Start one machine, or two whose network devices are joined; returns the processes."""
    if count == 1:
        return [start(images, share, "x", 2)]
    machines = []
    ends = socket.socketpair()
    for role, end in zip("ab", ends):
        device = ["-netdev", f"socket,id=n0,fd={end.fileno()}", "-device",
                  f"virtio-net-pci,netdev=n0,mac=52:54:00:00:00:0{role}"]
        machines.append(start(images, share, role, 1, device, [end.fileno()]))
    for end in ends:
        end.close()
    return machines
