/*
 * varve-img convert: copies the guest data of images into a new one, or into
 * one that is there; convert_copy.c does the copying.
 *
 * The target is not flushed before the end (cache mode unsafe, as long as -t
 * does not say otherwise): an interrupted conversion is worthless anyway.
 */
#include "tools/varve-img/convert.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "block/create.h"
#include "block/request.h"
#include "tools/varve-img/bitmaps.h"
#include "util/error.h"
#include "util/range.h"

enum {
    CHUNK = 256 * 1024, /* what the file driver copies without a hand-over */
    DEFAULT_TASKS = 8,
    MAX_TASKS = 16, /* as qemu-img -m */
    DEFAULT_SPARSE = 4096,
    MAX_SPARSE = 16 * 1024 * 1024,
};

/* ---- the target ---------------------------------------------------------- */

/* An image that was just made holds nothing; but a device still has what was on
 * it, which shows through a format without a map of its own. */
static bool new_reads_as_zeroes(const struct node *node)
{
    while (node->driver->writes_grow && node->file) {
        node = node->file->child;
    }
    return node->driver->kind != DRIVER_PROTOCOL ||
           node->driver->unmapped_reads_zero;
}

/* What is said about a new image is looked at before it is made. */
static bool check_format(const struct convert *c)
{
    g_autoptr(GError) error = NULL;
    const struct block_driver *driver = block_driver_find(c->format);

    if (!driver) {
        tool_error("Unknown file format '%s'", c->format);
        return false;
    }
    if (!driver->co_create_file) {
        tool_error("Format driver '%s' does not support image creation",
                   c->format);
        return false;
    }
    if (c->options &&
        !img_check_create_options(c->format, c->options, &error)) {
        tool_fail(&error);
        return false;
    }
    if (c->backing_file && !driver->supports_backing) {
        tool_error("Backing file not supported for file format '%s'",
                   c->format);
        return false;
    }
    if (c->sources > 1 && c->backing_file) {
        tool_error("Having a backing file for the target makes no sense when "
                   "concatenating multiple input images");
        return false;
    }
    if (c->backing_file && !c->backing_format) {
        tool_error("Use of backing file requires explicit backing format");
        return false;
    }
    return true;
}

/* -c is refused before anything is made. */
static bool check_compression(const struct convert *c)
{
    const struct block_driver *driver = block_driver_find(c->format);
    g_autofree char *prealloc = img_create_option(c->options, "preallocation");

    if (c->compressed && driver && !driver->writes_compressed) {
        tool_error("Compression not supported for this file format");
        return false;
    }
    if (c->compressed && prealloc && strcmp(prealloc, "off")) {
        tool_error("Compression and preallocation not supported at the same "
                   "time");
        return false;
    }
    return true;
}

static bool co_prepare_compression(struct convert *c)
{
    struct node_info info = {0};

    c->unit = 1;
    c->chunk = CHUNK;
    while (c->chunk < c->sparse) {
        c->chunk *= 2; /* a run that may be left out fits */
    }
    if (!c->compressed) {
        return true;
    }
    int ret = co_node_get_info(c->dst->node, &info);
    if (ret < 0 || !info.cluster_size) {
        tool_error("could not get block driver info");
        return false;
    }
    c->unit = info.cluster_size;
    c->chunk = max_i64(c->chunk, c->unit);
    return true;
}

static bool co_create_target(const struct convert *c)
{
    g_autoptr(GError) error = NULL;
    struct create_params params = {.size = c->total,
                                   .backing_file = c->backing_file,
                                   .backing_format = c->backing_format,
                                   .extra = c->options};

    if (!check_format(c) || !check_compression(c)) {
        return false;
    }
    if (!co_image_create(c->to.filename, c->format, &params, &error)) {
        tool_error("%s: error while converting %s: %s", c->to.filename,
                   c->format, error->message);
        return false;
    }
    return true;
}

