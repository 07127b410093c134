/*
 * Opening images for a subcommand, and what lies where in them.
 */
#include "tools/varve-img/img.h"

#include <string.h>
#include "block/request.h"
#include "qapi/options.h"
#include "util/error.h"

/* The cache modes of qemu-img's -t and -T. */
static const struct cache_mode {
    const char *name;
    bool direct, no_flush;
} cache_modes[] = {
    {"none", .direct = true},          {"off", .direct = true},
    {"directsync", .direct = true},    {"writeback", .direct = false},
    {"writethrough", .direct = false}, {"unsafe", .no_flush = true},
};

static bool apply_cache(const char *name, struct open_defaults *d)
{
    for (size_t i = 0; name && i < G_N_ELEMENTS(cache_modes); i++) {
        if (!strcmp(name, cache_modes[i].name)) {
            d->cache_direct = cache_modes[i].direct;
            d->no_flush = cache_modes[i].no_flush;
            return true;
        }
    }
    return !name;
}

static struct node *co_open_node(const struct img_open *how, GError **error)
{
    struct open_defaults d = {.read_only = !how->writable,
                              .force_share = how->force_share,
                              .discard_unmap = how->writable};

    if (!apply_cache(how->cache, &d)) {
        error_set(error, "Invalid cache option: %s", how->cache);
        return NULL;
    }
    if (!how->image_opts) {
        return co_node_open_filename(how->filename, how->format, &d, error);
    }
    qapi_auto(blockdev_options) options =
        qapi_blockdev_options_parse(how->filename, error);
    return options ? co_node_open(options, error) : NULL;
}

struct backend *co_img_open(const struct img_open *how)
{
    g_autoptr(GError) error = NULL;
    unsigned perm =
        PERM_CONSISTENT_READ | (how->writable ? PERM_WRITE | PERM_RESIZE : 0);
    unsigned shared =
        how->force_share ? PERM_ALL : PERM_ALL & ~(PERM_WRITE | PERM_RESIZE);

    struct node *node = co_open_node(how, &error);
    if (!node) {
        tool_error("Could not open '%s': %s", how->filename, error->message);
        return NULL;
    }
    struct backend *b = co_backend_new(NULL, node, perm, shared, &error);
    co_node_unref(node);
    if (!b) {
        tool_error("Could not open '%s': %s", how->filename, error->message);
    }
    return b;
}

int co_img_extent(struct backend *b, int64_t offset, int64_t limit,
                  struct img_extent *extent)
{
    struct block_status status;

    int ret = co_node_status_above(b->node, NULL, false, true, offset, limit,
                                   &status, NULL);
    if (ret < 0) {
        return ret;
    }
    extent->bytes = status.bytes;
    extent->zero = status.flags & BLOCK_ZERO;
    extent->allocated = status.flags & BLOCK_ALLOCATED;
    return 0;
}
