/*
 * Commands that make objects, and look at them: object.json.
 */
#include "block/objects.h"

#include <json-c/json.h>
#include <string.h>

#include "qmp/commands.h"
#include "util/error.h"

bool qmp_object_add(const struct object_options *args, GError **errp)
{
    return object_add(args, errp);
}

bool qmp_object_del(const struct object_del_args *args, GError **errp)
{
    return co_object_del(args->id, errp);
}

struct io_thread_info_list *qmp_query_iothreads(GError **errp)
{
    return objects_query_iothreads();
}

static bool no_property(const struct object *o, const char *name,
                        GError **error)
{
    return error_set(error, "Property '%s.%s' not found", object_type_name(o),
                     name);
}

struct json_object *qmp_qom_get(const struct qom_get_args *args, GError **errp)
{
    const struct object *o = object_find(args->path, errp);

    if (!o) {
        return NULL;
    }
    if (!strcmp(args->property, "type")) {
        return json_object_new_string(object_type_name(o));
    }
    const struct qapi_type *type = object_properties_type(o);
    void *all = object_properties(o);
    struct json_object *tree = qapi_encode(type, all), *value = NULL;

    if (json_object_object_get_ex(tree, args->property, &value)) {
        json_object_get(value);
    } else {
        no_property(o, args->property, errp);
    }
    json_object_put(tree);
    qapi_free(type, all);
    return value;
}

static bool has_member(const struct qapi_type *type, const char *name)
{
    for (uint32_t i = 0; i < type->n; i++) {
        if (!strcmp(type->members[i].name, name)) {
            return true;
        }
    }
    return false;
}

bool qmp_qom_set(const struct qom_set_args *args, GError **errp)
{
    struct object *o = object_find(args->path, errp);

    if (!o) {
        return false;
    }
    if (!strcmp(args->property, "type")) {
        return error_set(errp, "Insufficient permission to perform this "
                               "operation");
    }
    const struct qapi_type *type = object_properties_type(o);
    if (!has_member(type, args->property)) {
        return no_property(o, args->property, errp);
    }
    struct json_object *tree = json_object_new_object();
    json_object_object_add(tree, args->property, json_object_get(args->value));
    void *properties = qapi_decode(type, tree, errp);
    bool ok = properties && object_change(o, properties, errp);

    qapi_free(type, properties);
    json_object_put(tree);
    return ok;
}
