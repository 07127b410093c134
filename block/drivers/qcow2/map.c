/*
 * From guest offsets to clusters (qcow2 specification, "Cluster mapping").
 *
 * The common case finds the slice in the cache, decodes one entry and compares
 * the next ones with it: no lock, no suspension. Runs on the node's loop.
 */
#include "block/drivers/qcow2/qcow2.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

static inline uint64_t slice_key(const struct qcow2 *s, int64_t offset)
{
    return (uint64_t)offset >> (s->cluster_bits + s->slice_bits);
}

static inline uint32_t l1_index(const struct qcow2 *s, int64_t offset)
{
    return offset >> (s->cluster_bits + s->l2_bits);
}

void qcow2_decode_entry(const struct qcow2 *s, uint64_t entry,
                        struct mapping *m)
{
    m->host = entry & QCOW2_OFFSET_MASK;
    /* The data file has a cluster 0. */
    m->placed = m->host || (s->external && (entry & QCOW2_COPIED));
    m->copied = entry & QCOW2_COPIED;
    m->entry = entry;
    if (entry & QCOW2_COMPRESSED) {
        m->type = CLUSTER_COMPRESSED;
    } else if ((entry & QCOW2_ZERO) && !s->extended) {
        m->type = m->placed ? CLUSTER_ZERO_ALLOC : CLUSTER_ZERO_PLAIN;
    } else {
        m->type = m->placed ? CLUSTER_NORMAL : CLUSTER_UNALLOCATED;
    }
}

unsigned qcow2_l2_index(const struct qcow2 *s, int64_t offset)
{
    return (offset >> s->cluster_bits) & ((1u << s->l2_bits) - 1);
}

uint64_t qcow2_l2_table(const struct qcow2 *s, int64_t offset)
{
    return s->l1[l1_index(s, offset)] & QCOW2_OFFSET_MASK;
}

static int co_unaligned(struct qcow2 *s, int64_t offset,
                        const struct mapping *m, enum map_use use)
{
    if (use == MAP_WRITE) {
        return co_qcow2_corrupt(s, -1, -1,
                                "%s cluster offset %#" PRIx64
                                " unaligned (guest offset: %#" PRIx64 ")",
                                m->type == CLUSTER_NORMAL ? "Data"
                                                          : "Preallocated zero",
                                m->host, offset);
    }
    return co_qcow2_corrupt(
        s, -1, -1,
        "Cluster allocation offset %#" PRIx64 " unaligned (L2 offset: %#" PRIx64
        ", L2 index: %#x)",
        m->host, qcow2_l2_table(s, offset), qcow2_l2_index(s, offset));
}

int co_qcow2_check_entry(struct qcow2 *s, int64_t offset,
                         const struct mapping *m, enum map_use use)
{
    if (G_UNLIKELY(s->external)) {
        int ret = co_qcow2_check_external(s, offset, m);
        if (ret < 0) {
            return ret;
        }
    }
    if (G_LIKELY(m->type == CLUSTER_COMPRESSED ||
                 (!(m->host & (s->cluster_size - 1)) &&
                  (s->version >= 3 || !(m->entry & QCOW2_ZERO))))) {
        return 0;
    }
    if (use == MAP_WRITE && !m->copied) {
        /* The entry is going to be replaced. */
        return 0;
    }
    if (m->host & (s->cluster_size - 1)) {
        return co_unaligned(s, offset, m, use);
    }
    return use == MAP_WRITE
               ? 0
               : co_qcow2_corrupt(s, -1, -1,
                                  "Zero cluster entry found in pre-v3 image "
                                  "(L2 offset: %#" PRIx64 ", L2 index: %#x)",
                                  qcow2_l2_table(s, offset),
                                  qcow2_l2_index(s, offset));
}

/* Cuts the run at the first entry of another kind or, for clusters in the file,
 * another place. */
