/* pci_kit.h - a PCI bus for tests: a port bus and a memory bus with a host bridge, a fake loop,
 * RAM, and an irqchip that records lines and messages.  Devices are added slot by slot. */
#pragma once

#include "../../devices/virtio/virtio.h"
#include "../test.h"

#define PK_MEM32 0xd0000000ull
#define PK_MEM32_BYTES 0x10000000ull
#define PK_MEM64 0x100000000ull
#define PK_MEM64_BYTES 0x100000000ull
enum { PK_IO = 0x1000, PK_IO_BYTES = 0x1000 };
enum { PK_ISA = 32 }; /* GSI of the first one */
enum { PK_RAM = 1 << 20, PK_MESSAGES = 8, PK_SLOTS = 4 };

struct pci_kit {
	pthread_mutex_t lock;
	struct bus pio, mmio;
	struct memory mem;
	struct loop *loop;
	struct irqchip chip;
	struct device *host, *dev[PK_SLOTS]; /* dev[0]: unused */
	bool line[PCI_LINES], isa[PCI_LINES]; /* PIRQs, and their 8259 inputs */
	u32 rises[PCI_LINES];
	u32 messages;
	struct {
		u64 addr;
		u32 data;
	} message[PK_MESSAGES]; /* the last ones, by number modulo PK_MESSAGES */
};

void pk_open(struct pci_kit *k);
void pk_close(struct pci_kit *k);

/* A device whose ops are those of a vdev behind PCI. */
struct vdev *pk_add(struct pci_kit *k, u32 slot, const struct device_ops *ops, void *arg);
/* Whatever else has a function. */
void pk_put(struct pci_kit *k, u32 slot, struct device *dev, struct pci_func *f);
struct device pk_wires(struct pci_kit *k, void *arg);

/* Configuration space through CF8h and CFCh. */
u32 pk_in(struct pci_kit *k, u32 slot, u32 off, unsigned size);
void pk_out(struct pci_kit *k, u32 slot, u32 off, unsigned size, u32 val);
/* The offset of the nth capability with this id, or 0. */
u32 pk_cap(struct pci_kit *k, u32 slot, u8 id, u32 nth);

u64 pk_read(struct pci_kit *k, u64 addr, unsigned size);
void pk_write(struct pci_kit *k, u64 addr, unsigned size, u64 val);
