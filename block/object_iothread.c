/*
 * iothread objects: a thread with a loop, on which graphs can live.
 */
#include "aio/iothread.h"

#include "aio/loop.h"
#include "aio/mailbox.h"
#include "block/graph.h"
#include "block/object_int.h"
#include "block/place.h"
#include "util/error.h"

struct io_object {
    struct iothread *thread;
    struct iothread_properties properties; /* all are present */
};

/* ---- properties ---- */

#define PROPERTY(name, c_name)                                    \
    {                                                             \
        name, offsetof(struct iothread_properties, has_##c_name), \
            offsetof(struct iothread_properties, c_name)          \
    }

static const struct {
    const char *name;
    size_t has, value;
} table[] = {
    PROPERTY("aio-max-batch", aio_max_batch),
    PROPERTY("thread-pool-min", thread_pool_min),
    PROPERTY("thread-pool-max", thread_pool_max),
    PROPERTY("poll-max-ns", poll_max_ns),
    PROPERTY("poll-grow", poll_grow),
    PROPERTY("poll-shrink", poll_shrink),
};

static const struct iothread_properties defaults = {
    .thread_pool_max = 64,
    .poll_max_ns = 32768,
};

/* Takes over what is present; afterwards all of *out is. */
static bool properties_take(struct iothread_properties *out,
                            const struct iothread_properties *in,
                            GError **error)
{
    for (size_t i = 0; i < G_N_ELEMENTS(table); i++) {
        int64_t value = *(const int64_t *)((const char *)in + table[i].value);
        bool given = *(const bool *)((const char *)in + table[i].has);

        if (given && value < 0) {
            return error_set(error,
                             "%s value must be in range [0, "
                             "9223372036854775807]",
                             table[i].name);
        }
        if (given) {
            *(int64_t *)((char *)out + table[i].value) = value;
        }
        *(bool *)((char *)out + table[i].has) = true;
    }
    return out->thread_pool_min <= out->thread_pool_max ||
           error_set(error, "bad thread-pool-min/thread-pool-max values");
}

struct poll_setting {
    struct mail mail;
    int64_t ns;
};

static void set_poll_max(void *opaque)
{
    struct poll_setting *s = opaque;

    loop_set_poll_max(loop_current(), s->ns);
    g_free(s);
}

static void send_poll_max(struct io_object *o)
{
    struct poll_setting *poll = g_new(struct poll_setting, 1);

    *poll = (struct poll_setting){
        .mail = {.fn = set_poll_max, .opaque = poll},
        .ns = o->properties.poll_max_ns,
    };
    loop_post(iothread_loop(o->thread), &poll->mail);
}

static void *iothread_get(const void *state)
{
    const struct io_object *o = state;

    return iothread_properties_clone(&o->properties);
}

static bool iothread_set(void *state, const void *properties, GError **error)
{
    struct io_object *o = state;
    struct iothread_properties changed = o->properties;

    if (!properties_take(&changed, properties, error)) {
        return false;
    }
    o->properties = changed;
    send_poll_max(o);
    return true;
}

/* ---- life ---- */

static void *iothread_make(const struct object_options *options, GError **error)
{
    struct iothread_properties properties = defaults;

    if (!properties_take(&properties, &options->u.iothread, error)) {
        return NULL;
    }
    struct io_object *o = g_new(struct io_object, 1);
    *o = (struct io_object){iothread_new(options->id), properties};
    send_poll_max(o);
    return o;
}

/* Whoever is there only because others were, goes; *opaque becomes true if
 * nobody is left. */
static void co_vacate(void *opaque)
{
    const struct graph *graph = graph_current();

    co_graph_send_home();
    *(bool *)opaque = TAILQ_EMPTY(&graph->nodes) &&
                      TAILQ_EMPTY(&graph->backends) &&
                      TAILQ_EMPTY(&graph->jobs) && TAILQ_EMPTY(&graph->exports);
}

static bool co_iothread_let_go(void *state)
{
    struct io_object *o = state;
    bool empty = false;

    co_call_on(iothread_loop(o->thread), co_vacate, &empty);
    return empty;
}

static void iothread_end(void *state)
{
    struct io_object *o = state;

    iothread_free(o->thread);
    g_free(o);
}

const struct object_kind object_iothread = {
    .properties = &qapi_type_iothread_properties,
    .make = iothread_make,
    .co_let_go = co_iothread_let_go,
    .end = iothread_end,
    .get = iothread_get,
    .set = iothread_set,
};

struct loop *object_iothread_loop(const void *state)
{
    return iothread_loop(((const struct io_object *)state)->thread);
}

struct io_thread_info *object_iothread_query(const char *id, const void *state)
{
    const struct io_object *o = state;
    struct io_thread_info *info = g_new(struct io_thread_info, 1);

    *info = (struct io_thread_info){
        .id = g_strdup(id),
        .thread_id = iothread_tid(o->thread),
        .poll_max_ns = o->properties.poll_max_ns,
        .poll_grow = o->properties.poll_grow,
        .poll_shrink = o->properties.poll_shrink,
        .aio_max_batch = o->properties.aio_max_batch,
    };
    return info;
}
