/* aio.h - work that blocks, done off the threads that must not: a few workers per disk.
 *
 * The owner embeds struct aio_req in its request, submits it with machine.lock held, and gets it
 * back on the loop thread, with others that finished meanwhile, in the order they finished. */
#pragma once

#include "../base.h"
#include "../loop.h"

struct aio_req {
	/* Runs on a worker, no lock held; touches only what belongs to this request. */
	void (*work)(struct aio_req *r);
	struct aio_req *next; /* aio's own while submitted; links the list given to done() */
};

struct aio;

/* done(arg, list): machine.lock held.  NULL with *e on failure. */
struct aio *aio_new(struct loop *loop, void (*done)(void *arg, struct aio_req *list), void *arg,
		    const char *who, struct err *e);
/* Start the workers; back when they are ready, each in its sandbox.  Nothing is submitted before.
 * 0 or -errno with *e. */
int aio_start(struct aio *a, u32 workers, const char *who, struct err *e);
void aio_free(struct aio *a); /* as aio_cancel, then ends the workers; NULL is fine */

/* With machine.lock held: */
void aio_submit(struct aio *a, struct aio_req *r);

/* Wait until every request has run, and hand them to done() from here. */
void aio_drain(struct aio *a);

/* Forget requests that have not begun, wait for those that have, and report none: after this no
 * worker touches a request or the memory it names. */
void aio_cancel(struct aio *a);
