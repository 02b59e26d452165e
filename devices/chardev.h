/* chardev.h - the wire between a character device of the guest and its end on the host.
 *
 * The host end (terminal, file, socket) owns struct chardev and fills the first half before the
 * device is created; the device fills the second half in its init.  Every call is made with
 * machine.lock held.  Nothing is dropped on either side: bytes that do not fit stay where they
 * are, and the side that made room says so. */
#pragma once

#include "../base.h"

struct device;

struct chardev {
	/* --- the host end's half; a NULL function is an end that has no use for the call --- */
	/* Guest output.  Takes the first bytes that fit, must not block, returns how many it took;
	 * after taking fewer than n it calls writable() once there is room. */
	size_t (*write)(void *ctx, const u8 *buf, size_t n);
	/* The device's room() has become non-zero: read the host again. */
	void (*readable)(void *ctx);
	void *ctx;

	/* --- the device's half --- */
	size_t (*room)(struct device *dev); /* bytes receive() can take now */
	/* Guest input: n bytes, at most room(). */
	void (*receive)(struct device *dev, const u8 *buf, size_t n);
	void (*break_in)(struct device *dev); /* a break condition arrived on the line */
	void (*writable)(struct device *dev); /* write() would take bytes again */
	struct device *dev;
};
