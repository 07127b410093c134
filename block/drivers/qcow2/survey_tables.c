/*
 * Looking at L1 and L2 tables: what they refer to is counted, and each entry is
 * compared with what the specification allows (table_walk.c reads them).
 *
 * Runs on the node's loop.
 */
#include "block/drivers/qcow2/survey.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include "block/check_report.h"
#include "block/drivers/qcow2/table_walk.h"
#include "util/error.h"

/* Bits that the specification reserves. */
#define L1_RESERVED UINT64_C(0x7f000000000001ff)
#define L2_RESERVED UINT64_C(0x3f000000000001fe)

/* ---- entries ------------------------------------------------------------- */

/* An entry says whether its cluster may be written in place, and so must be
 * right about it; *entry, in the host's byte order, is put right if wished. */
static bool co_look_at_copied(struct survey *v, const char *what,
                              uint64_t *entry, bool *changed, GError **error)
{
    uint64_t refcount, host = *entry & QCOW2_OFFSET_MASK;

    if (!v->check_copied || !v->active || !host) {
        return true;
    }
    int ret = co_qcow2_survey_refcount(v, (int64_t)(host >> v->s->cluster_bits),
                                       &refcount);
    if (ret < 0) {
        /* Comparing the refcounts has told of it. */
        return v->check || error_set_errno(error, ret,
                                           "Could not read "
                                           "refcount");
    }
    if ((refcount == 1) == !!(*entry & QCOW2_COPIED)) {
        return true;
    }
    check_report_fixable(v->check, CHECK_REPORT_ERROR, v->fix_copied,
                         "OFLAG_COPIED %s=%" PRIx64 " refcount=%" PRIu64, what,
                         *entry, refcount);
    if (v->fix_copied) {
        *entry ^= QCOW2_COPIED;
        *changed = true;
    }
    return true;
}

static void note_fragment(struct survey *v, bool compressed, int64_t host,
                          int64_t clusters)
{
    struct check_report *c = v->check;

    if (!c || !v->active || !v->count) {
        return;
    }
    c->allocated += clusters;
    c->compressed += compressed;
    c->fragmented += compressed || (v->next && host != v->next);
    v->next = compressed ? 0 : host + clusters * v->s->cluster_size;
}

static bool look_at_compressed(struct survey *v, uint64_t entry, int64_t guest,
                               uint64_t bitmap, GError **error)
{
    int64_t host, bytes;

    qcow2_compressed_extent(v->s, entry, &host, &bytes);
    if (entry & QCOW2_COPIED) {
        if (!qcow2_survey_wrong(v, error,
                                "coffset=0x%" PRIx64 ": copied flag must never "
                                "be set for compressed clusters",
                                host)) {
            return false;
        }
    }
    if (v->s->external) {
        return qcow2_survey_wrong(v, error,
                                  "compressed cluster in an image "
                                  "with an external data file");
    }
    if (bitmap) {
        return qcow2_survey_wrong(v, error,
                                  "compressed cluster %" PRId64
                                  " with non-zero subcluster "
                                  "allocation bitmap, entry=0x%" PRIx64,
                                  guest, entry);
    }
    note_fragment(v, true, host, 1);
    return qcow2_survey_refer(v, host, bytes, error);
}

/* A cluster at an impossible place. One that reads as zeroes needs none. */
static bool look_at_unaligned(struct survey *v, uint64_t *entry,
                              const struct mapping *m, bool *changed,
                              GError **error)
{
    bool zero = m->type == CLUSTER_ZERO_ALLOC;
    bool fix = zero && v->check && v->check->fix_errors;

    if (!v->check) {
        return error_set(error, "Unaligned cluster at offset %#" PRIx64,
                         m->host);
    }
    check_report_fixable(v->check, CHECK_REPORT_ERROR, fix,
                         "offset=%" PRIx64
                         ": %s cluster is not properly aligned; L2 entry "
                         "corrupted.",
                         m->host, zero ? "Preallocated" : "Data");
    if (fix) {
        *entry = QCOW2_ZERO;
        *changed = true;
    }
    return true;
}

static bool look_at_bitmap(struct survey *v, const struct mapping *m,
                           uint64_t bitmap, GError **error)
{
    if (m->placed && (bitmap >> 32 & bitmap)) {
        return qcow2_survey_wrong(v, error,
                                  "offset=%" PRIx64 ": Allocated cluster has "
                                  "corrupted subcluster allocation bitmap",
                                  m->host);
    }
    if (!m->placed && (bitmap & QCOW2_BITMAP_ALLOCATED)) {
        return qcow2_survey_wrong(v, error,
                                  "Unallocated cluster has non-zero subcluster "
                                  "allocation map");
    }
    return true;
}

/* entry: in the host's byte order. */
static bool look_at_entry(struct survey *v, uint64_t *entry, uint64_t bitmap,
                          int64_t guest, bool *changed, GError **error)
{
    struct qcow2 *s = v->s;
    struct mapping m;

    if (G_LIKELY(!*entry && !bitmap)) {
        return true;
    }
    qcow2_decode_entry(s, *entry, &m);
    if (m.type == CLUSTER_COMPRESSED) {
        return look_at_compressed(v, *entry, guest, bitmap, error);
    }
    if ((*entry & L2_RESERVED & ~(m.host & (s->cluster_size - 1))) &&
        !qcow2_survey_wrong(v, error,
                            "found l2 entry with reserved bits set: %" PRIx64,
                            *entry)) {
        return false;
    }
    if (s->extended && !look_at_bitmap(v, &m, bitmap, error)) {
        return false;
    }
    if (!m.placed) {
        return true;
    }
    if ((m.host & (s->cluster_size - 1)) &&
        !look_at_unaligned(v, entry, &m, changed, error)) {
        return false;
    }
    if (*changed && *entry == QCOW2_ZERO) {
        return true;
    }
    note_fragment(v, false, m.host, 1);
    return s->external || qcow2_survey_refer(v, m.host, s->cluster_size, error);
}

