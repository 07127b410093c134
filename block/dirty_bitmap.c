/*
 * Dirty bitmaps of a node: their lives, marking, and what jobs do with them.
 *
 * A bitmap is on its node's list from birth to death, newest first. Marking
 * walks that list and sets every bitmap that is not disabled. A frozen bitmap
 * is therefore simply disabled, and its successor, an anonymous bitmap on the
 * same list, has taken over its enabled state: no write is seen by both or by
 * neither. Resizing treats both alike.
 *
 * Every bitmap of a node covers the node at least, or is given up: inconsistent
 * and disabled.
 *
 * Runs on the node's loop; nothing here suspends.
 */
#include "block/dirty_bitmap.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>
#include "util/error.h"
#include "util/range.h"

/* ---- life ---------------------------------------------------------------- */

int64_t dirty_bitmap_default_granularity(int64_t cluster_size)
{
    if (cluster_size <= 0) {
        return 65536;
    }
    return max_i64(4096, min_i64(65536, cluster_size));
}

static struct dirty_bitmap *bitmap_new(struct node *node, const char *name,
                                       int64_t granularity, GError **error)
{
    struct hbitmap *bits = hbitmap_new(node->length, granularity);

    if (!bits) {
        error_set(error, "Not enough memory for a bitmap of '%s'", node->name);
        return NULL;
    }
    struct dirty_bitmap *b = g_new0(struct dirty_bitmap, 1);
    b->node = node;
    b->name = g_strdup(name);
    b->bits = bits;
    LIST_INSERT_HEAD(&node->bitmaps, b, link);
    return b;
}

bool dirty_bitmap_check_granularity(int64_t granularity, GError **error)
{
    return (granularity >= DIRTY_BITMAP_GRANULARITY_MIN &&
            granularity <= DIRTY_BITMAP_GRANULARITY_MAX &&
            is_power_of_2(granularity)) ||
           error_set(error, "Granularity must be power of 2 and at least 512");
}

struct dirty_bitmap *dirty_bitmap_new(struct node *node, const char *name,
                                      int64_t granularity, GError **error)
{
    if (name && !*name) {
        error_set(error, "Bitmap name cannot be empty");
    } else if (!dirty_bitmap_check_granularity(granularity, error)) {
        return NULL;
    } else if (name && dirty_bitmap_find(node, name)) {
        error_set(error, "Bitmap already exists: %s", name);
    } else if (name && strlen(name) > DIRTY_BITMAP_NAME_MAX) {
        error_set(error, "Bitmap name too long: %s", name);
    } else {
        return bitmap_new(node, name, granularity, error);
    }
    return NULL;
}

void dirty_bitmap_free(struct dirty_bitmap *b)
{
    assert(!b->busy && !b->successor);
    LIST_REMOVE(b, link);
    hbitmap_free(b->bits);
    g_free(b->reason);
    g_free(b->name);
    g_free(b);
}

void dirty_bitmaps_free_all(struct node *node)
{
    while (!LIST_EMPTY(&node->bitmaps)) {
        dirty_bitmap_free(LIST_FIRST(&node->bitmaps));
    }
}

struct dirty_bitmap *dirty_bitmap_find(struct node *node, const char *name)
{
    struct dirty_bitmap *b;

    LIST_FOREACH (b, &node->bitmaps, link) {
        if (b->name && strcmp(b->name, name) == 0) {
            return b;
        }
    }
    return NULL;
}

struct dirty_bitmap *dirty_bitmap_lookup(const char *node_name,
                                         const char *name, struct node **node,
                                         GError **error)
{
    struct node *n = node_lookup(node_name, node_name, NULL);

    if (!n) {
        error_set(error, "Node '%s' not found", node_name);
        return NULL;
    }
    struct dirty_bitmap *b = dirty_bitmap_find(n, name);
    if (!b) {
        error_set(error, "Dirty bitmap '%s' not found", name);
        return NULL;
    }
    if (node) {
        *node = n;
    }
    return b;
}

bool dirty_bitmap_check(const struct dirty_bitmap *b, unsigned refuse,
                        GError **error)
{
    const char *name = b->name ? b->name : "(anonymous)";

    if ((refuse & REFUSE_BUSY) && b->busy) {
        return error_set(error,
                         "Bitmap '%s' is currently in use by another operation"
                         " and cannot be used",
                         name);
    }
    if ((refuse & REFUSE_READONLY) && b->persistent && b->node->read_only) {
        return error_set(
            error, "Bitmap '%s' is readonly and cannot be modified", name);
    }
    if ((refuse & REFUSE_INCONSISTENT) && b->inconsistent) {
        error_set(error, "Bitmap '%s' is inconsistent and cannot be used",
                  name);
        error_add_hint(error, "Try block-dirty-bitmap-remove to delete this "
                              "bitmap from disk");
        return false;
    }
    return true;
}

/* ---- marking and sizes --------------------------------------------------- */

/* A request that was widened to whole blocks may end beyond the node, and one
 * that failed to grow it lies there. */
void dirty_bitmap_mark(struct dirty_bitmap *b, int64_t offset, int64_t bytes)
{
    int64_t room = hbitmap_size(b->bits) - offset;

    if (room > 0) {
        hbitmap_set(b->bits, offset, min_i64(bytes, room));
    }
}

