/*
 * Reading all that refers to clusters, to count it.
 */
#include "block/drivers/qcow2/survey.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include "block/check_report.h"
#include "util/error.h"

bool qcow2_survey_init(struct survey *v, struct qcow2 *s)
{
    *v = (struct survey){
        .s = s,
        .counts = g_hash_table_new_full(NULL, NULL, NULL, g_free),
        .clusters = div_round_up(qcow2_file(s)->length, s->cluster_size),
        .table = io_buffer_try_alloc(qcow2_file(s), s->cluster_size),
    };
    return v->table;
}

void qcow2_survey_clear(struct survey *v)
{
    io_buffer_free(v->table);
    g_hash_table_destroy(v->counts);
}

uint32_t *qcow2_survey_count(const struct survey *v, int64_t cluster, bool make)
{
    gpointer key = GSIZE_TO_POINTER((gsize)(cluster >> SURVEY_COUNTS_BITS));
    struct survey_counts *c = g_hash_table_lookup(v->counts, key);

    if (!c && make) {
        c = g_new0(struct survey_counts, 1);
        g_hash_table_insert(v->counts, key, c);
    }
    return c ? &c->n[cluster & ((1 << SURVEY_COUNTS_BITS) - 1)] : NULL;
}

uint32_t qcow2_survey_count_at(const struct survey *v, int64_t cluster)
{
    const uint32_t *n = qcow2_survey_count(v, cluster, false);
    return n ? *n : 0;
}

/* The survey goes on if what is wrong is only told. */
static bool G_GNUC_PRINTF(3, 4)
    qcow2_survey_wrong(struct survey *v, GError **error, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    g_autofree char *message = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    if (!v->check) {
        return error_set(error, "%s", message);
    }
    check_report_add(v->check, CHECK_REPORT_ERROR, "%s", message);
    return true;
}

/* One more reference to each cluster of the range; it must be in the file. */
static bool refer(struct survey *v, const char *what, uint64_t offset,
                  uint64_t bytes, GError **error)
{
    unsigned bits = v->s->cluster_bits;

    if (!bytes) {
        return true;
    }
    if (offset > (uint64_t)QCOW2_MAX_HOST_OFFSET ||
        (int64_t)((offset + bytes - 1) >> bits) >= v->clusters) {
        return qcow2_survey_wrong(v, error,
                                  "%s at offset %#" PRIx64
                                  " lies beyond the end of the file",
                                  what, offset);
    }
    for (uint64_t c = offset >> bits; c <= (offset + bytes - 1) >> bits; c++) {
        (*qcow2_survey_count(v, c, true))++;
    }
    return true;
}

/* What only a check looks at: an entry says whether its cluster may be written
 * in place, and so must be right about it. */
static bool co_check_copied(struct survey *v, const char *what, uint64_t entry,
                            GError **error)
{
    uint64_t refcount, host = entry & QCOW2_OFFSET_MASK;

    if (!v->check || !v->active || !host) {
        return true;
    }
    int ret = co_qcow2_refcount(v->s, (int64_t)(host >> v->s->cluster_bits),
                                &refcount);
    if (ret < 0) {
        return error_set_errno(error, ret, "Could not read refcount");
    }
    if ((refcount == 1) != !!(entry & QCOW2_COPIED)) {
        check_report_add(v->check, CHECK_REPORT_ERROR,
                         "OFLAG_COPIED %s=%" PRIx64 " refcount=%" PRIu64, what,
                         entry, refcount);
    }
    return true;
}

static bool co_check_cluster(struct survey *v, const struct mapping *m,
                             int64_t host, GError **error)
{
    struct check_report *c = v->check;
    bool compressed = m->type == CLUSTER_COMPRESSED;

    if (!c || !host) {
        return true;
    }
    if (v->active) {
        c->allocated++;
        c->compressed += compressed;
        c->fragmented += compressed || (v->next && host != v->next);
        v->next = compressed ? 0 : host + v->s->cluster_size;
    }
    if (compressed) {
        return true;
    }
    if (host & (v->s->cluster_size - 1)) {
        check_report_add(c, CHECK_REPORT_ERROR,
                         "offset=%" PRIx64
                         ": Cluster is not properly aligned; L2 entry "
                         "corrupted.",
                         host);
    }
    return co_check_copied(v, "data cluster: l2_entry", m->entry, error);
}

