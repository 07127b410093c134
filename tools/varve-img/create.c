/*
 * varve-img create: a new, empty image, perhaps on top of a backing file.
 */
#include "tools/varve-img/img.h"

#include <stdio.h>
#include <string.h>
#include "block/create.h"
#include "block/driver.h"
#include "util/error.h"
#include "util/keyval.h"

struct create {
    const char *filename, *format;
    struct create_params params;
    GString *extra;
    char *backing_file, *backing_format; /* from -o */
    bool quiet, unsafe;
    bool size_is_a_word; /* behind the file name */
};

/* -o size=. */
static bool take_size_option(struct create *c, const char *text, GError **error)
{
    uint64_t bytes;

    if (!keyval_parse_size("size", text, &bytes, error)) {
        return false;
    }
    if (bytes > INT64_MAX) {
        return error_set(
            error, "Value '%s' is out of range for parameter 'size'", text);
    }
    if (c->size_is_a_word) {
        return error_set(error, "The image size must be specified only once");
    }
    c->params.size = bytes;
    return true;
}

/* Takes what struct create_params has members for out of the -o strings. */
static bool sort_options(struct create *c, const char *text, GError **error)
{
    g_autoptr(GPtrArray) list = keyval_split(text, NULL, error);

    for (unsigned i = 0; list && i < list->len; i++) {
        const struct keyval *kv = g_ptr_array_index(list, i);

        if (!strcmp(kv->key, "size")) {
            if (!take_size_option(c, kv->value, error)) {
                return false;
            }
        } else if (!strcmp(kv->key, "backing_file")) {
            g_free(c->backing_file);
            c->backing_file = g_strdup(kv->value);
        } else if (!strcmp(kv->key, "backing_fmt")) {
            g_free(c->backing_format);
            c->backing_format = g_strdup(kv->value);
        } else {
            g_autofree char *quoted = keyval_quote(kv->value);

            g_string_append_printf(c->extra, "%s%s=%s",
                                   c->extra->len ? "," : "", kv->key, quoted);
        }
    }
    return list;
}

/* What has a letter of its own counts more; what is no option of the format is
 * found out before anything is opened. */
static bool take_options(struct create *c, const GPtrArray *strings,
                         GError **error)
{
    const struct block_driver *driver = block_driver_find(c->format);
    struct create_params *p = &c->params;

    for (unsigned i = 0; i < strings->len; i++) {
        const char *text = g_ptr_array_index(strings, i);
        if (!img_check_create_options(c->format, text, error) ||
            !sort_options(c, text, error)) {
            return false;
        }
    }
    if (driver && !driver->supports_backing && p->backing_file) {
        return error_set(error,
                         "Backing file not supported for file format '%s'",
                         c->format);
    }
    if (driver && !driver->supports_backing && p->backing_format) {
        return error_set(
            error, "Backing file format not supported for file format '%s'",
            c->format);
    }
    p->backing_file = p->backing_file ? p->backing_file : c->backing_file;
    p->backing_format =
        p->backing_format ? p->backing_format : c->backing_format;
    return true;
}

static bool refuse_no_format(GError **error)
{
    return error_set(error, "Backing file specified without backing format");
}

/* Opens the backing image: it must exist, and without a size given the new
 * image takes its size. */
static bool co_check_backing(struct create *c, GError **error)
{
    struct create_params *p = &c->params;
    g_autofree char *path = NULL;
    struct open_defaults d = {.read_only = true};

    if (!p->backing_file) {
        return true;
    }
    if (!*p->backing_file) {
        return error_set(error, "Expected backing file name, got empty string");
    }
    if (!strcmp(p->backing_file, c->filename)) {
        return error_set(error, "Error: Trying to create an image with the "
                                "same filename as the backing file");
    }
    if (c->unsafe) {
        return p->backing_format || refuse_no_format(error);
    }
    path = img_backing_path(c->filename, p->backing_file);
    struct node *node =
        co_node_open_filename(path, p->backing_format, &d, error);
    if (!node) {
        error_add_hint(error, "Could not open backing image.");
        return false;
    }
    if (p->size < 0) {
        p->size = node->length;
    }
    bool ok = p->backing_format || refuse_no_format(error);
    if (!ok) {
        error_add_hint(error, "Detected format of %s.", node->driver->name);
    }
    co_node_unref(node);
    return ok;
}

