/* vq.c - the split virtqueue, device side (virtio 1.2 §2.7): pop, push, indirect tables, event
 * index.
 *
 * The rings lie in memory that the guest can rewrite at any moment.  So each guest word is read
 * once, into a local, and only the local is checked and used; the ring's place and size come from
 * struct vq, fixed by vq_start.  No allocation depends on a guest's number: a chain holds at most
 * CHAIN_MAX parts.  Runs with machine.lock held.
 *
 * More lenient than the text in two places, for drivers in the field: an indirect table may be
 * longer than the queue (up to VQ_MAX descriptors used), and descriptors of length 0 are skipped.
 */
#include "virtio.h"

enum { DESC_NEXT = 1, DESC_WRITE = 2, DESC_INDIRECT = 4, DESC_BYTES = 16 }; /* §2.7.5 */
enum { RING_NO_NOTIFY = 1 }; /* avail and used flags, bit 0: §2.7.6, §2.7.8 */
enum { RING_FLAGS = 0, RING_IDX = 2, RING_ENTRIES = 4, AVAIL_ENTRY = 2, USED_ENTRY = 8 };

struct desc {
	gpa_t addr;
	u32 len;
	u16 flags, next;
};

/* Each side stores its index, then looks whether the other still sleeps, and must not see the past
 * (§2.7.7.2, §2.7.10.1): mem_fence() stands between. */
static u16 ring_load16(const u8 *p)
{
	return __atomic_load_n((const u16 *)p, __ATOMIC_ACQUIRE);
}

/* Store into the used ring, and say so to those who watch memory. */
static void used_store16(struct vq *q, u32 off, u16 val)
{
	__atomic_store_n((u16 *)(q->used + off), val, __ATOMIC_RELEASE);
	mem_dirty(q->mem, q->s->used + off, sizeof val);
}

static u32 avail_bytes(u16 size)
{
	return RING_ENTRIES + size * AVAIL_ENTRY + 2; /* used_event at the end */
}

static u32 used_bytes(u16 size)
{
	return RING_ENTRIES + size * USED_ENTRY + 2; /* avail_event at the end */
}

int vq_start(struct vq *q, struct memory *mem, u64 features)
{
	const struct vq_state *s = q->s;
	u16 size = s->size;

	if (!size || size > VQ_MAX || (size & (size - 1)))
		return -EINVAL;
	if (s->desc % 16 || s->avail % 2 || s->used % 4)
		return -EINVAL;
	u8 *desc = mem_ptr(mem, s->desc, size * DESC_BYTES);
	u8 *avail = mem_ptr(mem, s->avail, avail_bytes(size));
	u8 *used = mem_ptr_rw(mem, s->used, used_bytes(size));

	if (!desc || !avail || !used)
		return -EINVAL;
	q->mem = mem;
	q->size = size;
	q->event_idx = features & VIRTIO_F_EVENT_IDX;
	q->indirect = features & VIRTIO_F_INDIRECT_DESC;
	q->inflight = 0;
	q->budget = size;
	q->avail = avail;
	q->used = used;
	q->desc = desc;
	return 0;
}

void vq_stop(struct vq *q)
{
	q->desc = q->avail = q->used = NULL;
	q->inflight = 0;
}

/* The one read of a descriptor.  Tables in the ring are aligned; an indirect one may lie anywhere.
 */
static struct desc desc_load(const u8 *p)
{
	u8 raw[DESC_BYTES] __attribute__((aligned(8)));

	if ((uintptr_t)p % 8) {
		for (int i = 0; i < DESC_BYTES; i++)
			raw[i] = __atomic_load_n(p + i, __ATOMIC_RELAXED);
	} else {
		st64(raw, __atomic_load_n((const u64 *)p, __ATOMIC_RELAXED));
		st64(raw + 8, __atomic_load_n((const u64 *)(p + 8), __ATOMIC_RELAXED));
	}
	return (struct desc){ ld64(raw), ld32(raw + 8), ld16(raw + 12), ld16(raw + 14) };
}

/* Append guest bytes [gpa, gpa+len) to the chain, one iovec for each RAM region they touch. */
static int chain_add(struct chain *c, struct memory *mem, gpa_t gpa, u64 len, bool in)
{
	u64 *total = in ? &c->in_len : &c->out_len, end;

	if (!add_u64(gpa, len, &end) || (!in && c->in_n))
		return -EPROTO; /* past the end of the address space; readable after writable */
	*total += len;
	if (c->in_len + c->out_len > UINT32_MAX) /* §2.7.5.2: no chain above 4 GiB */
		return -EPROTO;
	while (len) {
		const struct mem_region *r = mem_find(mem, gpa);
		u32 at = c->out_n + c->in_n;

		if (!r || (in && r->rom) || at == CHAIN_MAX)
			return -EPROTO;
		u64 n = MIN(len, r->bytes - (gpa - r->gpa));

		c->iov[at] = (struct iovec){ r->host + (gpa - r->gpa), n };
		c->gpa[at] = gpa;
		if (in)
			c->in_n++;
		else
			c->in_at = ++c->out_n;
		gpa += n;
		len -= n;
	}
	return 0;
}

/* Where descriptors are read from: the ring's table, or one indirect table. */
struct desc_table {
	gpa_t gpa;
	const u8 *host; /* NULL: look gpa up for each descriptor, the table may cross regions */
	u32 count;
	u32 steps; /* descriptors left before a chain must be a loop */
};

static int table_load(const struct vq *q, const struct desc_table *t, u32 i, struct desc *d)
{
	const u8 *p = t->host ? t->host + i * DESC_BYTES : NULL;

	if (i >= t->count)
		return -EPROTO;
	if (!p)
		p = mem_ptr(q->mem, t->gpa + i * DESC_BYTES, DESC_BYTES);
	if (!p)
		return -EPROTO;
	*d = desc_load(p);
	return 0;
}

