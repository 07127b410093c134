/*
 * The options of a node.
 *
 * Cache sizes and l2-cache-entry-size set the caches, which take memory only as
 * they fill; cache-clean-interval says when they give it back (cache_clean.c).
 * overlap-check chooses what guard.c guards, lazy-refcounts whether refcounts
 * may lag (lazy.c; the image says so if the option does not), pass-discard-*
 * which freed clusters are discarded in the file.
 */
#include "block/drivers/qcow2/qcow2.h"

#include <inttypes.h>
#include <limits.h>
#include "util/error.h"

#define L2_CACHE_DEFAULT (32 << 20)
#define RB_CACHE_DEFAULT (1 << 20)
#define SLICE_DEFAULT    4096
#define CLEAN_DEFAULT    600  /* seconds */
#define FAIR_CAPACITY    8192 /* entries */
#define MIN_BLOCKS       4    /* refcount blocks that fit into the cache */

struct cache_sizes {
    int64_t l2, rb; /* bytes */
    int64_t slice;  /* bytes of an L2 cache entry */
};

/* The codec takes any number there is. */
static bool check_cache_size(const char *name, int64_t bytes, GError **error)
{
    return bytes >= 0 ||
           error_set(error,
                     "Parameter '%s' expects a non-negative number below 2^64",
                     name);
}

/* cache-size is both together; what one is not given is what the other leaves.
 * If nothing more is said, L2 tables get all that they can use, but for a few
 * refcount blocks. */
static bool split_cache_size(const struct qcow2 *s,
                             const struct blockdev_options_qcow2 *o,
                             struct cache_sizes *c, GError **error)
{
    if (!o->has_cache_size) {
        return true;
    }
    if (o->has_l2_cache_size && o->has_refcount_cache_size) {
        return error_set(error,
                         "cache-size, l2-cache-size and refcount-cache-size "
                         "may not be set at the same time");
    }
    if (o->has_l2_cache_size && o->l2_cache_size > o->cache_size) {
        return error_set(error, "l2-cache-size may not exceed cache-size");
    }
    if (o->has_refcount_cache_size && o->refcount_cache_size > o->cache_size) {
        return error_set(error, "refcount-cache-size may not exceed "
                                "cache-size");
    }
    if (o->has_l2_cache_size) {
        c->rb = o->cache_size - c->l2;
    } else if (o->has_refcount_cache_size) {
        c->l2 = o->cache_size - c->rb;
    } else {
        int64_t tables =
            ((int64_t)s->l1_size << s->l2_bits) * qcow2_entry_bytes(s);
        int64_t least = MIN_BLOCKS * s->cluster_size;
        c->l2 = o->cache_size > tables + least
                    ? tables
                    : o->cache_size - min_i64(least, o->cache_size);
        c->rb = o->cache_size - c->l2;
    }
    return true;
}

static bool parse_cache_sizes(const struct qcow2 *s,
                              const struct blockdev_options_qcow2 *o,
                              struct cache_sizes *c, GError **error)
{
    c->l2 = o->has_l2_cache_size ? o->l2_cache_size : L2_CACHE_DEFAULT;
    c->rb =
        o->has_refcount_cache_size ? o->refcount_cache_size : RB_CACHE_DEFAULT;
    if (!check_cache_size("l2-cache-size", c->l2, error) ||
        !check_cache_size("refcount-cache-size", c->rb, error) ||
        (o->has_cache_size &&
         !check_cache_size("cache-size", o->cache_size, error)) ||
        !split_cache_size(s, o, c, error)) {
        return false;
    }
    if (c->rb >> s->cluster_bits > INT_MAX) {
        return error_set(error, "Refcount cache size too big");
    }
    c->slice = o->has_l2_cache_entry_size
                   ? o->l2_cache_entry_size
                   : min_i64(SLICE_DEFAULT, s->cluster_size);
    if (c->slice < 512 || c->slice > s->cluster_size ||
        !is_power_of_2(c->slice)) {
        return error_set(error,
                         "L2 cache entry size must be a power of two between "
                         "512 and the cluster size (%" PRId64 ")",
                         s->cluster_size);
    }
    return true;
}

/* Seconds. */
static int64_t clean_interval(const struct blockdev_options_qcow2 *o)
{
    return o->has_cache_clean_interval ? o->cache_clean_interval
                                       : CLEAN_DEFAULT;
}

static int co_clean_l2(void *opaque)
{
    return co_qcow2_commit(opaque);
}

