/* rig.h - a machine with one device: a bus with its regions at their usual addresses, a clock that
 * moves only when told to, and recorders instead of interrupt controllers and a board.
 *
 *	struct rig *r = rig_new(&rtc_ops);
 *	out8(r, 0x70, 0x0d);
 *	EQ(in8(r, 0x71), 0x80);
 *	rig_free(r);
 */
#pragma once

#include "../bus.h"
#include "../devices/device.h"
#include "test.h"

enum { RIG_REQUESTS = 8, RIG_MESSAGES = 8 };

/* A device that the contract tests go through, and where its regions are. */
struct device_kind {
	const struct device_ops *ops;
	struct {
		u64 base, len; /* len 0: no more */
	} region[4];
};
extern const struct device_kind device_kinds[];
extern const size_t nr_device_kinds;

struct rig {
	struct device *dev;
	struct loop *loop;
	const struct device_kind *kind;
	pthread_mutex_t lock;
	struct bus bus; /* ports and memory alike */
	struct memory mem;
	struct irqchip chip;

	/* What came out. irq[i] of the device is line i. */
	bool line[DEVICE_LINES];
	u32 rises[DEVICE_LINES];
	bool intr;
	u32 intr_changes;
	u32 messages;
	struct {
		u64 addr;
		u32 data;
	} message[RIG_MESSAGES]; /* the last ones, by number modulo RIG_MESSAGES */
	u32 requests;
	struct {
		enum device_request what;
		u32 arg;
	} request[RIG_REQUESTS];
};

/* The device's ops must be among device_kinds[]. Never fails: ends the test instead. */
struct rig *rig_new(const struct device_ops *ops);
struct rig *rig_new_with(const struct device_ops *ops, void *arg);
void rig_free(struct rig *r);

void rig_advance(struct rig *r, u64 ns);
void rig_reset(struct rig *r);
u32 rig_take_request(struct rig *r); /* the last request; UINT32_MAX: none since last asked */

/* Save r's device into *st (free with state_free); load it from there: 0 or -errno. */
void rig_save(struct rig *r, struct state *st);
int rig_load(struct rig *r, const struct state *saved);
const void *rig_state_of(const struct rig *r); /* the plain struct, ops->state_len bytes */

/* Random accesses of every size at every offset, time moving in between. */
void rig_poke(struct rig *r, unsigned times);

static inline u8 in8(struct rig *r, u64 addr)
{
	return (u8)bus_read(&r->bus, addr, 1);
}

static inline u16 in16(struct rig *r, u64 addr)
{
	return (u16)bus_read(&r->bus, addr, 2);
}

static inline u32 in32(struct rig *r, u64 addr)
{
	return (u32)bus_read(&r->bus, addr, 4);
}

static inline void out8(struct rig *r, u64 addr, u8 val)
{
	bus_write(&r->bus, addr, 1, val);
}

static inline void out16(struct rig *r, u64 addr, u16 val)
{
	bus_write(&r->bus, addr, 2, val);
}

static inline void out32(struct rig *r, u64 addr, u32 val)
{
	bus_write(&r->bus, addr, 4, val);
}
