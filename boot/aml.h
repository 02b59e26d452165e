/* aml.h - writes ACPI machine language into a fixed buffer: only the terms that our DSDT has.
 * Overflow is sticky in `full`; packages are patched when they end, so nothing needs to be measured
 * beforehand. */
#pragma once

#include "../base.h"

enum { AML_DEPTH = 4 };

struct aml {
	u8 *buf;
	u32 len, cap;
	bool full;
	u32 depth;
	u32 open[AML_DEPTH]; /* where each open package's length goes */
};

/* Open and close a package: its length field covers everything between. */
void aml_scope(struct aml *a, const char *path);       /* Scope (path), "\\_SB_" style */
void aml_device(struct aml *a, const char *name);      /* Device (name), four characters */
void aml_end(struct aml *a);

void aml_name_int(struct aml *a, const char *name, u64 v);        /* Name (name, v) */
void aml_name_str(struct aml *a, const char *name, const char *v);
void aml_name_eisaid(struct aml *a, const char *name, const char *id); /* "PNP0501" */
void aml_name_ints(struct aml *a, const char *name, const u8 *v,
		   u8 n); /* Package of small integers */

/* Name (name, Package (n) {...}), a package inside one, both closed by aml_end; an element. */
void aml_name_package(struct aml *a, const char *name, u8 n);
void aml_package(struct aml *a, u8 n);
void aml_int(struct aml *a, u64 v);

/* Resources: between aml_crs and aml_crs_end, which writes Name (_CRS, ResourceTemplate () {...}).
 */
struct aml_crs {
	u8 buf[128];
	u32 len;
};
void aml_crs_memory(struct aml_crs *r, u32 base, u32 len);          /* Memory32Fixed, read-write */
void aml_crs_irq(struct aml_crs *r, u32 gsi); /* Interrupt: level, active high, shared */
void aml_crs_isa_irq(struct aml_crs *r, u8 irq);                    /* IRQNoFlags */
void aml_crs_io(struct aml_crs *r, u16 port, u8 len);               /* IO (Decode16) */
/* What a bridge forwards: bus numbers, ports, and memory in 32 or 64 bits. */
void aml_crs_buses(struct aml_crs *r, u16 first, u16 n);
void aml_crs_ports(struct aml_crs *r, u16 first, u16 n);
void aml_crs_window32(struct aml_crs *r, u32 base, u32 len);
void aml_crs_window64(struct aml_crs *r, u64 base, u64 len);
void aml_name_crs(struct aml *a, struct aml_crs *r);
