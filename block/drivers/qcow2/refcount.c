/*
 * Refcounts and the search for free clusters (qcow2 specification, "Host
 * cluster management").
 *
 * Refcounts change in memory and are written before the metadata that needs
 * them (commit.c). One coroutine at a time works on them, under alloc_lock,
 * which is never held over guest data. The search goes upwards from the lowest
 * cluster that may be free, so that consecutive requests get consecutive
 * clusters.
 *
 * Runs on the node's loop.
 */
#include "block/drivers/qcow2/qcow2.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <inttypes.h>

/* ---- refcounts of 1 to 64 bits ------------------------------------------- */

/* Narrow ones fill a byte from its lowest bit on. */
#define NARROW(bits)                                                      \
    static uint64_t get_##bits(const void *slice, uint64_t i)             \
    {                                                                     \
        const uint8_t *p = slice;                                         \
        return p[i * bits / 8] >> (i * bits % 8) & ((1u << bits) - 1);    \
    }                                                                     \
    static void set_##bits(void *slice, uint64_t i, uint64_t v)           \
    {                                                                     \
        uint8_t *p = (uint8_t *)slice + i * bits / 8;                     \
        unsigned shift = i * bits % 8;                                    \
        *p = (*p & ~(((1u << bits) - 1) << shift)) | (uint8_t)v << shift; \
    }
NARROW(1)
NARROW(2)
NARROW(4)

static uint64_t get_8(const void *slice, uint64_t i)
{
    return ((const uint8_t *)slice)[i];
}

static void set_8(void *slice, uint64_t i, uint64_t v)
{
    ((uint8_t *)slice)[i] = v;
}

