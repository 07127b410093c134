/*
 * Refcounts that take effect all at once; see shadow.h.
 *
 * Runs on the node's loop, in a drained section.
 */
#include "block/drivers/qcow2/shadow.h"

#include <endian.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include "block/drivers/qcow2/qcow2.h"

enum { COPIES = 8 };

/* ---- the copies ---------------------------------------------------------- */

/* All blocks are copied, and all old ones freed: those, too, that no request
 * has looked at. */
static int co_check_blocks(struct qcow2 *s)
{
    int ret = 0;

    for (uint32_t i = 0; ret == 0 && i < s->rt_size; i++) {
        ret = s->rt[i] & QCOW2_REFTABLE_MASK
                  ? co_qcow2_check_refcount_block(s, i)
                  : 0;
    }
    return ret;
}

static int64_t blocks_in(const struct qcow2 *s, const uint64_t *rt)
{
    int64_t n = 0;

    for (uint32_t i = 0; i < s->rt_size; i++) {
        n += (rt[i] & QCOW2_REFTABLE_MASK) != 0;
    }
    return n;
}

/* The table has entries for all that will be allocated: it cannot grow later.
 * Each block counts itself, so one more for each is enough. */
static int co_reserve(struct qcow2 *s, int64_t clusters)
{
    int64_t last = s->zero_from >> s->cluster_bits;

    clusters += blocks_in(s, s->rt) +
                div_round_up((int64_t)s->rt_size * 8, s->cluster_size);
    clusters += (clusters >> s->rb_bits) + 4;
    /* What is taken as a whole may begin behind what is free in pieces. */
    last += 2 * clusters;
    return co_qcow2_reserve_refcounts(s, last);
}

struct copying {
    struct qcow2 *s;
    const struct shadow *sh;
    uint32_t i;    /* the next entry of the table */
    int64_t place; /* of its block */
    int result;
};

static int co_copy_block(struct copying *c, void *buf)
{
    struct qcow2 *s = c->s;
    uint64_t from = c->sh->old_rt[c->i++] & QCOW2_REFTABLE_MASK;
    int64_t to = c->place << s->cluster_bits;

    c->place++;
    int ret = co_node_pread(qcow2_file(s), from, buf, s->cluster_size, 0);
    return ret < 0 ? ret
                   : co_node_pwrite(qcow2_file(s), to, buf, s->cluster_size, 0);
}

/* One of several that share the table. */
static int co_copier(void *opaque)
{
    struct copying *c = opaque;
    struct qcow2 *s = c->s;
    void *buf = io_buffer_try_alloc(qcow2_file(s), s->cluster_size);

    if (!buf) {
        c->result = -ENOMEM;
    }
    while (c->result == 0) {
        while (c->i < s->rt_size &&
               !(c->sh->old_rt[c->i] & QCOW2_REFTABLE_MASK)) {
            c->i++;
        }
        if (c->i == s->rt_size) {
            break;
        }
        int ret = co_copy_block(c, buf);
        c->result = ret < 0 ? ret : c->result;
    }
    io_buffer_free(buf);
    return 0;
}

static int co_copy_blocks(struct qcow2 *s, const struct shadow *sh)
{
    struct copying c = {.s = s, .sh = sh, .place = sh->place + sh->table};
    struct co_pool pool = {.limit = COPIES};

    for (unsigned i = 0; i < COPIES && i < sh->blocks; i++) {
        co_pool_start(&pool, co_copier, &c);
    }
    co_pool_wait(&pool);
    return c.result;
}

/* From here on the copies are what counts. */
static void use_copies(struct qcow2 *s, const struct shadow *sh)
{
    int64_t place = sh->place + sh->table;
    unsigned slices = s->rb_bits - s->rslice_bits;

    for (uint32_t i = 0; i < s->rt_size; i++) {
        int64_t old = sh->old_rt[i] & QCOW2_REFTABLE_MASK;
        if (old) {
            int64_t now = place++ << s->cluster_bits;
            meta_cache_move(&s->rb, (uint64_t)i << slices,
                            UINT64_C(1) << slices, now - old);
            s->rt[i] = now;
        }
    }
    s->rt_shadowed = true;
}

/* ---- the section --------------------------------------------------------- */

static void shadow_free(struct shadow *sh)
{
    g_free(sh->old_rt);
    hbitmap_free(sh->gone);
}

static int co_make_copies(struct qcow2 *s, struct shadow *sh)
{
    sh->table = div_round_up((int64_t)s->rt_size * 8, s->cluster_size);
    sh->blocks = blocks_in(s, sh->old_rt);
    sh->place =
        co_qcow2_alloc_contiguous(s, sh->table + sh->blocks, "refcount table");
    if (sh->place < 0) {
        return sh->place;
    }
    qcow2_meta_add(s, sh->place, (sh->table + sh->blocks) << s->cluster_bits);
    sh->place >>= s->cluster_bits;
    return co_copy_blocks(s, sh);
}

int co_qcow2_shadow_begin(struct qcow2 *s, struct shadow *sh, int64_t reserve)
{
    int ret = co_qcow2_settle(s);

    if (ret == 0) {
        ret = co_check_blocks(s);
    }
    if (ret == 0) {
        ret = co_reserve(s, reserve);
    }
    /* The table may have grown, and the old one is to be free by then. */
    if (ret == 0) {
        ret = co_qcow2_settle(s);
    }
    if (ret < 0) {
        return ret;
    }
    *sh = (struct shadow){
        .old_rt = g_memdup2(s->rt, (size_t)s->rt_size * 8),
        .gone =
            hbitmap_new((int64_t)s->rt_size << (s->rb_bits + s->cluster_bits),
                        s->cluster_size),
    };
    ret = sh->gone ? co_make_copies(s, sh) : -ENOMEM;
    if (ret < 0) {
        co_qcow2_shadow_abort(s, sh);
        return ret;
    }
    use_copies(s, sh);
    return 0;
}