static int co_map_in_slice(struct qcow2 *s, const uint64_t *slice,
                           int64_t offset, int64_t bytes, struct mapping *m,
                           enum map_use use)
{
    unsigned i = qcow2_slice_index(s, offset);
    unsigned end = 1u << s->slice_bits;
    uint64_t entry = be64toh(slice[i]), step = s->cluster_size;
    int64_t in_cluster = offset & (s->cluster_size - 1);

    qcow2_decode_entry(s, entry, m);
    int ret = co_qcow2_check_entry(s, offset, m, use);
    if (G_UNLIKELY(ret < 0)) {
        return ret;
    }
    m->bytes = s->cluster_size - in_cluster;
    if (m->type == CLUSTER_COMPRESSED) {
        m->bytes = min_i64(m->bytes, bytes);
        return 0;
    }
    if (!m->placed) {
        step = 0;
    } else {
        m->host += in_cluster;
    }
    while (m->bytes < bytes && ++i < end) {
        entry += step;
        if (slice[i] != htobe64(entry)) {
            break;
        }
        m->bytes += s->cluster_size;
    }
    m->bytes = min_i64(m->bytes, bytes);
    return 0;
}

/* ---- slices -------------------------------------------------------------- */

/* Where the slice of offset is in the file; 0 if it has no L2 table. */
static int co_slice_offset(struct qcow2 *s, int64_t offset, int64_t *at)
{
    uint32_t i = l1_index(s, offset);
    int64_t table = i < s->l1_size ? s->l1[i] & QCOW2_OFFSET_MASK : 0;

    *at = 0;
    if (!table) {
        return 0;
    }
    if (table & (s->cluster_size - 1)) {
        return co_qcow2_corrupt(s, -1, -1,
                                "L2 table offset %#" PRIx64
                                " unaligned (L1 index: %#" PRIx32 ")",
                                table, i);
    }
    if (table >= qcow2_file(s)->length) {
        return co_qcow2_corrupt(s, -1, -1,
                                "L2 table offset %#" PRIx64
                                " beyond the end of the file (L1 index: "
                                "%#" PRIx32 ")",
                                table, i);
    }
    uint64_t in_table = slice_key(s, offset) &
                        ((UINT64_C(1) << (s->l2_bits - s->slice_bits)) - 1);
    *at = table + in_table * s->l2.slice_size;
    return 0;
}

int64_t qcow2_l2_slice_place(const void *opaque, uint64_t key)
{
    const struct qcow2 *s = opaque;
    uint64_t i = key >> (s->l2_bits - s->slice_bits);
    uint64_t in_table =
        key & ((UINT64_C(1) << (s->l2_bits - s->slice_bits)) - 1);
    int64_t table = i < s->l1_size ? s->l1[i] & QCOW2_OFFSET_MASK : 0;

    return table ? table + (int64_t)(in_table * s->l2.slice_size) : 0;
}

int co_qcow2_slice_if_any(struct qcow2 *s, int64_t offset,
                          struct meta_entry **slice)
{
    int64_t at;

    *slice = meta_cache_find(&s->l2, slice_key(s, offset));
    if (G_LIKELY(*slice)) {
        return 0;
    }
    int ret = co_slice_offset(s, offset, &at);
    if (ret < 0 || !at) {
        return ret;
    }
    ret = co_meta_cache_get(&s->l2, slice_key(s, offset), at, slice);
    if (G_UNLIKELY(ret == -ENOENT)) {
        *slice = NULL;
        ret = 0;
    }
    return ret;
}

int co_qcow2_map(struct qcow2 *s, int64_t offset, int64_t bytes,
                 struct mapping *m, enum map_use use)
{
    struct meta_entry *slice;
    int ret = co_qcow2_slice_if_any(s, offset, &slice);