bool dirty_bitmaps_resize(struct node *node, int64_t size, GError **error)
{
    struct dirty_bitmap *b, *done;

    LIST_FOREACH (b, &node->bitmaps, link) {
        if (!hbitmap_resize(b->bits, size)) {
            break;
        }
    }
    if (!b) {
        return true;
    }
    /* Only growing can fail, and shrinking back cannot. */
    LIST_FOREACH (done, &node->bitmaps, link) {
        if (done == b) {
            break;
        }
        hbitmap_resize(done->bits, hbitmap_size(b->bits));
    }
    return error_set(error, "Not enough memory for the bitmaps of '%s'",
                     node->name);
}

bool dirty_bitmaps_reserve(struct node *node, int64_t size)
{
    struct dirty_bitmap *b;

    LIST_FOREACH (b, &node->bitmaps, link) {
        if (hbitmap_size(b->bits) < size && !hbitmap_resize(b->bits, size)) {
            return false;
        }
    }
    return true;
}

void dirty_bitmaps_give_up(struct node *node, int64_t size)
{
    struct dirty_bitmap *b;

    LIST_FOREACH (b, &node->bitmaps, link) {
        if (hbitmap_size(b->bits) < size) {
            b->inconsistent = true;
            b->disabled = true;
        }
    }
}

/* ---- commands ------------------------------------------------------------ */

void dirty_bitmap_enable(struct dirty_bitmap *b)
{
    assert(!b->busy);
    b->disabled = false;
}

void dirty_bitmap_disable(struct dirty_bitmap *b)
{
    assert(!b->busy);
    b->disabled = true;
}

static struct hbitmap *empty_twin(const struct hbitmap *bits)
{
    struct hbitmap *twin =
        hbitmap_new(hbitmap_size(bits), hbitmap_granularity(bits));

    if (!twin) {
        g_error("out of address space for a bitmap");
    }
    return twin;
}

void dirty_bitmap_clear(struct dirty_bitmap *b, struct hbitmap **backup)
{
    if (backup) {
        *backup = b->bits;
        b->bits = empty_twin(b->bits);
    } else {
        hbitmap_clear_all(b->bits);
    }
}

void dirty_bitmap_restore(struct dirty_bitmap *b, struct hbitmap *backup)
{
    hbitmap_free(b->bits);
    b->bits = backup;
}

bool dirty_bitmap_merge(struct dirty_bitmap *dst,
                        const struct dirty_bitmap *src, struct hbitmap **backup,
                        GError **error)
{
    return dirty_bitmap_check(dst, REFUSE_DEFAULT, error) &&
           dirty_bitmap_check(src, REFUSE_ALLOW_RO, error) &&
           dirty_bitmap_merge_bits(dst, src->bits, backup, error);
}

bool dirty_bitmap_merge_bits(struct dirty_bitmap *dst,
                             const struct hbitmap *src, struct hbitmap **backup,
                             GError **error)
{
    int64_t dst_size = hbitmap_size(dst->bits);
    int64_t src_size = hbitmap_size(src);
    if (dst_size != src_size) {
        return error_set(error,
                         "Bitmaps are of different sizes (destination size is "
                         "%" PRId64 ", source size is %" PRId64
                         ") and can't be merged",
                         dst_size, src_size);
    }
    if (backup) {
        *backup = empty_twin(dst->bits);
        hbitmap_merge(*backup, dst->bits);
    }
    hbitmap_merge(dst->bits, src);
    return true;
}

struct hbitmap *dirty_bitmap_copy_bits(const struct dirty_bitmap *b,
                                       GError **error)
{
    if (!dirty_bitmap_check(b, REFUSE_ALLOW_RO, error)) {
        return NULL;
    }
    struct hbitmap *copy = empty_twin(b->bits);
    hbitmap_merge(copy, b->bits);
    return copy;
}

/* ---- jobs ---------------------------------------------------------------- */

bool dirty_bitmap_freeze(struct dirty_bitmap *b, GError **error)
{
    if (!dirty_bitmap_check(b, REFUSE_BUSY, error)) {
        return false;
    }
    struct dirty_bitmap *s =
        bitmap_new(b->node, NULL, hbitmap_granularity(b->bits), error);
    if (!s) {
        return false;
    }
    s->disabled = b->disabled;
    b->disabled = true;
    b->busy = true;
    b->successor = s;
    return true;
}

/* The successor hands its role back and goes. */
static void unfreeze(struct dirty_bitmap *b)
{
    struct dirty_bitmap *s = b->successor;

    b->successor = NULL;
    b->disabled = s->disabled;
    b->inconsistent |= s->inconsistent;
    b->busy = false;
    dirty_bitmap_free(s);
}

void dirty_bitmap_abdicate(struct dirty_bitmap *b)
{
    struct hbitmap *old = b->bits;

    b->bits = b->successor->bits;
    b->successor->bits = old;
    unfreeze(b);
}

void dirty_bitmap_reclaim(struct dirty_bitmap *b)
{
    hbitmap_merge(b->bits, b->successor->bits);
    unfreeze(b);
}

void dirty_bitmap_set_busy(struct dirty_bitmap *b, bool busy)
{
    assert(!b->successor);
    b->busy = busy;
}
