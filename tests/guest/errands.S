/* errands.S - does by key what makes mvm's threads call the kernel: disk requests and entropy over virtio-mmio,
 * the firmware configuration device, sleep, faults, much code, resets.  Answers with a full stop.
 * Sources: virtio 1.2 §2.7, §4.2.2, §5.2.6. */
#include "tiny.h"

#define DISK 0xc0001000
#define RNG 0xc0002000
#define LAPIC 0xfee00000
#define NEXT 1
#define WRITE 2
#define AVAIL 0x100 /* in the ring's page, as is USED */
#define USED 0x800

main:
	movl $DISK, %ebx
	leaq disk_ring(%rip), %rdi
	movl $0x2200, %r8d /* FLUSH, DISCARD */
	call start
	movl $RNG, %ebx
	leaq rng_ring(%rip), %rdi
	xorl %r8d, %r8d
	call start
	say "READY\r\n"
next:
	call getc
	leaq keys(%rip), %rsi
1:	cmpb $0, (%rsi)
	je next
	cmpb (%rsi), %al
	leaq 16(%rsi), %rsi
	jne 1b
	call *-8(%rsi)
	movb $'.', %al
	call putc
	jmp next

	.section .rodata
	.balign 8
.macro key letter, what
	.quad \letter, \what
.endm
keys:
	key 'r', read
	key 'w', write
	key 'f', flush
	key 'd', discard
	key 'e', entropy
	key 'c', fw_cfg
	key 'z', sleep
	key 'p', spin
	key 'v', divide
	key 'm', much_code
	key 'b', reset
	key 'q', power_off
	.quad 0
	.text

/* --- virtio ------------------------------------------------------------------------------------ */
/* rbx: a device's registers, rdi: its ring, r8d: features of the lower half to accept */
start:
	movl $0, 0x70(%rbx)
	movl $3, 0x70(%rbx)
	movl $0, 0x24(%rbx)
	movl %r8d, 0x20(%rbx)
	movl $1, 0x24(%rbx)
	movl $1, 0x20(%rbx) /* VERSION_1 */
	movl $11, 0x70(%rbx)
	movl $0, 0x30(%rbx)
	movl $8, 0x38(%rbx)
	movl %edi, 0x80(%rbx)
	leal AVAIL(%rdi), %eax
	movl %eax, 0x90(%rbx)
	leal USED(%rdi), %eax
	movl %eax, 0xa0(%rbx)
	movl $1, 0x44(%rbx)
	movl $15, 0x70(%rbx)
	ret

/* Descriptor n of the ring at rdi. */
.macro descriptor n, at, len, flags
	leaq \at, %rax
	movq %rax, 16 * \n(%rdi)
	movl \len, 16 * \n + 8(%rdi)
	movl $\flags | (\n + 1) << 16, 16 * \n + 12(%rdi)
.endm

/* One chain from descriptor 0 is made available; waits until it is used. */
submit:
	incw AVAIL + 2(%rdi)
	movl $0, 0x50(%rbx)
1:	movw USED + 2(%rdi), %ax
	cmpw AVAIL + 2(%rdi), %ax
	jne 1b
	ret

/* eax: type of the request */
.macro request type
	movl $DISK, %ebx
	leaq disk_ring(%rip), %rdi
	movl $\type, header(%rip)
	descriptor 0, header(%rip), $16, NEXT
.endm

read:
	request 0
	descriptor 1, data(%rip), $512, NEXT | WRITE
	descriptor 2, status(%rip), $1, WRITE
	jmp submit

write:
	request 1
	descriptor 1, data(%rip), $512, NEXT
	descriptor 2, status(%rip), $1, WRITE
	jmp submit

flush:
	request 4
	descriptor 1, status(%rip), $1, WRITE
	jmp submit

discard:
	request 11
	movq $0, data(%rip) /* sector */
	movq $64, data + 8(%rip) /* count, flags */
	descriptor 1, data(%rip), $16, NEXT
	descriptor 2, status(%rip), $1, WRITE
	jmp submit

entropy:
	movl $RNG, %ebx
	leaq rng_ring(%rip), %rdi
	descriptor 0, data(%rip), $64, WRITE
	jmp submit

/* --- the rest ---------------------------------------------------------------------------------- */
/* A byte of every file. */
fw_cfg:
	movl $0x20, %ecx
1:	movw $0x510, %dx
	movl %ecx, %eax
	outw %ax, %dx
	incl %edx
	inb %dx, %al
	incl %ecx
	cmpl $0x40, %ecx
	jb 1b
	ret

/* Four seconds until a timer's interrupt, for which there is no gate: the first '.' is an answer. */
sleep:
	movb $'.', %al
	call putc
	movl $LAPIC, %ebx
	movl $0x1ff, 0xf0(%rbx)
	movl $0xb, 0x3e0(%rbx)
	movl $0x40, 0x320(%rbx)
	movl $-1, 0x380(%rbx)
	sti
	hlt
	ret

spin:
	movl $3000000, %ecx
1:	pause
	decl %ecx
	jnz 1b
	ret

/* The last of many divisions is by zero, and nobody handles it. */
divide:
	movl $100000, %ecx
1:	movl $1000000, %eax
	xorl %edx, %edx
	divl %ecx
	subl $1, %ecx
	jns 1b
	ret

much_code:
	movl $2000, %ecx
1:	.rept 4000
	addl $0x12345678, %eax
	xorl %ecx, data(%rip)
	jc 2f
2:
	.endr
	decl %ecx
	jnz 1b
	ret

reset:
	movb $6, %al
	movw $0xcf9, %dx
	outb %al, %dx
	jmp halt_off

	.bss
	.balign 4096
disk_ring: .skip 4096
rng_ring: .skip 4096
data:	.skip 4096
header:	.skip 16
status:	.skip 16
