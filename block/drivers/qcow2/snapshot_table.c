/*
 * The snapshot table: read as a whole at open, and written anew as a whole when
 * something in it changes.
 *
 * A table that is nowhere or too long is refused, by a check when it begins.
 * Entries are taken as they are, so that an image with a damaged one can still
 * be opened; what an entry refers to is checked when it is used. Where
 * the file ends, zeroes follow.
 *
 * Runs on the node's loop.
 */
#include "block/drivers/qcow2/snapshots.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include "block/check_report.h"
#include "block/drivers/qcow2/header.h"
#include "block/drivers/qcow2/qcow2.h"
#include "util/error.h"

/* No entry that is taken is longer. */
#define ENTRY_MAX \
    (sizeof(struct qcow2_disk_snapshot) + QCOW2_MAX_SNAPSHOT_EXTRA + 0x20000)
#define WINDOW (256 * 1024)
G_STATIC_ASSERT(WINDOW > ENTRY_MAX);

void qcow2_snapshots_init(struct qcow2_snapshots *t)
{
    t->list = qcow2_snapshot_list();
}

void qcow2_snapshots_clear(struct qcow2_snapshots *t)
{
    g_ptr_array_unref(t->list);
    g_clear_error(&t->damage);
}

/* ---- reading ------------------------------------------------------------- */

/* A piece of the table that is being read. */
struct window {
    struct qcow2 *s;
    struct check_report *check; /* not NULL: what is too much is left out */
    uint8_t *data;
    int64_t offset; /* in the file */
    size_t bytes;
};

/* The bytes at offset, of which there will be at least `need`. */
static int co_look(struct window *w, int64_t offset, size_t need,
                   const uint8_t **at)
{
    struct node *file = qcow2_file(w->s);

    if (offset < w->offset || offset + need > w->offset + w->bytes) {
        int64_t n = min_i64(WINDOW, max_i64(file->length - offset, 0));
        int ret = n ? co_node_pread(file, offset, w->data, n, 0) : 0;
        if (ret < 0) {
            return ret;
        }
        memset(w->data + n, 0, WINDOW - n);
        w->offset = offset;
        w->bytes = WINDOW;
    }
    *at = w->data + (offset - w->offset);
    return 0;
}

/* The same for entry i, whose extra data are too many, at `at`. */
static struct qcow2_snapshot *co_read_long_entry(struct window *w, uint32_t i,
                                                 int64_t *offset,
                                                 const uint8_t *at,
                                                 GError **error)
{
    enum { FIXED = sizeof(struct qcow2_disk_snapshot) };
    g_autofree uint8_t *entry = g_malloc0(ENTRY_MAX);
    uint32_t extra = qcow2_snapshot_extra_bytes(at);
    int64_t whole = qcow2_snapshot_entry_bytes(at);
    int64_t texts = whole - FIXED - extra;

    check_report_fixable(w->check, CHECK_REPORT_ERROR, true,
                         "too much extra metadata in snapshot table entry "
                         "%" PRIu32 " (%" PRIu32 " > %d)",
                         i, extra, QCOW2_MAX_SNAPSHOT_EXTRA);
    int ret = co_look(w, *offset, FIXED + QCOW2_MAX_SNAPSHOT_EXTRA, &at);
    if (ret == 0) {
        memcpy(entry, at, FIXED + QCOW2_MAX_SNAPSHOT_EXTRA);
        qcow2_snapshot_cut_extra(entry);
        ret = co_look(w, *offset + FIXED + extra, texts, &at);
    }
    if (ret < 0) {
        error_set_errno(error, ret, "Could not read the snapshot table");
        return NULL;
    }
    memcpy(entry + FIXED + QCOW2_MAX_SNAPSHOT_EXTRA, at, texts);
    *offset += align_up(whole, 8);
    return qcow2_snapshot_parse(entry, QCOW2_MAX_SNAPSHOT_EXTRA);
}

/* Entry i, at *offset, which becomes that of the next; NULL and *error. */
static struct qcow2_snapshot *co_read_entry(struct window *w, uint32_t i,
                                            int64_t *offset, GError **error)
{
    const uint8_t *at;

    int ret = co_look(w, *offset, sizeof(struct qcow2_disk_snapshot), &at);
    bool much =
        ret == 0 && qcow2_snapshot_extra_bytes(at) > QCOW2_MAX_SNAPSHOT_EXTRA;
    if (much && w->check) {
        return co_read_long_entry(w, i, offset, at, error);
    }
    if (much) {
        error_set(error,
                  "Too much extra metadata in snapshot table entry %" PRIu32,
                  i);
        error_add_hint(error, "You can force-remove this extra metadata with "
                              "varve-img check -r all");
        return NULL;
    }
    if (ret == 0) {
        ret = co_look(w, *offset, qcow2_snapshot_entry_bytes(at), &at);
    }
    if (ret < 0) {
        error_set_errno(error, ret, "Could not read the snapshot table");
        return NULL;
    }
    *offset += align_up(qcow2_snapshot_entry_bytes(at), 8);
    return qcow2_snapshot_parse(at, QCOW2_MAX_SNAPSHOT_EXTRA);
}

/* The last n entries are too many, which is told where that is repaired; else
 * false and *error. */
