/* options.c - the command line. */
#include "../../options.h"
#include "../test.h"

static struct config cfg;
static struct err err;

static int parse(const char *const *words)
{
	char *argv[32] = { "mvm" };
	int n = 1;

	for (; *words; words++)
		argv[n++] = (char *)*words;
	return options_parse(&cfg, argv, &err);
}
#define PARSE(...) parse((const char *const[]){ __VA_ARGS__, NULL })

static void refused(int rc, const char *text)
{
	EQ(rc, -EINVAL);
	if (!strstr(err.text, text))
		test_fail(__FILE__, __LINE__, "\"%s\" does not say \"%s\"", err.text, text);
	OK(!strchr(err.text, '\n'));
}

TEST(options_defaults_are_those_of_the_manual)
{
	EQ(PARSE("--kernel", "k"), 0);
	EQ(cfg.mem_bytes, 256 * MIB);
	EQ(cfg.vcpus, 1);
	EQ(cfg.accel, ACCEL_AUTO);
	EQ(cfg.serial, SERIAL_STDIO);
	OK(cfg.rng && !cfg.restart);
}

TEST(options_take_values_in_every_form)
{
	EQ(PARSE("--kernel=k", "-i", "i", "-pa b", "--append", "c", "-m", "64", "-c2"), 0);
	EQ(strcmp(cfg.kernel, "k"), 0);
	EQ(strcmp(cfg.initrd, "i"), 0);
	EQ(strcmp(cfg.cmdline, "c"), 0);
	EQ(cfg.mem_bytes, 64 * MIB);
	EQ(cfg.vcpus, 2);
	EQ(PARSE("-k", "k"), 0);
	EQ(cfg.transport, TRANSPORT_AUTO);
	EQ(PARSE("-k", "k", "--transport=pci"), 0);
	EQ(cfg.transport, TRANSPORT_PCI);
	EQ(PARSE("-k", "k", "--transport", "mmio"), 0);
	EQ(cfg.transport, TRANSPORT_MMIO);
	refused(PARSE("-k", "k", "--transport", "isa"), "--transport: ");
}

TEST(options_uuid_is_of_one_form)
{
	static const u8 want[16] = { 0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77,
				     0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff };
	static const char *const bad[] = { "", "00112233-4455-6677-8899-aabbccddeef",
					   "00112233-4455-6677-8899-aabbccddeeff0",
					   "00112233-4455-6677-8899aabbccddeeff--",
					   "0011223g-4455-6677-8899-aabbccddeeff",
					   "{0112233-4455-6677-8899-aabbccddeeff" };

	EQ(PARSE("-k", "k", "--uuid", "00112233-4455-6677-8899-aabbCCDDEEFF"), 0);
	EQ(memcmp(cfg.uuid, want, 16), 0);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		refused(PARSE("-k", "k", "--uuid", bad[i]), "--uuid: ");
}

TEST(options_sizes_have_units_and_limits)
{
	static const struct {
		const char *text;
		u64 bytes;
	} good[] = { { "512", 512 * MIB }, { "512M", 512 * MIB }, { "2G", 2 * GIB },
		     { "2097152K", 2 * GIB }, { "1g", GIB }, { "1GB", GIB }, { "0x40", 64 * MIB } };
	static const char *const bad[] = { "0", "1T1", "", "-1", "1X", "M", "1.5G",
		"99999999999999999999", "18446744073709551615T", "1", "3K", "2049K", "1025G" };

	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		EQ(PARSE("-k", "k", "--mem", good[i].text), 0);
		EQ(cfg.mem_bytes, good[i].bytes);
	}
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		refused(PARSE("-k", "k", "--mem", bad[i]), "--mem: ");
}

TEST(options_disks_have_words_behind_a_comma)
{
	EQ(PARSE("-k", "k", "-d", "a.img", "--disk", "path=b.img,ro,direct,id=data,format=raw"), 0);
	EQ(cfg.disks, 2);
	EQ(strcmp(cfg.disk[0].path, "a.img"), 0);
	EQ(strcmp(cfg.disk[0].id, "disk0"), 0);
	OK(!cfg.disk[0].ro && !cfg.disk[0].direct);
	EQ(strcmp(cfg.disk[1].path, "b.img"), 0);
	EQ(strcmp(cfg.disk[1].id, "data"), 0);
	OK(cfg.disk[1].ro && cfg.disk[1].direct);
	refused(PARSE("-k", "k", "-d", "a,rw"), "\"rw\" is none of");
	refused(PARSE("-k", "k", "-d", "a,format=qcow2"), "qemu-img");
	refused(PARSE("-k", "k", "-d", ",ro"), "needs a file");
	refused(PARSE("-k", "k", "-d", "a,id=12345678901234567890"), "id=NAME");
}

TEST(options_mistakes_are_named_in_one_line)
{
	refused(parse((const char *const[]){ NULL }), "nothing to boot");
	refused(PARSE("--kernal", "k"), "unknown option --kernal");
	refused(PARSE("bzImage"), "unknown option bzImage");
	refused(PARSE("-"), "unknown option -");
	refused(PARSE("--kernel"), "needs a value");
	refused(PARSE("--kernel="), "--kernel: is empty");
	refused(PARSE("--dry-run=yes"), "takes no value");
	refused(PARSE("-k", "k", "--cpus", "0"), "1 to 64");
	refused(PARSE("-k", "k", "--cpus", "65"), "1 to 64");
	refused(PARSE("-k", "k", "--cpus", "2x"), "1 to 64");
	refused(PARSE("-k", "k", "--stop-timeout", "3601"),
		"--stop-timeout: \"3601\" is not a number from 0 to 3600");
	refused(PARSE("-k", "k", "--accel", "vmx"), "none of auto,kvm,tcg,interp");
	refused(PARSE("-k", "k", "--accel", "kvm,"), "none of");
	refused(PARSE("-k", "k", "--serial", "tcp"), "none of");
	refused(PARSE("-k", "k", "--serial", "file="), "needs a path");
	refused(PARSE("-k", "k", "--rng", "yes"), "neither on nor off");
	refused(PARSE("--entry", "16", "--bios", "b"), "exclude");
	refused(PARSE("--bios", "b", "--initrd", "i"), "need --kernel");
}

TEST(options_fw_cfg_takes_a_name_and_a_file_or_a_text)
{
	struct config c;
	struct err e;

	EQ(options_parse(&c, (char *[]){ "mvm", "-k", "k", "--fw-cfg", "name=opt/a,string=b,c",
					 "--fw_cfg=opt/d,file=/e", "--fw-cfg", "opt/f,string=",
					 NULL },
			 &e), 0);
	EQ(c.fw_files, 3);
	OK(!strcmp(c.fw_file[0].name, "opt/a") && !strcmp(c.fw_file[0].text, "b,c"));
	OK(!strcmp(c.fw_file[1].name, "opt/d") && !strcmp(c.fw_file[1].path, "/e"));
	OK(!c.fw_file[1].text && !*c.fw_file[2].text);
	refused(PARSE("-k", "k", "--fw-cfg", ",string=x"), "name");
	refused(PARSE("-k", "k", "--fw-cfg", "opt/a"), "behind it");
	refused(PARSE("-k", "k", "--fw-cfg", "opt/a,file="), "behind it");
	refused(PARSE("-k", "k", "--fw-cfg",
		      "opt/0123456789012345678901234567890123456789012345678901,string=x"), "55");
}
