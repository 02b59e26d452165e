/* tcg.c - the software CPU as an engine: its run loop, requests, timers, interrupts, state in
 * and out.
 *
 * tcg_run goes round: requests, timer, the event to deliver, then guest code until something
 * concerns this loop.  Everything runs on the vCPU's thread but tcg_kick and tcg_written, which
 * any thread may call.  Source: SDM vol 3 "Priority Among Concurrent Events", "INIT"; vol 3 "MP
 * Initialization". */
#include "engine.h"

#include <linux/membarrier.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "exec.h"

enum { LOOK_NS = 50000 }; /* longest time between two looks at the local APIC's timer */

/* --- vCPUs -------------------------------------------------------------------------------- */
static void cpu_free(struct tcg_cpu *c)
{
	trans_free(c);
	native_free(c);
	interp_free(c);
	mmu_free(c);
	host_pages_free(c, sizeof *c);
}

static struct tcg_cpu *cpu_new(struct engine_env *env, u32 index, struct code_map *code,
			       struct err *e)
{
	struct tcg_cpu *c = host_pages_new(sizeof *c);

	if (!c) {
		err_set(e, -ENOMEM, "cpu%u: no memory", index);
		return NULL;
	}
	c->v.env = env;
	c->v.index = c->v.apic_id = index;
	c->v.eng = &tcg_engine;
	c->code = code;
	c->exc.vector = EXC_NONE;
	c->budget = BUDGET;
	cpu_state_reset(&c->v.s, index == 0);
	if (mmu_init(c, e) < 0 || interp_init(c, e) < 0 || native_init(c, e) < 0 ||
	    (code && !env->interp_only && trans_init(c, e) < 0)) {
		cpu_free(c);
		return NULL;
	}
	return c;
}

static void cpu_pull(struct tcg_cpu *c)
{
	fp_leave(c);
	c->v.s.rflags = flags_get(c);
}

static void cpu_push(struct tcg_cpu *c)
{
	flags_set(c, c->v.s.rflags);
	c->exc.vector = EXC_NONE;
	c->shutdown = false;
	c->db_pending = 0;
	seg_refresh(c);
	mmu_flush_all(c);
	mmu_select(c);
}

static struct vcpu *tcg_vcpu_new(struct engine_env *env, u32 index, struct err *e)
{
	struct tcg_cpu *c = cpu_new(env, index, env->engine_priv, e);

	if (!c)
		return NULL;
	mmu_start(c);
	return &c->v;
}

static void tcg_vcpu_free(struct vcpu *v)
{
	if (v)
		cpu_free(tcg_of(v));
}

static void tcg_pull(struct vcpu *v)
{
	cpu_pull(tcg_of(v));
}

/* Memory may have changed too: nothing decoded before is trusted. */
static void tcg_push(struct vcpu *v)
{
	struct tcg_cpu *c = tcg_of(v);

	cpu_push(c);
	interp_flush(c);
}

static bool tcg_enter(struct vcpu *v)
{
	native_thread_init(tcg_of(v));
	return true;
}

static void tcg_kick(struct vcpu *v)
{
	tcg_hurry(tcg_of(v));
}

/* --- memory written by others ------------------------------------------------------------- */
/* DMA: code made from the bytes is dropped before the vCPUs run on.  Any thread. */
static void tcg_written(void *ctx, gpa_t gpa, u64 len)
{
	struct engine_env *env = ctx;
	gpa_t from = ALIGN_DOWN(gpa, GRANULE);
	u64 bytes = ALIGN_UP(gpa + len, GRANULE) - from;

	if (!len || !code_map_hit(env->engine_priv, gpa, len))
		return;
	code_map_clear(env->engine_priv, from, bytes);
	for (u32 i = 0; i < env->nr_vcpus; i++)
		if (env->vcpus[i])
			interp_post(tcg_of(env->vcpus[i]), from, bytes);
}

/* --- fences of a lone vCPU ---------------------------------------------------------------- */
/* With one vCPU translated code does without LOCK (tcg_may_drop_lock): the vCPU's own accesses are
 * in order, and no other CPU's come between.  What is left of a guest's fences are those towards
 * the loop thread, which serves the queues that it shares with the driver: a locked instruction
 * between the driver's store of an index and its load of the event index (Linux: virtio_mb) would
 * not hold the load back.  So the device's fence, the rarer one, is made to count for both:
 * membarrier makes every thread of ours pass a full fence before it returns.  Whatever device code
 * runs on the vCPU's own thread is in order anyway.
 *
 * A locked instruction is also not atomic towards a device then.  No driver changes in place what a
 * device writes, as that is not defined for a bus master's writes (virtio 1.2 §2.7 has each ring
 * written by one side alone). */
static __thread bool is_vcpu_thread;

static void tcg_fence(void)
{
	if (!is_vcpu_thread)
		syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0);
}

static int tcg_init(struct engine_env *env, struct err *e)
{
	env->engine_priv = code_map_new(env->mem, e);
	if (!env->engine_priv)
		return -ENOMEM;
	if (env->want_perf_map && perf_map_open(env, e) < 0) {
		code_map_free(env->engine_priv);
		return e->code;
	}
	env->mem->written_ctx = env;
	env->mem->written = tcg_written;
	if (syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0)
		env->mem->fence = tcg_fence;
	return 0;
}

