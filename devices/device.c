/* device.c - the life of a device: allocate, wire, init; free.  Set-up thread only. */
#include <stdlib.h>

#include "device.h"

struct device *device_new(const struct device_ops *ops, const struct device *wires, struct err *e)
{
	struct device *dev = calloc(1, ops->bytes);

	if (!dev) {
		err_set(e, -ENOMEM, "device %s: out of memory", ops->name);
		return NULL;
	}
	*dev = *wires;
	dev->ops = ops;
	if (ops->init && ops->init(dev, e) < 0) {
		free(dev);
		return NULL;
	}
	return dev;
}

int device_start(struct device *dev, struct err *e)
{
	return dev->ops->start ? dev->ops->start(dev, e) : 0;
}

void device_free(struct device *dev)
{
	if (dev && dev->ops->free)
		dev->ops->free(dev);
	free(dev);
}
