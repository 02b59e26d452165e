#!/bin/sh
# kvm-nested.sh PROGRAM [ARG...]   run a static program or a script for busybox's sh where /dev/kvm exists: as the init's child of a
# Debian kernel with kvm-amd in QEMU, whose TCG emulates AMD's SVM with nested paging.  Prints what the
# program prints and exits with its status.  Slow (a virtual machine inside an emulated one), but the KVM
# code of a real kernel.  MEM (MiB) and CPUS choose the outer machine; FILES="path..." go in under /files.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
guest=${GUEST:-$here/build/guest}
modules=$guest/kernel/modules/kernel

[ $# -gt 0 ] || { sed -n '2,5s/^# //p' "$0"; exit 1; }
for need in qemu-system-x86_64 cpio busybox; do
	command -v $need >/dev/null || { echo "kvm-nested: $need is missing; run scripts/setup.sh guest test" >&2; exit 77; }
done
[ -e "$modules/arch/x86/kvm/kvm-amd.ko" ] || { echo "kvm-nested: no guest kernel; run make guest" >&2; exit 77; }

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
mkdir -p "$tmp/root/bin" "$tmp/root/dev" "$tmp/root/proc" "$tmp/root/sys" "$tmp/root/tmp" "$tmp/root/files"
cp "$(command -v busybox)" "$tmp/root/bin/busybox"
cp "$modules/virt/lib/irqbypass.ko" "$modules/arch/x86/kvm/kvm.ko" "$modules/arch/x86/kvm/kvm-amd.ko" "$tmp/root"
cp "$1" "$tmp/root/program"
case $1 in *.sh) run="/bin/sh /program" ;; *) run=/program ;; esac
[ -z "${FILES:-}" ] || cp -L $FILES "$tmp/root/files"
shift
cat >"$tmp/root/init" <<EOF
#!/bin/busybox sh
busybox mount -t devtmpfs dev /dev
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox mount -t tmpfs tmp /tmp
for m in irqbypass kvm kvm-amd; do busybox insmod /\$m.ko; done
[ -e /dev/kvm ] || echo "kvm-nested: no /dev/kvm inside"
busybox ln -s busybox /bin/sh; cd /tmp
$run $*
echo "KVM-NESTED-EXIT \$?"
busybox reboot -f
EOF
chmod 755 "$tmp/root/init" "$tmp/root/program"
(cd "$tmp/root" && find . | cpio -o -H newc --quiet) >"$tmp/initrd"

# microvm: no firmware to wait for.  The TSC rate must be told: it has nothing to measure it with.
qemu-system-x86_64 -M microvm,rtc=on,pit=on,pic=on,isa-serial=on,acpi=off -accel tcg,thread=multi \
	-cpu max,+svm -smp "${CPUS:-2}" -m "${MEM:-768}" -nodefaults -no-reboot -nographic -serial stdio \
	-kernel "$guest/kernel/vmlinuz" -initrd "$tmp/initrd" \
	-append "console=ttyS0 quiet panic=-1 reboot=t tsc_early_khz=1000000 tsc=reliable no_timer_check mitigations=off loglevel=3" \
	</dev/null 2>&1 | sed -u 's,\r,,g' | tee "$tmp/out" | grep --line-buffered -v '^KVM-NESTED-EXIT'
status=$(sed -n 's/^KVM-NESTED-EXIT //p' "$tmp/out" | tail -n 1)
[ -n "$status" ] || { echo "kvm-nested: the outer machine ended early" >&2; exit 2; }
exit "$status"
