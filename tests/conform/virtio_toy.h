/* virtio_toy.h - a virtio kind with two queues of up to 16 entries, feature 3 and eight bytes of
 * configuration of which a driver may write the fifth and sixth together; it gives every chain
 * back as it came.  Each test runs in its own process, so the counts start at 0. */
#pragma once

#include "../../devices/virtio/virtio.h"

enum { TOY_ID = 0x51, TOY_QUEUES = 2, TOY_QUEUE_MAX = 16, TOY_CONFIG = 8 };

extern const struct vdev_ops toy_vops;
extern u32 toy_notified[TOY_QUEUES], toy_dropped; /* calls of the ops */
