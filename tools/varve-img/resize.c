/*
 * varve-img resize: another size for the disk in an image.
 */
#include "tools/varve-img/img.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "block/request.h"
#include "qapi/codec.h"
#include "util/error.h"
#include "util/keyval.h"
#include "util/range.h"

struct resize {
    struct image_open how;
    const char *size;
    int sign; /* 0: not relative */
    int64_t bytes;
    int prealloc; /* enum prealloc_mode */
    bool shrink, quiet;
};

/* "+1G", "-1G" or "1G". */
static bool parse_size(struct resize *o)
{
    const char *text = o->size;
    g_autoptr(GError) error = NULL;
    uint64_t bytes;

    if (*text == '+' || *text == '-') {
        o->sign = *text++ == '+' ? 1 : -1;
    }
    if (!keyval_parse_size("size", text, &bytes, &error)) {
        tool_fail(&error);
        return false;
    }
    /* More than this is too much in either direction. */
    o->bytes = MIN(bytes, INT64_MAX);
    return true;
}

static int64_t new_size(const struct resize *o, int64_t now)
{
    int64_t size = o->bytes;

    if (o->sign > 0 && !range_add(now, o->bytes, &size)) {
        return -1;
    }
    return o->sign < 0 ? now - o->bytes : size;
}

static int co_resize(void *opaque, struct node *node)
{
    const struct resize *o = opaque;
    g_autoptr(GError) error = NULL;
    int64_t now = node->length, size = new_size(o, now);

    if (size <= 0 || size == INT64_MAX) {
        tool_error("New image size must be positive");
        return 1;
    }
    if (size <= now && o->prealloc != PREALLOC_MODE_OFF) {
        tool_error("Preallocation can only be used for growing images");
        return 1;
    }
    if (size < now && !o->shrink) {
        tool_error("Use the --shrink option to perform a shrink operation.");
        tool_error("warning: Shrinking an image will delete all data beyond "
                   "the shrunken image's end. Before performing such an "
                   "operation, make sure there is no important data there.");
        return 1;
    }
    if (!co_node_truncate(node, size, true, o->prealloc, 0, &error)) {
        return tool_fail(&error);
    }
    if (!o->quiet) {
        printf("Image resized.\n");
    }
    return 0;
}

static bool take_prealloc(const char *argument, void *opaque, int *status)
{
    struct resize *o = opaque;

    o->prealloc = qapi_enum_parse(&qapi_type_prealloc_mode, argument);
    if (o->prealloc < 0) {
        tool_error("Invalid preallocation mode '%s'", argument);
    }
    return o->prealloc >= 0;
}

static int resize_run(int argc, char **argv)
{
    struct resize o = {.how = {.writable = true, .resize = true}};
    const struct tool_option rows[] = {
        {'f', NULL, .text = &o.how.format},
        {'q', NULL, .flag = &o.quiet},
        {0, "preallocation", .take = take_prealloc, .opaque = &o},
        {0, "shrink", .flag = &o.shrink},
        {0, "image-opts", .flag = &o.how.image_opts},
        {0, "object", .take = tool_take_object},
        {0},
    };
    int status;

    /* It comes last, and may look like an option. */
    if (argc < 3) {
        return tool_usage_error("Not enough arguments");
    }
    o.size = argv[--argc];
    argv[argc] = NULL;
    int first = tool_options(argc, argv, rows, &status);
    if (!first) {
        return status;
    }
    if (argc - first != 1) {
        return tool_usage_error("Expecting image file name and size");
    }
    o.how.filename = argv[first];
    return parse_size(&o) ? img_run(&o.how, co_resize, &o) : 1;
}

const struct subcommand cmd_resize = {
    .name = "resize",
    .usage = "[-f FMT] [--preallocation=MODE] [--shrink] [-q] FILE [+|-]SIZE",
    .what = "Changes the size of a disk.",
    .help =
        "  -f FMT                format of the image; found out if not given\n"
        "  --preallocation=MODE  for the new part: off (the default), "
        "metadata,\n"
        "                        falloc, full\n"
        "  --shrink              allow a smaller size, which loses data\n"
        "  --image-opts          FILE is a list of options, not a name\n"
        "  -q                    print nothing\n"
        "\n"
        "SIZE is in bytes, or with a suffix k, M, G, T; +SIZE and -SIZE are\n"
        "relative to the size of now.\n"
        "\n"
        "examples:\n"
        "  varve-img resize disk.qcow2 +10G\n"
        "  varve-img resize -f raw --shrink disk.raw 5G\n",
    .run = resize_run,
};
