/*
 * Reading the L2 tables of an L1 table: a few at a time, and neighbours in the
 * file at once, so that the disk and not the number of tables sets the speed.
 * They are looked at in the order of the guest's clusters.
 *
 * Runs on the node's loop.
 */
#include "block/drivers/qcow2/table_walk.h"

#include <errno.h>
#include "block/drivers/qcow2/qcow2.h"

enum { READS = 8, READ_BYTES = 1 << 20 };

/* Some L2 tables that follow each other, in L1 and in the file. */
struct table_read {
    struct qcow2 *s;
    uint32_t first, n; /* L1 entries */
    uint64_t offset;
    uint64_t *tables;
    int ret;
};

static int co_read_tables(void *opaque)
{
    struct table_read *r = opaque;
    int64_t bytes = (int64_t)r->n << r->s->cluster_bits;

    r->ret = co_node_pread(qcow2_file(r->s), r->offset, r->tables, bytes, 0);
    return 0;
}

/* The next tables from L1 entry i on that one read gets; false: there is none.
 */
static bool next_read(struct qcow2 *s, const uint64_t *l1, uint32_t n,
                      uint32_t *i, struct table_read *r)
{
    uint32_t max = MAX(READ_BYTES >> s->cluster_bits, 1);

    /* Mostly there is none for long. */
    uint32_t at = *i;
    while (at < n && !(l1[at] & QCOW2_OFFSET_MASK)) {
        at++;
    }
    *i = at;
    if (at == n) {
        return false;
    }
    *r = (struct table_read){
        .s = s, .first = *i, .offset = l1[*i] & QCOW2_OFFSET_MASK};
    do {
        r->n++;
        ++*i;
    } while (*i < n && r->n < max &&
             (l1[*i] & QCOW2_OFFSET_MASK) ==
                 r->offset + ((uint64_t)r->n << s->cluster_bits));
    return true;
}

static int co_show(const struct table_read *r, table_walk_fn *fn, void *opaque)
{
    unsigned words = r->s->cluster_bits - 3;
    int ret = 0;

    for (uint32_t k = 0; ret == 0 && k < r->n; k++) {
        struct table_seen seen = {
            .index = r->first + k,
            .offset = r->offset + ((uint64_t)k << r->s->cluster_bits),
            .table = r->tables + ((size_t)k << words),
            .ret = r->ret,
        };
        ret = fn(opaque, &seen);
    }
    return ret;
}

int co_qcow2_walk_tables(struct qcow2 *s, const uint64_t *l1, uint32_t n,
                         table_walk_fn *fn, void *opaque)
{
    size_t all = (size_t)n << s->cluster_bits;
    size_t room = MAX(MIN((size_t)READ_BYTES, all), (size_t)s->cluster_size);
    uint8_t *buf = NULL;
    uint32_t i = 0;
    unsigned reads;
    int ret = 0;

    do {
        struct table_read r[READS];
        struct co_pool pool = {.limit = READS};
        for (reads = 0; ret == 0 && reads < READS; reads++) {
            if (!next_read(s, l1, n, &i, &r[reads])) {
                break;
            }
            if (!buf) {
                buf = io_buffer_try_alloc(qcow2_file(s), room * MIN(READS, n));
                ret = buf ? 0 : -ENOMEM;
            }
            r[reads].tables = (uint64_t *)(buf + room * reads);
            if (ret == 0) {
                co_pool_start(&pool, co_read_tables, &r[reads]);
            }
        }
        co_pool_wait(&pool);
        for (unsigned k = 0; ret == 0 && k < reads; k++) {
            ret = co_show(&r[k], fn, opaque);
        }
    } while (ret == 0 && reads);
    io_buffer_free(buf);
    return ret;
}
