/*
 * Objects by name: a list, and a table of kinds.
 */
#include "block/objects.h"

#include <string.h>

#include "block/graph.h"
#include "block/object_int.h"
#include "util/error.h"

static const struct object_kind *const kinds[OBJECT_TYPE__COUNT] = {
    [OBJECT_TYPE_IOTHREAD] = &object_iothread,
    [OBJECT_TYPE_SECRET] = &object_secret,
    [OBJECT_TYPE_THROTTLE_GROUP] = &object_throttle_group,
};

/* In order of making; some dozen at most. */
static GPtrArray *objects;

static struct object *find(const char *id)
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

    o->kind->end(o->state);
    g_free(o->id);
    g_free(o);
}

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
    const struct object_kind *kind = kinds[options->qom_type];

    if (!id_well_formed(options->id)) {
        return error_set(error, "Parameter 'id' expects an identifier");
    }
    if (find(options->id)) {
        return error_set(error,
                         "attempt to add duplicate property '%s' to object "
                         "(type 'container')",
                         options->id);
    }
    void *state = kind->make(options, error);
    if (!state) {
        return false;
    }
    struct object *o = g_new(struct object, 1);
    *o = (struct object){g_strdup(options->id), kind, state};
    if (!objects) {
        objects = g_ptr_array_new_with_free_func(object_free);
    }
    g_ptr_array_add(objects, o);
    return true;
}

static bool co_del(const char *id, GError **error)
{
    struct object *o = find(id);

    if (!o) {
        return error_set(error, "object '%s' not found", id);
    }
    if (!o->kind->co_let_go(o->state)) {
        return error_set(error, "object '%s' is in use, can not be deleted",
                         id);
    }
    /* Nobody goes round the loops meanwhile. */
    co_graph_lock(GRAPH_LOCK_PLACES);
    g_ptr_array_remove(objects, o);
    graph_unlock(GRAPH_LOCK_PLACES);
    return true;
}

bool co_object_del(const char *id, GError **error)
{
    co_graph_lock(GRAPH_LOCK_LOOPS);
    co_graph_lock(GRAPH_LOCK_CHANGE);
    bool ok = co_del(id, error);
    graph_unlock(GRAPH_LOCK_CHANGE);
    graph_unlock(GRAPH_LOCK_LOOPS);
    return ok;
}

void objects_end(void)
{
    g_clear_pointer(&objects, g_ptr_array_unref);
}

/* ---- I/O threads ---- */

struct loop *object_loop(const char *id)
{
    const struct object *o = id ? find(id) : NULL;

    return o && o->kind == &object_iothread ? object_iothread_loop(o->state)
                                            : NULL;
}

struct io_thread_info_list *objects_query_iothreads(void)
{
    struct io_thread_info_list *list = g_new0(struct io_thread_info_list, 1);

    for (guint i = 0; objects && i < objects->len; i++) {
        const struct object *o = objects->pdata[i];
        if (o->kind == &object_iothread) {
            qapi_list_append(list, object_iothread_query(o->id, o->state));
        }
    }
    return list;
}

/* ---- properties ---- */

struct object *object_find(const char *path, GError **error)
{
    static const char prefix[] = "/objects/";
    struct object *o =
        find(g_str_has_prefix(path, prefix) ? path + sizeof(prefix) - 1 : path);

    if (!o) {
        error_set_class(error, ERROR_DEVICE_NOT_FOUND, "Device '%s' not found",
                        path);
    }
    return o;
}

const char *object_type_name(const struct object *o)
{
    for (unsigned i = 0; i < OBJECT_TYPE__COUNT; i++) {
        if (kinds[i] == o->kind) {
            return object_type_str(i);
        }
    }
    g_assert_not_reached();
}

const struct qapi_type *object_properties_type(const struct object *o)
{
    return o->kind->properties;
}

void *object_properties(const struct object *o)
{
    return o->kind->get(o->state);
}

bool object_change(struct object *o, const void *properties, GError **error)
{
    return o->kind->set(o->state, properties, error);
}
