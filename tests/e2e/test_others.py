"""Other boot loaders, firmware and hypervisors than those of test_firmware: iPXE, U-Boot and Xen, as Debian has them."""

from harness import Vm, check, run, test


def ipxe_prompt(vm):
    """SeaBIOS keeps 16 keys, so commands are short."""
    vm.expect("iPXE initialising devices", 60)
    vm.expect("Press Ctrl-B", 30)
    vm.send("\x02")
    vm.expect("iPXE> ", 30)
    vm.send("echo 42\r")
    vm.expect(r"echo 42\s+42", 20)


@test(weight=20)
def others_ipxe_from_an_iso_and_as_a_kernel(env):
    """The ISO image is a disk with a boot sector, too: ISOLINUX reads it through the BIOS."""
    with Vm(env, "--bios", env.guest("firmware/bios-256k.bin"), "--disk", env.guest("others/ipxe.iso") + ",ro") as vm:
        vm.expect("ISOLINUX", 30)
        ipxe_prompt(vm)
        vm.send("reboot\r")
        vm.expect_exit(0, 30)
    with Vm(env, "--kernel", env.guest("others/ipxe.lkrn"), "--entry", "16", tty=False) as vm:
        vm.expect("Features: .*bzImage", 60)


@test(weight=10)
def others_uboot_is_firmware(env):
    with Vm(env, "--bios", env.guest("others/u-boot.rom"), "--cpus", "2") as vm:
        vm.expect("Hit any key to stop autoboot", 60)
        vm.send(" ")
        vm.expect("=> ", 20)
        vm.send("bdinfo\r")
        vm.expect(r"DRAM bank[\s\S]*=> ", 20)
        vm.send("reset\r")
        vm.expect_exit(0, 30)


@test(weight=40)
def others_xen_hosts_linux(env):
    """Xen by PVH, Debian's kernel as its module: a paravirtual kernel in ring 3, as far as one comes without a root."""
    r = run(env, "--kernel", env.guest("others/xen"), "--initrd", env.guest("vmlinuz-generic"), "--mem", "768M",
            "--cpus", "2", "--cmdline", "com1=115200,8n1 console=com1 dom0_mem=256M", timeout=120)
    out = r.stdout.decode(errors="replace")
    for words in ("Xen version 4", "Brought up 2 CPUs", "installing Xen timer for CPU 1",
                  "Unable to mount root fs", "Hardware Dom0 crashed"):
        check(words in out, f"no {words!r}: {out[-1500:]}")
    check(r.returncode == 0, f"status {r.returncode}")
