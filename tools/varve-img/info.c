/*
 * varve-img info: what an image says of itself, for people or as JSON.
 */
#include "tools/varve-img/img.h"

#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>
#include "qapi/codec.h"
#include "qapi/image_text.h"
#include "tools/common/image_info.h"
#include "tools/varve-img/bitmaps.h"
#include "util/error.h"

struct info {
    struct image_open how;
    bool json, chain, bitmaps;
};

static void print_human(const struct image_info *i)
{
    g_autofree char *virtual_size = tool_size_text(i->virtual_size);
    g_autofree char *disk_size = i->has_actual_size
                                     ? tool_size_text(i->actual_size)
                                     : g_strdup("unavailable");

    printf("image: %s\nfile format: %s\nvirtual size: %s (%" PRId64
           " bytes)\ndisk size: %s\n",
           i->filename, i->format, virtual_size, i->virtual_size, disk_size);
    if (i->has_encrypted && i->encrypted) {
        printf("encrypted: yes\n");
    }
    if (i->has_cluster_size) {
        printf("cluster_size: %" PRId64 "\n", i->cluster_size);
    }
    if (i->has_dirty_flag && i->dirty_flag) {
        printf("cleanly shut down: no\n");
    }
    if (i->backing_filename) {
        printf("backing file: %s", i->backing_filename);
        if (i->full_backing_filename &&
            strcmp(i->full_backing_filename, i->backing_filename)) {
            printf(" (actual path: %s)", i->full_backing_filename);
        }
        printf("\n");
    }
    if (i->backing_filename_format) {
        printf("backing file format: %s\n", i->backing_filename_format);
    }
    if (i->has_snapshots) {
        tool_print_snapshots(stdout, &i->snapshots);
    }
    qapi_print_image_specific(stdout, i->format_specific);
}

static struct json_object *encode_one(struct image_info *i)
{
    struct json_object *tree = qapi_encode(&qapi_type_image_info, i);

    /* The chain is printed as a list, not nested. */
    json_object_object_del(tree, "backing-image");
    return tree;
}

/* One image of the chain; what is behind it is another one. */
struct layer {
    struct backend *b;
    struct image_info *info;
};

static struct json_object *layer_json(const struct info *o,
                                      const struct layer *layer)
{
    struct json_object *tree = encode_one(layer->info);

    if (o->bitmaps) {
        json_object_object_add(tree, "bitmaps",
                               img_bitmaps_json(layer->b->node));
    }
    return tree;
}

static void print_info(const struct info *o, const GArray *layers)
{
    struct json_object *list = json_object_new_array();

    for (unsigned i = 0; i < layers->len; i++) {
        const struct layer *layer = &g_array_index(layers, struct layer, i);
        if (o->json) {
            json_object_array_add(list, layer_json(o, layer));
            continue;
        }
        printf("%s", i ? "\n" : "");
        print_human(layer->info);
        if (o->bitmaps) {
            printf("Bitmaps:\n");
            img_list_bitmaps(layer->b->node, false);
        }
    }
    if (o->json) {
        tool_print_json(json_object_get(
            o->chain ? list : json_object_array_get_idx(list, 0)));
    }
    json_object_put(list);
}

/* Each image is opened by itself, by the name that the one above it has for it,
 * so that a chain with a gap can be looked at down to there. */
static bool co_collect(const struct info *o, GArray *layers)
{
    g_autoptr(GHashTable) seen = g_hash_table_new(g_str_hash, g_str_equal);
    struct image_open how = o->how;
    g_autoptr(GError) error = NULL;

    while (how.filename) {
        if (!g_hash_table_add(seen, (gpointer)how.filename)) {
            tool_error("Backing file '%s' creates an infinite loop.",
                       how.filename);
            return false;
        }
        struct layer layer = {.b = co_img_open(&how)};
        if (!layer.b) {
            return false;
        }
        layer.info = co_node_query_image(layer.b->node, false, &error);
        g_array_append_val(layers, layer);
        if (!layer.info) {
            tool_fail(&error);
            return false;
        }
        how.image_opts = false;
        how.filename = o->chain ? layer.info->full_backing_filename : NULL;
        how.format = layer.info->backing_filename_format;
    }
    return true;
}

static int co_info(void *opaque)
{
    struct info *o = opaque;
    g_autoptr(GArray) layers = g_array_new(false, false, sizeof(struct layer));

    o->how.no_backing = o->how.no_data = true;
    bool ok = co_collect(o, layers);
    if (ok) {
        print_info(o, layers);
    }
    for (unsigned i = 0; i < layers->len; i++) {
        struct layer *layer = &g_array_index(layers, struct layer, i);
        image_info_free(layer->info);
        co_backend_unref(layer->b);
    }
    return !ok;
}

static int info_run(int argc, char **argv)
{
    struct info o = {0};
    const struct tool_option rows[] = {
        {'f', "format", .text = &o.how.format},
        {'U', "force-share", .flag = &o.how.force_share},
        {0, "output", .json = &o.json},
        {0, "backing-chain", .flag = &o.chain},
        {0, "bitmaps", .flag = &o.bitmaps},
        {0, "image-opts", .flag = &o.how.image_opts},
        {0, "object", .take = tool_take_object},
        {0},
    };
    int status;

    if (!img_options(argc, argv, rows, &o.how, &status)) {
        return status;
    }
    return tool_run(co_info, &o);
}

const struct subcommand cmd_info = {
    .name = "info",
    .usage = "[-f FMT] [--output=human|json] [--backing-chain] [--bitmaps] "
             "[-U] FILE",
    .what = "Shows what an image is: format, sizes, backing file.",
    .help = "  -f FMT            format of the image; found out if not given\n"
            "  --output=FORMAT   human (the default) or json\n"
            "  --backing-chain   all images down the chain\n"
            "  --bitmaps         state and dirty bytes of its bitmaps, too\n"
            "  --image-opts      FILE is a list of options, not a name\n"
            "  -U, --force-share open an image that another process writes to\n"
            "\n"
            "example:\n"
            "  varve-img info --backing-chain overlay.qcow2\n",
    .run = info_run,
};
