/*
 * What users ask of snapshots: listing, taking, going back, deleting, showing.
 *
 * Each change is an edit (snapshot_edit.h). Runs on the node's loop, in a
 * drained section.
 */
#include "block/drivers/qcow2/snapshots.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include "block/drivers/qcow2/qcow2.h"
#include "block/drivers/qcow2/snapshot_edit.h"
#include "block/drivers/qcow2/snapshot_refs.h"
#include "block/snapshot.h"
#include "util/error.h"

/* ---- lists --------------------------------------------------------------- */

static struct snapshot_info *info_of(const struct qcow2_snapshot *sn)
{
    struct snapshot_info *info = g_new0(struct snapshot_info, 1);

    info->id = g_strndup(sn->id, SNAPSHOT_NAME_MAX);
    info->name = g_strndup(sn->name, SNAPSHOT_NAME_MAX);
    info->vm_state_size = sn->vm_state_size;
    info->date_sec = sn->date_sec;
    info->date_nsec = sn->date_nsec;
    info->vm_clock_sec = sn->vm_clock_nsec / G_GINT64_CONSTANT(1000000000);
    info->vm_clock_nsec = sn->vm_clock_nsec % G_GINT64_CONSTANT(1000000000);
    info->has_icount = sn->icount != UINT64_MAX;
    info->icount = info->has_icount ? sn->icount : 0;
    return info;
}

static struct snapshot_info_list *list_snapshots(struct node *node)
{
    const struct qcow2 *s = node->state;
    const GPtrArray *all = s->snapshots.list;

    if (s->external) {
        return NULL;
    }
    struct snapshot_info_list *list = g_new0(struct snapshot_info_list, 1);
    list->n = all->len;
    list->items = g_new0(struct snapshot_info *, all->len);
    for (unsigned i = 0; i < all->len; i++) {
        list->items[i] = info_of(g_ptr_array_index(all, i));
    }
    return list;
}

/* ---- taking one ---------------------------------------------------------- */

/* One more than the largest number in use. */
static char *new_id(const struct qcow2 *s)
{
    uint64_t max = 0;

    for (unsigned i = 0; i < s->snapshots.list->len; i++) {
        const struct qcow2_snapshot *sn =
            g_ptr_array_index(s->snapshots.list, i);
        max = MAX(max, g_ascii_strtoull(sn->id, NULL, 10));
    }
    return g_strdup_printf("%" PRIu64, max + 1);
}

static struct qcow2_snapshot *entry_for(const struct qcow2 *s,
                                        const struct snapshot_info *info)
{
    struct qcow2_snapshot *sn = qcow2_snapshot_new();

    sn->id = new_id(s);
    sn->name = g_strdup(info->name);
    sn->id_bytes = strlen(sn->id);
    sn->name_bytes = strlen(sn->name);
    sn->date_sec = info->date_sec;
    sn->date_nsec = info->date_nsec;
    sn->vm_clock_nsec = (uint64_t)info->vm_clock_sec * 1000000000 +
                        (uint64_t)info->vm_clock_nsec;
    sn->vm_state_size = info->vm_state_size;
    sn->icount = info->has_icount ? (uint64_t)info->icount : UINT64_MAX;
    sn->extra_bytes = QCOW2_KNOWN_SNAPSHOT_EXTRA;
    sn->disk_size = s->header.size;
    sn->l1_size = s->l1_size;
    return sn;
}

/* Both L1 tables, and the entry. */
static int co_put_together(struct snapshot_edit *e,
                           const struct snapshot_info *info)
{
    struct qcow2 *s = e->s;
    struct l1_change c = {
        .l1 = e->l1,
        .n = s->l1_size,
        .count = 1,
        .flags = FLAGS_CLEAR,
        .owners = 2,
        .gone = e->shadow.gone,
    };

    int ret = co_qcow2_change_l1(s, &c);
    if (ret < 0) {
        return ret;
    }
    struct qcow2_snapshot *sn = entry_for(s, info);
    e->list = snapshot_list_without(s, UINT_MAX);
    g_ptr_array_add(e->list, sn);
    return co_snapshot_write_l1(s, e->l1, s->l1_size, &sn->l1_offset);
}

