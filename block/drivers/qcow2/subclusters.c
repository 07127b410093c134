/*
 * Subclusters (qcow2 specification, "Extended L2 Entries").
 *
 * An L2 entry has a second word, with two bits for each of the 32 parts of the
 * cluster: allocated, and reads as zeroes. So a cluster can have its place in
 * the file while parts of it still come from the backing file; a write there
 * copies only what is left of the subclusters at its two ends.
 *
 * What is said here of bits is arithmetic on one entry, which does not suspend.
 * Runs on the node's loop.
 */
#include "block/drivers/qcow2/qcow2.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>

static uint32_t allocated_bits(uint64_t bitmap)
{
    return (uint32_t)bitmap;
}

static uint32_t zero_bits(uint64_t bitmap)
{
    return bitmap >> 32;
}

static unsigned subcluster_index(const struct qcow2 *s, int64_t offset)
{
    return (offset >> s->sub_bits) & (QCOW2_SUBCLUSTERS - 1);
}

/* Ones from bit `from` to bit `to`, without that. */
static uint32_t bits_between(unsigned from, unsigned to)
{
    return (uint32_t)(((UINT64_C(1) << to) - 1) & ~((UINT64_C(1) << from) - 1));
}

uint32_t qcow2_subcluster_mask(const struct qcow2 *s, int64_t offset,
                               int64_t end)
{
    return bits_between(subcluster_index(s, offset),
                        subcluster_index(s, end - 1) + 1);
}

/* ---- mapping ------------------------------------------------------------- */

/* What a subcluster is that has the given bits; false: no correct image says
 * so. */
static bool subcluster_type(const struct mapping *cluster, bool allocated,
                            bool zero, enum cluster_type *type)
{
    if (allocated && (zero || !cluster->placed)) {
        return false;
    }
    *type = allocated         ? CLUSTER_NORMAL
            : !zero           ? CLUSTER_UNALLOCATED
            : cluster->placed ? CLUSTER_ZERO_ALLOC
                              : CLUSTER_ZERO_PLAIN;
    return true;
}

/* How many subclusters from i on have the same bits as i. */
static unsigned same_bits(uint64_t bitmap, unsigned i)
{
    uint32_t a = allocated_bits(bitmap), z = zero_bits(bitmap);
    uint32_t differ = (a >> i & 1 ? ~a : a) | (z >> i & 1 ? ~z : z);

    differ &= ~bits_between(0, i);
    return (differ ? (unsigned)__builtin_ctz(differ) : QCOW2_SUBCLUSTERS) - i;
}

static int co_invalid(struct qcow2 *s, int64_t offset)
{
    return co_qcow2_corrupt(s, -1, -1,
                            "Invalid cluster entry found (L2 offset: "
                            "%#" PRIx64 ", L2 index: %#x)",
                            qcow2_l2_table(s, offset),
                            qcow2_l2_index(s, offset));
}

/* The run at subcluster i of an entry; its end may be that of the cluster. */
static bool map_one(const struct qcow2 *s, const uint64_t *entry, unsigned i,
                    struct mapping *m)
{
    uint64_t bitmap = be64toh(entry[1]);

    qcow2_decode_entry(s, be64toh(entry[0]), m);
    if (m->type == CLUSTER_COMPRESSED) {
        m->bytes = s->cluster_size - ((int64_t)i << s->sub_bits);
        return true;
    }
    m->bytes = (int64_t)same_bits(bitmap, i) << s->sub_bits;
    return subcluster_type(m, allocated_bits(bitmap) >> i & 1,
                           zero_bits(bitmap) >> i & 1, &m->type);
}

int co_qcow2_map_subclusters(struct qcow2 *s, struct meta_entry *slice,
                             int64_t offset, int64_t bytes, struct mapping *m,
                             enum map_use use)
{
    unsigned i = qcow2_slice_index(s, offset), end = 1u << s->slice_bits;
    unsigned sub = subcluster_index(s, offset);
    int64_t in_sub = offset & ((INT64_C(1) << s->sub_bits) - 1);

    if (!map_one(s, qcow2_entry_at(s, slice->data, i), sub, m)) {
        return co_invalid(s, offset);
    }
    int ret = co_qcow2_check_entry(s, offset, m, use);
    if (ret < 0) {
        return ret;
    }
    int64_t run = m->bytes - in_sub;
    bool whole = (sub << s->sub_bits) + m->bytes == s->cluster_size;
    int64_t next_host = align_down(m->host, s->cluster_size);
    while (whole && m->type != CLUSTER_COMPRESSED && run < bytes && ++i < end) {
        struct mapping n;
        next_host += m->placed ? s->cluster_size : 0;
        if (!map_one(s, qcow2_entry_at(s, slice->data, i), 0, &n) ||
            n.type != m->type || n.copied != m->copied ||
            n.placed != m->placed || n.host != next_host) {
            break;
        }
        run += n.bytes;
        whole = n.bytes == s->cluster_size;
    }
    if (m->placed && m->type != CLUSTER_COMPRESSED) {
        m->host += offset & (s->cluster_size - 1);
    }
    m->bytes = min_i64(run, bytes);
    return 0;
}

/* ---- changes ------------------------------------------------------------- */

bool qcow2_subclusters_zero(const struct qcow2 *s, const uint64_t *entry,
                            int64_t offset, int64_t end)
{
    uint64_t bitmap = be64toh(entry[1]);

    if (offset >= end) {
        return true;
    }
    if (be64toh(entry[0]) & QCOW2_COMPRESSED) {
        return false;
    }
    uint32_t rest = qcow2_subcluster_mask(s, offset, end) & ~zero_bits(bitmap);
    return !rest || (!(rest & allocated_bits(bitmap)) &&
                     !qcow2_backing_covers(s, offset));
}

void qcow2_subclusters_widen(const struct qcow2 *s, const uint64_t *first,
                             const uint64_t *last, bool own, int64_t *from,
                             int64_t *to)
{
    int64_t sub = INT64_C(1) << s->sub_bits;
    int64_t start = align_down(*from, s->cluster_size);
    int64_t end = align_up(*to, s->cluster_size);
    uint32_t head = allocated_bits(be64toh(first[1]));
    uint32_t tail = allocated_bits(be64toh(last[1]));

    *from = align_down(*from, sub);
    if (!own && (be64toh(first[0]) & QCOW2_COMPRESSED)) {
        *from = start;
    } else if (!own && head) {
        *from = min_i64(*from, start + __builtin_ctz(head) * sub);
    }
    bool ends_in_data = tail >> subcluster_index(s, *to - 1) & 1;
    if (!own && (be64toh(last[0]) & QCOW2_COMPRESSED)) {
        *to = end;
    } else if (!own) {
        *to = align_up(*to, sub);
        if (tail) {
            *to = max_i64(*to, end - __builtin_clz(tail) * sub);
        }
    } else if (!ends_in_data) {
        *to = align_up(*to, sub);
    }
}

uint64_t qcow2_subclusters_written(const struct qcow2 *s, const uint64_t *old,
                                   int64_t offset, int64_t end)
{
    uint64_t mask = qcow2_subcluster_mask(s, offset, end);
    uint64_t bitmap = be64toh(old[0]) & QCOW2_COMPRESSED ? 0 : be64toh(old[1]);

    return (bitmap & ~(mask << 32)) | mask;
}
