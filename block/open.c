/*
 * Opening nodes: from options, as children of other nodes, as backing chain.
 *
 * What a node's options do not say about caching and read-only comes from its
 * parent, as struct open_defaults. A child is opened by its parent's co_open,
 * so a tree of options opens depth first, and a failure anywhere takes all of
 * it down again; node->opened_for leads from a node that is being opened to the
 * one that asked for it, up to the root of that tree.
 *
 * Each backing image is opened on a stack of its own, so that the length of a
 * chain does not matter; CHAIN_MAX bounds it because requests do walk it on one
 * stack, and because an image can name itself as its own backing file under
 * names that no comparison sees through.
 */
#include "block/node.h"

#include <assert.h>
#include <string.h>

#include "aio/coroutine.h"
#include "block/graph.h"
#include "block/graph_int.h"
#include "block/node_int.h"
#include "block/open_int.h"
#include "qapi/options.h"
#include "util/error.h"

#define CHAIN_MAX 200

/* ---- one node ---- */

struct node *co_open_node(const struct blockdev_options *options,
                          const struct open_defaults *defaults,
                          struct node *opened_for, struct node *ready_file,
                          GError **error)
{
    const char *name = blockdev_driver_str(options->driver);
    const struct block_driver *driver = block_driver_find(name);
    if (!driver) {
        error_set(error, "Unknown driver '%s'", name);
        return NULL;
    }
    struct node *node = node_new(driver, options->node_name, error);
    if (!node) {
        return NULL;
    }
    node->opened_for = opened_for;
    node->ready_file = ready_file;
    node->options = blockdev_options_clone(options);
    node->for_check = defaults->check;
    struct node_settings settings;
    if (!node_settings_compute(options, defaults, &settings, error)) {
        co_node_discard(node);
        return NULL;
    }
    node_settings_apply(node, &settings);
    node->no_backing = defaults->no_backing;
    node->no_data = defaults->no_data;
    node->probed = defaults->probed;
    if ((driver->co_open && !driver->co_open(node, options, error))) {
        co_node_discard(node);
        return NULL;
    }
    node->opened_for = NULL;
    node->ready_file = NULL;
    node_set_opened(node);
    return node;
}

struct node *co_node_open(const struct blockdev_options *options,
                          GError **error)
{
    static const struct open_defaults none;
    return co_node_open_with(options, &none, error);
}

struct node *co_node_open_with(const struct blockdev_options *options,
                               const struct open_defaults *defaults,
                               GError **error)
{
    return co_open_node(options, defaults, NULL, NULL, error);
}

/* ---- children ---- */

/* Attaches and consumes the caller's reference to child. */
static struct edge *co_adopt(struct node *parent, struct node *child,
                             const char *name, unsigned roles, GError **error)
{
    struct graph_tx *tx = graph_tx_begin();
    struct edge *edge = graph_tx_attach(tx, parent, child, name, roles, error);
    if (!edge) {
        co_graph_tx_abort(tx);
    } else if (!co_graph_tx_commit(tx, error)) {
        edge = NULL;
    }
    co_node_unref(child);
    return edge;
}

struct edge *co_node_open_child(struct node *parent,
                                const struct blockdev_ref *ref,
                                const char *child_name, unsigned roles,
                                GError **error)
{
    struct node *child;
    if (parent->ready_file && (roles & ROLE_PRIMARY)) {
        child = g_steal_pointer(&parent->ready_file);
        return co_adopt(parent, node_ref(child), child_name, roles, error);
    }
    if (!ref) {
        error_set(error, "Parameter '%s' is missing", child_name);
        return NULL;
    }
    if (ref->kind == QAPI_KIND_STRING) {
        child = node_lookup(ref->u.reference, ref->u.reference, error);
        if (child) {
            node_ref(child);
        }
    } else {
        struct open_defaults d = node_child_defaults(
            node_is_filter(parent), node_settings_of(parent), roles);
        d.no_backing = parent->no_backing && (roles & ROLE_FILTERED);
        child = co_open_node(&ref->u.definition, &d, parent, NULL, error);
    }
    if (child && !parent->opened && !strcmp(child_name, "file")) {
        node_now_youngest(parent); /* clients see what stores it as older */
    }
    return child ? co_adopt(parent, child, child_name, roles, error) : NULL;
}

