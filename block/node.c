/*
 * Nodes: their names, references and end, and walks along the backing chain.
 *
 * A node is in its graph's list from node_new() on, so that its name is taken,
 * but is found by name only between a successful open and its last reference.
 * Names are unique over all graphs; finding looks at the current one.
 * The end of the last reference closes it: flush, the driver's co_close, the
 * bitmaps, then the children, whose own end may follow from that. A long chain
 * is closed in a loop and not by recursion, because coroutine stacks are small.
 */
#include "block/node.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "aio/directory.h"
#include "block/backend.h"
#include "block/dirty_bitmap.h"
#include "block/graph.h"
#include "block/graph_int.h"
#include "block/node_int.h"
#include "block/request.h"
#include "util/error.h"

/* ---- names ---- */

bool block_id_wellformed(const char *id)
{
    if (!g_ascii_isalpha(*id)) {
        return false;
    }
    while (*++id) {
        if (!g_ascii_isalnum(*id) && !strchr("-._", *id)) {
            return false;
        }
    }
    return true;
}

static struct node *find_opened(const char *name)
{
    struct node *node;
    TAILQ_FOREACH (node, &graph_current()->nodes, link) {
        if (!strcmp(node->name, name)) {
            return node->opened ? node : NULL;
        }
    }
    return NULL;
}

static bool check_name(const char *name, GError **error)
{
    if (!block_id_wellformed(name)) {
        return error_set(error, "Invalid node-name: '%s'", name);
    }
    if (directory_find(DIRECTORY_BACKEND, name, NULL)) {
        return error_set(error, "node-name=%s is conflicting with a device id",
                         name);
    }
    if (directory_find(DIRECTORY_NODE, name, NULL)) {
        return error_set(error, "Duplicate nodes with node-name='%s'", name);
    }
    if (strlen(name) > BLOCK_NODE_NAME_MAX) {
        return error_set(error, "Node name too long");
    }
    return true;
}

struct node *node_find(const char *name, GError **error)
{
    struct node *node = find_opened(name);
    if (!node) {
        error_set(error, "Failed to find node with node-name='%s'", name);
    }
    return node;
}

struct node *node_lookup(const char *device, const char *node_name,
                         GError **error)
{
    struct backend *b;
    struct node *node = NULL;
    if (device) {
        TAILQ_FOREACH (b, &graph_current()->backends, link) {
            if ((b->name && !strcmp(b->name, device)) ||
                (b->device_id && !strcmp(b->device_id, device))) {
                if (!b->node) {
                    error_set(error, "Device '%s' has no medium", device);
                }
                return b->node;
            }
        }
    }
    if (node_name) {
        node = find_opened(node_name);
    }
    if (!node) {
        error_set(error, "Cannot find device='%s' nor node-name='%s'",
                  device ? device : "", node_name ? node_name : "");
    }
    return node;
}

/* ---- birth ---- */

static void enlist(struct node *node)
{
    bool is_new = directory_add(DIRECTORY_NODE, node->name);
    assert(is_new);
    TAILQ_INSERT_TAIL(&node->graph->nodes, node, link);
}

void node_now_youngest(struct node *node)
{
    node->serial = directory_number();
    TAILQ_REMOVE(&node->graph->nodes, node, link);
    TAILQ_INSERT_TAIL(&node->graph->nodes, node, link);
}

/* Its name may be used again. */
static void unlist(struct node *node)
{
    TAILQ_REMOVE(&node->graph->nodes, node, link);
    directory_remove(DIRECTORY_NODE, node->name);
}

struct node *node_new(const struct block_driver *driver, const char *name,
                      GError **error)
{
    struct graph *graph = graph_current();
    if (name && !check_name(name, error)) {
        return NULL;
    }
    struct node *node = g_new0(struct node, 1);
    node->driver = driver;
    node->state = driver->state_size ? g_malloc0(driver->state_size) : NULL;
    node->graph = graph;
    node->loop = graph->loop;
    node->serial = directory_number();
    node->name = name ? g_strdup(name)
                      : g_strdup_printf("#block%03" PRIu64, node->serial);
    node->filename = g_strdup("");
    node->refs = 1;
    node->shared = PERM_ALL;
    node->limits.request_alignment = 1;
    node->limits.memory_alignment = 1;
    LIST_INIT(&node->bitmaps);
    TAILQ_INIT(&node->tracked);
    LIST_INIT(&node->children);
    LIST_INIT(&node->parents);
    enlist(node);
    graph_drain_update(graph);
    return node;
}

void node_set_opened(struct node *node)
{
    node->opened = true;
    graph_refresh_limits(node);
    node_refresh_filename(node);
}

struct node *node_ref(struct node *node)
{
    assert(node->refs > 0 && node->refs < UINT_MAX);
    node->refs++;
    return node;
}

/* ---- end ---- */

static void node_free(struct node *node)
{
    assert(LIST_EMPTY(&node->parents));
    assert(LIST_EMPTY(&node->children));
    assert(TAILQ_EMPTY(&node->tracked));
    assert(!node->drain_sections);
    blockdev_options_free(node->options);
    g_free(node->backing_filename);
    g_free(node->backing_format);
    g_free(node->filename);
    g_free(node->name);
    g_free(node->state);
    g_free(node);
}

