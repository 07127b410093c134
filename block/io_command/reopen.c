/*
 * reopen: other options for the node of the session's backend, the rest as it
 * is now.
 *
 * On the graph's loop, with change_lock held or as its only user.
 */
#include "block/io_command/io_command_int.h"

#include <string.h>

#include "block/backend.h"
#include "block/cache_mode.h"
#include "block/node.h"
#include "qapi/options.h"
#include "util/error.h"
#include "util/keyval.h"

static void set_pair(GPtrArray *pairs, const char *key, const char *value)
{
    struct keyval *pair = g_new(struct keyval, 1);

    *pair = (struct keyval){.key = g_strdup(key), .value = g_strdup(value)};
    g_ptr_array_add(pairs, pair);
}

static void set_switch(GPtrArray *pairs, const char *key, bool on)
{
    set_pair(pairs, key, on ? "on" : "off");
}

static bool has_key(const GPtrArray *pairs, const char *key)
{
    for (guint i = 0; i < pairs->len; i++) {
        if (!strcmp(((const struct keyval *)pairs->pdata[i])->key, key)) {
            return true;
        }
    }
    return false;
}

/* As the schema has it. */
static bool take_discard(GPtrArray *pairs, GError **error)
{
    for (guint i = 0; i < pairs->len; i++) {
        struct keyval *pair = pairs->pdata[i];
        const char *mode = discard_mode_find(pair->value);

        if (strcmp(pair->key, "discard")) {
            continue;
        }
        if (!mode) {
            return error_set(error, "Invalid discard option");
        }
        g_free(pair->value);
        pair->value = g_strdup(mode);
    }
    return true;
}

/* What the letters say, unless it is said twice. */
static bool add_letters(GPtrArray *pairs, const struct io_args *args,
                        const struct cache_mode *cache, GError **error)
{
    bool rights = args->given['r'] || args->given['w'];

    if (rights && has_key(pairs, "read-only")) {
        return error_set(error, "Cannot set both -r/-w and 'read-only'");
    }
    if (rights) {
        set_switch(pairs, "read-only", args->given['r']);
    }
    if (cache &&
        (has_key(pairs, "cache.direct") || has_key(pairs, "cache.no-flush"))) {
        return error_set(error, "Cannot set both -c and the cache options");
    }
    if (cache) {
        set_switch(pairs, "cache.direct", cache->direct);
        set_switch(pairs, "cache.no-flush", cache->no_flush);
    }
    return true;
}

/* What the node is now in the words of options. */
static struct blockdev_options *options_now(const struct node *node)
{
    struct blockdev_options *now = blockdev_options_clone(node->options);

    if (!now->node_name) {
        now->node_name = g_strdup(node->name);
    }
    return now;
}

/* The backing file stays what it is, whoever named it. */
static void keep_backing(GPtrArray *pairs, const struct node *node)
{
    if (node->backing && !has_key(pairs, "backing") &&
        qapi_blockdev_options_child(node->options, "backing").kind ==
            QAPI_CHILD_ABSENT) {
        set_pair(pairs, "backing", node->backing->child->name);
    }
}

static bool co_change(struct node *node, GPtrArray *pairs, GError **error)
{
    if (!node->options) {
        return error_set(error,
                         "Node '%s' has no options that could be changed",
                         node->name);
    }
    if (!node_check_reopens(node, error)) {
        return false;
    }
    keep_backing(pairs, node);
    qapi_auto(blockdev_options) now = options_now(node);
    qapi_auto(blockdev_options) then =
        qapi_blockdev_options_change(now, pairs, error);
    const struct blockdev_options *const list[] = {then};
    return then && co_nodes_reopen(list, 1, error);
}

/* Whoever is to read only must not hold on to the right to write. */
static bool co_drop_writing(struct io_session *s, GError **error)
{
    struct edge *root = s->backend->root;
    unsigned writing = PERM_WRITE | PERM_WRITE_UNCHANGED;

    return co_backend_set_perm(s->backend, root->perm & ~writing, root->shared,
                               error);
}

static bool co_do(struct io_session *s, const struct io_args *args,
                  GPtrArray *pairs, const struct cache_mode *cache,
                  GError **error)
{
    struct backend *b = s->backend;
    unsigned perm = b->root->perm;

    if (cache && b->write_cache == cache->writethrough && b->device) {
        return error_set(error,
                         "Cannot change cache.writeback: Device attached");
    }
    if (args->given['r'] && !co_drop_writing(s, error)) {
        return false;
    }
    if (!co_change(b->node, pairs, error)) {
        if (args->given['r']) {
            (void)co_backend_set_perm(b, perm, b->root->shared, NULL);
        }
        return false;
    }
    if (args->given['r']) {
        s->kept_perm &= b->root->perm;
    } else if (args->given['w'] && b->device) {
        s->kept_perm |= PERM_WRITE;
    }
    if (cache) {
        b->write_cache = !cache->writethrough;
    }
    return true;
}

static bool check_reopen(struct io_session *s, unsigned char letter,
                         const char *text)
{
    g_autoptr(GError) error = NULL;

    return letter != 'c' || cache_mode_find(text) ||
           error_set(&error, "Invalid cache option: %s", text) ||
           io_fail(s, &error);
}

static bool co_reopen(struct io_session *s, const struct io_args *args)
{
    const struct cache_mode *cache = NULL;
    g_autoptr(GPtrArray) pairs = NULL;
    g_autoptr(GError) error = NULL;

    if (args->given['c']) {
        cache = cache_mode_find(args->option['c']);
    }
    if (args->given['r'] + args->given['w'] > 1) {
        error_set(&error, "Only one -r/-w option may be given");
        return io_fail(s, &error);
    }
    if (args->n > 0) {
        return io_usage(s, args);
    }
    co_io_session_drain(s);
    pairs =
        keyval_split(args->given['o'] ? args->option['o'] : "", NULL, &error);
    return (pairs && take_discard(pairs, &error) &&
            add_letters(pairs, args, cache, &error) &&
            co_do(s, args, pairs, cache, &error)) ||
           io_fail(s, &error);
}

const struct io_command io_command_reopen = {
    .name = "reopen",
    .options = "c:o:rw",
    .max = -1,
    .usage = "[(-r|-w)] [-c cache] [-o options]",
    .what = "changes options of the open file",
    .help = " -r, for reading only from now on\n"
            " -w, for writing, too\n"
            " -c, another cache mode\n"
            " -o, options of the node: 'lazy-refcounts=on'\n"
            "\n"
            " 'reopen -r -c none' goes on read-only, past the host's cache",
    .check = check_reopen,
    .co_run = co_reopen,
};
