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
#include "tools/varve-img/map_picture.h"
#include "util/range.h"

enum map_output { MAP_HUMAN, MAP_JSON, MAP_ASCII, MAP_SVG };

struct map {
    struct image_open how;
    enum map_output output;
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
 * own. A hole that may read as anything counts as not there. */
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
        bool known = status.flags & (BLOCK_ZERO | BLOCK_DATA);
        bool deferred = !known && !(status.flags & BLOCK_ALLOCATED);
        bool ends = !below || start >= below->length;
        *e = (struct map_piece){
            .start = start,
            .bytes = status.bytes,
            .depth = depth,
            .present = known && status.flags & BLOCK_ALLOCATED,
            .zero = status.flags & BLOCK_ZERO || deferred,
            .data = status.flags & BLOCK_DATA,
            .has_offset = known && status.flags & BLOCK_OFFSET_VALID,
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
    if (o->output == MAP_JSON) {
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

static int64_t map_end(const struct map *o, const struct node *node)
{
    int64_t length = node->length;

    return o->start < length && o->most < length - o->start ? o->start + o->most
                                                            : length;
}

/* The last entry has the rest of the image and no neighbour. */
static int co_print_map(const struct map *o, struct node *node)
{
    int64_t length = map_end(o, node);
    struct map_piece e = {.start = o->start}, next;

    printf("%s", (o->output == MAP_JSON)
                     ? "["
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
            printf("%s", (o->output == MAP_JSON) ? ",\n" : "");
        }
        e = next;
    }
    bool ok = print_piece(o, &e);
    printf("%s", (o->output == MAP_JSON) ? "]\n" : "");
    return !ok;
}

static enum picture_state piece_state(const struct map_piece *e)
{
    if (!e->present) {
        return PICTURE_NOTHING;
    }
    if (e->depth) {
        return PICTURE_BACKING;
    }
    return e->zero ? PICTURE_ZERO : PICTURE_DATA;
}

static int co_draw_map(const struct map *o, struct node *node)
{
    int64_t end = map_end(o, node);
    struct map_piece e;
    int ret = 0;

    struct picture *p = picture_new(o->start, max_i64(end - o->start, 0));
    for (int64_t at = o->start; ret == 0 && at < end; at += e.bytes) {
        ret = co_get_piece(node, at, end - at, &e);
        if (ret == 0) {
            picture_add(p, at, e.bytes, piece_state(&e));
        }
    }
    if (ret < 0) {
        tool_error("Failed to read image metadata: %s", g_strerror(-ret));
    } else {
        picture_print(p, node->filename, o->output == MAP_SVG);
    }
    picture_free(p);
    return ret < 0;
}

static bool take_output(const char *argument, void *opaque, int *status)
{
    static const char *const names[] = {"human", "json", "ascii", "svg"};
    struct map *o = opaque;

    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        if (!strcmp(argument, names[i])) {
            o->output = i;
            return true;
        }
    }
    tool_error("--output must be used with human or json as argument.");
    return false;
}

static int co_map(void *opaque, struct node *node)
{
    const struct map *o = opaque;

    node_expect_bulk(node);
    return o->output == MAP_HUMAN || o->output == MAP_JSON
               ? co_print_map(o, node)
               : co_draw_map(o, node);
}

static int map_run(int argc, char **argv)
{
    struct map o = {.most = INT64_MAX};
    const struct tool_option rows[] = {
        {'f', "format", .text = &o.how.format},
        {'s', "start-offset", .size = &o.start, .what = "start offset"},
        {'l', "max-length", .size = &o.most, .what = "max length"},
        {'U', "force-share", .flag = &o.how.force_share},
        {0, "output", .take = take_output, .opaque = &o},
        {0, "image-opts", .flag = &o.how.image_opts},
        {0, "object", .take = tool_take_object},
        {0},
    };
    int status;

    if (!img_options(argc, argv, rows, &o.how, &status)) {
        return status;
    }
    return img_run(&o.how, co_map, &o);
}

const struct subcommand cmd_map = {
    .name = "map",
    .usage = "[-f FMT] [--output=human|json|ascii|svg] [-s OFFSET] [-l LENGTH] "
             "[-U] FILE",
    .what = "Shows where the parts of an image are stored.",
    .help = "  -f FMT            format of the image; found out if not given\n"
            "  --output=FORMAT   human (the default; data alone), json, or a\n"
            "                    picture: ascii, svg\n"
            "  -s, --start-offset OFFSET\n"
            "                    from here on\n"
            "  -l, --max-length LENGTH\n"
            "                    so many bytes\n"
            "  --image-opts      FILE is a list of options, not a name\n"
            "  -U, --force-share open an image that another process writes to\n"
            "\n"
            "example:\n"
            "  varve-img map --output=json overlay.qcow2\n"
            "  varve-img map --output=svg overlay.qcow2 > overlay.svg\n",
    .run = map_run,
};
