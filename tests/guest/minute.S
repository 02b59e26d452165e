/* minute.S - halts, and four times a second tells what each clock says, one line "NAME VALUE" each, until somebody
 * ends it. */
#include "clocks.h"

main:
	call set_up_clocks
	show "khz", khz
	say "begin\r\n"
	sti
1:	hlt
	tsc %rbx
	cmpq next(%rip), %rbx
	jb 1b
	cli
	call read_clocks
	tsc %rbx
	movq %rbx, elapsed(%rip)
	movq hz(%rip), %rax
	shrq $2, %rax
	addq %rax, %rbx
	movq %rbx, next(%rip)
	show "tsc", elapsed
	show "pit", pits
	show "rtc", rtcs
	show "periodic", timers
	show "pm", pm
	show "kvmclock", kvm
	sti
	jmp 1b

	.bss
next:	.skip 8
