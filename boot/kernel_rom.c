/* kernel_rom.c - an option ROM by which SeaBIOS boots the kernel of the firmware configuration
 * device: a bootstrap entry that lets the device copy set-up code, kernel, command line and initrd
 * to their places, and enters the set-up code.
 *
 * Where everything goes is known when the ROM is made: it carries the DMA descriptors ready.  Other
 * firmware (qboot) loads kernels itself and leaves the ROM alone.
 * Sources: Plug and Play BIOS Specification 1.0A §3.2 (ROM headers); BIOS Boot Specification 1.01
 * §3.4 (BEV); Linux Documentation/x86/boot.rst "Running the Kernel". */
#include "parts.h"

#include "../devices/fwcfg.h"

/* Offsets are from the ROM's start, where CS points. */
__asm__(
"	.pushsection .rodata.kernel_rom, \"a\", @progbits\n"
"	.code16\n"
"	.globl kernel_rom, kernel_rom_descs, kernel_rom_end\n"
"	.hidden kernel_rom, kernel_rom_descs, kernel_rom_end\n"
"kernel_rom:\n"
"	.byte 0x55, 0xaa, 1\n"                /* 512 bytes */
"	mov $0x20, %ax\n"                     /* init: a bootstrap device, nothing hooked */
"	lret\n"
"	.org kernel_rom + 0x1a\n"
"	.word pnp - kernel_rom\n"
"pnp:	.ascii \"$PnP\"\n"
"	.byte 1, 2\n"                         /* revision; 32 bytes */
"	.word 0\n"                            /* no other header */
"	.byte 0, 0\n"
"	.long 0\n"
"	.word maker - kernel_rom, name - kernel_rom\n"
"	.byte 0, 0, 0, 0x14\n"                /* boots, needs no display or input */
"	.word 0, 0, bev - kernel_rom, 0, 0\n"
"maker:	.asciz \"mvm\"\n"
"name:	.asciz \"Linux kernel\"\n"

"bev:	cli\n"
"	cld\n"
"	mov %ss, %ax\n"
"	mov %ax, %es\n"
"	mov $kernel_rom_descs - kernel_rom, %si\n"
"1:	sub $16, %sp\n"                       /* on the stack: this place may be write-protected */
"	mov %sp, %di\n"
"	mov $8, %cx\n"
"	rep movsw %cs:(%si), %es:(%di)\n"
"	xor %eax, %eax\n"
"	mov %ss, %ax\n"
"	shl $4, %eax\n"
"	movzwl %sp, %edx\n"
"	add %edx, %eax\n"
"	bswap %eax\n"
"	mov $0x518, %dx\n"
"	outl %eax, %dx\n"
"	pop %eax\n"                           /* control: 0, or big-endian 1 for an error */
"	test %eax, %eax\n"
"	jnz fail\n"
"	add $12, %sp\n"
"	cmp $kernel_rom_end - kernel_rom, %si\n"
"	jb 1b\n"
"	mov $0x1000, %ax\n"
"	mov %ax, %ds\n"
"	mov %ax, %es\n"
"	mov %ax, %fs\n"
"	mov %ax, %gs\n"
"	mov %ax, %ss\n"
"	mov $0xf000, %sp\n"
"	ljmp $0x1020, $0\n"
"fail:	add $12, %sp\n"
"	int $0x18\n"                          /* the next boot device */

"	.skip 512 - 4 * 16 - (. - kernel_rom)\n"
"kernel_rom_descs:\n"
"	.skip 4 * 16\n"
"kernel_rom_end:\n"
"	.code64\n"
"	.popsection\n");

enum { ROM_BYTES = 512, ROM_DESCS = ROM_BYTES - 4 * 16 };
enum { ROM_SUM = 7 }; /* bytes 6 to 17h are the maker's own */

extern const u8 kernel_rom[ROM_BYTES];

static void put_desc(u8 *p, u16 key, u64 addr, u64 len)
{
	u32 control = (u32)key << 16 | FWCFG_DMA_SELECT | FWCFG_DMA_READ;

	st32(p, __builtin_bswap32(control));
	st32(p + 4, __builtin_bswap32((u32)len));
	st64(p + 8, __builtin_bswap64(addr));
}

void firmware_add_kernel_rom(struct firmware *f, const struct loader *l,
			     const struct linux_header *h)
{
	u8 rom[ROM_BYTES], *desc = rom + ROM_DESCS;

	ASSERT(LOW_REAL_MODE == 0x10000);
	memcpy(rom, kernel_rom, sizeof rom);
	put_desc(desc, FWCFG_SETUP_DATA, LOW_REAL_MODE, h->setup_len);
	put_desc(desc + 16, FWCFG_KERNEL_DATA, LINUX_LOAD_HIGH, h->code_len);
	put_desc(desc + 32, FWCFG_CMDLINE_DATA, LOW_CMDLINE, l->cmdline_len + 1);
	put_desc(desc + 48, FWCFG_INITRD_DATA, l->initrd, l->initrd_len);
	rom[ROM_SUM] = boot_checksum(rom, sizeof rom);
	firmware_add_file(f, KERNEL_ROM, rom, sizeof rom);
}
