/*
 * Opening images for a subcommand, and what lies where in them.
 */
#include "tools/varve-img/img.h"

#include <string.h>
#include "block/request.h"
#include "qapi/options.h"
#include "util/range.h"

bool img_one_filename(int argc, char **argv, int first, struct image_open *how)
{
    if (argc - first != 1) {
        tool_usage_error("Expecting one image file name");
        return false;
    }
    how->filename = argv[first];
    return true;
}

bool img_options(int argc, char **argv, const struct tool_option *rows,
                 struct image_open *how, int *status)
{
    int first = tool_options(argc, argv, rows, status);

    if (!first) {
        return false;
    }
    *status = 1;
    return img_one_filename(argc, argv, first, how);
}

bool img_check_cache(const struct image_open *how)
{
    if (how->cache && !cache_mode_find(how->cache)) {
        tool_error("Invalid %scache option: %s", how->writable ? "" : "source ",
                   how->cache);
        return false;
    }
    return true;
}

char *img_backing_path(const char *filename, const char *backing)
{
    if (g_path_is_absolute(backing) || qapi_filename_has_protocol(backing)) {
        return g_strdup(backing);
    }
    g_autofree char *dir = g_path_get_dirname(filename);
    return strcmp(dir, ".") ? g_build_filename(dir, backing, NULL)
                            : g_strdup(backing);
}

struct backend *co_img_open(const struct image_open *how)
{
    g_autoptr(GError) error = NULL;
    unsigned perm = PERM_CONSISTENT_READ | (how->writable ? PERM_WRITE : 0) |
                    (how->resize ? PERM_RESIZE : 0);
    unsigned shared = how->steady && !how->force_share
                          ? PERM_CONSISTENT_READ | PERM_WRITE_UNCHANGED
                          : PERM_ALL;

    if (!img_check_cache(how)) {
        return NULL;
    }
    if (how->image_opts && how->format) {
        tool_error("--image-opts and --format are mutually exclusive");
        return NULL;
    }
    struct node *node = co_image_open(how, NULL, &error);
    if (!node) {
        tool_error("Could not open '%s': %s", how->filename, error->message);
        return NULL;
    }
    struct backend *b = co_backend_new(NULL, node, perm, shared, &error);
    co_node_unref(node);
    if (!b) {
        tool_error("Could not open '%s': %s", how->filename, error->message);
    }
    if (b && how->internal && !co_img_load_snapshot(b->node, how->internal)) {
        co_backend_unref(b);
        return NULL;
    }
    return b;
}

struct img_run {
    const struct image_open *how;
    int (*co_act)(void *opaque, struct node *node);
    void *opaque;
};

static int co_run(void *opaque)
{
    const struct img_run *r = opaque;
    struct backend *b = co_img_open(r->how);

    if (!b) {
        return 1;
    }
    int status = r->co_act(r->opaque, b->node);
    co_backend_unref(b);
    return status;
}

int img_run(const struct image_open *how,
            int (*co_act)(void *opaque, struct node *node), void *opaque)
{
    struct img_run r = {how, co_act, opaque};

    return tool_run(co_run, &r);
}

int co_img_status(struct img_known *known, struct node *node, struct node *base,
                  int64_t offset, int64_t *bytes, unsigned *flags)
{
    if (offset < known->start || offset >= known->end) {
        struct block_status st;
        int ret = co_node_status_above(node, base, false, true, offset,
                                       node->length - offset, &st, NULL);
        if (ret < 0) {
            return ret;
        }
        *known = (struct img_known){offset, offset + st.bytes, st.flags};
    }
    *bytes = min_i64(*bytes, known->end - offset);
    *flags = known->flags;
    return 0;
}

int64_t img_zero_run(const uint8_t *buf, int64_t bytes, int64_t step,
                     bool *zero)
{
    int64_t run = 0;

    while (run < bytes) {
        int64_t n = min_i64(step, bytes - run);
        struct iovec v = {.iov_base = (void *)(buf + run), .iov_len = n};
        struct iov iov = iov_of(&v, 1);
        bool is_zero = iov_is_zero(&iov);
        if (run == 0) {
            *zero = is_zero;
        } else if (is_zero != *zero) {
            break;
        }
        run += n;
    }
    return run;
}
