/* virtio_driver.h - a fake guest driver for virtio-mmio devices: registers through the device's
 * ops, rings in a small guest memory, a fake loop and an interrupt line that is only looked at.
 *
 * Ring fields are plain memory (ring(), desc()), so that a test can break any rule. */
#pragma once

#include <pthread.h>

#include "../../devices/virtio/virtio.h"
#include "../test.h"

enum {
	R_MAGIC = 0x00, R_VERSION = 0x04, R_DEVICE_ID = 0x08, R_VENDOR = 0x0c, R_FEATURES = 0x10,
	R_FEATURES_SEL = 0x14, R_DRV_FEATURES = 0x20, R_DRV_FEATURES_SEL = 0x24, R_QUEUE_SEL = 0x30,
	R_QUEUE_MAX = 0x34, R_QUEUE_NUM = 0x38, R_QUEUE_READY = 0x44, R_NOTIFY = 0x50, R_ISR = 0x60,
	R_ACK = 0x64, R_STATUS = 0x70, R_DESC = 0x80, R_AVAIL = 0x90, R_USED = 0xa0,
	R_SHM_SEL = 0xac, R_SHM = 0xb0, R_RESET = 0xc0, R_GENERATION = 0xfc, R_CONFIG = 0x100,
};
enum { D_NEXT = 1, D_WRITE = 2, D_INDIRECT = 4 };

struct buf {
	gpa_t gpa;
	u32 len;
	u16 flags; /* D_WRITE, D_INDIRECT; D_NEXT is added by drv_add */
};

struct drv {
	pthread_mutex_t lock;
	struct memory mem;
	struct loop *loop;
	struct irqchip chip;
	bool line;
	u32 edges; /* times the line went up */
	struct device *dev;
	/* queue 0 */
	u16 size, next_desc, avail_idx, used_idx;
	gpa_t desc, avail, used;
	bool event_idx;
};

enum { DRV_RAM = 1 << 20, DRV_DATA = 0x10000 }; /* rings lie below DRV_DATA */

void drv_open(struct drv *d, const struct device_ops *ops, void *arg);
void drv_close(struct drv *d);

u32 r32(struct drv *d, u64 reg);
void w32(struct drv *d, u64 reg, u32 val);

/* Reset, then ACKNOWLEDGE, DRIVER, the features that are offered of those wanted (VERSION_1
 * always), FEATURES_OK. */
void drv_negotiate(struct drv *d, u64 features);
void drv_queue(struct drv *d, u32 queue, u16 size); /* lay out and make ready */
void drv_start(struct drv *d, u64 features, u16 size); /* all that, with queue 0, and DRIVER_OK */

void *drv_ptr(struct drv *d, gpa_t gpa);
/* Write one descriptor of a table. */
void drv_desc(struct drv *d, gpa_t table, u16 i, gpa_t addr, u32 len, u16 flags, u16 next);
u16 drv_add(struct drv *d, const struct buf *b, u32 n); /* a chain; makes it available; its head */
void drv_offer(struct drv *d, u16 head);                /* one avail entry */
void drv_kick(struct drv *d);

/* Take the next used entry: true and its head and length. */
bool drv_used(struct drv *d, u32 *head, u32 *len);
/* The same, running the loop's posted work until it comes (5 s at most; fails the test). */
u32 drv_wait(struct drv *d);
