/*
 * varve-img bitmap: works on the bitmaps that are stored in an image.
 *
 * Actions are done in the order in which they are given; the first failure ends
 * it, and what was done before stays done. --list and --repair are about all
 * bitmaps of an image.
 */
#include "tools/varve-img/img.h"

#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>
#include "block/dirty_bitmap.h"
#include "qapi/codec.h"
#include "qapi/types.h"
#include "tools/varve-img/bitmaps.h"
#include "util/error.h"

struct bitmap {
    struct image_open how, source;
    const char *name;
    int64_t granularity;
    GPtrArray *actions; /* names of those below */
    GPtrArray *merges;  /* the arguments of "merge" */
    unsigned merged;
    bool add, remove, clear, enable, disable, list, repair, json;
    struct node *source_node; /* of merges */
};

/* ---- actions ------------------------------------------------------------- */

static struct dirty_bitmap *find(struct node *node, const char *name,
                                 unsigned refuse, GError **error)
{
    struct dirty_bitmap *b = dirty_bitmap_find(node, name);

    if (!b) {
        error_set(error, "Dirty bitmap '%s' not found", name);
        return NULL;
    }
    return dirty_bitmap_check(b, refuse, error) ? b : NULL;
}

static bool co_add(struct bitmap *o, struct node *node, GError **error)
{
    return co_dirty_bitmap_add(node, o->name, o->granularity, true, false,
                               error);
}

static bool co_remove(struct bitmap *o, struct node *node, GError **error)
{
    struct dirty_bitmap *b =
        find(node, o->name, REFUSE_BUSY | REFUSE_READONLY, error);

    return b && co_dirty_bitmap_remove(b, error);
}

static bool co_clear(struct bitmap *o, struct node *node, GError **error)
{
    struct dirty_bitmap *b = find(node, o->name, REFUSE_DEFAULT, error);

    if (b) {
        dirty_bitmap_clear(b, NULL);
    }
    return b;
}

static bool co_enable(struct bitmap *o, struct node *node, GError **error)
{
    struct dirty_bitmap *b = find(node, o->name, REFUSE_ALLOW_RO, error);

    if (b) {
        dirty_bitmap_enable(b);
    }
    return b;
}

static bool co_disable(struct bitmap *o, struct node *node, GError **error)
{
    struct dirty_bitmap *b = find(node, o->name, REFUSE_ALLOW_RO, error);

    if (b) {
        dirty_bitmap_disable(b);
    }
    return b;
}

static bool co_merge(struct bitmap *o, struct node *node, GError **error)
{
    const char *name = g_ptr_array_index(o->merges, o->merged++);
    struct dirty_bitmap *to = find(node, o->name, REFUSE_DEFAULT, error);
    struct dirty_bitmap *from =
        to ? find(o->source_node, name, REFUSE_ALLOW_RO, error) : NULL;

    return from && dirty_bitmap_merge(to, from, NULL, error);
}

static const struct action {
    const char *name;
    bool (*co_do)(struct bitmap *o, struct node *node, GError **error);
} actions[] = {
    {"add", co_add},       {"remove", co_remove},   {"clear", co_clear},
    {"enable", co_enable}, {"disable", co_disable}, {"merge", co_merge},
};

static int co_act(struct bitmap *o, struct node *node)
{
    g_autoptr(GError) error = NULL;

    for (unsigned i = 0; i < o->actions->len; i++) {
        const char *name = g_ptr_array_index(o->actions, i);
        const struct action *a = actions;
        while (strcmp(a->name, name)) {
            a++;
        }
        if (!a->co_do(o, node, &error)) {
            tool_error("Operation %s on bitmap %s failed: %s", name, o->name,
                       error->message);
            return 1;
        }
    }
    return 0;
}

/* ---- all bitmaps of an image --------------------------------------------- */

static int co_repair(struct node *node)
{
    g_autoptr(GError) error = NULL;
    struct dirty_bitmap *b, *next;
    unsigned dropped = 0;

    for (b = LIST_FIRST(&node->bitmaps); b; b = next) {
        next = LIST_NEXT(b, link);
        if (!b->inconsistent) {
            continue;
        }
        g_autofree char *text =
            g_strdup_printf("Removed bitmap '%s': %s", b->name, b->reason);
        if (!co_dirty_bitmap_remove(b, &error)) {
            return tool_fail(&error);
        }
        printf("%s\n", text);
    }
    if (node->driver->co_repair_bitmaps &&
        !node->driver->co_repair_bitmaps(node, &dropped, &error)) {
        return tool_fail(&error);
    }
    if (dropped) {
        printf("The bitmap directory was damaged; what is readable is kept\n");
    }
    return 0;
}

static int co_bitmap_of(struct bitmap *o, struct node *node)
{
    if (o->list) {
        img_list_bitmaps(node, o->json);
        return 0;
    }
    return o->repair ? co_repair(node) : co_act(o, node);
}