static void tcg_free(struct engine_env *env)
{
	env->mem->written = NULL;
	env->mem->fence = NULL;
	perf_map_close(env);
	code_map_free(env->engine_priv);
	env->engine_priv = NULL;
}

/* --- requests ----------------------------------------------------------------------------- */
static void cpu_init_signal(struct tcg_cpu *c)
{
	fp_leave(c);
	cpu_state_init(&c->v.s, c->v.index == 0);
	if (c->v.apic)
		lapic_init_reset(c->v.apic);
	cpu_push(c);
}

static void cpu_start_up(struct tcg_cpu *c)
{
	if (c->v.s.mp_state != MP_WAIT_SIPI)
		return;
	cpu_state_start_up(&c->v.s, c->v.sipi_vector);
	cpu_push(c);
}

static void cpu_power_on(struct tcg_cpu *c)
{
	u64 offset = c->v.s.tsc_offset;

	fp_leave(c);
	cpu_state_reset(&c->v.s, c->v.index == 0);
	c->v.s.tsc_offset = offset;
	cpu_push(c);
	interp_flush(c);
}

/* One NMI can wait behind one in service; two that arrive together are two. */
static void take_nmis(struct tcg_cpu *c)
{
	u32 n = c->v.s.nmi_pending + atomic_exchange(&c->v.nmis, 0);
	u32 room = c->v.s.nmi_blocked ? 1 : 2;

	c->v.s.nmi_pending = (u8)MIN(n, room);
}

/* Take the requests that are the engine's.  VREQ_EXTINT is a level and stays. */
static void take_requests(struct tcg_cpu *c)
{
	enum { OURS = VREQ_IRQ | VREQ_NMI | VREQ_INIT | VREQ_SIPI | VREQ_FLUSH | VREQ_RESET };
	u32 req;

	atomic_store(&c->kicked, 0);
	if (unlikely(c->interp->fresh_n))
		fresh_look(c);
	if (!(vcpu_pending(&c->v) & OURS))
		return;
	req = atomic_fetch_and(&c->v.req, ~(u32)OURS) & OURS;
	fp_leave(c);
	if (req & VREQ_FLUSH) {
		mmu_drop_code_writers(c);
		interp_take_posts(c);
	}
	if (req & VREQ_RESET)
		cpu_power_on(c);
	if (req & VREQ_INIT)
		cpu_init_signal(c);
	if (req & VREQ_SIPI)
		cpu_start_up(c);
	if (req & VREQ_NMI)
		take_nmis(c);
}

/* --- time --------------------------------------------------------------------------------- */
static void timer_poll(struct tcg_cpu *c)
{
	struct lapic *a = c->v.apic;
	u64 tsc = host_rdtsc(), now_ns, due_ns, wait_ns;

	if (!a || tsc < c->interp->look_tsc)
		return;
	fp_leave(c);
	now_ns = loop_now_ns(c->v.env->loop);
	lapic_timer_poll(a, now_ns, tsc + c->v.s.tsc_offset);
	due_ns = lapic_deadline_ns(a);
	wait_ns = due_ns > now_ns ? MIN(due_ns - now_ns, LOOK_NS) : 0;
	c->interp->look_tsc = tsc + wait_ns * c->v.env->tsc_khz / 1000000;
}

void interp_timer_moved(struct tcg_cpu *c)
{
	c->interp->look_tsc = 0;
	tcg_hurry(c);
}

/* --- events ------------------------------------------------------------------------------- */
static void deliver(struct tcg_cpu *c, enum event_kind kind, u8 vector)
{
	c->v.s.mp_state = MP_RUNNABLE;
	if (!exc_deliver(c, kind, vector, false, 0))
		c->shutdown = true;
}

/* Deliver what another engine had begun to.  INT n, INT3 and INTO did not move RIP: they come again
 * by themselves. */
static void take_begun_event(struct tcg_cpu *c)
{
	struct cpu_state *s = &c->v.s;
	static const enum event_kind kinds[] = { [EVENT_EXTERNAL] = EV_INTR, [EVENT_NMI] = EV_NMI,
						 [EVENT_EXCEPTION] = EV_EXC };
	bool soft = s->event_type >= ARRAY_LEN(kinds) ||
		    (s->event_type == EVENT_EXCEPTION &&
		     (s->event_vector == EXC_BP || s->event_vector == EXC_OF));

	s->event_valid = 0;
	if (!soft && !exc_deliver(c, kinds[s->event_type], s->event_vector, s->event_has_error,
				  s->event_error))
		c->shutdown = true;
}

static bool extint_pending(struct tcg_cpu *c)
{
	return vcpu_pending(&c->v) & VREQ_EXTINT && c->v.env->chip && c->v.env->chip->pic &&
	       (!c->v.apic || lapic_accepts_extint(c->v.apic));
}

