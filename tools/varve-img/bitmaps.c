/*
 * Stored bitmaps: listing them, and copying them to another image.
 */
#include "tools/varve-img/bitmaps.h"

#include <glib.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>
#include "block/dirty_bitmap.h"
#include "qapi/codec.h"
#include "qapi/types.h"
#include "tools/common/tool.h"
#include "util/error.h"

/* ---- listing ------------------------------------------------------------- */

static const char *state_of(const struct dirty_bitmap *b)
{
    return b->inconsistent ? "unusable"
           : b->disabled   ? "disabled"
                           : "recording";
}

/* In the order in which the image has them: each was put before the last. */
static GPtrArray *in_order(struct node *node)
{
    GPtrArray *list = g_ptr_array_new();
    struct dirty_bitmap *b;

    LIST_FOREACH (b, &node->bitmaps, link) {
        g_ptr_array_insert(list, 0, b);
    }
    return list;
}

struct json_object *img_bitmaps_json(struct node *node)
{
    g_autoptr(GPtrArray) bitmaps = in_order(node);
    struct json_object *list = json_object_new_array();

    for (unsigned i = 0; i < bitmaps->len; i++) {
        const struct dirty_bitmap *b = g_ptr_array_index(bitmaps, i);
        struct json_object *o = json_object_new_object();
        json_object_object_add(o, "name", json_object_new_string(b->name));
        json_object_object_add(o, "state", json_object_new_string(state_of(b)));
        if (b->reason) {
            json_object_object_add(o, "reason",
                                   json_object_new_string(b->reason));
        }
        json_object_object_add(
            o, "granularity",
            json_object_new_int64(hbitmap_granularity(b->bits)));
        if (!b->inconsistent) {
            json_object_object_add(
                o, "dirty-bytes", json_object_new_int64(dirty_bitmap_count(b)));
        }
        json_object_array_add(list, o);
    }
    return list;
}

static void print_table(struct node *node)
{
    g_autoptr(GPtrArray) bitmaps = in_order(node);
    int width = 4;

    for (unsigned i = 0; i < bitmaps->len; i++) {
        const struct dirty_bitmap *b = g_ptr_array_index(bitmaps, i);
        width = MAX(width, (int)g_utf8_strlen(b->name, -1));
    }
    printf("%-*s  %-9s  %11s  %12s\n", width, "NAME", "STATE", "GRANULARITY",
           "DIRTY BYTES");
    for (unsigned i = 0; i < bitmaps->len; i++) {
        const struct dirty_bitmap *b = g_ptr_array_index(bitmaps, i);
        printf("%s%*s  %-9s  %11" PRId64 "  ", b->name,
               width - (int)g_utf8_strlen(b->name, -1), "", state_of(b),
               hbitmap_granularity(b->bits));
        if (b->inconsistent) {
            printf("%12s  %s\n", "-", b->reason);
        } else {
            printf("%12" PRId64 "\n", dirty_bitmap_count(b));
        }
    }
}

void img_list_bitmaps(struct node *node, bool json)
{
    if (json) {
        tool_print_json(img_bitmaps_json(node));
    } else {
        print_table(node);
    }
}

/* ---- copying ------------------------------------------------------------- */

/* One of the coarsest granularity fits where any does. */
static bool stores_bitmaps(struct node *node)
{
    return dirty_bitmap_can_store(node, "", DIRTY_BITMAP_GRANULARITY_MAX, NULL);
}

bool img_check_bitmaps(struct node *src, bool skip)
{
    struct dirty_bitmap *b;

    if (!stores_bitmaps(src)) {
        tool_error("Source lacks bitmap support");
        return false;
    }
    LIST_FOREACH (b, &src->bitmaps, link) {
        if (b->persistent && b->inconsistent && !skip) {
            tool_error("Cannot copy inconsistent bitmap '%s'", b->name);
            fprintf(stderr,
                    "Try --skip-broken-bitmaps, or use '%s bitmap --remove' to "
                    "delete it\n",
                    g_get_prgname());
            return false;
        }
    }
    return true;
}

bool img_takes_bitmaps(struct node *dst)
{
    if (stores_bitmaps(dst)) {
        return true;
    }
    tool_error("Format driver '%s' does not support bitmaps",
               dst->driver->name);
    return false;
}

static bool co_copy_one(const struct dirty_bitmap *b, struct node *dst)
{
    g_autoptr(GError) error = NULL;

    struct dirty_bitmap *copy = co_dirty_bitmap_add(
        dst, b->name, hbitmap_granularity(b->bits), true, b->disabled, &error);
    if (!copy) {
        tool_error("Failed to create bitmap %s: %s", b->name, error->message);
        return false;
    }
    if (!dirty_bitmap_merge(copy, b, NULL, &error)) {
        tool_error("Failed to populate bitmap %s: %s", b->name, error->message);
        dirty_bitmap_free(copy);
        return false;
    }
    return true;
}

bool co_img_copy_bitmaps(struct node *src, struct node *dst)
{
    struct dirty_bitmap *b;

    LIST_FOREACH (b, &src->bitmaps, link) {
        if (!b->persistent) {
            continue;
        }
        if (b->inconsistent) {
            tool_error("warning: Skipping inconsistent bitmap '%s'", b->name);
        } else if (!co_copy_one(b, dst)) {
            return false;
        }
    }
    return true;
}
