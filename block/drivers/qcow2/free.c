/*
 * How clusters are freed.
 *
 * A cluster whose last reference went out of an L2 slice may still be referred
 * to by the table on disk, and by requests that looked at the slice before. It
 * goes through four stages: PENDING until a commit has written the slice and
 * flushed; STABLE until the requests of an older generation are gone, of which
 * there are two at a time; SETTLING while they go; READY for its refcount to
 * fall. Only then can the search for free clusters find it.
 *
 * Nobody waits for a stage: each commit and each new free moves what can move.
 * Runs on the node's loop.
 */
#include "block/drivers/qcow2/qcow2.h"

#include <errno.h>
#include <inttypes.h>

void qcow2_frees_append(GArray *to, GArray *from)
{
    if (from->len) {
        g_array_append_vals(to, from->data, from->len);
        g_array_set_size(from, 0);
    }
}

static void add_run(GArray *runs, int64_t offset, int64_t bytes,
                    enum free_kind kind)
{
    struct free_run run = {offset, bytes, kind};

    if (runs->len) {
        struct free_run *last =
            &g_array_index(runs, struct free_run, runs->len - 1);
        if (last->kind == kind && last->offset + last->bytes == offset) {
            last->bytes += bytes;
            return;
        }
    }
    g_array_append_val(runs, run);
}

void qcow2_free_later(struct qcow2 *s, int64_t offset, int64_t bytes,
                      enum free_kind kind)
{
    add_run(s->frees[FREE_PENDING], offset, bytes, kind);
}

static void free_compressed_later(struct qcow2 *s, uint64_t entry,
                                  enum free_kind kind)
{
    int64_t host, bytes;

    /* Each compressed cluster counts once in every cluster that it touches. */
    qcow2_compressed_extent(s, entry, &host, &bytes);
    int64_t start = align_down(host, s->cluster_size);
    qcow2_free_later(s, start, align_up(host + bytes, s->cluster_size) - start,
                     kind);
}

void qcow2_free_entry_later(struct qcow2 *s, uint64_t entry,
                            enum free_kind kind)
{
    struct mapping m;

    if (s->external) {
        return;
    }
    qcow2_decode_entry(s, entry, &m);
    if (m.type == CLUSTER_COMPRESSED) {
        free_compressed_later(s, entry, kind);
    } else if (m.host & (s->cluster_size - 1)) {
        qcow2_note_damage(s, "Cannot free unaligned cluster %#" PRIx64,
                          (uint64_t)m.host);
    } else if (m.host) {
        qcow2_free_later(s, m.host, s->cluster_size, kind);
    }
}

void co_qcow2_free_now(struct qcow2 *s, int64_t offset, int64_t bytes,
                       enum free_kind kind)
{
    add_run(s->frees[FREE_READY], offset, bytes, kind);
    co_qcow2_apply_frees(s);
}

void co_qcow2_free_unused(struct qcow2 *s, int64_t offset, int64_t bytes)
{
    co_qcow2_free_now(s, offset, bytes, FREE_OTHER);
}

bool qcow2_frees_left(const struct qcow2 *s)
{
    for (unsigned i = 0; i < FREE_STAGES; i++) {
        if (s->frees[i]->len) {
            return true;
        }
    }
    return false;
}

void qcow2_frees_advance(struct qcow2 *s)
{
    /* Two rounds: without old requests, STABLE gets through to READY. */
    for (unsigned round = 0; round < 2; round++) {
        if (s->grace_in_flight[!s->grace_now]) {
            return;
        }
        qcow2_frees_append(s->frees[FREE_READY], s->frees[FREE_SETTLING]);
        if (!s->frees[FREE_STABLE]->len) {
            return;
        }
        qcow2_frees_append(s->frees[FREE_SETTLING], s->frees[FREE_STABLE]);
        s->grace_now = !s->grace_now;
    }
    if (!s->grace_in_flight[!s->grace_now]) {
        qcow2_frees_append(s->frees[FREE_READY], s->frees[FREE_SETTLING]);
    }
}

/* Gives the file's storage back for the clusters of the run that nobody else
 * counts. It happens before the refcount falls, while they cannot be taken. */
static void co_discard_run(struct qcow2 *s, const struct free_run *run)
{
    int64_t start = -1, end = run->offset + run->bytes;

    for (int64_t at = run->offset; at <= end; at += s->cluster_size) {
        uint64_t refcount = 0;
        bool last =
            at < end &&
            co_qcow2_refcount(s, at >> s->cluster_bits, &refcount) == 0 &&
            refcount == 1;
        if (last) {
            /* No new user may come while it is discarded. */
            qcow2_pack_close(s, at);
        }
        if (last && start < 0) {
            start = at;
        } else if (!last && start >= 0) {
            /* A hint; if it fails, the space stays taken. */
            (void)co_node_pdiscard(qcow2_file(s), start, at - start);
            start = -1;
        }
    }
}

void co_qcow2_apply_frees(struct qcow2 *s)
{
    GArray *ready = s->frees[FREE_READY];

    if (s->applying_frees || s->broken) {
        return;
    }
    s->applying_frees = true;
    while (ready->len) {
        struct free_run run =
            g_array_index(ready, struct free_run, ready->len - 1);
        int64_t done;
        g_array_set_size(ready, ready->len - 1);
        co_node_debug_event(qcow2_file(s), BLKDEBUG_EVENT_CLUSTER_FREE);
        if (s->discard_passed[run.kind]) {
            co_discard_run(s, &run);
        }
        int ret = co_qcow2_release(s, run.offset, run.bytes, &done);
        if (ret < 0) {
            /* Another time, if the disk can be read again then. */
            run.offset += done;
            run.bytes -= done;
            g_array_append_val(ready, run);
            break;
        }
    }
    s->applying_frees = false;
}
