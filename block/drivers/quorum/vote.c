/*
 * Counting the ballots of a quorum: pure, but for what is announced.
 *
 * Of equals the one that came last in the list of children wins.
 */
#include "block/drivers/quorum/vote.h"

#include <string.h>

#include "block/listener.h"
#include "block/node.h"

void quorum_report(const struct quorum_ballot *b)
{
    const struct quorum_request *r = b->request;

    BLOCK_ANNOUNCE(quorum_report_bad, b->child, r->type, -b->ret, r->offset,
                   r->bytes);
}

static bool same_data(const struct quorum_ballot *a,
                      const struct quorum_ballot *b)
{
    return !memcmp(a->buffer, b->buffer, (size_t)b->request->bytes);
}

static bool same_error(const struct quorum_ballot *a,
                       const struct quorum_ballot *b)
{
    return a->ret == b->ret;
}

struct quorum_ballot *quorum_count(struct quorum_request *r, bool good,
                                   unsigned *votes)
{
    struct quorum_ballot *winner = NULL;

    *votes = 0;
    for (unsigned i = 0; i < r->n; i++) {
        struct quorum_ballot *b = &r->ballots[i];
        if (good == (b->ret < 0)) {
            continue;
        }
        unsigned k = 0;
        while (k < i && (good == (r->ballots[k].ret < 0) ||
                         !(good ? same_data : same_error)(&r->ballots[k], b))) {
            k++;
        }
        b->like = k;
    }
    for (unsigned i = 0; i < r->n; i++) {
        unsigned n = 0;
        for (unsigned k = i; k < r->n; k++) {
            n += good == (r->ballots[k].ret == 0) && r->ballots[k].like == i;
        }
        if (n && n >= *votes) {
            *votes = n;
            winner = &r->ballots[i];
        }
    }
    return winner;
}

bool quorum_all_alike(struct quorum_request *r)
{
    const struct quorum_ballot *first = NULL;

    for (unsigned i = 0; i < r->n; i++) {
        const struct quorum_ballot *b = &r->ballots[i];
        if (b->ret == 0 && first && !same_data(first, b)) {
            return false;
        }
        if (b->ret == 0 && !first) {
            first = b;
        }
    }
    return true;
}

int quorum_judge(struct quorum_request *r)
{
    const struct quorum_state *s = r->node->state;
    unsigned good = 0, votes;

    for (unsigned i = 0; i < r->n; i++) {
        if (r->ballots[i].ret < 0) {
            quorum_report(&r->ballots[i]);
        } else {
            good++;
        }
    }
    if (good >= s->threshold) {
        return 0;
    }
    if (r->type != QUORUM_OP_TYPE_FLUSH) {
        BLOCK_ANNOUNCE(quorum_failure, r->node, r->offset, r->bytes);
    }
    return quorum_count(r, false, &votes)->ret;
}
