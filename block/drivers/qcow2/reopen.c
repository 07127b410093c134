/*
 * Other options for an image that is open.
 *
 * A node that becomes read-only stores its bitmaps and writes everything out
 * before; if it stays writable after all, they are marked as in use again. One
 * that becomes writable does what opening it for writing would have done.
 *
 * Runs on the node's loop; the node is drained.
 */
#include "block/drivers/qcow2/qcow2.h"

#include "util/error.h"

static const char *const qcow2_mutable_options[] = {
    "lazy-refcounts",
    "pass-discard-request",
    "pass-discard-snapshot",
    "pass-discard-other",
    "discard-no-unref",
    "overlap-check",
    "cache-size",
    "l2-cache-size",
    "l2-cache-entry-size",
    "refcount-cache-size",
    "cache-clean-interval",
    "compress-effort",
    NULL,
};

/* Nothing is in memory only, and nothing on disk waits for more. */
static bool co_write_out(struct qcow2 *s, bool last, GError **error)
{
    if (last && !co_qcow2_bitmaps_store(s, error)) {
        g_prefix_error(error,
                       "Could not store the bitmaps of '%s': ", s->node->name);
        return false;
    }
    int ret = co_qcow2_settle(s);
    return ret == 0 || error_set_errno(error, ret, "Could not write out '%s'",
                                       s->node->name);
}

/* The guest goes on writing, so what has been stored becomes wrong. */
static void co_go_on(struct qcow2 *s)
{
    if (!co_qcow2_bitmaps_mark_in_use(s, NULL) &&
        !co_qcow2_bitmaps_forget(s, NULL)) {
        s->broken = true;
    }
}

static bool co_qcow2_reopen_prepare(struct node *node,
                                    const struct node_reopen *to,
                                    GError **error)
{
    struct qcow2 *s = node->state;
    bool read_only = to->settings->read_only;

    if (!qcow2_check_options(s, &to->options->u.qcow2, error) ||
        !co_qcow2_options_ready(s, &to->options->u.qcow2, error)) {
        return false;
    }
    if (node->read_only) {
        return read_only ||
               !(s->header.incompatible & QCOW2_INCOMPAT_CORRUPT) ||
               error_set(error, "qcow2: Image is corrupt; cannot be opened "
                                "read/write");
    }
    if (!s->broken && !co_write_out(s, read_only, error)) {
        co_go_on(s);
        return false;
    }
    return true;
}

static void co_qcow2_reopen_commit(struct node *node,
                                   const struct blockdev_options *options)
{
    struct qcow2 *s = node->state;

    meta_cache_destroy(&s->l2);
    meta_cache_destroy(&s->rb);
    qcow2_free_compressors(s);
    /* Another file may know more of its holes. */
    s->recurse_known = false;
    if (!qcow2_apply_options(s, &options->u.qcow2, NULL)) {
        g_assert_not_reached();
    }
}

static void co_qcow2_reopen_abort(struct node *node)
{
    struct qcow2 *s = node->state;

    if (!node->read_only && !s->broken) {
        co_go_on(s);
    }
}

static bool co_qcow2_reopen_writable(struct node *node, GError **error)
{
    struct qcow2 *s = node->state;

    return co_qcow2_prepare_writing(s, error) &&
           co_qcow2_bitmaps_writable(s, error);
}

const struct reopen_ops qcow2_reopen_ops = {
    .mutable_options = qcow2_mutable_options,
    .co_prepare = co_qcow2_reopen_prepare,
    .co_commit = co_qcow2_reopen_commit,
    .co_abort = co_qcow2_reopen_abort,
    .co_writable = co_qcow2_reopen_writable,
};
