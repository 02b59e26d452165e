"""Kernels as their packages have them, each with a disk on mmio and on PCI.  scripts/guest.sh fetches them."""

from harness import Scratch, Vm, check, initrd_shell, test
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


@test(weight=150)
def kernels_debian_i386(env):
    """On one transport only: 32-bit code is interpreted, so a boot takes long."""
    boot_with_disk(env, "-i386", ["pci"], "i686")


@test(weight=60)
def kernels_debian_installer(env):
    """The installer comes up to its first question on the serial console."""
    for transport in ("mmio", "pci"):
        with Scratch() as s, Vm(env, "--kernel", env.guest("vmlinuz-installer"), "--initrd",
                                env.guest("initrd-installer.gz"), "--mem", "1G", "--disk", s.sparse("d.img", 1 << 30),
                                "--transport", transport) as vm:
            vm.expect("Select a language", 240)
