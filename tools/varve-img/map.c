/*
 * varve-img map: where each part of an image is stored, through its backing
 * chain, for people or as JSON. Neighbours that say the same are one line.
 */
#include "tools/varve-img/img.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "block/graph.h"
#include "block/request.h"
#include "util/range.h"

struct map {
    struct image_open how;
    bool json;
    int64_t start, most; /* bytes */
};

struct map_piece {
    int64_t start, bytes;
    int depth; /* 0: the image itself */
    bool present, zero, data, has_offset;
    int64_t offset; /* in file */
    const struct node *file;
};

/* As far as needed down the chain: to the layer that knows the content. What a
 * layer leaves to one that is not there, or that ends before, is zeroes of its
 * own. */
static int co_get_piece(struct node *node, int64_t start, int64_t bytes,
                        struct map_piece *e)
{
    struct block_status status;

    for (int depth = 0;; depth++) {
        node = node_skip_filters(node);
        int ret = co_node_block_status(node, true, start, bytes, &status);
        if (ret < 0) {
            return ret;
        }
        struct node *below = node_backing_chain_next(node);
        bool deferred = !(status.flags & (BLOCK_ZERO | BLOCK_DATA));
        bool ends = !below || start >= below->length;
        *e = (struct map_piece){
            .start = start,
            .bytes = status.bytes,
            .depth = depth,
            .present = status.flags & BLOCK_ALLOCATED,
            .zero = status.flags & BLOCK_ZERO || deferred,
            .data = status.flags & BLOCK_DATA,
            .has_offset = status.flags & BLOCK_OFFSET_VALID,
        };
        if (!deferred || ends) {
            break;
        }
        bytes = min_i64(status.bytes, below->length - start);
        node = below;
    }
    if (e->has_offset) {
        e->offset = status.map;
        e->file = status.file;
    }
    return 0;
}

static bool goes_on(const struct map_piece *a, const struct map_piece *b)
{
    return a->depth == b->depth && a->present == b->present &&
           a->zero == b->zero && a->data == b->data && a->file == b->file &&
           a->has_offset == b->has_offset &&
           (!a->has_offset || a->offset + a->bytes == b->offset);
}

static const char *bool_text(bool value)
{
    return value ? "true" : "false";
}

static void print_json(const struct map_piece *e)
{
    printf("{ \"start\": %" PRId64 ", \"length\": %" PRId64
           ", \"depth\": %d, \"present\": %s, \"zero\": %s, \"data\": %s",
           e->start, e->bytes, e->depth, bool_text(e->present),
           bool_text(e->zero), bool_text(e->data));
    if (e->has_offset) {
        printf(", \"offset\": %" PRId64, e->offset);
    }
    printf("}");
}

static bool print_piece(const struct map *o, const struct map_piece *e)
{
    if (o->json) {
        print_json(e);
        return true;
    }
    if (e->data && !e->has_offset) {
        tool_error("File contains external, encrypted or compressed "
                   "clusters.");
        return false;
    }
    if (e->data && !e->zero) {
        printf("%#-16" PRIx64 "%#-16" PRIx64 "%#-16" PRIx64 "%s\n", e->start,
               e->bytes, e->offset, e->file ? e->file->filename : "");
    }
    return true;
}

/* The last entry has the rest of the image and no neighbour. */
static int co_print_map(const struct map *o, struct node *node)
{
    int64_t length = node->length;
    struct map_piece e = {.start = o->start}, next;

    if (o->start < length && o->most < length - o->start) {
        length = o->start + o->most;
    }
    printf("%s", o->json ? "["
                         : "Offset          Length          Mapped to       "
                           "File\n");
    for (int64_t at = o->start; at < length; at += next.bytes) {
        int ret = co_get_piece(node, at, length - at, &next);
        if (ret < 0) {
            tool_error("Failed to read image metadata: %s", g_strerror(-ret));
            return 1;
        }
        if (e.bytes && goes_on(&e, &next)) {
            e.bytes += next.bytes;
            continue;
        }
        if (e.bytes) {
            if (!print_piece(o, &e)) {
                return 1;
            }
            printf("%s", o->json ? ",\n" : "");
        }
        e = next;
    }
    bool ok = print_piece(o, &e);
    printf("%s", o->json ? "]\n" : "");
    return !ok;
}

static int co_map(void *opaque)
{
    struct map *o = opaque;
    struct backend *b = co_img_open(&o->how);

    if (!b) {
        return 1;
    }
    int status = co_print_map(o, b->node);
    co_backend_unref(b);
    return status;
}

static int map_run(int argc, char **argv)
{
    struct map o = {.most = INT64_MAX};
    const struct tool_option rows[] = {
        {'f', "format", .text = &o.how.format},
        {'s', "start-offset", .size = &o.start, .what = "start offset"},
        {'l', "max-length", .size = &o.most, .what = "max length"},
        {'U', "force-share", .flag = &o.how.force_share},
        {0, "output", .json = &o.json},
        {0, "image-opts", .flag = &o.how.image_opts},
        {0, "object", .take = tool_take_object},
        {0},
    };
    int status, first = tool_options(argc, argv, rows, &status);

    if (!first) {
        return status;
    }
    if (!img_one_filename(argc, argv, first, &o.how)) {
        return 1;
    }
    return tool_run(co_map, &o);
}

const struct subcommand cmd_map = {
    .name = "map",
    .usage = "[-f FMT] [--output=human|json] [-s OFFSET] [-l LENGTH] [-U] FILE",
    .what = "Shows where the parts of an image are stored.",
    .help = "  -f FMT            format of the image; found out if not given\n"
            "  --output=FORMAT   human (the default; data alone) or json\n"
            "  -s, --start-offset OFFSET\n"
            "                    from here on\n"
            "  -l, --max-length LENGTH\n"
            "                    so many bytes\n"
            "  --image-opts      FILE is a list of options, not a name\n"
            "  -U, --force-share open an image that another process writes to\n"
            "\n"
            "example:\n"
            "  varve-img map --output=json overlay.qcow2\n",
    .run = map_run,
};
