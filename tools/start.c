/* start.c - the first code of the program, in place of the C library's rcrt1.o: relocates the
 * static-pie image, makes its RELRO segment read-only and enters the C library.
 *
 * Two things that musl 1.2.3's own start files lack: DT_RELR, the packed form of relative
 * relocations, a tenth of the binary smaller than DT_RELA; and the protection of RELRO in static
 * programs.
 *
 * Nothing here may call, use the stack protector or read through a relocated pointer before
 * relocate() is done.  Sources: System V gABI draft (DT_RELR), x86-64 psABI 1.0 section 3.4.1
 * (process entry). */
#include <elf.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#ifndef DT_RELR
#define DT_RELRSZ 35
#define DT_RELR 36
#define DT_RELRENT 37
#endif

int main(int argc, char **argv, char **envp);
void _init(void);
void _fini(void);
_Noreturn int __libc_start_main(int (*main)(int, char **, char **), int argc, char **argv,
	void (*init)(void), void (*fini)(void), void (*unused)(void));
_Noreturn void start_c(long *sp, const Elf64_Dyn *dyn);

extern const Elf64_Ehdr __ehdr_start __attribute__((visibility("hidden")));

__asm__(".text\n"
	".globl _start\n"
	".hidden _DYNAMIC\n"
	".type _start, @function\n"
	"_start:\n"
	"	xor %ebp, %ebp\n"
	"	mov %rsp, %rdi\n"
	"	lea _DYNAMIC(%rip), %rsi\n"
	"	and $-16, %rsp\n"
	"	call start_c\n"
	"	ud2\n"
	".size _start, . - _start\n");

/* An entry with its lowest bit clear is the address of a word; the bits above bit 0 of the others
 * say which of the 63 words that follow are to be relocated too. */
static void relr(uint64_t base, const uint64_t *entry, const uint64_t *end)
{
	uint64_t *next = 0;

	for (; entry < end; entry++) {
		if (!(*entry & 1)) {
			next = (uint64_t *)(base + *entry);
			*next++ += base;
			continue;
		}
		for (uint64_t bits = *entry >> 1, i = 0; bits; bits >>= 1, i++)
			if (bits & 1)
				next[i] += base;
		next += 63;
	}
}

static void relocate(uint64_t base, const Elf64_Dyn *dyn)
{
	const uint64_t *packed = 0;
	uint64_t size = 0;

	for (; dyn->d_tag; dyn++) {
		if (dyn->d_tag == DT_RELR)
			packed = (const void *)(base + dyn->d_un.d_ptr);
		if (dyn->d_tag == DT_RELRSZ)
			size = dyn->d_un.d_val;
		if (dyn->d_tag == DT_RELASZ && dyn->d_un.d_val) /* the linker packs them all,
			and gate.sh looks */
			__builtin_trap();
	}
	relr(base, packed, packed + size / sizeof *packed);
}

static void protect(uint64_t base)
{
	const Elf64_Phdr *ph = (const void *)(base + __ehdr_start.e_phoff);

	for (int i = 0; i < __ehdr_start.e_phnum; i++) {
		uint64_t start = (base + ph[i].p_vaddr) & -4096ull, end = (base + ph[i].p_vaddr +
			ph[i].p_memsz) & -4096ull;
		long ret;

		if (ph[i].p_type != PT_GNU_RELRO)
			continue;
		__asm__ volatile("syscall" : "=a"(ret) : "a"(SYS_mprotect), "D"(start),
			"S"(end - start), "d"(PROT_READ)
			: "rcx", "r11", "memory");
		if (ret)
			__builtin_trap();
	}
}

_Noreturn void start_c(long *sp, const Elf64_Dyn *dyn)
{
	uint64_t base = (uint64_t)&__ehdr_start;

	relocate(base, dyn);
	protect(base);
	__libc_start_main(main, (int)*sp, (char **)(sp + 1), _init, _fini, 0);
}
