/* state.h - the save/load visitor: one function per device describes its state, and the same
 * function saves and loads it.  Straight-line code: errors are sticky in struct state.
 *
 * Stream: a sequence of sections {name, version, length, CRC-32}, each a sequence of fields
 * {name hash, size, bytes}; a field missing, renamed or of another size on load sets the error. */
#pragma once

#include "base.h"

struct state {
	bool loading;
	int error;          /* 0 or -errno, sticky */
	char what[64];      /* the first field that failed */
	u8 *buf;            /* owned when saving; borrowed when loading */
	size_t len, cap, pos;
	size_t section_at;  /* offset of the open section's header */
	size_t section_end; /* loading: end of the open section */
	u32 version;        /* of the open section, as saved: st_* callers may look at it on load */
};

void state_init_save(struct state *st);
void state_init_load(struct state *st, const void *buf, size_t len);
void state_free(struct state *st);

/* Bracket one device's fields. version is the current layout; loading a newer one is -ENOTSUP. */
void st_begin(struct state *st, const char *name, u32 version);
void st_end(struct state *st);

void st_u8(struct state *st, const char *name, u8 *v);
void st_u16(struct state *st, const char *name, u16 *v);
void st_u32(struct state *st, const char *name, u32 *v);
void st_u64(struct state *st, const char *name, u64 *v);
void st_bool(struct state *st, const char *name, bool *v);
void st_bytes(struct state *st, const char *name, void *p, size_t len);

/* On load: a value no correct save can hold sets -EINVAL. Saved state is untrusted input too. */
void st_check(struct state *st, bool ok, const char *name);
