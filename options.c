/* options.c - the option table and the parsers of its value types. */
#include "options.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

#ifdef MVM_SANITIZED /* their run-time makes system calls of its own */
enum { SANDBOX_DEFAULT = SANDBOX_OFF };
#else
enum { SANDBOX_DEFAULT = SANDBOX_ON };
#endif

typedef int (*opt_parser)(struct config *cfg, void *field, const char *value, struct err *e);

struct opt {
	const char *name;
	char letter;         /* 0: none */
	const char *also;    /* other accepted names, comma-separated, or NULL */
	const char *arg;     /* NULL: a flag without value */
	opt_parser parse;
	size_t field;
	const char *help;    /* meaning, unit (default) */
};

static int opt_str(struct config *cfg, void *field, const char *value, struct err *e)
{
	if (!*value)
		return err_set(e, -EINVAL, "is empty");
	*(const char **)field = value;
	return 0;
}

/* An empty kernel command line is fine. */
static int opt_text(struct config *cfg, void *field, const char *value, struct err *e)
{
	*(const char **)field = value;
	return 0;
}

static int opt_flag(struct config *cfg, void *field, const char *value, struct err *e)
{
	*(bool *)field = true;
	return 0;
}

static int opt_bool(struct config *cfg, void *field, const char *value, struct err *e)
{
	bool on = !strcmp(value, "on");

	if (!on && strcmp(value, "off"))
		return err_set(e, -EINVAL, "\"%s\" is neither on nor off", value);
	*(bool *)field = on;
	return 0;
}

/* Decimal or 0x number; false if anything else is there or it does not fit. */
static bool parse_u64(const char *s, const char **end, u64 *out)
{
	char *stop;

	if (*s < '0' || *s > '9') /* strtoull would take "-1" and " 1" */
		return false;
	errno = 0;
	*out = strtoull(s, &stop, 0);
	*end = stop;
	return errno == 0;
}

/* A size with K, M, G or T behind it; a bare number counts MiB, as with kvmtool and QEMU's -m. */
static bool parse_size(const char *s, u64 *out)
{
	static const char units[] = "BKMGT";
	const char *end, *unit = NULL;
	u64 n;

	if (!parse_u64(s, &end, &n))
		return false;
	if (!*end)
		return mul_u64(n, MIB, out);
	unit = strchr(units, *end & ~0x20);
	if (!unit || !*unit)
		return false;
	end++;
	if ((*end & ~0x20) == 'B' && end[-1] != 'B')
		end++;
	return !*end && mul_u64(n, BIT(10 * (unit - units)), out);
}

static int opt_mem(struct config *cfg, void *field, const char *value, struct err *e)
{
	u64 bytes;

	if (!parse_size(value, &bytes))
		return err_set(e, -EINVAL, "\"%s\" is not a size; write 512M or 2G", value);
	if (bytes < 2 * MIB || bytes > 1024 * GIB || bytes % MIB)
		return err_set(e, -EINVAL, "%s is not between 2M and 1024G in whole MiB", value);
	*(u64 *)field = bytes;
	return 0;
}

static int opt_cache(struct config *cfg, void *field, const char *value, struct err *e)
{
	u64 bytes;

	if (!parse_size(value, &bytes) || bytes < MIB || bytes > GIB)
		return err_set(e, -EINVAL, "\"%s\" is not a size between 1M and 1G", value);
	*(u64 *)field = bytes;
	return 0;
}

static int opt_number(u32 *field, const char *value, u32 min, u32 max, struct err *e)
{
	const char *end;
	u64 n;

	if (!parse_u64(value, &end, &n) || *end || n < min || n > max)
		return err_set(e, -EINVAL, "\"%s\" is not a number from %u to %u", value, min, max);
	*field = (u32)n;
	return 0;
}

static int opt_cpus(struct config *cfg, void *field, const char *value, struct err *e)
{
	return opt_number(field, value, 1, CPUS_MAX, e);
}

static int opt_seconds(struct config *cfg, void *field, const char *value, struct err *e)
{
	return opt_number(field, value, 0, 3600, e);
}

/* One of the words in a comma list; its position is the value. */
static int opt_word(void *field, const char *words, const char *value, struct err *e)
{
	const char *w = words;

	for (u32 i = 0; *w; i++) {
		size_t n = strcspn(w, ",");

		if (strlen(value) == n && !strncmp(w, value, n)) {
			*(u32 *)field = i;
			return 0;
		}
		w += n + (w[n] == ',');
	}
	return err_set(e, -EINVAL, "\"%s\" is none of %s", value, words);
}

