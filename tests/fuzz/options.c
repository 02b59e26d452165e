/* options.c - fuzz target: the command line.  The input's lines are the words; whatever they are,
 * the result is a configuration within its bounds or an error of one line. */
#include "kit.h"

enum { WORDS_MAX = 16, WORD_MAX = 256 };

static void check(const struct config *cfg)
{
	ASSERT(cfg->disks <= DISKS_MAX && cfg->vcpus >= 1 && cfg->vcpus <= CPUS_MAX);
	for (u32 i = 0; i < cfg->disks; i++) {
		ASSERT(cfg->disk[i].path);
		ASSERT(memchr(cfg->disk[i].id, 0, sizeof cfg->disk[i].id));
	}
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t len)
{
	static char word[WORDS_MAX][WORD_MAX];
	char *argv[WORDS_MAX + 2] = { "mvm" };
	static struct config cfg;
	struct err e = { 0 };
	size_t n = 0, at = 0;

	for (size_t i = 0; i < len && n < WORDS_MAX; i++) {
		if (data[i] == '\n' || data[i] == 0 || at == WORD_MAX - 1) {
			word[n++][at] = 0;
			at = 0;
		} else {
			word[n][at++] = (char)data[i];
		}
	}
	if (n < WORDS_MAX && at)
		word[n++][at] = 0;
	for (size_t i = 0; i < n; i++)
		argv[i + 1] = word[i];
	argv[n + 1] = NULL;
	memset(&cfg, 0, sizeof cfg);
	if (options_parse(&cfg, argv, &e) == 0)
		check(&cfg);
	else
		ASSERT(e.text[0] && !strchr(e.text, '\n'));
	for (u32 i = 0; i < DISKS_MAX; i++)
		free((void *)cfg.disk[i].path);
	for (u32 i = 0; i < FW_FILES_MAX; i++)
		free((void *)cfg.fw_file[i].name);
	return 0;
}