/* How many entries from *entry on, n at most, refer to clusters in a row that
 * are in the file and, by their flags, the table's own. */
static int64_t run_of_own(const struct survey *v, const uint64_t *entry,
                          int64_t n)
{
    uint64_t size = v->s->cluster_size, first = be64toh(*entry);
    uint64_t host = first & ~QCOW2_COPIED;
    int64_t cluster = host >> v->s->cluster_bits, i = 1;

    if (v->s->extended || v->s->external || !(first & QCOW2_COPIED) || !host ||
        (host & ~QCOW2_OFFSET_MASK) || (host & (size - 1)) ||
        cluster >= v->clusters) {
        return 0;
    }
    n = min_i64(n, v->clusters - cluster);
    while (i < n && be64toh(entry[i]) == first + i * size) {
        i++;
    }
    return i;
}

/* The same as looking at each entry of a run_of_own(); false: the flags have to
 * be looked at, one by one. */
static bool co_look_at_run(struct survey *v, uint64_t host, int64_t n)
{
    if (v->count) {
        note_fragment(v, false, host, n);
        (void)qcow2_survey_refer(v, host, n << v->s->cluster_bits, NULL);
    }
    return !v->check_copied || !v->active ||
           co_qcow2_survey_all_once(v, host >> v->s->cluster_bits, n);
}

/* One L2 table, as it is in the file at offset. */
static bool co_look_at_table(struct survey *v, uint64_t *table, int64_t guest,
                             uint64_t offset, GError **error)
{
    struct qcow2 *s = v->s;
    bool changed = false;

    int64_t n = s->cluster_size / 8, seen = 0; /* by co_look_at_run() */

    v->next = 0; /* where tables lie is no matter of fragments */
    for (int64_t i = 0; i < n; i += 1 << s->extended) {
        int64_t run = i >= seen ? run_of_own(v, table + i, n - i) : 0;
        if (run > 1) {
            seen = i + run;
            if (co_look_at_run(v, be64toh(table[i]) & QCOW2_OFFSET_MASK, run)) {
                i = seen - 1;
                continue;
            }
        }
        uint64_t entry = be64toh(table[i]);
        uint64_t bitmap = s->extended ? be64toh(table[i + 1]) : 0;
        bool this = false;
        if (v->count && i >= seen &&
            !look_at_entry(v, &entry, bitmap, guest + (i >> s->extended), &this,
                           error)) {
            return false;
        }
        if (!(entry & QCOW2_COMPRESSED) && !s->external &&
            !co_look_at_copied(v, "data cluster: l2_entry", &entry, &this,
                               error)) {
            return false;
        }
        if (this) {
            table[i] = htobe64(entry);
            changed = true;
        }
    }
    int ret = changed ? co_node_pwrite(qcow2_file(s), offset, table,
                                       s->cluster_size, 0)
                      : 0;
    return ret == 0 || error_set_errno(error, ret, "Could not write L2 table");
}

/* ---- tables -------------------------------------------------------------- */

static bool co_look_at_l1_entry(struct survey *v, uint64_t *l1, uint32_t i,
                                GError **error)
{
    struct qcow2 *s = v->s;
    uint64_t offset = l1[i] & QCOW2_OFFSET_MASK;
    g_autofree char *what =
        g_strdup_printf("L2 cluster: l1_index=%" PRIu32 " l1_entry", i);
    bool changed = false;

    if (v->count) {
        if ((l1[i] & L1_RESERVED & ~(offset & (s->cluster_size - 1))) &&
            !qcow2_survey_wrong(
                v, error, "found L1 entry with reserved bits set: %" PRIx64,
                l1[i])) {
            return false;
        }
        if (!qcow2_survey_refer(v, offset, s->cluster_size, error)) {
            return false;
        }
        if ((offset & (s->cluster_size - 1)) &&
            !qcow2_survey_wrong(v, error,
                                "l2_offset=%" PRIx64 ": Table is not cluster "
                                "aligned; L1 entry corrupted",
                                offset)) {
            return false;
        }
    }
    if (!co_look_at_copied(v, what, &l1[i], &changed, error)) {
        return false;
    }
    if (changed) {
        table_dirt_add(&s->l1_dirt, i);
    }
    return true;
}

/* What a walk over the tables needs. */
struct look {
    struct survey *v;
    uint64_t *l1;
    GError **error;
};

static int co_look(void *opaque, const struct table_seen *seen)
{
    struct look *k = opaque;
    struct survey *v = k->v;
    bool ok = co_look_at_l1_entry(v, k->l1, seen->index, k->error);

    if (ok && seen->ret < 0) {
        ok = error_set_errno(k->error, seen->ret, "Could not read L2 table");
    }
    ok = ok &&
         co_look_at_table(v, seen->table, (int64_t)seen->index << v->s->l2_bits,
                          seen->offset, k->error);
    return ok ? 0 : 1;
}

bool co_qcow2_survey_l1(struct survey *v, uint64_t *l1, uint32_t n,
                        uint64_t offset, GError **error)
{
    struct look k = {v, l1, error};

    if (v->count && !qcow2_survey_refer(v, offset, (uint64_t)n * 8, error)) {
        return false;
    }
    int ret = co_qcow2_walk_tables(v->s, l1, n, co_look, &k);
    return ret < 0 ? error_set_errno(error, ret, "Could not read L2 tables")
                   : ret == 0;
}
