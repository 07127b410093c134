/*
 * Write-zeroes, discard, and unmapping: changes of whole L2 entries without
 * data (qcow2 specification, "Standard Cluster Descriptor", bit 0).
 *
 * The entries of a slice change in one step without suspension, after no
 * allocation in flight touches them; clusters that lose their reference are
 * freed later (free.c). With discard-no-unref they keep it, and only their
 * content goes. Runs on the node's loop.
 */
#include "block/drivers/qcow2/qcow2.h"

#include <endian.h>
#include <errno.h>

/* More runs than this waiting to be freed make a request commit. */
#define PENDING_MAX 4096

enum change {
    CHANGE_ZERO,       /* reads as zeroes, keeps its cluster */
    CHANGE_ZERO_UNMAP, /* reads as zeroes, gives its cluster back */
    CHANGE_ZERO_NEW,   /* reads as zeroes; only where nothing is allocated */
    CHANGE_DISCARD,
    CHANGE_UNMAP, /* nothing is left */
};

/* The words of an L2 entry in the host's byte order; the second one is 0 but
 * for extended entries. */
struct words {
    uint64_t entry, bitmap;
};

static struct words load_words(const struct qcow2 *s, const uint64_t *at)
{
    return (struct words){be64toh(at[0]), s->extended ? be64toh(at[1]) : 0};
}

static void store_words(const struct qcow2 *s, uint64_t *at, struct words w)
{
    at[0] = htobe64(w.entry);
    if (s->extended) {
        at[1] = htobe64(w.bitmap);
    }
}

/* Whether the entry that becomes zeroes keeps its place. A cluster that others
 * use, too, is of no use to it. */
static bool keeps_place(const struct qcow2 *s, enum change change,
                        const struct mapping *m)
{
    return m->type != CLUSTER_COMPRESSED &&
           (change == CHANGE_ZERO || (s->discard_no_unref && m->copied));
}

/* mask: the subclusters that change. */
static bool new_subclusters(enum change change, bool compressed, bool keep,
                            const struct words *old, uint32_t mask,
                            struct words *next)
{
    if (change == CHANGE_ZERO_NEW && (compressed || (old->bitmap & mask))) {
        return false;
    }
    if (mask == UINT32_MAX) {
        *next = (struct words){keep ? old->entry : 0, QCOW2_BITMAP_ZEROES};
        return true;
    }
    next->bitmap = (old->bitmap & ~(uint64_t)mask) | (uint64_t)mask << 32;
    return !compressed && change != CHANGE_DISCARD;
}

/* False if the format has no entry that reads as zeroes there. */
static bool new_words(const struct qcow2 *s, enum change change,
                      const struct words *old, uint32_t mask,
                      struct words *next)
{
    struct mapping m;
    bool backing = s->node->backing;

    qcow2_decode_entry(s, old->entry, &m);
    *next = *old;
    if (change == CHANGE_UNMAP) {
        *next = (struct words){0};
        return true;
    }
    if (m.type == CLUSTER_UNALLOCATED && !old->bitmap && !backing &&
        (change == CHANGE_DISCARD || s->version < 3)) {
        return true;
    }
    if (s->version < 3) {
        next->entry = 0;
        return change != CHANGE_ZERO_NEW && !backing;
    }
    bool keep = keeps_place(s, change, &m);
    if (s->extended) {
        return new_subclusters(change, m.type == CLUSTER_COMPRESSED, keep, old,
                               mask, next);
    }
    next->entry = keep ? old->entry | QCOW2_ZERO : QCOW2_ZERO;
    return change != CHANGE_ZERO_NEW || m.type == CLUSTER_UNALLOCATED ||
           m.type == CLUSTER_ZERO_PLAIN;
}

/* What becomes of the entry at guest offset `at`, as far as [at, end) goes in
 * its cluster. */
static bool plan_change(const struct qcow2 *s, struct meta_entry *slice,
                        int64_t at, int64_t end, enum change change,
                        struct words *old, struct words *next)
{
    int64_t cluster_end = align_down(at, s->cluster_size) + s->cluster_size;
    uint32_t mask =
        s->extended ? qcow2_subcluster_mask(s, at, min_i64(end, cluster_end))
                    : 0;

    *old =
        load_words(s, qcow2_entry_at(s, slice->data, qcow2_slice_index(s, at)));
    return new_words(s, change, old, mask, next);
}

/* The entries of [offset, end), all in the slice. */
static int change_entries(struct qcow2 *s, struct meta_entry *slice,
                          int64_t offset, int64_t end, enum change change)
{
    struct words old, next;
    bool any = false;

    for (int64_t at = offset; at < end;
         at = align_down(at, s->cluster_size) + s->cluster_size) {
        if (!plan_change(s, slice, at, end, change, &old, &next)) {
            return -ENOTSUP;
        }
        any = any || old.entry != next.entry || old.bitmap != next.bitmap;
    }
    if (!any) {
        return 0;
    }
    meta_entry_change(&s->l2, slice);
    /* Only what is in another file is to be zero there first. */
    s->needs_order = s->needs_order || s->external;
    for (int64_t at = offset; at < end;
         at = align_down(at, s->cluster_size) + s->cluster_size) {
        (void)plan_change(s, slice, at, end, change, &old, &next);
        store_words(s, qcow2_entry_at(s, slice->data, qcow2_slice_index(s, at)),
                    next);
        if (old.entry != next.entry &&
            !(next.entry & (QCOW2_OFFSET_MASK | QCOW2_COPIED))) {
            qcow2_free_entry_later(s, old.entry, FREE_REQUEST);
        }
    }
    return 0;
}

/* Makes the slice at offset present and writable, when no allocation in flight
 * touches the range; *slice is NULL if nothing is to be changed. */
static int co_slice_alone(struct qcow2 *s, int64_t offset, int64_t bytes,
                          enum change change, struct meta_entry **slice)
{
    int ret;

    do {
        ret = co_qcow2_slice_if_any(s, offset, slice);
        if (ret < 0) {
            return ret;
        }
        bool nothing =
            change == CHANGE_UNMAP ||
            (!s->node->backing && (change == CHANGE_DISCARD || s->version < 3));
        if (!*slice && nothing) {
            /* An allocation in flight makes its table first. */
            return 0;
        }
        if (!*slice && s->version < 3) {
            return -ENOTSUP;
        }
        ret = co_qcow2_slice_for_write(s, offset, slice);
        if (ret < 0) {
            return ret;
        }
    } while (co_qcow2_wait_allocation(s, offset, bytes));
    return 0;
}

/* -ENOTSUP unless nothing is allocated there. */
static int co_check_new(struct qcow2 *s, int64_t offset, int64_t bytes)
{
    struct mapping m;
    int ret = co_qcow2_map(s, offset, bytes, &m, MAP_READ);

    return ret < 0 || (m.type == CLUSTER_UNALLOCATED && m.bytes == bytes)
               ? ret
               : -ENOTSUP;
}

/* The same with a data file. What happens there happens as an allocation in
 * flight, so that no write gets in between. */
static int co_change_external(struct qcow2 *s, int64_t offset, int64_t bytes,
                              enum change change)
{
    bool unmap = change != CHANGE_ZERO && change != CHANGE_ZERO_NEW;
    bool data = change != CHANGE_UNMAP;
    struct allocation a = {.offset = align_down(offset, s->cluster_size),
                           .end = align_up(offset + bytes, s->cluster_size)};
    struct meta_entry *slice;

    while (co_qcow2_wait_allocation(s, a.offset, a.end - a.offset)) {
    }
    qcow2_allocation_begin(s, &a);
    int ret = change == CHANGE_ZERO_NEW ? co_check_new(s, offset, bytes) : 0;
    if (ret == 0 && data) {
        ret = co_qcow2_external_zeroes(s, offset, bytes,
                                       unmap ? REQ_MAY_UNMAP : 0);
    }
    if (ret == 0) {
        ret = co_qcow2_slice_if_any(s, offset, &slice);
    }
    bool entries = data && (s->node->backing ||
                            (change != CHANGE_DISCARD && s->version >= 3));
    if (ret == 0 && (slice || entries)) {
        ret = co_qcow2_slice_for_write(s, offset, &slice);
        if (ret == 0) {
            ret = change_entries(s, slice, offset, offset + bytes, change);
        }
    }
    if (ret == 0 && unmap && data &&
        is_aligned(offset | bytes, s->cluster_size)) {
        co_qcow2_external_discard(s, offset, bytes, FREE_REQUEST);
    }
    qcow2_allocation_end(s, &a);
    return ret;
}

/* The part of [offset, end) in one slice; *n is its length. */
static int co_change_in_slice(struct qcow2 *s, int64_t offset, int64_t end,
                              enum change change, int64_t *n)
{
    int64_t slice_bytes = qcow2_slice_bytes(s);
    int64_t slice_end = align_down(offset, slice_bytes) + slice_bytes;
    struct meta_entry *slice;

    *n = min_i64(end, slice_end) - offset;
    if (s->external) {
        return co_change_external(s, offset, *n, change);
    }
    int ret = co_slice_alone(s, offset, *n, change, &slice);
    if (ret < 0 || !slice) {
        return ret;
    }
    return change_entries(s, slice, offset, offset + *n, change);
}

/* Gives the storage of the clusters back that keep their place, and are still
 * zeroes. What it becomes must read as zeroes: until the entries are stable,
 * the old ones may come back. Writes wait meanwhile. */
