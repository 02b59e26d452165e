/* linux_init.S - /init of a Linux guest: says so and restarts the machine.  No C library, no vector
 * instruction, so it runs wherever the kernel does. */
	.text
	.globl _start
_start:
	movl $1, %eax /* write */
	movl $1, %edi
	leaq text(%rip), %rsi
	movl $text_end - text, %edx
	syscall
	movl $169, %eax /* reboot: LINUX_REBOOT_MAGIC1, 2, CMD_RESTART */
	movl $0xfee1dead, %edi
	movl $672274793, %esi
	movl $0x01234567, %edx
	syscall
1:	pause
	jmp 1b

	.section .rodata
text:	.ascii "INIT-RUNS\n"
text_end:
