/*
 * What the files of the quorum driver share.
 */
#ifndef VARVE_BLOCK_QUORUM_H
#define VARVE_BLOCK_QUORUM_H

#include "aio/colock.h"
#include "block/driver.h"

struct quorum_state {
    struct edge **children; /* in order of making */
    unsigned n;
    unsigned next; /* number of the next child's name */
    unsigned threshold;
    bool blkverify, rewrite, fifo;
    /* Written to by many, or looked at by one who must know what each child
     * has. */
    struct co_rwlock writing;
};

/* ---- io.c ---- */

int co_quorum_preadv(struct node *node, int64_t offset, int64_t bytes,
                     const struct iov *iov, unsigned flags);
int co_quorum_pwritev(struct node *node, int64_t offset, int64_t bytes,
                      const struct iov *iov, unsigned flags);
int co_quorum_pwrite_zeroes(struct node *node, int64_t offset, int64_t bytes,
                            unsigned flags);
int co_quorum_flush(struct node *node);
int co_quorum_write_back(struct node *node);
int co_quorum_block_status(struct node *node, bool want_zero, int64_t offset,
                           int64_t bytes, struct block_status *status);

#endif