static void co_empty_places(struct qcow2 *s, int64_t offset, int64_t end)
{
    struct allocation a = {.offset = align_down(offset, s->cluster_size),
                           .end = align_up(end, s->cluster_size)};
    struct mapping m;

    while (co_qcow2_wait_allocation(s, a.offset, a.end - a.offset)) {
    }
    qcow2_allocation_begin(s, &a);
    for (int64_t at = offset; at < end; at += m.bytes) {
        if (co_qcow2_map(s, at, end - at, &m, MAP_READ) < 0) {
            break;
        }
        if (m.type == CLUSTER_ZERO_ALLOC && m.copied) {
            /* A hint; if it fails, the space stays taken. */
            (void)co_node_pwrite_zeroes(qcow2_file(s), m.host, m.bytes,
                                        REQ_MAY_UNMAP | REQ_NO_FALLBACK);
        }
    }
    qcow2_allocation_end(s, &a);
}

static int co_change(struct qcow2 *s, int64_t offset, int64_t bytes,
                     enum change change)
{
    bool empty = s->discard_no_unref && s->discard_passed[FREE_REQUEST] &&
                 !s->external &&
                 (change == CHANGE_DISCARD || change == CHANGE_ZERO_UNMAP);
    int64_t end = offset + bytes;
    int ret = s->broken ? -EIO : 0;

    while (ret == 0 && offset < end) {
        int64_t n;
        ret = co_change_in_slice(s, offset, end, change, &n);
        if (ret == 0 && empty) {
            co_empty_places(s, offset, offset + n);
        }
        offset += n;
    }
    if (s->frees[FREE_PENDING]->len > PENDING_MAX) {
        /* What fails here fails again at the next flush, which reports it. */
        (void)co_qcow2_commit(s);
    }
    return ret;
}

/* ---- requests ------------------------------------------------------------ */

/* True if the backing chain has nothing but zeroes there. */
static bool co_backing_zero(struct qcow2 *s, int64_t offset, int64_t end)
{
    struct block_status status;

    while (offset < end && qcow2_backing_covers(s, offset)) {
        if (co_node_status_above(s->node->backing->child, NULL, false, true,
                                 offset, end - offset, &status, NULL) < 0 ||
            !(status.flags & BLOCK_ZERO)) {
            return false;
        }
        offset += status.bytes;
    }
    return true;
}

/* Part of a unit: nothing to do if it reads as zeroes already; the whole unit
 * becomes zeroes if the rest of it reads so, too; else the engine writes them.
 */
static int co_zero_part(struct qcow2 *s, int64_t offset, int64_t bytes)
{
    int64_t unit = INT64_C(1) << s->sub_bits;
    int64_t from = align_down(offset, unit);
    int64_t to = min_i64(align_up(offset + bytes, unit), s->node->length);
    struct mapping m;

    int ret = co_qcow2_map(s, offset, bytes, &m, MAP_READ);
    if (ret < 0) {
        return ret;
    }
    if (m.bytes < bytes) {
        return -ENOTSUP;
    }
    if (m.type == CLUSTER_ZERO_PLAIN || m.type == CLUSTER_ZERO_ALLOC) {
        return 0;
    }
    if (m.type != CLUSTER_UNALLOCATED) {
        return -ENOTSUP;
    }
    if (s->version < 3) {
        return qcow2_backing_covers(s, offset) ? -ENOTSUP : 0;
    }
    if (!co_backing_zero(s, from, offset) ||
        !co_backing_zero(s, offset + bytes, to)) {
        return -ENOTSUP;
    }
    return co_change(s, from, align_up(to, unit) - from, CHANGE_ZERO_NEW);
}

/* Bytes that can be changed without data if the format changes `unit` bytes as
 * a whole. The end of the node counts as the end of a cluster. */
static int64_t whole_units(const struct qcow2 *s, int64_t offset, int64_t bytes,
                           int64_t unit)
{
    int64_t end = offset + bytes;

    if (end == s->node->length) {
        end = align_up(end, s->cluster_size);
    }
    return is_aligned(offset | end, unit) ? end - offset : 0;
}

int co_qcow2_pwrite_zeroes(struct node *node, int64_t offset, int64_t bytes,
                           unsigned flags)
{
    struct qcow2 *s = node->state;
    unsigned generation = qcow2_enter(s);
    int64_t whole = whole_units(s, offset, bytes, INT64_C(1) << s->sub_bits);
    int ret;

    if (whole) {
        ret =
            co_change(s, offset, whole,
                      flags & REQ_MAY_UNMAP ? CHANGE_ZERO_UNMAP : CHANGE_ZERO);
    } else {
        ret = co_zero_part(s, offset, bytes);
    }
    qcow2_leave(s, generation);
    return ret;
}

int co_qcow2_pdiscard(struct node *node, int64_t offset, int64_t bytes)
{
    struct qcow2 *s = node->state;
    unsigned generation = qcow2_enter(s);
    int64_t whole = whole_units(s, offset, bytes, s->cluster_size);
    int ret = whole ? co_change(s, offset, whole, CHANGE_DISCARD) : -ENOTSUP;

    qcow2_leave(s, generation);
    return ret;
}

int co_qcow2_unmap(struct qcow2 *s, int64_t offset, int64_t bytes)
{
    unsigned generation = qcow2_enter(s);
    int ret = co_change(s, offset, bytes, CHANGE_UNMAP);

    qcow2_leave(s, generation);
    return ret;
}