static int co_create_image(void *opaque)
{
    struct create *c = opaque;
    g_autoptr(GError) error = NULL;

    if (!co_check_backing(c, &error)) {
        return tool_fail_at(c->filename, &error);
    }
    if (c->params.size < 0) {
        error_set(&error, "Image creation needs a size parameter");
        return tool_fail_at(c->filename, &error);
    }
    if (!c->quiet) {
        g_autofree char *summary = img_create_summary(c->format, &c->params);
        printf("Formatting '%s', %s\n", c->filename, summary);
        fflush(stdout);
    }
    if (!co_image_create(c->filename, c->format, &c->params, &error)) {
        return tool_fail_at(c->filename, &error);
    }
    return 0;
}

static int create_run(int argc, char **argv)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GString) extra = g_string_new(NULL);
    struct create c = {.format = "raw", .params = {.size = -1}, .extra = extra};
    g_autoptr(GPtrArray) option_strings =
        g_ptr_array_new_with_free_func(g_free);
    const struct tool_option rows[] = {
        {'f', NULL, .text = &c.format},
        {'F', NULL, .text = &c.params.backing_format},
        {'b', NULL, .text = &c.params.backing_file},
        {'u', NULL, .flag = &c.unsafe},
        {'o', NULL, .take = img_take_create_options, .opaque = option_strings},
        {'q', NULL, .flag = &c.quiet},
        {0, "object", .take = tool_take_object},
        {0},
    };
    int status, at = tool_options(argc, argv, rows, &status);

    if (!at) {
        return status;
    }
    if (img_is_help(option_strings)) {
        return img_print_create_options(c.format, at < argc);
    }
    if (at >= argc) {
        return tool_usage_error("Expecting image file name");
    }
    c.filename = argv[at++];
    c.size_is_a_word = at < argc;
    if (c.size_is_a_word &&
        !tool_parse_size("image size", argv[at++], &c.params.size)) {
        return 1;
    }
    if (at < argc) {
        return tool_usage_error("Unexpected argument: %s", argv[at]);
    }
    status = 1;
    if (!img_has_create_options(c.format)) {
        error_set(&error, "Unknown file format '%s'", c.format);
        tool_fail_at(c.filename, &error);
        goto out;
    }
    if (!take_options(&c, option_strings, &error)) {
        tool_fail_at(c.filename, &error);
        goto out;
    }
    c.params.extra = extra->len ? extra->str : NULL;
    status = tool_run(co_create_image, &c);
out:
    g_free(c.backing_file);
    g_free(c.backing_format);
    return status;
}

const struct subcommand cmd_create = {
    .name = "create",
    .usage = "[-q] [-f FMT] [-b BACKING -F FMT] [-u] [-o OPTIONS] FILE [SIZE]",
    .what = "Makes a new image.",
    .help =
        "  -f FMT      format of the new image: qcow2, raw (the default)\n"
        "  -b BACKING  what the new image is empty on top of\n"
        "  -F FMT      format of the backing image\n"
        "  -u          do not open the backing image to check it\n"
        "  -o OPTIONS  name=value,...; '-o help' lists those of the format\n"
        "  -q          print nothing\n"
        "\n"
        "SIZE is in bytes, or with a suffix k, M, G, T; without it, that of "
        "the\n"
        "backing image.\n"
        "\n"
        "examples:\n"
        "  varve-img create -f qcow2 disk.qcow2 20G\n"
        "  varve-img create -f qcow2 -b disk.qcow2 -F qcow2 overlay.qcow2\n",
    .run = create_run,
};
