/* Fuzz target: a split ring whose descriptors, indirect tables and avail ring are the input.
 * Whatever vq_pop accepts must lie inside guest memory and be counted right. */
#include <stdlib.h>

#include "../../devices/virtio/virtio.h"

enum { SIZE = 16, DESC = 0, TABLE = 0x100, AVAIL = 0x800, USED = 0x900, RAM = 0x10000 };

static struct memory memory;
static struct chain c;

static void check(bool ok)
{
	if (!ok)
		abort();
}

static void check_chain(void)
{
	u64 out = 0, in = 0;

	check((u32)c.out_n + c.in_n <= CHAIN_MAX && c.in_at == c.out_n && !c.out_at);
	for (u32 i = 0; i < (u32)c.out_n + c.in_n; i++) {
		check(c.iov[i].iov_len &&
		      c.iov[i].iov_base == mem_ptr(&memory, c.gpa[i], c.iov[i].iov_len));
		*(i < c.out_n ? &out : &in) += c.iov[i].iov_len;
	}
	check(out == c.out_len && in == c.in_len && in + out <= UINT32_MAX);
}

/* Buffers small and near the front, so that most are inside: the input's first byte may veto. */
static void tame(void)
{
	for (u32 i = 0; i < AVAIL / 16; i++) {
		u8 *d = mem_ptr(&memory, i * 16, 16);

		memset(d + 3, 0, 5); /* address below 16 MiB */
		d[2] &= 1;
		memset(d + 10, 0, 2);
		d[12] &= 7;
		d[14] %= SIZE * 2;
		d[15] = 0;
	}
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t len);
int LLVMFuzzerTestOneInput(const u8 *data, size_t len)
{
	struct vq_state s = { .desc = DESC, .avail = AVAIL, .used = USED, .size = SIZE };
	struct vq q = { .s = &s };
	struct err e;
	u8 head[16];
	gpa_t at;

	if (len < 2)
		return 0;
	if (!memory.n && memory_init(&memory, MIB, &e) < 0)
		abort();
	memset(mem_ptr(&memory, 0, RAM), 0, RAM);
	memcpy(mem_ptr(&memory, 0, RAM), data + 1, MIN(len - 1, RAM));
	if (data[0] & 1)
		tame();
	if (data[0] & 2)
		st16(mem_ptr(&memory, AVAIL + 2, 2), SIZE);
	if (vq_start(&q, &memory, (u64)(data[0] >> 2 & 3) << 28) < 0)
		abort();
	while (vq_pop(&q, &c) > 0) {
		check_chain();
		chain_take(&c, head, data[1] % sizeof head);
		if (data[0] & 16)
			chain_cut_last(&c, &at);
		chain_give(&c, head, sizeof head);
		vq_push(&q, &c, (u32)c.in_len);
		vq_wants_signal(&q);
	}
	vq_kick_off(&q);
	vq_kick_on(&q);
	return 0;
}