static int opt_accel(struct config *cfg, void *field, const char *value, struct err *e)
{
	return opt_word(field, "auto,kvm,tcg,interp", value, e);
}

static int opt_irqchip(struct config *cfg, void *field, const char *value, struct err *e)
{
	return opt_word(field, "split,kernel,user", value, e);
}

static int opt_transport(struct config *cfg, void *field, const char *value, struct err *e)
{
	return opt_word(field, "auto,mmio,pci,pci-transitional", value, e);
}

static int opt_entry(struct config *cfg, void *field, const char *value, struct err *e)
{
	return opt_word(field, "auto,64,16", value, e);
}

static int opt_sandbox(struct config *cfg, void *field, const char *value, struct err *e)
{
	return opt_word(field, "on,off,log", value, e);
}

static int opt_id(struct config *cfg, void *field, const char *value, struct err *e)
{
	const char *end;
	u64 n;

	if (!parse_u64(value, &end, &n) || *end || n >= SANDBOX_NO_ID)
		return err_set(e, -EINVAL, "\"%s\" is not a numeric ID", value);
	*(u32 *)field = (u32)n;
	return 0;
}

static bool is_uuid_char(char form, char c)
{
	return form == 'x' ? isxdigit((u8)c) != 0 : form && c == form;
}

/* RFC 9562 §4. */
static int opt_uuid(struct config *cfg, void *field, const char *value, struct err *e)
{
	static const char form[] = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
	u32 digits = 0, i;
	u8 *uuid = field;

	memset(uuid, 0, sizeof cfg->uuid);
	for (i = 0; is_uuid_char(form[i], value[i]); i++) {
		u32 digit = (u8)value[i] <= '9' ? value[i] - '0' : (value[i] | 0x20) - 'a' + 10;

		if (form[i] != 'x')
			continue;
		uuid[digits / 2] |= (u8)(digit << (digits % 2 ? 0 : 4));
		digits++;
	}
	if (form[i] || value[i])
		return err_set(e, -EINVAL, "\"%s\" is not of the form %s", value, form);
	return 0;
}

static int opt_reboot(struct config *cfg, void *field, const char *value, struct err *e)
{
	u32 restart = 0;
	int rc = opt_word(&restart, "exit,restart", value, e);

	*(bool *)field = restart;
	return rc;
}

static int opt_serial(struct config *cfg, void *field, const char *value, struct err *e)
{
	if (!strncmp(value, "file=", 5)) {
		if (!value[5])
			return err_set(e, -EINVAL, "file= needs a path");
		cfg->serial = SERIAL_FILE;
		cfg->serial_path = value + 5;
		return 0;
	}
	if (!strcmp(value, "stdio"))
		cfg->serial = SERIAL_STDIO;
	else if (!strcmp(value, "none"))
		cfg->serial = SERIAL_NONE;
	else
		return err_set(e, -EINVAL, "\"%s\" is none of stdio, file=PATH, none", value);
	return 0;
}

/* One word behind the path of --disk. */
static int disk_word(struct disk_config *d, const char *word, size_t n, struct err *e)
{
	if (n == 2 && !strncmp(word, "ro", n))
		d->ro = true;
	else if (n == 6 && !strncmp(word, "direct", n))
		d->direct = true;
	else if (n == 10 && !strncmp(word, "format=raw", n))
		;
	else if (n > 7 && !strncmp(word, "format=", 7))
		return err_set(e, -EINVAL,
			"format \"%.*s\" is not known; convert it with qemu-img convert -O raw",
			       (int)n - 7, word + 7);
	else if (n > 3 && n - 3 < sizeof d->id && !strncmp(word, "id=", 3))
		snprintf(d->id, sizeof d->id, "%.*s", (int)n - 3, word + 3);
	else
		return err_set(e, -EINVAL,
			"\"%.*s\" is none of ro, direct, format=raw, id=NAME (up to 19 letters)",
			       (int)n, word);
	return 0;
}

