/*
 * A request of a quorum and what its children say to it.
 */
#ifndef VARVE_BLOCK_QUORUM_VOTE_H
#define VARVE_BLOCK_QUORUM_VOTE_H

#include <stdbool.h>
#include <stdint.h>
#include "block/drivers/quorum/quorum.h"

struct quorum_request;

struct quorum_ballot {
    struct quorum_request *request;
    struct node *child;
    void *buffer;
    int ret;
    unsigned like; /* the first ballot that says the same */
};

struct quorum_request {
    struct node *node;
    enum quorum_op_type type;
    int (*co_run)(struct quorum_ballot *b);
    int64_t offset, bytes;
    const struct iov *iov; /* what is written */
    unsigned flags;
    unsigned n;
    struct quorum_ballot *ballots;
};

/* Announces that the ballot's child failed or was outvoted. */
void quorum_report(const struct quorum_ballot *b);
/* Is what was read the same wherever reading succeeded? */
bool quorum_all_alike(struct quorum_request *r);
/* Votes among the ballots that are good, or among those that are not. Sets
 * `like` of these; the winner, by its first ballot, or NULL if there are none.
 */
struct quorum_ballot *quorum_count(struct quorum_request *r, bool good,
                                   unsigned *votes);
/* Reports all failures; 0 if enough succeeded, or the error that most have. */
int quorum_judge(struct quorum_request *r);

#endif
