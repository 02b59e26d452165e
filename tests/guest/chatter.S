/* chatter.S - sends 256 KiB of text, then powers off */
#include "tiny.h"

main:
	movl $4096, %ebx
1:	say "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcd\r\n"
	decl %ebx
	jnz 1b
	say "chatter done\r\n"
	jmp power_off