/* ---- backing ---- */

struct backing_open {
    struct coroutine *caller;
    const struct blockdev_options *options; /* or: */
    const char *filename, *format;
    struct open_defaults defaults;
    struct node *parent;
    struct node *node;
    GError *error;
    bool done;
};

static struct open_defaults backing_defaults(const struct node *node)
{
    return node_child_defaults(false, node_settings_of(node), ROLE_COW);
}

static void co_backing_open_entry(void *opaque)
{
    struct backing_open *b = opaque;
    b->node = b->options ? co_open_node(b->options, &b->defaults, b->parent,
                                        NULL, &b->error)
                         : co_open_filename(b->filename, b->format,
                                            &b->defaults, b->parent, &b->error);
    b->done = true;
    co_wake(b->caller);
}

static struct node *co_backing_open(struct backing_open *b, GError **error)
{
    b->caller = co_self();
    co_start(co_backing_open_entry, b);
    while (!b->done) {
        co_yield ();
    }
    if (b->error) {
        g_propagate_error(error, b->error);
    }
    return b->node;
}

/* The chain that is being opened is not linked yet: walk by opened_for. */
static bool check_chain(struct node *node, const char *filename, GError **error)
{
    unsigned depth = 0;
    for (struct node *n = node; n; n = n->opened_for) {
        const char *own = n->file ? n->file->child->filename : n->filename;
        if (!strcmp(own, filename)) {
            return error_set(
                error, "Backing file '%s' creates an infinite loop.", filename);
        }
        if (++depth >= CHAIN_MAX) {
            return error_set(error, "Backing chain is longer than %u images",
                             CHAIN_MAX);
        }
    }
    return true;
}

char *node_full_backing_filename(const struct node *node, GError **error)
{
    const char *backing = node->backing_filename;
    if (qapi_filename_has_protocol(backing) || g_path_is_absolute(backing)) {
        return g_strdup(backing);
    }
    const struct node *file = node;
    while (file->file) {
        file = file->file->child;
    }
    if (!*file->filename || qapi_filename_has_protocol(file->filename)) {
        error_set(error, "Cannot use relative backing file names for '%s'",
                  file->filename);
        return NULL;
    }
    g_autofree char *dir = g_path_get_dirname(file->filename);
    return strchr(file->filename, '/') ? g_build_filename(dir, backing, NULL)
                                       : g_strdup(backing);
}

static struct node *co_backing_by_name(struct node *node, GError **error)
{
    g_autofree char *filename = node_full_backing_filename(node, error);
    if (!filename || !check_chain(node, filename, error)) {
        return NULL;
    }
    struct backing_open b = {
        .filename = filename,
        .format = node->backing_format,
        .defaults = backing_defaults(node),
        .parent = node,
    };
    return co_backing_open(&b, error);
}

static struct node *co_backing_by_ref(struct node *node,
                                      const struct blockdev_ref_or_null *ref,
                                      GError **error)
{
    if (ref->kind == QAPI_KIND_STRING) {
        struct node *found =
            node_lookup(ref->u.reference, ref->u.reference, error);
        return found ? node_ref(found) : NULL;
    }
    struct backing_open b = {
        .options = &ref->u.definition,
        .defaults = backing_defaults(node),
        .parent = node,
    };
    return co_backing_open(&b, error);
}

bool co_node_open_backing(struct node *node,
                          const struct blockdev_ref_or_null *ref,
                          GError **error)
{
    GError *why = NULL;
    struct node *backing;
    if (ref && ref->kind != QAPI_KIND_NULL && node->no_backing) {
        return error_set(error,
                         "Block format '%s' does not support the option "
                         "'backing%s'",
                         node->driver->name,
                         ref->kind == QAPI_KIND_STRING ? "" : ".driver");
    }
    if (ref ? ref->kind == QAPI_KIND_NULL
            : node->no_backing || !node->backing_filename ||
                  !*node->backing_filename) {
        return true;
    }
    backing = ref ? co_backing_by_ref(node, ref, &why)
                  : co_backing_by_name(node, &why);
    if (!backing) {
        g_propagate_prefixed_error(error, why, "Could not open backing file: ");
        return false;
    }
    return co_adopt(node, backing, "backing", ROLE_COW, error) != NULL;
}
