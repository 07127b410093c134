/*
 * Changing the size of the disk.
 *
 * A larger L1 table is written next to the old one and takes effect with one
 * write of the header. What lies in the last cluster behind the end of a disk
 * may be anything, and a backing file may be longer: both are zeroed before
 * they come into sight. Shrinking unmaps first. In both directions the size is
 * set last, when the rest is on disk, so that a crash leaves the old disk.
 *
 * Runs on the node's loop; the engine keeps requests off what changes.
 */
#include "block/drivers/qcow2/qcow2.h"

#include <endian.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include "util/error.h"

/* ---- a larger L1 table --------------------------------------------------- */

static int co_switch_l1(struct qcow2 *s, int64_t host, uint32_t entries)
{
    struct {
        uint32_t size;
        uint64_t offset;
    } __attribute__((packed)) field = {htobe32(entries), htobe64(host)};

    co_node_debug_event(qcow2_file(s), BLKDEBUG_EVENT_L1_GROW_ACTIVATE_TABLE);
    /* Stable: the table, what it refers to, and that it is counted. */
    int ret = co_qcow2_commit_locked(s);
    if (ret == 0) {
        ret = co_node_flush(qcow2_file(s));
    }
    if (ret == 0) {
        ret =
            co_qcow2_write_field(s, offsetof(struct qcow2_disk_header, l1_size),
                                 &field, sizeof(field));
    }
    return ret;
}

/* disk: the whole table as it is to be written. */
static int co_write_l1(struct qcow2 *s, uint64_t *disk, int64_t host,
                       int64_t bytes)
{
    memset(disk, 0, bytes);
    for (uint32_t i = 0; i < s->l1_size; i++) {
        disk[i] = htobe64(s->l1[i]);
    }
    co_node_debug_event(qcow2_file(s), BLKDEBUG_EVENT_L1_GROW_WRITE_TABLE);
    return co_node_pwrite(qcow2_file(s), host, disk, bytes, 0);
}

static int co_grow_l1_locked(struct qcow2 *s, uint32_t entries, uint64_t *table,
                             int64_t host, int64_t bytes)
{
    struct free_run old = {s->header.l1_table_offset,
                           align_up((int64_t)s->l1_size * 8, s->cluster_size),
                           FREE_OTHER};
    int ret = co_write_l1(s, table, host, bytes);
    if (ret == 0) {
        co_mutex_lock(&s->commit_lock);
        ret = co_switch_l1(s, host, entries);
        co_mutex_unlock(&s->commit_lock);
    }
    if (ret < 0) {
        return ret;
    }
    if (old.bytes) {
        /* The next commit makes the header stable before it is free. */
        g_array_append_val(s->frees[FREE_PENDING], old);
    }
    memset(table, 0, bytes);
    memcpy(table, s->l1, (size_t)s->l1_size * 8);
    io_buffer_free(s->l1);
    s->l1 = table;
    s->l1_size = entries;
    qcow2_meta_add(s, host, bytes);
    return 0;
}

int co_qcow2_grow_l1(struct qcow2 *s, uint32_t entries)
{
    int64_t bytes = align_up((int64_t)entries * 8, s->cluster_size);
    uint64_t *table = io_buffer_try_alloc(qcow2_file(s), bytes);

    if (!table) {
        return -ENOMEM;
    }
    /* No L1 entry changes while the new table is written. */
    co_mutex_lock(&s->table_lock);
    co_node_debug_event(qcow2_file(s), BLKDEBUG_EVENT_L1_GROW_ALLOC_TABLE);
    int64_t host =
        co_qcow2_alloc_contiguous(s, bytes >> s->cluster_bits, "L1 table");
    int ret =
        host < 0 ? host : co_grow_l1_locked(s, entries, table, host, bytes);
    co_mutex_unlock(&s->table_lock);
    if (ret < 0) {
        io_buffer_free(table);
        if (host >= 0) {
            co_qcow2_free_unused(s, host, bytes);
        }
    }
    co_qcow2_apply_frees(s);
    return ret;
}

/* ---- the size ------------------------------------------------------------ */

static int co_set_size(struct qcow2 *s, int64_t size)
{
    uint64_t field = htobe64(size);

    int ret = co_qcow2_commit(s);
    if (ret == 0) {
        ret = co_node_flush(qcow2_file(s));
    }
    if (ret == 0) {
        ret = co_qcow2_write_field(s, offsetof(struct qcow2_disk_header, size),
                                   &field, sizeof(field));
    }
    if (ret == 0) {
        ret = co_node_flush(qcow2_file(s));
    }
    return ret;
}

/* Writes zeroes where data are. */
static int co_zero_run(struct qcow2 *s, int64_t offset, int64_t bytes,
                       const void *zeroes, int64_t *done)
{
    struct mapping m;
    struct iovec vec;

    int ret = co_qcow2_map(s, offset, bytes, &m, MAP_READ);
    if (ret < 0) {
        return ret;
    }
    *done = m.bytes;
    if (m.type != CLUSTER_NORMAL && m.type != CLUSTER_COMPRESSED) {
        return 0;
    }
    struct iov iov = iov_buf(&vec, (void *)zeroes, m.bytes);
    return co_qcow2_pwritev(s->node, offset, m.bytes, &iov, 0);
}

/* Behind the old end, in the cluster that the end lies in. */
static int co_zero_tail(struct qcow2 *s, int64_t old)
{
    int64_t end = align_up(old, s->cluster_size), done = 0;
    g_autofree void *zeroes = g_try_malloc0(end - old + 1);
    int ret = zeroes ? 0 : -ENOMEM;

    while (ret == 0 && old < end) {
        ret = co_zero_run(s, old, end - old, zeroes, &done);
        old += done;
    }
    return ret;
}

