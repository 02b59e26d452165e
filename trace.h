/* trace.h - --boot-trace: what each stage of the start costs, on stderr. */
#pragma once

#include "base.h"

/* Remember that a stage is over (name: static string).  Cheap; main thread, before vCPUs run. */
void trace_mark(const char *name);

/* The guest's boot mark (boot timer port) arrived.  Any thread. */
void trace_guest_mark(void);

/* The table so far, if wanted. */
void trace_print(void);
