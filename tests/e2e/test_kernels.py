"""Kernels as their packages have them, each with a disk on mmio and on PCI.  scripts/guest.sh fetches them."""

import gzip
import json

from harness import Scratch, Vm, check, initrd_shell, login, run, test
from test_linux import check_dmesg


def boot_with_disk(env, name, transports=("mmio", "pci"), bits="x86_64"):
    """To the initrd's shell; then the disk there is mounted, written and read back."""
    for transport in transports:
        with Scratch() as s, Vm(env, "--kernel", env.guest("vmlinuz" + name), "--initrd",
                                env.guest(f"initrd{name}.img"), "--disk", s.copy(env.guest("small.img")),
                                "--cmdline", "shell", "--cpus", "2", "--transport", transport) as vm:
            initrd_shell(vm, 180)
            _, out = vm.command("uname -m; readlink -f /sys/block/vda/device/../driver; nproc")
            check(bits in out and f"virtio-{transport}" in out and out.split()[-1] == "2", f"{name or 'cloud'}: {out}")
            status, out = vm.command("mount -t ext4 /dev/vda /root && cp /bin/busybox /root/copy && umount /root && "
                                     "mount -t ext4 -o ro /dev/vda /root && cmp /bin/busybox /root/copy && umount /root")
            check(status == 0, f"the disk on {transport}: {out}")
            check_dmesg(vm)
            vm.send("poweroff -f\n")
            vm.expect_exit(0, 30)


@test(weight=30)
def kernels_debian_generic(env):
    boot_with_disk(env, "-generic")


@test(weight=30)
def kernels_debian_backports(env):
    boot_with_disk(env, "-backports")


@test(weight=30)
def kernels_debian_sid(env):
    boot_with_disk(env, "-sid")


@test(weight=30)
def kernels_debian_i386(env):
    boot_with_disk(env, "-i386", bits="i686")


@test(weight=60)
def kernels_debian_installer(env):
    """The installer comes up to its first question on the serial console."""
    for transport in ("mmio", "pci"):
        with Scratch() as s, Vm(env, "--kernel", env.guest("vmlinuz-installer"), "--initrd",
                                env.guest("initrd-installer.gz"), "--mem", "1G", "--disk", s.sparse("d.img", 1 << 30),
                                "--transport", transport) as vm:
            vm.expect("Select a language", 240)


def without(archive, word):
    """A cpio archive (Documentation/driver-api/early-userspace/buffer-format.rst) less the members so named."""
    kept, at = b"", 0
    while archive[at:at + 5] == b"07070":
        size, name_size = int(archive[at + 54:at + 62], 16), int(archive[at + 94:at + 102], 16)
        end = at + (110 + name_size + 3 & ~3) + (size + 3 & ~3)
        if word not in archive[at + 110:at + 110 + name_size]:
            kept += archive[at:end]
        at = end
    return kept


@test(weight=30)
def kernels_get_the_transport_that_they_know(env):
    """--transport auto: an initrd with only one of the two drivers finds its disk all the same."""
    with open(env.guest("initrd.img"), "rb") as f:
        archive = gzip.decompress(f.read())
    for word, transport in ((b"virtio_mmio.ko", "pci"), (b"virtio_pci.ko", "mmio")):
        with Scratch() as s:
            args = ["--kernel", env.guest("vmlinuz"), "--disk", s.copy(env.guest("small.img")),
                    "--initrd", s.file("initrd", gzip.compress(without(archive, word), 1))]
            described = json.loads(run(env, "--dry-run", *args).stdout)
            wired = [d["gsi"] for d in described["devices"] if d["type"] == "virtio-blk"]
            check(wired == [[]] if transport == "pci" else wired == [[16]], f"{transport}: {described}")
            with Vm(env, *args) as vm:
                login(vm)
                _, out = vm.command("mount; readlink -f /sys/block/vda/device/../driver")
                check("/dev/vda on / type ext4 (rw" in out and f"virtio-{transport}" in out, f"{transport}: {out}")
                check_dmesg(vm)
                vm.send("poweroff\n")
                vm.expect_exit(0, 60)
