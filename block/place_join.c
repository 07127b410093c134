/*
 * Bringing things together on one loop.
 *
 * What one command connects has to live on one loop. Things that somebody keeps
 * where they are decide which; otherwise they come to the first that is away
 * from home, because somebody wanted that.
 */
#include "block/place.h"

#include "aio/mailbox.h"
#include "block/node.h"

static struct place named(const char *name)
{
    return (struct place){.device = name, .node = name};
}

/* All names that stand for something are on the loop, or are made to be. */
static bool co_join_on(const GPtrArray *names, struct loop *loop, bool ask,
                       GError **error)
{
    for (guint i = 0; i < names->len; i++) {
        const struct place place = named(names->pdata[i]);
        bool ok = ask ? co_place_may_move(&place, loop, error)
                      : co_place_move(&place, loop, error);
        if (!ok) {
            return false;
        }
    }
    return true;
}

/* Where they might meet: those away from home first. */
static GPtrArray *candidates(const GPtrArray *names)
{
    GPtrArray *loops = g_ptr_array_new();
    bool home = !names->len;

    for (guint i = 0; i < names->len; i++) {
        const struct place place = named(names->pdata[i]);
        struct loop *loop;

        if (!place_find(&place, &loop) || loop == graph_home()) {
            home = true;
        } else if (!g_ptr_array_find(loops, loop, NULL)) {
            g_ptr_array_add(loops, loop);
        }
    }
    if (home || !loops->len) {
        g_ptr_array_add(loops, graph_home());
    }
    return loops;
}

bool co_places_join(const GPtrArray *names, struct loop **loop, GError **error)
{
    g_autoptr(GPtrArray) loops = candidates(names);
    g_autoptr(GError) first = NULL;

    for (guint i = 0; i < loops->len; i++) {
        g_autoptr(GError) why = NULL;
        *loop = loops->pdata[i];
        if (co_join_on(names, *loop, true, &why)) {
            return co_join_on(names, *loop, false, error);
        }
        if (!first) {
            first = g_steal_pointer(&why);
        }
    }
    g_propagate_error(error, g_steal_pointer(&first));
    return false;
}