static int co_snapshot_create(struct node *node,
                              const struct snapshot_info *info)
{
    struct qcow2 *s = node->state;
    struct snapshot_edit e;

    if (s->external) {
        return -ENOTSUP;
    }
    if (s->snapshots.list->len >= QCOW2_MAX_SNAPSHOTS) {
        return -EFBIG;
    }
    int ret = co_snapshot_edit_begin(s, &e, 2 * (int64_t)s->l1_size,
                                     snapshot_used_entries(s->l1, s->l1_size));
    if (ret < 0) {
        return ret;
    }
    e.l1 = snapshot_copy_l1(s);
    ret = e.l1 ? co_put_together(&e, info) : -ENOMEM;
    if (ret < 0) {
        co_snapshot_edit_abort(&e);
        return ret;
    }
    return co_snapshot_edit_finish(&e);
}

/* ---- going back ---------------------------------------------------------- */

/* The size of the snapshot's disk; false and *error if it cannot be. */
static bool disk_of(const struct qcow2 *s, const struct qcow2_snapshot *sn,
                    uint64_t *size, GError **error)
{
    *size = qcow2_snapshot_has_size(sn) ? sn->disk_size : s->header.size;
    uint64_t need = div_round_up(min_i64(*size, BLOCK_MAX_LENGTH),
                                 INT64_C(1) << (s->cluster_bits + s->l2_bits));
    if (*size > BLOCK_MAX_LENGTH || *size % BLOCK_SECTOR_SIZE) {
        return error_set(error, "Snapshot disk size %" PRIu64 " is invalid",
                         *size);
    }
    if (need > sn->l1_size) {
        return error_set(error, "Snapshot L1 table too small");
    }
    return true;
}

/* The snapshot's tables get a user, and those of the disk lose one. */
static int co_exchange(struct snapshot_edit *e, uint32_t entries)
{
    struct qcow2 *s = e->s;
    struct l1_change gain = {.l1 = e->l1,
                             .n = entries,
                             .count = 1,
                             .flags = FLAGS_CLEAR,
                             .owners = 1,
                             .gone = e->shadow.gone};
    struct l1_change loss = {
        .l1 = s->l1, .n = s->l1_size, .count = -1, .gone = e->shadow.gone};

    int ret = co_qcow2_change_l1(s, &gain);
    return ret < 0 ? ret : co_qcow2_change_l1(s, &loss);
}

static bool co_snapshot_apply(struct node *node, size_t index, int64_t *size,
                              GError **error)
{
    struct qcow2 *s = node->state;
    const struct qcow2_snapshot *sn =
        g_ptr_array_index(s->snapshots.list, index);
    uint64_t bytes;
    struct snapshot_edit e;

    if (!disk_of(s, sn, &bytes, error)) {
        return false;
    }
    uint32_t room = MAX(s->l1_size, sn->l1_size);
    uint64_t *l1 = co_qcow2_snapshot_l1(s, sn, room, error);
    if (!l1) {
        return false;
    }
    int ret = co_snapshot_edit_begin(s, &e, room,
                                     snapshot_used_entries(l1, sn->l1_size));
    if (ret < 0) {
        io_buffer_free(l1);
        return error_set_errno(error, ret, "Could not prepare the refcounts");
    }
    e.l1 = l1;
    e.to.l1_size = room;
    e.to.size = bytes;
    ret = co_exchange(&e, sn->l1_size);
    if (ret < 0) {
        co_snapshot_edit_abort(&e);
    } else {
        ret = co_snapshot_edit_finish(&e);
    }
    *size = bytes;
    return ret == 0 ||
           error_set_errno(error, ret, "Could not switch to the L1 table");
}

