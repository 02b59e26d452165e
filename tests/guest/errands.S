/* errands.S - does by key what makes mvm's threads call the kernel: disk requests and entropy over virtio-mmio,
 * the firmware configuration device, sleep, faults, much code, resets.  Answers with a full stop.
 * Source: virtio 1.2 §5.2.6. */
#include "tiny.h"
#include "virtio.h"

#define LAPIC 0xfee00000

main:
	movl $DISK, %ebx
	leaq disk_ring(%rip), %rdi
	movl $0x2200, %r8d /* FLUSH, DISCARD */
	call queue_start
	movl $RNG, %ebx
	leaq rng_ring(%rip), %rdi
	xorl %r8d, %r8d
	call queue_start
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
	jmp queue_submit

write:
	request 1
	descriptor 1, data(%rip), $512, NEXT
	descriptor 2, status(%rip), $1, WRITE
	jmp queue_submit

flush:
	request 4
	descriptor 1, status(%rip), $1, WRITE
	jmp queue_submit

discard:
	request 11
	movq $0, data(%rip) /* sector */
	movq $64, data + 8(%rip) /* count, flags */
	descriptor 1, data(%rip), $16, NEXT
	descriptor 2, status(%rip), $1, WRITE
	jmp queue_submit

entropy:
	movl $RNG, %ebx
	leaq rng_ring(%rip), %rdi
	descriptor 0, data(%rip), $64, WRITE
	jmp queue_submit

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