static int opt_disk(struct config *cfg, void *field, const char *value, struct err *e)
{
	struct disk_config *d = &cfg->disk[cfg->disks];
	size_t n = strcspn(value, ",");
	int rc = 0;

	if (cfg->disks == DISKS_MAX)
		return err_set(e, -EINVAL, "is given more than %d times", DISKS_MAX);
	if (!strncmp(value, "path=", 5)) {
		value += 5;
		n -= 5;
	}
	if (!n)
		return err_set(e, -EINVAL, "needs a file: --disk FILE[,ro]");
	snprintf(d->id, sizeof d->id, "disk%u", cfg->disks);
	d->path = strndup(value, n); /* lives as long as the process */
	if (!d->path)
		return err_set(e, -ENOMEM, "out of memory");
	for (value += n; *value == ',' && rc == 0; value += n) {
		value++;
		n = strcspn(value, ",");
		rc = disk_word(d, value, n, e);
	}
	cfg->disks++;
	return rc;
}

/* [name=]NAME,file=PATH or ,string=TEXT: as QEMU has it, but that a text may hold commas. */
static int opt_fw_cfg(struct config *cfg, void *field, const char *value, struct err *e)
{
	struct fw_file *f = &cfg->fw_file[cfg->fw_files];
	size_t n;

	if (cfg->fw_files == FW_FILES_MAX)
		return err_set(e, -EINVAL, "is given more than %d times", FW_FILES_MAX);
	if (!strncmp(value, "name=", 5))
		value += 5;
	n = strcspn(value, ",");
	if (!n || n > FW_NAME_MAX)
		return err_set(e, -EINVAL,
			"\"%s\" has no name of up to %d letters; write opt/NAME,file=PATH",
			       value, FW_NAME_MAX);
	f->name = strndup(value, n); /* lives as long as the process */
	if (!f->name)
		return err_set(e, -ENOMEM, "out of memory");
	if (!strncmp(value + n, ",string=", 8))
		f->text = value + n + 8;
	else if (!strncmp(value + n, ",file=", 6) && value[n + 6])
		f->path = value + n + 6;
	else
		return err_set(e, -EINVAL, "%s needs ,file=PATH or ,string=TEXT behind it",
			f->name);
	cfg->fw_files++;
	return 0;
}

