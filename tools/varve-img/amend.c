/*
 * varve-img amend: changes the options of an image that exists.
 */
#include "tools/varve-img/img.h"

#include <stdio.h>
#include <string.h>
#include "block/driver.h"

struct amend {
    struct image_open how;
    const char *options;
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

static bool check_format(const struct block_driver *driver)
{
    if (!driver->co_amend) {
        tool_error("Format driver '%s' does not support option amendment",
                   driver->name);
    }
    return driver->co_amend;
}

static int co_amend(void *opaque, struct node *node)
{
    const struct amend *o = opaque;
    g_autoptr(GError) error = NULL;

    struct followed f = {0};
    struct amend_request request = {
        .text = o->options, .co_progress = co_follow, .opaque = &f};

    if (!check_format(node->driver)) {
        return 1;
    }
    progress_start(&f.progress, o->progress && !o->quiet);
    bool ok = node->driver->co_amend(node, &request, &error);
    progress_end(&f.progress, ok);
    return ok ? 0 : tool_fail(&error);
}

/* Of the format that is said, or is found. */
static int co_print_options(void *opaque, struct node *node)
{
    if (!check_format(node->driver)) {
        return 1;
    }
    return img_print_amend_options(node->driver->name);
}

static int print_options(const struct amend *o)
{
    const struct block_driver *driver = block_driver_find(o->how.format);

    if (!driver) {
        tool_error("Unknown file format '%s'", o->how.format);
    }
    return driver && check_format(driver)
               ? img_print_amend_options(driver->name)
               : 1;
}

static int amend_run(int argc, char **argv)
{
    g_autoptr(GPtrArray) strings = g_ptr_array_new_with_free_func(g_free);
    struct amend o = {.how = {.writable = true, .resize = true}};
    const struct tool_option rows[] = {
        {'f', NULL, .text = &o.how.format},
        {'o', NULL, .take = img_take_create_options, .opaque = strings},
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
    bool help = img_is_help(strings);
    if (help && o.how.format) {
        return print_options(&o);
    }
    if (argc - first != 1) {
        tool_error("Expecting one image file name");
        return 1;
    }
    o.how.filename = argv[first];
    g_autofree char *joined = img_join_options(strings);
    o.options = joined;
    return img_run(&o.how, help ? co_print_options : co_amend, &o);
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