/* ---- deleting ------------------------------------------------------------ */

static int co_drop(struct snapshot_edit *e, uint64_t *l1, size_t index)
{
    struct qcow2 *s = e->s;
    const struct qcow2_snapshot *sn =
        g_ptr_array_index(s->snapshots.list, index);
    struct l1_change loss = {
        .l1 = l1, .n = sn->l1_size, .count = -1, .gone = e->shadow.gone};
    struct l1_change active = {.l1 = e->l1,
                               .n = s->l1_size,
                               .flags = FLAGS_BY_COUNT,
                               .owners = 1,
                               .gone = e->shadow.gone};

    int ret = co_qcow2_change_l1(s, &loss);
    if (ret == 0) {
        ret =
            co_snapshot_edit_let_go(e, sn->l1_offset, (int64_t)sn->l1_size * 8);
    }
    if (ret == 0) {
        ret = co_qcow2_change_l1(s, &active);
    }
    if (ret == 0 && !active.changed) {
        io_buffer_free(g_steal_pointer(&e->l1));
    }
    e->list = snapshot_list_without(s, index);
    return ret;
}

static bool co_snapshot_delete(struct node *node, size_t index, GError **error)
{
    struct qcow2 *s = node->state;
    const struct qcow2_snapshot *sn =
        g_ptr_array_index(s->snapshots.list, index);
    struct snapshot_edit e;

    uint64_t *l1 = co_qcow2_snapshot_l1(s, sn, 0, error);
    if (!l1) {
        return false;
    }
    int ret = co_snapshot_edit_begin(s, &e, s->l1_size,
                                     snapshot_used_entries(s->l1, s->l1_size));
    if (ret == 0) {
        e.l1 = snapshot_copy_l1(s);
        ret = e.l1 ? co_drop(&e, l1, index) : -ENOMEM;
        if (ret < 0) {
            co_snapshot_edit_abort(&e);
        } else {
            ret = co_snapshot_edit_finish(&e);
        }
    }
    io_buffer_free(l1);
    return ret == 0 ||
           error_set_errno(error, ret, "Could not delete the snapshot");
}

/* ---- repair -------------------------------------------------------------- */

int co_qcow2_snapshots_rewrite(struct qcow2 *s)
{
    struct snapshot_edit e;
    int ret = co_snapshot_edit_begin(s, &e, 0, 0);

    if (ret < 0) {
        return ret;
    }
    e.list = snapshot_list_without(s, UINT_MAX);
    for (unsigned i = 0; i < e.list->len; i++) {
        struct qcow2_snapshot *sn = g_ptr_array_index(e.list, i);
        if (!qcow2_snapshot_has_size(sn)) {
            sn->disk_size = s->header.size;
        }
        sn->extra_bytes = MAX(sn->extra_bytes, QCOW2_KNOWN_SNAPSHOT_EXTRA);
    }
    return co_snapshot_edit_finish(&e);
}

/* ---- showing ------------------------------------------------------------- */

static bool co_snapshot_load(struct node *node, size_t index, int64_t *size,
                             GError **error)
{
    struct qcow2 *s = node->state;
    const struct qcow2_snapshot *sn =
        g_ptr_array_index(s->snapshots.list, index);
    uint64_t bytes;

    if (!disk_of(s, sn, &bytes, error)) {
        return false;
    }
    uint64_t *l1 = co_qcow2_snapshot_l1(s, sn, 0, error);
    if (!l1) {
        return false;
    }
    io_buffer_free(s->l1);
    s->l1 = l1;
    s->l1_size = sn->l1_size;
    meta_cache_forget(&s->l2);
    *size = bytes;
    return true;
}

const struct snapshot_ops qcow2_snapshot_ops = {
    .list = list_snapshots,
    .co_create = co_snapshot_create,
    .co_apply = co_snapshot_apply,
    .co_delete = co_snapshot_delete,
    .co_load = co_snapshot_load,
};
