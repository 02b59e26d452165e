/* machine.h - the composition root: builds the PC from a config, runs it, takes it apart.
 *
 * Life: NEW -> RUNNING <-> PAUSED -> STOPPED, changed on the loop thread only. */
#pragma once

#include "options.h"
#include "vcpu.h"

struct machine;

/* Exit statuses of the process; debug exits and signals add their own, see options_help. */
enum exit_status { EXIT_OK = 0, EXIT_USAGE = 1, EXIT_HOST = 2, EXIT_GUEST = 3 };

/* Open every back-end, lay out memory, create devices and vCPUs, load the kernel.  Nothing runs
 * yet.  NULL with *e, and nothing left behind. cfg is borrowed. */
struct machine *machine_new(const struct config *cfg, struct err *e);

/* Run until the guest ends, the user leaves or a signal arrives, and flush the back-ends; the exit
 * status, with which the process has to end.  Main thread. */
int machine_run(struct machine *m);

/* Of a machine that never ran. */
void machine_free(struct machine *m);

/* The machine as JSON on stdout (--dry-run). */
void machine_print_json(const struct machine *m);
