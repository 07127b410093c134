/*
 * The list of exports, and their beginning and end.
 *
 * An export holds a backend of its own. It leaves the list last of all, so that
 * its id is taken until everything is gone. Runs on the graph's loop.
 */
#include "block/export.h"

#include <string.h>

#include "aio/coroutine.h"
#include "aio/directory.h"
#include "block/backend.h"
#include "block/graph.h"
#include "block/listener.h"
#include "block/place.h"
#include "util/error.h"

static bool id_well_formed(const char *id)
{
    if (!g_ascii_isalpha(*id)) {
        return false;
    }
    return strspn(id, G_CSET_A_2_Z G_CSET_a_2_z G_CSET_DIGITS "-._") ==
           strlen(id);
}

static struct export *find(const char *id)
{
    struct export *e;

    TAILQ_FOREACH (e, &graph_current()->exports, link) {
        if (!strcmp(e->id, id)) {
            return e;
        }
    }
    return NULL;
}

struct export *export_find(const char *id, GError **error)
{
    struct export *e = find(id);

    if (!e) {
        error_set(error, "Export '%s' is not found", id);
    }
    return e;
}

static void co_free(struct export *e)
{
    co_backend_unref(e->backend);
    g_free(e->id);
    g_free(e);
}

bool export_check(const struct block_export_options *options, GError **error)
{
    if (!id_well_formed(options->id)) {
        return error_set(error, "Invalid block export id");
    }
    if (directory_find(DIRECTORY_EXPORT, options->id, NULL)) {
        return error_set(error, "Block export id '%s' is already in use",
                         options->id);
    }
    struct node *node = node_lookup(NULL, options->node_name, NULL);

    if (!node) {
        return error_set(error, "Cannot find device='' nor node-name='%s'",
                         options->node_name);
    }
    return !(options->has_writable && options->writable && node->read_only) ||
           error_set(error, "Cannot export read-only node as writable");
}

bool co_export_add(const struct export_driver *driver,
                   const struct block_export_options *options,
                   struct loop *wants_loop, GError **error)
{
    bool writable = options->has_writable && options->writable;
    unsigned perm = PERM_CONSISTENT_READ | (writable ? PERM_WRITE : 0);

    if (!export_check(options, error)) {
        return false;
    }
    struct node *node = node_lookup(NULL, options->node_name, NULL);
    struct backend *b = co_backend_new(NULL, node, perm, PERM_ALL, error);

    if (!b) {
        return false;
    }
    struct export *e = g_new0(struct export, 1);

    e->id = g_strdup(options->id);
    e->serial = directory_number();
    e->driver = driver;
    e->backend = b;
    e->state = driver->co_open(e, options, error);
    if (!e->state) {
        co_free(e);
        return false;
    }
    b->exported_by = e;
    b->may_move = !(options->has_fixed_iothread && options->fixed_iothread);
    b->wants_loop = wants_loop;
    TAILQ_INSERT_HEAD(&graph_current()->exports, e, link);
    directory_add(DIRECTORY_EXPORT, e->id);
    return true;
}

/* It does not move any more, so this loop is the one. */
static void co_end(void *opaque)
{
    struct export *e = opaque;
    struct graph *graph = e->backend->graph;
    g_autofree char *id = g_strdup(e->id);

    co_graph_lock(GRAPH_LOCK_CHANGE);
    e->driver->co_close(e->state);
    TAILQ_REMOVE(&graph->exports, e, link);
    directory_remove(DIRECTORY_EXPORT, e->id);
    co_free(e);
    co_graph_send_home();
    graph_unlock(GRAPH_LOCK_CHANGE);
    BLOCK_ANNOUNCE(export_deleted, id);
    co_queue_wake_all(&graph->export_waiters);
}

bool export_remove(struct export *e, bool hard, GError **error)
{
    if (!hard && e->driver->busy(e->state)) {
        return error_set(error, "export '%s' still in use", e->id);
    }
    if (!e->shutting_down) {
        e->shutting_down = true;
        e->backend->may_move = false;
        co_enter(co_create(co_end, e));
    }
    return true;
}

void co_exports_end(void)
{
    struct graph *graph = graph_current();
    struct export *e, *next;

    /* The end of one may send others home. */
    TAILQ_FOREACH (e, &graph->exports, link) {
        e->backend->may_move = false;
    }
    for (e = TAILQ_FIRST(&graph->exports); e; e = next) {
        next = TAILQ_NEXT(e, link);
        export_remove(e, true, NULL);
    }
    while (!TAILQ_EMPTY(&graph->exports)) {
        co_queue_wait(&graph->export_waiters);
    }
}
