#!/bin/bash
# guest.sh PIECE...: makes what guests boot from, once, under build/guest (GUEST_DIR).  Pieces:
#   kernel   vmlinuz, config, modules/        Debian's cloud kernel, unpacked, not installed
#   generic  vmlinuz-generic, initrd-generic.img  the same of Debian's all-purpose kernel
#   backports, sid, i386  vmlinuz-NAME, initrd-NAME.img  newer kernels, and one of 32 bits
#   installer  vmlinuz-installer, initrd-installer.gz  the Debian installer's
#   initrd   initrd.img                       busybox, virtio modules, scripts/guest/init
#   root     root.img                         Debian, small: login "root", no password, on ttyS0
#   small    small.img                        busybox alone on ext4, for quick tests
#   work     work.img                         Debian with compilers, interpreters, stress-ng, modules
#   mini     mini/vmlinux           Debian's kernel source at its smallest (kernel-mini.config), built here
#   firmware firmware/                        SeaBIOS, qboot and memtest86+, unpacked, not installed
#   others   others/                          iPXE, U-Boot and Xen, unpacked, not installed
#   grub     grub.img, rescue.img             small.img behind GRUB with a kernel; GRUB without anything
#   tools    tools.img                        small.img with lspci, dmidecode, acpidump
#   bench    bench.cpio, bench/               the guest benchmark, if its sources (MVM_BENCH_DIR) are there
#   all      all of them
# Only Debian packages, from wherever this machine's apt gets them; as root, or with fakeroot.  Each piece
# is built beside its place and moved there whole, so an interrupted run leaves nothing half made.
set -euo pipefail

top=$(cd "$(dirname "$0")/.." && pwd)
here=$top/scripts/guest
out=${GUEST_DIR:-$top/build/guest}
bench_dir=${MVM_BENCH_DIR:-$top/../shared/bench}
suite=bookworm
export SOURCE_DATE_EPOCH=1700000000 E2FSPROGS_FAKE_TIME=1700000000 LC_ALL=C

say() { printf '  %-6s %s\n' "$1" "$2"; }
die() { echo "guest: $*" >&2; exit 1; }

# as_root FUNCTION ARGUMENT...: here if we are root, else in a copy of this script under fakeroot
as_root()
{
	if [ "$(id -u)" = 0 ]; then "$@"; else fakeroot -- "$top/scripts/guest.sh" --inside "$tmp" "$@"; fi
}

# apt with package lists of our own, for a machine whose lists are missing or out of date
own_apt()
{
	local tool=$1; shift
	"$tool" -o Dir::State::Lists="$out/apt/lists" -o Dir::Cache="$out/apt/cache" \
		-o APT::Sandbox::User= -o Debug::NoLocking=1 "$@"
}

# fetch PACKAGE: the package's file into the current directory
fetch()
{
	apt-get -qq download "$1" >/dev/null 2>&1 && return
	mkdir -p "$out/apt/lists/partial" "$out/apt/cache/archives/partial"
	[ -e "$out/apt/.updated" ] || { own_apt apt-get -qq update && touch "$out/apt/.updated"; } ||
		die "cannot update package lists; check the machine's package sources"
	own_apt apt-get -qq download "$1" >/dev/null || die "cannot download package $1"
}

# other_apt SUITE ARCH TOOL...: the same for what the machine's own sources do not name, from its mirror of Debian
other_apt()
{
	local dir=$out/apt/$1-$2 tool=$3 uri key=/usr/share/keyrings/debian-archive-keyring.gpg
	local opts=(-o "Dir::Etc::SourceList=$dir/sources.list" -o Dir::Etc::SourceParts=- -o "Dir::State::Lists=$dir/lists"
		-o "Dir::Cache=$dir/cache" -o "APT::Architecture=$2" -o "APT::Architectures=$2" -o APT::Sandbox::User=
		-o Debug::NoLocking=1)
	if [ ! -e "$dir/.updated" ]; then
		mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial"
		uri=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' | awk -v s=$suite '$2 == s { print $1; exit }')
		[ -n "$uri" ] || return 1
		echo "deb [signed-by=$key] $uri $1 main" >"$dir/sources.list"
		apt-get "${opts[@]}" -qq update >/dev/null 2>&1 || return 1
		touch "$dir/.updated"
	fi
	shift 3
	"$tool" "${opts[@]}" "$@"
}