/* The whole clusters behind `size`, up to where the L2 table for the end of a
 * disk of `end` bytes ends. */
static int co_unmap_behind(struct qcow2 *s, int64_t size, int64_t end)
{
    int64_t from = align_up(size, s->cluster_size);

    return co_qcow2_unmap(s, from, align_up(end, qcow2_table_bytes(s)) - from);
}

/* How far a growing disk is zeroed over a backing file that was longer. A flag
 * costs nothing; where the format has none, data are written. */
static int64_t zero_until(const struct qcow2 *s, int64_t old, int64_t size,
                          enum prealloc_mode prealloc)
{
    int64_t end = size;

    if (prealloc != PREALLOC_MODE_OFF) {
        end = min_i64(size, align_up(old, s->cluster_size));
    } else if (s->version < 3 && s->node->backing) {
        end = min_i64(size, s->node->backing->child->length);
    }
    return align_up(end, s->cluster_size);
}

static bool co_grow_tables(struct qcow2 *s, int64_t size, GError **error)
{
    int64_t need = div_round_up(size, qcow2_table_bytes(s));

    if (need > QCOW2_MAX_L1_BYTES / 8) {
        return error_set(error, "The image size is too large (try using a "
                                "larger cluster size)");
    }
    int ret = need > s->l1_size ? co_qcow2_grow_l1(s, need) : 0;
    return ret == 0 ||
           error_set_errno(error, ret, "Failed to grow the L1 table");
}

/* All that the new part of the disk consists of. */
static bool co_grow_content(struct qcow2 *s, int64_t old, int64_t size,
                            enum prealloc_mode prealloc, GError **error)
{
    int ret = co_zero_tail(s, old);

    if (ret < 0) {
        return error_set_errno(error, ret,
                               "Failed to zero the end of the "
                               "last cluster");
    }
    if (s->external &&
        !co_qcow2_lengthen_external(s, old, size, prealloc, error)) {
        return false;
    }
    if (s->external_raw && prealloc == PREALLOC_MODE_OFF) {
        /* Such a file is all there, so the tables say so. */
        prealloc = PREALLOC_MODE_METADATA;
    }
    return co_node_hide_backing(s->node, zero_until(s, old, size, prealloc),
                                error) &&
           (prealloc == PREALLOC_MODE_OFF ||
            co_qcow2_preallocate(s, old, size, prealloc, error));
}

/* Nobody has seen what is there already. */
static void co_undo_growth(struct qcow2 *s, int64_t old, int64_t size)
{
    if (co_unmap_behind(s, old, size) == 0) {
        co_qcow2_drop_tables(s, old, align_up(size, qcow2_table_bytes(s)));
        co_qcow2_trim(s);
    }
    if (s->external && qcow2_data(s)->length > old) {
        (void)co_node_truncate(qcow2_data(s), old, false, PREALLOC_MODE_OFF, 0,
                               NULL);
    }
}

static bool co_grow(struct qcow2 *s, int64_t old, int64_t size,
                    enum prealloc_mode prealloc, GError **error)
{
    if (!co_grow_tables(s, size, error)) {
        return false;
    }
    /* What a failure has left there must not come into sight. */
    int ret = co_unmap_behind(s, old, size);
    if (ret < 0) {
        return error_set_errno(error, ret,
                               "Failed to unmap what is behind the end");
    }
    if (!co_grow_content(s, old, size, prealloc, error)) {
        co_undo_growth(s, old, size);
        return false;
    }
    /* If that fails the disk may have either size, so nothing is undone. */
    ret = co_set_size(s, size);
    return ret == 0 ||
           error_set_errno(error, ret, "Failed to update the image size");
}

static bool co_shrink(struct qcow2 *s, int64_t old, int64_t size,
                      GError **error)
{
    int ret = co_unmap_behind(s, size, old);
    if (ret < 0) {
        return error_set_errno(error, ret,
                               "Failed to discard cropped "
                               "clusters");
    }
    co_qcow2_drop_tables(s, size, align_up(old, qcow2_table_bytes(s)));
    ret = co_set_size(s, size);
    if (ret < 0) {
        return error_set_errno(error, ret, "Failed to update the image size");
    }
    co_qcow2_trim(s);
    return !s->external || co_node_truncate(qcow2_data(s), size, false,
                                            PREALLOC_MODE_OFF, 0, error);
}

bool co_qcow2_truncate(struct node *node, int64_t size, bool exact,
                       enum prealloc_mode prealloc, unsigned flags,
                       GError **error)
{
    struct qcow2 *s = node->state;
    int64_t old = node->length;

    if (size % BLOCK_SECTOR_SIZE) {
        return error_set(error, "The new size must be a multiple of %u",
                         BLOCK_SECTOR_SIZE);
    }
    if (s->header.nb_snapshots && s->version < 3) {
        return error_set(error, "Can't resize a v2 image which has snapshots");
    }
    if (!qcow2_bitmaps_check_resize(s, error)) {
        return false;
    }
    if (size == old) {
        return true;
    }
    if (size < old && prealloc != PREALLOC_MODE_OFF) {
        return error_set(error, "Preallocation can't be used for shrinking an "
                                "image");
    }
    int ret = co_qcow2_move_vmstate(s, size);
    if (ret < 0) {
        return error_set_errno(error, ret, "Failed to drop the vm state");
    }
    s->growing_to = size;
    bool ok = size > old ? co_grow(s, old, size, prealloc, error)
                         : co_shrink(s, old, size, error);
    s->growing_to = 0;
    return ok;
}
