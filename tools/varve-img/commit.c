/*
 * varve-img commit: what an image has of its own goes into an image behind it.
 *
 * The chain is opened twice: as a whole to see what it is, then in two parts,
 * so that the image that is written is nobody's backing file meanwhile.
 */
#include "tools/varve-img/img.h"

#include <stdio.h>
#include <string.h>
#include "block/layer_copy.h"
#include "block/request.h"
#include "util/error.h"

struct commit {
    struct image_open how;
    const char *base; /* NULL: the image right behind */
    int64_t rate;
    bool drop, quiet;
    struct progress progress;
    struct backend *top, *target;
};

/* Opens both parts. */
static bool co_open_parts(struct commit *o, GError **error)
{
    struct json_object *layers = NULL, *below = NULL;
    struct backend *whole = co_img_open(&o->how);

    if (!whole) {
        return false;
    }
    struct node *top = whole->node, *next = node_backing_chain_next(top);
    struct node *base = o->base ? img_find_in_chain(top, o->base) : next;
    if (!base && o->base) {
        error_set(error, "Did not find '%s' in the backing chain of '%s'",
                  o->base, o->how.filename);
    } else if (!base) {
        error_set(error, "Image does not have a backing file");
    } else {
        /* Only the image right behind makes the top superfluous. */
        o->drop = o->drop || o->base;
        layers = img_layers_tree(top, base, !o->drop);
        below = img_writable_tree(base);
    }
    co_backend_unref(whole);
    if (!layers) {
        return false;
    }
    o->target = co_img_open_tree(
        below, PERM_CONSISTENT_READ | PERM_WRITE | PERM_RESIZE, error);
    if (!o->target) {
        json_object_put(layers);
        return false;
    }
    unsigned perm = PERM_CONSISTENT_READ | (o->drop ? 0 : PERM_WRITE);
    o->top = co_img_open_tree(layers, perm, error);
    return o->top;
}

static void on_progress(void *opaque, int64_t done, int64_t total)
{
    struct commit *o = opaque;

    progress_update(&o->progress, done, total);
}

static bool co_commit_parts(struct commit *o, GError **error)
{
    struct node *top = o->top->node, *target = o->target->node;
    struct layer_copy copy = {
        .top = top,
        .target = target,
        .progress = on_progress,
        .opaque = o,
    };

    bucket_set_rate(&copy.rate, o->rate);
    if (target->length < top->length &&
        !co_node_truncate(target, top->length, false, PREALLOC_MODE_OFF, 0,
                          error)) {
        return false;
    }
    node_expect_bulk(target);
    int ret = co_layer_copy(&copy);
    if (ret == 0) {
        ret = co_backend_flush(o->target);
    }
    if (ret == 0 && !o->drop) {
        ret = co_node_make_empty(top);
        if (ret == -ENOTSUP) {
            ret = 0; /* what it keeps is the same as behind it */
        } else if (ret < 0) {
            return error_set_errno(error, ret, "Could not empty %s",
                                   o->how.filename);
        }
    }
    return ret == 0 || error_set(error, "%s", g_strerror(-ret));
}

static int co_commit(void *opaque)
{
    struct commit *o = opaque;
    g_autoptr(GError) error = NULL;
    bool ok = co_open_parts(o, &error) && co_commit_parts(o, &error);

    if (o->top) {
        co_backend_unref(o->top);
    }
    if (o->target) {
        co_backend_unref(o->target);
    }
    if (error) {
        tool_fail(&error);
    }
    progress_end(&o->progress, ok);
    if (ok && !o->quiet) {
        printf("Image committed.\n");
    }
    return !ok;
}

static int commit_run(int argc, char **argv)
{
    struct commit o = {.how = {.writable = true, .cache = "writeback"}};
    bool progress = false;
    const struct tool_option rows[] = {
        {'b', NULL, .text = &o.base},
        {'d', NULL, .flag = &o.drop},
        {'f', NULL, .text = &o.how.format},
        {'p', NULL, .flag = &progress},
        {'q', NULL, .flag = &o.quiet},
        {'r', NULL, .size = &o.rate, .what = "rate limit"},
        {'t', NULL, .text = &o.how.cache},
        {0, "image-opts", .flag = &o.how.image_opts},
        {0, "object", .take = tool_take_object},
        {0},
    };
    int status;

    if (!img_options(argc, argv, rows, &o.how, &status)) {
        return status;
    }
    if (!img_check_cache(&o.how)) {
        return 1;
    }
    progress_start(&o.progress, progress && !o.quiet);
    return tool_run(co_commit, &o);
}

const struct subcommand cmd_commit = {
    .name = "commit",
    .usage = "[-f FMT] [-b BASE] [-d] [-r RATE] [-t CACHE] [-p] [-q] FILE",
    .what = "Writes what an image changed into the image behind it.",
    .help =
        "  -f FMT        format of the image; found out if not given\n"
        "  -b BASE       commit down to this image of the chain; then FILE and "
        "what\n"
        "                is between stay as they are\n"
        "  -d            do not empty FILE afterwards\n"
        "  -r RATE       bytes a second, with a suffix k, M, G\n"
        "  -t CACHE      cache mode: none, writeback (the default), unsafe "
        "...\n"
        "  --image-opts  FILE is a list of options, not a name\n"
        "  -p            show progress\n"
        "  -q            print nothing\n"
        "\n"
        "examples:\n"
        "  varve-img commit overlay.qcow2\n"
        "  varve-img commit -b base.qcow2 overlay.qcow2\n",
    .run = commit_run,
};
