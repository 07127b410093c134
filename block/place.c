/*
 * Where things live: answers from the directory of names, and walks over loops.
 */
#include "block/place.h"

#include "aio/directory.h"
#include "aio/mailbox.h"

/* Written before the loops run, and after. */
static struct loop *home;

void graph_set_home(struct loop *loop)
{
    home = loop;
}

struct loop *graph_home(void)
{
    return home;
}

static bool find(enum directory_kind kind, const char *name, struct loop **loop)
{
    return name && directory_find(kind, name, loop);
}

bool place_find(const struct place *p, struct loop **loop)
{
    if (find(DIRECTORY_BACKEND, p->device, loop) ||
        find(DIRECTORY_DEVICE, p->device, loop) ||
        find(DIRECTORY_NODE, p->node, loop) ||
        find(DIRECTORY_JOB, p->job, loop) ||
        find(DIRECTORY_EXPORT, p->export, loop)) {
        return true;
    }
    *loop = home;
    return false;
}

void co_graphs_each(co_fn *fn, void *opaque, bool home_last)
{
    g_autoptr(GPtrArray) loops = directory_loops();

    if (home && !home_last) {
        co_call_on(home, fn, opaque);
    }
    for (guint i = 0; i < loops->len; i++) {
        if (loops->pdata[i] != home) {
            co_call_on(loops->pdata[i], fn, opaque);
        }
    }
    if (home && home_last) {
        co_call_on(home, fn, opaque);
    }
}