static int co_clean_rb(void *opaque)
{
    struct qcow2 *s = opaque;

    return co_meta_cache_write_all(&s->rb);
}

static bool set_up_caches(struct qcow2 *s,
                          const struct blockdev_options_qcow2 *o,
                          GError **error)
{
    struct cache_sizes c;

    if (!parse_cache_sizes(s, o, &c, error)) {
        return false;
    }
    int64_t rslice = min_i64(SLICE_DEFAULT, s->cluster_size);
    s->slice_bits = g_bit_nth_lsf(c.slice, -1) - 3 - s->extended;
    s->rslice_bits = g_bit_nth_lsf(rslice, -1) + 3 - s->refcount_order;
    /* The index of a cache is sized by its limit, so a limit that the image can
     * never fill is cut; a disk that grows later keeps a fair one. */
    int64_t slices = ((int64_t)s->l1_size << s->l2_bits) >> s->slice_bits;
    int64_t blocks = ((int64_t)s->rt_size << s->rb_bits) >> s->rslice_bits;
    meta_cache_init(&s->l2, s->node, c.slice,
                    min_i64(c.l2 / c.slice, max_i64(slices, FAIR_CAPACITY)));
    meta_cache_init(&s->rb, s->node, rslice,
                    min_i64(c.rb / rslice, max_i64(blocks, FAIR_CAPACITY)));
    s->l2.co_clean = co_clean_l2;
    s->l2.place = qcow2_l2_slice_place;
    s->rb.co_clean = co_clean_rb;
    s->l2.opaque = s->rb.opaque = s;
    s->l2.load_event = BLKDEBUG_EVENT_L2_LOAD;
    s->rb.load_event = BLKDEBUG_EVENT_REFBLOCK_LOAD;
    s->l2.write_event = BLKDEBUG_EVENT_L2_UPDATE;
    s->rb.write_event = BLKDEBUG_EVENT_REFBLOCK_UPDATE_PART;
    meta_cache_clean_every(&s->l2, clean_interval(o));
    meta_cache_clean_every(&s->rb, clean_interval(o));
    return true;
}

bool qcow2_check_options(const struct qcow2 *s,
                         const struct blockdev_options_qcow2 *o, GError **error)
{
    struct cache_sizes c;

    if (o->encrypt) {
        return error_set(error, "Parameter 'encrypt' is not supported");
    }
    if (!parse_cache_sizes(s, o, &c, error)) {
        return false;
    }
    if (o->lazy_refcounts && s->version < 3) {
        return error_set(error, "Lazy refcounts require a qcow2 image with at "
                                "least qemu 1.1 compatibility level");
    }
    if (o->discard_no_unref && s->version < 3) {
        return error_set(error, "discard-no-unref is only supported since "
                                "qcow2 version 3");
    }
    if (clean_interval(o) < 0 || clean_interval(o) > UINT_MAX) {
        return error_set(error, "Cache clean interval too big");
    }
    return true;
}

bool qcow2_apply_options(struct qcow2 *s,
                         const struct blockdev_options_qcow2 *o, GError **error)
{
    bool request = o->has_pass_discard_request ? o->pass_discard_request
                                               : s->node->discard;

    if (!qcow2_check_options(s, o, error)) {
        return false;
    }
    s->compress_effort = o->has_compress_effort ? o->compress_effort : 0;
    s->discard_passed[FREE_REQUEST] = request;
    s->discard_passed[FREE_SNAPSHOT] =
        !o->has_pass_discard_snapshot || o->pass_discard_snapshot;
    s->discard_passed[FREE_OTHER] =
        o->has_pass_discard_other && o->pass_discard_other;
    s->discard_no_unref = o->has_discard_no_unref && o->discard_no_unref;
    s->lazy = (o->has_lazy_refcounts
                   ? o->lazy_refcounts
                   : s->header.compatible & QCOW2_COMPAT_LAZY_REFCOUNTS) &&
              s->version >= 3 && !s->node->for_check;
    s->guard.chosen = qcow2_guard_choice(o->overlap_check);
    s->guard_data = s->guard.chosen && !s->external;
    return set_up_caches(s, o, error);
}

bool co_qcow2_options_ready(struct qcow2 *s,
                            const struct blockdev_options_qcow2 *o,
                            GError **error)
{
    int ret = qcow2_guard_choice(o->overlap_check) >> META_INACTIVE_L2 & 1
                  ? co_qcow2_guard_inactive(s)
                  : 0;

    return ret == 0 ||
           error_set_errno(error, ret, "Could not read snapshot L1 tables");
}
