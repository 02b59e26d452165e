/* cache.h - memory for code that we make: one memory object mapped twice, writable here and
 * executable there, so that no page is ever both.  Fixed size, handed out from the bottom up,
 * thrown away as a whole.  Owner: one vCPU's thread. */
#pragma once

#include "../base.h"

struct code_cache {
	u8 *rw; /* where it is written */
	const u8 *rx; /* where it is run */
	u32 size, pos;
	u32 ready; /* bytes that have, or need, no page faults any more */
	u32 keep; /* bytes at the bottom that survive a flush */
	u32 gen; /* changes with every flush: whoever keeps a code address keeps this beside it */
};

int cache_init(struct code_cache *k, u32 size, struct err *e);
void cache_free(struct code_cache *k);

/* Where to write at most n bytes of new code, or NULL when the cache is full. */
u8 *cache_reserve(struct code_cache *k, u32 n);

/* Take the n bytes just written at cache_reserve's address; their address to run. */
const u8 *cache_commit(struct code_cache *k, u32 n);

/* What was committed so far stays for ever. */
void cache_seal(struct code_cache *k);
void cache_flush(struct code_cache *k);
