/*
 * varve-img check: whether an image's metadata agree, for people or as JSON.
 */
#include "tools/varve-img/img.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "block/driver.h"
#include "block/check_report.h"
#include "qapi/codec.h"

/* The exit status, beside 0 and 1. */
enum { CHECK_ERRORS = 2, CHECK_LEAKS = 3, CHECK_NOT_SUPPORTED = 63 };

struct check {
    struct image_open how;
    bool json, quiet;
    const char *repair; /* "leaks", "all" or NULL */
};

static void print_found(struct check_report *check, enum check_report_kind kind,
                        bool fixed, const char *message)
{
    fprintf(stderr, "%s %s\n",
            fixed                       ? "Repairing"
            : kind == CHECK_REPORT_LEAK ? "Leaked"
                                        : "ERROR",
            message);
}

static double percent(int64_t part, int64_t whole)
{
    return whole ? 100.0 * (double)part / (double)whole : 0;
}

static void print_human(const struct check_report *c)
{
    if (!c->errors && !c->leaks && !c->check_errors) {
        printf("No errors were found on the image.\n");
    }
    if (c->errors) {
        printf("\n%" PRId64 " errors were found on the image.\n"
               "Data may be corrupted, or further writes to the image may "
               "corrupt it.\n",
               c->errors);
    }
    if (c->leaks) {
        printf("\n%" PRId64 " leaked clusters were found on the image.\n"
               "This means waste of disk space, but no harm to data.\n",
               c->leaks);
    }
    if (c->check_errors) {
        printf("\n%" PRId64 " internal errors have occurred during the "
               "check.\n",
               c->check_errors);
    }
    if (c->total && c->allocated) {
        printf("%" PRId64 "/%" PRId64 " = %0.2f%% allocated, %0.2f%% "
               "fragmented, %0.2f%% compressed clusters\n",
               c->allocated, c->total, percent(c->allocated, c->total),
               percent(c->fragmented, c->allocated),
               percent(c->compressed, c->allocated));
    }
    if (c->end) {
        printf("Image end offset: %" PRId64 "\n", c->end);
    }
}

/* What is 0 is left out, but for the errors of checking itself. */
static void print_json(const struct check *o, const struct node *node,
                       const struct check_report *c)
{
    struct image_check answer = {
        .filename = (char *)o->how.filename,
        .format = (char *)node->driver->name,
        .check_errors = c->check_errors,
        .has_corruptions_fixed = c->errors_fixed,
        .corruptions_fixed = c->errors_fixed,
        .has_leaks_fixed = c->leaks_fixed,
        .leaks_fixed = c->leaks_fixed,
        .has_image_end_offset = c->end,
        .image_end_offset = c->end,
        .has_corruptions = c->errors,
        .corruptions = c->errors,
        .has_leaks = c->leaks,
        .leaks = c->leaks,
        .has_total_clusters = c->total,
        .total_clusters = c->total,
        .has_allocated_clusters = c->allocated,
        .allocated_clusters = c->allocated,
        .has_fragmented_clusters = c->fragmented,
        .fragmented_clusters = c->fragmented,
        .has_compressed_clusters = c->compressed,
        .compressed_clusters = c->compressed,
    };
    tool_print_json(qapi_encode(&qapi_type_image_check, &answer));
}

/* Repairs, and if that found something to do, checks again without: then *c
 * has what is wrong now, and what was repaired before. */
static bool co_check_and_repair(const struct check *o, struct node *node,
                                struct check_report *c, GError **error)
{
    struct check_report again = {.found = print_found};

    if (!node->driver->co_check(node, c, error)) {
        return false;
    }
    if (!c->errors_fixed && !c->leaks_fixed) {
        return true;
    }
    if (!o->json && !o->quiet) {
        printf("The following inconsistencies were found and repaired:\n\n"
               "    %" PRId64 " leaked clusters\n"
               "    %" PRId64 " corruptions\n\n"
               "Double checking the fixed image now...\n",
               c->leaks_fixed, c->errors_fixed);
    }
    if (!node->driver->co_check(node, &again, error)) {
        return false;
    }
    again.errors_fixed = c->errors_fixed;
    again.leaks_fixed = c->leaks_fixed;
    *c = again;
    return true;
}

static int co_check(void *opaque, struct node *node)
{
    const struct check *o = opaque;
    struct check_report c = {
        .found = print_found,
        .fix_leaks = o->repair,
        .fix_errors = o->repair && !strcmp(o->repair, "all"),
    };
    g_autoptr(GError) error = NULL;

    if (!node->driver->co_check) {
        tool_error("This image format does not support checks");
        return CHECK_NOT_SUPPORTED;
    }
    if (!co_check_and_repair(o, node, &c, &error)) {
        return tool_fail(&error);
    }
    if (o->json && !o->quiet) {
        print_json(o, node, &c);
    } else if (!o->quiet) {
        print_human(&c);
    }
    return c.check_errors ? 1
           : c.errors     ? CHECK_ERRORS
           : c.leaks      ? CHECK_LEAKS
                          : 0;
}

static int check_run(int argc, char **argv)
{
    struct check o = {.how = {.steady = true, .check = true}};
    const struct tool_option rows[] = {
        {'f', "format", .text = &o.how.format},
        {'r', "repair", .text = &o.repair},
        {'T', NULL, .text = &o.how.cache},
        {'q', NULL, .flag = &o.quiet},
        {'U', "force-share", .flag = &o.how.force_share},
        {0, "output", .json = &o.json},
        {0, "image-opts", .flag = &o.how.image_opts},
        {0, "object", .take = tool_take_object},
        {0},
    };
    int status;

    if (!img_options(argc, argv, rows, &o.how, &status)) {
        return status;
    }
    if (o.repair && strcmp(o.repair, "leaks") && strcmp(o.repair, "all")) {
        return tool_usage_error("Unknown option value for -r (expecting "
                                "'leaks' or 'all'): %s",
                                o.repair);
    }
    o.how.writable = o.how.resize = o.repair;
    return img_run(&o.how, co_check, &o);
}

const struct subcommand cmd_check = {
    .name = "check",
    .usage = "[-f FMT] [--output=human|json] [-r leaks|all] [-T CACHE] [-q] "
             "[-U] FILE",
    .what = "Tells whether the metadata of an image agree, and repairs them.",
    .help =
        "  -f FMT            format of the image; found out if not given\n"
        "  --output=FORMAT   human (the default) or json\n"
        "  -r leaks          give clusters back that nothing refers to\n"
        "  -r all            repair all that can be\n"
        "  -T CACHE          cache mode: none, writeback (the default) ...\n"
        "  -q                say nothing, but by the exit status\n"
        "  --image-opts      FILE is a list of options, not a name\n"
        "  -U, --force-share open an image that another process writes to\n"
        "\n"
        "exit status: 0 all is well, 1 the check failed, 2 errors, 3 "
        "leaked\nclusters and no errors, 63 the format has no check\n"
        "\n"
        "example:\n"
        "  varve-img check disk.qcow2\n"
        "  varve-img check -r all disk.qcow2\n",
    .run = check_run,
};
