/*
 * The worker pool: blocking calls, away from the loops.
 *
 * One pool a process. Jobs that a loop's pass queued are handed over together
 * by its flush hook, under one lock. It calls no more helpers than there are
 * CPUs; a worker that takes a job and leaves others behind calls the next. So
 * jobs that turn out short are done by a few threads that stay awake, and jobs
 * that block soon have a thread each, up to WORKERS_MAX. A helper is an idle
 * thread or a new one; threads end after a time without work. A job lies on the
 * stack of its coroutine, and comes home as mail. The lock guards the queue and
 * the counters, and is never held over a job or a system call.
 */
#include "aio/worker.h"
#include "aio/file_io.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>
#include "aio/loop_internal.h"

#define WORKERS_MAX 64

int worker_idle_seconds = 10;

struct worker_job {
    struct mail home;
    int (*fn)(void *opaque);
    void *opaque;
    int result;
    struct coroutine *co;
    struct worker_lane *lane;
    struct worker_job *next;
};

struct job_queue {
    struct worker_job *first, **last;
    unsigned count;
};

static void job_queue_init(struct job_queue *q)
{
    *q = (struct job_queue){.last = &q->first};
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_cond_t work_there; /* on the monotonic clock */
static struct job_queue queue;
static unsigned threads;  /* alive, or about to be */
static unsigned starting; /* of them, not yet at the queue */
static unsigned idle;     /* of them, waiting for work */
static unsigned waking;   /* of those, called and not yet awake */
static unsigned cpus;

static void pool_init(void)
{
    pthread_condattr_t attr;

    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&work_there, &attr);
    pthread_condattr_destroy(&attr);
    job_queue_init(&queue);
    cpus = g_get_num_processors();
}

/* ---- helpers ---- */

struct help {
    unsigned wake;
    unsigned create;
};

/* With the lock held: who should come for the jobs that nobody comes for. */
static struct help plan_help(unsigned max)
{
    struct help help = {0};

    while (max-- && queue.count > starting + waking) {
        if (idle > waking) {
            waking++;
            help.wake++;
        } else if (threads < WORKERS_MAX) {
            threads++;
            starting++;
            help.create++;
        } else {
            break;
        }
    }
    return help;
}

static void *worker_main(void *opaque);

static bool create_thread(void)
{
    pthread_attr_t attr;
    pthread_t id;
    sigset_t all, old;

    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    /* Signals are for the threads that run loops. */
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &old);
    int ret = pthread_create(&id, &attr, worker_main, NULL);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attr);
    return ret == 0;
}

static void run_jobs(bool wait);

/* Without the lock. */
static void call_help(struct help help)
{
    while (help.wake) {
        pthread_cond_signal(&work_there);
        help.wake--;
    }
    while (help.create && create_thread()) {
        help.create--;
    }
    if (help.create) {
        /* The system has no thread left for us. Somebody else comes, or else
         * it is up to this thread. */
        pthread_mutex_lock(&lock);
        threads -= help.create;
        starting -= help.create;
        if (!threads) {
            run_jobs(false);
        }
        pthread_mutex_unlock(&lock);
    }
}

static void job_home(void *opaque)
{
    struct worker_job *job = opaque;

    co_wake(job->co);
}

/* ---- lanes ---- */

/* True if job has to wait behind others of the lane. */
static bool lane_enter(struct worker_lane *lane, struct worker_job *job)
{
    pthread_mutex_lock(&lock);
    bool wait = lane->busy;
    if (!wait) {
        lane->busy = true;
    } else if (lane->first) {
        lane->last->next = job;
    } else {
        lane->first = job;
    }
    lane->last = job;
    pthread_mutex_unlock(&lock);
    return wait;
}

