/* cmdline.c - the default kernel command line: each word with its reason. */
#include "parts.h"

#include <stdio.h>

enum when { ALWAYS, WITH_SERIAL, WITH_DISK };

static const struct word {
	const char *text;
	enum when when;
	const char *unless; /* the user's words contain a word beginning with this */
	const char *why;
} words[] = {
	{ "console=ttyS0", WITH_SERIAL, NULL,
	  "kernel messages and /dev/console on the terminal; a console= of the user's comes later "
	  "and wins" },
	{ "panic=-1", ALWAYS, "panic=",
	  "a panic reboots at once, so that mvm ends and a script sees it, instead of spinning for "
	  "ever" },
	{ "root=/dev/vda", WITH_DISK, "root=", "the first disk, whole, is the root file system" },
	{ "rw", WITH_DISK, "root=",
	  "and writable from the start: without an init of a distribution nothing would remount "
	  "it" },
};

/* Is there a word that begins with prefix? */
static bool has_prefix(const char *line, const char *prefix)
{
	size_t n = strlen(prefix);

	for (const char *p = line; (p = strstr(p, prefix)); p += n)
		if (p == line || p[-1] == ' ')
			return true;
	return false;
}

static bool wanted(const struct word *w, const struct boot_config *c)
{
	if (w->unless && c->cmdline && has_prefix(c->cmdline, w->unless))
		return false;
	return w->when == ALWAYS || (w->when == WITH_SERIAL && c->serial_ports) ||
	       (w->when == WITH_DISK && c->nr_disks);
}

/* Append a word; the length it all would have, as snprintf does. */
static size_t append(char *buf, size_t n, size_t at, const char *word)
{
	int len = snprintf(at < n ? buf + at : NULL, at < n ? n - at : 0, "%s%s", at ? " " : "",
			   word);

	return at + (size_t)len;
}

int boot_cmdline(char *buf, size_t n, const struct boot_config *c)
{
	size_t at = 0;

	if (n == 0)
		return -ENOSPC;
	buf[0] = 0;
	for (size_t i = 0; i < ARRAY_LEN(words); i++)
		if (wanted(&words[i], c))
			at = append(buf, n, at, words[i].text);
	/* Without ACPI the virtio devices can only be told by name (virtio_mmio.c "device="). */
	for (u32 i = 0; c->cmdline && boot_has_word(c->cmdline, "acpi=off") && i < c->nr_slots;
	     i++) {
		char text[80];

		snprintf(text, sizeof text, "virtio_mmio.device=%u@%#llx:%u", c->slot[i].len,
			 (unsigned long long)c->slot[i].base, c->slot[i].gsi);
		at = append(buf, n, at, text);
	}
	if (c->cmdline && *c->cmdline)
		at = append(buf, n, at, c->cmdline);
	return at < n ? (int)at : -ENOSPC;
}
