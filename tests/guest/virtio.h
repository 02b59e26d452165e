/* virtio.h - a polling driver for one queue of a virtio-mmio device, for bare guests.
 * Sources: virtio 1.2 §2.7, §4.2.2. */

#define DISK 0xc0001000
#define RNG 0xc0002000
#define NEXT 1
#define WRITE 2
#define AVAIL 0x100 /* in the ring's page, as is USED */
#define USED 0x800

/* rbx: a device's registers, rdi: its ring, r8d: features of the lower half to accept */
queue_start:
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
queue_submit:
	incw AVAIL + 2(%rdi)
	movl $0, 0x50(%rbx)
1:	movw USED + 2(%rdi), %ax
	cmpw AVAIL + 2(%rdi), %ax
	jne 1b
	ret
