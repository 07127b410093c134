/*
 * block-dirty-bitmap-merge: from any disks' bitmaps into one.
 *
 * A source may be a bitmap of a node on another loop. Copies of the bits of
 * those are fetched first; then all sources go into the target without a
 * suspension, so that nobody sees, or marks, the half of it.
 */
#include "bitmaps.h"

#include "aio/loop.h"
#include "aio/mailbox.h"
#include "block/dirty_bitmap.h"
#include "block/place.h"
#include "util/error.h"

/* The i-th source, looked for in the target's node if it is only a name. */
struct source {
    const char *node, *name;
    struct loop *loop;
    struct hbitmap *copy; /* of one on another loop */
    GError **error;
};

static void find_source(struct source *s,
                        const struct block_dirty_bitmap_merge *args, size_t i)
{
    const struct block_dirty_bitmap_or_str *source = args->bitmaps.items[i];
    bool local = source->kind == QAPI_KIND_STRING;

    s->node = local ? args->node : source->u.external.node;
    s->name = local ? source->u.local : source->u.external.name;
    const struct place place = {.device = s->node, .node = s->node};
    if (!place_find(&place, &s->loop)) {
        s->loop = loop_current();
    }
}

static void copy_here(void *opaque)
{
    struct source *s = opaque;
    struct dirty_bitmap *b = bitmap_find(s->node, s->name, s->error);

    s->copy = b ? dirty_bitmap_copy_bits(b, s->error) : NULL;
}

static bool co_fetch(struct source *s, GError **error)
{
    if (s->loop == loop_current()) {
        return true;
    }
    s->error = error;
    co_call_on(s->loop, copy_here, s);
    return s->copy != NULL;
}

static bool merge_one(struct dirty_bitmap *target, const struct source *s,
                      struct hbitmap **before, GError **error)
{
    struct hbitmap **backup = *before ? NULL : before;

    if (s->copy) {
        return dirty_bitmap_merge_bits(target, s->copy, backup, error);
    }
    struct dirty_bitmap *b = bitmap_find(s->node, s->name, error);

    return b && dirty_bitmap_merge(target, b, backup, error);
}

static bool merge_all(struct dirty_bitmap *target, const struct source *sources,
                      size_t n, struct hbitmap **before, GError **error)
{
    for (size_t i = 0; i < n; i++) {
        if (!merge_one(target, &sources[i], before, error)) {
            if (*before) {
                dirty_bitmap_restore(target, *before);
                *before = NULL;
            }
            return false;
        }
    }
    return true;
}

struct dirty_bitmap *co_bitmap_merge(
    const struct block_dirty_bitmap_merge *args, struct hbitmap **backup,
    GError **error)
{
    struct dirty_bitmap *target = bitmap_find(args->node, args->target, error);
    struct hbitmap *before = NULL;
    bool ok = true;

    if (!target || !dirty_bitmap_check(target, REFUSE_DEFAULT, error)) {
        return NULL;
    }
    g_autofree struct source *sources = g_new0(struct source, args->bitmaps.n);

    for (size_t i = 0; ok && i < args->bitmaps.n; i++) {
        find_source(&sources[i], args, i);
        ok = co_fetch(&sources[i], error);
    }
    ok = ok && merge_all(target, sources, args->bitmaps.n, &before, error);
    for (size_t i = 0; i < args->bitmaps.n; i++) {
        g_clear_pointer(&sources[i].copy, hbitmap_free);
    }
    if (backup) {
        *backup = before;
    } else {
        g_clear_pointer(&before, hbitmap_free);
    }
    return ok ? target : NULL;
}
