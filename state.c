/* state.c - the save/load visitor.
 *
 * A section is {u32 length of the body, u32 version, u32 CRC-32 of the body, name[24]}, its body a
 * run of fields {u32 FNV-1a hash of the name, u32 size, bytes}.  Everything is little-endian. */
#include "state.h"

#include <stdio.h>
#include <stdlib.h>

enum { SECTION_NAME = 24, SECTION_HEAD = 12 + SECTION_NAME, FIELD_HEAD = 8, GROW = 4096 };

void state_init_save(struct state *st)
{
	memset(st, 0, sizeof *st);
}

void state_init_load(struct state *st, const void *buf, size_t len)
{
	*st = (struct state){ .loading = true, .buf = (u8 *)buf, .len = len };
}

void state_free(struct state *st)
{
	if (!st->loading)
		free(st->buf);
	memset(st, 0, sizeof *st);
}

static void state_fail(struct state *st, int error, const char *what)
{
	if (st->error)
		return;
	st->error = error;
	snprintf(st->what, sizeof st->what, "%s", what);
}

static u32 state_hash(const char *name)
{
	u32 h = 2166136261u;

	for (; *name; name++)
		h = (h ^ (u8)*name) * 16777619u;
	return h;
}

static u32 state_crc32(const u8 *p, size_t n)
{
	u32 crc = ~0u;

	while (n--) {
		crc ^= *p++;
		for (int i = 0; i < 8; i++)
			crc = crc >> 1 ^ (0xedb88320u & -(crc & 1));
	}
	return ~crc;
}

static bool state_room(struct state *st, size_t n)
{
	if (st->len + n > st->cap) {
		size_t cap = st->len + n + GROW;
		u8 *buf = realloc(st->buf, cap);

		if (!buf) {
			state_fail(st, -ENOMEM, "state buffer");
			return false;
		}
		st->buf = buf;
		st->cap = cap;
	}
	return true;
}

static void state_append(struct state *st, const void *p, size_t n)
{
	if (st->error || !state_room(st, n))
		return;
	memcpy(st->buf + st->len, p, n);
	st->len += n;
}

static void state_open_loaded(struct state *st, const char *name, u32 version)
{
	const u8 *head = st->buf + st->pos;
	char padded[SECTION_NAME] = { 0 };
	u32 len;

	if (st->len - st->pos < SECTION_HEAD)
		return state_fail(st, -EINVAL, name);
	len = ld32(head);
	st->version = ld32(head + 4);
	memcpy(padded, name, strlen(name));
	if (len > st->len - st->pos - SECTION_HEAD || memcmp(head + 12, padded, sizeof padded) != 0)
		return state_fail(st, -EINVAL, name);
	if (st->version > version)
		return state_fail(st, -ENOTSUP, name);
	if (ld32(head + 8) != state_crc32(head + SECTION_HEAD, len))
		return state_fail(st, -EBADMSG, name);
	st->pos += SECTION_HEAD;
	st->section_end = st->pos + len;
}

void st_begin(struct state *st, const char *name, u32 version)
{
	u8 head[SECTION_HEAD] = { 0 };

	if (st->error)
		return;
	if (st->loading)
		return state_open_loaded(st, name, version);
	st->version = version;
	st->section_at = st->len;
	st32(head + 4, version);
	ASSERT(strlen(name) < SECTION_NAME);
	snprintf((char *)head + 12, SECTION_NAME, "%s", name);
	state_append(st, head, sizeof head);
}

void st_end(struct state *st)
{
	u8 *head;
	u32 len;

	if (st->error)
		return;
	if (st->loading) {
		if (st->pos != st->section_end)
			state_fail(st, -EINVAL, "section length");
		return;
	}
	head = st->buf + st->section_at;
	len = (u32)(st->len - st->section_at - SECTION_HEAD);
	st32(head, len);
	st32(head + 8, state_crc32(head + SECTION_HEAD, len));
}

void st_bytes(struct state *st, const char *name, void *p, size_t len)
{
	u8 head[FIELD_HEAD];

	if (st->error)
		return;
	st32(head, state_hash(name));
	st32(head + 4, (u32)len);
	if (!st->loading) {
		state_append(st, head, sizeof head);
		state_append(st, p, len);
		return;
	}
	if (st->section_end - st->pos < FIELD_HEAD + len ||
	    memcmp(st->buf + st->pos, head, FIELD_HEAD) != 0)
		return state_fail(st, -EINVAL, name);
	memcpy(p, st->buf + st->pos + FIELD_HEAD, len);
	st->pos += FIELD_HEAD + len;
}

void st_u8(struct state *st, const char *name, u8 *v)
{
	st_bytes(st, name, v, sizeof *v);
}

void st_u16(struct state *st, const char *name, u16 *v)
{
	st_bytes(st, name, v, sizeof *v);
}

void st_u32(struct state *st, const char *name, u32 *v)
{
	st_bytes(st, name, v, sizeof *v);
}

void st_u64(struct state *st, const char *name, u64 *v)
{
	st_bytes(st, name, v, sizeof *v);
}

void st_bool(struct state *st, const char *name, bool *v)
{
	u8 byte = *v;

	st_u8(st, name, &byte);
	st_check(st, byte <= 1, name);
	*v = byte & 1;
}

void st_check(struct state *st, bool ok, const char *name)
{
	if (st->loading && !ok)
		state_fail(st, -EINVAL, name);
}