/* What comes after a job of the lane, or NULL. */
static struct worker_job *lane_next(struct worker_lane *lane)
{
    pthread_mutex_lock(&lock);
    struct worker_job *next = lane->first;
    if (next) {
        lane->first = next->next;
    } else {
        lane->busy = false;
    }
    pthread_mutex_unlock(&lock);
    return next;
}

/* Runs a job, and those that come in its lane meanwhile. Without the lock. */
static void run_job(struct worker_job *job)
{
    while (job) {
        job->result = job->fn(job->opaque);
        /* Neither job nor lane need be there once it is home. */
        struct worker_job *next = job->lane ? lane_next(job->lane) : NULL;
        loop_post(co_loop(job->co), &job->home);
        job = next;
    }
}

/* ---- the threads ---- */

/* Waits for work; false when there was none for long. */
static bool wait_for_work(void)
{
    struct timespec until;
    int ret = 0;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += worker_idle_seconds;
    idle++;
    while (!queue.first && ret != ETIMEDOUT) {
        ret = pthread_cond_timedwait(&work_there, &lock, &until);
        /* Even if somebody else took the job that the call was about. A call
         * too few counted here makes one too many later, which is harmless. */
        if (waking) {
            waking--;
        }
    }
    idle--;
    return queue.first != NULL;
}

/* With the lock held, which it drops while a job runs. */
static void run_jobs(bool wait)
{
    while (queue.first || (wait && wait_for_work())) {
        struct worker_job *job = queue.first;
        queue.first = job->next;
        queue.count--;
        if (!queue.first) {
            queue.last = &queue.first;
        }
        struct help help = plan_help(wait ? 1 : 0);
        pthread_mutex_unlock(&lock);
        call_help(help);
        run_job(job);
        pthread_mutex_lock(&lock);
    }
}

static void *worker_main(void *opaque)
{
    pthread_setname_np(pthread_self(), "worker");
    pthread_mutex_lock(&lock);
    starting--;
    run_jobs(true);
    threads--;
    pthread_mutex_unlock(&lock);
    return NULL;
}

/* ---- the loops' side ---- */

struct worker_client {
    struct loop_hook hook;
    struct job_queue batch;
};

static void client_flush(void *opaque)
{
    struct job_queue *batch = opaque;

    if (!batch->first) {
        return;
    }
    pthread_mutex_lock(&lock);
    *queue.last = batch->first;
    queue.last = batch->last;
    queue.count += batch->count;
    struct help help = plan_help(cpus);
    pthread_mutex_unlock(&lock);
    job_queue_init(batch);
    call_help(help);
}

static void client_free(void *opaque)
{
    struct worker_client *c = opaque;

    assert(!c->batch.first);
    loop_hook_remove(loop_tls, &c->hook);
    g_free(c);
}

static struct worker_client *client_new(struct loop *loop)
{
    struct worker_client *c = g_new0(struct worker_client, 1);

    pthread_once(&once, pool_init);
    job_queue_init(&c->batch);
    c->hook = (struct loop_hook){.flush = client_flush, .opaque = &c->batch};
    loop_hook_add(loop, &c->hook);
    loop_set(loop, LOOP_SLOT_WORKER, c, client_free);
    return c;
}

int co_worker_in(struct worker_lane *lane, int (*fn)(void *opaque),
                 void *opaque)
{
    struct loop *loop = loop_tls;
    assert(co_inside());
    struct worker_client *c = loop->slots[LOOP_SLOT_WORKER];
    struct worker_job job = {
        .fn = fn, .opaque = opaque, .co = co_self(), .lane = lane};

    if (!c) {
        c = client_new(loop);
    }
    job.home = (struct mail){.fn = job_home, .opaque = &job};
    if (!lane || !lane_enter(lane, &job)) {
        *c->batch.last = &job;
        c->batch.last = &job.next;
        c->batch.count++;
    }
    co_yield ();
    return job.result;
}

int co_worker(int (*fn)(void *opaque), void *opaque)
{
    return co_worker_in(NULL, fn, opaque);
}
