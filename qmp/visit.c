/*
 * One call to the graph's loop and back, in one place.
 */
#include "qmp/visit.h"

#include "aio/mailbox.h"
#include "block/graph.h"
#include "session.h"

struct visit {
    qmp_visit_fn *fn;
    const void *args;
    void *result;
    GError **error;
    bool change, ok;
};

static void visit_run(void *opaque)
{
    struct visit *v = opaque;

    if (!v->change) {
        v->ok = v->fn(v->args, v->result, v->error);
        return;
    }
    co_graph_lock(GRAPH_LOCK_CHANGE);
    v->ok = v->fn(v->args, v->result, v->error);
    graph_unlock(GRAPH_LOCK_CHANGE);
}

static bool co_visit_graph(struct visit v)
{
    co_call_on(monitors_graph_loop(), visit_run, &v);
    return v.ok;
}

bool co_visit_change(qmp_visit_fn *fn, const void *args, void *result,
                     GError **error)
{
    return co_visit_graph((struct visit){
        .fn = fn,
        .args = args,
        .result = result,
        .error = error,
        .change = true,
    });
}

bool co_visit(qmp_visit_fn *fn, const void *args, void *result, GError **error)
{
    return co_visit_graph((struct visit){
        .fn = fn,
        .args = args,
        .result = result,
        .error = error,
    });
}