static bool co_survey_l2(struct survey *v, uint64_t offset, GError **error)
{
    struct qcow2 *s = v->s;

    if (!refer(v, "L2 table", offset, s->cluster_size, error)) {
        return false;
    }
    int ret =
        co_node_pread(qcow2_file(s), offset, v->table, s->cluster_size, 0);
    if (ret < 0) {
        return error_set_errno(error, ret, "Could not read L2 table");
    }
    v->next = 0; /* where tables lie is no matter of fragments */
    for (int64_t i = 0; i < s->cluster_size / 8; i += 1 << s->extended) {
        struct mapping m;
        int64_t host, bytes;
        qcow2_decode_entry(s, be64toh(v->table[i]), &m);
        if (m.type == CLUSTER_COMPRESSED) {
            qcow2_compressed_extent(s, m.entry, &host, &bytes);
        } else {
            host = m.host;
            bytes = m.host && !s->external ? s->cluster_size : 0;
        }
        if (!refer(v, "Data cluster", host, bytes, error) ||
            !co_check_cluster(v, &m, host, error)) {
            return false;
        }
    }
    return true;
}

static bool co_survey_l1(struct survey *v, const uint64_t *l1, uint32_t n,
                         uint64_t offset, GError **error)
{
    if (!refer(v, "L1 table", offset, (uint64_t)n * 8, error)) {
        return false;
    }
    for (uint32_t i = 0; i < n; i++) {
        uint64_t l2 = l1[i] & QCOW2_OFFSET_MASK;
        if (l2 && !(co_check_copied(v, "L2 cluster: l1_entry", l1[i], error) &&
                    co_survey_l2(v, l2, error))) {
            return false;
        }
    }
    return true;
}

/* ---- snapshots ----------------------------------------------------------- */

/* qcow2 specification, "Snapshots": the fixed part of an entry. */
struct disk_snapshot {
    uint64_t l1_offset;
    uint32_t l1_size;
    uint16_t id_size, name_size;
    uint32_t seconds, nanoseconds;
    uint64_t vm_clock;
    uint32_t vm_state_size;
    uint32_t extra_size;
} __attribute__((packed));

static bool co_survey_snapshot(struct survey *v, const struct disk_snapshot *d,
                               GError **error)
{
    uint32_t n = be32toh(d->l1_size);
    uint64_t offset = be64toh(d->l1_offset);

    if (n > QCOW2_MAX_L1_BYTES / 8) {
        return error_set(error, "Snapshot L1 table too large");
    }
    uint64_t *l1 = io_buffer_try_alloc(qcow2_file(v->s), (size_t)n * 8 + 8);
    int ret = l1 ? 0 : -ENOMEM;
    if (ret == 0 && n) {
        ret = co_node_pread(qcow2_file(v->s), offset, l1, (int64_t)n * 8, 0);
    }
    bool ok;
    if (ret < 0) {
        ok = error_set_errno(error, ret, "Could not read snapshot L1 table");
    } else {
        for (uint32_t i = 0; i < n; i++) {
            l1[i] = be64toh(l1[i]);
        }
        ok = co_survey_l1(v, l1, n, offset, error);
    }
    io_buffer_free(l1);
    return ok;
}

static bool co_survey_snapshots(struct survey *v, GError **error)
{
    const struct qcow2_disk_header *h = &v->s->header;
    uint64_t at = h->snapshots_offset;

    for (uint32_t i = 0; i < h->nb_snapshots; i++) {
        struct disk_snapshot d;
        int ret = co_node_pread(qcow2_file(v->s), at, &d, sizeof(d), 0);
        if (ret < 0) {
            return error_set_errno(error, ret, "Could not read snapshot table");
        }
        if (!co_survey_snapshot(v, &d, error)) {
            return false;
        }
        at += align_up((int64_t)sizeof(d) + be32toh(d.extra_size) +
                           be16toh(d.id_size) + be16toh(d.name_size),
                       8);
        if (at > h->snapshots_offset + ((uint64_t)QCOW2_MAX_SNAPSHOTS << 10)) {
            return error_set(error, "Snapshot table too large");
        }
    }
    return refer(v, "Snapshot table", h->snapshots_offset,
                 at - h->snapshots_offset, error);
}

static bool refer_bitmap(void *opaque, const char *what, uint64_t offset,
                         uint64_t bytes, GError **error)
{
    return refer(opaque, what, offset, bytes, error);
}

/* ---- everything ---------------------------------------------------------- */

bool co_qcow2_survey(struct survey *v, GError **error)
{
    struct qcow2 *s = v->s;

    if (!refer(v, "Header", 0, s->cluster_size, error) ||
        !refer(v, "Refcount table", s->header.refcount_table_offset,
               (uint64_t)s->rt_size * 8, error)) {
        return false;
    }
    for (uint32_t i = 0; i < s->rt_size; i++) {
        uint64_t block = s->rt[i] & QCOW2_REFTABLE_MASK;
        if (block &&
            !refer(v, "Refcount block", block, s->cluster_size, error)) {
            return false;
        }
    }
    v->active = true;
    bool ok =
        co_survey_l1(v, s->l1, s->l1_size, s->header.l1_table_offset, error);
    v->active = false;
    if (ok && v->check) {
        qcow2_bitmaps_report(s, v->check);
    }
    return ok && qcow2_bitmaps_walk(s, refer_bitmap, v, error) &&
           co_survey_snapshots(v, error);
}
