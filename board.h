/* board.h - which devices the PC has, where, and on which lines: the inside of struct machine,
 * shared by board.c (builds and describes it) and machine.c (runs it). */
#pragma once

#include "boot/boot.h"
#include "devices/device.h"
#include "devices/virtio/virtio.h"
#include "machine.h"

enum { DEVICES_MAX = 40 };

enum run_state { RUN_NEW, RUN_RUNNING, RUN_PAUSED, RUN_STOPPED };

struct image;

struct machine {
	/* const after machine_new */
	const struct config *cfg; /* borrowed */
	const struct engine *eng;
	char eng_why[160];        /* why this engine */
	struct memory mem;
	struct bus pio, mmio;
	struct loop *loop;
	struct irqchip chip;
	struct engine_env env;
	struct vcpu *vcpus[CPUS_MAX];
	u32 nr_vcpus;
	struct device *dev[DEVICES_MAX]; /* board order */
	u32 devs;
	struct vdev *vdev[DEVICES_MAX]; /* those of dev[] that are virtio devices */
	u32 vdevs;
	struct device *pci;       /* the host bridge if virtio devices are on its bus, or NULL */
	struct image *image[DISKS_MAX];
	struct blk_setup blk[DISKS_MAX];
	struct chardev *console;
	struct boot_config boot;
	struct firmware *firmware; /* what fw_cfg holds, or NULL */
	int sigfd;
	struct host_tsc host_tsc;

	pthread_mutex_t lock; /* all device state; see house rules in doc/ARCHITECTURE.md */
	/* owner: loop thread */
	enum run_state run;
	u64 paused_tsc;           /* of the host, when the vCPUs had parked */
	struct loop_timer stop;   /* the power button was pressed: armed until patience ends */
	/* guard: lock */
	u32 request;          /* bit per enum device_request waiting for the loop */
	u32 debug_exit;
	struct loop_work request_work;
};

/* device.request of every device; lock held, any thread. */
void machine_request(void *ctx, enum device_request req, u32 arg);

/* Open the images, create every device and map it; on failure the caller frees what is in m->dev.
 * If the kernel decides how virtio devices are attached, then that is left for board_attach, after
 * the sandbox's fork: the kernel is unpacked for it. */
int board_build(struct machine *m, struct err *e);
bool board_looks_at_kernel(const struct config *cfg);
int board_attach(struct machine *m, struct err *e);
void board_free(struct machine *m);
void board_reset(struct machine *m);
void board_flush(struct machine *m); /* after quiesce */
u64 board_file_max(const struct machine *m); /* bytes */
/* doorbell.c.  After engine and devices are there, before the vCPUs run.  0, or -errno with *e. */
int doorbells_init(struct machine *m, struct err *e);
struct device *board_find(const struct machine *m, const struct device_ops *ops);