#define FIELD(m) offsetof(struct config, m)
static const struct opt opts[] = {
	{ "kernel", 'k', NULL, "FILE", opt_str, FIELD(kernel),
	  "Linux kernel to boot: bzImage or ELF vmlinux" },
	{ "initrd", 'i', "initramfs", "FILE", opt_str, FIELD(initrd), "initial RAM disk" },
	{ "cmdline", 'p', "append,params", "TEXT", opt_text, FIELD(cmdline),
	  "words for the kernel, after mvm's own defaults; the last word wins" },
	{ "bios", 0, "firmware", "FILE", opt_str, FIELD(bios),
	  "firmware image (SeaBIOS, qboot) to start; it boots a disk or loads --kernel, a "
	  "bzImage" },
	{ "disk", 'd', NULL, "FILE[,ro][,direct][,format=raw][,id=NAME]", opt_disk, 0,
	  "virtio disk from a raw image or block device; up to 8, the first is /dev/vda" },
	{ "mem", 'm', "memory", "SIZE", opt_mem, FIELD(mem_bytes),
	  "guest RAM; a bare number counts MiB, else K, M, G, T (256M)" },
	{ "cpus", 'c', NULL, "N", opt_cpus, FIELD(vcpus), "virtual CPUs, 1 to 64 (1)" },
	{ "accel", 0, NULL, "auto|kvm|tcg|interp", opt_accel, FIELD(accel),
	  "CPU engine: KVM, the software CPU (interpreter and translator), its interpreter alone; "
	  "auto takes KVM only when real hardware is behind it (auto)" },
	{ "serial", 0, NULL, "stdio|file=PATH|none", opt_serial, 0,
	  "where the first serial port goes (stdio); on a terminal, Ctrl-A x leaves and Ctrl-A h "
	  "helps" },
	{ "rng", 0, NULL, "on|off", opt_bool, FIELD(rng), "virtio entropy device (on)" },
	{ "uuid", 0, NULL, "UUID", opt_uuid, FIELD(uuid),
	  "the machine's UUID in its SMBIOS tables, where dmidecode, cloud-init and systemd find "
	  "it" },
	{ "on-reboot", 0, NULL, "exit|restart", opt_reboot, FIELD(restart),
	  "what a reset by the guest does (exit)" },
	{ "stop-timeout", 0, NULL, "SECONDS", opt_seconds, FIELD(stop_s),
	  "SIGTERM presses the power button of a guest that listens, and so much later ends mvm; "
	  "0 ends it at once (60)" },
	{ "entry", 0, NULL, "auto|64|16", opt_entry, FIELD(entry),
	  "how a kernel is entered: unpacked by mvm, or by its own 64-bit or real-mode entry "
	  "(auto)" },
	{ "transport", 0, NULL, "auto|mmio|pci|pci-transitional", opt_transport, FIELD(transport),
	  "how virtio devices are attached; auto is pci for firmware and for a kernel without a "
	  "virtio_mmio driver, else mmio (auto); "
	  "transitional devices also serve drivers from before virtio 1.0" },
	{ "fw-cfg", 0, "fw_cfg", "NAME,file=PATH|NAME,string=TEXT", opt_fw_cfg, 0,
	  "file for the firmware configuration device; your own names begin with opt/, and Linux "
	  "shows them in /sys/firmware/qemu_fw_cfg; up to 16" },
	{ "irqchip", 0, NULL, "split|kernel|user", opt_irqchip, FIELD(irqchip),
	  "KVM: which interrupt controllers the host kernel runs (split: local APICs only)" },
	{ "sandbox", 0, NULL, "on|off|log", opt_sandbox, FIELD(sandbox.mode),
	  "walls around mvm (on); log says which system calls would have been killed and lets "
	  "them pass" },
	{ "uid", 0, NULL, "N", opt_id, FIELD(sandbox.uid),
	  "started as root: become this user before any file is opened" },
	{ "gid", 0, NULL, "N", opt_id, FIELD(sandbox.gid),
		"started as root: become this group, and leave all others" },
	{ "chroot", 0, NULL, "DIR", opt_str, FIELD(sandbox.chroot),
	  "started as root: files are looked up in this directory" },
	{ "cgroup", 0, NULL, "DIR", opt_str, FIELD(sandbox.cgroup),
	  "join this control group, a path or a name below /sys/fs/cgroup, before memory is "
	  "taken" },
	{ "netns", 0, NULL, "NAME", opt_str, FIELD(sandbox.netns),
	  "started as root: enter this network namespace, a name of ip-netns or a path" },
	{ "tcg-cache", 0, NULL, "SIZE", opt_cache, FIELD(tcg_cache_bytes),
	  "software CPU: at most so much memory for generated code, and two thirds of it for "
	  "decoded code, of all virtual CPUs together (24M)" },
	{ "tcg-stats", 0, "stats", NULL, opt_flag, FIELD(stats),
	  "print the CPU engine's counters at the end" },
	{ "perf-map", 0, NULL, NULL, opt_flag, FIELD(perf_map),
	  "software CPU: name translated code for perf in /tmp/perf-PID.map" },
	{ "boot-trace", 0, NULL, NULL, opt_flag, FIELD(boot_trace),
	  "print the time of each stage from process start to the first guest instruction, and of "
	  "the guest's boot mark" },
	{ "dry-run", 0, NULL, NULL, opt_flag, FIELD(dry_run),
	  "print the machine as JSON and exit" },
	{ "quiet", 'q', NULL, NULL, opt_flag, FIELD(quiet), "errors only" },
	{ "verbose", 'v', NULL, NULL, opt_flag, FIELD(verbose), "debug messages too" },
	{ "version", 0, NULL, NULL, opt_flag, FIELD(version), "print the version and exit" },
	{ "help", 'h', NULL, NULL, opt_flag, FIELD(help), "print this text and exit" },
};

static bool opt_has_name(const struct opt *o, const char *name, size_t n)
{
	const char *also = o->also ? o->also : "";

	if (strlen(o->name) == n && !strncmp(o->name, name, n))
		return true;
	while (*also) {
		size_t len = strcspn(also, ",");

		if (len == n && !strncmp(also, name, n))
			return true;
		also += len + (also[len] == ',');
	}
	return false;
}

/* --name, --name=VALUE, -x, -xVALUE; *value is set to what follows in the same word, or NULL. */
static const struct opt *opt_find(const char *word, const char **value)
{
	size_t n;

	*value = NULL;
	if (word[0] != '-' || !word[1])
		return NULL;
	if (word[1] != '-') {
		for (size_t i = 0; i < ARRAY_LEN(opts); i++)
			if (opts[i].letter == word[1]) {
				*value = word[2] ? word + 2 : NULL;
				return &opts[i];
			}
		return NULL;
	}
	n = strcspn(word + 2, "=");
	if (word[2 + n] == '=')
		*value = word + 2 + n + 1;
	for (size_t i = 0; i < ARRAY_LEN(opts); i++)
		if (opt_has_name(&opts[i], word + 2, n))
			return &opts[i];
	return NULL;
}