/* What was taken before the copies were made may be counted on disk. */
static void co_give_back(struct qcow2 *s, const struct shadow *sh)
{
    for (int64_t i = 0; sh->place > 0 && i < sh->table + sh->blocks; i++) {
        int64_t cluster = sh->place + i;
        uint64_t count;
        if (co_qcow2_refcount(s, cluster, &count) == 0 && count) {
            co_qcow2_free_unused(s, cluster << s->cluster_bits,
                                 s->cluster_size);
        }
    }
}

void co_qcow2_shadow_abort(struct qcow2 *s, struct shadow *sh)
{
    meta_cache_forget(&s->rb);
    for (uint32_t i = 0; i < s->rt_size; i++) {
        if (s->rt[i] && !sh->old_rt[i]) {
            qcow2_meta_remove(s, s->rt[i] & QCOW2_REFTABLE_MASK,
                              s->cluster_size);
        }
    }
    memcpy(s->rt, sh->old_rt, (size_t)s->rt_size * 8);
    s->rt_dirt = (struct table_dirt){0};
    s->rt_shadowed = false;
    s->alloc_hint = 0;
    if (sh->place > 0) {
        qcow2_meta_remove(s, sh->place << s->cluster_bits,
                          (sh->table + sh->blocks) << s->cluster_bits);
    }
    co_give_back(s, sh);
    (void)co_qcow2_settle(s);
    shadow_free(sh);
}

/* ---- the switch ---------------------------------------------------------- */

static int co_write_table(struct qcow2 *s, const struct shadow *sh)
{
    int64_t bytes = sh->table << s->cluster_bits;
    uint64_t *disk = io_buffer_try_alloc(qcow2_file(s), bytes);

    if (!disk) {
        return -ENOMEM;
    }
    memset(disk, 0, bytes);
    for (uint32_t i = 0; i < s->rt_size; i++) {
        disk[i] = htobe64(s->rt[i]);
    }
    int ret = co_node_pwrite(qcow2_file(s), sh->place << s->cluster_bits, disk,
                             bytes, 0);
    io_buffer_free(disk);
    return ret;
}

/* All that the new state is made of. */
static int co_make_stable(struct qcow2 *s, const struct shadow *sh)
{
    int ret = co_meta_cache_write_all(&s->rb);

    if (ret == 0) {
        ret = co_write_table(s, sh);
    }
    return ret < 0 ? ret : co_qcow2_flush_files(s);
}

static int co_switch(struct qcow2 *s, const struct shadow *sh,
                     const struct shadow_switch *to)
{
    struct {
        uint64_t size;
        uint32_t crypt_method;
        uint32_t l1_size;
        uint64_t l1_table_offset;
        uint64_t refcount_table_offset;
        uint32_t refcount_table_clusters;
        uint32_t nb_snapshots;
        uint64_t snapshots_offset;
    } __attribute__((packed)) field = {
        .size = htobe64(to->size),
        .crypt_method = htobe32(s->header.crypt_method),
        .l1_size = htobe32(to->l1_size),
        .l1_table_offset = htobe64(to->l1_offset),
        .refcount_table_offset = htobe64(sh->place << s->cluster_bits),
        .refcount_table_clusters = htobe32(sh->table),
        .nb_snapshots = htobe32(to->nb_snapshots),
        .snapshots_offset = htobe64(to->snapshots_offset),
    };
    G_STATIC_ASSERT(offsetof(struct qcow2_disk_header, size) + sizeof(field) ==
                    QCOW2_V2_HEADER);

    int ret = co_qcow2_write_field(s, offsetof(struct qcow2_disk_header, size),
                                   &field, sizeof(field));
    return ret < 0 ? ret : co_node_flush(qcow2_file(s));
}

/* Nothing on disk refers to it any more. */
static void co_free_old(struct qcow2 *s, const struct shadow *sh,
                        int64_t old_table)
{
    int64_t end = hbitmap_size(sh->gone), at = 0, bytes;

    co_qcow2_free_now(s, old_table, sh->table << s->cluster_bits, FREE_OTHER);
    for (uint32_t i = 0; i < s->rt_size; i++) {
        if (sh->old_rt[i] & QCOW2_REFTABLE_MASK) {
            co_qcow2_free_now(s, sh->old_rt[i] & QCOW2_REFTABLE_MASK,
                              s->cluster_size, FREE_OTHER);
        }
    }
    while (at < end &&
           hbitmap_next_run(sh->gone, at, end - at, INT64_MAX, &at, &bytes)) {
        co_qcow2_free_now(s, at, bytes, FREE_SNAPSHOT);
        at += bytes;
    }
}

int co_qcow2_shadow_commit(struct qcow2 *s, struct shadow *sh,
                           const struct shadow_switch *to)
{
    int64_t old_table = s->header.refcount_table_offset;
    int ret = co_make_stable(s, sh);

    if (ret < 0) {
        co_qcow2_shadow_abort(s, sh);
        return ret;
    }
    ret = co_switch(s, sh, to);
    s->rt_shadowed = false;
    if (ret < 0) {
        s->broken = true;
        shadow_free(sh);
        return ret;
    }
    s->rt_dirt = (struct table_dirt){0};
    co_free_old(s, sh, old_table);
    shadow_free(sh);
    return 0;
}
