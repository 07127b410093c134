/*
 * Reading L1 and L2 tables, to count what they refer to and to look at each
 * entry. Tables are read a few at a time, and neighbours in the file at once,
 * so that the disk and not the number of tables sets the speed; they are looked
 * at in the order of the guest's clusters.
 *
 * Runs on the node's loop.
 */
#include "block/drivers/qcow2/survey.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include "block/check_report.h"
#include "util/error.h"

enum { READS = 8, READ_BYTES = 1 << 20 };

/* Bits that the specification reserves. */
#define L1_RESERVED UINT64_C(0x7f000000000001ff)
#define L2_RESERVED UINT64_C(0x3f000000000001fe)

/* Some L2 tables that follow each other, in L1 and in the file. */
struct table_read {
    struct survey *v;
    uint32_t first, n; /* L1 entries */
    uint64_t offset;
    uint64_t *tables;
    int ret;
};

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

static void note_fragment(struct survey *v, bool compressed, int64_t host)
{
    struct check_report *c = v->check;

    if (!c || !v->active || !v->count) {
        return;
    }
    c->allocated++;
    c->compressed += compressed;
    c->fragmented += compressed || (v->next && host != v->next);
    v->next = compressed ? 0 : host + v->s->cluster_size;
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
    note_fragment(v, true, host);
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
    note_fragment(v, false, m.host);
    return s->external || qcow2_survey_refer(v, m.host, s->cluster_size, error);
}

/* One L2 table, as it is in the file at offset. */
static bool co_look_at_table(struct survey *v, uint64_t *table, int64_t guest,
                             uint64_t offset, GError **error)
{
    struct qcow2 *s = v->s;
    bool changed = false;

    v->next = 0; /* where tables lie is no matter of fragments */
    for (int64_t i = 0; i < s->cluster_size / 8; i += 1 << s->extended) {
        uint64_t entry = be64toh(table[i]);
        uint64_t bitmap = s->extended ? be64toh(table[i + 1]) : 0;
        bool this = false;
        if (v->count &&
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

static int co_read_tables(void *opaque)
{
    struct table_read *r = opaque;
    int64_t bytes = (int64_t)r->n << r->v->s->cluster_bits;

    r->ret = co_node_pread(qcow2_file(r->v->s), r->offset, r->tables, bytes, 0);
    return 0;
}

/* The next tables from L1 entry i on that one read gets; false: there is none.
 */
static bool next_read(struct survey *v, const uint64_t *l1, uint32_t n,
                      uint32_t *i, struct table_read *r)
{
    struct qcow2 *s = v->s;
    uint32_t max = MAX(READ_BYTES >> s->cluster_bits, 1);

    while (*i < n && !(l1[*i] & QCOW2_OFFSET_MASK)) {
        ++*i;
    }
    if (*i == n) {
        return false;
    }
    *r = (struct table_read){
        .v = v, .first = *i, .offset = l1[*i] & QCOW2_OFFSET_MASK};
    do {
        r->n++;
        ++*i;
    } while (*i < n && r->n < max &&
             (l1[*i] & QCOW2_OFFSET_MASK) ==
                 r->offset + ((uint64_t)r->n << s->cluster_bits));
    return true;
}

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

static bool co_look_at_read(struct table_read *r, uint64_t *l1, GError **error)
{
    struct survey *v = r->v;
    struct qcow2 *s = v->s;

    for (uint32_t k = 0; k < r->n; k++) {
        if (!co_look_at_l1_entry(v, l1, r->first + k, error)) {
            return false;
        }
        if (r->ret < 0) {
            return error_set_errno(error, r->ret, "Could not read L2 table");
        }
        if (!co_look_at_table(
                v, r->tables + ((size_t)k << (s->cluster_bits - 3)),
                (int64_t)(r->first + k) << s->l2_bits,
                r->offset + ((uint64_t)k << s->cluster_bits), error)) {
            return false;
        }
    }
    return true;
}

bool co_qcow2_survey_l1(struct survey *v, uint64_t *l1, uint32_t n,
                        uint64_t offset, GError **error)
{
    struct qcow2 *s = v->s;
    size_t room = MAX((size_t)READ_BYTES, (size_t)s->cluster_size);
    uint8_t *buf = NULL;
    uint32_t i = 0;
    unsigned reads;
    bool ok =
        !v->count || qcow2_survey_refer(v, offset, (uint64_t)n * 8, error);

    do {
        struct table_read r[READS];
        struct co_pool pool = {.limit = READS};
        for (reads = 0; ok && reads < READS; reads++) {
            if (!next_read(v, l1, n, &i, &r[reads])) {
                break;
            }
            if (!buf) {
                buf = io_buffer_try_alloc(qcow2_file(s), room * READS);
                ok = buf || error_set_errno(error, ENOMEM,
                                            "Could not read L2 "
                                            "tables");
            }
            r[reads].tables = (uint64_t *)(buf + room * reads);
            if (ok) {
                co_pool_start(&pool, co_read_tables, &r[reads]);
            }
        }
        co_pool_wait(&pool);
        for (unsigned k = 0; ok && k < reads; k++) {
            ok = co_look_at_read(&r[k], l1, error);
        }
    } while (ok && reads);
    io_buffer_free(buf);
    return ok;
}
