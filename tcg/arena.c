/* arena.c - the memory of decoded blocks, and what goes when it is full.
 *
 * The arena is blocks from end to end; a dropped block is a gap, and so is what was never used.
 * New blocks fill one gap after the other.  When there is none left, a sweep looks at all blocks:
 * those that are translated stay, for their translations point to them, and so do those that have
 * run more than once since the last sweep; the others go, and neighbouring gaps become one.  If
 * that gives little, some of the arena that was not used so far is; if there is none, everything
 * goes, translations too.  Nothing is ever moved.
 *
 * A sweep happens only where a block is looked for, when none is running: until then a dropped
 * block's memory is as it was.  Runs on the vCPU's thread. */
#include <sys/mman.h>

#include "exec.h"

enum {
	SMALL_BYTES = 2 << 20,
	OPEN_FIRST = 6 << 20, /* bytes that are used at first, and more each time */
	OPEN_STEP = 1 << 20,
	LOOK_AHEAD = 8, /* at so many gaps for one that is large enough */
	GOOD_PART = 3, /* a sweep that frees less than this part is not worth it; */
	LEAST_PART = 8, /* if this part, not at all */
	ARENA_ALIGN = 16,
	PAGES_BYTES = CODE_PAGES * sizeof(struct code_page),
};

int arena_init(struct interp *it, u64 bytes)
{
	it->arena = host_pages_new(bytes);
	it->pages = host_pages_new(PAGES_BYTES);
	it->arena_bytes = bytes;
	if (!it->arena || !it->pages)
		return -ENOMEM;
	/* What only a real system fills comes in huge pages: a fault costs as much as decoding a
	 * hundred instructions. */
	if (bytes > SMALL_BYTES)
		madvise(it->arena + SMALL_BYTES, bytes - SMALL_BYTES, MADV_HUGEPAGE);
	arena_empty(it);
	return 0;
}

void arena_free(struct interp *it)
{
	host_pages_free(it->arena, it->arena_bytes);
	host_pages_free(it->pages, PAGES_BYTES);
}

void arena_empty(struct interp *it)
{
	it->at = it->arena;
	it->open = MIN(it->arena_bytes, (u64)OPEN_FIRST);
	it->end = it->arena + it->open;
	it->gap = NULL;
	it->page_spare = NULL;
	it->pages_used = 0;
}

/* --- gaps --------------------------------------------------------------------------------- */
static void gap_write(void *at, u64 bytes, struct block *next)
{
	if (bytes)
		*(struct block *)at = (struct block){ .insns = BLOCK_DEAD,
						      .size = (u32)bytes,
						      .hash_next = next };
}

/* What is left at it->at becomes a gap like others, for whoever goes through all blocks. */
static void gap_close(struct interp *it)
{
	gap_write(it->at, (u64)(it->end - it->at), NULL);
	it->at = it->end;
}

/* How much of room a block of so many bytes takes: all, if the rest were too little to be a gap. */
static u64 gap_part(u64 room, u64 bytes)
{
	return room - bytes < sizeof(struct block) ? room : bytes;
}

/* One of the next few gaps, or a part of it. */
static struct block *gap_ahead(struct interp *it, u64 bytes)
{
	struct block **at = &it->gap, *b;

	for (unsigned n = 0; *at && n < LOOK_AHEAD; n++, at = &(*at)->hash_next) {
		b = *at;
		if (b->size < bytes)
			continue;
		bytes = gap_part(b->size, bytes);
		gap_write((u8 *)b + bytes, b->size - bytes, b->hash_next);
		*at = bytes < b->size ? (struct block *)((u8 *)b + bytes) : b->hash_next;
		b->size = (u32)bytes;
		return b;
	}
	return NULL;
}

/* A block of so many bytes, or somewhat more; NULL if there is none. */
static struct block *gap_take(struct interp *it, u64 bytes)
{
	struct block *b;

	while ((u64)(it->end - it->at) < bytes) {
		b = gap_ahead(it, bytes);
		if (b)
			return b;
		gap_close(it);
		if (!it->gap)
			return NULL;
		b = it->gap;
		it->gap = b->hash_next;
		it->at = (u8 *)b;
		it->end = it->at + b->size;
	}
	b = (struct block *)it->at;
	b->size = (u32)gap_part((u64)(it->end - it->at), bytes);
	it->at += b->size;
	return b;
}