static bool co_open_target(struct convert *c)
{
    if (!c->existing && !co_create_target(c)) {
        return false;
    }
    if (!c->to.image_opts) {
        c->to.format = c->format;
    }
    c->dst = co_img_open(&c->to);
    if (!c->dst) {
        return false;
    }
    if (c->compressed && !c->dst->node->driver->writes_compressed) {
        tool_error("Compression not supported for this file format");
        return false;
    }
    if (c->bitmaps && !img_takes_bitmaps(c->dst->node)) {
        return false;
    }
    if (backend_length(c->dst) < c->total) {
        tool_error("output file is smaller than input file");
        return false;
    }
    struct node *behind = node_backing_chain_next(c->dst->node);
    if (c->target_is_zero && behind) {
        tool_error("Cannot use --target-is-zero when the destination image has "
                   "a backing file");
        return false;
    }
    node_expect_bulk(c->dst->node);
    if (!co_prepare_compression(c)) {
        return false;
    }
    c->zero_from = INT64_MAX;
    if (c->target_is_zero) {
        c->zero_from = 0;
    } else if (!c->existing && new_reads_as_zeroes(c->dst->node)) {
        /* A new image shows what is behind it, and zeroes after that. */
        c->zero_from = behind      ? align_up(behind->length, c->unit)
                       : c->sparse ? 0
                                   : INT64_MAX;
    }
    return true;
}

/* ---- all of it ----------------------------------------------------------- */

static bool co_open_sources(struct convert *c)
{
    for (unsigned i = 0; i < c->sources; i++) {
        struct convert_source *s = &c->src[i];
        s->b = co_img_open(&s->how);
        if (!s->b) {
            return false;
        }
        node_expect_bulk(s->b->node);
        s->start = c->total;
        s->bytes = align_up(backend_length(s->b), BLOCK_SECTOR_SIZE);
        if (!range_add(c->total, s->bytes, &c->total)) {
            tool_error("The sources are too large together");
            return false;
        }
    }
    return true;
}

static bool co_run(struct convert *c)
{
    struct node *first;

    if (!co_open_sources(c)) {
        return false;
    }
    first = c->src[0].b->node;
    if ((c->bitmaps && !img_check_bitmaps(first, c->skip_broken)) ||
        !co_open_target(c) || !co_convert_copy(c) ||
        (c->bitmaps && !co_img_copy_bitmaps(first, c->dst->node))) {
        return false;
    }
    int ret = co_backend_flush(c->dst);
    if (ret < 0) {
        tool_error("error while flushing: %s", g_strerror(-ret));
    }
    return ret == 0;
}

static int co_convert(void *opaque)
{
    struct convert *c = opaque;
    bool ok = co_run(c);

    progress_end(&c->progress, ok);
    if (c->dst) {
        co_backend_unref(c->dst);
    }
    for (unsigned i = 0; i < c->sources; i++) {
        if (c->src[i].b) {
            co_backend_unref(c->src[i].b);
        }
    }
    return !ok;
}

/* ---- options ------------------------------------------------------------- */

static bool take_tasks(const char *text, void *opaque, int *status)
{
    unsigned *tasks = opaque;
    char *end;
    long n = strtol(text, &end, 10);

    if (*end || n < 1 || n > MAX_TASKS) {
        tool_error("Invalid number of coroutines. Allowed number of coroutines "
                   "is between 1 and %d",
                   MAX_TASKS);
        return false;
    }
    *tasks = n;
    return true;
}

static bool take_sparse(const char *text, void *opaque, int *status)
{
    int64_t *sparse = opaque;

    if (!tool_parse_size("buffer size for sparse output", text, sparse)) {
        return false;
    }
    if (*sparse &&
        (!is_aligned(*sparse, BLOCK_SECTOR_SIZE) || *sparse > MAX_SPARSE)) {
        tool_error("Invalid buffer size for sparse output specified. Valid "
                   "sizes are multiples of %d up to %d. Select 0 to disable "
                   "sparse detection (fully allocates output).",
                   BLOCK_SECTOR_SIZE, MAX_SPARSE);
        return false;
    }
    return true;
}