/* Acknowledge the highest interrupt: the 8259's first, which is a legacy of its own. -1: none. */
static int irq_ack(struct tcg_cpu *c)
{
	int vector = -1;

	if (extint_pending(c)) {
		fp_leave(c);
		pthread_mutex_lock(c->v.env->lock);
		if (pic_intr(c->v.env->chip->pic))
			vector = pic_ack(c->v.env->chip->pic);
		pthread_mutex_unlock(c->v.env->lock);
	}
	if (vector >= 0 || !c->v.apic)
		return vector;
	vector = lapic_pending(c->v.apic);
	if (vector >= 0)
		lapic_ack(c->v.apic, (u8)vector);
	return vector;
}

/* Deliver what is due.  An interrupt that must wait for RFLAGS.IF is noted for interp_run; a
 * shadow of STI or MOV SS lasts one instruction, which runs first. */
static void take_event(struct tcg_cpu *c)
{
	struct cpu_state *s = &c->v.s;
	bool nmi = s->nmi_pending && !s->nmi_blocked;
	bool irq = (c->v.apic && lapic_pending(c->v.apic) >= 0) || extint_pending(c);
	int vector;

	if (unlikely(s->event_valid))
		return take_begun_event(c);
	c->irq_masked = irq && !(s->rflags & FL_IF);
	if (!nmi && !(irq && s->rflags & FL_IF))
		return;
	if (s->int_shadow && s->mp_state == MP_RUNNABLE) {
		step_one(c); /* it may be a breakpoint, or TF may be set */
		return;
	}
	if (nmi) {
		s->nmi_pending--;
		deliver(c, EV_NMI, EXC_NMI);
		return;
	}
	vector = irq_ack(c);
	if (vector >= 0)
		deliver(c, EV_INTR, (u8)vector);
}

/* --- the loop ----------------------------------------------------------------------------- */
/* May guest code run?  VEXIT_*, or RUN_ON. */
static int why_not_run(const struct tcg_cpu *c)
{
	if (c->shutdown)
		return VEXIT_RESET;
	if (vcpu_pending((struct vcpu *)&c->v) & (VREQ_PAUSE | VREQ_QUIT))
		return VEXIT_KICK;
	return c->v.s.mp_state == MP_RUNNABLE ? RUN_ON : VEXIT_HALT;
}

/* Deliver the exception that guest code raised, if it did. */
static void take_exception(struct tcg_cpu *c)
{
	if (c->exc.vector == EXC_NONE)
		return;
	c->v.s.mp_state = MP_RUNNABLE;
	c->shutdown |= !exc_dispatch(c);
}

static enum vexit tcg_run(struct vcpu *v)
{
	struct tcg_cpu *c = tcg_of(v);
	int why;

	is_vcpu_thread = true;
	native_thread_init(c);
	c->interp->look_tsc = 0;
	for (;;) {
		take_requests(c);
		timer_poll(c);
		if (v->s.mp_state <= MP_HALTED)
			take_event(c);
		take_exception(c);
		why = why_not_run(c);
		if (why != RUN_ON)
			break;
		if (c->budget < BLOCK_MAX)
			c->budget = BUDGET;
		if (step_wanted(c))
			step_one(c);
		else
			interp_run(c);
		take_exception(c);
	}
	fp_leave(c);
	is_vcpu_thread = false;
	c->shutdown = false;
	v->stat_exits++;
	return (enum vexit)why;
}

const struct engine tcg_engine = {
	.name = "tcg",
	.filter = FILTER_TCG,
	.init = tcg_init,
	.free = tcg_free,
	.vcpu_new = tcg_vcpu_new,
	.vcpu_free = tcg_vcpu_free,
	.enter = tcg_enter,
	.run = tcg_run,
	.pull = tcg_pull,
	.push = tcg_push,
	.kick = tcg_kick,
	.stats = tcg_stats,
};

/* --- one instruction for another engine --------------------------------------------------- */
struct tcg_foreign {
	struct tcg_cpu *c;
};

struct tcg_foreign *tcg_foreign_new(struct vcpu *v, struct err *e)
{
	struct tcg_foreign *f = calloc(1, sizeof *f);

	if (!f) {
		err_set(e, -ENOMEM, "cpu%u: no memory", v->index);
		return NULL;
	}
	f->c = cpu_new(v->env, v->index, NULL, e);
	if (!f->c) {
		free(f);
		return NULL;
	}
	f->c->v.apic_id = v->apic_id;
	f->c->v.apic = v->apic;
	native_thread_init(f->c);
	return f;
}

bool tcg_step_foreign(struct tcg_foreign *f, struct vcpu *v)
{
	struct tcg_cpu *c = f->c;
	bool triple = false;

	mmu_start(c);
	c->v.s = v->s;
	cpu_push(c);
	step_one(c);
	if (c->exc.vector != EXC_NONE)
		triple = !exc_dispatch(c);
	triple |= c->shutdown;
	cpu_pull(c);
	v->s = c->v.s;
	return triple;
}

void tcg_foreign_free(struct tcg_foreign *f)
{
	if (!f)
		return;
	cpu_free(f->c);
	free(f);
}
