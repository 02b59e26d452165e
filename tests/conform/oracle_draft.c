/* oracle_draft.c - random encodings of a row: prefixes, VEX or REX, opcode, ModRM; what follows is
 * random bytes, of which the decoder says how many count. */
#include "oracle_gen.h"

/* --- encodings -------------------------------------------------------------------------------- */
static void put(struct draft *d, u8 b)
{
	d->t->code[d->n++] = b;
}

static bool row_is_vex(const struct op *row)
{
	return row->map >= MAP_V0F;
}

/* One of the bits set in mask. */
static unsigned pick_bit(unsigned mask)
{
	unsigned i;

	do
		i = below(8);
	while (!(mask >> i & 1));
	return i;
}

static unsigned pick_pp(const struct op *row)
{
	if (row->pp != PP_ANY)
		return pick_bit(row->pp);
	if (row->flags & F_REP && chance(60))
		return 2 + below(2);
	return chance(70) ? 0 : chance(80) ? 1 : 2 + below(2);
}

static void put_prefixes(struct draft *d, const struct op *row, unsigned pp)
{
	static const u8 segs[] = { 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65 };
	u8 p[6], n = 0;

	if (pp)
		p[n++] = pp == 1 ? 0x66 : pp == 2 ? 0xf3 : 0xf2;
	if (row->pp == PP_ANY && pp >= 2 && chance(20))
		p[n++] = 0x66;
	if (chance(8))
		p[n++] = 0x67;
	if (chance(8))
		p[n++] = segs[below(6)];
	if (row->flags & F_LOCKOK && d->mem && chance(25))
		p[n++] = 0xf0;
	while (n) {
		unsigned i = below(n);

		put(d, p[i]);
		p[i] = p[--n];
	}
}

static void put_vex(struct draft *d, const struct op *row, unsigned pp)
{
	unsigned l = pick_bit(row->lw & LW_LX), w = pick_bit(row->lw >> 2 & 3);
	unsigned map = row->map - MAP_V0F + 1, rxb = d->mode == MODE_64 ? below(8) : 0;
	unsigned vvvv = has(d, 1ull << FORM_H | 1ull << FORM_B) ? below(d->mode == MODE_64 ? 16 : 8)
								: 0;
	u8 last = (u8)((~vvvv & 15) << 3 | l << 2 | pp);

	if (map == 1 && !w && !(rxb & 3) && chance(60)) {
		put(d, 0xc5);
		put(d, (u8)((rxb & 4 ? 0 : 0x80) | last));
		return;
	}
	put(d, 0xc4);
	put(d, (u8)((~rxb & 7) << 5 | map));
	put(d, (u8)(w << 7 | last));
}

static void put_rex(struct draft *d, const struct op *row)
{
	unsigned w = row->lw & LW_WX ? pick_bit(row->lw >> 2 & 3) : below(2);

	if (d->mode == MODE_64 && (w || chance(50)))
		put(d, (u8)(0x40 | w << 3 | below(8)));
}

static void put_opcode(struct draft *d, const struct op *row)
{
	if (row->map >= MAP_0F && row->map <= MAP_0F3A)
		put(d, 0x0f);
	if (row->map == MAP_0F38 || row->map == MAP_0F3A)
		put(d, row->map == MAP_0F38 ? 0x38 : 0x3a);
	put(d, row_is_x87(row) ? (u8)(0xd8 + row->map - MAP_D8) : row->opcode);
}

static void put_modrm(struct draft *d, const struct op *row)
{
	u8 b = (u8)gen_random(), ext = row->ext;

	if (row_is_x87(row)) {
		if (row->opcode < 8)
			b = (u8)((b & 7) | row->opcode << 3 | below(3) << 6);
		else
			b = row->opcode | (has(d, 1ull << FORM_STI) ? b & 7 : 0);
	} else {
		if (!has(d, FORMS_MODRM) && ext == EXT___)
			return;
		b = (u8)((b & 0x3f) | (d->mem ? below(3) << 6 : 0xc0));
		if (ext >= 0xc0)
			b = ext;
		else if (ext != EXT___)
			b = (u8)((b & 0xc7) | (ext & 7) << 3);
	}
	if (b < 0xc0 && (has(d, 1ull << FORM_VSIB) || chance(25)))
		b = (u8)((b & ~7) | 4);
	d->modrm_at = d->n;
	put(d, b);
}

/* SIB, displacement, immediate: whatever the decoder makes of it. */
static void put_tail(struct draft *d)
{
	unsigned style = below(4);

	for (unsigned i = 0; i < 14; i++) {
		u8 r = (u8)gen_random();

		put(d, style < 2 ? r : style == 2 ? (i & 3 ? (u8) - (r & 1) : r) : r & 0x1f);
	}
}

static bool draft_mem(const struct draft *d, const struct op *row)
{
	if (row_is_x87(row))
		return row->opcode < 8;
	if (has(d, FORMS_REG_ONLY) || row->ext >= 0xc0 ||
	    (row->ext != EXT___ && row->ext & EXT_REG))
		return false;
	return has(d, FORMS_MEM_ONLY) || (has(d, FORMS_EITHER) && chance(50));
}

bool gen_draft_bytes(struct draft *d, const struct op *row)
{
	struct test_case *t = d->t;
	unsigned pp;

	for (unsigned i = 0; i < 4; i++)
		d->forms |= 1ull << opd_specs[row->spec[i]].form;
	d->mem = draft_mem(d, row);
	pp = pick_pp(row);
	put_prefixes(d, row, row_is_vex(row) ? 0 : pp);
	if (row_is_vex(row))
		put_vex(d, row, pp);
	else
		put_rex(d, row);
	if (row_is_vex(row))
		put(d, row->opcode);
	else
		put_opcode(d, row);
	put_modrm(d, row);
	put_tail(d);
	if (decode(&t->in, t->code, 15, d->mode) <= 0 || t->in.op != row)
		return false;
	t->len = t->in.len;
	return true;
}