/* Takes the children off and frees the node. Children whose last reference that
 * was go to dead, for the caller to close. */
static void co_node_dissolve(struct node *node, struct node_list *dead)
{
    struct edge *edge;
    while ((edge = LIST_FIRST(&node->children))) {
        struct node *child = node_ref(edge->child);
        co_graph_detach(edge);
        if (child->refs > 1) {
            child->refs--;
        } else {
            unlist(child);
            TAILQ_INSERT_TAIL(dead, child, link);
        }
    }
    node_free(node);
}

static void co_node_close(struct node *node, struct node_list *dead)
{
    node->opened = false;
    if (!node->read_only && !node->unusable) {
        int ret = co_node_flush(node);
        if (ret < 0) {
            graph_warn_lost(node, "the last flush failed: %s",
                            g_strerror(-ret));
        }
    }
    if (node->driver->co_close) {
        node->driver->co_close(node);
    }
    dirty_bitmaps_free_all(node);
    co_node_dissolve(node, dead);
}

static void co_close_all(struct node_list *dead)
{
    struct node *node;
    while ((node = TAILQ_FIRST(dead))) {
        TAILQ_REMOVE(dead, node, link);
        co_node_close(node, dead);
    }
}

void co_node_unref(struct node *node)
{
    struct node_list dead = TAILQ_HEAD_INITIALIZER(dead);
    assert(node->graph == graph_current());
    assert(node->refs > 0);
    if (node->refs > 1) {
        node->refs--;
        return;
    }
    unlist(node);
    TAILQ_INSERT_TAIL(&dead, node, link);
    co_close_all(&dead);
}

void co_node_discard(struct node *node)
{
    struct node_list dead = TAILQ_HEAD_INITIALIZER(dead);
    assert(node->refs == 1 && !node->opened);
    unlist(node);
    co_node_dissolve(node, &dead);
    co_close_all(&dead);
}

/* ---- chains ---- */

void node_expect_bulk(struct node *node)
{
    struct edge *edge;

    node->bulk = true;
    LIST_FOREACH (edge, &node->children, in_children) {
        if (edge->roles &
            (ROLE_DATA | ROLE_METADATA | ROLE_FILTERED | ROLE_COW)) {
            node_expect_bulk(edge->child);
        }
    }
}

bool node_is_filter(const struct node *node)
{
    return node->driver->kind == DRIVER_FILTER;
}

struct node *node_skip_filters(struct node *node)
{
    while (node && node_is_filter(node)) {
        node = node->file ? node->file->child : NULL;
    }
    return node;
}

struct node *node_backing_chain_next(struct node *node)
{
    node = node_skip_filters(node);
    return node && node->backing ? node->backing->child : NULL;
}

struct node *node_chain_below(struct node *node)
{
    struct edge *next = node_is_filter(node) ? node->file : node->backing;
    return next ? next->child : NULL;
}

bool node_chain_contains(struct node *node, struct node *base)
{
    while (node && node != base) {
        node = node_chain_below(node);
    }
    return node != NULL;
}

bool co_node_change_backing(struct node *node, const char *file,
                            const char *format, GError **error)
{
    if (!node->driver->co_change_backing) {
        return error_set(error, "%s", g_strerror(ENOTSUP));
    }
    /* What was copied from the old one must not be missing beside the new. */
    int ret = co_node_flush(node);
    if (ret < 0) {
        return error_set_errno(error, ret, "Could not flush '%s'", node->name);
    }
    if (!file || !*file) {
        return node->driver->co_change_backing(node, NULL, NULL, error);
    }
    return node->driver->co_change_backing(node, file, format, error);
}

int co_node_make_empty(struct node *node)
{
    return node->driver->co_make_empty ? node->driver->co_make_empty(node)
                                       : -ENOTSUP;
}

/* ---- what a node says of itself ---- */

int co_node_get_info(struct node *node, struct node_info *info)
{
    memset(info, 0, sizeof(*info));
    if (node->driver->co_get_info) {
        return node->driver->co_get_info(node, info);
    }
    if (node_is_filter(node) && node->file) {
        return co_node_get_info(node->file->child, info);
    }
    return -ENOTSUP;
}

int64_t co_node_allocated_size(struct node *node)
{
    struct edge *e;
    int64_t sum = 0;
    if (node->driver->co_allocated_size) {
        return node->driver->co_allocated_size(node);
    }
    if (node_is_filter(node)) {
        return node->file ? co_node_allocated_size(node->file->child)
                          : -ENOTSUP;
    }
    if (node->driver->kind == DRIVER_PROTOCOL) {
        return -ENOTSUP;
    }
    LIST_FOREACH (e, &node->children, in_children) {
        if (e->roles & (ROLE_DATA | ROLE_METADATA | ROLE_FILTERED)) {
            int64_t size = co_node_allocated_size(e->child);
            if (size < 0) {
                return size;
            }
            sum += size;
        }
    }
    return sum;
}
