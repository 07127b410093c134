/*
 * varve-img measure: how large a new image would be, with the data of another
 * one or without any.
 */
#include "tools/varve-img/img.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "block/create.h"
#include "qapi/codec.h"
#include "util/keyval.h"

struct measure {
    struct image_open how; /* filename NULL: none */
    const char *format;
    struct create_params params; /* size -1: not said */
    bool json;
};

static void print_json(const struct image_measure *m)
{
    struct block_measure_info answer = {
        .required = m->required,
        .fully_allocated = m->fully_allocated,
        .has_bitmaps = m->bitmaps >= 0,
        .bitmaps = m->bitmaps,
    };
    tool_print_json(qapi_encode(&qapi_type_block_measure_info, &answer));
}

static void print_human(const struct image_measure *m)
{
    printf("required size: %" PRId64 "\nfully allocated size: %" PRId64 "\n",
           m->required, m->fully_allocated);
    if (m->bitmaps >= 0) {
        printf("bitmaps size: %" PRId64 "\n", m->bitmaps);
    }
}

static int co_measure(void *opaque)
{
    struct measure *o = opaque;
    g_autoptr(GError) error = NULL;
    struct image_measure m;
    struct backend *b = NULL;

    if (o->how.filename && !(b = co_img_open(&o->how))) {
        return 1;
    }
    if (b) {
        node_expect_bulk(b->node);
    }
    bool ok =
        co_image_measure(o->format, &o->params, b ? b->node : NULL, &m, &error);
    if (ok && o->json) {
        print_json(&m);
    } else if (ok) {
        print_human(&m);
    }
    if (b) {
        co_backend_unref(b);
    }
    return ok ? 0 : tool_fail(&error);
}

static bool check_format(const struct measure *o)
{
    g_autoptr(GError) error = NULL;
    const struct block_driver *driver = block_driver_find(o->format);

    if (!driver) {
        tool_error("Unknown file format '%s'", o->format);
        return false;
    }
    if (!driver->co_measure) {
        tool_error("Block driver '%s' does not support size measurement",
                   o->format);
        return false;
    }
    if (o->params.extra &&
        !img_check_create_options(o->format, o->params.extra, &error)) {
        tool_fail(&error);
        tool_error("Invalid options for file format '%s'", o->format);
        return false;
    }
    return true;
}

static int measure_run(int argc, char **argv)
{
    g_autoptr(GPtrArray) extras = g_ptr_array_new_with_free_func(g_free);
    struct measure o = {.format = "raw", .params.size = -1};
    const struct tool_option rows[] = {
        {'f', NULL, .text = &o.how.format},
        {'l', NULL, .take = img_take_snapshot, .opaque = &o.how},
        {'O', NULL, .text = &o.format},
        {'o', NULL, .take = img_take_create_options, .opaque = extras},
        {'U', "force-share", .flag = &o.how.force_share},
        {0, "image-opts", .flag = &o.how.image_opts},
        {0, "object", .take = tool_take_object},
        {0, "output", .json = &o.json},
        {0, "size", .size = &o.params.size, .what = "image size"},
        {0},
    };
    int status, first = tool_options(argc, argv, rows, &status);

    if (!first) {
        return status;
    }
    g_autofree char *extra = img_join_options(extras);
    o.params.extra = *extra ? extra : NULL;
    if (argc - first > 1) {
        tool_error("At most one filename argument is allowed.");
        return 1;
    }
    o.how.filename = argc > first ? argv[first] : NULL;
    if (!o.how.filename &&
        (o.how.image_opts || o.how.format || o.how.internal)) {
        tool_error("--image-opts, -f, and -l require a filename argument.");
        return 1;
    }
    if (!o.how.filename && o.params.size < 0) {
        tool_error("Either --size N or one filename must be specified.");
        return 1;
    }
    if (o.how.filename && o.params.size >= 0) {
        tool_error("--size N cannot be used together with a filename.");
        return 1;
    }
    return check_format(&o) ? tool_run(co_measure, &o) : 1;
}

const struct subcommand cmd_measure = {
    .name = "measure",
    .usage = "[-O FMT] [-o OPTIONS] [--output=human|json] "
             "{--size SIZE | [-f FMT] [-l SNAPSHOT] [-U] FILE}",
    .what = "Tells how large a new image would be.",
    .help =
        "  -O FMT            format of the new image: qcow2, raw (the "
        "default)\n"
        "  -o OPTIONS        creation options, as of create\n"
        "  --size SIZE       an empty disk of that size\n"
        "  -f FMT            format of FILE, whose data are to be in the new "
        "image;\n"
        "                    found out if not given\n"
        "  -l SNAPSHOT       the data of a snapshot within FILE, not its "
        "disk's\n"
        "  --output=FORMAT   human (the default) or json\n"
        "  --image-opts      FILE is a list of options, not a name\n"
        "  -U, --force-share open an image that another process writes to\n"
        "\n"
        "The required size holds metadata and the data of now, the fully\n"
        "allocated size those of a disk that is written throughout.\n"
        "\n"
        "examples:\n"
        "  varve-img measure -O qcow2 --size 100G\n"
        "  varve-img measure -f raw -O qcow2 -o cluster_size=2M disk.raw\n",
    .run = measure_run,
};