/* --- the sweep ---------------------------------------------------------------------------- */
static struct block *block_after(const struct block *b)
{
	return (struct block *)((u8 *)b + b->size);
}

static bool is_dead(const struct block *b)
{
	return b->insns == BLOCK_DEAD;
}

/* A block that is not counted, as no translator wants it, goes. */
static bool worth_keeping(struct block *b)
{
	u16 runs = (u16)(b->seen - b->heat);

	b->seen = b->heat;
	return b->trans || runs > 1;
}

static void page_forget_dead(struct code_page *p)
{
	for (unsigned g = 0; g < ARRAY_LEN(p->granule); g++)
		for (struct block **at = &p->granule[g]; *at;)
			if (is_dead(*at))
				*at = (*at)->granule_next;
			else
				at = &(*at)->granule_next;
}

static bool page_is_empty(const struct code_page *p)
{
	for (unsigned g = 0; g < ARRAY_LEN(p->granule); g++)
		if (p->granule[g])
			return false;
	return true;
}

/* Bits of the code map may stay behind: a store finds no page and clears them. */
static void pages_sweep(struct interp *it)
{
	for (unsigned i = 0; i < CODE_PAGES; i++)
		for (struct code_page **at = &it->page[i], *p; (p = *at);) {
			page_forget_dead(p);
			if (page_is_empty(p)) {
				*at = p->next;
				p->next = it->page_spare;
				it->page_spare = p;
			} else {
				at = &p->next;
			}
		}
}

static void links_forget_dead(struct block *b)
{
	for (unsigned n = 0; n < ARRAY_LEN(b->to); n++)
		if (is_dead(b->to[n]))
			b->to[n] = &block_none;
}

static struct block *arena_end(const struct interp *it)
{
	return (struct block *)(it->arena + it->open);
}

/* Neighbours become one, and a list.  Returns how much there is. */
static u64 gaps_join(struct interp *it)
{
	struct block *end = arena_end(it), **tail = &it->gap;
	u64 bytes = 0;

	for (struct block *b = (struct block *)it->arena, *gap = NULL; b != end;) {
		struct block *next = block_after(b);

		if (!is_dead(b)) {
			links_forget_dead(b);
			gap = NULL;
		} else if (gap) {
			gap->size += b->size;
			bytes += b->size;
		} else {
			*tail = gap = b;
			tail = &b->hash_next;
			bytes += b->size;
		}
		b = next;
	}
	*tail = NULL;
	return bytes;
}

/* The next blocks go where none was. */
static void arena_grow(struct interp *it)
{
	u64 more = MIN(it->arena_bytes - it->open, (u64)OPEN_STEP);

	it->at = it->arena + it->open;
	it->end = it->at + more;
	it->open += more;
}

static void arena_sweep(struct tcg_cpu *c)
{
	struct interp *it = c->interp;
	struct block *end = arena_end(it);
	u64 bytes;

	gap_close(it);
	for (struct block *b = (struct block *)it->arena; b != end; b = block_after(b))
		if (!is_dead(b) && !worth_keeping(b))
			block_forget(c, b);
	pages_sweep(it);
	it->link = NULL;
	it->dropped = true;
	it->stat_sweeps++;
	bytes = gaps_join(it);
	if (bytes < it->open / GOOD_PART && it->open < it->arena_bytes)
		arena_grow(it);
	else if (bytes < it->open / LEAST_PART)
		interp_flush(c);
}

/* --- what is given out -------------------------------------------------------------------- */
static bool pages_full(const struct interp *it)
{
	return !it->page_spare && it->pages_used == CODE_PAGES;
}

/* Everything may be gone afterwards, but not all that is asked for. */
struct block *arena_take(struct tcg_cpu *c, u64 bytes)
{
	struct interp *it = c->interp;
	struct block *b = NULL;

	bytes = ALIGN_UP(bytes, ARENA_ALIGN);
	if (!pages_full(it))
		b = gap_take(it, bytes);
	if (!b) {
		arena_sweep(c);
		if (pages_full(it))
			interp_flush(c);
		b = gap_take(it, bytes);
	}
	if (!b) { /* the gaps are all too small */
		interp_flush(c);
		b = gap_take(it, bytes);
	}
	ASSERT(b);
	return b;
}

struct code_page *arena_take_page(struct interp *it)
{
	struct code_page *p = it->page_spare;

	if (p)
		it->page_spare = p->next;
	else
		p = &it->pages[it->pages_used++];
	*p = (struct code_page){ 0 };
	return p;
}
