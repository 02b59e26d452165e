/* device.h - all that a device may know: its own registers (region, offset, size), interrupt lines,
 * the guest clock and, for those that do DMA, guest memory.
 *
 * A device never sees an address, a vCPU or an engine.  Its calls run with machine.lock held, on a
 * vCPU thread (register access) or the loop thread (timers, back-end events). */
#pragma once

#include "../base.h"
#include "../irq.h"
#include "../loop.h"
#include "../memory.h"
#include "../state.h"

struct device;

enum device_request {
	DEV_RESET,      /* reset the machine (keyboard controller, CF9h, ACPI reset register) */
	DEV_POWEROFF,   /* S5 */
	DEV_DEBUG_EXIT, /* isa-debug-exit: arg is the byte(s) written */
	DEV_BOOT_MARK,  /* boot timer: stamp "guest ready" */
	DEV_A20,        /* A20 gate: arg 0 or 1 */
};

struct device_ops {
	const char *name; /* as in the log, the snapshot and --dry-run */
	u32 version;      /* of the state layout */
	size_t bytes;     /* sizeof the instance; struct device is its first member */
	/* widest access it takes at once: 1, 2, 4 or 8; the bus splits wider ones */
	unsigned access_max;

	/* Called once, after the header (wires) is filled and the rest is zero; calls reset itself
	 * if it wants to.  0, or -errno with *e and nothing left behind. NULL: nothing to do. */
	int (*init)(struct device *dev, struct err *e);
	/* After the machine has split off its parent, since threads do not survive that: start
	 * them. 0 or -errno with *e.  NULL: it has none. */
	int (*start)(struct device *dev, struct err *e);
	void (*free)(struct device *dev); /* undo init; not the instance itself. May be NULL. */

	/* size is 1, 2, 4 or 8, at most access_max; the access lies inside the region. */
	u64 (*read)(struct device *dev, unsigned region, u64 off, unsigned size);
	void (*write)(struct device *dev, unsigned region, u64 off, unsigned size, u64 val);

	/* power-on or CPU-initiated reset; lines are dropped */
	void (*reset)(struct device *dev);
	void (*state)(struct device *dev, struct state *st); /* saves and loads */
	void (*quiesce)(struct device *dev); /* finish or park work in flight; NULL: none */

	/* Where the guest-visible plain struct lies in the instance, for the contract tests. */
	size_t state_off, state_len;
};

enum { DEVICE_LINES = 4 };

struct device {
	/* const after create */
	const struct device_ops *ops;
	char id[24];             /* "serial0", "disk1": names it to the user */
	struct loop *loop;       /* borrowed; the guest clock and timers */
	struct memory *mem;      /* borrowed; NULL unless it does DMA */
	struct irq_line irq[DEVICE_LINES];
	/* its back-end or set-up data, documented in the device's header */
	void *arg;
	/* Ask the machine for something only it can do (reset, power off); posted to the loop. */
	void (*request)(void *ctx, enum device_request req, u32 arg);
	void *request_ctx;
};

/* Allocate, fill the header from *wires (everything but ops), call init.  NULL with *e. */
struct device *device_new(const struct device_ops *ops, const struct device *wires, struct err *e);
int device_start(struct device *dev, struct err *e);
void device_free(struct device *dev); /* NULL is fine */
