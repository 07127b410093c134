/*
 * Options of a node beside its old ones.
 *
 * They are compared as the trees that they were made of, so that every member
 * of every driver is looked at. Pure functions.
 */
#include "qapi/options.h"

#include <json-c/json.h>
#include <string.h>

#include "qapi/value.h"
#include "util/error.h"
#include "util/keyval.h"

struct compare {
    qapi_change_fn *fn;
    void *opaque;
};

/* A description of a node has a driver; settings such as "cache" do not. */
static bool is_settings(struct json_object *o)
{
    return json_object_is_type(o, json_type_object) &&
           !json_object_object_get_ex(o, "driver", NULL);
}

static bool compare(const struct compare *c, const char *prefix,
                    struct json_object *from, struct json_object *to)
{
    json_object_object_foreach(to, key, value)
    {
        struct json_object *old = NULL;
        g_autofree char *name = g_strconcat(prefix, key, NULL);
        bool there = json_object_object_get_ex(from, key, &old);
        if (is_settings(value) && (!there || is_settings(old))) {
            struct json_object *none = json_object_new_object();
            g_autofree char *inner = g_strconcat(name, ".", NULL);
            bool ok = compare(c, inner, there ? old : none, value);
            json_object_put(none);
            if (!ok) {
                return false;
            }
        } else if ((!there || !json_object_equal(old, value)) &&
                   !c->fn(name, false, c->opaque)) {
            return false;
        }
    }
    json_object_object_foreach(from, gone, old)
    {
        g_autofree char *name = g_strconcat(prefix, gone, NULL);
        (void)old;
        if (!json_object_object_get_ex(to, gone, NULL) &&
            !c->fn(name, true, c->opaque)) {
            return false;
        }
    }
    return true;
}

bool qapi_blockdev_options_compare(const struct blockdev_options *from,
                                   const struct blockdev_options *to,
                                   qapi_change_fn *fn, void *opaque)
{
    struct json_object *a = qapi_encode(&qapi_type_blockdev_options, from);
    struct json_object *b = qapi_encode(&qapi_type_blockdev_options, to);
    struct compare c = {fn, opaque};
    bool ok = compare(&c, "", a, b);

    json_object_put(a);
    json_object_put(b);
    return ok;
}

static struct qapi_child child_of_ref(const struct blockdev_ref *ref)
{
    if (!ref) {
        return (struct qapi_child){.kind = QAPI_CHILD_ABSENT};
    }
    if (ref->kind == QAPI_KIND_STRING) {
        return (struct qapi_child){.kind = QAPI_CHILD_REFERENCE,
                                   .reference = ref->u.reference};
    }
    return (struct qapi_child){.kind = QAPI_CHILD_DEFINITION,
                               .definition = &ref->u.definition};
}

static struct qapi_child child_of_ref_or_null(
    const struct blockdev_ref_or_null *ref)
{
    if (!ref) {
        return (struct qapi_child){.kind = QAPI_CHILD_ABSENT};
    }
    switch (ref->kind) {
    case QAPI_KIND_STRING:
        return (struct qapi_child){.kind = QAPI_CHILD_REFERENCE,
                                   .reference = ref->u.reference};
    case QAPI_KIND_OBJECT:
        return (struct qapi_child){.kind = QAPI_CHILD_DEFINITION,
                                   .definition = &ref->u.definition};
    default:
        return (struct qapi_child){.kind = QAPI_CHILD_NULL};
    }
}

struct qapi_child qapi_blockdev_options_child(const struct blockdev_options *o,
                                              const char *name)
{
    const struct qapi_type *type = &qapi_type_blockdev_options;
    const struct qapi_type *branch = qapi_union_branch(type, o);

    for (uint32_t i = 0; branch && i < branch->n; i++) {
        const struct qapi_member *m = &branch->members[i];
        const char *slot = (const char *)o + type->u_offset + m->offset;
        if (strcmp(m->name, name)) {
            continue;
        }
        if (m->type == &qapi_type_blockdev_ref) {
            return child_of_ref(*(struct blockdev_ref *const *)slot);
        }
        if (m->type == &qapi_type_blockdev_ref_or_null) {
            return child_of_ref_or_null(
                *(struct blockdev_ref_or_null *const *)slot);
        }
    }
    return (struct qapi_child){.kind = QAPI_CHILD_ABSENT};
}

/* ---- other values -------------------------------------------------------- */

static const struct qapi_member *find_member(const struct qapi_type *type,
                                             const char *name, size_t length)
{
    for (uint32_t i = 0; type && i < type->n; i++) {
        const char *candidate = type->members[i].name;
        if (!strncmp(candidate, name, length) && !candidate[length]) {
            return &type->members[i];
        }
    }
    return NULL;
}

/* Whether a node of the driver has the option; those of its children are their
 * business. */
static bool has_option(enum blockdev_driver driver, const char *key)
{
    const struct qapi_type *type = &qapi_type_blockdev_options;
    size_t length = strcspn(key, ".");
    const struct qapi_member *m = find_member(type, key, length);

    m = m ? m : find_member(type->branches[driver], key, length);
    if (!m || !key[length]) {
        return m != NULL;
    }
    return m->type->meta != QAPI_META_STRUCT ||
           find_member(m->type, key + length + 1, strlen(key + length + 1));
}

/* What says which node it is stays as it is. */
static bool names_node(const struct keyval *pair)
{
    return !strcmp(pair->key, "driver") || !strcmp(pair->key, "node-name");
}

struct blockdev_options *qapi_blockdev_options_change(
    const struct blockdev_options *from, const GPtrArray *pairs, GError **error)
{
    struct json_object *tree = qapi_encode(&qapi_type_blockdev_options, from);
    struct blockdev_options *to = NULL;
    bool ok = true;

    for (guint i = 0; ok && i < pairs->len; i++) {
        const struct keyval *pair = pairs->pdata[i];
        struct json_object *old;

        if (names_node(pair)
                ? (!json_object_object_get_ex(tree, pair->key, &old) ||
                   strcmp(json_object_get_string(old), pair->value))
                : !has_option(from->driver, pair->key)) {
            ok = error_set(error, "Cannot change the option '%s'", pair->key);
        } else if (!strchr(pair->key, '.')) {
            /* A reference in the place of a description. */
            json_object_object_add(tree, pair->key,
                                   json_object_new_string(pair->value));
        } else {
            ok = qapi_options_put(tree, pair->key,
                                  json_object_new_string(pair->value), error);
        }
    }
    if (ok) {
        to = qapi_blockdev_options_decode(tree, error);
    }
    json_object_put(tree);
    return to;
}