static int co_bitmap(void *opaque)
{
    struct bitmap *o = opaque;
    struct backend *source = NULL;
    int status = 1;

    o->how.writable = !o->list;
    struct backend *b = co_img_open(&o->how);
    if (!b) {
        return 1;
    }
    if (o->source.filename) {
        source = co_img_open(&o->source);
    }
    if (!o->source.filename || source) {
        o->source_node = source ? source->node : b->node;
        status = co_bitmap_of(o, b->node);
    }
    if (source) {
        co_backend_unref(source);
    }
    co_backend_unref(b);
    return status;
}

/* ---- the command line ---------------------------------------------------- */

static bool refuse(const char *text)
{
    tool_error("%s", text);
    return false;
}

static bool check(const struct bitmap *o)
{
    if (o->list || o->repair) {
        return (!o->actions->len && !(o->list && o->repair)) ||
               refuse("--list and --repair cannot be combined with others");
    }
    if (!o->actions->len) {
        return refuse("Need at least one of --add, --remove, --clear, "
                      "--enable, --disable, or --merge");
    }
    if (o->granularity && !o->add) {
        return refuse("granularity only supported with --add");
    }
    if (o->source.format && !o->source.filename) {
        return refuse("-F only supported with -b");
    }
    if (o->source.filename && !o->merges->len) {
        return refuse("Merge bitmap source file only supported with --merge");
    }
    return true;
}

/* The words after the options. */
static bool take_words(struct bitmap *o, int argc, char **argv, int first)
{
    if (o->list || o->repair) {
        return img_one_filename(argc, argv, first, &o->how);
    }
    if (argc - first != 2) {
        return refuse("Expecting filename and bitmap name");
    }
    o->how.filename = argv[first];
    o->name = argv[first + 1];
    return true;
}

static int bitmap_run(int argc, char **argv)
{
    g_autoptr(GPtrArray) order = g_ptr_array_new();
    g_autoptr(GPtrArray) merges = g_ptr_array_new();
    struct bitmap o = {.actions = order, .merges = merges};
    const struct tool_option rows[] = {
        {0, "add", .flag = &o.add, .order = order},
        {0, "remove", .flag = &o.remove, .order = order},
        {0, "clear", .flag = &o.clear, .order = order},
        {0, "enable", .flag = &o.enable, .order = order},
        {0, "disable", .flag = &o.disable, .order = order},
        {0, "merge", .list = merges, .order = order},
        {0, "list", .flag = &o.list},
        {0, "repair", .flag = &o.repair},
        {0, "output", .json = &o.json},
        {'b', "source-file", .text = &o.source.filename},
        {'F', "source-format", .text = &o.source.format},
        {'f', "format", .text = &o.how.format},
        {'g', "granularity", .size = &o.granularity, .what = "granularity"},
        {'U', "force-share", .flag = &o.how.force_share},
        {0, "image-opts", .flag = &o.how.image_opts},
        {0, "object", .take = tool_take_object},
        {0},
    };
    int status, first = tool_options(argc, argv, rows, &status);

    if (!first) {
        return status;
    }
    if (!check(&o) || !take_words(&o, argc, argv, first)) {
        return 1;
    }
    return tool_run(co_bitmap, &o);
}

const struct subcommand cmd_bitmap = {
    .name = "bitmap",
    .usage = "(--merge SOURCE | --add | --remove | --clear | --enable | "
             "--disable)... [-b FILE [-F FMT]] [-g SIZE] [-f FMT] FILE BITMAP\n"
             "       varve-img bitmap --list [--output=human|json] [-U] FILE\n"
             "       varve-img bitmap --repair FILE",
    .what = "Changes, lists and repairs the bitmaps stored in an image.",
    .help =
        "  --add           makes the bitmap\n"
        "  --remove        deletes it\n"
        "  --clear         forgets what it has noted\n"
        "  --enable        lets it note writes; --disable stops that\n"
        "  --merge SOURCE  adds what the bitmap SOURCE has noted\n"
        "  -b FILE         SOURCE is in this image; -F FMT is its format\n"
        "  -g SIZE         granularity for --add: 512 to 2G\n"
        "  --list          all bitmaps: state, granularity, dirty bytes\n"
        "  --repair        deletes those that cannot be used\n"
        "  --output=FORMAT with --list: human (the default) or json\n"
        "  -f FMT          format of the image; found out if not given\n"
        "  -U              with --list: open an image that is in use\n"
        "  --image-opts    FILE is a list of options, not a name\n"
        "\n"
        "examples:\n"
        "  varve-img bitmap --add -g 64k disk.qcow2 monday\n"
        "  varve-img bitmap --merge monday --merge tuesday disk.qcow2 week\n"
        "  varve-img bitmap --list disk.qcow2\n",
    .run = bitmap_run,
};
