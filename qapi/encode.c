/*
 * C structs to json-c trees, by the tables of the schema. Any loop; never
 * suspends.
 */
#include "qapi/codec.h"

#include <json-c/json.h>

#include "qapi/value.h"

static struct json_object *encode_slot(const struct qapi_type *type,
                                       const void *slot);

static struct json_object *encode_int(const struct qapi_type *type,
                                      const void *slot)
{
    switch (type->bits) {
    case 8:
        return json_object_new_int64(type->is_signed ? *(const int8_t *)slot
                                                     : *(const uint8_t *)slot);
    case 16:
        return json_object_new_int64(type->is_signed ? *(const int16_t *)slot
                                                     : *(const uint16_t *)slot);
    case 32:
        return json_object_new_int64(type->is_signed
                                         ? (int64_t) * (const int32_t *)slot
                                         : (int64_t) * (const uint32_t *)slot);
    default:
        return type->is_signed
                   ? json_object_new_int64(*(const int64_t *)slot)
                   : json_object_new_uint64(*(const uint64_t *)slot);
    }
}

static struct json_object *encode_list(const struct qapi_type *type,
                                       const struct qapi_any_list *list)
{
    struct json_object *json = json_object_new_array();
    size_t item_size = qapi_slot_size(type->element);
    for (size_t i = 0; i < list->n; i++) {
        json_object_array_add(
            json, encode_slot(type->element, list->items + i * item_size));
    }
    return json;
}

static void encode_members(const struct qapi_type *type, const char *value,
                           struct json_object *json)
{
    for (uint32_t i = 0; i < type->n; i++) {
        const struct qapi_member *member = &type->members[i];
        const char *slot = value + member->offset;
        bool absent = member->has_flag
                          ? !*(const bool *)(value + member->has_offset)
                          : member->optional && !*(void *const *)slot;
        if (!absent) {
            json_object_object_add(json, member->name,
                                   encode_slot(member->type, slot));
        }
    }
    const struct qapi_type *branch = qapi_union_branch(type, value);
    if (branch) {
        encode_members(branch, value + type->u_offset, json);
    }
}

static struct json_object *encode_alternate(const struct qapi_type *type,
                                            const char *value)
{
    enum qapi_kind kind = *(const enum qapi_kind *)value;
    const struct qapi_type *chosen = qapi_alternate_type(type, kind);
    const char *u = value + type->u_offset;
    if (!chosen || kind == QAPI_KIND_NULL) {
        return NULL;
    }
    return chosen->meta == QAPI_META_STRUCT ? qapi_encode(chosen, u)
                                            : encode_slot(chosen, u);
}

static struct json_object *encode_slot(const struct qapi_type *type,
                                       const void *slot)
{
    switch (type->meta) {
    case QAPI_META_BOOL:
        return json_object_new_boolean(*(const bool *)slot);
    case QAPI_META_INT:
        return encode_int(type, slot);
    case QAPI_META_NUMBER:
        return json_object_new_double(*(const double *)slot);
    case QAPI_META_STR: {
        const char *text = *(char *const *)slot;
        return json_object_new_string(text ? text : "");
    }
    case QAPI_META_ENUM: {
        const char *name = qapi_enum_str(type, *(const unsigned *)slot);
        g_assert(name);
        return json_object_new_string(name);
    }
    case QAPI_META_ANY:
        return json_object_get(*(struct json_object *const *)slot);
    case QAPI_META_STRUCT:
    case QAPI_META_ALTERNATE: {
        const void *value = *(void *const *)slot;
        g_assert(value); /* a required member was not filled in */
        return qapi_encode(type, value);
    }
    case QAPI_META_LIST:
        return encode_list(type, slot);
    case QAPI_META_NULL:
        break;
    }
    return NULL;
}

struct json_object *qapi_encode(const struct qapi_type *type, const void *value)
{
    if (type->meta == QAPI_META_STRUCT) {
        struct json_object *json = json_object_new_object();
        encode_members(type, value, json);
        return json;
    }
    if (type->meta == QAPI_META_ALTERNATE) {
        return encode_alternate(type, value);
    }
    return encode_slot(type, value);
}

char *qapi_encode_text(const struct qapi_type *type, const void *value)
{
    struct json_object *json = qapi_encode(type, value);
    char *text = g_strdup(json_object_to_json_string_ext(
        json, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
    json_object_put(json);
    return text;
}

struct json_object *qapi_event_build(const struct qapi_event_info *event,
                                     const void *data)
{
    struct json_object *json = json_object_new_object();
    json_object_object_add(json, "event", json_object_new_string(event->name));
    if (event->data) {
        json_object_object_add(json, "data", qapi_encode(event->data, data));
    }
    return json;
}