#define WIDE(bits)                                                \
    static uint64_t get_##bits(const void *slice, uint64_t i)     \
    {                                                             \
        return be##bits##toh(((const uint##bits##_t *)slice)[i]); \
    }                                                             \
    static void set_##bits(void *slice, uint64_t i, uint64_t v)   \
    {                                                             \
        ((uint##bits##_t *)slice)[i] = htobe##bits(v);            \
    }
WIDE(16)
WIDE(32)
WIDE(64)

void qcow2_refcount_init(struct qcow2 *s)
{
    static const struct {
        uint64_t (*get)(const void *slice, uint64_t i);
        void (*set)(void *slice, uint64_t i, uint64_t v);
    } widths[] = {{get_1, set_1},  {get_2, set_2},   {get_4, set_4},
                  {get_8, set_8},  {get_16, set_16}, {get_32, set_32},
                  {get_64, set_64}};

    s->refcount_get = widths[s->refcount_order].get;
    s->refcount_set = widths[s->refcount_order].set;
    s->refcount_max = s->refcount_order == 6
                          ? UINT64_MAX
                          : (UINT64_C(1) << (1u << s->refcount_order)) - 1;
}

static uint64_t rslice_mask(const struct qcow2 *s)
{
    return (UINT64_C(1) << s->rslice_bits) - 1;
}

int co_qcow2_check_refcount_block(struct qcow2 *s, uint64_t i)
{
    int64_t block = s->rt[i] & QCOW2_REFTABLE_MASK;
    bool unaligned = block & (s->cluster_size - 1);

    if (!unaligned && block >= 0 && block < qcow2_file(s)->length) {
        return 0;
    }
    return co_qcow2_corrupt(
        s, -1, -1,
        "Refblock offset %#" PRIx64 " %s (reftable index: %#" PRIx64 ")", block,
        unaligned ? "unaligned" : "beyond the end of the file", i);
}

int co_qcow2_refcount_slice(struct qcow2 *s, int64_t cluster,
                            struct meta_entry **slice)
{
    uint64_t key = (uint64_t)cluster >> s->rslice_bits;
    uint64_t i = (uint64_t)cluster >> s->rb_bits;

    *slice = meta_cache_find(&s->rb, key);
    if (*slice) {
        return 0;
    }
    int64_t block = i < s->rt_size ? s->rt[i] & QCOW2_REFTABLE_MASK : 0;
    if (!block) {
        return 0;
    }
    int ret = co_qcow2_check_refcount_block(s, i);
    if (ret < 0) {
        return ret;
    }
    uint64_t in_block =
        key & ((UINT64_C(1) << (s->rb_bits - s->rslice_bits)) - 1);
    return co_meta_cache_get(&s->rb, key, block + in_block * s->rb.slice_size,
                             slice);
}

int co_qcow2_refcount_to_change(struct qcow2 *s, int64_t cluster,
                                struct meta_entry **slice)
{
    uint64_t i = (uint64_t)cluster >> s->rb_bits;

    if (G_UNLIKELY(s->guard.tangled && i < s->rt_size)) {
        int ret = co_qcow2_guard_table(s, META_REFCOUNT_BLOCK,
                                       s->rt[i] & QCOW2_REFTABLE_MASK,
                                       s->cluster_size);
        if (ret < 0) {
            return ret;
        }
    }
    return co_qcow2_refcount_slice(s, cluster, slice);
}

int co_qcow2_refcount(struct qcow2 *s, int64_t cluster, uint64_t *value)
{
    struct meta_entry *slice;

    co_mutex_lock(&s->alloc_lock);
    int ret = co_qcow2_refcount_slice(s, cluster, &slice);
    co_mutex_unlock(&s->alloc_lock);
    if (ret == 0) {
        *value =
            slice ? s->refcount_get(slice->data, cluster & rslice_mask(s)) : 0;
    }
    return ret;
}

/* ---- allocation ---------------------------------------------------------- */

void qcow2_note_used(struct qcow2 *s, int64_t end)
{
    s->zero_from = max_i64(s->zero_from, end << s->cluster_bits);
}

/* A run of free clusters that is being looked for. */
struct search {
    const char *what; /* NULL: guest data */
    int64_t want;
    bool exact;      /* nothing less will do */
    bool fresh_only; /* nothing that was ever written */
    int64_t start, n;
};

/* Extends the run by what the slice says from *cluster on; true when done. */
static bool search_slice(struct qcow2 *s, struct search *q, const void *slice,
                         int64_t *cluster)
{
    int64_t end = (*cluster | (int64_t)rslice_mask(s)) + 1;

    for (int64_t c = *cluster; c < end; c++) {
        if (s->refcount_get(slice, c & rslice_mask(s)) == 0) {
            if (!q->n) {
                q->start = c;
            }
            if (++q->n == q->want) {
                return true;
            }
        } else if (q->n && !q->exact) {
            return true;
        } else {
            q->n = 0;
        }
    }
    *cluster = end;
    return false;
}

/* No block counts cluster yet. true: what was found has to do. */
static int co_search_uncounted(struct qcow2 *s, struct search *q,
                               int64_t *cluster, bool *done)
{
    *done = q->n && !q->exact;
    if (*done) {
        return 0;
    }
    /* The block takes the first cluster of the run, or of the new range. */
    int64_t home = q->n ? q->start : *cluster;
    int ret = co_qcow2_make_refcount_block(s, *cluster, home);
    if (ret == -EAGAIN) {
        q->n = 0;
        return 0;
    }
    if (ret == 0 && q->n) {
        q->start++;
        q->n--;
    }
    return ret;
}

static int co_search(struct qcow2 *s, struct search *q)
{
    int64_t cluster = s->alloc_hint;
    bool done = false;

    while (!done) {
        struct meta_entry *slice;
        if ((cluster + q->want) << s->cluster_bits > QCOW2_MAX_HOST_OFFSET) {
            return -EFBIG;
        }
        int ret = co_qcow2_refcount_slice(s, cluster, &slice);
        if (ret == 0 && slice) {
            done = search_slice(s, q, slice->data, &cluster);
        } else if (ret == 0) {
            ret = co_search_uncounted(s, q, &cluster, &done);
        }
        if (ret < 0) {
            return ret;
        }
    }
    return 0;
}

/* Sets refcounts from zero to one. */
static int co_take(struct qcow2 *s, int64_t start, int64_t n)
{
    for (int64_t c = start; c < start + n;) {
        struct meta_entry *slice;
        int ret = co_qcow2_refcount_to_change(s, c, &slice);
        if (ret < 0 || !slice) {
            /* What has been taken so far goes back when that can be done. */
            if (c > start) {
                struct free_run run = {start << s->cluster_bits,
                                       (c - start) << s->cluster_bits,
                                       FREE_OTHER};
                g_array_append_val(s->frees[FREE_READY], run);
            }
            return ret < 0 ? ret : -EIO;
        }
        meta_entry_change(&s->rb, slice);
        do {
            s->refcount_set(slice->data, c & rslice_mask(s), 1);
            c++;
        } while (c < start + n && (c & rslice_mask(s)));
    }
    return 0;
}

static int64_t co_alloc_locked(struct qcow2 *s, struct search *q, bool *fresh)
{
    int ret = co_search(s, q);
    if (ret < 0) {
        return ret;
    }
    int64_t zero = s->zero_from >> s->cluster_bits;
    if (!q->exact && q->start < zero && q->start + q->n > zero) {
        q->n = zero - q->start;
    }
    *fresh = q->start >= zero;
    if (q->fresh_only && !*fresh) {
        return -ENOENT;
    }
    ret = co_qcow2_guard_new(s, q->what, q->start << s->cluster_bits,
                             q->n << s->cluster_bits);
    if (ret == 0) {
        ret = co_qcow2_lag(s);
    }
    if (ret == 0) {
        ret = co_take(s, q->start, q->n);
    }
    if (ret < 0) {
        return ret;
    }
    if (!q->exact || q->want == 1) {
        s->alloc_hint = q->start + q->n;
    }
    qcow2_note_used(s, q->start + q->n);
    return q->start << s->cluster_bits;
}

int co_qcow2_alloc_clusters(struct qcow2 *s, int64_t want,
                            struct qcow2_run *run)
{
    struct search q = {.want = want};

    co_qcow2_wait_reserve(s);
    co_mutex_lock(&s->alloc_lock);
    *run = (struct qcow2_run){.offset = -1};
    if (s->ends_survive) {
        run->offset = co_qcow2_take_reserved(s, want, &run->n);
    }
    if (run->offset >= 0) {
        run->fresh = true;
        run->reserve = s->reserve.now.generation;
    } else {
        run->offset = co_alloc_locked(s, &q, &run->fresh);
        run->n = q.n;
    }
    co_mutex_unlock(&s->alloc_lock);
    return run->offset < 0 ? (int)run->offset : 0;
}

int64_t co_qcow2_alloc_fresh_locked(struct qcow2 *s, int64_t want, int64_t *got)
{
    struct search q = {.want = want, .fresh_only = true};
    bool fresh;
    int64_t ret = co_alloc_locked(s, &q, &fresh);

    *got = q.n;
    return ret;
}

int64_t co_qcow2_alloc_contiguous_locked(struct qcow2 *s, int64_t n,
                                         const char *what)
{
    struct search q = {.what = what, .want = n, .exact = true};
    bool fresh;

    return co_alloc_locked(s, &q, &fresh);
}

int64_t co_qcow2_alloc_contiguous(struct qcow2 *s, int64_t n, const char *what)
{
    co_mutex_lock(&s->alloc_lock);
    int64_t ret = co_qcow2_alloc_contiguous_locked(s, n, what);
    co_mutex_unlock(&s->alloc_lock);
    return ret;
}

/* ---- release ------------------------------------------------------------- */

static int co_release_locked(struct qcow2 *s, int64_t cluster)
{
    struct meta_entry *slice;

    int ret = co_qcow2_refcount_to_change(s, cluster, &slice);
    if (ret < 0) {
        return ret;
    }
    uint64_t i = cluster & rslice_mask(s);
    uint64_t value = slice ? s->refcount_get(slice->data, i) : 0;
    if (!value) {
        /* There is nothing to be freed. */
        qcow2_note_damage(s, "Cannot free cluster %" PRId64 ", which is free",
                          cluster);
        return 0;
    }
    meta_entry_change(&s->rb, slice);
    s->refcount_set(slice->data, i, value - 1);
    if (value == 1) {
        qcow2_pack_close(s, cluster << s->cluster_bits);
        s->alloc_hint = min_i64(s->alloc_hint, cluster);
        qcow2_meta_remove(s, cluster << s->cluster_bits, s->cluster_size);
    }
    return 0;
}

int co_qcow2_release(struct qcow2 *s, int64_t offset, int64_t bytes,
                     int64_t *done)
{
    int ret = 0;

    assert(is_aligned(offset | bytes, s->cluster_size));
    *done = 0;
    co_mutex_lock(&s->alloc_lock);
    while (*done < bytes) {
        ret = co_release_locked(s, (offset + *done) >> s->cluster_bits);
        if (ret < 0) {
            break;
        }
        *done += s->cluster_size;
    }
    co_mutex_unlock(&s->alloc_lock);
    return ret;
}

int co_qcow2_refcount_force(struct qcow2 *s, int64_t cluster, uint64_t value)
{
    struct meta_entry *slice;
    int ret;

    if (value > s->refcount_max) {
        return -ERANGE;
    }
    co_mutex_lock(&s->alloc_lock);
    ret = co_qcow2_refcount_to_change(s, cluster, &slice);
    if (ret == 0 && !slice) {
        ret = -ENOENT;
    }
    if (ret == 0) {
        meta_entry_change(&s->rb, slice);
        s->refcount_set(slice->data, cluster & rslice_mask(s), value);
    }
    co_mutex_unlock(&s->alloc_lock);
    return ret;
}
