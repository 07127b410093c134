/*
 * varve-img amend: changes the options of an image that exists.
 */
#include "tools/varve-img/img.h"

#include <stdio.h>
#include <string.h>
#include "block/driver.h"

struct amend {
    struct image_open how;
    GString *options;
    bool progress, quiet, force;
};

struct followed {
    struct progress progress;
    int64_t done, total;
};

static bool co_follow(struct amend_request *request, int64_t done, int64_t more)
{
    struct followed *f = request->opaque;

    f->done += done;
    f->total += more;
    progress_update(&f->progress, f->done, f->total);
    return true;
}

static int co_amend(void *opaque, struct node *node)
{
    const struct amend *o = opaque;
    g_autoptr(GError) error = NULL;

    if (!node->driver->co_amend) {
        tool_error("Format driver '%s' does not support option amendment",
                   node->driver->name);
        return 1;
    }
    struct followed f = {0};
    struct amend_request request = {
        .text = o->options->str, .co_progress = co_follow, .opaque = &f};

    progress_start(&f.progress, o->progress && !o->quiet);
    bool ok = node->driver->co_amend(node, &request, &error);
    progress_end(&f.progress, ok);
    return ok ? 0 : tool_fail(&error);
}

static int print_options(void)
{
    printf("Amend options for 'qcow2':\n"
           "  backing_file=<str>     - File name of a base image\n"
           "  backing_fmt=<str>      - Image format of the base image\n"
           "  compat=<str>           - Compatibility level (v2 [0.10] or v3 "
           "[1.1])\n"
           "  data_file=<str>        - File name of an external data file\n"
           "  data_file_raw=<bool (on/off)> - The external data file must stay "
           "valid as a raw image\n"
           "  lazy_refcounts=<bool (on/off)> - Postpone refcount updates\n"
           "  refcount_bits=<num>    - Width of a reference count entry in "
           "bits\n"
           "  size=<size>            - Virtual disk size\n");
    return 0;
}

/* Several -o are one list. True if one asks for help. */
static bool join_options(struct amend *o, const GPtrArray *strings)
{
    for (unsigned i = 0; i < strings->len; i++) {
        const char *text = g_ptr_array_index(strings, i);
        if (!strcmp(text, "help") || !strcmp(text, "?")) {
            return true;
        }
        g_string_append_printf(o->options, "%s%s", i ? "," : "", text);
    }
    return false;
}

static int amend_run(int argc, char **argv)
{
    g_autoptr(GPtrArray) strings = g_ptr_array_new();
    g_autoptr(GString) options = g_string_new(NULL);
    struct amend o = {.how = {.writable = true, .resize = true},
                      .options = options};
    const struct tool_option rows[] = {
        {'f', NULL, .text = &o.how.format},
        {'o', NULL, .list = strings},
        {'t', NULL, .text = &o.how.cache},
        {'p', NULL, .flag = &o.progress},
        {'q', NULL, .flag = &o.quiet},
        {0, "force", .flag = &o.force},
        {0, "image-opts", .flag = &o.how.image_opts},
        {0, "object", .take = tool_take_object},
        {0},
    };
    int status, first = tool_options(argc, argv, rows, &status);

    if (!first) {
        return status;
    }
    if (!strings->len) {
        return tool_usage_error("Must specify options (-o)");
    }
    if (join_options(&o, strings)) {
        if (o.how.format || first < argc) {
            return print_options();
        }
        tool_error("Expecting one image file name");
        return 1;
    }
    if (!img_one_filename(argc, argv, first, &o.how)) {
        return 1;
    }
    return img_run(&o.how, co_amend, &o);
}

const struct subcommand cmd_amend = {
    .name = "amend",
    .usage = "[-f FMT] [-t CACHE] [-p] [-q] [--force] -o OPTIONS FILE",
    .what = "Changes the options of an image that exists.",
    .help =
        "  -o OPTIONS        what is to be changed; -o help lists it\n"
        "  -f FMT            format of the image; found out if not given\n"
        "  -t CACHE          cache mode: none, writeback (the default) ...\n"
        "  -p                show progress\n"
        "  -q                print nothing\n"
        "  --force           accepted; nothing here needs it\n"
        "  --image-opts      FILE is a list of options, not a name\n"
        "\n"
        "examples:\n"
        "  varve-img amend -o compat=1.1,refcount_bits=8 disk.qcow2\n"
        "  varve-img amend -o size=20G disk.qcow2\n",
    .run = amend_run,
};