    if (G_UNLIKELY(ret < 0)) {
        return ret;
    }
    if (G_LIKELY(slice)) {
        return G_UNLIKELY(s->extended)
                   ? co_qcow2_map_subclusters(s, slice, offset, bytes, m, use)
                   : co_map_in_slice(s, slice->data, offset, bytes, m, use);
    }
    int64_t table_bytes = qcow2_table_bytes(s);
    *m = (struct mapping){
        .type = CLUSTER_UNALLOCATED,
        .bytes = min_i64(bytes, table_bytes - (offset & (table_bytes - 1))),
    };
    return 0;
}

/* ---- L2 tables to write into --------------------------------------------- */

/* The content of a new table: that of the old one, or nothing. */
static int co_write_new_table(struct qcow2 *s, int64_t old, int64_t host)
{
    void *table = io_buffer_try_alloc(qcow2_file(s), s->cluster_size);
    int ret = 0;

    if (!table) {
        return -ENOMEM;
    }
    if (old) {
        ret = co_node_pread(qcow2_file(s), old, table, s->cluster_size, 0);
    } else {
        memset(table, 0, s->cluster_size);
    }
    if (ret == 0) {
        co_node_debug_event(qcow2_file(s), BLKDEBUG_EVENT_L2_ALLOC_WRITE);
        ret = co_node_pwrite(qcow2_file(s), host, table, s->cluster_size, 0);
    }
    io_buffer_free(table);
    return ret;
}

/* Slices in memory (all clean, because the table was not ours to change) now
 * belong to the copy. */
static void move_slices(struct qcow2 *s, int64_t offset, int64_t distance)
{
    int64_t table_bytes = qcow2_table_bytes(s);
    uint64_t key = slice_key(s, align_down(offset, table_bytes));

    meta_cache_move(&s->l2, key, UINT64_C(1) << (s->l2_bits - s->slice_bits),
                    distance);
}

/* Gives the L1 entry of offset a table with refcount 1. The disk's L1 follows
 * at the next commit. */
static int co_make_table(struct qcow2 *s, int64_t offset)
{
    uint32_t i = l1_index(s, offset);
    int64_t old = s->l1[i] & QCOW2_OFFSET_MASK;

    int64_t fresh_from = s->zero_from;
    int64_t host = co_qcow2_alloc_contiguous(s, 1, "L2 table");
    if (host < 0) {
        return host;
    }
    int ret = co_write_new_table(s, old, host);
    if (ret < 0) {
        co_qcow2_free_unused(s, host, s->cluster_size);
        return ret;
    }
    qcow2_meta_add(s, host, s->cluster_size);
    if (old) {
        move_slices(s, offset, host - old);
        qcow2_free_later(s, old, s->cluster_size, FREE_OTHER);
    }
    s->needs_order = s->needs_order || old || host < fresh_from;
    s->l1[i] = host | QCOW2_COPIED;
    table_dirt_add(&s->l1_dirt, i);
    return 0;
}

/* The flag alone says nothing. */
static bool writable_table(uint64_t l1_entry)
{
    return (l1_entry & QCOW2_COPIED) && (l1_entry & QCOW2_OFFSET_MASK);
}

int co_qcow2_slice_for_write(struct qcow2 *s, int64_t offset,
                             struct meta_entry **slice)
{
    uint32_t i = l1_index(s, offset);
    int64_t at;
    int ret = 0;

    if (G_UNLIKELY(!writable_table(s->l1[i]))) {
        co_mutex_lock(&s->table_lock);
        /* Before a copy is made of it, the old one is looked at. */
        ret = co_slice_offset(s, offset, &at);
        if (ret == 0 && !writable_table(s->l1[i])) {
            ret = co_make_table(s, offset);
        }
        co_mutex_unlock(&s->table_lock);
        if (ret < 0) {
            return ret;
        }
    }
    if (G_UNLIKELY(s->guard.tangled)) {
        ret = co_qcow2_guard_table(
            s, META_ACTIVE_L2, s->l1[i] & QCOW2_OFFSET_MASK, s->cluster_size);
        if (ret < 0) {
            return ret;
        }
    }
    ret = co_qcow2_slice_if_any(s, offset, slice);
    return ret == 0 && !*slice ? -EIO : ret;
}
