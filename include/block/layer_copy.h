/*
 * Copying what some layers of a chain hold into another node: the body of a
 * commit, offline or live.
 *
 * Only ranges that a layer between top (included) and base (not included)
 * decides are read and written; zeroes are written as such. Ranges are taken in
 * order, several are under way at once, and each is read and written once: who
 * writes to top meanwhile has to see to that himself. On the graph's loop.
 */
#ifndef VARVE_BLOCK_LAYER_COPY_H
#define VARVE_BLOCK_LAYER_COPY_H

#include <stdbool.h>
#include <stdint.h>
#include "aio/colock.h"
#include "block/node.h"
#include "util/bucket.h"

/* Zeroed, but for top and target, is a valid start. */
struct layer_copy {
    struct node *top;
    struct node *base;   /* NULL: all that is behind top */
    struct node *target; /* at least as long as top; may be base */
    unsigned tasks;      /* ranges at once; 0: a default */
    struct bucket rate;
    /* Bytes of top that are dealt with, of its length. May be NULL. Must not
     * suspend. */
    void (*progress)(void *opaque, int64_t done, int64_t total);
    /* Asked before each range; must not suspend. May be NULL. */
    bool (*wants_pause)(void *opaque);
    /* Then called with no range under way: suspends to hold the copy up; true
     * ends it. */
    bool (*co_pause)(void *opaque);
    /* Sleeps for the rate limit, or less. NULL: for as long as asked. */
    void (*co_sleep)(void *opaque, int64_t ns);
    void *opaque;
    bool is_read; /* out: which side failed */
    /* private */
    struct co_pool pool;
    int64_t done, total;
    int64_t known_end; /* of the extent where the walk is */
    unsigned known;    /* its status */
};

/* 0, also if co_pause ended it, or the first error as -errno; nothing is under
 * way then. Does not flush. Suspends. */
int co_layer_copy(struct layer_copy *c);

#endif
