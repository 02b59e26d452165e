/* tty.h - the host's end of the guest's serial line: the terminal on stdin and stdout, or a file.
 *
 * Keys after Ctrl-A, on a terminal and through a pipe alike: x leaves, b sends a break, h lists the
 * keys, Ctrl-A sends one.  Whatever stdin and stdout are, no call blocks: input waits in a small
 * buffer, then on the host; output waits in another, then in the guest's transmitter.
 * Calls are made on the loop thread with machine.lock held, or while the process has one thread. */
#pragma once

#include "../devices/chardev.h"
#include "../loop.h"

/* The host end for stdin and stdout (path NULL), or for a file that takes the output and is
 * truncated first.  0 and *out; or -errno with *e.  Nothing is read, and the terminal is left as it
 * is, until serial_end_start. */
int serial_end_open(struct chardev **out, struct loop *loop, const char *path, struct err *e);

/* The device is attached: raw terminal, input flows, leave(ctx) is called on Ctrl-A x. NULL is
 * fine. */
void serial_end_start(struct chardev *cd, void (*leave)(void *ctx), void *ctx);

/* Write out what is buffered, unless nobody takes any of it for a second; restore the terminal,
 * which in the sandbox is left to the parent.  NULL is fine. */
void serial_end_finish(struct chardev *cd);
/* The same, and forget it. */
void serial_end_close(struct chardev *cd);

/* Raw mode on and off; for SIGCONT handlers and exits.  Async-signal-safe, any thread; without
 * effect unless serial_end_start found a terminal.  tty_restore also runs as fatal_hook and by
 * atexit. */
void tty_raw(void);
void tty_restore(void);
