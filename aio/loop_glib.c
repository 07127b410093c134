/*
 * A loop as a source of a GLib context: how the main thread runs beside GIO.
 *
 * GLib calls prepare before it polls and dispatch when the epoll descriptor or
 * the timeout fires; dispatch makes one pass that does not block. Callbacks of
 * other sources may enter coroutines of this loop directly, so prepare flushes
 * what they queued. prepare without a following check or dispatch is normal
 * (another source was more urgent), which is why being armed is a state.
 */
#include "aio/loop.h"

#include "aio/loop_internal.h"

struct loop_source {
    GSource source;
    struct loop *loop;
    gpointer epoll_tag;
};

static gboolean source_prepare(GSource *source, gint *timeout_ms)
{
    struct loop *loop = ((struct loop_source *)source)->loop;
    struct loop *outer = loop_tls;
    bool ready;

    *timeout_ms = -1;
    if (loop->in_pass) {
        return FALSE; /* somebody iterates the context inside of a pass */
    }
    loop_tls = loop;
    if (loop->armed) {
        loop_disarm(loop);
    }
    loop_flush(loop);
    int64_t left = loop_timeout_ns(loop);
    ready = left == 0 || loop->always_ready || !loop_arm(loop);
    if (!ready && left > 0) {
        *timeout_ms = (gint)MIN(left / 1000000 + 1, G_MAXINT);
    }
    loop_tls = outer;
    return ready;
}

static gboolean source_check(GSource *source)
{
    struct loop_source *s = (struct loop_source *)source;

    if (s->loop->in_pass) {
        return FALSE;
    }
    return g_source_query_unix_fd(source, s->epoll_tag) != 0 ||
           loop_timeout_ns(s->loop) == 0 || loop_has_ready(s->loop) ||
           !mailbox_empty(s->loop);
}

static gboolean source_dispatch(GSource *source, GSourceFunc callback,
                                gpointer data)
{
    loop_pass(((struct loop_source *)source)->loop, false);
    return G_SOURCE_CONTINUE;
}

static GSourceFuncs source_funcs = {
    .prepare = source_prepare,
    .check = source_check,
    .dispatch = source_dispatch,
};

GSource *loop_attach_glib(struct loop *loop, GMainContext *context)
{
    GSource *source = g_source_new(&source_funcs, sizeof(struct loop_source));
    struct loop_source *s = (struct loop_source *)source;

    s->loop = loop;
    s->epoll_tag = g_source_add_unix_fd(source, loop->epoll_fd, G_IO_IN);
    g_source_set_name(source, loop->name);
    g_source_attach(source, context);
    return source;
}
