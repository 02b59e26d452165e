/* pci.h - PCI: functions with their configuration space, and the host bridge that finds them.
 *
 * A device that sits on PCI embeds a struct pci_func and, in the state it saves, a struct
 * pci_func_state.  It describes itself once (pci_func_init, pci_func_bar, pci_cap_add, ...): that
 * fills the reset value of each configuration byte and a mask of the bits a driver may change.
 * From then on pci.c and pci_msi.c answer for configuration space, BARs and interrupts; the device
 * sees accesses to its regions, as on any bus, and calls pci_raise, pci_lower or pci_msix_send.
 *
 * The host bridge (pci_host.c) is one more device.  It alone knows the buses: a BAR is mapped there
 * while the guest decodes it at an address inside the bridge's window for its kind that nothing
 * else claims; any other address is legal and leads nowhere.
 *
 * Thread: vCPUs and loop, with machine.lock held.
 * Sources: PCI Local Bus Specification 3.0 chapter 6; PCI Express Base 3.0 §7.2.2 (ECAM). */
#pragma once

#include "../bus.h"
#include "device.h"

enum {
	PCI_CONFIG_BYTES = 256, /* per function: none has an extended capability */
	PCI_BARS = 6,
	PCI_SLOTS = 32,
	PCI_VECTORS_MAX = 16,
	PCI_MSIX_ENTRY_BYTES = 16,
	PCI_LINES = 4, /* PIRQ A to D */
};

/* Configuration header, PCI 3.0 §6.1. */
enum {
	PCI_VENDOR_ID = 0x00,
	PCI_DEVICE_ID = 0x02,
	PCI_COMMAND = 0x04,
	PCI_STATUS = 0x06,
	PCI_REVISION_ID = 0x08,
	PCI_CLASS = 0x09, /* programming interface, sub-class, base class */
	PCI_HEADER_TYPE = 0x0e,
	PCI_BAR0 = 0x10,
	PCI_SUBSYSTEM_VENDOR_ID = 0x2c,
	PCI_SUBSYSTEM_ID = 0x2e,
	PCI_CAPABILITIES = 0x34,
	PCI_INTERRUPT_LINE = 0x3c,
	PCI_INTERRUPT_PIN = 0x3d,
	PCI_FIRST_CAP = 0x40,
};
enum { PCI_COMMAND_IO = 1, PCI_COMMAND_MEMORY = 2, PCI_COMMAND_MASTER = 4,
       PCI_COMMAND_INTX_DISABLE = 1 << 10 };
enum { PCI_STATUS_INTERRUPT = 1 << 3, PCI_STATUS_CAP_LIST = 1 << 4 };
enum { PCI_CAP_MSI = 0x05, PCI_CAP_VENDOR = 0x09, PCI_CAP_MSIX = 0x11 };

enum pci_bar_kind { PCI_BAR_MEM32, PCI_BAR_MEM64, PCI_BAR_IO };

/* What the guest can observe of a function; all of it is saved. */
struct pci_func_state {
	u8 config[PCI_CONFIG_BYTES];
	u8 msix[PCI_VECTORS_MAX * PCI_MSIX_ENTRY_BYTES];
	u32 msix_pending; /* bit per vector: the PBA */
	u32 intx;         /* 1: the function wants INTA asserted */
};

struct pci_bar {
	u64 len;    /* power of two; 0: not there */
	u32 region; /* of the device */
	enum pci_bar_kind kind;
};

struct pci_func {
	/* const after init */
	struct device *dev;       /* borrowed: whose regions the BARs are */
	struct pci_func_state *s; /* borrowed: inside the device */
	struct pci_host *host;    /* borrowed; NULL until pci_attach */
	u32 slot;
	u8 reset[PCI_CONFIG_BYTES]; /* value at reset */
	u8 write[PCI_CONFIG_BYTES]; /* bits that a driver may change */
	u8 live[PCI_CONFIG_BYTES];  /* bits that the function itself changes */
	struct pci_bar bar[PCI_BARS];
	u32 last_cap, next_cap;   /* last one in the list; first free byte */
	u32 msi_cap, msix_cap;    /* 0: none */
	u32 vectors;              /* of the MSI-X table */
	/* The device's part in reads and writes of configuration bytes; NULL: none.  Before a read
	 * it may renew s->config; after a write it may act. */
	void (*config_read)(struct pci_func *f, u32 off, unsigned size);
	void (*config_written)(struct pci_func *f, u32 off, unsigned size);
	/* guard: machine.lock; follows from the state */
	u64 mapped[PCI_BARS];     /* where the BAR is on the bus, or PCI_UNMAPPED */
};
#define PCI_UNMAPPED UINT64_MAX