/* Options that do not go together, in the words of qemu-img. */
static bool check_together(const struct convert *c, bool sparse_given)
{
    const struct {
        bool wrong;
        const char *message;
    } rules[] = {
        {c->compressed && c->copy_range,
         "Cannot enable copy offloading when -c is used"},
        {sparse_given && c->copy_range,
         "Cannot enable copy offloading when -S is used"},
        {c->salvage && c->copy_range,
         "Cannot use copy offloading in salvaging mode"},
        {c->to.image_opts && !c->existing,
         "--target-image-opts requires use of -n flag"},
        {c->target_is_zero && !c->existing,
         "--target-is-zero requires use of -n flag"},
        {c->existing && c->options,
         "-o has no effect when skipping image creation"},
        {c->to.image_opts && c->format,
         "--image-opts and --format are mutually exclusive"},
        {c->skip_broken && !c->bitmaps,
         "Use of --skip-broken-bitmaps requires --bitmaps"},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(rules); i++) {
        if (rules[i].wrong) {
            tool_error("%s", rules[i].message);
            return false;
        }
    }
    return true;
}

/* n words name the sources and the target. */
static bool take_words(struct convert *c, const struct image_open *from, int n)
{
    if (n < 2) {
        tool_error("Must specify image file name");
        return false;
    }
    c->sources = n - 1;
    if (from->internal && c->sources > 1) {
        tool_error("No support for concatenating multiple snapshot");
        return false;
    }
    if (c->bitmaps && c->sources > 1) {
        tool_error("Copying bitmaps only possible with single source");
        return false;
    }
    return true;
}

/* The words of the command line, and what -o says about a backing file. */
static int convert_words(struct convert *c, struct image_open *from,
                         char **words)
{
    g_autofree char *file = img_create_option(c->options, "backing_file");
    g_autofree char *format = img_create_option(c->options, "backing_fmt");
    g_autofree struct convert_source *src =
        g_new0(struct convert_source, c->sources);

    c->backing_file = c->backing_file ? c->backing_file : file;
    c->backing_format = c->backing_format ? c->backing_format : format;
    if (!img_check_cache(&c->to) || !img_check_cache(from)) {
        return 1;
    }
    if (!c->format && !c->to.image_opts) {
        c->format = "raw";
    }
    for (unsigned i = 0; i < c->sources; i++) {
        src[i].how = *from;
        src[i].how.filename = words[i];
    }
    c->src = src;
    c->to.filename = words[c->sources];
    return tool_run(co_convert, c);
}

static int convert_run(int argc, char **argv)
{
    struct convert c = {.to = {.writable = true, .cache = "unsafe"},
                        .pool.limit = DEFAULT_TASKS,
                        .sparse = -1};
    struct image_open from = {.steady = true};
    int64_t rate = 0;
    g_autoptr(GPtrArray) options = g_ptr_array_new_with_free_func(g_free);
    bool progress = false, any_order;
    const struct tool_option rows[] = {
        {'c', NULL, .flag = &c.compressed},
        {'C', NULL, .flag = &c.copy_range},
        {'f', NULL, .text = &from.format},
        {'O', NULL, .text = &c.format},
        {'B', NULL, .text = &c.backing_file},
        {'F', NULL, .text = &c.backing_format},
        {'o', NULL, .take = img_take_create_options, .opaque = options},
        {'l', NULL, .take = img_take_snapshot, .opaque = &from},
        {'m', NULL, .take = take_tasks, .opaque = &c.pool.limit},
        {'r', NULL, .size = &rate, .what = "rate limit"},
        {'S', NULL, .take = take_sparse, .opaque = &c.sparse},
        {'t', NULL, .text = &c.to.cache},
        {'T', NULL, .text = &from.cache},
        {'n', NULL, .flag = &c.existing},
        {'p', NULL, .flag = &progress},
        {'q', NULL, .flag = &c.quiet},
        {'U', "force-share", .flag = &from.force_share},
        {'W', NULL, .flag = &any_order}, /* in which tasks write already */
        {0, "salvage", .flag = &c.salvage},
        {0, "target-is-zero", .flag = &c.target_is_zero},
        {0, "bitmaps", .flag = &c.bitmaps},
        {0, "skip-broken-bitmaps", .flag = &c.skip_broken},
        {0, "image-opts", .flag = &from.image_opts},
        {0, "target-image-opts", .flag = &c.to.image_opts},
        {0, "object", .take = tool_take_object},
        {0},
    };
    int status, first = tool_options(argc, argv, rows, &status);

    if (!first) {
        return status;
    }
    if (img_is_help(options) && !c.existing) {
        return img_print_create_options(c.format ? c.format : "raw",
                                        first < argc);
    }
    g_autofree char *joined = img_join_options(options);
    c.options = *joined ? joined : NULL;
    if (!check_together(&c, c.sparse >= 0)) {
        return 1;
    }
    if (!take_words(&c, &from, argc - first)) {
        return 1;
    }
    c.sparse = c.sparse < 0 ? DEFAULT_SPARSE : c.sparse;
    bucket_set_rate(&c.rate, rate);
    progress_start(&c.progress, progress && !c.quiet);
    return convert_words(&c, &from, argv + first);
}