/* §2.7.5.3: one table for the rest of the chain; tables do not nest and end the outer chain. */
static int table_enter(const struct vq *q, struct desc_table *t, const struct desc *d)
{
	u64 end;

	if (!q->indirect || !t->host || (d->flags & DESC_NEXT) || !d->len || d->len % DESC_BYTES ||
	    !add_u64(d->addr, d->len, &end))
		return -EPROTO;
	*t = (struct desc_table){ d->addr, NULL, d->len / DESC_BYTES, VQ_MAX };
	return 0;
}

static int chain_walk(struct vq *q, struct chain *c)
{
	struct desc_table t = { q->s->desc, q->desc, q->size, q->size };
	struct desc d = { .flags = DESC_NEXT, .next = c->head };
	int rc;

	while (d.flags & DESC_NEXT) {
		if (!t.steps--)
			return -EPROTO;
		rc = table_load(q, &t, d.next, &d);
		if (rc < 0)
			return rc;
		if (d.flags & DESC_INDIRECT) {
			rc = table_enter(q, &t, &d);
			d = (struct desc){ .flags = DESC_NEXT };
		} else {
			rc = chain_add(c, q->mem, d.addr, d.len, d.flags & DESC_WRITE);
		}
		if (rc < 0)
			return rc;
	}
	return 0;
}

int vq_pop(struct vq *q, struct chain *c)
{
	struct vq_state *s = q->s;
	u16 waiting = ring_load16(q->avail + RING_IDX) - s->last_avail;
	u32 entry = RING_ENTRIES + (s->last_avail & (q->size - 1)) * AVAIL_ENTRY;
	int rc;

	if (!waiting)
		return 0;
	/* A driver owns `size` descriptors, so it cannot have more chains than that under way. */
	if (waiting + q->inflight > q->size)
		return -EPROTO;
	if (!q->budget)
		return 0;
	mem_fence(q->mem); /* a LOCK of the driver's may have had to stand for an SFENCE */
	c->head = ring_load16(q->avail + entry);
	c->out_n = c->in_n = c->in_at = c->out_at = 0;
	c->out_len = c->in_len = 0;
	rc = chain_walk(q, c);
	if (rc < 0)
		return rc;
	s->last_avail++;
	q->inflight++;
	q->budget--;
	return 1;
}

void vq_push(struct vq *q, const struct chain *c, u32 written)
{
	u16 idx = q->s->used_idx;
	u32 off = RING_ENTRIES + (idx & (q->size - 1)) * USED_ENTRY;

	chain_dirty(q->mem, c);
	__atomic_store_n((u32 *)(q->used + off), c->head, __ATOMIC_RELAXED);
	__atomic_store_n((u32 *)(q->used + off + 4), written, __ATOMIC_RELAXED);
	mem_dirty(q->mem, q->s->used + off, USED_ENTRY);
	q->s->used_idx = ++idx;
	q->inflight--;
	used_store16(q, RING_IDX, idx); /* last: the entry and the data are seen first */
}

bool vq_wants_signal(struct vq *q)
{
	u16 now = q->s->used_idx, before = q->s->signalled;

	if (now == before)
		return false;
	q->s->signalled = now;
	mem_fence(q->mem);
	if (!q->event_idx)
		return !(ring_load16(q->avail + RING_FLAGS) & RING_NO_NOTIFY);
	u16 event = ring_load16(q->avail + RING_ENTRIES + q->size * AVAIL_ENTRY);

	return (u16)(now - event - 1) < (u16)(now - before);
}

void vq_kick_off(struct vq *q)
{
	if (!q->event_idx) /* with the event index, leaving it behind has the same effect */
		used_store16(q, RING_FLAGS, RING_NO_NOTIFY);
}

bool vq_kick_on(struct vq *q)
{
	if (q->event_idx)
		used_store16(q, RING_ENTRIES + q->size * USED_ENTRY, q->s->last_avail);
	else
		used_store16(q, RING_FLAGS, 0);
	mem_fence(q->mem);
	return ring_load16(q->avail + RING_IDX) != q->s->last_avail;
}

u64 chain_take(struct chain *c, void *dst, u64 n)
{
	u64 done = 0;

	while (done < n && c->out_n) {
		struct iovec *v = &c->iov[c->out_at];
		u64 part = MIN(n - done, v->iov_len);

		memcpy((u8 *)dst + done, v->iov_base, part);
		done += part;
		v->iov_base = (u8 *)v->iov_base + part;
		v->iov_len -= part;
		c->gpa[c->out_at] += part;
		if (!v->iov_len) {
			c->out_at++;
			c->out_n--;
		}
	}
	c->out_len -= done;
	return done;
}

u64 chain_give(const struct chain *c, const void *src, u64 n)
{
	u64 done = 0;

	for (u32 i = c->in_at; done < n && i < (u32)c->in_at + c->in_n; i++) {
		u64 part = MIN(n - done, c->iov[i].iov_len);

		memcpy(c->iov[i].iov_base, (const u8 *)src + done, part);
		done += part;
	}
	return done;
}

bool chain_cut_last(struct chain *c, gpa_t *at)
{
	if (!c->in_n)
		return false;
	u32 i = c->in_at + c->in_n - 1;

	*at = c->gpa[i] + --c->iov[i].iov_len;
	c->in_len--;
	if (!c->iov[i].iov_len)
		c->in_n--;
	return true;
}

void chain_dirty(struct memory *mem, const struct chain *c)
{
	for (u32 i = c->in_at; i < (u32)c->in_at + c->in_n; i++)
		mem_dirty(mem, c->gpa[i], c->iov[i].iov_len);
}
