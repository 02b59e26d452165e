/* perfmap.c - --perf-map: /tmp/perf-PID.map, where perf(1) looks for names of code that is in no
 * file.
 *
 * One file for all vCPUs, opened before any of them runs.  A block's line is written when it is
 * translated.  The first one after a vCPU's code memory was emptied lies where others have been, so
 * the file is emptied too, and each vCPU writes what it still has again at its next translation:
 * names are right for samples taken since then.  Runs on the vCPUs' threads, without a lock: what
 * is appended at once goes in one write, and a line too many is only there twice.
 *
 * Source: Linux, tools/perf/Documentation/jit-interface.txt: "START SIZE symbolname", hexadecimal.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "trans.h"

struct perf_map {
	int fd;
	_Atomic u32 gen; /* how often the file was emptied */
	bool failed;
};

enum { LINE_MAX = 80, BATCH = 4096 };

int perf_map_open(struct engine_env *env, struct err *e)
{
	char path[32];
	struct perf_map *m = calloc(1, sizeof *m);

	if (!m)
		return err_set(e, -ENOMEM, "perf map: no memory");
	snprintf(path, sizeof path, "/tmp/perf-%d.map", (int)getpid());
	unlink(path); /* of a process that had this number before */
	m->fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0600);
	if (m->fd < 0) {
		int rc = err_set(e, -errno, "perf map %s: cannot create: %s", path,
				 strerror(errno));

		free(m);
		return rc;
	}
	env->perf_map = m;
	return 0;
}

/* The file stays, for perf report. */
void perf_map_close(struct engine_env *env)
{
	if (!env->perf_map)
		return;
	close(env->perf_map->fd);
	free(env->perf_map);
	env->perf_map = NULL;
}

/* A full disk costs names, not the guest. */
static void map_write(struct perf_map *m, const char *text, size_t n)
{
	if (write(m->fd, text, n) != (ssize_t)n && !m->failed) {
		m->failed = true;
		log_warn("tcg", "perf map: cannot write: %s; some code stays without a name",
			 strerror(errno));
	}
}

static size_t map_line(const struct trans *t, u32 i, char *line)
{
	const struct trans_block *tb = &t->pool[i];
	u32 end = i + 1 < t->blocks ? tb[1].at : t->cache.pos;

	return (size_t)snprintf(line, LINE_MAX, "%llx %x guest_%s:%llx\n",
				(unsigned long long)(t->cache.rx + tb->at), end - tb->at,
				tb->mode != MODE_64	? "32bit"
				: tb->rip & BIT(63) ? "kernel"
						    : "user",
				(unsigned long long)tb->rip);
}

/* Blocks from..., and the common code in front of the first. */
static void map_blocks(struct tcg_cpu *c, u32 from)
{
	const struct trans *t = c->trans;
	char text[BATCH];
	size_t n = 0;

	if (from == 0)
		n = (size_t)snprintf(text, LINE_MAX, "%llx %x mvm_translator:common_code\n",
				     (unsigned long long)t->cache.rx, t->cache.keep);
	for (u32 i = MAX(from, 1); i < t->blocks; i++) {
		n += map_line(t, i, text + n);
		if (n > sizeof text - LINE_MAX || i + 1 == t->blocks) {
			map_write(c->v.env->perf_map, text, n);
			n = 0;
		}
	}
}

void perf_map_block(struct tcg_cpu *c)
{
	struct perf_map *m = c->v.env->perf_map;
	struct trans *t = c->trans;
	u32 gen;

	if (!m)
		return;
	fp_leave(c);
	if (t->map_stale && ftruncate(m->fd, 0) == 0)
		atomic_fetch_add(&m->gen, 1);
	t->map_stale = false;
	gen = atomic_load(&m->gen) + 1;
	map_blocks(c, t->map_gen == gen ? t->blocks - 1 : 0);
	t->map_gen = gen;
}

void perf_map_flush(struct tcg_cpu *c)
{
	c->trans->map_stale = true;
}