struct pci_id {
	u16 vendor, device, subsystem_vendor, subsystem;
	u32 class; /* base class, sub-class, programming interface: 24 bits */
	u8 revision;
};

/* --- set-up, in this order; then pci_func_reset ----------------------------------------------- */
void pci_func_init(struct pci_func *f, struct device *dev, struct pci_func_state *s,
		   const struct pci_id *id, bool interrupt_pin);
/* A BAR of len bytes (a power of two, 16 at least, 256 at most for ports) that shows the device's
 * region; a 64-bit one takes bar + 1 too. */
void pci_func_bar(struct pci_func *f, u32 bar, enum pci_bar_kind kind, u64 len, u32 region);
/* Append a capability of len bytes: its offset. Fill in f->reset and f->write from there. */
u32 pci_cap_add(struct pci_func *f, u8 id, u32 len);
void pci_msi_add(struct pci_func *f);
void pci_msix_add(struct pci_func *f, u32 vectors, u32 bar, u32 table_off, u32 pba_off);

/* --- run -------------------------------------------------------------------------------------- */
void pci_func_reset(struct pci_func *f);
void pci_func_state(struct pci_func *f, struct state *st);
/* Any offset and any size from 1 to 4; bytes past the header's 256 read as 0. */
u32 pci_config_read(struct pci_func *f, u32 off, unsigned size);
void pci_config_write(struct pci_func *f, u32 off, unsigned size, u32 val);
/* Where a BAR points to: its base, or PCI_UNMAPPED while it is not decoded. */
u64 pci_bar_base(const struct pci_func *f, u32 bar);

/* An interrupt: a message if MSI is on, else INTA until pci_lower. Not while MSI-X is on. */
void pci_raise(struct pci_func *f);
void pci_lower(struct pci_func *f);
bool pci_msix_on(const struct pci_func *f);
/* Send the vector's message, or make it pending while masked.  Numbers past the table: nothing. */
void pci_msix_send(struct pci_func *f, u32 vector);
void pci_msix_clear_pending(struct pci_func *f);

/* The region that holds the MSI-X table and the pending bits, for the device's ops. */
u64 pci_msix_read(struct pci_func *f, u64 off, unsigned size, u64 pba_off);
void pci_msix_write(struct pci_func *f, u64 off, unsigned size, u64 val);

/* --- between pci.c, pci_msi.c and pci_host.c -------------------------------------------------- */
/* Is INTA asserted at the pin? */
bool pci_intx_level(const struct pci_func *f);
bool pci_msi_on(const struct pci_func *f);
void pci_msi_send(struct pci_func *f);
void pci_msi_config_written(struct pci_func *f, u32 off, unsigned size);
void pci_msi_state(struct pci_func *f, struct state *st);
/* Decoding or a BAR changed; an INTA pin may have changed.  Nothing without a host. */
void pci_host_remap(struct pci_host *h);
void pci_host_update_line(struct pci_host *h, u32 slot);

/* --- the host bridge -------------------------------------------------------------------------- */
/* irq[0..3]: PIRQ A to D, level-triggered; INTA of slot n is on line n mod 4.  Each drives an input
 * of the 8259s as well, as chipsets can be told to, for kernels that do not use the IOAPIC; the
 * guest masks the one it has no use for.  arg: struct pci_setup.
 * Regions: 0 CONFIG_ADDRESS (one access of 4 bytes), 1 CONFIG_DATA, 2 the ECAM space of bus 0. */
extern const struct device_ops pci_host_ops;
enum { PCI_ADDRESS_PORT = 0xcf8, PCI_DATA_PORT = 0xcfc, PCI_ECAM_BYTES = 1 << 20 };
#define PCI_ECAM_BASE 0xc8000000u
enum { PCI_HOST_ADDRESS, PCI_HOST_DATA, PCI_HOST_ECAM };

struct pci_window {
	u64 base, len;
};

struct pci_setup { /* read in init only, but for the buses, which are borrowed */
	struct bus *mmio, *pio;
	struct pci_window mem32, mem64, io; /* what the bridge forwards; mem64 may be empty */
	const u32 *isa_irq;             /* PCI_LINES different ones: 8259 inputs of PIRQ A to D */
};

/* Put the function of a device into a slot, 1 to 31.  Set-up only. */
void pci_attach(struct device *host, struct pci_func *f, u32 slot);
/* What firmware does at power-on: give every BAR an address and switch decoding on.  Call after a
 * reset of all devices, when no firmware of the guest's will. */
void pci_assign(struct device *host);
