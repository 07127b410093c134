/*
 * Block status, with what a server said beyond what was asked last.
 *
 * An answer is about many extents, and who walks over a disk asks for one after
 * the other: what remains of the last answer serves the question that goes on
 * where the one before ended, and no other, so that nothing old is believed. A
 * change of the export through this client forgets it.
 */
#include <errno.h>

#include "block/types.h"
#include "nbd/client.h"
#include "util/range.h"

/* Of a question: the walk will go on, and a server looks up this much soon. */
#define MIN_QUESTION (INT64_C(16) << 20)
#define MAX_QUESTION (INT64_C(1) << 31)

static const struct nbd_extent *recall(struct nbd_client *c, int64_t offset)
{
    return offset == c->known_next ? nbd_extents_find(&c->known, offset) : NULL;
}

static int co_ask(struct nbd_client *c, int64_t offset, int64_t bytes)
{
    int64_t most = align_down(MAX_QUESTION, c->info.min_block);
    struct nbd_extents answer = {0};
    struct nbd_command cmd = {
        .op = NBD_OP_STATUS,
        .offset = offset,
        .bytes = min_i64(min_i64(max_i64(bytes, MIN_QUESTION), most),
                         c->info.bytes - offset),
        .extents = &answer,
    };
    uint64_t changes = c->changes;
    int ret = co_nbd_client_do(c, &cmd);

    if (ret == 0 && !answer.n) {
        ret = -EIO; /* it answered, and said nothing */
    }
    nbd_extents_clear(&c->known);
    if (ret < 0) {
        nbd_extents_clear(&answer);
        return ret;
    }
    c->known = answer;
    if (changes != c->changes) {
        c->known.n = 1; /* the rest may have been true before a write */
    }
    return 0;
}

int co_nbd_client_status(struct nbd_client *c, int64_t offset, int64_t bytes,
                         uint32_t *flags, int64_t *run)
{
    const struct nbd_extent *e = recall(c, offset);

    if (!e) {
        int ret = co_ask(c, offset, bytes);

        if (ret < 0) {
            return ret;
        }
        e = nbd_extents_find(&c->known, offset);
    }
    *flags = e->flags;
    *run = min_i64(e->end - offset, bytes);
    c->known_next = offset + *run;
    return 0;
}