const struct subcommand cmd_convert = {
    .name = "convert",
    .usage = "[-c] [-C] [-f FMT] [-O FMT] [-o OPTIONS] [-B BACKING -F FMT] "
             "[-l SNAPSHOT] [-n] [-m N] [-S SIZE] [-r RATE] [-t CACHE] [-T "
             "CACHE] [-p] [-q] "
             "[-U] [-W] [--salvage] [--bitmaps [--skip-broken-bitmaps]] "
             "FROM... TO",
    .what = "Copies images into a new one, perhaps of another format.",
    .help =
        "  -c          compress the data; the new image must be qcow2\n"
        "  -C          copy within the storage where it can, without a look at "
        "the data\n"
        "  -f FMT      format of the sources; found out if not given\n"
        "  -O FMT      format of the new image: qcow2, raw (the default)\n"
        "  -o OPTIONS  creation options of the new image; '-o help' lists "
        "them\n"
        "  -B BACKING  backing file of the new image, which has what is behind "
        "the\n"
        "              source: copy what the source has itself\n"
        "  -F FMT      format of the backing file\n"
        "  -n          the target exists: write into it\n"
        "  --target-is-zero  with -n: it reads as zeroes\n"
        "  -l SNAPSHOT what a snapshot within the source has: its number or "
        "name, or\n"
        "              snapshot.id=ID,snapshot.name=NAME\n"
        "  -m N        copy N ranges at once, 1 to 16 (default 8)\n"
        "  -r RATE     bytes a second, with a suffix k, M, G\n"
        "  -S SIZE     leave runs of SIZE zero bytes out (default 4k, 0: "
        "none)\n"
        "  --salvage   zeroes in the place of what cannot be read\n"
        "  -t, -T MODE cache modes of target (unsafe) and source (writeback)\n"
        "  -p          show progress; SIGUSR1 shows it once\n"
        "  -q          print nothing but errors\n"
        "  -U          open sources that another process writes to\n"
        "  -W          write in any order, which is always so\n"
        "  --bitmaps   copy the source's persistent bitmaps, too\n"
        "  --skip-broken-bitmaps  leave out those that cannot be used\n"
        "  --image-opts, --target-image-opts\n"
        "              FROM, or TO, is a list of options, not a name\n"
        "\n"
        "Several sources go into the new image one behind the other.\n"
        "\n"
        "examples:\n"
        "  varve-img convert -p -O qcow2 disk.raw disk.qcow2\n"
        "  varve-img convert -c -O qcow2 -o compression_type=zstd disk.raw "
        "small.qcow2\n"
        "  varve-img convert -f qcow2 -O raw disk.qcow2 disk.raw\n",
    .run = convert_run,
};
