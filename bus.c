/* bus.c - address to device: a sorted table and a binary search under machine.lock. */
#include "bus.h"

#include "devices/device.h"

void bus_init(struct bus *b, const char *name, pthread_mutex_t *lock)
{
	memset(b, 0, sizeof *b);
	b->name = name;
	b->lock = lock;
}

/* The number of ranges that start at or below addr. */
static u32 bus_rank(const struct bus *b, u64 addr)
{
	u32 lo = 0, hi = b->n;

	while (lo < hi) {
		u32 mid = (lo + hi) / 2;

		if (b->range[mid].base <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

int bus_map(struct bus *b, u64 base, u64 len, struct device *dev, u32 region)
{
	u32 at = bus_rank(b, base);

	ASSERT(len && base + len - 1 >= base);
	if (b->n == BUS_RANGES_MAX)
		return -ENOSPC;
	if ((at && b->range[at - 1].base + b->range[at - 1].len > base) ||
	    (at < b->n && b->range[at].base - base < len))
		return -EEXIST;
	memmove(&b->range[at + 1], &b->range[at], (b->n - at) * sizeof b->range[0]);
	b->range[at] = (struct bus_range){ base, len, dev, region };
	b->n++;
	return 0;
}

void bus_unmap(struct bus *b, u64 base)
{
	u32 at = bus_rank(b, base);
	struct bus_range gone;

	if (!at || b->range[at - 1].base != base)
		return;
	gone = b->range[at - 1];
	b->n--;
	memmove(&b->range[at - 1], &b->range[at], (b->n - (at - 1)) * sizeof b->range[0]);
	if (b->unmapped)
		b->unmapped(b->unmapped_ctx, gone.dev, gone.region);
}

u64 bus_base(const struct bus *b, const struct device *dev, u32 region)
{
	for (u32 i = 0; i < b->n; i++)
		if (b->range[i].dev == dev && b->range[i].region == region)
			return b->range[i].base;
	return UINT64_MAX;
}

void bus_map_whole(struct bus *b, u64 base, unsigned width, struct device *dev, u32 region)
{
	ASSERT(!b->whole.len && width <= dev->ops->access_max);
	b->whole = (struct bus_range){ base, width, dev, region };
}

/* The range that has addr, or NULL. */
static const struct bus_range *bus_find(struct bus *b, u64 addr)
{
	const struct bus_range *r = &b->range[b->last];
	u32 at;

	if (b->last < b->n && addr - r->base < r->len)
		return r;
	at = bus_rank(b, addr);
	if (!at)
		return NULL;
	b->last = at - 1;
	r = &b->range[b->last];
	return addr - r->base < r->len ? r : NULL;
}

/* One piece of an access: where it goes and how many bytes may go there at once. */
struct bus_piece {
	const struct bus_range *range; /* NULL: nobody */
	u64 off;
	unsigned size;
};

static struct bus_piece bus_piece(struct bus *b, u64 addr, unsigned left)
{
	struct bus_piece p = { .size = 1 };
	const struct bus_range *r;

	if (addr == b->whole.base && left == b->whole.len)
		return (struct bus_piece){ .range = &b->whole, .size = left };
	r = bus_find(b, addr);
	if (!r) {
		b->unclaimed++;
		return p;
	}
	p.range = r;
	p.off = addr - r->base;
	p.size = MIN(left, r->dev->ops->access_max);
	/* The device is promised a power of two inside the region. */
	while (p.size & (p.size - 1) || p.size > r->len - p.off)
		p.size = p.size & (p.size - 1) ? p.size & (p.size - 1) : p.size / 2;
	return p;
}

u64 bus_read(struct bus *b, u64 addr, unsigned size)
{
	u64 val = 0;

	pthread_mutex_lock(b->lock);
	for (unsigned done = 0; done < size;) {
		struct bus_piece p = bus_piece(b, addr + done, size - done);
		u64 part = ~0ull;

		if (p.range)
			part = p.range->dev->ops->read(p.range->dev, p.range->region, p.off,
						       p.size);
		if (p.size < 8)
			part &= BIT(p.size * 8) - 1;
		val |= part << done * 8;
		done += p.size;
	}
	pthread_mutex_unlock(b->lock);
	return val;
}

void bus_write(struct bus *b, u64 addr, unsigned size, u64 val)
{
	pthread_mutex_lock(b->lock);
	for (unsigned done = 0; done < size;) {
		struct bus_piece p = bus_piece(b, addr + done, size - done);
		u64 part = val >> done * 8;

		if (p.size < 8)
			part &= BIT(p.size * 8) - 1;
		if (p.range)
			p.range->dev->ops->write(p.range->dev, p.range->region, p.off, p.size,
						 part);
		done += p.size;
	}
	pthread_mutex_unlock(b->lock);
}
