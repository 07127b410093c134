/*
 * Nodes of a real graph that run a fake driver over memory: they record the
 * calls they get, fail the n-th one, and hold requests until the test lets them
 * go.
 *
 *     in_fake_loop(co_my_test);            // simulated clock, ends idle
 *     struct node *f = co_fake_node("f", 1 << 20);
 *     struct node *top = co_fake_above("top", DRIVER_FILTER, f);
 *     fake_of(f)->fail_at[FAKE_WRITE] = 2; // the second from now on
 *     fake_of(f)->hold[FAKE_READ] = true;  // until fake_release(f)
 *     fake_log_is("f:read f:flush");       // all calls since the last look
 */
#ifndef VARVE_TESTS_FAKE_DRIVER_H
#define VARVE_TESTS_FAKE_DRIVER_H

#include "block/backend.h"
#include "block/graph.h"
#include "block/node.h"

enum fake_op {
    FAKE_READ,
    FAKE_WRITE,
    FAKE_ZEROES,
    FAKE_DISCARD,
    FAKE_FLUSH,
    FAKE_CLOSE,
    FAKE_PERM_PREPARE,
    FAKE_PERM_COMMIT,
    FAKE_PERM_ABORT,
    FAKE_DRAIN_BEGIN,
    FAKE_DRAIN_END,
    FAKE_OPS,
};

/* The state of such a node. */
struct fake {
    uint8_t *data; /* of a protocol: node->length bytes */
    unsigned calls[FAKE_OPS];
    int fail_at[FAKE_OPS]; /* the n-th from now on (1 = next) fails, once */
    int fail_errno;        /* positive; EIO at first */
    bool hold[FAKE_OPS];   /* requests of that kind wait for fake_release() */
    struct co_queue held;
    unsigned pauses;    /* a request takes up to that many passes, at random */
    bool tells_zeroes;  /* a protocol's status finds 4 KiB blocks of zeroes */
    uint8_t *allocated; /* of a sparse format: one byte a unit */
    int64_t unit;
    struct co_mutex allocating;
    unsigned inside;           /* requests in the driver now */
    unsigned wanted, unshared; /* of the last FAKE_PERM_PREPARE */
};

struct fake *fake_of(struct node *node);

/* A protocol of `length` zeroed bytes; the caller owns the reference. Asserts
 * that the name is free. */
struct node *co_fake_node(const char *name, int64_t length);
/* A format or filter on top of file, without functions of its own: a filter
 * forwards, a format reads and writes its file at the same offset. Takes a
 * reference to file, not over. */
struct node *co_fake_above(const char *name, enum driver_kind kind,
                           struct node *file);
/* Attaches a backing child to a format. */
void co_fake_set_backing(struct node *node, struct node *backing);
/* Makes a format hold nothing of its own yet: it reads its backing child (or
 * zeroes) until a unit is written, and answers for that in its status. */
void fake_make_sparse(struct node *node, int64_t unit);
/* Seeds the random pauses of all fake nodes. */
void fake_seed(unsigned seed);
/* Lets go what is held, and holds nothing any more. */
void fake_release(struct node *node);

/* All calls of all fake nodes since the last look: "f:read top:close"; what
 * only asks is left out. Asserts that it is `expected`. */
void fake_log_is(const char *expected);
void fake_log_forget(void);

/* Runs co_body(NULL) as a coroutine of a new loop with a simulated clock, and
 * asserts that nothing is left in the graph. */
void in_fake_loop(co_fn *co_body);
/* Lets all other coroutines run until they wait. */
void co_settle(void);

/* A request of a backend in a coroutine of its own. */
struct fake_call {
    struct backend *backend;
    bool is_write;
    int64_t offset, bytes;
    int ret;        /* 1 until done */
    unsigned order; /* the n-th that ended */
};
void fake_start(struct fake_call *call);

#endif
