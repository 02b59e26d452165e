/* smbios.c - the SMBIOS 2.8 tables, by which dmidecode and a kernel's DMI code know the machine:
 * put below 1 MiB, or given to firmware, which puts its own BIOS structure (type 0) before them.
 * Source: DMTF DSP0134 2.8.0 §5.2.1 "SMBIOS 2.1 Entry Point", §7. */
#include "parts.h"

#include "../devices/fwcfg.h"

enum { BIOS = 0, SYSTEM = 1, CHASSIS = 3, CPU = 4, MEMORY_ARRAY = 16, MEMORY_DEVICE = 17,
       MEMORY_ADDRESS = 19, BOOT_STATUS = 32, END = 127 };
enum { ENTRY_BYTES = 31, ENTRY_SUM = 4, ENTRY_MIDDLE = 16, ENTRY_MIDDLE_SUM = 21 };
enum { TABLE_MAX = LOW_STUB - LOW_SMBIOS - 32, NO_HANDLE = 0xffff, NO_ERROR_HANDLE = 0xfffe };
enum { HANDLE_PER_TYPE = 0x100 }; /* a structure's handle: its type times this, and its number */

static const char vendor[] = "mvm", product[] = "MVMPC";

struct smbios {
	u32 len, count, longest;
	u32 at;      /* of the open structure */
	u8 strings;  /* it has */
	u8 entry[ENTRY_BYTES];
	u8 buf[TABLE_MAX];
};

/* --- structures ------------------------------------------------------------------------------- */
static u8 *begin(struct smbios *s, u8 type, u8 len, u32 nr)
{
	u8 *p = s->buf + s->len;

	ASSERT(len <= sizeof s->buf - s->len);
	s->at = s->len;
	s->len += len;
	s->strings = 0;
	p[0] = type;
	p[1] = len;
	st16(p + 2, (u16)(type * HANDLE_PER_TYPE + nr));
	return p;
}

/* The number by which a field names the text. */
static u8 text(struct smbios *s, const char *t)
{
	u32 n = (u32)strlen(t) + 1;

	ASSERT(n + 1 <= sizeof s->buf - s->len);
	memcpy(s->buf + s->len, t, n);
	s->len += n;
	return ++s->strings;
}

/* Texts end with an empty one; without any there are two zeros. */
static void end(struct smbios *s)
{
	s->len += s->strings ? 1 : 2;
	ASSERT(s->len <= sizeof s->buf);
	s->longest = MAX(s->longest, s->len - s->at);
	s->count++;
}

static void put_bios(struct smbios *s)
{
	u8 *p = begin(s, BIOS, 24, 0);

	p[4] = text(s, vendor);
	p[5] = text(s, MVM_VERSION);
	st16(p + 6, 0xf000);       /* where our few calls are (stub.c) */
	p[8] = text(s, "01/01/2026"); /* Linux trusts tables of before 2008 less */
	p[10] = 1 << 3;            /* no characteristics given */
	p[19] = 1 << 4 | 1 << 2;   /* a virtual machine; targeted content distribution */
	p[22] = p[23] = 0xff;      /* no embedded controller */
	end(s);
}

/* Of the five numbers in a UUID the first three lie here with their lowest byte first (§7.2.1). */
static void put_uuid(u8 *p, const u8 *uuid)
{
	static const u8 order[16] = { 3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15 };

	for (u32 i = 0; i < sizeof order; i++)
		p[i] = uuid[order[i]];
}

static void put_system(struct smbios *s, const u8 *uuid)
{
	u8 *p = begin(s, SYSTEM, 27, 0);

	p[4] = text(s, vendor);
	p[5] = text(s, product);
	p[6] = text(s, MVM_VERSION);
	put_uuid(p + 8, uuid); /* zeros say that none was given */
	p[24] = 6;             /* woken by its power switch */
	end(s);
	p = begin(s, CHASSIS, 22, 0);
	p[4] = text(s, vendor);
	p[5] = 1;                      /* other */
	memset(p + 9, 3, 4);           /* states: safe; security: none */
	end(s);
}

