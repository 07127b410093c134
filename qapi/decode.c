/*
 * json-c trees to C structs, by the tables of the schema.
 *
 * A value is decoded in place, into zeroed memory; when something is wrong the
 * whole is freed, which a half-filled struct allows at any point. Error texts
 * name the full path of the offending member. The path is a chain of frames on
 * the stack and becomes text only when there is an error to tell. Recursion is
 * bounded by QAPI_MAX_DEPTH. Runs on any loop; never suspends.
 */
#include "qapi/decode.h"

#include <json-c/json.h>
#include <string.h>

#include "qapi/value.h"

static bool decode_slot(struct decoder *d, const struct qapi_type *type,
                        struct json_object *json, void *slot,
                        const struct place *at);
static bool decode_value(struct decoder *d, const struct qapi_type *type,
                         struct json_object *json, void *value,
                         const struct place *at);

/* ---- lists ---- */

/* The item of a list: an array's, or of {"0": .., "1": ..} as typed. */
static bool list_item(struct json_object *json, size_t index,
                      struct json_object **item)
{
    if (json_object_is_type(json, json_type_array)) {
        *item = json_object_array_get_idx(json, index);
        return true;
    }
    char key[24];
    g_snprintf(key, sizeof(key), "%zu", index);
    return json_object_object_get_ex(json, key, item);
}

static bool decode_list(struct decoder *d, const struct qapi_type *type,
                        struct json_object *json, void *value,
                        const struct place *at)
{
    struct qapi_any_list *list = value;
    size_t item_size = qapi_slot_size(type->element);
    size_t n;

    if (json_object_is_type(json, json_type_array)) {
        n = json_object_array_length(json);
    } else if (d->keyval && json_object_is_type(json, json_type_object)) {
        n = (size_t)json_object_object_length(json);
    } else {
        return qapi_fail_type(d, at, "array");
    }
    list->items = n ? g_malloc0_n(n, item_size) : NULL;
    for (size_t i = 0; i < n; i++) {
        struct place here = {.up = at, .index = i};
        struct json_object *item;
        if (!list_item(json, i, &item)) {
            return qapi_fail(d, &here, "Parameter ", " missing", NULL);
        }
        /* Counted first: a half-decoded item is freed with the list. */
        list->n = i + 1;
        if (!decode_slot(d, type->element, item, list->items + i * item_size,
                         &here)) {
            return false;
        }
    }
    return true;
}

/* ---- structs, unions, alternates ---- */

static bool decode_members(struct decoder *d, const struct qapi_type *type,
                           struct json_object *json, char *value, size_t *found,
                           const struct place *at)
{
    for (uint32_t i = 0; i < type->n; i++) {
        const struct qapi_member *member = &type->members[i];
        struct place here = {.up = at, .name = member->name};
        struct json_object *json_member;
        if (!json_object_object_get_ex(json, member->name, &json_member)) {
            if (!member->optional) {
                return qapi_fail(d, &here, "Parameter ", " is missing", NULL);
            }
            continue;
        }
        ++*found;
        if (member->has_flag) {
            *(bool *)(value + member->has_offset) = true;
        }
        if (!decode_slot(d, member->type, json_member, value + member->offset,
                         &here)) {
            return false;
        }
    }
    const struct qapi_type *branch = qapi_union_branch(type, value);
    return !branch ||
           decode_members(d, branch, json, value + type->u_offset, found, at);
}

static bool is_member(const struct qapi_type *type, const void *value,
                      const char *name)
{
    for (uint32_t i = 0; i < type->n; i++) {
        if (!strcmp(type->members[i].name, name)) {
            return true;
        }
    }
    const struct qapi_type *branch = qapi_union_branch(type, value);
    return branch &&
           is_member(branch, (const char *)value + type->u_offset, name);
}

static bool decode_struct(struct decoder *d, const struct qapi_type *type,
                          struct json_object *json, void *value,
                          const struct place *at)
{
    size_t found = 0;
    if (!json_object_is_type(json, json_type_object)) {
        return qapi_fail_type(d, at, "object");
    }
    if (!decode_members(d, type, json, value, &found, at)) {
        return false;
    }
    if (found == (size_t)json_object_object_length(json)) {
        return true;
    }
    json_object_object_foreach(json, key, unused)
    {
        struct place here = {.up = at, .name = key};
        (void)unused;
        if (!is_member(type, value, key)) {
            return qapi_fail(d, &here, "Parameter ", " is unexpected", NULL);
        }
    }
    return true;
}

/* The member of an alternate that a JSON value is meant for, or NULL. */
static const struct qapi_type *choose(struct decoder *d,
                                      const struct qapi_type *type,
                                      struct json_object *json,
                                      enum qapi_kind *kind)
{
    static const enum qapi_kind kinds[] = {
        [json_type_null] = QAPI_KIND_NULL,
        [json_type_boolean] = QAPI_KIND_BOOL,
        [json_type_double] = QAPI_KIND_NUMBER,
        [json_type_int] = QAPI_KIND_INT,
        [json_type_object] = QAPI_KIND_OBJECT,
        [json_type_array] = QAPI_KIND_ARRAY,
        [json_type_string] = QAPI_KIND_STRING,
    };
    /* What a typed string may stand for, the first that the type has. */
    static const enum qapi_kind typed[] = {QAPI_KIND_STRING, QAPI_KIND_BOOL,
                                           QAPI_KIND_INT, QAPI_KIND_NUMBER};
    const struct qapi_type *chosen;