static int opt_apply(struct config *cfg, const struct opt *o, const char *value, struct err *e)
{
	struct err why;
	int rc = o->parse(cfg, (char *)cfg + o->field, value, &why);

	if (rc < 0)
		return err_set(e, rc, "--%s: %s", o->name, why.text);
	return 0;
}

static int options_check(const struct config *cfg, struct err *e)
{
	if (cfg->help || cfg->version)
		return 0;
	if (!cfg->kernel && !cfg->bios)
		return err_set(e, -EINVAL,
			"nothing to boot; give --kernel FILE or --bios FILE, or see mvm --help");
	if (!cfg->kernel && (cfg->initrd || cfg->cmdline))
		return err_set(e, -EINVAL, "--initrd and --cmdline need --kernel");
	if (cfg->perf_map && cfg->sandbox.mode != SANDBOX_OFF)
		return err_set(e, -EINVAL,
			"--perf-map needs --sandbox off: perf looks for the map in mvm's own "
			       "file system, which is empty otherwise");
	if (cfg->bios && cfg->entry != ENTRY_AUTO)
		return err_set(e, -EINVAL, "--entry and --bios exclude each other; give one");
	return 0;
}

int options_parse(struct config *cfg, char **argv, struct err *e)
{
	*cfg = (struct config){ .mem_bytes = 256 * MIB, .vcpus = 1, .rng = true,
				.stop_s = 60, .tcg_cache_bytes = 24 * MIB,
				.sandbox = { .mode = SANDBOX_DEFAULT, .uid = SANDBOX_NO_ID,
					.gid = SANDBOX_NO_ID } };
	while (*argv && *++argv) {
		const char *word = *argv, *value;
		const struct opt *o = opt_find(word, &value);
		int rc;

		if (!o)
			return err_set(e, -EINVAL, "unknown option %s; see mvm --help", word);
		if (o->arg && !value && !(value = *++argv))
			return err_set(e, -EINVAL, "--%s needs a value: --%s %s", o->name, o->name,
				o->arg);
		if (!o->arg && value)
			return err_set(e, -EINVAL, "--%s takes no value", o->name);
		rc = opt_apply(cfg, o, value, e);
		if (rc < 0)
			return rc;
	}
	return options_check(cfg, e);
}

/* The help text, filled to 80 columns behind a margin. */
static void help_wrap(const char *text, int margin)
{
	int col = margin;

	while (*text) {
		int n = (int)strcspn(text, " ");

		if (col + n > 79 && col > margin) {
			printf("\n%*s", margin, "");
			col = margin;
		}
		printf("%.*s ", n, text);
		col += n + 1;
		text += n + (text[n] == ' ');
	}
	putchar('\n');
}

void options_help(void)
{
	printf("mvm %s - a small, fast microVM monitor\n\n"
	       "usage: mvm --kernel FILE [--initrd FILE] [--disk FILE]... [OPTION]...\n"
	       "       mvm --bios FILE [--disk FILE]... [OPTION]...\n\n"
	       "  mvm --kernel bzImage --disk root.img    boots to a console on this terminal\n\n"
	       "Options take --name VALUE or --name=VALUE.\n\n", MVM_VERSION);
	for (size_t i = 0; i < ARRAY_LEN(opts); i++) {
		const struct opt *o = &opts[i];

		printf("  --%s%s%s", o->name, o->arg ? " " : "", o->arg ? o->arg : "");
		if (o->letter)
			printf(", -%c", o->letter);
		printf("\n%8s", "");
		help_wrap(o->help, 8);
	}
	printf("\nExit status: 0 guest powered off (or rebooted, with --on-reboot exit);"
	       " 1 wrong usage;\n"
	       "2 host failure; 3 guest crashed or halted for ever; 4 ended by the sandbox;\n"
	       "128+N ended by signal N (132: a bug of mvm's);\n"
	       "(V<<1)|1 guest wrote V to the debug-exit port.\n");
}

void options_man(void)
{
	for (size_t i = 0; i < ARRAY_LEN(opts); i++) {
		const struct opt *o = &opts[i];

		if (o->letter)
			printf(".It Fl %c , Fl -%s", o->letter, o->name);
		else
			printf(".It Fl -%s", o->name);
		if (o->arg)
			printf(" Ar %s", o->arg);
		printf("\n%s.\n", o->help);
	}
}
