/* poweroff.S - says hello and powers off through ACPI */
#include "tiny.h"

main:
	say "hello from the guest\r\n"
	jmp power_off