    *kind = kinds[json_object_get_type(json)];
    if (d->keyval && *kind == QAPI_KIND_STRING) {
        if (json_object_get_string_len(json) == 0 &&
            qapi_alternate_type(type, QAPI_KIND_NULL)) {
            *kind = QAPI_KIND_NULL;
            return &qapi_type_null;
        }
        for (size_t i = 0; i < G_N_ELEMENTS(typed); i++) {
            chosen = qapi_alternate_type(type, typed[i]);
            if (chosen) {
                *kind = typed[i];
                return chosen;
            }
        }
    }
    chosen = qapi_alternate_type(type, *kind);
    if (!chosen && *kind == QAPI_KIND_INT) {
        *kind = QAPI_KIND_NUMBER;
        chosen = qapi_alternate_type(type, *kind);
    }
    return chosen;
}

static bool decode_alternate(struct decoder *d, const struct qapi_type *type,
                             struct json_object *json, void *value,
                             const struct place *at)
{
    enum qapi_kind kind;
    const struct qapi_type *chosen = choose(d, type, json, &kind);
    char *u = (char *)value + type->u_offset;

    if (!chosen) {
        return qapi_fail_type(d, at, type->name);
    }
    *(enum qapi_kind *)value = kind;
    if (chosen->meta == QAPI_META_NULL) {
        return true;
    }
    return chosen->meta == QAPI_META_STRUCT
               ? decode_value(d, chosen, json, u, at)
               : decode_slot(d, chosen, json, u, at);
}

/* value points to the C type itself: struct, alternate or list. */
static bool decode_value(struct decoder *d, const struct qapi_type *type,
                         struct json_object *json, void *value,
                         const struct place *at)
{
    bool ok;
    if (d->depth == QAPI_MAX_DEPTH) {
        return qapi_fail(d, at, "Parameter ", " is nested too deep", NULL);
    }
    d->depth++;
    switch (type->meta) {
    case QAPI_META_STRUCT:
        ok = decode_struct(d, type, json, value, at);
        break;
    case QAPI_META_ALTERNATE:
        ok = decode_alternate(d, type, json, value, at);
        break;
    default:
        ok = decode_list(d, type, json, value, at);
        break;
    }
    d->depth--;
    return ok;
}

static bool decode_slot(struct decoder *d, const struct qapi_type *type,
                        struct json_object *json, void *slot,
                        const struct place *at)
{
    switch (type->meta) {
    case QAPI_META_BOOL:
        return qapi_decode_bool(d, json, slot, at);
    case QAPI_META_INT:
        return qapi_decode_int(d, type, json, slot, at);
    case QAPI_META_NUMBER:
        return qapi_decode_number(d, json, slot, at);
    case QAPI_META_STR:
        return qapi_decode_str(d, json, slot, at);
    case QAPI_META_ENUM:
        return qapi_decode_enum(d, type, json, slot, at);
    case QAPI_META_ANY:
        *(struct json_object **)slot = json_object_get(json);
        return true;
    case QAPI_META_STRUCT:
    case QAPI_META_ALTERNATE:
        *(void **)slot = g_malloc0(type->size);
        return decode_value(d, type, json, *(void **)slot, at);
    case QAPI_META_LIST:
        return decode_value(d, type, json, slot, at);
    case QAPI_META_NULL:
        break;
    }
    return json ? qapi_fail_type(d, at, "null") : true;
}

/* ---- entry points ---- */

static void *decode(const struct qapi_type *type, struct json_object *json,
                    bool keyval, GError **error)
{
    struct decoder d = {.keyval = keyval, .error = error};
    void *value = g_malloc0(type->size);
    if (!decode_value(&d, type, json, value, NULL)) {
        qapi_free(type, value);
        return NULL;
    }
    return value;
}

void *qapi_decode(const struct qapi_type *type, struct json_object *json,
                  GError **error)
{
    return decode(type, json, false, error);
}

void *qapi_decode_keyval(const struct qapi_type *type, struct json_object *json,
                         GError **error)
{
    return decode(type, json, true, error);
}

void *qapi_decode_args(const struct qapi_type *type, struct json_object *json,
                       GError **error)
{
    if (json) {
        return qapi_decode(type, json, error);
    }
    struct json_object *nothing = json_object_new_object();
    void *value = qapi_decode(type, nothing, error);
    json_object_put(nothing);
    return value;
}

bool qapi_decode_nothing(struct json_object *json, GError **error)
{
    static const struct qapi_type nothing = {
        .name = "nothing", .meta = QAPI_META_STRUCT, .size = 1};
    struct decoder d = {.error = error};
    char unused = 0;
    return !json || decode_value(&d, &nothing, json, &unused, NULL);
}
