/*
 * I/O threads by name: object.json.
 */
#include "qmp/objects.h"

#include <string.h>

#include "aio/iothread.h"
#include "aio/loop.h"
#include "aio/mailbox.h"
#include "block/graph.h"
#include "block/place.h"
#include "qmp/commands.h"
#include "util/error.h"

struct object {
    char *id;
    struct iothread *thread;
    struct iothread_properties properties; /* with defaults filled in */
};

/* In order of making; some dozen at most. */
static GPtrArray *objects;

static struct object *object_find(const char *id)
{
    for (guint i = 0; objects && i < objects->len; i++) {
        struct object *o = objects->pdata[i];
        if (!strcmp(o->id, id)) {
            return o;
        }
    }
    return NULL;
}

static void object_free(gpointer opaque)
{
    struct object *o = opaque;

    iothread_free(o->thread);
    g_free(o->id);
    g_free(o);
}

/* ---- properties ---- */

static bool take(const char *name, bool given, int64_t value, int64_t absent,
                 int64_t *out, GError **error)
{
    *out = given ? value : absent;
    if (*out >= 0) {
        return true;
    }
    return error_set(
        error, "%s value must be in range [0, 9223372036854775807]", name);
}

static bool properties_fill(struct iothread_properties *out,
                            const struct iothread_properties *in,
                            GError **error)
{
    if (!take("aio-max-batch", in->has_aio_max_batch, in->aio_max_batch, 0,
              &out->aio_max_batch, error) ||
        !take("thread-pool-min", in->has_thread_pool_min, in->thread_pool_min,
              0, &out->thread_pool_min, error) ||
        !take("thread-pool-max", in->has_thread_pool_max, in->thread_pool_max,
              64, &out->thread_pool_max, error) ||
        !take("poll-max-ns", in->has_poll_max_ns, in->poll_max_ns, 32768,
              &out->poll_max_ns, error) ||
        !take("poll-grow", in->has_poll_grow, in->poll_grow, 0, &out->poll_grow,
              error) ||
        !take("poll-shrink", in->has_poll_shrink, in->poll_shrink, 0,
              &out->poll_shrink, error)) {
        return false;
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

/* ---- making and removing ---- */

static bool id_well_formed(const char *id)
{
    if (!g_ascii_isalpha(*id)) {
        return false;
    }
    return strspn(id, G_CSET_A_2_Z G_CSET_a_2_z G_CSET_DIGITS "-._") ==
           strlen(id);
}

bool object_add(const struct object_options *options, GError **error)
{
    struct iothread_properties properties = {0};

    if (!id_well_formed(options->id)) {
        return error_set(error, "Parameter 'id' expects an identifier");
    }
    if (!properties_fill(&properties, &options->u.iothread, error)) {
        return false;
    }
    if (object_find(options->id)) {
        return error_set(error,
                         "attempt to add duplicate property '%s' to object "
                         "(type 'container')",
                         options->id);
    }
    struct object *o = g_new(struct object, 1);
    *o = (struct object){
        .id = g_strdup(options->id),
        .thread = iothread_new(options->id),
        .properties = properties,
    };
    struct poll_setting *poll = g_new(struct poll_setting, 1);
    *poll = (struct poll_setting){
        .mail = {.fn = set_poll_max, .opaque = poll},
        .ns = properties.poll_max_ns,
    };
    loop_post(iothread_loop(o->thread), &poll->mail);
    if (!objects) {
        objects = g_ptr_array_new_with_free_func(object_free);
    }
    g_ptr_array_add(objects, o);
    return true;
}

struct loop *object_loop(const char *id)
{
    struct object *o = id ? object_find(id) : NULL;

    return o ? iothread_loop(o->thread) : NULL;
}

void objects_end(void)
{
    g_clear_pointer(&objects, g_ptr_array_unref);
}

/* ---- commands ---- */

bool qmp_object_add(const struct object_options *args, GError **errp)
{
    return object_add(args, errp);
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

static bool co_object_del(const char *id, GError **error)
{
    struct object *o = object_find(id);
    bool empty = false;

    if (!o) {
        return error_set(error, "object '%s' not found", id);
    }
    co_call_on(iothread_loop(o->thread), co_vacate, &empty);
    if (!empty) {
        return error_set(error, "object '%s' is in use, can not be deleted",
                         id);
    }
    /* Nobody goes round the loops meanwhile. */
    co_graph_lock(GRAPH_LOCK_PLACES);
    g_ptr_array_remove(objects, o);
    graph_unlock(GRAPH_LOCK_PLACES);
    return true;
}

bool qmp_object_del(const struct object_del_args *args, GError **errp)
{
    co_graph_lock(GRAPH_LOCK_LOOPS);
    co_graph_lock(GRAPH_LOCK_CHANGE);
    bool ok = co_object_del(args->id, errp);
    graph_unlock(GRAPH_LOCK_CHANGE);
    graph_unlock(GRAPH_LOCK_LOOPS);
    return ok;
}

struct io_thread_info_list *qmp_query_iothreads(GError **errp)
{
    struct io_thread_info_list *list = g_new0(struct io_thread_info_list, 1);

    for (guint i = 0; objects && i < objects->len; i++) {
        const struct object *o = objects->pdata[i];
        struct io_thread_info *info = g_new(struct io_thread_info, 1);
        *info = (struct io_thread_info){
            .id = g_strdup(o->id),
            .thread_id = iothread_tid(o->thread),
            .poll_max_ns = o->properties.poll_max_ns,
            .poll_grow = o->properties.poll_grow,
            .poll_shrink = o->properties.poll_shrink,
            .aio_max_batch = o->properties.aio_max_batch,
        };
        qapi_list_append(list, info);
    }
    return list;
}
