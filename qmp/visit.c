/*
 * Calls to the loops where things live and back, in one place.
 *
 * A visit without the change lock may find that its thing has left meanwhile;
 * the lock of places tells when it has arrived somewhere, and then the visitor
 * follows.
 */
#include "qmp/visit.h"

#include "aio/loop.h"
#include "aio/mailbox.h"
#include "block/graph.h"

struct visit {
    const struct place *place; /* NULL: the home */
    qmp_visit_fn *fn;
    const void *args;
    void *result;
    GError **error;
    bool ok, missed;
};

static struct loop *loop_of(const struct place *place)
{
    struct loop *loop = graph_home();

    if (place) {
        place_find(place, &loop);
    }
    return loop;
}

static void visit_run(void *opaque)
{
    struct visit *v = opaque;

    v->missed = loop_of(v->place) != loop_current();
    if (!v->missed) {
        v->ok = v->fn(v->args, v->result, v->error);
    }
}

static bool co_visit_place(struct visit *v)
{
    struct loop *loop = loop_of(v->place);

    v->missed = !loop;
    if (loop) {
        co_call_on(loop, visit_run, v);
    }
    return !v->missed;
}

bool co_visit(const struct place *place, qmp_visit_fn *fn, const void *args,
              void *result, GError **error)
{
    struct visit v = {
        .place = place,
        .fn = fn,
        .args = args,
        .result = result,
        .error = error,
    };

    while (!co_visit_place(&v)) {
        co_graph_lock(GRAPH_LOCK_PLACES);
        graph_unlock(GRAPH_LOCK_PLACES);
    }
    return v.ok;
}

bool co_visit_change(const struct place *place, qmp_visit_fn *fn,
                     const void *args, void *result, GError **error)
{
    co_graph_lock(GRAPH_LOCK_CHANGE);
    bool ok = co_visit(place, fn, args, result, error);
    graph_unlock(GRAPH_LOCK_CHANGE);
    return ok;
}

/* ---- everything ---- */

static void visit_next(void *opaque)
{
    struct visit *v = opaque;

    v->ok = v->ok && v->fn(v->args, v->result, v->error);
}

bool co_visit_all(qmp_visit_fn *fn, const void *args, void *result,
                  unsigned flags, GError **error)
{
    enum graph_lock lock =
        flags & VISIT_LOCKED ? GRAPH_LOCK_CHANGE : GRAPH_LOCK_PLACES;
    struct visit v = {
        .fn = fn,
        .args = args,
        .result = result,
        .error = error,
        .ok = true,
    };

    co_graph_lock(lock);
    co_graphs_each(visit_next, &v, false);
    graph_unlock(lock);
    return v.ok;
}

/* How every list of pointers looks (qapi/codec.h). */
struct pointer_list {
    size_t n;
    void **items;
};

struct numbered {
    uint64_t serial;
    void *item;
};

static int compare_serials(gconstpointer a, gconstpointer b)
{
    uint64_t x = ((const struct numbered *)a)->serial;
    uint64_t y = ((const struct numbered *)b)->serial;

    return x < y ? -1 : x > y;
}

static void sort(struct gathered *g, bool youngest_first)
{
    struct pointer_list *list = g->list;
    g_autofree struct numbered *all = g_new(struct numbered, list->n);

    g_assert(list->n == g->serials->len);
    for (size_t i = 0; i < list->n; i++) {
        all[i] = (struct numbered){
            .serial = g_array_index(g->serials, uint64_t, i),
            .item = list->items[i],
        };
    }
    if (list->n) {
        qsort(all, list->n, sizeof(*all), compare_serials);
    }
    for (size_t i = 0; i < list->n; i++) {
        list->items[youngest_first ? list->n - 1 - i : i] = all[i].item;
    }
}

bool co_visit_gather(qmp_visit_fn *fn, const void *args, void *list,
                     unsigned flags, GError **error)
{
    struct gathered g = {
        .list = list,
        .serials = g_array_new(false, false, sizeof(uint64_t)),
    };
    bool ok = co_visit_all(fn, args, &g, flags, error);

    if (ok) {
        sort(&g, flags & VISIT_YOUNGEST_FIRST);
    }
    g_array_unref(g.serials);
    return ok;
}