static bool leave_out(struct window *w, uint32_t n, GError **error)
{
    if (!w->check) {
        error_set(error, "Snapshot table too large");
        error_add_hint(error,
                       "You can force-remove all %" PRIu32 " overhanging "
                       "snapshots with varve-img check -r all",
                       n);
        return false;
    }
    /* Each of them counts. */
    w->check->errors_fixed += n - 1;
    check_report_fixable(w->check, CHECK_REPORT_ERROR, true,
                         "%" PRIu32 " overhanging snapshots: "
                         "snapshot table too large",
                         n);
    return true;
}

static bool co_read_entries(struct window *w, GPtrArray *list, GError **error)
{
    struct qcow2 *s = w->s;
    int64_t start = s->header.snapshots_offset, at = start, kept = 0;
    uint32_t n = MIN(s->header.nb_snapshots, QCOW2_MAX_SNAPSHOTS);

    if (n < s->header.nb_snapshots &&
        !leave_out(w, s->header.nb_snapshots - n, error)) {
        return false;
    }
    for (uint32_t i = 0; i < n; i++) {
        int64_t from = at;
        struct qcow2_snapshot *sn = co_read_entry(w, i, &at, error);
        if (!sn) {
            return false;
        }
        /* Extra data that are left out do not count. */
        kept += w->check ? qcow2_snapshot_built_bytes(sn) : at - from;
        if (kept > QCOW2_MAX_SNAPSHOT_TABLE) {
            qcow2_snapshot_free(sn);
            at = from;
            if (!leave_out(w, n - i, error)) {
                return false;
            }
            break;
        }
        g_ptr_array_add(list, sn);
    }
    /* Zeroes behind the end of the file are not there. */
    s->snapshots.table_bytes =
        min_i64(at - start, max_i64(qcow2_file(s)->length - start, 0));
    return true;
}

static bool co_read_table(struct qcow2 *s, struct check_report *check,
                          GError **error)
{
    g_autofree uint8_t *buf = g_malloc(WINDOW);
    struct window w = {.s = s, .check = check, .data = buf};
    GPtrArray *list = qcow2_snapshot_list();

    if (!co_read_entries(&w, list, error)) {
        g_ptr_array_unref(list);
        return false;
    }
    g_ptr_array_unref(s->snapshots.list);
    s->snapshots.list = list;
    qcow2_guard_snapshots(s);
    return true;
}

bool co_qcow2_snapshots_read(struct qcow2 *s, GError **error)
{
    bool none = !s->header.nb_snapshots;

    if (!s->node->for_check) {
        return none || co_read_table(s, NULL, error);
    }
    (void)(qcow2_header_check_snapshots(&s->header, &s->snapshots.damage) &&
           (none || co_read_table(s, NULL, &s->snapshots.damage)));
    return true;
}

bool co_qcow2_snapshots_salvage(struct qcow2 *s, struct check_report *check,
                                GError **error)
{
    g_clear_error(&s->snapshots.damage);
    return qcow2_header_check_snapshots(&s->header, error) &&
           co_read_table(s, check, error);
}

/* ---- writing ------------------------------------------------------------- */

int64_t qcow2_snapshots_bytes(const GPtrArray *list)
{
    int64_t bytes = 0;

    for (unsigned i = 0; i < list->len; i++) {
        bytes += qcow2_snapshot_built_bytes(g_ptr_array_index(list, i));
    }
    return bytes;
}

int co_qcow2_snapshots_write(struct qcow2 *s, const GPtrArray *list,
                             int64_t offset)
{
    int64_t bytes = qcow2_snapshots_bytes(list);
    uint8_t *table = io_buffer_try_alloc(qcow2_file(s), bytes), *at = table;

    if (!table) {
        return -ENOMEM;
    }
    for (unsigned i = 0; i < list->len; i++) {
        const struct qcow2_snapshot *sn = g_ptr_array_index(list, i);
        qcow2_snapshot_build(sn, s->header.size, at);
        at += qcow2_snapshot_built_bytes(sn);
    }
    int ret = co_node_pwrite(qcow2_file(s), offset, table, bytes, 0);
    io_buffer_free(table);
    return ret;
}

/* ---- what an entry refers to --------------------------------------------- */

uint64_t *co_qcow2_snapshot_l1(struct qcow2 *s, const struct qcow2_snapshot *sn,
                               uint32_t room, GError **error)
{
    int64_t bytes = (int64_t)sn->l1_size * 8;

    if (sn->l1_size > QCOW2_MAX_L1_BYTES / 8) {
        error_set(error, "Snapshot L1 table too large");
        return NULL;
    }
    if ((sn->l1_offset & (uint64_t)(s->cluster_size - 1)) ||
        sn->l1_offset > (uint64_t)(BLOCK_MAX_LENGTH - bytes) ||
        (bytes && (!sn->l1_offset ||
                   (int64_t)sn->l1_offset + bytes > qcow2_file(s)->length))) {
        error_set(error, "Snapshot L1 table offset invalid");
        return NULL;
    }
    room = MAX(room, MAX(sn->l1_size, 1));
    uint64_t *l1 = io_buffer_try_alloc(qcow2_file(s), (size_t)room * 8);
    int ret = l1 ? 0 : -ENOMEM;
    if (ret == 0 && bytes) {
        ret = co_node_pread(qcow2_file(s), sn->l1_offset, l1, bytes, 0);
    }
    if (ret < 0) {
        io_buffer_free(l1);
        error_set_errno(error, ret,
                        "Could not read the L1 table of a snapshot");
        return NULL;
    }
    for (uint32_t i = 0; i < sn->l1_size; i++) {
        l1[i] = be64toh(l1[i]);
    }
    memset(l1 + sn->l1_size, 0, (size_t)(room - sn->l1_size) * 8);
    return l1;
}