# the versioned package behind linux-image-FLAVOUR
kernel_package()
{
	local name
	for apt in "" own_apt; do
		name=$($apt apt-cache depends "linux-image-$1" 2>/dev/null |
			sed -n 's/.*Depends: \(linux-image-[0-9][^ ]*\)/\1/p' | head -n 1)
		[ -z "$name" ] || { echo "$name"; return; }
		[ -n "$apt" ] || { mkdir -p "$out/apt/lists/partial" "$out/apt/cache/archives/partial"
			own_apt apt-get -qq update && touch "$out/apt/.updated"; }
	done
	die "no package linux-image-$1; mvm's guests are made on Debian"
}

# unpack_kernel FLAVOUR DIR: DIR/{vmlinuz,config,modules/}
unpack_kernel()
{
	local pkg
	pkg=$(kernel_package "$1")
	(cd "$tmp" && fetch "$pkg")
	dpkg-deb -x "$tmp/$pkg"_*.deb "$tmp/kernel"
	mkdir -p "$2"
	mv "$tmp"/kernel/boot/vmlinuz-* "$2/vmlinuz"
	mv "$tmp"/kernel/boot/config-* "$2/config"
	mv "$tmp"/kernel/lib/modules/* "$2/modules"
}

# modules_for DIR NAME...: paths of the modules and of what they need, in loading order
modules_for()
{
	local dir=$1 name path dep
	shift
	for name in "$@"; do
		path=$(find "$dir/kernel" -name "${name//[-_]/[-_]}.ko" | head -n 1)
		[ -n "$path" ] || continue      # built into the kernel
		case " ${loaded:-} " in *" $path "*) continue ;; esac
		for dep in $(tr '\0' '\n' <"$path" | sed -n 's/^depends=//p' | tr ',' ' '); do
			modules_for "$dir" "$dep"
		done
		loaded="${loaded:-} $path"
		echo "$path"
	done
}

# make_initrd MODULES_DIR FILE [BUSYBOX]: busybox, the modules in order, our init
make_initrd()
{
	local d=$tmp/initrd n=0 m
	rm -rf "$d"
	mkdir -p "$d"/{bin,dev,proc,sys,root,modules,run,tmp}
	install -m 755 "${3:-/bin/busybox}" "$d/bin/busybox"
	install -m 755 "$here/init" "$d/init"
	ln -s busybox "$d/bin/sh"
	# crc32c is what ext4's journal asks for by name, without saying so in its dependencies
	loaded=
	while read -r m; do
		install -m 644 "$m" "$d/modules/$(printf '%02d' $n)-$(basename "$m")"
		n=$((n + 1))
	done < <(modules_for "$1" virtio_mmio virtio_pci virtio_blk virtio-rng crc32c_generic ext4)
	find "$d" -exec touch -hd "@$SOURCE_DATE_EPOCH" {} +
	(cd "$d" && find . | sort | cpio -o -H newc --quiet -R 0:0 --reproducible) | gzip -9n >"$2"
}

# make_ext4 DIR FILE SIZE LABEL
make_ext4()
{
	truncate -s "$3" "$2"
	mke2fs -q -t ext4 -d "$1" -L "$4" -U 6d766d00-0000-4000-8000-000000000001 -m 0 \
		-E hash_seed=6d766d00-0000-4000-8000-000000000002,lazy_itable_init=1,lazy_journal_init=1 "$2"
	e2fsck -fn "$2" >/dev/null 2>&1 || die "e2fsck does not like the new $(basename "$2")"
}

piece_kernel()
{
	[ -e "$out/kernel/vmlinuz" ] || { say KERNEL "Debian cloud"
		unpack_kernel cloud-amd64 "$tmp/done"
		rm -rf "$out/kernel" && mv "$tmp/done" "$out/kernel"; }
	ln -sfn kernel/vmlinuz "$out/vmlinuz"
}

piece_initrd()
{
	piece_kernel
	[ ! -e "$out/initrd.img" ] || [ "$here/init" -nt "$out/initrd.img" ] || return 0
	say INITRD initrd.img
	make_initrd "$out/kernel/modules" "$tmp/initrd.img"
	mv "$tmp/initrd.img" "$out/initrd.img"
}

piece_generic()
{
	[ -e "$out/generic/vmlinuz" ] || { say KERNEL "Debian generic"
		unpack_kernel amd64 "$tmp/done"
		rm -rf "$out/generic" && mv "$tmp/done" "$out/generic"; }
	ln -sfn generic/vmlinuz "$out/vmlinuz-generic"
	[ ! -e "$out/initrd-generic.img" ] || [ "$here/init" -nt "$out/initrd-generic.img" ] || return 0
	say INITRD initrd-generic.img
	make_initrd "$out/generic/modules" "$tmp/initrd.img"
	mv "$tmp/initrd.img" "$out/initrd-generic.img"
}

# other_kernel NAME SUITE ARCH FLAVOUR: vmlinuz-NAME, initrd-NAME.img; one test less where there is none
other_kernel()
{
	local name=$1 pkg p modules get=(other_apt "$2" "$3")
	[ ! -e "$out/initrd-$name.img" ] || [ "$here/init" -nt "$out/initrd-$name.img" ] || return 0
	say KERNEL "Debian $2 $3"
	pkg=$("${get[@]}" apt-cache depends "linux-image-$4" | sed -n 's/.*Depends: \(linux-image-[0-9][^ ]*\)/\1/p' | head -n 1) || true
	[ -n "$pkg" ] || { echo "guest: SKIP: no kernel of $2 for $3 here" >&2; return 0; }
	# From 7.x on the image, its modules and its configuration are packages of their own.
	for p in "$pkg" $("${get[@]}" apt-cache depends "$pkg" | sed -n "s/.*Depends: \(linux-[a-z]*-${pkg#linux-image-}\)$/\1/p") \
		$([ "$3" = amd64 ] || echo busybox-static); do
		(cd "$tmp" && "${get[@]}" apt-get -qq download "$p" >/dev/null 2>&1 && dpkg-deb -x "$p"_*.deb kernel) ||
			{ echo "guest: SKIP: cannot download $p of $2 for $3" >&2; return 0; }
	done
	modules=$(find "$tmp/kernel" -path '*/lib/modules/*' -prune | head -n 1)
	find "$modules" -name '*.ko.xz' -exec xz -dq {} +
	make_initrd "$modules" "$tmp/initrd.img" "$(find "$tmp/kernel" -path '*/bin/busybox')"
	mv "$(find "$tmp/kernel" -name 'vmlinuz*' -type f)" "$out/vmlinuz-$name"
	mv "$tmp/initrd.img" "$out/initrd-$name.img"
}

