/*
 * A bare node over memory, for tests of the request path alone: no graph, no
 * options, nothing opened. The test turns the knobs and reads the counters; the
 * driver asserts that every request keeps the promises of block/driver.h.
 */
#ifndef VARVE_TESTS_RAM_NODE_H
#define VARVE_TESTS_RAM_NODE_H

#include "block/graph.h"
#include "block/node.h"
#include "block/request.h"

enum ram_op {
    RAM_READ,
    RAM_WRITE,
    RAM_ZEROES,
    RAM_DISCARD,
    RAM_FLUSH,
    RAM_STATUS,
    RAM_TRUNCATE,
    RAM_COPY,
    RAM_OPS,
};

struct ram_node {
    struct node node;
    struct block_driver driver; /* starts as a protocol with every function */
    uint8_t *data;
    int64_t capacity;

    /* knobs */
    unsigned pauses;    /* passes that each operation takes, at random up to */
    bool hold[RAM_OPS]; /* such operations wait for ram_release() */
    struct co_queue held;
    int fail_at[RAM_OPS];       /* the n-th from now (1 = next) fails... */
    int fail_errno;             /* ...with this positive errno */
    struct block_status status; /* answer to RAM_STATUS, if bytes != 0 */

    /* counters */
    unsigned calls[RAM_OPS];
    int64_t last_offset[RAM_OPS], last_bytes[RAM_OPS], max_bytes[RAM_OPS];
    unsigned last_flags[RAM_OPS];
    unsigned inside, max_inside; /* operations in the driver at once */
    unsigned rng;

    struct edge file, backing;
};

/* On the current loop; length bytes of zeroes, able to grow to twice that. */
struct ram_node *ram_node_new(const char *name, int64_t length);
/* A format or filter over below: no function of its own. */
struct ram_node *ram_node_above(const char *name, enum driver_kind kind,
                                struct ram_node *below);
void ram_node_set_backing(struct ram_node *r, struct ram_node *backing);
void ram_node_free(struct ram_node *r);
void ram_release(struct ram_node *r);
void ram_reset_counters(struct ram_node *r);

/* A request in a coroutine of its own. */
struct ram_call {
    struct node *node;
    enum { CALL_READ, CALL_WRITE, CALL_ZEROES, CALL_DISCARD, CALL_FLUSH } what;
    int64_t offset, bytes;
    unsigned flags;
    int ret;
    bool done;
};
void ram_start(struct ram_call *call);

/* Runs co_body as a coroutine of a new loop with a simulated clock, which is
 * idle at the end. */
void ram_run(void (*co_body)(void));
/* Lets all other coroutines run until they wait. */
void co_ram_settle(void);

#endif