static void put_cpu(struct smbios *s, u32 nr_vcpus)
{
	u8 *p = begin(s, CPU, 42, 0);

	p[4] = text(s, "CPU 0");
	p[5] = 3;                      /* central processor */
	p[6] = 1;                      /* family: other */
	p[7] = text(s, vendor);
	p[24] = 0x41;                  /* socket populated, enabled */
	p[25] = 1;                     /* upgrade: other */
	st16(p + 26, NO_HANDLE);       /* caches are CPUID's to tell */
	st16(p + 28, NO_HANDLE);
	st16(p + 30, NO_HANDLE);
	p[35] = p[36] = p[37] = (u8)MIN(nr_vcpus, 255); /* cores, enabled ones, threads */
	st16(p + 38, 1 << 2);          /* 64-bit */
	st16(p + 40, 1);
	end(s);
}

static void put_memory(struct smbios *s, const struct memory *m)
{
	u64 mib = m->ram_bytes / MIB;
	u8 *p = begin(s, MEMORY_ARRAY, 23, 0);

	p[4] = 1; /* place: other */
	p[5] = 3; /* system memory */
	p[6] = 3; /* no error correction */
	st32(p + 7, (u32)MIN(m->ram_bytes / KIB, BIT(31)));
	st16(p + 11, NO_ERROR_HANDLE);
	st16(p + 13, 1);
	st64(p + 15, m->ram_bytes / KIB < BIT(31) ? 0 : m->ram_bytes);
	end(s);
	p = begin(s, MEMORY_DEVICE, 34, 0);
	st16(p + 4, MEMORY_ARRAY * HANDLE_PER_TYPE);
	st16(p + 6, NO_ERROR_HANDLE);
	st32(p + 8, UINT32_MAX); /* widths unknown */
	st16(p + 12, (u16)MIN(mib, 0x7fff));
	p[14] = 9; /* DIMM */
	p[16] = text(s, "DIMM 0");
	p[18] = 7; /* RAM */
	st16(p + 19, 1 << 1);
	p[23] = text(s, vendor);
	st32(p + 28, mib < 0x7fff ? 0 : (u32)mib);
	end(s);
}

static void put_ranges(struct smbios *s, const struct memory *m)
{
	for (u32 i = 0; i < m->n; i++) {
		const struct mem_region *r = &m->region[i];
		u8 *p;

		if (r->rom)
			continue;
		p = begin(s, MEMORY_ADDRESS, 31, i);
		st32(p + 4, (u32)(r->gpa / KIB));
		st32(p + 8, (u32)((r->gpa + r->bytes) / KIB - 1));
		st16(p + 12, MEMORY_ARRAY * HANDLE_PER_TYPE);
		p[14] = 1;
		end(s);
	}
}

static void put_entry(struct smbios *s, u32 table)
{
	u8 *p = s->entry;

	boot_put_text(p, "_SM_");
	p[5] = ENTRY_BYTES;
	p[6] = 2;
	p[7] = 8;
	st16(p + 8, (u16)s->longest);
	boot_put_text(p + ENTRY_MIDDLE, "_DMI_");
	st16(p + 22, (u16)s->len);
	st32(p + 24, table);
	st16(p + 28, (u16)s->count);
	p[30] = 0x28;
	p[ENTRY_MIDDLE_SUM] = boot_checksum(p + ENTRY_MIDDLE, ENTRY_BYTES - ENTRY_MIDDLE);
	p[ENTRY_SUM] = boot_checksum(p, ENTRY_BYTES);
}

/* The table will lie at `table`; 0 when firmware decides, and describes itself. */
static void smbios_fill(struct smbios *s, const struct memory *m, const struct boot_config *c,
			u32 table)
{
	if (table)
		put_bios(s);
	put_system(s, c->uuid);
	put_cpu(s, c->nr_vcpus);
	put_memory(s, m);
	put_ranges(s, m);
	begin(s, BOOT_STATUS, 11, 0); /* no errors */
	end(s);
	begin(s, END, 4, 0);
	end(s);
	put_entry(s, table);
}

void smbios_put(struct loader *l)
{
	struct smbios s = { 0 };

	smbios_fill(&s, l->m, l->c, LOW_SMBIOS + 32);
	boot_put(l, LOW_SMBIOS, s.entry, sizeof s.entry);
	boot_put(l, LOW_SMBIOS + 32, s.buf, s.len);
}

void smbios_add_files(struct firmware *f, const struct boot_config *c, const struct memory *m)
{
	struct smbios s = { 0 };

	smbios_fill(&s, m, c, 0);
	firmware_add_file(f, "etc/smbios/smbios-anchor", s.entry, sizeof s.entry);
	firmware_add_file(f, "etc/smbios/smbios-tables", s.buf, s.len);
}
