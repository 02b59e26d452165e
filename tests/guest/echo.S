/* echo.S - prints each byte it receives as <hex>, powers off at q */
#include "tiny.h"

main:
	say "READY\r\n"
next:
	call getc
	cmpb $'q', %al
	je power_off
	movb %al, %bl
	movb $'<', %al
	call putc
	movb %bl, %al
	shrb $4, %al
	call digit
	movb %bl, %al
	andb $15, %al
	call digit
	movb $'>', %al
	call putc
	jmp next

digit:
	addb $'0', %al
	cmpb $'9', %al
	jbe putc
	addb $'a' - '9' - 1, %al
	jmp putc
