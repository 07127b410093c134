/*
 * The settings that nodes of all drivers have: from options, and from those of
 * the parent where the options say nothing.
 *
 * Pure, but for node_settings_apply().
 */
#include "block/graph.h"
#include "block/open_int.h"
#include "util/error.h"

bool node_settings_compute(const struct blockdev_options *o,
                           const struct open_defaults *d,
                           struct node_settings *s, GError **error)
{
    const struct blockdev_cache_options *cache = o->cache;

    *s = (struct node_settings){
        .read_only = o->has_read_only ? o->read_only : d->read_only,
        .auto_read_only =
            o->has_auto_read_only ? o->auto_read_only : d->auto_read_only,
        .force_share = o->has_force_share ? o->force_share : d->force_share,
        .discard = o->has_discard ? o->discard == BLOCKDEV_DISCARD_OPTIONS_UNMAP
                                  : d->discard_unmap,
        .cache_direct =
            cache && cache->has_direct ? cache->direct : d->cache_direct,
        .no_flush =
            cache && cache->has_no_flush ? cache->no_flush : d->no_flush,
        .detect_zeroes = o->has_detect_zeroes
                             ? o->detect_zeroes
                             : BLOCKDEV_DETECT_ZEROES_OPTIONS_OFF,
    };
    if (s->detect_zeroes == BLOCKDEV_DETECT_ZEROES_OPTIONS_UNMAP &&
        !s->discard) {
        return error_set(error, "setting detect-zeroes to unmap is not allowed "
                                "without setting discard operation to unmap");
    }
    if (s->force_share && !s->read_only) {
        return error_set(error,
                         "force-share=on can only be used with read-only "
                         "images");
    }
    return true;
}

struct node_settings node_settings_of(const struct node *node)
{
    return (struct node_settings){
        .read_only = node->read_only,
        .auto_read_only = node->auto_read_only,
        .force_share = node->force_share,
        .discard = node->discard,
        .cache_direct = node->cache_direct,
        .no_flush = node->no_flush,
        .detect_zeroes = node->detect_zeroes,
    };
}

void node_settings_apply(struct node *node, const struct node_settings *s)
{
    node->read_only = s->read_only;
    node->auto_read_only = s->auto_read_only;
    node->force_share = s->force_share;
    node->discard = s->discard;
    node->cache_direct = s->cache_direct;
    node->no_flush = s->no_flush;
    node->detect_zeroes = s->detect_zeroes;
}

struct open_defaults node_child_defaults(bool parent_is_filter,
                                         struct node_settings parent,
                                         unsigned roles)
{
    struct open_defaults d = {
        .read_only = parent.read_only,
        .auto_read_only = parent.auto_read_only,
        .force_share = parent.force_share,
        .cache_direct = parent.cache_direct,
        .no_flush = parent.no_flush,
        /* A format decides itself what it discards. */
        .discard_unmap = true,
    };
    if (parent_is_filter && (roles & ROLE_FILTERED)) {
        d.discard_unmap = parent.discard;
    } else if (roles & ROLE_COW) {
        d.read_only = true;
        d.auto_read_only = false;
        d.discard_unmap = false;
    }
    return d;
}
