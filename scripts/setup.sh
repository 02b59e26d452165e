#!/bin/sh
# setup.sh GROUP...: installs the Debian packages of these groups that are missing, and only then needs
# root (or sudo) and the package mirror.  Groups: build guest test lint fuzz bench.
set -eu

packages()
{
	case $1 in
	build) echo make gcc libc6-dev binutils musl-tools linux-libc-dev libseccomp-dev libcap-ng-dev \
		zlib1g-dev liblzma-dev liblz4-dev libzstd-dev ;;
	guest) echo mmdebstrap e2fsprogs busybox-static cpio gzip dpkg debian-archive-keyring \
		grub-common grub-pc-bin pciutils dmidecode acpica-tools \
		$([ "$(id -u)" = 0 ] || echo fakeroot uidmap) ;;
	test) echo python3 e2fsprogs acpica-tools qemu-system-x86 bc bison flex xz-utils ;;
	lint) echo cppcheck clang clang-tidy ;;
	fuzz) echo clang libclang-rt-14-dev llvm ;;
	bench) echo python3 qemu-system-x86 ;;
	*) echo "setup: no group $1; there are build guest test lint fuzz bench" >&2; return 1 ;;
	esac
}

missing=
for group in "$@"; do
	list=$(packages "$group")
	for p in $list; do
		case " $missing " in *" $p "*) continue ;; esac
		dpkg-query -W -f '${Status}\n' "$p" 2>/dev/null | grep -q '^install ok installed' ||
			missing="$missing $p"
	done
done
[ -n "$missing" ] || exit 0

sudo=
if [ "$(id -u)" != 0 ]; then
	command -v sudo >/dev/null || {
		echo "setup: packages are missing; as root run: apt-get install --no-install-recommends$missing" >&2
		exit 1
	}
	sudo=sudo
fi
echo "setup: installing$missing"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
$sudo env DEBIAN_FRONTEND=noninteractive sh -c "apt-get -qq update &&
	apt-get -qq install -y --no-install-recommends $missing" >"$log" 2>&1 </dev/null || {
	tail -n 15 "$log" >&2
	echo "setup: apt-get failed (above); check the machine's package sources, then try again" >&2
	exit 1
}