piece_backports() { other_kernel backports $suite-backports amd64 cloud-amd64; }
piece_sid() { other_kernel sid sid amd64 cloud-amd64; }
piece_i386() { other_kernel i386 $suite i386 686-pae; }

piece_installer()
{
	local from=$tmp/kernel/usr/lib/debian-installer/images/12/amd64/text/debian-installer/amd64
	[ ! -e "$out/initrd-installer.gz" ] || return 0
	say KERNEL "the Debian installer's"
	(cd "$tmp" && fetch debian-installer-12-netboot-amd64) ||
		{ echo "guest: SKIP: no package of the Debian installer here" >&2; return 0; }
	dpkg-deb -x "$tmp"/debian-installer-*.deb "$tmp/kernel"
	mv "$from/linux" "$out/vmlinuz-installer"
	mv "$from/initrd.gz" "$out/initrd-installer.gz"
}

# debian_tar PACKAGES: root.tar, a Debian with these
debian_tar()
{
	local sources mode=root
	mapfile -t sources < <(grep -ls debian-archive-keyring /etc/apt/sources.list.d/*.sources;
		ls /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null)
	[ "${#sources[@]}" -gt 0 ] || die "found no Debian package source under /etc/apt"
	[ "$(id -u)" = 0 ] || mode=unshare
	mmdebstrap --quiet --variant=minbase --mode=$mode --include="sysvinit-core,e2fsprogs,busybox-static$1" \
		--aptopt='APT::Install-Recommends "false"' --dpkgopt=force-unsafe-io \
		--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
		--dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*' \
		$suite "$tmp/root.tar" "${sources[@]}" >"$tmp/log" 2>&1 </dev/null ||
		{ tail -n 15 "$tmp/log" >&2; die "mmdebstrap failed (above)"; }
}

# pack_debian NAME SIZE, as root or under fakeroot: root.tar to NAME.img
pack_debian()
{
	local d=$tmp/root n=0 m
	mkdir "$d"
	tar -xf "$tmp/root.tar" -C "$d" --exclude './dev/*'
	if [ -e "$tmp/modules" ]; then
		mkdir "$d/root/modules"
		while read -r m; do
			install -m 644 "$m" "$d/root/modules/$(printf '%02d' $n)-$(basename "$m")"
			n=$((n + 1))
		done <"$tmp/modules"
	fi
	install -m 644 "$here/inittab" "$d/etc/inittab"
	install -m 755 "$here/rc" "$d/etc/rc.mvm"
	echo mvm >"$d/etc/hostname"
	printf '127.0.0.1 localhost mvm\n' >"$d/etc/hosts"
	printf '/dev/vda / ext4 defaults 0 1\n' >"$d/etc/fstab"
	sed -i 's/^root:[^:]*:/root::/' "$d/etc/shadow"
	mkdir -p "$d/etc/inittab.d"
	printf "This is Debian in mvm.  'poweroff' ends it; Ctrl-A x leaves at once, Ctrl-A h lists the keys.\n" \
		>"$d/etc/motd"
	rm -f "$d/etc/machine-id" "$d/etc/resolv.conf"
	make_ext4 "$d" "$tmp/$1.img" "$2" "mvm-$1"
}

piece_root()
{
	[ ! -e "$out/root.img" ] || return 0
	say ROOT "root.img (Debian $suite; this takes a minute)"
	debian_tar ""
	as_root pack_debian root 512M
	mv "$tmp/root.img" "$out/root.img"
}

# What the tests of whole systems use.  The modules are the generic kernel's: code that writes code
# (test_bpf), that picks the fastest of several ways (xor, raid6_pq), that is loaded again and again.
piece_work()
{
	piece_generic
	[ ! -e "$out/work.img" ] || return 0
	say ROOT "work.img (Debian $suite with compilers and interpreters; this takes some minutes)"
	debian_tar ,kmod,perl,python3-minimal,gcc,libc6-dev,luajit,nodejs,bzip2,xz-utils,stress-ng
	loaded=
	modules_for "$out/generic/modules" xor raid6_pq test_bpf >"$tmp/modules"
	as_root pack_debian work 1G
	mv "$tmp/work.img" "$out/work.img"
}

# make_small DIR: busybox as a whole system
make_small()
{
	local d=$1 a
	mkdir -p "$d"/{bin,dev,etc,proc,sys,root,run,sbin,tmp,mnt}
	install -m 755 /bin/busybox "$d/bin/busybox"
	for a in $(/bin/busybox --list); do [ "$a" = busybox ] || ln -s busybox "$d/bin/$a"; done
	ln -s ../bin/busybox "$d/sbin/init"
	install -m 644 "$here/inittab.small" "$d/etc/inittab"
	printf 'root::0:0:root:/root:/bin/sh\n' >"$d/etc/passwd"
	printf 'root:x:0:\n' >"$d/etc/group"
	printf 'small' >"$d/etc/hostname"
}

pack_small()
{
	local d=$tmp/small
	make_small "$d"
	make_ext4 "$d" "$tmp/small.img" 192M mvm-small
}

piece_small()
{
	[ ! -e "$out/small.img" ] || return 0
	say ROOT "small.img (busybox)"
	as_root pack_small
	mv "$tmp/small.img" "$out/small.img"
}

piece_mini()
{
	local src
	[ ! -e "$out/mini/vmlinux" ] || [ "$here/kernel-mini.config" -nt "$out/mini/vmlinux" ] || return 0
	say KERNEL "mini (from source; this takes some minutes)"
	(cd "$tmp" && fetch linux-source-6.1)
	dpkg-deb -x "$tmp"/linux-source-6.1_*.deb "$tmp/deb"
	tar -xf "$tmp"/deb/usr/src/linux-source-6.1.tar.xz -C "$tmp"
	rm -rf "$tmp/deb" "$tmp"/*.deb
	src=$tmp/linux-source-6.1
	{ make -s -C "$src" tinyconfig && cat "$here/kernel-mini.config" >>"$src/.config" &&
		make -s -C "$src" olddefconfig && make -s -C "$src" -j"$(nproc)" vmlinux &&
		strip -o "$tmp/vmlinux" "$src/vmlinux"; } >"$tmp/log" 2>&1 </dev/null ||
		{ tail -n 15 "$tmp/log" >&2; die "the small kernel did not build (above)"; }
	mkdir -p "$out/mini"
	mv "$tmp/vmlinux" "$out/mini/vmlinux"
}

piece_firmware()
{
	local d=$out/firmware p
	[ ! -e "$d/qboot.rom" ] || return 0
	say ROM "SeaBIOS, qboot, memtest86+"
	for p in seabios qemu-system-data memtest86+; do
		(cd "$tmp" && fetch $p)
		dpkg-deb -x "$tmp/$p"_*.deb "$tmp/firmware"
	done
	mkdir -p "$d"
	mv "$tmp"/firmware/usr/share/seabios/bios{,-256k,-microvm}.bin "$tmp"/firmware/boot/memtest86+{x64,ia32}.bin "$d"
	mv "$tmp/firmware/usr/share/qemu/qboot.rom" "$d"
}

piece_others()
{
	local p
	[ ! -e "$out/others/xen" ] || return 0
	say ROM "iPXE, U-Boot, Xen"
	for p in ipxe u-boot-qemu xen-hypervisor-4.17-amd64; do
		(cd "$tmp" && fetch $p)
		dpkg-deb -x "$tmp/$p"_*.deb "$tmp/unpacked"
	done
	mkdir "$tmp/done"
	cp "$tmp"/unpacked/usr/lib/ipxe/ipxe.iso "$tmp"/unpacked/boot/ipxe.lkrn \
		"$tmp/unpacked/usr/lib/u-boot/qemu-x86/u-boot.rom" "$tmp/done"
	gzip -dc "$tmp"/unpacked/boot/xen-4.17-amd64.gz >"$tmp/done/xen"
	rm -rf "$out/others" && mv "$tmp/done" "$out/others"
}

# le32 N: four bytes, written for printf
le32() { printf '\\x%02x\\x%02x\\x%02x\\x%02x' $(($1 & 255)) $(($1 >> 8 & 255)) $(($1 >> 16 & 255)) $(($1 >> 24)); }

# grub_disk MODULES FILE [FS]: boot sector, GRUB behind it, the file system as the one partition, from 1 MiB
grub_disk()
{
	local lib=/usr/lib/grub/i386-pc size
	# shellcheck disable=SC2086
	grub-mkimage -O i386-pc -p '(hd0,msdos1)/boot/grub' -o "$tmp/core.img" biosdisk part_msdos ext2 $1
	shift
	[ "$(stat -c %s "$tmp/core.img")" -lt $((2047 * 512)) ] || die "GRUB is larger than the gap before the partition"
	truncate -s 1M "$1"
	dd if="$lib/boot.img" of="$1" bs=446 count=1 conv=notrunc status=none
	dd if="$tmp/core.img" of="$1" bs=512 seek=1 conv=notrunc status=none
	[ $# = 1 ] || {
		size=$(($(stat -c %s "$2") / 512))
		dd if="$2" of="$1" bs=1M seek=1 conv=sparse,notrunc status=none
		truncate -s $((1048576 + size * 512)) "$1"
		# active, no CHS, type 83h, sector 2048, its length
		printf "\\x80\\xfe\\xff\\xff\\x83\\xfe\\xff\\xff$(le32 2048)$(le32 "$size")" |
			dd of="$1" bs=1 seek=446 conv=notrunc status=none
	}
	printf '\x55\xaa' | dd of="$1" bs=1 seek=510 conv=notrunc status=none
}

pack_grub()
{
	local d=$tmp/small
	make_small "$d"
	mkdir -p "$d/boot/grub"
	install -m 644 "$out/vmlinuz" "$out/initrd.img" "$out/firmware/memtest86+x64.bin" "$d/boot"
	install -m 644 "$here/grub.cfg" "$d/boot/grub/grub.cfg"
	make_ext4 "$d" "$tmp/fs.img" 192M mvm-grub
	grub_disk "normal linux echo test ls minicmd halt reboot" "$tmp/grub.img" "$tmp/fs.img"
	grub_disk "" "$tmp/rescue.img"
}

piece_grub()
{
	piece_initrd
	piece_firmware
	[ ! -e "$out/grub.img" ] || [ "$here/grub.cfg" -nt "$out/grub.img" ] || return 0
	say ROOT "grub.img, rescue.img"
	as_root pack_grub
	mv "$tmp/rescue.img" "$tmp/grub.img" "$out"
}

# The host's own programs, with their libraries
pack_tools()
{
	local d=$tmp/small tool f
	make_small "$d"
	for tool in lspci dmidecode acpidump; do
		tool=$(PATH=$PATH:/usr/sbin command -v $tool) || die "no $tool; run scripts/setup.sh guest"
		for f in "$tool" $(ldd "$tool" | grep -o '/[^ ]*'); do
			install -D -m 755 "$f" "$d$f"
		done
	done
	install -D -m 644 "$(find "$out/kernel/modules" -name qemu_fw_cfg.ko)" "$d/lib/modules/qemu_fw_cfg.ko"
	make_ext4 "$d" "$tmp/tools.img" 192M mvm-tools
}

piece_tools()
{
	piece_kernel
	[ ! -e "$out/tools.img" ] || return 0
	say ROOT "tools.img"
	as_root pack_tools
	mv "$tmp/tools.img" "$out/tools.img"
}

pack_bench()
{
	make -s -C "$bench_dir" OUT="$tmp/bench" >"$tmp/log" 2>&1 ||
		{ tail -n 15 "$tmp/log" >&2; die "the benchmark did not build (above)"; }
}

piece_bench()
{
	[ ! -e "$out/bench.cpio" ] || return 0
	[ -e "$bench_dir/Makefile" ] || {
		echo "guest: SKIP: no benchmark sources in $bench_dir; set MVM_BENCH_DIR" >&2
		return 0
	}
	say BENCH bench.cpio
	as_root pack_bench
	gcc -O2 -w -o "$tmp/bench/hrun" "$bench_dir/hrun.c"
	rm -rf "$out/bench" "$tmp/bench/root" && mv "$tmp/bench" "$out/bench"
	mv "$out/bench/initrd.cpio" "$out/bench.cpio"
}

[ "${1:-}" != --inside ] || { tmp=$2; shift 2; "$@"; exit; }
mkdir -p "$out"
exec 9>"$out/.lock"
flock 9
[ $# -gt 0 ] || die "name a piece, of those at the head of this file, or all"
[ "$1" != all ] || set -- kernel initrd generic small root mini work firmware grub others tools bench \
	backports sid i386 installer
for piece in "$@"; do
	declare -F "piece_$piece" >/dev/null || die "no piece $piece"
	tmp=$(mktemp -d "$out/.tmp.XXXXXX")
	trap 'rm -rf "$tmp"' EXIT
	"piece_$piece"
	rm -rf "$tmp"
done
